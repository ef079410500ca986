//! Rows to put into stores.

use std::time::Duration;

use aggregator::store::row::{
    BatchRow, ChangeSet, EndedEntry, EntryNo, EpochAdvance, EpochRow, FlowRow, FrameName, GapRow,
    NetnsNo, NetnsRow, NodeNo, NodeRow, ObserverRow, PathNo, Sweep, WriterToken,
};
use flow::entry::Zone;
use flow::record::{ClockPair, Interval, KernelTotals};
use flow::{
    Birth, BootId, BootNanos, Counters, Epoch, NetnsId, NetnsInode, NodeName, Proto, Seq, TcpState,
    Tuple, UnixNanos,
};
use wire::frame::Digest;
use wire::gap::GapReason;

pub(crate) const EPOCH: Epoch = Epoch([7; 16]);
pub(crate) const TOKEN: WriterToken = WriterToken([1; 16]);
pub(crate) const NODE: NodeNo = NodeNo(1);
pub(crate) const BOOT: BootId = BootId([9; 16]);

pub(crate) fn name() -> NodeName {
    NodeName::new("gw-1").unwrap()
}

/// `seconds` into the tests, on a microsecond, as stores keep it.
pub(crate) fn at(seconds: i64) -> UnixNanos {
    UnixNanos((1_700_000_000 + seconds) * 1_000_000_000)
}

pub(crate) fn digest(seq: u64) -> Digest {
    Digest([u8::try_from(seq % 251).unwrap(); 32])
}

pub(crate) fn frame(seq: u64) -> FrameName {
    FrameName { node: NODE, epoch: EPOCH, seq: Seq(seq) }
}

