//! Groups at rest. Millions of them are kept and few are read of at a time, so they lie in memory
//! as bytes: a fraction of what a [`Group`] takes, in one place.

use std::time::Duration;

use super::bytes::{Reader, Writer};
use super::group::{Alias, Group, Life, Member, Track};
use super::segment::Segment;
use super::vantage::Vantage;
use super::view::Observer;
use super::{EntryRef, ViewId};
use crate::clock::Span;
use crate::counters::{Counters, Tally};

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

    /// Whether `most` entries or more are in it, of which none has ended: none can join.
    pub(super) fn is_crowded(&self, most: usize) -> bool {
        let [_, who] = self.parts();
        let mut reader = Reader::new(who);
        let none_ended = reader.byte() & SOME_ENDED == 0;
        none_ended && {
            Ids::read(&mut reader);
            reader.count() >= most
        }
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

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn write<'b>(group: &Group, bytes: &'b mut Vec<u8>) -> &'b [u8] {
    let mut writer = Writer::new(bytes);
    write_first(&mut writer, group);
    write_who(&mut writer, group);
    writer.finish()
}

/// The growths and their length; gives where the rest begins.
fn write_first(writer: &mut Writer<'_>, group: &Group) -> usize {
    writer.slice(&length(0));
    write_growths(writer, group);
    let begin = writer.written();
    writer.put_first(&length(begin.saturating_sub(size_of::<u32>())));
    writer.begin();
    begin
}

/// Where a member stands, and what it is.
fn find(who: &[u8], entry: EntryRef) -> Option<(usize, Member)> {
    let mut members = Members::read(who);
    loop {
        let at = who.len() - members.reader.left();
        let member = members.next()?;
        if member.entry == entry {
            return Some((at, member));
        }
    }
}

fn write_who(writer: &mut Writer<'_>, group: &Group) {
    let members = &group.members;
    let untold = members.len() > 1 && members.iter().any(|member| !member.told);
    let ended = members.iter().any(|member| member.life.ended);
    writer.byte(
        flag(group.apart, APART)
            | flag(group.partial, PARTIAL)
            | flag(untold, UNTOLD)
            | flag(ended, SOME_ENDED),
    );
    writer.count(group.views.len());
    for (ViewId(view), backward) in &group.views {
        writer.slice(&view.to_le_bytes());
        writer.byte(u8::from(*backward));
    }
    writer.count(members.len());
    writer.base(members.iter().find_map(|member| member.life.start).unwrap_or_default());
    let mut slack = Duration::ZERO;
    for member in members {
        write_member(writer, group, member, &mut slack);
    }
}

fn read_who(reader: &mut Reader<'_>, group: &mut Group) {
    let flags = reader.byte();
    (group.apart, group.partial) = (flags & APART > 0, flags & PARTIAL > 0);
    let views = Ids::read(reader);
    group.views.clear();
    group.views.extend(views.iter());
    group.members.clear();
    group.members.extend(Members::after_views(reader.clone(), views));
}

fn write_growths(writer: &mut Writer<'_>, group: &Group) {
    let Counters { orig, reply } = group.counted;
    for tally in [orig, reply] {
        writer.number(tally.packets.get());
        writer.number(tally.bytes.get());
    }
    writer.count(group.tracks.len());
    let segments = group.tracks.iter().flat_map(|track| track.orig.segments());
    let until = segments.filter_map(|segment| segment.span).map(|span| span.until).next();
    writer.base(until.unwrap_or_default());
    let mut slack = Duration::ZERO;
    for Track { orig, reply } in &group.tracks {
        write_lane(writer, &mut slack, orig.segments(), &[]);
        write_lane(writer, &mut slack, reply.segments(), orig.segments());
    }
    writer.count(group.absorbed.len());
    group.absorbed.iter().for_each(|entry| writer.entry(*entry));
    writer.count(group.aliases.len());
    for Alias { from, to } in &group.aliases {
        writer.label(*from);
        writer.label(*to);
    }
}

