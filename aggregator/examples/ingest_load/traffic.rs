//! A gateway's frames: 20,000 live flows, half of them translated, all of which grow in every
//! interval; each ends in its turn and another one takes its place.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aggregator::count::{Body, CounterConfig, Frame};
use aggregator::pipeline::commit::{Committer, Work};
use aggregator::store::model::ModelStore;
use aggregator::store::row::{FlowRow, WriterToken};
use flow::entry::Zone;
use flow::record::{ClockPair, Interval, KernelTotals};
use flow::{
    Birth, BootId, BootNanos, Counters, Epoch, FlowNo, NetnsId, NetnsInode, NodeName, Proto,
    Record, RecordFlags, Seq, Status, StoreId, TcpState, Tuple, UnixNanos,
};
use wire::batch::{Builder, Compression, MAX_RECORDS};

use super::Failed;

pub(crate) const NODE: &str = "gw-1";
pub(crate) const EPOCH: Epoch = Epoch([7; 16]);
pub(crate) const BOOT: BootId = BootId([3; 16]);

/// How long flows live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Ten intervals: of ten records one is the first of its flow and one the last.
    Usual,
    /// Two intervals: every record is the first or the last of its flow.
    Short,
}

impl Mix {
    /// Records a flow.
    const fn life(self) -> u64 {
        match self {
            Self::Usual => 10,
            Self::Short => 2,
        }
    }
}

/// Encoded frames, and the rows that counting makes of them.
pub(crate) struct Load {
    frames: Vec<wire::frame::Frame>,
    /// For the baselines.
    pub(crate) rows: Vec<FlowRow>,
    /// Records that are the first of their flow.
    pub(crate) births: usize,
    /// Records that are the last of their flow.
    pub(crate) ends: usize,
}

impl Load {
    /// Generates a load. Its times are of this moment: send it soon.
    pub(crate) async fn make(mix: Mix) -> Result<Self, Failed> {
        let frames = frames(mix, begin())?;
        let store = ModelStore::new(StoreId([1; 16]));
        let (token, config) = (WriterToken([1; 16]), CounterConfig::default());
        let mut committer = Committer::start(store.clone(), token, config, now()).await?;
        for (frame, seq) in frames.iter().zip(1..) {
            let mut work = Work { todo: vec![decoded(frame, Seq(seq))?], ..Work::default() };
            committer.run(&mut work).await?;
        }
        let contents = store.contents();
        let births = contents.observers.len();
        let ends = contents.observers.values().filter(|row| row.ended.is_some()).count();
        Ok(Self { frames, rows: contents.flows, births, ends })
    }

    pub(crate) fn frames(&self) -> impl Iterator<Item = &wire::frame::Frame> {
        self.frames.iter()
    }

    /// The number of the last frame.
    pub(crate) fn last(&self) -> Seq {
        Seq(u64::try_from(self.frames.len()).unwrap_or(u64::MAX))
    }

    /// What the frames bring, in thousandths of the records: first ones and last ones.
    pub(crate) fn per_mille(&self) -> [usize; 2] {
        [self.births, self.ends].map(|part| part * 1_000 / self.rows.len().max(1))
    }
}

/// Now: rows far from it would go another way.
pub(crate) fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixNanos::default().plus(since.unwrap_or_default())
}

const FLOWS: u64 = 20_000;
const INTERVALS: u64 = 25;
const SECOND: u64 = 1_000_000_000;

/// The aggregator's time of the gateway's boot.
fn begin() -> UnixNanos {
    now().minus(Duration::from_secs(3_600))
}

/// A frame as the pipeline would decode it.
fn decoded(frame: &wire::frame::Frame, seq: Seq) -> Result<Frame, Failed> {
    let (header, records) = wire::batch::decode(frame)?;
    Ok(Frame {
        node: NodeName::new(NODE)?,
        epoch: EPOCH,
        first: seq,
        last: seq,
        digest: frame.header.digest,
        received: now(),
        clock: None,
        body: Body::Batch { interval: Box::new(header.interval), records },
    })
}

/// All frames of all intervals.
fn frames(mix: Mix, booted: UnixNanos) -> Result<Vec<wire::frame::Frame>, Failed> {
    let per_frame = u64::try_from(MAX_RECORDS)?;
    let parts = FLOWS.div_ceil(per_frame);
    let mut frames = Vec::new();
    let mut builder = Builder::new(Compression::Zstd);
    for round in 1..=INTERVALS {
        for part in 0..parts {
            for slot in part * per_frame..FLOWS.min((part + 1) * per_frame) {
                builder.push(&record(mix, booted, slot, round))?;
            }
            let seq = Seq(u64::try_from(frames.len())? + 1);
            let last = part + 1 == parts;
            let interval = interval(booted, round * 10, u32::try_from(part + 1)?, last);
            frames.push(builder.finish(seq, &interval)?);
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

/// The record of the flow in `slot` at the end of `round`.
fn record(mix: Mix, booted: UnixNanos, slot: u64, round: u64) -> Record {
    let life = mix.life();
    let age = (round + slot) % life;
    let generation = (round + slot) / life;
    let random = (slot ^ generation << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let client = Ipv4Addr::from(0x0a00_0000 | low(random) & 0x3fff);
    let server = Ipv4Addr::from(0xc633_0000 | low(random >> 14) & 0x0fff);
    let port = 1_024 + port(random >> 26) % 60_000;
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
        let packets = (age + 1) * (5 + random % 200);
        Counters::new(packets, packets * (60 + random % 1_300), packets / 2, packets * 40)
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
        flags: RecordFlags::FRESH.with_if(RecordFlags::END, age + 1 == life),
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