pub(crate) fn inside(entry: i64) -> Tuple {
    let port = u16::try_from(entry % 60_000).unwrap();
    let tuple =
        Tuple::ports(Proto::TCP, "10.0.0.1:0".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    Tuple { sport: port, ..tuple }
}

/// An IPv6 flow, an ICMP one, and else TCP behind NAT.
pub(crate) fn views(entry: i64) -> (Tuple, Tuple) {
    match entry % 7 {
        3 => {
            let tuple = Tuple::ports(
                Proto::UDP,
                "[fd00::1]:5353".parse().unwrap(),
                "[fd00::2]:53".parse().unwrap(),
            );
            (tuple, tuple)
        }
        5 => {
            let (src, dst) = ("10.0.0.1".parse().unwrap(), "192.0.2.9".parse().unwrap());
            let id = u16::try_from(entry % 60_000).unwrap();
            let ping = Tuple::icmp(Proto::ICMP, src, dst, id, 8, 0);
            (ping, Tuple { src: "198.51.100.1".parse().unwrap(), ..ping })
        }
        _ => {
            let tuple = inside(entry);
            (tuple, Tuple { src: "198.51.100.1".parse().unwrap(), sport: 1024, ..tuple })
        }
    }
}

pub(crate) fn observer(entry: i64) -> ObserverRow {
    let (inside, outside) = views(entry);
    ObserverRow {
        entry: EntryNo(entry),
        path: PathNo(entry + 1_000),
        node: NODE,
        netns: NetnsNo(1),
        zone: Zone(3),
        inside,
        outside,
        birth: match entry % 2 {
            0 => Birth::Start(1_700_000_000_123_456_789 + entry.unsigned_abs()),
            _ => Birth::Id(u32::MAX - u32::try_from(entry).unwrap()),
        },
        start: (entry % 2 == 0).then(|| at(0)),
        fresh: entry % 2 == 0,
        seen: at(1),
        ended: None,
        base: Counters::ZERO,
        frame: 0,
    }
}

pub(crate) fn flow_row(entry: i64, seq: u64, raw: Counters) -> FlowRow {
    let (inside, outside) = views(entry);
    FlowRow {
        time: at(10),
        since: (entry % 2 == 0).then(|| at(5)),
        slack: (entry % 3 != 0).then(|| Duration::from_millis(250)),
        entry_start: (entry % 2 == 0).then(|| at(0)),
        path: PathNo(entry + 1_000),
        entry: EntryNo(entry),
        counted: raw,
        raw,
        seq: Seq(seq),
        mark: u32::MAX,
        node: NODE,
        netns: NetnsNo(1),
        zone: Zone(3),
        inside,
        outside,
        flags: 0x41_018e,
        tcp: TcpState(3),
        stray: None,
        frame: 0,
    }
}

pub(crate) fn counters(n: u64) -> Counters {
    Counters::new(n, n * 100, n / 2, n * 7)
}

pub(crate) fn interval(number: u64) -> Interval {
    Interval {
        number,
        length_ms: 10_000,
        part: 1,
        parts: 1,
        sweep_begin: BootNanos(1),
        sweep_end: BootNanos(2),
        boot: BOOT,
        clock: ClockPair { boot: BootNanos(3), wall: at(10), synchronised: true, stepped: false },
        offset: None,
        totals: KernelTotals {
            live_flows: 2,
            live: counters(5),
            // Sums for persons may exceed a signed number: they are kept as the largest one.
            ended_flows: u64::MAX,
            ended: counters(6),
            uncounted: 1,
            ended_unseen: 0,
        },
        paused: false,
    }
}

pub(crate) fn advance(first: u64, last: u64) -> EpochAdvance {
    EpochAdvance {
        first: Seq(first),
        row: EpochRow {
            node: NODE,
            epoch: EPOCH,
            committed: Seq(last),
            digest: digest(last),
            begun: at(1),
            last_gap: None,
            sweep: Some(Sweep { boot: BOOT, begin: BootNanos(u64::MAX) }),
        },
    }
}

/// The set that begins everything: node, namespace, and `entries` with one row each, as frame 1.
pub(crate) fn first_set(entries: std::ops::RangeInclusive<i64>) -> ChangeSet {
    ChangeSet {
        frames: vec![frame(1)],
        advances: vec![advance(1, 1)],
        new_nodes: vec![NodeRow { node: NODE, name: name(), epoch: EPOCH, epoch_since: at(1) }],
        netns: vec![NetnsRow {
            netns: NetnsNo(1),
            node: NODE,
            id: NetnsId { inode: NetnsInode(u32::MAX), boot: BOOT },
        }],
        observers: entries.clone().map(observer).collect(),
        flows: entries.map(|entry| flow_row(entry, 1, counters(10))).collect(),
        batches: vec![BatchRow {
            name: frame(1),
            digest: digest(1),
            received: at(11),
            records: 1,
            interval: interval(170_000_001),
        }],
        ..ChangeSet::default()
    }
}

/// A set that adds `raw` to `entries` as frame `seq`.
pub(crate) fn next_set(seq: u64, entries: &[i64], raw: Counters) -> ChangeSet {
    ChangeSet {
        frames: vec![frame(seq)],
        advances: vec![advance(seq, seq)],
        flows: entries.iter().map(|entry| flow_row(*entry, seq, raw)).collect(),
        ..ChangeSet::default()
    }
}

/// A gap over two numbers, and the end of an entry.
pub(crate) fn gap_set(first: u64, ended: i64, received: UnixNanos) -> ChangeSet {
    let mut advance = advance(first, first + 1);
    advance.row.last_gap = Some(received);
    ChangeSet {
        frames: vec![frame(first)],
        advances: vec![advance],
        ended: vec![EndedEntry { entry: EntryNo(ended), at: received }],
        gaps: vec![GapRow {
            name: frame(first),
            last: Seq(first + 1),
            reason: GapReason::Rejected,
            boot: BOOT,
            at: at(20),
            received,
            flows: 3,
            lost: counters(4),
            note: "a \u{fffd} of 'quotes'; and --dashes".to_owned(),
        }],
        ..ChangeSet::default()
    }
}
