//! A gateway's frames: 20,000 live flows, half of them translated, of which a tenth ends and is
//! replaced by new ones in every interval.

use std::net::{Ipv4Addr, SocketAddr};

use aggregator::count::{Body, Frame};
use flow::clock::SessionClock;
use flow::entry::Zone;
use flow::record::{ClockPair, Interval, KernelTotals};
use flow::{
    Birth, BootId, BootNanos, ClockOffset, Counters, Epoch, FlowNo, NetnsId, NetnsInode, NodeName,
    Proto, Record, RecordFlags, Seq, Status, TcpState, Tuple, UnixNanos,
};
use wire::batch::{Builder, Compression, MAX_RECORDS};

use super::Failed;

pub(crate) const EPOCH: Epoch = Epoch([7; 16]);

const FLOWS: u64 = 20_000;
const INTERVALS: u64 = 20;
const SECOND: u64 = 1_000_000_000;
const BOOT: BootId = BootId([3; 16]);

/// A frame as a node sends it.
pub(crate) struct Encoded {
    pub(crate) seq: Seq,
    pub(crate) frame: wire::frame::Frame,
    pub(crate) clock: SessionClock,
}

impl Encoded {
    /// The frame as it is counted.
    pub(crate) fn decoded(&self) -> Result<Frame, Failed> {
        let (header, records) = wire::batch::decode(&self.frame)?;
        Ok(Frame {
            node: node()?,
            epoch: EPOCH,
            first: self.seq,
            last: self.seq,
            digest: self.frame.header.digest,
            received: now(),
            clock: Some(self.clock),
            body: Body::Batch { interval: Box::new(header.interval), records },
        })
    }
}

pub(crate) fn node() -> Result<NodeName, Failed> {
    Ok(NodeName::new("gw-1")?)
}

/// Now: rows far from it would go another way.
fn now() -> UnixNanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixNanos::default().plus(since.unwrap_or_default())
}

/// The aggregator's time of the gateway's boot.
pub(crate) fn begin() -> UnixNanos {
    now().minus(std::time::Duration::from_secs(3_600))
}

/// All frames of all intervals.
pub(crate) fn frames() -> Result<Vec<Encoded>, Failed> {
    let booted = begin();
    let mut frames = Vec::new();
    let mut builder = Builder::new(Compression::Zstd);
    for round in 1..=INTERVALS {
        let end = round * 10;
        let per_frame = u64::try_from(MAX_RECORDS)?;
        let parts = FLOWS.div_ceil(per_frame);
        for part in 0..parts {
            for slot in part * per_frame..FLOWS.min((part + 1) * per_frame) {
                builder.push(&record(booted, slot, round))?;
            }
            let seq = Seq(u64::try_from(frames.len())? + 1);
            let last = part + 1 == parts;
            let interval = interval(booted, end, u32::try_from(part + 1)?, last);
            let frame = builder.finish(seq, &interval)?;
            let at = BootNanos(end * SECOND);
            let clock = SessionClock { offset: ClockOffset(booted.0), boot: BOOT, at };
            frames.push(Encoded { seq, frame, clock });
        }
    }
    Ok(frames)
}

fn interval(booted: UnixNanos, end: u64, part: u32, last: bool) -> Interval {
    let wall = UnixNanos(booted.0.saturating_add_unsigned(end * SECOND));
    Interval {
        number: end / 10,
        length_ms: 10_000,
        part,
        parts: if last { part } else { 0 },
        sweep_begin: BootNanos((end - 1) * SECOND),
        sweep_end: BootNanos(end * SECOND),
        boot: BOOT,
        clock: ClockPair {
            boot: BootNanos(end * SECOND),
            wall,
            synchronised: true,
            stepped: false,
        },
        offset: None,
        totals: KernelTotals::default(),
        paused: false,
    }
}

/// The record of the flow in `slot` at the end of `round`; the slot's flow lives ten rounds.
fn record(booted: UnixNanos, slot: u64, round: u64) -> Record {
    let age = (round + slot) % 10;
    let generation = (round + slot) / 10;
    let mix = (slot ^ generation << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let client = Ipv4Addr::from(0x0a00_0000 | low(mix) & 0x3fff);
    let server = Ipv4Addr::from(0xc633_0000 | low(mix >> 14) & 0x0fff);
    let port = 1_024 + port(mix >> 26) % 60_000;
    let orig = Tuple::ports(
        Proto::TCP,
        SocketAddr::new(client.into(), port),
        SocketAddr::new(server.into(), 443),
    );
    let mut reply = orig.inverse();
    if slot.is_multiple_of(2) {
        reply.dst = Ipv4Addr::new(203, 0, 113, 1).into();
    }
    let until = BootNanos((round * 10 - 1) * SECOND + slot * 20_000);
    let born = (round.saturating_sub(age) * 10 * SECOND).saturating_sub(slot * 100_000);
    let cum = |age: u64| {
        let packets = (age + 1) * (5 + mix % 200);
        Counters::new(packets, packets * (60 + mix % 1_300), packets / 2, packets * 40)
    };
    let delta = if age == 0 { cum(age) } else { cum(age).above(cum(age - 1)) };
    Record {
        flow: FlowNo(slot + generation * FLOWS),
        netns: NetnsId { inode: NetnsInode(4_026_531_840), boot: BOOT },
        zone: Zone(0),
        orig,
        reply,
        birth: Birth::Start(booted.0.unsigned_abs() + born),
        mark: 0,
        status: Status(Status::CONFIRMED | Status::SEEN_REPLY | Status::ASSURED),
        tcp: TcpState(3),
        flags: RecordFlags::FRESH.with_if(RecordFlags::END, age == 9),
        since: BootNanos((round * 10).saturating_sub(11) * SECOND),
        until,
        cum: cum(age),
        delta,
        offset: Counters::ZERO,
        stop: 0,
    }
}

/// The low 32 bits.
fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or_default()
}

/// The low 16 bits.
fn port(value: u64) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or_default()
}
