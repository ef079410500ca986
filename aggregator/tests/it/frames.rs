//! Frames to be counted: a node as the aggregator sees it.

use std::net::SocketAddr;

use aggregator::count::{Body, Frame};
use flow::clock::SessionClock;
use flow::entry::Zone;
use flow::record::{ClockPair, Interval, KernelTotals};
use flow::{
    Birth, BootId, BootNanos, ClockOffset, Counters, Epoch, FlowNo, NetnsId, NetnsInode, NodeName,
    Proto, Record, RecordFlags, Seq, Status, TcpState, Tuple, UnixNanos,
};
use wire::frame::Digest;
use wire::gap::{Gap, GapReason};

pub(crate) const BOOT: BootId = BootId([3; 16]);
pub(crate) const SECOND: u64 = 1_000_000_000;

/// The aggregator's time of the node's boot.
pub(crate) const BOOTED: i64 = 1_700_000_000 * 1_000_000_000;

pub(crate) fn node() -> NodeName {
    NodeName::new("gw-1").unwrap()
}

pub(crate) fn boot(seconds: u64) -> BootNanos {
    BootNanos(seconds * SECOND)
}

pub(crate) fn unix(seconds: u64) -> UnixNanos {
    UnixNanos(BOOTED + i64::try_from(seconds * SECOND).unwrap())
}

pub(crate) fn digest(seq: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    Digest(bytes)
}

pub(crate) fn counters(n: u64) -> Counters {
    Counters::new(n, n * 100, n / 2, n * 7)
}

/// A record of the flow from `port`, born at `start` seconds, read at `until`: `cum` over `base`.
pub(crate) fn record(port: u16, start: u64, until: u64, base: u64, cum: u64) -> Record {
    let client: SocketAddr = format!("10.0.0.1:{port}").parse().unwrap();
    let orig = Tuple::ports(Proto::TCP, client, "192.0.2.1:443".parse().unwrap());
    Record {
        flow: FlowNo(u64::from(port)),
        netns: NetnsId { inode: NetnsInode(1), boot: BOOT },
        zone: Zone(0),
        orig,
        reply: orig.inverse(),
        birth: Birth::Start(u64::try_from(unix(start).0).unwrap()),
        mark: 0,
        status: Status(Status::CONFIRMED | Status::SEEN_REPLY),
        tcp: TcpState(3),
        flags: RecordFlags::default(),
        since: boot(until.saturating_sub(10)),
        until: boot(until),
        cum: counters(cum),
        delta: counters(cum).above(counters(base)),
        offset: Counters::ZERO,
        stop: 0,
    }
}

pub(crate) fn ended(record: Record) -> Record {
    Record { flags: record.flags.with(RecordFlags::END), ..record }
}

/// The interval that ends `end` seconds after boot.
pub(crate) fn interval(end: u64) -> Interval {
    Interval {
        number: end / 10,
        length_ms: 10_000,
        part: 1,
        parts: 1,
        sweep_begin: BootNanos((end - 1) * SECOND),
        sweep_end: boot(end),
        boot: BOOT,
        clock: ClockPair { boot: boot(end), wall: unix(end), synchronised: true, stepped: false },
        offset: None,
        totals: KernelTotals::default(),
        paused: false,
    }
}

/// A batch as frame `seq` of `epoch`, received two seconds after its interval's `end`.
pub(crate) fn batch(epoch: Epoch, seq: u64, end: u64, records: Vec<Record>) -> Frame {
    Frame {
        node: node(),
        epoch,
        first: Seq(seq),
        last: Seq(seq),
        digest: digest(seq),
        received: unix(end + 2),
        clock: Some(SessionClock { offset: ClockOffset(BOOTED), boot: BOOT, at: boot(end) }),
        body: Body::Batch { interval: Box::new(interval(end)), records },
    }
}

/// A gap in place of the numbers `first..=last`.
pub(crate) fn gap(epoch: Epoch, first: u64, last: u64, received: u64) -> Frame {
    let gap = Gap {
        first: Seq(first),
        last: Seq(last),
        reason: GapReason::Rejected,
        boot: BOOT,
        at: unix(received),
        flows: 1,
        lost: counters(1),
        note: "in place of a frame".to_owned(),
        extensions: Vec::new(),
    };
    Frame {
        first: Seq(first),
        last: Seq(last),
        digest: digest(last),
        body: Body::Gap(Box::new(gap)),
        ..batch(epoch, first, received.saturating_sub(2), Vec::new())
    }
}
