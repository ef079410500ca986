//! Records and the interval they belong to: what a node says, before any encoding.

use crate::counters::Counters;
use crate::entry::{Birth, EntryId, Status, TcpState, Zone};
use crate::id::{BootId, FlowNo, NetnsId};
use crate::tuple::Tuple;
use crate::units::{BootNanos, ClockOffset, UnixNanos};

/// Our own marks on a record. The stores keep them above the kernel's 16 status bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RecordFlags(pub u16);

impl RecordFlags {
    /// The entry has ended; this is its last record.
    pub const END: Self = Self(1 << 0);
    /// A TCP entry born by a SYN, not by mid-stream pickup.
    pub const FRESH: Self = Self(1 << 1);
    /// First record of an entry after the node gave up its baselines; for metrics only.
    pub const REBASE: Self = Self(1 << 2);
    /// The entry ended and no life of the node saw it end: growth after its last sweep is
    /// unknown. Always with [`RecordFlags::END`].
    pub const UNSEEN: Self = Self(1 << 3);
    /// The kernel keeps no counters for this entry: zero here means "unknown".
    pub const UNCOUNTED: Self = Self(1 << 4);
    /// Its counters were zeroed by somebody since the last record; see [`Record::offset`].
    pub const RESET: Self = Self(1 << 5);
    /// Set by the aggregator: no clock could be trusted for this record's times.
    pub const TIME_UNKNOWN: Self = Self(1 << 6);
    /// Set by the aggregator: no reading, but growth taken back that was counted, because it
    /// turned out to be packets that another host had reported too.
    pub const RETRACTION: Self = Self(1 << 8);

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `other` where `on`, else none of it, added to these.
    #[must_use]
    pub const fn with_if(self, other: Self, on: bool) -> Self {
        if on { self.with(other) } else { self }
    }

    /// These flags without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// One absolute reading of one entry, and how it grew since the last spooled one.
///
/// What is counted is the part of `cum` above the highest reading counted already; `delta`
/// travels for sinks, compression and checks. The growth in `delta` happened in the closed time
/// interval from `since` to `until`; both are bounds, not estimates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The flow's number in this epoch.
    pub flow: FlowNo,
    /// The namespace it lives (or, before a reboot, lived) in.
    pub netns: NetnsId,
    /// Zone.
    pub zone: Zone,
    /// Tuple as the opener sent it.
    pub orig: Tuple,
    /// Tuple as answers arrive.
    pub reply: Tuple,
    /// Raw kernel start, or the kernel's id where there is none.
    pub birth: Birth,
    /// Connection mark.
    pub mark: u32,
    /// Status bits; the low 16 travel.
    pub status: Status,
    /// TCP state.
    pub tcp: TcpState,
    /// Our marks.
    pub flags: RecordFlags,
    /// No packet of the growth came before this; [`BootNanos::BOOT`] where unknown.
    pub since: BootNanos,
    /// No packet of the growth came after this.
    pub until: BootNanos,
    /// Absolute counters: the kernel's plus `offset`.
    pub cum: Counters,
    /// `cum` less the last spooled `cum` (zero at first, and after a rebase).
    pub delta: Counters,
    /// What was added to the kernel's counters because somebody zeroed them; usually zero.
    pub offset: Counters,
    /// Raw kernel stop in wall-clock nanoseconds where the record is an end and it is known,
    /// else 0.
    pub stop: u64,
}

impl Record {
    /// The entry's identity.
    #[must_use]
    pub const fn entry(&self) -> EntryId {
        EntryId { netns: self.netns, zone: self.zone, orig: self.orig, birth: self.birth }
    }

    /// What the node believes was reported before: `cum - delta`.
    #[must_use]
    pub fn base(&self) -> Counters {
        self.cum.above(self.delta)
    }
}

/// A boottime and a wall-clock reading taken together on a node, and whether to trust the wall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockPair {
    /// `CLOCK_BOOTTIME`.
    pub boot: BootNanos,
    /// `CLOCK_REALTIME`.
    pub wall: UnixNanos,
    /// The kernel says the wall clock is synchronised (`adjtimex`, `STA_UNSYNC` clear).
    pub synchronised: bool,
    /// The wall clock was stepped during the interval.
    pub stepped: bool,
}

/// A node's last measured offset from its boottime to the aggregator's wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasuredOffset {
    /// Aggregator's wall clock less the node's boottime.
    pub offset: ClockOffset,
    /// The boot it was measured in.
    pub boot: BootId,
    /// When it was measured, by that boot's boottime.
    pub at: BootNanos,
}

/// The kernel's own totals at an interval's end, for the audit: all live entries' absolute
/// readings, and the final readings of the entries that ended in this interval. Of those that pass the
/// node's filter: what it leaves out is in no record and not in here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelTotals {
    /// Live entries read.
    pub live_flows: u64,
    /// Sum of their counters.
    pub live: Counters,
    /// Entries whose end was seen.
    pub ended_flows: u64,
    /// Sum of their last counters.
    pub ended: Counters,
    /// Entries, live or ended, that the kernel keeps no counters for.
    pub uncounted: u64,
    /// Entries that ended without being seen to.
    pub ended_unseen: u64,
}

/// What a batch says about itself beside its number and its records.
///
/// An interval may take several batches: those before the last say `parts = 0`, the last one
/// says how many there are. The totals are those of the whole interval and stand in the last
/// one; earlier ones carry zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Number of the interval: its aligned wall-clock end divided by its length.
    pub number: u64,
    /// The node's interval length in milliseconds.
    pub length_ms: u32,
    /// This batch's place in its interval, from 1.
    pub part: u32,
    /// Number of parts where this is the last one, else 0.
    pub parts: u32,
    /// Everything that happened before this moment has been reported by this batch and those
    /// before it (watermark): begin of the last complete sweep they contain.
    pub sweep_begin: BootNanos,
    /// Nothing in this batch was read after this moment.
    pub sweep_end: BootNanos,
    /// The boot that all times of this batch belong to.
    pub boot: BootId,
    /// Both clocks at the interval's end.
    pub clock: ClockPair,
    /// The last clock offset to the aggregator, if one was ever measured.
    pub offset: Option<MeasuredOffset>,
    /// The kernel's totals.
    pub totals: KernelTotals,
    /// Updates were held back because the spool is nearly full: growth will come later.
    pub paused: bool,
}
