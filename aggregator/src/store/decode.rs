//! Rows of a database back into domain rows, the same for all of them. What cannot be is an
//! error, never a panic: a database is outside input too.
//!
//! Each backend says how it keeps a number, a time, an address ([`Cells`]); what the columns mean
//! is said once, here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use flow::entry::Zone;
use flow::record::{ClockPair, KernelTotals};
use flow::{
    Birth, BootId, BootNanos, Counters, Epoch, Interval, NetnsId, NetnsInode, NodeName, Proto,
    RecordFlags, Seq, TcpState, Tuple, UnixNanos,
};
use wire::frame::Digest;
use wire::gap::GapReason;

use super::row::{
    AliasRow, BatchRow, EntryNo, EpochRow, FlowRow, FrameName, GapRow, NetnsNo, NetnsRow, NodeNo,
    NodeRow, ObserverRow, PathNo, Sweep,
};
use super::{Progress, StoreError};

/// A row as its database gives it. Columns count from 0; a NULL where none may be is an error.
pub trait Cells {
    /// How many columns there are.
    fn width(&self) -> usize;

    /// Whether column `at` has this name.
    fn is_called(&self, at: usize, name: &str) -> bool;

    /// A number of any width, or NULL.
    ///
    /// # Errors
    /// When the column holds something else.
    fn int_or_null(&self, at: usize) -> Result<Option<i64>, StoreError>;

    /// A time, or NULL.
    ///
    /// # Errors
    /// When the column holds something else.
    fn time_or_null(&self, at: usize) -> Result<Option<UnixNanos>, StoreError>;

    /// An address, or NULL.
    ///
    /// # Errors
    /// When the column holds something else.
    fn address_or_null(&self, at: usize) -> Result<Option<IpAddr>, StoreError>;

    /// A 128-bit name, or NULL.
    ///
    /// # Errors
    /// When the column holds something else.
    fn name_or_null(&self, at: usize) -> Result<Option<[u8; 16]>, StoreError>;

    /// Bytes.
    ///
    /// # Errors
    /// When the column holds something else.
    fn bytes(&self, at: usize) -> Result<&[u8], StoreError>;

    /// Text.
    ///
    /// # Errors
    /// When the column holds something else.
    fn text(&self, at: usize) -> Result<&str, StoreError>;

    /// Yes or no.
    ///
    /// # Errors
    /// When the column holds something else.
    fn flag(&self, at: usize) -> Result<bool, StoreError>;
}

/// A record of `flow`, `flow_stray` or `flow_all`; see
/// [`FLOW_COLUMNS`](super::columns::FLOW_COLUMNS).
///
/// # Errors
/// When a value is out of its range.
pub fn flow_row<R: Cells>(row: &R) -> Result<FlowRow, StoreError> {
    let mut c = Columns::of(row);
    let (time, since, entry_start) = (c.time()?, c.time_or_null()?, c.time_or_null()?);
    let (path, entry) = (PathNo(c.int()?), EntryNo(c.int()?));
    let signed: [i64; 4] = [c.int()?, c.int()?, c.int()?, c.int()?];
    let mut raw = [0; 4];
    for (raw, counted) in raw.iter_mut().zip(signed) {
        *raw = narrow(c.int_or_null()?.unwrap_or(counted))?;
    }
    // Stored as bytes, then packets; original, then reply.
    let counters = |[ob, rb, op, rp]: [u64; 4]| Counters::new(op, ob, rp, rb);
    let (seq, mark) = (Seq(c.number()?), c.number()?);
    let slack = c.int_or_null()?.map(narrow).transpose()?.map(Duration::from_millis);
    let (node, netns) = (NodeNo(c.number()?), NetnsNo(c.number()?));
    let (zone, sport, dport) = (Zone(c.number()?), c.number()?, c.number()?);
    let (nat_sport, nat_dport) = (c.number_or(sport)?, c.number_or(dport)?);
    let flags = c.bits()?;
    let back = flags & u32::from(RecordFlags::RETRACTION.0) << 16 != 0;
    let mut counted = [0; 4];
    for (counted, signed) in counted.iter_mut().zip(signed) {
        *counted = narrow(if back { signed.saturating_neg() } else { signed })?;
    }
    let _family: u8 = c.number()?;
    let (proto, tcp) = (Proto(c.number()?), TcpState(c.number()?));
    let (src, dst) = (c.address()?, c.address()?);
    let (nat_src, nat_dst) = (c.address_or(src)?, c.address_or(dst)?);
    let stray = if row.width() > c.next && row.is_called(c.next, "receipt") {
        c.time_or_null()?
    } else {
        None
    };
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

/// An entry of `flow_entry AS o`; see [`OBSERVER_COLUMNS`](super::columns::OBSERVER_COLUMNS).
///
/// # Errors
/// When a value is out of its range.
pub fn observer_row<R: Cells>(row: &R) -> Result<ObserverRow, StoreError> {
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
        fresh: c.flag()?,
        seen: c.time()?,
        ended: c.time_or_null()?,
        base: c.counters()?,
        frame: 0,
    })
}

