//! A row of an export: what a record of `flow` says, with its node, its namespace and its entry by
//! their names instead of by numbers that mean something in one store only.

use std::net::IpAddr;
use std::time::Duration;

use flow::entry::Zone;
use flow::{
    Birth, BootId, Counters, NetnsId, NetnsInode, NodeName, Proto, RecordFlags, Seq, TcpState,
    Tuple, UnixNanos,
};

use crate::store::row::{EntryNo, FlowRow, NetnsNo, NodeNo, PathNo};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A time, in microseconds since 1970.
    Time,
    /// A number from 0 to 2^63 - 1.
    Int,
    /// Text without commas, quotes and ends of lines.
    Text,
    /// Yes or no.
    Flag,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Whether it may be empty.
    pub(super) optional: bool,
}

const fn column(name: &'static str, kind: Kind, optional: bool) -> Column {
    Column { name, kind, optional }
}

/// All columns of version 1, in order. docs/export.md says what they mean.
pub(super) const COLUMNS: [Column; 36] = [
    column("time", Kind::Time, false),
    column("since", Kind::Time, true),
    column("slack_ms", Kind::Int, true),
    column("received", Kind::Time, true),
    column("node", Kind::Text, false),
    column("netns", Kind::Int, false),
    column("boot", Kind::Text, false),
    column("zone", Kind::Int, false),
    column("proto", Kind::Int, false),
    column("src", Kind::Text, false),
    column("sport", Kind::Int, false),
    column("dst", Kind::Text, false),
    column("dport", Kind::Int, false),
    column("nat_src", Kind::Text, false),
    column("nat_sport", Kind::Int, false),
    column("nat_dst", Kind::Text, false),
    column("nat_dport", Kind::Int, false),
    column("packets_orig", Kind::Int, false),
    column("bytes_orig", Kind::Int, false),
    column("packets_reply", Kind::Int, false),
    column("bytes_reply", Kind::Int, false),
    column("raw_packets_orig", Kind::Int, false),
    column("raw_bytes_orig", Kind::Int, false),
    column("raw_packets_reply", Kind::Int, false),
    column("raw_bytes_reply", Kind::Int, false),
    column("mark", Kind::Int, false),
    column("flags", Kind::Int, false),
    column("tcp_state", Kind::Int, false),
    column("frame", Kind::Int, false),
    column("path", Kind::Int, false),
    column("entry", Kind::Int, false),
    column("entry_start", Kind::Time, true),
    column("entry_seen", Kind::Time, false),
    column("kernel_start", Kind::Int, false),
    column("kernel_id", Kind::Int, false),
    column("fresh", Kind::Flag, false),
];

/// A cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    /// Microseconds since 1970.
    Time(i64),
    Int(i64),
    Text(String),
    Flag(bool),
}

/// A row's cells, one a column.
pub(super) type Cells = [Value; COLUMNS.len()];

/// A row of an export. Its numbers of node and namespace are not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) row: FlowRow,
    pub(super) node: NodeName,
    pub(super) netns: NetnsId,
    /// Its entry's birth: with namespace, zone and original tuple the entry's identity.
    pub(super) birth: Birth,
    /// Receipt of the entry's first record.
    pub(super) seen: UnixNanos,
    /// Whether the entry was born by a SYN.
    pub(super) fresh: bool,
}

/// A cell that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column} {what}")]
pub struct CellError {
    /// The column.
    pub column: &'static str,
    /// What is wrong with it.
    pub what: String,
}

impl Record {
    /// Its cells.
    ///
    /// # Errors
    /// A number that no store can hold.
    pub(super) fn cells(&self) -> Result<Cells, CellError> {
        let row = &self.row;
        let time = |at: UnixNanos| Value::Time(at.micros_floor());
        let time_or_null = |at: Option<UnixNanos>| at.map_or(Value::Null, time);
        let int = |value: u64| {
            i64::try_from(value).map(Value::Int).map_err(|_over| CellError {
                column: "packets, bytes, frame or kernel_start",
                what: format!("exceeds 2^63 - 1: {value}"),
            })
        };
        let counted = |value| match int(value) {
            Ok(Value::Int(value)) if row.is_retraction() => Ok(Value::Int(-value)),
            other => other,
        };
        let small = |value: u32| Value::Int(i64::from(value));
        let address = |address: IpAddr| Value::Text(address.to_string());
        let (inside, outside) = (&row.inside, &row.outside);
        let [packets_orig, bytes_orig, packets_reply, bytes_reply] = row.counted.components();
        let [raw_packets_orig, raw_bytes_orig, raw_packets_reply, raw_bytes_reply] =
            row.raw.components();
        let (start, id) = match self.birth {
            Birth::Start(start) => (start, 0),
            Birth::Id(id) => (0, id),
        };
        let slack = row.slack.map(|slack| u64::try_from(slack.as_millis()).unwrap_or(u64::MAX));
        Ok([
            time(row.time),
            time_or_null(row.since),
            slack.map_or(Ok(Value::Null), int)?,
            time_or_null(row.stray),
            Value::Text(self.node.as_str().to_owned()),
            small(self.netns.inode.0),
            Value::Text(self.netns.boot.to_string()),
            small(row.zone.0.into()),
            small(inside.proto.0.into()),
            address(inside.src),
            small(inside.sport.into()),
            address(inside.dst),
            small(inside.dport.into()),
            address(outside.src),
            small(outside.sport.into()),
            address(outside.dst),
            small(outside.dport.into()),
            counted(packets_orig)?,
            counted(bytes_orig)?,
            counted(packets_reply)?,
            counted(bytes_reply)?,
            int(raw_packets_orig)?,
            int(raw_bytes_orig)?,
            int(raw_packets_reply)?,
            int(raw_bytes_reply)?,
            small(row.mark),
            small(row.flags),
            small(row.tcp.0.into()),
            int(row.seq.get())?,
            Value::Int(row.path.0),
            Value::Int(row.entry.0),
            time_or_null(row.entry_start),
            time(self.seen),
            int(start)?,
            small(id),
            Value::Flag(self.fresh),
        ])
    }

