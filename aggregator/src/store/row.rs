//! What the stores keep, as domain types: one struct a table, and the change set that one
//! transaction applies. Each backend turns them into its own columns at its border.

use std::time::Duration;

use flow::entry::Zone;
use flow::{
    Birth, BootId, BootNanos, Counters, EntryId, Epoch, NetnsId, NetnsInode, NodeName, RecordFlags,
    Seq, TcpState, Tuple, UnixNanos,
};
use wire::frame::Digest;
use wire::gap::GapReason;

macro_rules! row_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The next number; stays at the last one instead of wrapping.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
    };
}

row_id! {
    /// A node's row.
    NodeNo, i32
}
row_id! {
    /// A network namespace's row: an observer. It implies node and boot.
    NetnsNo, i32
}
row_id! {
    /// An entry's row in `flow_observer`.
    EntryNo, i64
}
row_id! {
    /// One generation of a flow on the network; with one observer there is one for each entry.
    PathNo, i64
}

/// A process's right to write, drawn at random when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriterToken(pub [u8; 16]);

/// A frame's name for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameName {
    /// Its node.
    pub node: NodeNo,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its (first) number.
    pub seq: Seq,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its number here.
    pub node: NodeNo,
    /// Its name.
    pub name: NodeName,
    /// The epoch whose frames were committed last.
    pub epoch: Epoch,
    /// Since when (by receipt) all frames committed were of that epoch.
    pub epoch_since: UnixNanos,
}

/// A network namespace of one boot of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetnsRow {
    /// Its number here.
    pub netns: NetnsNo,
    /// Its node.
    pub node: NodeNo,
    /// What it is on the node.
    pub id: NetnsId,
}

impl NetnsRow {
    /// Its inode.
    #[must_use]
    pub const fn inode(&self) -> NetnsInode {
        self.id.inode
    }
}

/// The begin of a complete sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The boot it happened in.
    pub boot: BootId,
    /// When, by that boot's boottime.
    pub begin: BootNanos,
}

/// Progress of one (node, epoch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRow {
    /// The node.
    pub node: NodeNo,
    /// The epoch.
    pub epoch: Epoch,
    /// The last number committed.
    pub committed: Seq,
    /// The digest of that frame.
    pub digest: Digest,
    /// Receipt of its first frame.
    pub begun: UnixNanos,
    /// Receipt of the last gap that stood in place of a frame.
    pub last_gap: Option<UnixNanos>,
    /// The last complete sweep committed.
    pub sweep: Option<Sweep>,
}

/// Moves one (node, epoch) on from `first - 1` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochAdvance {
    /// The first number this set commits.
    pub first: Seq,
    /// The row as it is after the set.
    pub row: EpochRow,
}

/// One entry of one observer, written at first sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObserverRow {
    /// Its number.
    pub entry: EntryNo,
    /// Its path.
    pub path: PathNo,
    /// Its node.
    pub node: NodeNo,
    /// Its namespace.
    pub netns: NetnsNo,
    /// Its zone.
    pub zone: Zone,
    /// Inside view: its original tuple.
    pub inside: Tuple,
    /// Outside view: the inverse of its reply tuple.
    pub outside: Tuple,
    /// Its birth.
    pub birth: Birth,
    /// Its start as a time, where the clocks confirm it.
    pub start: Option<UnixNanos>,
    /// A TCP entry born by a SYN.
    pub fresh: bool,
    /// Receipt of its first record.
    pub seen: UnixNanos,
    /// Receipt of its last one, where it has ended or was closed.
    pub ended: Option<UnixNanos>,
    /// What folded rows had counted.
    pub base: Counters,
    /// Index of the frame in [`ChangeSet::frames`] that brings it; 0 in rows read back.
    pub frame: u32,
}

/// An entry's identity by row numbers: the namespace's row stands for node, boot and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Its namespace.
    pub netns: NetnsNo,
    /// Its zone.
    pub zone: Zone,
    /// Its birth.
    pub birth: Birth,
    /// Its original tuple.
    pub orig: Tuple,
}

impl Identity {
    /// The identity of `entry` in the namespace with this row.
    #[must_use]
    pub const fn of(netns: NetnsNo, entry: &EntryId) -> Self {
        Self { netns, zone: entry.zone, birth: entry.birth, orig: entry.orig }
    }
}