/// `id, name, epoch, epoch_since` of `node`.
pub(crate) fn node_row<R: Cells>(row: &R) -> Result<NodeRow, StoreError> {
    let mut c = Columns::of(row);
    let node = NodeNo(c.number()?);
    let name = NodeName::new(c.text()?).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(NodeRow { node, name, epoch: Epoch(c.name()?), epoch_since: c.time()? })
}

/// [`EPOCH_COLUMNS`](super::columns::EPOCH_COLUMNS) of `node_epoch`.
pub(crate) fn epoch_row<R: Cells>(row: &R) -> Result<EpochRow, StoreError> {
    let mut c = Columns::of(row);
    let (node, epoch) = (NodeNo(c.number()?), Epoch(c.name()?));
    let (committed, digest) = (Seq(c.number()?), c.digest()?);
    let (begun, last_gap) = (c.time()?, c.time_or_null()?);
    let (boot, begin) = (c.name_or_null()?, c.int_or_null()?);
    let sweep = boot
        .zip(begin)
        .map(|(boot, begin)| Sweep { boot: BootId(boot), begin: BootNanos(begin.cast_unsigned()) });
    Ok(EpochRow { node, epoch, committed, digest, begun, last_gap, sweep })
}

/// `committed_seq, last_digest` of `node_epoch`.
pub(super) fn progress<R: Cells>(row: &R) -> Result<Progress, StoreError> {
    let mut c = Columns::of(row);
    Ok(Progress { committed: Seq(c.number()?), digest: c.digest()? })
}

/// `id, node, inode, boot` of `netns`.
pub(crate) fn netns_row<R: Cells>(row: &R) -> Result<NetnsRow, StoreError> {
    let mut c = Columns::of(row);
    let (netns, node) = (NetnsNo(c.number()?), NodeNo(c.number()?));
    let id = NetnsId { inode: NetnsInode(c.number()?), boot: BootId(c.name()?) };
    Ok(NetnsRow { netns, node, id })
}

/// A node and when it was last heard.
pub(super) fn heard_row<R: Cells>(row: &R) -> Result<(NodeNo, UnixNanos), StoreError> {
    let mut c = Columns::of(row);
    Ok((NodeNo(c.number()?), c.time()?))
}

/// [`GAP_FIELDS`](super::columns::GAP_FIELDS) of `gap`.
pub(crate) fn gap_row<R: Cells>(row: &R) -> Result<GapRow, StoreError> {
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
        note: c.text()?.to_owned(),
    })
}

/// What [`batch_row`] decodes, of `ingest_batch`.
pub(crate) const BATCH_COLUMNS: &str = "node, epoch, seq, digest, received, records, interval, \
    interval_ms, part, parts, wall, paused, live_flows, live_packets_orig, live_bytes_orig, \
    live_packets_reply, live_bytes_reply, ended_flows, ended_packets_orig, ended_bytes_orig, \
    ended_packets_reply, ended_bytes_reply, uncounted, ended_unseen";

/// [`BATCH_COLUMNS`] of `ingest_batch`. Of the interval only what stores keep is there.
pub(crate) fn batch_row<R: Cells>(row: &R) -> Result<BatchRow, StoreError> {
    let mut c = Columns::of(row);
    let (node, epoch, seq) = (NodeNo(c.number()?), Epoch(c.name()?), Seq(c.number()?));
    let (digest, received, records) = (c.digest()?, c.time()?, c.number()?);
    let (number, length_ms) = (c.number()?, c.number()?);
    let (part, parts, wall, paused) = (c.number()?, c.number()?, c.time()?, c.flag()?);
    let totals = KernelTotals {
        live_flows: c.number()?,
        live: c.counters()?,
        ended_flows: c.number()?,
        ended: c.counters()?,
        uncounted: c.number()?,
        ended_unseen: c.number()?,
    };
    let interval = Interval {
        number,
        length_ms,
        part,
        parts,
        sweep_begin: BootNanos::BOOT,
        sweep_end: BootNanos::BOOT,
        boot: BootId([0; 16]),
        clock: ClockPair { wall, ..ClockPair::default() },
        offset: None,
        totals,
        paused,
    };
    let name = FrameName { node, epoch, seq };
    Ok(BatchRow { name, digest, received, records, interval })
}