fn read_growths(reader: &mut Reader<'_>, group: &mut Group) {
    let [a, b, c, d] = std::array::from_fn(|_| reader.number());
    group.counted = Counters { orig: Tally::new(a, b), reply: Tally::new(c, d) };
    group.tracks.resize_with(reader.count(), Track::default);
    reader.base();
    let mut slack = Duration::ZERO;
    for Track { orig, reply } in &mut group.tracks {
        orig.refill(read_lane(reader, &mut slack, &[]));
        reply.refill(read_lane(reader, &mut slack, orig.segments()));
    }
    let absorbed = reader.count();
    group.absorbed.clear();
    group.absorbed.extend((0..absorbed).map(|_| reader.entry()));
    let aliases = reader.count();
    group.aliases.clear();
    let alias = |_| Alias { from: reader.label(), to: reader.label() };
    group.aliases.extend((0..aliases).map(alias));
}

/// The views of a group, to which members refer by place.
struct Ids<'b>(&'b [[u8; VIEW]]);

impl<'b> Ids<'b> {
    fn read(reader: &mut Reader<'b>) -> Self {
        let length = reader.count().saturating_mul(VIEW);
        Self(reader.slice(length).as_chunks().0)
    }

    fn iter(&self) -> impl Iterator<Item = (ViewId, bool)> + use<'b> {
        self.0.iter().map(|view| {
            let [id @ .., backward] = *view;
            (ViewId(u128::from_le_bytes(id)), backward > 0)
        })
    }

    fn get(&self, at: usize) -> ViewId {
        self.0.get(at).map_or(ViewId(0), |[id @ .., _]| ViewId(u128::from_le_bytes(*id)))
    }
}

/// The members of a group, one after the other.
struct Members<'b> {
    reader: Reader<'b>,
    views: Ids<'b>,
    left: usize,
    slack: Duration,
}

impl<'b> Members<'b> {
    fn read(who: &'b [u8]) -> Self {
        let mut reader = Reader::new(who);
        reader.byte();
        let views = Ids::read(&mut reader);
        Self::after_views(reader, views)
    }

    fn after_views(mut reader: Reader<'b>, views: Ids<'b>) -> Self {
        let left = reader.count();
        reader.base();
        Self { reader, views, left, slack: Duration::ZERO }
    }
}

impl Iterator for Members<'_> {
    type Item = Member;

    fn next(&mut self) -> Option<Member> {
        self.left = self.left.checked_sub(1)?;
        let Self { reader, views, slack, .. } = self;
        let (flags, timed) = (reader.byte(), reader.byte());
        let until = (timed & UNTIL > 0).then(|| reader.place());
        let grown = (timed & GROWN > 0).then(|| reader.place());
        let entry = reader.entry();
        let observer = Observer(u32::try_from(reader.number()).unwrap_or_default());
        let zone = u16::try_from(reader.number()).unwrap_or_default();
        let (inside, outside) = (views.get(reader.count()), views.get(reader.count()));
        let (label, lane) = (reader.label(), reader.count());
        let start = (timed & START > 0).then(|| reader.time());
        let after = (timed & AFTER > 0).then(|| reader.time());
        if flags & SLACK_AS_BEFORE == 0 {
            *slack = reader.duration();
        }
        let life = Life { start, after, until, slack: *slack, ended: flags & ENDED > 0 };
        Some(Member {
            entry,
            vantage: Vantage { observer, zone, inside, outside },
            label,
            lane,
            flip: flags & FLIP > 0,
            life,
            grown,
            told: flags & TOLD > 0,
            waits: flags & WAITS > 0,
        })
    }
}

/// A member's views are among its group's.
fn write_member(writer: &mut Writer<'_>, group: &Group, member: &Member, slack: &mut Duration) {
    let Member { entry, vantage, label, lane, flip, life, grown, told, waits } = member;
    writer.byte(
        flag(*flip, FLIP)
            | flag(*told, TOLD)
            | flag(*waits, WAITS)
            | flag(life.ended, ENDED)
            | flag(life.slack == *slack, SLACK_AS_BEFORE),
    );
    writer.byte(
        flag(life.start.is_some(), START)
            | flag(life.after.is_some(), AFTER)
            | flag(life.until.is_some(), UNTIL)
            | flag(grown.is_some(), GROWN),
    );
    // Where a later reading finds them: see `Packed::extend`.
    [life.until, *grown].into_iter().flatten().for_each(|time| writer.place(time));
    writer.entry(*entry);
    writer.number(vantage.observer.0.into());
    writer.number(vantage.zone.into());
    for view in [vantage.inside, vantage.outside] {
        writer.count(group.views.iter().position(|(id, _)| *id == view).unwrap_or_default());
    }
    writer.label(*label);
    writer.count(*lane);
    [life.start, life.after].into_iter().flatten().for_each(|time| writer.time(time));
    if life.slack != *slack {
        writer.duration(life.slack);
        *slack = life.slack;
    }
}

