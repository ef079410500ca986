//! Baselines: what each living entry had reached in its last durable record, as it comes back
//! from a checkpoint and the frames after it.

use hashbrown::HashTable;

use super::slab::KeyHasher;
use crate::counters::Counters;
use crate::entry::{EntryId, EntryKey, Status, TcpState};
use crate::id::{BootId, FlowNo};
use crate::record::{Interval, Record, RecordFlags};
use crate::tuple::Tuple;
use crate::units::BootNanos;

/// What is durable of one entry that has not ended durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Its identity.
    pub entry: EntryId,
    /// Its number in the epoch.
    pub flow: FlowNo,
    /// Tuple as answers arrive.
    pub reply: Tuple,
    /// Absolute counters of its last durable record.
    pub cum: Counters,
    /// What zeroed counters had reached by then or since.
    pub offset: Counters,
    /// No packet above `cum` came before this (by the clock of the entry's boot).
    pub since: BootNanos,
    /// Connection mark.
    pub mark: u32,
    /// Status bits.
    pub status: Status,
    /// TCP state.
    pub tcp: TcpState,
    /// [`RecordFlags::FRESH`] and [`RecordFlags::UNCOUNTED`], no others.
    pub flags: RecordFlags,
}

impl Baseline {
    /// The baseline that a record of `interval` leaves; meaningless after an end.
    #[must_use]
    pub fn of(record: &Record, interval: &Interval) -> Self {
        // The reading was taken in a sweep that began no earlier than the interval's, unless
        // the entry has been missing since an earlier one, or since an earlier life of the node
        // and a new epoch tells of it again.
        let rebased = record.flags.has(RecordFlags::REBASE);
        let since = if record.until > interval.sweep_begin && !rebased {
            interval.sweep_begin.max(record.since)
        } else {
            record.since
        };
        Self {
            entry: record.entry(),
            flow: record.flow,
            reply: record.reply,
            cum: record.cum,
            offset: record.offset,
            since,
            mark: record.mark,
            status: record.status,
            tcp: record.tcp,
            flags: kept(record.flags),
        }
    }

    /// The record that closes an entry of an earlier boot: nothing grew, and in the times of
    /// this boot it was over before the beginning.
    pub(super) fn unseen_end(&self) -> Record {
        Record {
            flow: self.flow,
            netns: self.entry.netns,
            zone: self.entry.zone,
            orig: self.entry.orig,
            reply: self.reply,
            birth: self.entry.birth,
            mark: self.mark,
            status: self.status,
            tcp: self.tcp,
            flags: self.flags.with(RecordFlags::END).with(RecordFlags::UNSEEN),
            since: BootNanos::BOOT,
            until: BootNanos::BOOT,
            cum: self.cum,
            delta: Counters::ZERO,
            offset: self.offset,
            stop: 0,
        }
    }
}

/// The last sweep that durable records are complete for: every entry that was alive when it
/// began and had counters has a baseline, and grew above it after the sweep began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableSweep {
    /// The boot of these times.
    pub boot: BootId,
    /// Nothing of the sweep was read before.
    pub begin: BootNanos,
    /// Nothing of the sweep was read after.
    pub end: BootNanos,
}

/// The baselines of an epoch: a checkpoint, and the records of the frames after it folded in.
///
/// Holds as many entries as the node's frames name; the spool's budget bounds those.
pub struct BaselineSet {
    entries: Vec<Baseline>,
    index: HashTable<u32>,
    hasher: KeyHasher,
    durable: Option<DurableSweep>,
    next_flow: FlowNo,
}

