//! Conntrack entries: their identity, status and state.

use std::fmt;

use crate::id::{NetnsId, NetnsInode};
use crate::tuple::Tuple;

/// When an entry was born, as raw as the kernel says it: a name, not a time.
///
/// The start stamp is the kernel's wall clock at the entry's confirmation (`nf_conn_tstamp`); it
/// is never converted to make an identity. Where `nf_conntrack_timestamp` is off the kernel's
/// entry id (`CTA_ID`) takes its place; the boot in [`NetnsId`] makes it unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Birth {
    /// The raw start stamp in nanoseconds, never 0.
    Start(u64),
    /// The kernel's id of an entry without a start stamp.
    Id(u32),
}

impl Birth {
    /// The birth that a reading's raw start (0 = none) and kernel id say.
    #[must_use]
    pub const fn of(start: u64, kernel_id: u32) -> Self {
        if start == 0 { Self::Id(kernel_id) } else { Self::Start(start) }
    }

    /// The raw start stamp, where there is one.
    #[must_use]
    pub const fn start(self) -> Option<u64> {
        match self {
            Self::Start(ns) => Some(ns),
            Self::Id(_) => None,
        }
    }
}

/// A conntrack zone, that of the original direction (`CTA_ZONE`); 0 is the default zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(pub u16);

/// An entry's identity on one node: stable for its life, whatever the node's spool does.
/// With the node's name it is the identity of the design's merge rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The namespace it lives in.
    pub netns: NetnsId,
    /// Its zone.
    pub zone: Zone,
    /// Its original tuple.
    pub orig: Tuple,
    /// Its birth.
    pub birth: Birth,
}

/// An entry's key in a node's flow table: identity without birth, namespaces of this boot only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// Original tuple.
    pub orig: Tuple,
    /// Namespace.
    pub netns: NetnsInode,
    /// Zone.
    pub zone: Zone,
}

/// Conntrack status bits (`enum ip_conntrack_status` in `nf_conntrack_common.h`).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// Packets were seen in both directions.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// Kept early in the table no longer.
    pub const ASSURED: u32 = 1 << 2;
    /// In the table (its first packet left the host).
    pub const CONFIRMED: u32 = 1 << 3;
    /// Source NAT.
    pub const SRC_NAT: u32 = 1 << 4;
    /// Destination NAT.
    pub const DST_NAT: u32 = 1 << 5;
    /// Taken out of the table.
    pub const DYING: u32 = 1 << 9;
    /// Forwarded by a flowtable.
    pub const OFFLOAD: u32 = 1 << 14;
    /// Forwarded by hardware.
    pub const HW_OFFLOAD: u32 = 1 << 15;

    /// Whether all of `bits` are set.
    #[must_use]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:#x})", self.0)
    }
}

/// A TCP entry's state (`enum tcp_conntrack` in `nf_conntrack_tcp.h`); 0 for other protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpState(pub u8);

impl TcpState {
    /// The state's name as `conntrack -L` prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "NONE",
            1 => "SYN_SENT",
            2 => "SYN_RECV",
            3 => "ESTABLISHED",
            4 => "FIN_WAIT",
            5 => "CLOSE_WAIT",
            6 => "LAST_ACK",
            7 => "TIME_WAIT",
            8 => "CLOSE",
            9 => "SYN_SENT2",
            _ => "UNKNOWN",
        }
    }
}