/// What chains weigh is told where it is not what this lane alone comes to. Segments of the replies
/// grew mostly in one reading with their `twin`, that of the other direction.
fn write_lane(
    writer: &mut Writer<'_>,
    slack: &mut Duration,
    segments: &[Segment],
    twins: &[Segment],
) {
    writer.count(segments.len());
    let (mut reached, mut over, mut whose) = (Tally::default(), None, None);
    let twins = twins.iter().map(Some).chain(std::iter::repeat(None));
    for (Segment { entry, span, growth, reach }, twin) in segments.iter().zip(twins) {
        let Tally { packets, bytes } = *growth;
        let alone = reached.packets.get().wrapping_add(packets.get());
        let alone = Tally::new(alone, reached.bytes.get().wrapping_add(bytes.get()));
        let beyond = flag(*reach != alone, BEYOND);
        if twin.is_some_and(|twin| (twin.entry, twin.span) == (*entry, *span)) {
            writer.byte(AS_TWIN | beyond);
        } else {
            let since = span.and_then(|span| span.since);
            let follows = since.is_some() && since == over;
            let as_before = span.is_some_and(|span| span.slack == *slack);
            let same = entry.is_some() && *entry == whose;
            writer.byte(
                flag(entry.is_some(), OF_ENTRY)
                    | flag(same, OF_SAME)
                    | flag(span.is_some(), TIMED)
                    | flag(since.is_some(), BEGINS)
                    | flag(follows, FOLLOWS)
                    | flag(as_before, SLACK_AS_BEFORE)
                    | beyond,
            );
            if let Some(entry) = entry.filter(|_| !same) {
                writer.entry(entry);
            }
            if let Some(since) = since.filter(|_| !follows) {
                writer.time(since);
            }
            if let Some(span) = span {
                writer.time(span.until);
                if !as_before {
                    writer.duration(span.slack);
                }
                *slack = span.slack;
            }
        }
        (over, whose) = (span.map(|span| span.until), *entry);
        writer.number(packets.get());
        writer.number(bytes.get());
        if *reach != alone {
            writer.beyond(reach.packets.get(), alone.packets.get());
            writer.beyond(reach.bytes.get(), alone.bytes.get());
        }
        reached = *reach;
    }
}

fn read_lane(
    reader: &mut Reader<'_>,
    slack: &mut Duration,
    twins: &[Segment],
) -> impl Iterator<Item = Segment> {
    let (mut reached, mut over, mut whose) = (Tally::default(), None, None);
    let mut twins = twins.iter();
    (0..reader.count()).map(move |_| {
        let (flags, twin) = (reader.byte(), twins.next());
        let (entry, span) = match twin.filter(|_| flags & AS_TWIN > 0) {
            Some(twin) => (twin.entry, twin.span),
            None => {
                let entry = match (flags & OF_ENTRY > 0, flags & OF_SAME > 0) {
                    (false, _) => None,
                    (true, true) => whose,
                    (true, false) => Some(reader.entry()),
                };
                let since = match (flags & BEGINS > 0, flags & FOLLOWS > 0) {
                    (false, _) => None,
                    (true, true) => over,
                    (true, false) => Some(reader.time()),
                };
                let span = (flags & TIMED > 0).then(|| {
                    let until = reader.time();
                    if flags & SLACK_AS_BEFORE == 0 {
                        *slack = reader.duration();
                    }
                    Span { since, until, slack: *slack }
                });
                (entry, span)
            }
        };
        (over, whose) = (span.map(|span| span.until), entry);
        let (packets, bytes) = (reader.number(), reader.number());
        let all = reached.packets.get().wrapping_add(packets);
        let mut reach = Tally::new(all, reached.bytes.get().wrapping_add(bytes));
        if flags & BEYOND > 0 {
            let packets = reader.beyond(reach.packets.get());
            reach = Tally::new(packets, reader.beyond(reach.bytes.get()));
        }
        reached = reach;
        Segment { entry, span, growth: Tally::new(packets, bytes), reach }
    })
}

const fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// Bytes of a view: its id, and whether the group runs backward along it.
const VIEW: usize = size_of::<u128>() + 1;

// Of a group.
const APART: u8 = 1;
const PARTIAL: u8 = 2;
const UNTOLD: u8 = 4;
const SOME_ENDED: u8 = 8;

// Of a member.
const FLIP: u8 = 1;
const TOLD: u8 = 2;
const WAITS: u8 = 4;
const ENDED: u8 = 8;

// Which times a member has.
const START: u8 = 1;
const AFTER: u8 = 2;
const UNTIL: u8 = 4;
const GROWN: u8 = 8;

// Of a segment.
const OF_ENTRY: u8 = 1;
const OF_SAME: u8 = 2;
const TIMED: u8 = 4;
const BEGINS: u8 = 8;
const FOLLOWS: u8 = 16;
const AS_TWIN: u8 = 64;
const BEYOND: u8 = 128;

// Of both members and segments.
const SLACK_AS_BEFORE: u8 = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Label, Lane};
    use super::*;
    use crate::units::UnixNanos;

    fn time() -> impl Strategy<Value = UnixNanos> {
        let near = 1_700_000_000_000_000_000..1_700_000_100_000_000_000i64;
        prop_oneof![9 => near, 1 => any::<i64>()].prop_map(UnixNanos)
    }

    fn maybe() -> impl Strategy<Value = Option<UnixNanos>> {
        prop::option::of(time())
    }

    fn tally() -> impl Strategy<Value = Tally> {
        let number = || prop_oneof![9 => 0..100_000u64, 1 => any::<u64>()];
        (number(), number()).prop_map(|(packets, bytes)| Tally::new(packets, bytes))
    }

    fn slack() -> impl Strategy<Value = Duration> {
        let millis = (0..5_000u64).prop_map(Duration::from_millis);
        prop_oneof![3 => Just(Duration::from_millis(250)), 1 => millis, 1 => Just(Duration::MAX)]
    }

    prop_compose! {
        fn segment()(
            entry in prop::option::of(0..5i64),
            span in prop::option::of((maybe(), time(), slack())),
            (growth, reach) in (tally(), tally()),
        ) -> Segment {
            let span = span.map(|(since, until, slack)| Span { since, until, slack });
            Segment { entry: entry.map(EntryRef), span, growth, reach }
        }
    }

    fn packed(group: &Group) -> Packed {
        let mut packed = Packed::default();
        packed.replace(group, &mut Vec::new());
        packed
    }

    fn lane(segments: Vec<Segment>) -> Lane {
        let mut lane = Lane::default();
        lane.refill(segments.into_iter());
        lane
    }

    prop_compose! {
        /// Some replies grew in one reading with the other direction.
        fn track()(
            orig in prop::collection::vec(segment(), 0..5),
            reply in prop::collection::vec((segment(), any::<bool>()), 0..5),
        ) -> Track {
            let mut reply = reply;
            for (orig, (reply, alike)) in orig.iter().zip(&mut reply) {
                if *alike {
                    (reply.entry, reply.span) = (orig.entry, orig.span);
                }
            }
            let reply = reply.into_iter().map(|(reply, _)| reply).collect();
            Track { orig: lane(orig), reply: lane(reply) }
        }
    }

    prop_compose! {
        fn member(views: usize)(
            (entry, label) in (any::<i64>(), any::<i64>()),
            (observer, zone, lane) in (any::<u32>(), any::<u16>(), 0..9usize),
            seen in (0..views, 0..views),
            (start, after, until, slack) in (maybe(), maybe(), maybe(), slack()),
            (grown, grown_last) in (maybe(), any::<bool>()),
            flags in any::<[bool; 4]>(),
        ) -> (Member, (usize, usize)) {
            let [flip, told, waits, ended] = flags;
            let vantage = Vantage {
                observer: Observer(observer), zone, inside: ViewId(0), outside: ViewId(0),
            };
            let life = Life { start, after, until, slack, ended };
            let grown = if grown_last { until } else { grown };
            let (entry, label) = (EntryRef(entry), Label(label));
            (Member { entry, vantage, label, lane, flip, life, grown, told, waits }, seen)
        }
    }

    prop_compose! {
        fn group()(views in prop::collection::vec(any::<(u128, bool)>(), 1..4))(
            members in prop::collection::vec(member(views.len()), 0..5),
            views in Just(views),
            tracks in prop::collection::vec(track(), 0..4),
            (orig, reply) in (tally(), tally()),
            flags in any::<(bool, bool)>(),
            absorbed in prop::collection::vec(any::<i64>().prop_map(EntryRef), 0..3),
            aliases in prop::collection::vec(any::<(i64, i64)>(), 0..3),
        ) -> Group {
            let members = members.into_iter().map(|(member, (inside, outside))| {
                let [inside, outside] = [inside, outside].map(|at| ViewId(views[at].0));
                let vantage = Vantage { inside, outside, ..member.vantage };
                Member { vantage, ..member }
            });
            let alias = |(from, to)| Alias { from: Label(from), to: Label(to) };
            Group {
                members: members.collect(),
                tracks,
                views: views.into_iter().map(|(view, backward)| (ViewId(view), backward)).collect(),
                counted: Counters { orig, reply },
                apart: flags.0,
                absorbed,
                aliases: aliases.into_iter().map(alias).collect(),
                partial: flags.1,
            }
        }
    }

    proptest! {
        /// Into room that has been used, too.
        #[test]
        fn a_group_is_what_it_was_packed_from(one in group(), other in group()) {
            let (mut bytes, mut room) = (Vec::new(), Group::default());
            let mut packed = packed(&one);
            packed.open_into(&mut room);
            prop_assert_eq!(&room, &one);
            prop_assert!(packed.members().eq(one.members));
            packed.replace(&other, &mut bytes);
            packed.open_into(&mut room);
            prop_assert_eq!(&room, &other);
            prop_assert!(packed.views().eq(other.views.iter().map(|(view, _)| *view)));
            prop_assert_eq!(packed, self::packed(&other));
        }
    }

    proptest! {
        /// Whether it is written in place or anew.
        #[test]
        fn what_counting_changes_is_packed(
            one in group(),
            (grown, waits, apart, at) in (maybe(), any::<bool>(), any::<bool>(), 0..6usize),
            tracks in prop::collection::vec(track(), 0..4),
        ) {
            let mut bytes = Vec::new();
            let mut packed = packed(&one);
            let entry = one.members.get(at).map_or(EntryRef(-7), |member| member.entry);
            let mut now = Group { apart, tracks, ..one };
            if let Some(member) = now.members.iter_mut().find(|member| member.entry == entry) {
                (member.grown, member.waits) = (grown, waits);
            }
            prop_assert_eq!(packed.counted(&now, entry, &mut bytes).open(), now.clone());
            packed.count(&now, entry, &mut bytes);
            prop_assert_eq!(packed.open(), now);
        }

        /// The same.
        #[test]
        fn a_life_is_extended_as_a_members(
            one in group(),
            (start, after, until, slack) in (maybe(), maybe(), maybe(), slack()),
            (ended, little, at) in (any::<bool>(), any::<bool>(), 0..6usize),
        ) {
            let (mut bytes, mut room) = (Vec::new(), Group::default());
            let mut packed = packed(&one);
            let life = match little {
                true => Life { start: None, after: None, until, slack: Duration::ZERO, ended: false },
                false => Life { start, after, until, slack, ended },
            };
            let entry = one.members.get(at).map_or(EntryRef(-7), |member| member.entry);
            packed.extend((&mut room, &mut bytes), entry, &life);
            let mut expected = one;
            if let Some(member) = expected.members.iter_mut().find(|member| member.entry == entry) {
                member.life.extend(&life);
                member.waits = true;
            }
            prop_assert_eq!(packed.open(), expected);
        }
    }

    #[test]
    fn nothing_is_a_group_of_nobody() {
        assert_eq!(Packed::default().open(), Group::default());
        assert_eq!(Packed::default().members().count(), 0);
    }
}