impl BaselineSet {
    /// An empty set; `seed` is random, as in [`FlowTable::new`](super::FlowTable::new).
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            entries: Vec::new(),
            index: HashTable::new(),
            hasher: KeyHasher::new(seed),
            durable: None,
            next_flow: FlowNo(1),
        }
    }

    /// Puts a checkpoint's baseline in, in place of an older one of the same entry.
    pub fn insert(&mut self, baseline: Baseline) {
        self.take_flow(baseline.flow);
        let hash = self.hash(&baseline.entry);
        if let Some(place) = self.find(hash, &baseline.entry) {
            self.entries[place as usize] = baseline;
            return;
        }
        let Ok(place) = u32::try_from(self.entries.len()) else { return };
        self.entries.push(baseline);
        let Self { entries, index, hasher, .. } = self;
        index.insert_unique(hash, place, |&at| hasher.hash(&key(&entries[at as usize].entry)));
    }

    /// A checkpoint's [`FlowTable::next_flow`](super::FlowTable::next_flow).
    pub fn set_next_flow(&mut self, next: FlowNo) {
        self.next_flow = self.next_flow.max(next);
    }

    /// A checkpoint's [`BaselineSet::durable`].
    pub fn set_durable(&mut self, durable: DurableSweep) {
        self.durable = Some(durable);
    }

    /// Folds a record of a frame of `interval` in: an end removes the baseline, another record
    /// moves it.
    pub fn fold(&mut self, record: &Record, interval: &Interval) {
        if record.flags.has(RecordFlags::END) {
            self.take_flow(record.flow);
            self.remove(&record.entry());
        } else {
            self.insert(Baseline::of(record, interval));
        }
    }

    /// Folds a frame's interval in, after its records. The last part of an interval that was
    /// not paused makes the set complete for its sweep.
    pub fn fold_interval(&mut self, interval: &Interval) {
        if interval.parts != 0 && !interval.paused {
            self.durable = Some(DurableSweep {
                boot: interval.boot,
                begin: interval.sweep_begin,
                end: interval.sweep_end,
            });
        }
    }

    /// The sweep that the set is complete for, if there is one.
    #[must_use]
    pub fn durable(&self) -> Option<DurableSweep> {
        self.durable
    }

    /// The first flow number that is free.
    #[must_use]
    pub fn next_flow(&self) -> FlowNo {
        self.next_flow
    }

    /// How many entries it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The baseline of an entry.
    #[must_use]
    pub fn get(&self, entry: &EntryId) -> Option<&Baseline> {
        let place = self.find(self.hash(entry), entry)?;
        self.entries.get(place as usize)
    }

    /// All baselines.
    pub fn iter(&self) -> impl Iterator<Item = &Baseline> {
        self.entries.iter()
    }

    pub(super) fn into_entries(self) -> Vec<Baseline> {
        self.entries
    }

    fn take_flow(&mut self, flow: FlowNo) {
        self.next_flow = self.next_flow.max(FlowNo(flow.0.saturating_add(1)));
    }

    fn remove(&mut self, entry: &EntryId) {
        let hash = self.hash(entry);
        let Some(place) = self.find(hash, entry) else { return };
        if let Ok(found) = self.index.find_entry(hash, |&at| at == place) {
            found.remove();
        }
        self.entries.swap_remove(place as usize);
        let Some(moved) = self.entries.get(place as usize) else { return };
        let from = self.entries.len();
        if let Some(at) = self.index.find_mut(self.hash(&moved.entry), |&at| at as usize == from) {
            *at = place;
        }
    }

    fn find(&self, hash: u64, entry: &EntryId) -> Option<u32> {
        self.index.find(hash, |&at| self.entries[at as usize].entry == *entry).copied()
    }

    fn hash(&self, entry: &EntryId) -> u64 {
        self.hasher.hash(&key(entry))
    }
}

/// The marks that last.
pub(super) fn kept(flags: RecordFlags) -> RecordFlags {
    let lasting = RecordFlags::FRESH.with(RecordFlags::UNCOUNTED);
    RecordFlags(flags.0 & lasting.0)
}

fn key(entry: &EntryId) -> EntryKey {
    EntryKey { orig: entry.orig, netns: entry.netns.inode, zone: entry.zone }
}
