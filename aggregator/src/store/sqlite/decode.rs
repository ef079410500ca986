//! Rows of the database back into domain rows. What cannot be is an error, never a panic: a
//! database is outside input too.

use std::net::IpAddr;
use std::time::Duration;

use flow::entry::Zone;
use flow::{
    Birth, BootId, BootNanos, Counters, Epoch, NetnsId, NetnsInode, NodeName, Proto, Seq, TcpState,
    Tuple, UnixNanos,
};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use wire::frame::Digest;
use wire::gap::GapReason;

use crate::store::StoreError;
use crate::store::row::{
    EntryNo, EpochRow, FlowRow, FrameName, GapRow, NetnsNo, NetnsRow, NodeNo, NodeRow, ObserverRow,
    PathNo, Sweep,
};

/// The columns [`flow_row`] decodes, to be selected first and in this order; from `flow_all` or
/// `flow_stray` with `receipt` as the column after them.
pub const FLOW_COLUMNS: &str = "time, since, entry_start, path, entry, bytes_orig, bytes_reply, \
     packets_orig, packets_reply, raw_bytes_orig, raw_bytes_reply, raw_packets_orig, \
     raw_packets_reply, batch_seq, mark, since_slack, node, netns, zone, sport, dport, nat_sport, \
     nat_dport, flags, family, proto, tcp_state, src, dst, nat_src, nat_dst";

/// [`FLOW_COLUMNS`] one by one.
pub(super) const FLOW_FIELDS: &[&str] = &[
    "time",
    "since",
    "entry_start",
    "path",
    "entry",
    "bytes_orig",
    "bytes_reply",
    "packets_orig",
    "packets_reply",
    "raw_bytes_orig",
    "raw_bytes_reply",
    "raw_packets_orig",
    "raw_packets_reply",
    "batch_seq",
    "mark",
    "since_slack",
    "node",
    "netns",
    "zone",
    "sport",
    "dport",
    "nat_sport",
    "nat_dport",
    "flags",
    "family",
    "proto",
    "tcp_state",
    "src",
    "dst",
    "nat_src",
    "nat_dst",
];

/// The same of `flow_stray`.
pub(super) const STRAY_FIELDS: &[&str] = &[
    "time",
    "since",
    "entry_start",
    "path",
    "entry",
    "bytes_orig",
    "bytes_reply",
    "packets_orig",
    "packets_reply",
    "raw_bytes_orig",
    "raw_bytes_reply",
    "raw_packets_orig",
    "raw_packets_reply",
    "batch_seq",
    "mark",
    "since_slack",
    "node",
    "netns",
    "zone",
    "sport",
    "dport",
    "nat_sport",
    "nat_dport",
    "flags",
    "family",
    "proto",
    "tcp_state",
    "src",
    "dst",
    "nat_src",
    "nat_dst",
    "receipt",
];

/// The columns [`observer_row`] decodes, of `flow_observer AS o`, first and in this order.
pub const OBSERVER_COLUMNS: &str = "o.entry, o.path, o.node, o.netns, o.zone, o.proto, o.sport, \
     o.dport, o.src, o.dst, o.nat_sport, o.nat_dport, o.nat_src, o.nat_dst, o.raw_start, \
     o.kernel_id, o.start, o.fresh, o.seen, o.ended, o.base_packets_orig, o.base_bytes_orig, \
     o.base_packets_reply, o.base_bytes_reply";

/// Columns of `gap`.
pub(super) const GAP_FIELDS: &[&str] = &[
    "node",
    "epoch",
    "first_seq",
    "last_seq",
    "reason",
    "boot",
    "at",
    "received",
    "flows",
    "packets_orig",
    "bytes_orig",
    "packets_reply",
    "bytes_reply",
    "note",
];

/// Reads a row's columns one after the other.
struct Columns<'r> {
    row: &'r SqliteRow,
    next: usize,
}

impl<'r> Columns<'r> {
    const fn of(row: &'r SqliteRow) -> Self {
        Self { row, next: 0 }
    }

    fn take<T>(&mut self) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        let at = self.next;
        self.next += 1;
        self.row.try_get(at).map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    fn int(&mut self) -> Result<i64, StoreError> {
        self.take()
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        let value = self.int()?;
        narrow(value)
    }

    fn number_or<T: TryFrom<i64>>(&mut self, otherwise: T) -> Result<T, StoreError> {
        self.take::<Option<i64>>()?.map_or(Ok(otherwise), narrow)
    }

    fn time(&mut self) -> Result<UnixNanos, StoreError> {
        self.int().map(from_micros)
    }

