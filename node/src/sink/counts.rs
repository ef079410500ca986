//! Numbers of a local sink.

use std::sync::atomic::{AtomicU64, Ordering};

use flow::{Record, RecordFlags};

/// What a sink counts.
#[derive(Debug, Default)]
pub struct SinkCounts {
    offered: Kinds,
    batches_offered: AtomicU64,
    written: Kinds,
    batches_written: AtomicU64,
    /// The queue was full.
    dropped_full: Kinds,
    /// Nobody reads the output any more.
    dropped_closed: Kinds,
    batches_dropped: AtomicU64,
    /// Records of the batch offered last.
    last_batch: AtomicU64,
}

/// Records by what they say.
#[derive(Debug, Default)]
struct Kinds {
    updates: AtomicU64,
    ends: AtomicU64,
}

/// The numbers at one moment. Records unless the name says batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkNumbers {
    /// Updates offered to the sink.
    pub updates_pushed: u64,
    /// Ends offered to the sink.
    pub ends_pushed: u64,
    /// Updates dropped, for whatever reason.
    pub updates_dropped: u64,
    /// Ends dropped, for whatever reason.
    pub ends_dropped: u64,
    /// Those dropped because nobody reads the output any more.
    pub events_failed: u64,
    /// Batches offered.
    pub batches_pushed: u64,
    /// Batches written.
    pub batches_sent: u64,
    /// Batches dropped.
    pub batches_dropped: u64,
    /// Batches that wait.
    pub queue_length: u64,
    /// Records of the batch offered last.
    pub last_batch: u64,
}

/// Why a batch is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drop {
    /// The queue was full.
    Full,
    /// Nobody reads the output any more.
    Closed,
}

impl SinkCounts {
    /// Takes note of a batch that the sink is given.
    pub(super) fn offered(&self, records: &[Record]) {
        self.offered.add(records);
        self.batches_offered.fetch_add(1, Ordering::Relaxed);
        self.last_batch.store(records.len() as u64, Ordering::Relaxed);
    }

    /// Takes note of a batch that was written.
    pub(super) fn written(&self, records: &[Record]) {
        self.written.add(records);
        self.batches_written.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of a batch that will never be written.
    pub(super) fn dropped(&self, records: &[Record], why: Drop) {
        match why {
            Drop::Full => self.dropped_full.add(records),
            Drop::Closed => self.dropped_closed.add(records),
        }
        self.batches_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers now. What is offered is written, dropped or waits.
    #[must_use]
    pub fn numbers(&self) -> SinkNumbers {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (full, closed) = (&self.dropped_full, &self.dropped_closed);
        // Those that end a batch's way first: what waits is never below zero.
        let (batches_sent, batches_dropped) =
            (load(&self.batches_written), load(&self.batches_dropped));
        let batches_pushed = load(&self.batches_offered);
        SinkNumbers {
            updates_pushed: load(&self.offered.updates),
            ends_pushed: load(&self.offered.ends),
            updates_dropped: load(&full.updates).saturating_add(load(&closed.updates)),
            ends_dropped: load(&full.ends).saturating_add(load(&closed.ends)),
            events_failed: load(&closed.updates).saturating_add(load(&closed.ends)),
            batches_pushed,
            batches_sent,
            batches_dropped,
            queue_length: batches_pushed
                .saturating_sub(batches_sent.saturating_add(batches_dropped)),
            last_batch: load(&self.last_batch),
        }
    }
}

impl Kinds {
    fn add(&self, records: &[Record]) {
        let ends = records.iter().filter(|record| record.flags.has(RecordFlags::END)).count();
        self.ends.fetch_add(ends as u64, Ordering::Relaxed);
        self.updates.fetch_add((records.len() - ends) as u64, Ordering::Relaxed);
    }
}
