//! Frames, spools and the model that the tests compare with.

use std::collections::BTreeMap;

use flow::entry::Zone;
use flow::record::{ClockPair, KernelTotals};
use flow::table::{Baseline, BaselineSet};
use flow::{
    Birth, BootId, BootNanos, Counters, Epoch, FlowNo, Interval, NetnsId, NetnsInode, Proto,
    Record, RecordFlags, Seq, Status, TcpState, Tuple, UnixNanos,
};
use wire::batch::{self, Builder, Compression};
use wire::frame::{Frame, Kind};

use super::super::*;

pub(super) const BOOT: BootId = BootId([7; 16]);
pub(super) const WALL: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

pub(super) fn epoch(n: u8) -> Epoch {
    Epoch([n; 16])
}

pub(super) fn context(fresh: u8) -> OpenContext {
    OpenContext {
        machine: MachineId([9; 16]),
        boot: BOOT,
        now: BootNanos(1_000_000_000),
        wall: WALL,
        fresh: epoch(fresh),
        seed: 42,
    }
}

/// Small segments, so that a few frames make several.
pub(super) fn config() -> SpoolConfig {
    SpoolConfig { segment_bytes: 700, ..SpoolConfig::default() }
}

pub(super) fn open(disk: &MemDisk, fresh: u8) -> (Spool<MemDisk>, Restored) {
    Spool::open(disk.clone(), context(fresh), config()).unwrap()
}

pub(super) fn record(flow: u64, cum: u64, flags: RecordFlags) -> Record {
    let host = |n| std::net::SocketAddr::from(([10, 0, 0, n], 1000));
    let orig = Tuple::ports(Proto::UDP, host(1), host(u8::try_from(flow).unwrap()));
    Record {
        flow: FlowNo(flow),
        netns: NetnsId { inode: NetnsInode(1), boot: BOOT },
        zone: Zone(0),
        orig,
        reply: orig.inverse(),
        birth: Birth::Start(flow),
        mark: 0,
        status: Status::default(),
        tcp: TcpState::default(),
        flags,
        since: BootNanos(cum),
        until: BootNanos(cum + 5),
        cum: Counters::new(cum, cum * 100, cum, cum * 50),
        delta: Counters::new(1, 100, 1, 50),
        offset: Counters::ZERO,
        stop: 0,
    }
}

pub(super) fn update(flow: u64, cum: u64) -> Record {
    record(flow, cum, RecordFlags::default())
}

pub(super) fn end(flow: u64, cum: u64) -> Record {
    record(flow, cum, RecordFlags::END)
}

fn interval(number: u64) -> Interval {
    Interval {
        number,
        length_ms: 10_000,
        part: 1,
        parts: 1,
        sweep_begin: BootNanos(number * 10),
        sweep_end: BootNanos(number * 10 + 1),
        boot: BOOT,
        clock: ClockPair::default(),
        offset: None,
        totals: KernelTotals::default(),
        paused: false,
    }
}

pub(super) fn frame(seq: u64, records: &[Record]) -> Frame {
    let mut builder = Builder::new(Compression::Lz4);
    records.iter().for_each(|record| builder.push(record).unwrap());
    builder.finish(Seq(seq), &interval(seq)).unwrap()
}

/// Frame `n` of a standard history: flow 1 grows all the time, another one is born with each
/// frame, and the one born three frames ago ends.
pub(super) fn history(n: u64) -> Frame {
    let mut records = vec![update(1, n * 10), update(n + 1, n)];
    if n > 3 {
        records.push(end(n - 2, n));
    }
    frame(n, &records)
}

/// The baselines after frames of the standard history.
pub(super) fn baselines_after(last: u64) -> Vec<Baseline> {
    let mut set = BaselineSet::new(1);
    for n in 1..=last {
        let (header, records) = batch::decode(&history(n)).unwrap();
        records.iter().for_each(|record| set.fold(record, &header.interval));
    }
    sorted(&set)
}

pub(super) fn sorted(set: &BaselineSet) -> Vec<Baseline> {
    let mut all: Vec<Baseline> = set.iter().copied().collect();
    all.sort_by_key(|baseline| baseline.flow);
    all
}

/// Everything the spool would send, by epoch and first number; checks that no number is left out.
pub(super) fn sendable(spool: &mut Spool<MemDisk>) -> BTreeMap<(Epoch, u64), Stored> {
    let mut views: Vec<EpochView> = spool.drains().collect();
    views.push(EpochView {
        epoch: spool.epoch(),
        acked: spool.current.acked,
        next: spool.next_seq(),
        current: true,
        disputed: false,
    });
    let mut all = BTreeMap::new();
    for view in views {
        let mut seq = view.acked.next();
        while seq < view.next {
            let stored = spool.frame(view.epoch, seq, WALL).unwrap().expect("a waiting number");
            assert!(stored.span.first <= seq && seq <= stored.span.last);
            seq = stored.span.last.next();
            all.insert((view.epoch, stored.span.first.0), stored);
        }
    }
    all
}

pub(super) fn is_gap(stored: &Stored) -> bool {
    stored.frame.header.kind == Kind::GAP
}

pub(super) fn file(disk: &MemDisk, ending: &str) -> String {
    let mut names: Vec<String> =
        disk.list().unwrap().into_iter().map(|e| e.name).filter(|n| n.ends_with(ending)).collect();
    names.sort();
    names.pop().unwrap()
}