/// `entry` and four sums.
pub(super) fn sum_row<R: Cells>(row: &R) -> Result<(EntryNo, Counters), StoreError> {
    let mut c = Columns::of(row);
    Ok((EntryNo(c.int()?), c.counters()?))
}

/// `path, into_path` of `path_alias`.
pub(crate) fn alias<R: Cells>(row: &R) -> Result<AliasRow, StoreError> {
    let mut c = Columns::of(row);
    Ok(AliasRow { path: PathNo(c.int()?), into: PathNo(c.int()?) })
}

/// Gives entries the paths that theirs have become.
pub(super) fn resolve(rows: &mut [ObserverRow], aliases: &[AliasRow]) {
    let into: HashMap<PathNo, PathNo> =
        aliases.iter().map(|alias| (alias.path, alias.into)).collect();
    for row in rows {
        row.path = into.get(&row.path).copied().unwrap_or(row.path);
    }
}

/// A number in the type it should have.
pub(crate) fn narrow<T: TryFrom<i64>>(value: i64) -> Result<T, StoreError> {
    T::try_from(value)
        .map_err(|_range| StoreError::Corrupt(format!("a number out of range: {value}")))
}

/// Bytes of a known length.
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], StoreError> {
    let wrong = |_len| StoreError::Corrupt(format!("{} bytes where {N} belong", bytes.len()));
    bytes.try_into().map_err(wrong)
}

/// A time of microseconds since 1970; those beyond the range of nanoseconds stay at its ends.
pub(crate) const fn from_micros(micros: i64) -> UnixNanos {
    UnixNanos(micros.saturating_mul(1_000))
}

/// Reads a row's columns one after the other.
struct Columns<'r, R> {
    row: &'r R,
    next: usize,
}

impl<'r, R: Cells> Columns<'r, R> {
    const fn of(row: &'r R) -> Self {
        Self { row, next: 0 }
    }

    const fn step(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    fn int_or_null(&mut self) -> Result<Option<i64>, StoreError> {
        let at = self.step();
        self.row.int_or_null(at)
    }

    fn int(&mut self) -> Result<i64, StoreError> {
        let at = self.step();
        some(at, self.row.int_or_null(at)?)
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        let value = self.int()?;
        narrow(value)
    }

    fn number_or<T: TryFrom<i64>>(&mut self, otherwise: T) -> Result<T, StoreError> {
        self.int_or_null()?.map_or(Ok(otherwise), narrow)
    }

    /// 32 bits, in a column that may take the highest for a sign.
    fn bits(&mut self) -> Result<u32, StoreError> {
        let value = self.int()?;
        i32::try_from(value).map_or_else(|_wide| narrow(value), |bits| Ok(bits.cast_unsigned()))
    }

    fn flag(&mut self) -> Result<bool, StoreError> {
        let at = self.step();
        self.row.flag(at)
    }

    fn text(&mut self) -> Result<&'r str, StoreError> {
        let at = self.step();
        self.row.text(at)
    }

    fn time(&mut self) -> Result<UnixNanos, StoreError> {
        let at = self.step();
        some(at, self.row.time_or_null(at)?)
    }

    fn time_or_null(&mut self) -> Result<Option<UnixNanos>, StoreError> {
        let at = self.step();
        self.row.time_or_null(at)
    }

    fn name(&mut self) -> Result<[u8; 16], StoreError> {
        let at = self.step();
        some(at, self.row.name_or_null(at)?)
    }

    fn name_or_null(&mut self) -> Result<Option<[u8; 16]>, StoreError> {
        let at = self.step();
        self.row.name_or_null(at)
    }

    fn digest(&mut self) -> Result<Digest, StoreError> {
        let at = self.step();
        fixed(self.row.bytes(at)?).map(Digest)
    }

    fn address(&mut self) -> Result<IpAddr, StoreError> {
        let at = self.step();
        some(at, self.row.address_or_null(at)?)
    }

    fn address_or(&mut self, otherwise: IpAddr) -> Result<IpAddr, StoreError> {
        let at = self.step();
        Ok(self.row.address_or_null(at)?.unwrap_or(otherwise))
    }

    /// Packets and bytes, original then reply.
    fn counters(&mut self) -> Result<Counters, StoreError> {
        Ok(Counters::new(self.number()?, self.number()?, self.number()?, self.number()?))
    }
}

fn some<T>(at: usize, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Corrupt(format!("column {at} is empty")))
}
