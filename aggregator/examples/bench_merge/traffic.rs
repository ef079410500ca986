//! Frames of gateways that see the same flows.

use std::net::{Ipv4Addr, SocketAddr};

use aggregator::count::{Body, Frame};
use conntracct_aggregator as aggregator;
use flow::clock::SessionClock;
use flow::entry::Zone;
use flow::record::{ClockPair, Interval, KernelTotals};
use flow::{
    Birth, BootId, BootNanos, ClockOffset, Counters, Epoch, FlowNo, NetnsId, NetnsInode, Proto,
    Record, RecordFlags, Seq, Status, TcpState, Tuple, UnixNanos,
};
use wire::frame::Digest;

use crate::Failed;

/// Living flows: as many entries of each gateway.
const FLOWS: u32 = 100_000;

/// Intervals that they live through.
const INTERVALS: u32 = 5;

/// Records a frame.
const FRAME: u32 = 10_000;

const SECOND: u64 = 1_000_000_000;

/// The aggregator's time of all gateways' boot.
const BOOTED: i64 = 1_700_000_000_000_000_000;

/// Everything `gateways` send, interval by interval, a frame of each in turn.
pub(crate) fn frames(gateways: u8) -> Result<Vec<Frame>, Failed> {
    let parts = FLOWS / FRAME;
    let mut frames: Vec<Frame> = (1..=gateways).map(hello).collect::<Result<_, _>>()?;
    for interval in 1..=INTERVALS {
        for part in 0..parts {
            for gateway in 1..=gateways {
                let flows = part * FRAME..(part + 1) * FRAME;
                let records = flows.map(|flow| record(flow, interval)).collect();
                let seq = 2 + u64::from((interval - 1) * parts + part);
                frames.push(frame(gateway, seq, interval, records)?);
            }
        }
    }
    Ok(frames)
}

/// An interval without records: the sweep before all flows were born.
fn hello(gateway: u8) -> Result<Frame, Failed> {
    frame(gateway, 1, 0, Vec::new())
}

/// When an interval ends, seconds after boot.
fn end(interval: u32) -> u64 {
    1_000 + 10 * u64::from(interval)
}

fn unix(at: u64) -> UnixNanos {
    UnixNanos(BOOTED + i64::try_from(at * SECOND).unwrap_or_default())
}

fn frame(gateway: u8, seq: u64, interval: u32, records: Vec<Record>) -> Result<Frame, Failed> {
    let end = end(interval);
    let boot = BootId([gateway; 16]);
    let mut digest = [gateway; 32];
    digest[..8].copy_from_slice(&seq.to_le_bytes());
    let at = BootNanos(end * SECOND);
    let records = records
        .into_iter()
        .map(|record| Record { netns: NetnsId { inode: NetnsInode(1), boot }, ..record });
    let interval = Interval {
        number: u64::from(interval),
        length_ms: 10_000,
        part: 1,
        parts: 1,
        sweep_begin: BootNanos((end - 1) * SECOND),
        sweep_end: at,
        boot,
        clock: ClockPair { boot: at, wall: unix(end), synchronised: true, stepped: false },
        offset: None,
        totals: KernelTotals::default(),
        paused: false,
    };
    Ok(Frame {
        node: format!("gw-{gateway}").parse()?,
        epoch: Epoch([gateway; 16]),
        first: Seq(seq),
        last: Seq(seq),
        digest: Digest(digest),
        received: unix(end + 2),
        clock: Some(SessionClock { offset: ClockOffset(BOOTED), boot, at }),
        body: Body::Batch { interval: Box::new(interval), records: records.collect() },
    })
}

/// A flow's growth in an interval.
fn record(flow: u32, interval: u32) -> Record {
    let client = Ipv4Addr::from_bits(0x0a00_0000 | flow >> 4);
    let port = 40_000 + u16::try_from(flow & 15).unwrap_or_default();
    let server = SocketAddr::from(([192, 0, 2, 1], 443));
    let orig = Tuple::ports(Proto::TCP, SocketAddr::from((client, port)), server);
    let counters = |n: u32| {
        let n = u64::from(n) * (100 + u64::from(flow % 50));
        Counters::new(n, n * 1_000, n / 2, n * 60)
    };
    let (cum, base) = (counters(interval), counters(interval - 1));
    Record {
        flow: FlowNo(u64::from(flow) + 1),
        netns: NetnsId::default(),
        zone: Zone(0),
        orig,
        reply: orig.inverse(),
        birth: Birth::Start(u64::try_from(unix(1_001).0).unwrap_or_default() + u64::from(flow)),
        mark: 0,
        status: Status(Status::CONFIRMED | Status::SEEN_REPLY),
        tcp: TcpState(3),
        flags: RecordFlags::FRESH,
        since: BootNanos(end(interval - 1) * SECOND),
        until: BootNanos(end(interval) * SECOND),
        cum,
        delta: cum.above(base),
        offset: Counters::ZERO,
        stop: 0,
    }
}