    fn time_or_null(&mut self) -> Result<Option<UnixNanos>, StoreError> {
        Ok(self.take::<Option<i64>>()?.map(from_micros))
    }

    fn name(&mut self) -> Result<[u8; 16], StoreError> {
        fixed(self.take::<&[u8]>()?)
    }

    fn name_or_null(&mut self) -> Result<Option<[u8; 16]>, StoreError> {
        self.take::<Option<&[u8]>>()?.map(fixed).transpose()
    }

    fn digest(&mut self) -> Result<Digest, StoreError> {
        fixed(self.take::<&[u8]>()?).map(Digest)
    }

    fn address(&mut self) -> Result<IpAddr, StoreError> {
        address(self.take::<&[u8]>()?)
    }

    fn address_or(&mut self, otherwise: IpAddr) -> Result<IpAddr, StoreError> {
        self.take::<Option<&[u8]>>()?.map_or(Ok(otherwise), address)
    }

    /// Packets and bytes, original then reply.
    fn counters(&mut self) -> Result<Counters, StoreError> {
        Ok(Counters::new(self.number()?, self.number()?, self.number()?, self.number()?))
    }
}

fn narrow<T: TryFrom<i64>>(value: i64) -> Result<T, StoreError> {
    T::try_from(value)
        .map_err(|_range| StoreError::Corrupt(format!("a number out of range: {value}")))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], StoreError> {
    let wrong = |_len| StoreError::Corrupt(format!("{} bytes where {N} belong", bytes.len()));
    bytes.try_into().map_err(wrong)
}

fn address(bytes: &[u8]) -> Result<IpAddr, StoreError> {
    match bytes.len() {
        4 => fixed::<4>(bytes).map(IpAddr::from),
        _ => fixed::<16>(bytes).map(IpAddr::from),
    }
}

/// A stored time; those beyond the range of nanoseconds stay at its ends.
pub(super) const fn from_micros(micros: i64) -> UnixNanos {
    UnixNanos(micros.saturating_mul(1_000))
}

/// A record of `flow`, `flow_stray` or `flow_all`; see [`FLOW_COLUMNS`].
///
/// # Errors
/// When a value is out of its range.
pub fn flow_row(row: &SqliteRow) -> Result<FlowRow, StoreError> {
    let mut c = Columns::of(row);
    let (time, since, entry_start) = (c.time()?, c.time_or_null()?, c.time_or_null()?);
    let (path, entry) = (PathNo(c.int()?), EntryNo(c.int()?));
    let counted: [u64; 4] = [c.number()?, c.number()?, c.number()?, c.number()?];
    let mut raw = counted;
    for value in &mut raw {
        *value = c.number_or(*value)?;
    }
    // Stored as bytes, then packets; original, then reply.
    let counters = |[ob, rb, op, rp]: [u64; 4]| Counters::new(op, ob, rp, rb);
    let (seq, mark) = (Seq(c.number()?), c.number()?);
    let slack = c.take::<Option<i64>>()?.map(narrow).transpose()?.map(Duration::from_millis);
    let (node, netns) = (NodeNo(c.number()?), NetnsNo(c.number()?));
    let (zone, sport, dport) = (Zone(c.number()?), c.number()?, c.number()?);
    let (nat_sport, nat_dport) = (c.number_or(sport)?, c.number_or(dport)?);
    let flags = c.number()?;
    let _family: u8 = c.number()?;
    let (proto, tcp) = (Proto(c.number()?), TcpState(c.number()?));
    let (src, dst) = (c.address()?, c.address()?);
    let (nat_src, nat_dst) = (c.address_or(src)?, c.address_or(dst)?);
    let stray =
        if row.len() > c.next && is_receipt(row, c.next) { c.time_or_null()? } else { None };
    Ok(FlowRow {
        time,
        since,
        slack,
        entry_start,
        path,
        entry,
        counted: counters(counted),
        raw: counters(raw),
        seq,
        mark,
        node,
        netns,
        zone,
        inside: Tuple { src, dst, sport, dport, proto },
        outside: Tuple { src: nat_src, dst: nat_dst, sport: nat_sport, dport: nat_dport, proto },
        flags,
        tcp,
        stray,
        frame: 0,
    })
}

fn is_receipt(row: &SqliteRow, at: usize) -> bool {
    row.columns().get(at).is_some_and(|column| sqlx::Column::name(column) == "receipt")
}

