//! Readings: what a source hands over, in the kernel's words.

use crate::counters::Counters;
use crate::entry::{Birth, EntryKey, Status, TcpState, Zone};
use crate::id::NetnsInode;
use crate::tuple::Tuple;

/// One look at one conntrack entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The namespace it was read in.
    pub netns: NetnsInode,
    /// Zone of the original direction.
    pub zone: Zone,
    /// Tuple as the opener sent it.
    pub orig: Tuple,
    /// Tuple as answers arrive.
    pub reply: Tuple,
    /// Raw kernel start in wall-clock nanoseconds, 0 where unknown (NEW events, timestamps off).
    pub start: u64,
    /// Raw kernel stop in wall-clock nanoseconds, 0 where unknown or alive.
    pub stop: u64,
    /// The kernel's entry id (`CTA_ID`).
    pub kernel_id: u32,
    /// Connection mark.
    pub mark: u32,
    /// Status bits.
    pub status: Status,
    /// TCP state, 0 for other protocols.
    pub tcp: TcpState,
    /// Whether a TCP entry was born by a SYN: not both directions carry the `BE_LIBERAL` and
    /// `SACK_PERM` flags of a mid-stream pickup. Always false for other protocols.
    pub fresh: bool,
    /// Absolute counters; `None` where the kernel keeps none for this entry (born before
    /// `nf_conntrack_acct` was on): such a flow is *uncounted*, not empty.
    pub counters: Option<Counters>,
}

impl Reading {
    /// The entry's key in a node's table.
    #[must_use]
    pub const fn key(&self) -> EntryKey {
        EntryKey { orig: self.orig, netns: self.netns, zone: self.zone }
    }

    /// The entry's birth as far as this reading tells it.
    #[must_use]
    pub const fn birth(&self) -> Birth {
        Birth::of(self.start, self.kernel_id)
    }
}
