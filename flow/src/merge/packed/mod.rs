//! Groups at rest. Millions of them are kept and few are read of at a time, so they lie in memory
//! as bytes: a fraction of what a [`Group`] takes, in one place.

mod bytes;
mod shape;

use super::group::{Group, Life, Member};
use super::{EntryRef, ViewId};
use bytes::{Reader, Writer};
use shape::{
    APART, Ids, Members, SOME_ENDED, UNTOLD, WAITS, find, flag, length, read_growths, read_who,
    write, write_first, write_who,
};

/// A group as bytes: the length of the growths, the growths, and who is in it. That comes last, as
/// it changes by itself whenever a record is linked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Packed(Box<[u8]>);

impl Packed {
    /// Packs `group` in the place of what was here, into the same memory where it fits; `bytes` is
    /// room to work in.
    pub(super) fn replace(&mut self, group: &Group, bytes: &mut Vec<u8>) {
        self.take(write(group, bytes));
    }

    /// Unpacks into `group`, of which nothing stays.
    pub(super) fn open_into(&self, group: &mut Group) {
        let [growths, who] = self.parts();
        read_growths(&mut Reader::new(growths), group);
        read_who(&mut Reader::new(who), group);
    }

    /// Unpacks.
    pub(super) fn open(&self) -> Group {
        let mut group = Group::default();
        self.open_into(&mut group);
        group
    }

    /// Adds to what is known of a member's life, and lets it wait to be counted; with `group` and
    /// `bytes` as room to work in. Mostly it was only read later, which is written where it stands.
    pub(super) fn extend(
        &mut self,
        (group, bytes): (&mut Group, &mut Vec<u8>),
        entry: EntryRef,
        life: &Life,
    ) {
        let [growths, who] = self.parts();
        let Some((at, before)) = find(who, entry) else { return };
        let at = self.0.len() - who.len() + at;
        let mut after = before.clone();
        after.life.extend(life);
        after.waits = true;
        let until = after.life.until;
        let only_later =
            Member { waits: after.waits, life: Life { until, ..before.life }, ..before } == after;
        if only_later
            && before.life.until.is_some()
            && let Some(until) = until
        {
            if let Some([flags, _, rest @ ..]) = self.0.get_mut(at..)
                && let Some(place) = rest.first_chunk_mut()
            {
                *flags |= WAITS;
                *place = until.0.to_le_bytes();
            }
            return;
        }
        read_who(&mut Reader::new(who), group);
        if let Some(member) = group.members.iter_mut().find(|member| member.entry == entry) {
            *member = after;
        }
        let mut writer = Writer::new(bytes);
        writer.slice(&length(growths.len()));
        writer.slice(growths);
        write_who(&mut writer, group);
        self.take(writer.finish());
    }

    /// Packs `group`, which this was before a reading of `entry` was counted; `bytes` is room to
    /// work in. Mostly nothing else is news of its members, which is written where it stands.
    pub(super) fn counted(&self, group: &Group, entry: EntryRef, bytes: &mut Vec<u8>) -> Self {
        Self(self.write_counted(group, entry, bytes).into())
    }

    /// The same, in the place of this.
    pub(super) fn count(&mut self, group: &Group, entry: EntryRef, bytes: &mut Vec<u8>) {
        let written = self.write_counted(group, entry, bytes);
        self.take(written);
    }

    fn write_counted<'b>(
        &self,
        group: &Group,
        entry: EntryRef,
        bytes: &'b mut Vec<u8>,
    ) -> &'b [u8] {
        let [_, who] = self.parts();
        let (Some((at, before)), Some(now)) = (find(who, entry), group.member(entry)) else {
            return write(group, bytes);
        };
        let Member { waits, grown, .. } = *now;
        let until = before.life.until;
        let (Some(_), Some(grown_at)) = (before.grown, grown) else { return write(group, bytes) };
        if (Member { waits, grown, ..before }) != *now {
            return write(group, bytes);
        }
        let mut writer = Writer::new(bytes);
        let begin = write_first(&mut writer, group);
        writer.slice(who);
        let bytes = writer.finish();
        let who = bytes.get_mut(begin..).unwrap_or_default();
        if let [flags, ..] = who {
            *flags = *flags & !APART | flag(group.apart, APART);
        }
        if let Some([flags, _, times @ ..]) = who.get_mut(at..) {
            *flags = *flags & !WAITS | flag(waits, WAITS);
            let [until_place, grown_place, ..] = times.as_chunks_mut().0 else { return bytes };
            let place = if until.is_some() { grown_place } else { until_place };
            *place = grown_at.0.to_le_bytes();
        }
        bytes
    }

    /// Whether there are several entries, and the store knows more of some of them.
    pub(super) fn is_untold(&self) -> bool {
        let [_, who] = self.parts();
        who.first().is_some_and(|flags| flags & UNTOLD > 0)
    }

    /// The members, without the rest.
    pub(super) fn members(&self) -> impl Iterator<Item = Member> {
        let [_, who] = self.parts();
        Members::read(who)
    }

    /// The views, without the rest.
    pub(super) fn views(&self) -> impl Iterator<Item = ViewId> {
        let [_, who] = self.parts();
        let mut reader = Reader::new(who);
        reader.byte();
        Ids::read(&mut reader).iter().map(|(view, _)| view)
    }

    /// How many members there are.
    pub(super) fn len(&self) -> usize {
        let [_, who] = self.parts();
        let mut reader = Reader::new(who);
        reader.byte();
        Ids::read(&mut reader);
        reader.count()
    }

    /// Whether `most` entries or more are in it, and none has ended: there is no room for another.
    pub(super) fn is_crowded(&self, most: usize) -> bool {
        let [_, who] = self.parts();
        let none_ended = who.first().is_some_and(|flags| flags & SOME_ENDED == 0);
        none_ended && self.len() >= most
    }

    fn parts(&self) -> [&[u8]; 2] {
        let (length, rest) = self.0.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        rest.split_at_checked(length).unwrap_or_default().into()
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.0.len() == bytes.len() {
            self.0.copy_from_slice(bytes);
        } else {
            self.0 = bytes.into();
        }
    }
}

#[cfg(test)]
mod tests;