    /// The row with these cells.
    ///
    /// # Errors
    /// The first cell that cannot be.
    pub(super) fn of_cells(cells: &Cells) -> Result<Self, CellError> {
        let mut next = Next { cells, at: 0 };
        let (time, since) = (next.time()?, next.time_or_null()?);
        let slack = next.int_or_null()?.map(Duration::from_millis);
        let stray = next.time_or_null()?;
        let node = next.parsed::<NodeName>()?;
        let netns = NetnsId { inode: NetnsInode(next.int()?), boot: next.parsed::<BootId>()? };
        let (zone, proto) = (Zone(next.int()?), Proto(next.int()?));
        let inside = next.tuple(proto)?;
        let outside = next.tuple(proto)?;
        if inside.src.is_ipv4() != outside.src.is_ipv4() {
            return Err(next.wrong("is not of the family of src".to_owned()));
        }
        let (signed, raw) = (next.signed()?, next.counters()?);
        let (mark, flags, tcp) = (next.int()?, next.int()?, TcpState(next.int()?));
        let seq = Seq(next.int()?);
        let (path, entry) = (PathNo(next.int()?), EntryNo(next.int()?));
        let (entry_start, seen) = (next.time_or_null()?, next.time()?);
        let birth = Birth::of(next.int()?, next.int()?);
        let fresh = next.flag()?;
        let row = FlowRow {
            time,
            since,
            slack,
            entry_start,
            path,
            entry,
            counted: next.counted(signed, flags)?,
            raw,
            seq,
            mark,
            node: NodeNo::default(),
            netns: NetnsNo::default(),
            zone,
            inside,
            outside,
            flags,
            tcp,
            stray,
            frame: 0,
        };
        Ok(Self { row, node, netns, birth, seen, fresh })
    }
}

/// Reads cells one after the other.
struct Next<'c> {
    cells: &'c Cells,
    at: usize,
}