/// An entry of `flow_observer AS o`; see [`OBSERVER_COLUMNS`].
///
/// # Errors
/// When a value is out of its range.
pub fn observer_row(row: &SqliteRow) -> Result<ObserverRow, StoreError> {
    let mut c = Columns::of(row);
    let (entry, path) = (EntryNo(c.int()?), PathNo(c.int()?));
    let (node, netns, zone) = (NodeNo(c.number()?), NetnsNo(c.number()?), Zone(c.number()?));
    let proto = Proto(c.number()?);
    let (sport, dport) = (c.number()?, c.number()?);
    let (src, dst) = (c.address()?, c.address()?);
    let (nat_sport, nat_dport) = (c.number_or(sport)?, c.number_or(dport)?);
    let (nat_src, nat_dst) = (c.address_or(src)?, c.address_or(dst)?);
    let birth = Birth::of(c.number()?, c.number()?);
    Ok(ObserverRow {
        entry,
        path,
        node,
        netns,
        zone,
        inside: Tuple { src, dst, sport, dport, proto },
        outside: Tuple { src: nat_src, dst: nat_dst, sport: nat_sport, dport: nat_dport, proto },
        birth,
        start: c.time_or_null()?,
        fresh: c.int()? != 0,
        seen: c.time()?,
        ended: c.time_or_null()?,
        base: c.counters()?,
        frame: 0,
    })
}

/// `id, name, epoch, epoch_since` of `node`.
pub(super) fn node_row(row: &SqliteRow) -> Result<NodeRow, StoreError> {
    let mut c = Columns::of(row);
    let node = NodeNo(c.number()?);
    let name =
        NodeName::new(c.take::<&str>()?).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(NodeRow { node, name, epoch: Epoch(c.name()?), epoch_since: c.time()? })
}

/// `node, epoch, committed_seq, last_digest, begun, last_gap, sweep_boot, sweep_begin`.
pub(super) fn epoch_row(row: &SqliteRow) -> Result<EpochRow, StoreError> {
    let mut c = Columns::of(row);
    let (node, epoch) = (NodeNo(c.number()?), Epoch(c.name()?));
    let (committed, digest) = (Seq(c.number()?), c.digest()?);
    let (begun, last_gap) = (c.time()?, c.time_or_null()?);
    let (boot, begin) = (c.name_or_null()?, c.take::<Option<i64>>()?);
    let sweep = boot
        .zip(begin)
        .map(|(boot, begin)| Sweep { boot: BootId(boot), begin: BootNanos(begin.cast_unsigned()) });
    Ok(EpochRow { node, epoch, committed, digest, begun, last_gap, sweep })
}

/// `id, node, inode, boot` of `netns`.
pub(super) fn netns_row(row: &SqliteRow) -> Result<NetnsRow, StoreError> {
    let mut c = Columns::of(row);
    let (netns, node) = (NetnsNo(c.number()?), NodeNo(c.number()?));
    let id = NetnsId { inode: NetnsInode(c.number()?), boot: BootId(c.name()?) };
    Ok(NetnsRow { netns, node, id })
}

/// A node and when it was last heard.
pub(super) fn heard_row(row: &SqliteRow) -> Result<(NodeNo, UnixNanos), StoreError> {
    let mut c = Columns::of(row);
    Ok((NodeNo(c.number()?), c.time()?))
}

/// [`GAP_FIELDS`] of `gap`.
pub(super) fn gap_row(row: &SqliteRow) -> Result<GapRow, StoreError> {
    let mut c = Columns::of(row);
    let (node, epoch, seq) = (NodeNo(c.number()?), Epoch(c.name()?), Seq(c.number()?));
    let last = Seq(c.number()?);
    let reason = match c.int()? {
        1 => GapReason::Rejected,
        2 => GapReason::Unreadable,
        3 => GapReason::Forgotten,
        4 => GapReason::DroppedEnds,
        5 => GapReason::Renamed,
        other => return Err(StoreError::Corrupt(format!("a gap for reason {other}"))),
    };
    Ok(GapRow {
        name: FrameName { node, epoch, seq },
        last,
        reason,
        boot: BootId(c.name()?),
        at: c.time()?,
        received: c.time()?,
        flows: c.number()?,
        lost: c.counters()?,
        note: c.take::<String>()?,
    })
}

/// `entry` and four sums.
pub(super) fn sum_row(row: &SqliteRow) -> Result<(EntryNo, Counters), StoreError> {
    let mut c = Columns::of(row);
    Ok((EntryNo(c.int()?), c.counters()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_lists_agree() {
        assert_eq!(FLOW_COLUMNS.split(", ").collect::<Vec<_>>(), FLOW_FIELDS);
        assert_eq!(STRAY_FIELDS.split_last(), Some((&"receipt", FLOW_FIELDS)));
    }
}