impl ObserverRow {
    /// Its identity.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity { netns: self.netns, zone: self.zone, birth: self.birth, orig: self.inside }
    }

    /// Whether its two views differ.
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.inside != self.outside
    }
}

/// An entry that ends in this set, or is closed because nothing was heard of it for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedEntry {
    /// Which.
    pub entry: EntryNo,
    /// Receipt of its last record.
    pub at: UnixNanos,
}

/// One record, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// Upper bound of the growth's time.
    pub time: UnixNanos,
    /// Lower bound, where known.
    pub since: Option<UnixNanos>,
    /// By how much either may be wrong; `None` where the time is unknown.
    pub slack: Option<Duration>,
    /// The entry's start, where known.
    pub entry_start: Option<UnixNanos>,
    /// Its path.
    pub path: PathNo,
    /// Its entry.
    pub entry: EntryNo,
    /// What it counts for.
    pub counted: Counters,
    /// What its observer reported.
    pub raw: Counters,
    /// The frame it came in.
    pub seq: Seq,
    /// Connection mark.
    pub mark: u32,
    /// Its node.
    pub node: NodeNo,
    /// Its namespace.
    pub netns: NetnsNo,
    /// Its zone.
    pub zone: Zone,
    /// Inside view.
    pub inside: Tuple,
    /// Outside view.
    pub outside: Tuple,
    /// The kernel's status in the low 16 bits, [`flow::RecordFlags`] above.
    pub flags: u32,
    /// TCP state.
    pub tcp: TcpState,
    /// Receipt, where the row's time is impossible and it is kept apart (`flow_stray`).
    pub stray: Option<UnixNanos>,
    /// Index of the frame in [`ChangeSet::frames`] that brings it; 0 in rows read back.
    pub frame: u32,
}

impl FlowRow {
    /// Whether it takes [`FlowRow::counted`] back instead of adding it: growth that was counted
    /// twice before it was known that two observers had seen the same packets.
    #[must_use]
    pub const fn is_retraction(&self) -> bool {
        self.flags & (RecordFlags::RETRACTION.0 as u32) << 16 != 0
    }
}

impl FlowRow {
    /// Whether a component of [`FlowRow::raw`] need not be stored beside the counted one.
    pub(super) const fn is_same(&self, raw: u64, counted: u64) -> bool {
        raw == counted && (raw == 0 || !self.is_retraction())
    }
}

/// A path that is another one from now on: two observers saw one generation of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AliasRow {
    /// The path that is given up.
    pub path: PathNo,
    /// What it is now.
    pub into: PathNo,
}

/// A frame's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// Which frame.
    pub name: FrameName,
    /// Its digest.
    pub digest: Digest,
    /// When it arrived.
    pub received: UnixNanos,
    /// Its records.
    pub records: u32,
    /// What it said about its interval.
    pub interval: flow::Interval,
}

/// Numbers without records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapRow {
    /// Its first number's name.
    pub name: FrameName,
    /// Its last number.
    pub last: Seq,
    /// Why.
    pub reason: GapReason,
    /// The node's boot when it was written.
    pub boot: BootId,
    /// The node's wall clock when it was written.
    pub at: UnixNanos,
    /// When it arrived.
    pub received: UnixNanos,
    /// Flows whose last growth is missing, where known. Kept up to 2^63 - 1.
    pub flows: u64,
    /// That growth, where known. Kept up to 2^63 - 1 per component.
    pub lost: Counters,
    /// For a person.
    pub note: String,
}

/// Everything one transaction writes: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    /// The frames whose contents these are, in the order counted.
    pub frames: Vec<FrameName>,
    /// Progress, one for each (node, epoch).
    pub advances: Vec<EpochAdvance>,
    /// Nodes seen first.
    pub new_nodes: Vec<NodeRow>,
    /// Nodes known before whose committing epoch changed.
    pub switched: Vec<NodeRow>,
    /// Namespaces seen first.
    pub netns: Vec<NetnsRow>,
    /// Entries seen first.
    pub observers: Vec<ObserverRow>,
    /// Entries that ended, or were closed (those seen first in this set carry their end
    /// themselves); ascending by the moment.
    pub ended: Vec<EndedEntry>,
    /// Entries that had ended or were closed, and are open again.
    pub reopened: Vec<EntryNo>,
    /// Records, strays among them.
    pub flows: Vec<FlowRow>,
    /// Frames' history.
    pub batches: Vec<BatchRow>,
    /// Gaps.
    pub gaps: Vec<GapRow>,
    /// Paths that became others.
    pub aliases: Vec<AliasRow>,
}

