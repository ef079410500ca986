//! Gaps: numbers of an epoch that carry no records, and what is known to be missing.

use flow::{BootId, Counters, Seq, UnixNanos};

use crate::control::Extensions;

/// Why there is a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum GapReason {
    /// The aggregator rejected the frame; the node keeps it aside.
    Rejected = 1,
    /// The frame could not be read back from the spool.
    Unreadable = 2,
    /// The frame had been acknowledged and forgotten, and a restored store asks for it again.
    Forgotten = 3,
    /// Ended flows were dropped because the spool was full.
    DroppedEnds = 4,
}

/// A gap over the numbers `first..=last`. A gap of dropped ends has a number of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First number passed.
    pub first: Seq,
    /// Last number passed.
    pub last: Seq,
    /// Why.
    pub reason: GapReason,
    /// The node's boot when it was written.
    pub boot: BootId,
    /// The node's wall clock when it was written.
    pub at: UnixNanos,
    /// Flows whose last growth is missing, where known.
    pub flows: u64,
    /// That growth, where known.
    pub lost: Counters,
    /// For a person.
    pub note: String,
    /// Later fields.
    pub extensions: Extensions,
}