impl Next<'_> {
    fn step(&mut self) -> &Value {
        self.at += 1;
        self.cells.get(self.at - 1).unwrap_or(&Value::Null)
    }

    /// What is wrong with the cell read last.
    fn wrong(&self, what: String) -> CellError {
        CellError { column: COLUMNS.get(self.at - 1).map_or("", |column| column.name), what }
    }

    fn int_or_null<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, CellError> {
        let value = match *self.step() {
            Value::Null => return Ok(None),
            Value::Int(value) => value,
            _ => return Err(self.wrong("is no number".to_owned())),
        };
        let number = T::try_from(value);
        number.map(Some).map_err(|_range| self.wrong(format!("is out of range: {value}")))
    }

    fn int<T: TryFrom<i64>>(&mut self) -> Result<T, CellError> {
        self.int_or_null()?.ok_or_else(|| self.wrong("is empty".to_owned()))
    }

    fn time_or_null(&mut self) -> Result<Option<UnixNanos>, CellError> {
        match *self.step() {
            Value::Null => Ok(None),
            Value::Time(micros) => micros
                .checked_mul(1_000)
                .map(|nanos| Some(UnixNanos(nanos)))
                .ok_or_else(|| self.wrong("is not between the years 1678 and 2261".to_owned())),
            _ => Err(self.wrong("is no time".to_owned())),
        }
    }

    fn time(&mut self) -> Result<UnixNanos, CellError> {
        self.time_or_null()?.ok_or_else(|| self.wrong("is empty".to_owned()))
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T, CellError> {
        let parsed = match self.step() {
            Value::Text(text) => text.parse().map_err(|error: T::Err| format!("is wrong: {error}")),
            _ => Err("is empty".to_owned()),
        };
        parsed.map_err(|what| self.wrong(what))
    }

    fn flag(&mut self) -> Result<bool, CellError> {
        match *self.step() {
            Value::Flag(flag) => Ok(flag),
            _ => Err(self.wrong("is neither true nor false".to_owned())),
        }
    }

    /// Four numbers that may be below zero.
    fn signed(&mut self) -> Result<[i64; 4], CellError> {
        Ok([self.int()?, self.int()?, self.int()?, self.int()?])
    }

    /// What was counted, or taken back by a row with these marks.
    fn counted(&self, signed: [i64; 4], flags: u32) -> Result<Counters, CellError> {
        let back = flags & u32::from(RecordFlags::RETRACTION.0) << 16 != 0;
        let columns = ["packets_orig", "bytes_orig", "packets_reply", "bytes_reply"];
        let mut counted = [0; 4];
        for ((counted, signed), column) in counted.iter_mut().zip(signed).zip(columns) {
            let value = if back { signed.checked_neg() } else { Some(signed) };
            let value = value.and_then(|value| u64::try_from(value).ok());
            let what = || format!("is out of range: {signed}");
            *counted = value.ok_or_else(|| CellError { column, what: what() })?;
        }
        Ok(Counters::from_components(counted))
    }

    /// Both ends, of one family.
    fn tuple(&mut self, proto: Proto) -> Result<Tuple, CellError> {
        let (src, sport): (IpAddr, u16) = (self.parsed()?, self.int()?);
        let dst: IpAddr = self.parsed()?;
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(self.wrong("is not of the family of the other end".to_owned()));
        }
        Ok(Tuple { src, dst, sport, dport: self.int()?, proto })
    }

    /// Packets and bytes, original then reply.
    fn counters(&mut self) -> Result<Counters, CellError> {
        Ok(Counters::new(self.int()?, self.int()?, self.int()?, self.int()?))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row with every column set, and one with everything empty that may be.
    pub(in crate::archive) fn records() -> [Record; 2] {
        let inside = Tuple::ports(
            Proto::TCP,
            "10.0.0.1:4000".parse().unwrap(),
            "192.0.2.1:443".parse().unwrap(),
        );
        let outside = Tuple { src: "198.51.100.1".parse().unwrap(), sport: 1024, ..inside };
        let at = |micros: i64| UnixNanos(micros * 1_000);
        let row = FlowRow {
            time: at(1_700_000_000_000_001),
            since: Some(at(1_699_999_990_000_000)),
            slack: Some(Duration::from_millis(250)),
            entry_start: Some(at(-1)),
            path: PathNo(7),
            entry: EntryNo(8),
            counted: Counters::new(1, i64::MAX.unsigned_abs(), 3, 4),
            raw: Counters::new(5, 6, 7, 8),
            seq: Seq(9),
            mark: u32::MAX,
            node: NodeNo::default(),
            netns: NetnsNo::default(),
            zone: Zone(u16::MAX),
            inside,
            outside,
            flags: u32::MAX ^ u32::from(RecordFlags::RETRACTION.0) << 16,
            tcp: TcpState(3),
            stray: Some(at(1_700_000_000_000_002)),
            frame: 0,
        };
        let full = Record {
            row,
            node: NodeName::new("gw-1.example").unwrap(),
            netns: NetnsId { inode: NetnsInode(u32::MAX), boot: BootId([0xab; 16]) },
            birth: Birth::Start(1_700_000_000_123_456_789),
            seen: at(1_699_999_999_000_000),
            fresh: true,
        };
        let inside = Tuple {
            src: "fd00::1".parse().unwrap(),
            dst: "fd00::2".parse().unwrap(),
            proto: Proto::UDP,
            ..inside
        };
        let row = FlowRow {
            since: None,
            slack: None,
            entry_start: None,
            stray: None,
            inside,
            outside: inside,
            ..row
        };
        let empty = Record { row, birth: Birth::Id(5), fresh: false, ..full.clone() };
        [full, empty]
    }

    #[test]
    fn a_row_is_its_cells() {
        for record in records() {
            let cells = record.cells().unwrap();
            assert_eq!(Record::of_cells(&cells), Ok(record));
            for (cell, column) in cells.iter().zip(COLUMNS) {
                let kind = match cell {
                    Value::Null => {
                        assert!(column.optional, "{column:?}");
                        continue;
                    }
                    Value::Time(_) => Kind::Time,
                    Value::Int(_) => Kind::Int,
                    Value::Text(_) => Kind::Text,
                    Value::Flag(_) => Kind::Flag,
                };
                assert_eq!(kind, column.kind, "{column:?}");
            }
        }
    }

    #[test]
    fn a_cell_that_cannot_be_is_named() {
        let cells = records()[0].cells().unwrap();
        let text = |text: &str| Value::Text(text.to_owned());
        for (name, value, said) in [
            ("node", text("=1+1"), "column node is wrong: "),
            ("boot", text("12"), "column boot is wrong: "),
            ("src", text("10.0.0.256"), "column src is wrong: "),
            ("dst", text("fd00::1"), "column dst is not of the family of the other end"),
            ("sport", Value::Int(65_536), "column sport is out of range: 65536"),
            ("bytes_orig", Value::Int(-1), "column bytes_orig is out of range: -1"),
            ("time", Value::Null, "column time is empty"),
            ("since", Value::Time(i64::MAX), "column since is not between the years"),
            ("fresh", Value::Int(1), "column fresh is neither true nor false"),
        ] {
            let at = COLUMNS.iter().position(|column| column.name == name).unwrap();
            let mut cells = cells.clone();
            cells[at] = value;
            let error = Record::of_cells(&cells).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