impl ChangeSet {
    /// The last path it names.
    #[must_use]
    pub fn last_path(&self) -> PathNo {
        let aliases = self.aliases.iter().map(|alias| alias.path.max(alias.into));
        self.observers.iter().map(|row| row.path).chain(aliases).max().unwrap_or_default()
    }

    /// Entries seen first in it with a number up to `upto`: it was given when they were linked.
    #[must_use]
    pub fn late_entries(&self, upto: EntryNo) -> Vec<EntryNo> {
        self.observers.iter().map(|row| row.entry).filter(|entry| *entry <= upto).collect()
    }

    /// All ends in it, those of entries seen first among them.
    #[must_use]
    pub fn all_ends(&self) -> Vec<EndedEntry> {
        let own = |row: &ObserverRow| Some(EndedEntry { entry: row.entry, at: row.ended? });
        self.observers.iter().filter_map(own).chain(self.ended.iter().copied()).collect()
    }
}

/// The last numbers given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastIds {
    /// Of nodes.
    pub node: NodeNo,
    /// Of namespaces.
    pub netns: NetnsNo,
    /// Of entries.
    pub entry: EntryNo,
    /// Of paths.
    pub path: PathNo,
}

/// What an aggregator loads when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// All nodes.
    pub nodes: Vec<NodeRow>,
    /// All epochs' progress.
    pub epochs: Vec<EpochRow>,
    /// All namespaces.
    pub netns: Vec<NetnsRow>,
    /// Entries that are open, or ended at or after the moment asked for.
    pub observers: Vec<ObserverRow>,
    /// Receipt of each node's last frame with an interval; nodes of which the history of frames
    /// has nothing left are missing.
    pub heard: Vec<(NodeNo, UnixNanos)>,
    /// No entry that was not loaded was first seen after this; `None` where all were loaded. Of
    /// those that ended before the moment asked for, that moment.
    pub forgotten: Option<UnixNanos>,
    /// The last numbers given out.
    pub ids: LastIds,
}

/// A stable 64-bit hash of a view: protocol and both ends, the same in both directions (FNV-1a).
/// Not proof against collisions made on purpose: whoever finds rows by it compares their tuples.
#[must_use]
pub fn view_hash(tuple: &Tuple) -> i64 {
    let ends = [(tuple.src, tuple.sport), (tuple.dst, tuple.dport)];
    // An ICMP type and code are no end's: a request and its answer share the id only.
    let ends = if tuple.proto.is_icmp() {
        [(tuple.src, tuple.sport), (tuple.dst, tuple.sport)]
    } else {
        ends
    };
    let mut hash = Fnv::default();
    hash.write(&[tuple.proto.0]);
    for (address, port) in [ends[0].min(ends[1]), ends[0].max(ends[1])] {
        match address {
            std::net::IpAddr::V4(v4) => hash.write(&v4.octets()),
            std::net::IpAddr::V6(v6) => hash.write(&v6.octets()),
        }
        hash.write(&port.to_be_bytes());
    }
    hash.0.cast_signed()
}

/// FNV-1a, 64 bits (draft-eastlake-fnv).
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use flow::Proto;

    use super::*;

    #[test]
    fn a_view_hashes_the_same_both_ways_and_for_ever() {
        let tcp = Tuple::ports(
            Proto::TCP,
            "10.0.0.1:4000".parse().unwrap(),
            "192.0.2.1:443".parse().unwrap(),
        );
        assert_eq!(view_hash(&tcp), view_hash(&tcp.inverse()));
        // Stored in databases: must never change.
        assert_eq!(view_hash(&tcp), GOLDEN);
        let ping = Tuple::icmp(Proto::ICMP, tcp.src, tcp.dst, 7, 8, 0);
        assert_eq!(view_hash(&ping), view_hash(&ping.inverse()));
        let udp = Tuple { proto: Proto::UDP, ..tcp };
        assert_ne!(view_hash(&udp), view_hash(&tcp));
    }

    const GOLDEN: i64 = 262984858180983398;
}
