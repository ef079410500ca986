//! Gateways' frames: 20,000 live flows, half of them translated, all of which grow in every
//! interval; each ends in its turn and another one takes its place. Several gateways see the same.

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

/// A gateway, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gateway(pub(crate) u8);

impl Gateway {
    pub(crate) fn name(self) -> Result<NodeName, Failed> {
        Ok(NodeName::new(&format!("gw-{}", self.0))?)
    }

    pub(crate) const fn epoch(self) -> Epoch {
        Epoch([self.0; 16])
    }

    pub(crate) const fn boot(self) -> BootId {
        BootId([self.0; 16])
    }
}

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
    /// Of each gateway, from the first one on.
    frames: Vec<Vec<wire::frame::Frame>>,
    /// For the baselines.
    pub(crate) rows: Vec<FlowRow>,
    /// Records that are the first of their flow.
    pub(crate) births: usize,
    /// Records that are the last of their flow.
    pub(crate) ends: usize,
}

impl Load {
    /// Generates what `gateways` send who see the same. Its times are of this moment: send it soon.
    pub(crate) async fn make(mix: Mix, gateways: u8) -> Result<Self, Failed> {
        let booted = begin();
        let mut all = Vec::new();
        for gateway in (1..=gateways).map(Gateway) {
            all.push(frames(mix, booted, gateway)?);
        }
        let store = ModelStore::new(StoreId([1; 16]));
        let (token, config) = (WriterToken([1; 16]), CounterConfig::default());
        let mut committer = Committer::start(store.clone(), token, config, now()).await?;
        for seq in 1..=all.iter().map(Vec::len).max().unwrap_or_default() {
            for (frames, gateway) in all.iter().zip((1..).map(Gateway)) {
                let Some(frame) = frames.get(seq - 1) else { continue };
                let frame = decoded(gateway, frame, Seq(u64::try_from(seq)?))?;
                let mut work = Work { todo: vec![frame], ..Work::default() };
                committer.run(&mut work).await?;
            }
        }
        let contents = store.contents();
        let births = contents.observers.len();
        let ends = contents.observers.values().filter(|row| row.ended.is_some()).count();
        if gateways > 1 {
            // A frame is held until all have told of a later sweep.
            for (frames, gateway) in all.iter_mut().zip((1..).map(Gateway)) {
                let seq = Seq(u64::try_from(frames.len())? + 1);
                let interval = interval(booted, gateway, (INTERVALS + 1) * 10, 1, true);
                frames.push(Builder::new(Compression::Zstd).finish(seq, &interval)?);
            }
        }
        Ok(Self { frames: all, rows: contents.flows, births, ends })
    }

    pub(crate) fn frames(&self, Gateway(number): Gateway) -> &[wire::frame::Frame] {
        self.frames.get(usize::from(number) - 1).map_or(&[], Vec::as_slice)
    }

    /// The gateways who send it.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = Gateway> {
        self.frames.iter().zip(1..).map(|(_, number)| Gateway(number))
    }

    /// The number of each gateway's last frame with records.
    pub(crate) fn last(&self) -> Seq {
        let extra = usize::from(self.frames.len() > 1);
        let frames = self.frames.first().map_or(0, |frames| frames.len() - extra);
        Seq(u64::try_from(frames).unwrap_or(u64::MAX))
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
fn decoded(gateway: Gateway, frame: &wire::frame::Frame, seq: Seq) -> Result<Frame, Failed> {
    let (header, records) = wire::batch::decode(frame)?;
    Ok(Frame {
        node: gateway.name()?,
        epoch: gateway.epoch(),
        first: seq,
        last: seq,
        digest: frame.header.digest,
        received: now(),
        clock: None,
        body: Body::Batch { interval: Box::new(header.interval), records },
    })
}

/// All frames of all intervals.
fn frames(
    mix: Mix,
    booted: UnixNanos,
    gateway: Gateway,
) -> Result<Vec<wire::frame::Frame>, Failed> {
    let per_frame = u64::try_from(MAX_RECORDS)?;
    let parts = FLOWS.div_ceil(per_frame);
    let mut frames = Vec::new();
    let mut builder = Builder::new(Compression::Zstd);
    for round in 1..=INTERVALS {
        for part in 0..parts {
            for slot in part * per_frame..FLOWS.min((part + 1) * per_frame) {
                let record = record(mix, booted, slot, round);
                let netns = NetnsId { boot: gateway.boot(), ..record.netns };
                builder.push(&Record { netns, ..record })?;
            }
            let seq = Seq(u64::try_from(frames.len())? + 1);
            let last = part + 1 == parts;
            let part = u32::try_from(part + 1)?;
            let interval = interval(booted, gateway, round * 10, part, last);
            frames.push(builder.finish(seq, &interval)?);
        }
    }
    Ok(frames)
}

fn interval(booted: UnixNanos, gateway: Gateway, end: u64, part: u32, last: bool) -> Interval {
    let wall = UnixNanos(booted.0.saturating_add_unsigned(end * SECOND));
    Interval {
        number: end / 10,
        length_ms: 10_000,
        part,
        parts: if last { part } else { 0 },
        sweep_begin: BootNanos((end - 1) * SECOND),
        sweep_end: BootNanos(end * SECOND),
        boot: gateway.boot(),
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
        netns: NetnsId { inode: NetnsInode(4_026_531_840), boot: BootId::default() },
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
