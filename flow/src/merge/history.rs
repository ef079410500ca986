//! What was counted before: groups are made anew from what is stored of them.
//!
//! An entry that comes back from the store is linked as any other, but its growths are not here.
//! While it is alone in its group nobody needs them. Before it is counted together with others all
//! growths of all of the group are asked of the store, and the group is what comes of them.

use super::group::{Group, turned};
use super::segment::Pass;
use super::{Counters, EntryRef, GroupNo, Merger, Span};

/// One stored growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose.
    pub entry: EntryRef,
    /// By how much the entry grew.
    pub growth: Counters,
    /// When.
    pub span: Option<Span>,
    /// What it was counted for.
    pub counted: Counters,
    /// It takes `counted` back instead; it grew by nothing.
    pub back: bool,
}

impl Merger {
    /// The entries of `entry`'s group, where stored growths of it must be told before it can be
    /// counted; `None` where it can be counted now.
    #[must_use]
    pub fn untold(&self, entry: EntryRef) -> Option<impl Iterator<Item = EntryRef>> {
        let group = self.group(self.group_of(entry)?)?;
        group.is_untold().then(|| group.members().map(|member| member.entry))
    }

    /// Gives an entry another number, under which growths of it are stored.
    pub fn rename(&mut self, from: EntryRef, to: EntryRef) {
        let Some(no) = self.by_entry.remove(&from) else { return };
        self.by_entry.insert(to, no);
        self.change(no, |group| {
            if let Some(member) = group.members.iter_mut().find(|member| member.entry == from) {
                member.entry = to;
                member.told = false;
            }
        });
    }

    /// Makes the groups of `entries` anew from all that is stored of their entries. Never call it
    /// between [`Merger::count`] and [`Merger::apply`].
    ///
    /// Growths are taken in the order of their ends, which is nearly the order they were counted
    /// in, with more segments kept than while counting: so what comes out is not less than what
    /// was counted, and never more than what passed. Those without a time come last: between which
    /// readings they were is not stored, so they stay without one.
    pub fn rebuild(&mut self, entries: &[EntryRef], stored: &[Told]) {
        let mut numbers: Vec<GroupNo> =
            entries.iter().filter_map(|entry| self.group_of(*entry)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut told: Vec<(GroupNo, &Told)> =
            stored.iter().filter_map(|told| Some((self.group_of(told.entry)?, told))).collect();
        told.sort_by_key(|(no, told)| (*no, told.span.is_none(), told.span.map(|span| span.until)));
        let segments = self.config.segments;
        for no in numbers {
            let from = told.partition_point(|(of, _)| *of < no);
            let to = told.partition_point(|(of, _)| *of <= no);
            let told = told.get(from..to).unwrap_or_default();
            self.change(no, |group| group.rebuild(told, segments));
        }
    }
}

impl Group {
    /// Makes it anew of all that is stored of its entries, in order.
    fn rebuild(&mut self, stored: &[(GroupNo, &Told)], segments: usize) {
        let mut pass = Pass::default();
        for track in &mut self.tracks {
            (track.orig, track.reply) = Default::default();
        }
        let (mut counted, mut back) = (Counters::ZERO, Counters::ZERO);
        for (_, told) in stored {
            let flip = match told.span {
                None => self.grow_once(told.entry, told.growth),
                span => self
                    .grow(told.entry, told.growth, span, (SEGMENTS, &mut pass))
                    .is_some_and(|(flip, _)| flip),
            };
            let ours = if flip { turned(told.counted) } else { told.counted };
            let sum = if told.back { &mut back } else { &mut counted };
            *sum = sum.plus(ours);
        }
        self.counted = counted.above(back);
        if self.partial {
            // Rows of others are missing: what they were counted for may be the same packets.
            self.counted = self.counted.max(self.total(&mut pass));
        }
        // Those that were counted apart until now are not known any more.
        self.apart = !self.partial;
        self.settle(segments);
    }
}

/// Segments kept of an entry and direction while a group is made anew.
const SEGMENTS: usize = 64;
