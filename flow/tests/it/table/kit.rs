//! What the table's tests share: short ways to make readings and to run sweeps.

use std::net::{Ipv4Addr, SocketAddr};

use flow::record::{ClockPair, KernelTotals};
use flow::table::{BaselineSet, EmitMode, FlowTable, SweepEnd, TableLimits};
use flow::{
    BootId, BootNanos, Counters, Interval, NetnsInode, Proto, Reading, Record, Status, TcpState,
    Tuple, UnixNanos,
};

pub(super) const BOOT: BootId = BootId([7; 16]);
pub(super) const NETNS: NetnsInode = NetnsInode(1);

/// Milliseconds since boot.
pub(super) const fn ms(ms: u64) -> BootNanos {
    BootNanos(ms * 1_000_000)
}

/// The wall clock is this far ahead of boottime, in milliseconds.
pub(super) const WALL_AHEAD: u64 = 1_000_000_000;

/// The kernel's stamp for a moment.
pub(super) const fn stamp(at_ms: u64) -> u64 {
    (WALL_AHEAD + at_ms) * 1_000_000
}

pub(super) fn clock(at_ms: u64) -> ClockPair {
    ClockPair {
        boot: ms(at_ms),
        wall: UnixNanos(i64::try_from(stamp(at_ms)).unwrap()),
        synchronised: true,
        stepped: false,
    }
}

pub(super) fn tuple(n: u16) -> Tuple {
    let from = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 1_000 + n));
    let to = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), 443));
    Tuple::ports(Proto::UDP, from, to)
}

/// A live entry `n` born at `start` (a stamp, 0 for none) with `packets` of 100 bytes each.
pub(super) fn reading(n: u16, start: u64, packets: u64) -> Reading {
    Reading {
        netns: NETNS,
        zone: flow::entry::Zone(0),
        orig: tuple(n),
        reply: tuple(n).inverse(),
        start,
        stop: 0,
        kernel_id: u32::from(n),
        mark: 0,
        status: Status(Status::CONFIRMED),
        tcp: TcpState(0),
        fresh: false,
        counters: Some(counted(packets)),
    }
}

pub(super) const fn counted(packets: u64) -> Counters {
    Counters::new(packets, packets * 100, 0, 0)
}

pub(super) fn table() -> FlowTable {
    let mut table = FlowTable::new(TableLimits::default(), BOOT, 1);
    table.set_clock(clock(0));
    table
}

/// A complete sweep from `begin` to `end`, everything read at `end`.
pub(super) fn sweep(table: &mut FlowTable, begin: u64, end: u64, readings: &[Reading]) {
    table.set_clock(clock(end));
    table.sweep_begin(ms(begin));
    for reading in readings {
        table.swept(reading, ms(end));
    }
    let report = SweepEnd { end: ms(end), complete: &[NETNS], failed: &[], gone: &[] };
    table.sweep_end(&report);
}

pub(super) fn end(table: &mut FlowTable, reading: &Reading, stop: u64, at: u64) {
    table.set_clock(clock(at));
    table.ended(&Reading { stop, ..*reading }, ms(at));
}

/// What `mode` gives out, made durable.
pub(super) fn spool(table: &mut FlowTable, mode: EmitMode) -> Vec<Record> {
    let mut records = Vec::new();
    let emission = table.emit(mode, &mut |record| records.push(*record));
    assert_eq!(emission.records, records.len());
    table.commit(emission).unwrap();
    records
}

/// What is waiting, without making it durable.
pub(super) fn peek(table: &FlowTable) -> Vec<Record> {
    let mut records = Vec::new();
    drop(table.emit(EmitMode::All, &mut |record| records.push(*record)));
    records
}

/// The header of a batch that `table` closes an interval with at `now`.
pub(super) fn interval(table: &FlowTable, now: BootNanos, parts: u32, paused: bool) -> Interval {
    Interval {
        number: 1,
        length_ms: 10_000,
        part: 1,
        parts,
        sweep_begin: table.watermark(),
        sweep_end: now,
        boot: BOOT,
        clock: clock(now.0 / 1_000_000),
        offset: None,
        totals: KernelTotals::default(),
        paused,
    }
}

/// A restarted table after a checkpoint of `table`, whose interval was closed at `now`.
pub(super) fn restart(table: &FlowTable, now: u64, boot: BootId) -> FlowTable {
    let mut set = BaselineSet::new(2);
    for baseline in table.baselines() {
        set.insert(baseline);
    }
    set.set_next_flow(table.next_flow());
    set.fold_interval(&interval(table, ms(now), 1, false));
    FlowTable::restore(TableLimits::default(), boot, 3, set, ms(now))
}
