//! Which entries live, by their addresses: pure.
//!
//! An address names an entry only together with its start and its tuple: the kernel gives the
//! memory of a destroyed entry away at once. Addresses are kept in ascending order, in which the
//! kernel reads entries twice as fast.

use std::collections::BTreeMap;

use ebpf_abi::Entry;
use flow::entry::{EntryKey, Zone};
use flow::{NetnsInode, Reading, Tuple};

use super::entry::{self, is_held};
use super::layout::Layout;

/// The living entries.
pub(super) struct LiveTable {
    entries: BTreeMap<u64, Known>,
    namespaces: BTreeMap<NetnsInode, usize>,
    limit: usize,
    counts: LiveCounts,
}

/// What was noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LiveCounts {
    /// Entries whose end was never told: their memory is another entry's, or nobody's.
    pub(super) missed_ends: u64,
    /// Births beyond the limit; their entries are known by their end only.
    pub(super) untracked: u64,
    /// Ends that cannot be told, because the entry has no name: see [`LiveTable::ended`].
    pub(super) nameless_ends: u64,
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug)]
struct Known {
    orig: Tuple,
    reply: Tuple,
    start: u64,
    /// Needed as a name where there is no start; only netlink tells it.
    kernel_id: Option<u32>,
    netns: NetnsInode,
    zone: Zone,
    /// The last sweep did not find it; its end may be on its way.
    missing: bool,
}

impl Known {
    const fn of(reading: &Reading) -> Self {
        let Reading { orig, reply, start, netns, zone, .. } = *reading;
        Self { orig, reply, start, kernel_id: None, netns, zone, missing: false }
    }

    fn is(&self, reading: &Reading) -> bool {
        self.start == reading.start && self.orig == reading.orig && self.zone == reading.zone
    }

    /// Whether it has a name that no other entry ever gets.
    const fn is_named(&self) -> bool {
        self.start != 0 || self.kernel_id.is_some()
    }
}

impl LiveTable {
    /// An empty table of at most `limit` entries.
    pub(super) fn new(limit: usize) -> Self {
        let counts = LiveCounts::default();
        Self { entries: BTreeMap::new(), namespaces: BTreeMap::new(), limit, counts }
    }

