//! What the table counts about itself, and the kernel's totals of an interval.

use crate::counters::Counters;
use crate::record::KernelTotals;

/// Gauges and counters of a table since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Gauge: entries tracked as live.
    pub live: u64,
    /// Gauge: entries of the last sweep that found no room.
    pub untracked_live: u64,
    /// Gauge: ended entries whose last record is not durable.
    pub ended_waiting: u64,
    /// Gauge: ended entries remembered after that.
    pub remembered: u64,
    /// NEW events.
    pub births: u64,
    /// Ends taken.
    pub ends: u64,
    /// Ends of entries that no sweep had seen.
    pub ends_unknown: u64,
    /// Ends that came again.
    pub ends_repeated: u64,
    /// Entries closed because no end came.
    pub ended_unseen: u64,
    /// Ends that came after their entry had been closed so.
    pub ends_late: u64,
    /// Ends dropped because too many waited.
    pub ends_dropped: u64,
    /// Times the counters of a living entry were zeroed by somebody.
    pub resets: u64,
    /// Entries that took the key of one that the table still held as live.
    pub changed_births: u64,
    /// Entries that a complete sweep had missed and a later one found.
    pub reappeared: u64,
    /// Readings of entries whose end had been read already.
    pub stale_readings: u64,
    /// Readings handed over outside a sweep; ignored.
    pub stray_readings: u64,
    /// Complete sweeps of all namespaces.
    pub sweeps_complete: u64,
    /// Sweeps that were given up or missed a namespace.
    pub sweeps_incomplete: u64,
}

/// Ends that were dropped: what a gap tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedEnds {
    /// Entries whose last record is missing.
    pub flows: u64,
    /// Their growth since their last durable record.
    pub counters: Counters,
}

/// The table's own books.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tallies {
    pub(super) stats: TableStats,
    pub(super) untold: DroppedEnds,
    /// Of the last sweep.
    pub(super) live: Class,
    /// Since the interval's begin.
    pub(super) ended: Class,
    /// Since the interval's begin.
    pub(super) ended_unseen: u64,
    /// Readings of this sweep without a place.
    pub(super) untracked: u64,
}

/// Flows, what they had reached, and how many of them the kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) flows: u64,
    pub(super) counters: Counters,
    pub(super) uncounted: u64,
}

impl Class {
    pub(super) fn add(&mut self, cum: Counters, counted: bool) {
        self.flows += 1;
        self.counters = self.counters.plus(cum);
        self.uncounted += u64::from(!counted);
    }

    pub(super) fn take(&mut self, cum: Counters, counted: bool) {
        self.flows = self.flows.saturating_sub(1);
        self.counters = self.counters.above(cum);
        self.uncounted = self.uncounted.saturating_sub(u64::from(!counted));
    }
}

impl Tallies {
    pub(super) fn totals(&self) -> KernelTotals {
        KernelTotals {
            live_flows: self.live.flows,
            live: self.live.counters,
            ended_flows: self.ended.flows,
            ended: self.ended.counters,
            uncounted: self.live.uncounted + self.ended.uncounted,
            ended_unseen: self.ended_unseen,
        }
    }

    pub(super) fn close_interval(&mut self) {
        self.ended = Class::default();
        self.ended_unseen = 0;
    }

    pub(super) fn dropped(&mut self, growth: Counters) {
        self.stats.ends_dropped += 1;
        self.untold.flows += 1;
        self.untold.counters = self.untold.counters.plus(growth);
    }
}