    pub(super) const fn counts(&self) -> LiveCounts {
        self.counts
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Namespaces with living entries.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = NetnsInode> {
        self.namespaces.keys().copied()
    }

    /// An entry was inserted, or found where it was before. Says whether it was unknown.
    pub(super) fn born(&mut self, ct: u64, reading: &Reading) -> bool {
        if let Some(known) = self.entries.get_mut(&ct) {
            if known.is(reading) && known.netns == reading.netns {
                known.missing = false;
                return false;
            }
            self.counts.missed_ends += 1;
            self.remove(ct);
        }
        if self.entries.len() >= self.limit {
            self.counts.untracked += 1;
            return true;
        }
        self.entries.insert(ct, Known::of(reading));
        *self.namespaces.entry(reading.netns).or_default() += 1;
        true
    }

    /// Netlink has told an entry's name, needed where it has no start.
    pub(super) fn name(&mut self, ct: u64, kernel_id: u32) {
        if let Some(known) = self.entries.get_mut(&ct) {
            known.kernel_id = Some(kernel_id);
        }
    }

    /// Living entries that have no name yet, by key.
    pub(super) fn nameless(&self) -> impl Iterator<Item = (EntryKey, u64)> {
        self.entries.iter().filter(|(_, known)| !known.is_named()).map(|(ct, known)| {
            (EntryKey { orig: known.orig, netns: known.netns, zone: known.zone }, *ct)
        })
    }

    /// An entry was destroyed; the last reading of it, with its name.
    ///
    /// `None` where the entry has neither a start nor a known kernel id and its birth was not
    /// seen: it may have been reported under its kernel id by an earlier life of the node, and
    /// would count twice under any other name. `substitute` names an entry that was born and has
    /// ended under our eyes, and so was never reported.
    pub(super) fn ended(&mut self, ct: u64, reading: &Reading, substitute: u32) -> Option<Reading> {
        let mut reading = *reading;
        let known = self.entries.get(&ct).copied();
        let same = known.filter(|known| known.is(&reading));
        if known.is_some() {
            self.counts.missed_ends += u64::from(same.is_none());
            self.remove(ct);
        }
        if reading.start != 0 {
            return Some(reading);
        }
        match same {
            Some(known) => reading.kernel_id = known.kernel_id.unwrap_or(substitute),
            None => {
                self.counts.nameless_ends += 1;
                return None;
            }
        }
        Some(reading)
    }

    /// Forgets a namespace that is not watched any more.
    pub(super) fn forget(&mut self, netns: NetnsInode) {
        self.entries.retain(|_, known| known.netns != netns);
        self.namespaces.remove(&netns);
    }

    /// The next addresses to be read, in ascending order from `from` on, at most `most`.
    pub(super) fn addresses(&self, from: u64, most: usize, out: &mut Vec<u64>) {
        out.clear();
        out.extend(self.entries.range(from..).map(|(ct, _)| *ct).take(most));
    }

    /// What was read at the addresses that [`LiveTable::addresses`] gave, in the same order.
    /// Appends a reading of every entry that lives and has a name.
    pub(super) fn swept(&mut self, layout: &Layout, read: &[Entry], out: &mut Vec<Reading>) {
        let (Some(first), Some(last)) = (read.first(), read.last()) else { return };
        let mut gone = Vec::new();
        let mut read = read.iter().peekable();
        for (ct, known) in self.entries.range_mut(first.ct..=last.ct) {
            while read.next_if(|entry| entry.ct < *ct).is_some() {}
            let Some(entry) = read.next_if(|entry| entry.ct == *ct) else { continue };
            let found = entry::reading(layout, entry, known.netns).ok();
            match found.filter(|reading| is_held(entry) && known.is(reading)) {
                Some(mut reading) => {
                    known.missing = false;
                    reading.reply = known.reply;
                    reading.kernel_id = known.kernel_id.unwrap_or(0);
                    if known.is_named() {
                        out.push(reading);
                    }
                }
                // Its end is a moment away; where it is not there by the next sweep, it was lost.
                None if known.missing => gone.push(*ct),
                None => known.missing = true,
            }
        }
        for ct in gone {
            self.counts.missed_ends += 1;
            self.remove(ct);
        }
    }

    fn remove(&mut self, ct: u64) {
        let Some(known) = self.entries.remove(&ct) else { return };
        if let Some(count) = self.namespaces.get_mut(&known.netns) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&known.netns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::tcp;
    use super::super::layout::tests::linux_6_12;
    use super::*;

    const NETNS: NetnsInode = NetnsInode(1);
    const NONE: [u16; 0] = [];

    /// What the kernel would copy of the entry at `ct`.
    fn entry(ct: u64, port: u16, start: u64) -> Entry {
        let mut entry = tcp(port, start, [1, 40, 2, 80]);
        entry.ct = ct;
        if start == 0 {
            entry.flags &= !ebpf_abi::STAMPED;
        }
        entry
    }

    fn reading(port: u16, start: u64) -> Reading {
        entry::reading(&linux_6_12(), &entry(0, port, start), NETNS).unwrap()
    }

    fn sweep(table: &mut LiveTable, read: &[Entry]) -> Vec<u16> {
        let mut out = Vec::new();
        table.swept(&linux_6_12(), read, &mut out);
        out.iter().map(|reading| reading.orig.sport).collect()
    }

    #[test]
    fn addresses_come_in_ascending_order_and_chunks() {
        let mut table = LiveTable::new(10);
        for (ct, port) in [(30, 3), (10, 1), (20, 2)] {
            assert!(table.born(ct, &reading(port, 5)));
        }
        let mut out = Vec::new();
        table.addresses(0, 2, &mut out);
        assert_eq!(out, [10, 20]);
        table.addresses(21, 2, &mut out);
        assert_eq!(out, [30]);
        assert_eq!(sweep(&mut table, &[entry(10, 1, 5), entry(20, 2, 5)]), [1, 2]);
        assert_eq!(sweep(&mut table, &[entry(30, 3, 5)]), [3]);
        assert_eq!(table.counts(), LiveCounts::default());
    }

    #[test]
    fn an_address_with_another_start_or_tuple_is_another_entry() {
        for other in [entry(10, 1, 6), entry(10, 2, 5)] {
            let mut table = LiveTable::new(10);
            table.born(10, &reading(1, 5));
            assert_eq!(sweep(&mut table, &[other]), NONE);
            assert_eq!(table.counts().missed_ends, 0, "its end may be on its way");
            assert_eq!(table.ended(10, &reading(1, 5), 0), Some(reading(1, 5)));
            assert_eq!(table.counts().missed_ends, 0);
        }
    }

    #[test]
    fn an_entry_missing_twice_has_ended_unseen() {
        let mut table = LiveTable::new(10);
        table.born(10, &reading(1, 5));
        let mut released = entry(10, 1, 5);
        released.flags &= !ebpf_abi::HELD;
        assert_eq!(sweep(&mut table, &[released]), NONE);
        assert_eq!((table.counts().missed_ends, table.len()), (0, 1));
        assert_eq!(sweep(&mut table, &[entry(10, 1, 5)]), [1], "it was there after all");
        for _ in 0..2 {
            assert_eq!(sweep(&mut table, &[released]), NONE);
        }
        assert_eq!((table.counts().missed_ends, table.len()), (1, 0));
        assert_eq!(table.namespaces().count(), 0);
    }

    #[test]
    fn a_birth_at_a_known_address_ends_what_was_there() {
        let mut table = LiveTable::new(10);
        assert!(table.born(10, &reading(1, 5)));
        assert!(!table.born(10, &reading(1, 5)), "adopted again");
        assert!(table.born(10, &reading(1, 6)));
        assert_eq!((table.counts().missed_ends, table.len()), (1, 1));
        // The late end of the first one is told, and does not take the second one's place.
        assert_eq!(table.ended(10, &reading(2, 5), 0), Some(reading(2, 5)));
    }

    #[test]
    fn an_unknown_end_is_told_whole() {
        let mut table = LiveTable::new(0);
        assert!(table.born(10, &reading(1, 5)));
        assert_eq!((table.counts().untracked, table.len()), (1, 0));
        assert_eq!(table.ended(10, &reading(1, 5), 0), Some(reading(1, 5)));
    }

    #[test]
    fn without_a_start_the_kernels_id_is_the_name() {
        let mut table = LiveTable::new(10);
        table.born(10, &reading(1, 0));
        assert_eq!(sweep(&mut table, &[entry(10, 1, 0)]), NONE, "it has no name yet");
        let (key, ct) = table.nameless().next().unwrap();
        assert_eq!((key, ct), (reading(1, 0).key(), 10));
        table.name(ct, 77);
        let mut out = Vec::new();
        table.swept(&linux_6_12(), &[entry(10, 1, 0)], &mut out);
        assert_eq!(out[0].kernel_id, 77);
        assert_eq!(table.ended(10, &reading(1, 0), 5).unwrap().kernel_id, 77);
        // Born and ended under our eyes: any name will do.
        table.born(20, &reading(2, 0));
        assert_eq!(table.ended(20, &reading(2, 0), 5).unwrap().kernel_id, 5);
        // From before: it may have been reported under a name that we do not know.
        assert_eq!(table.ended(30, &reading(3, 0), 5), None);
        assert_eq!(table.counts().nameless_ends, 1);
    }
}
