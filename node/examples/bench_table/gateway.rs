//! A gateway's conntrack table as sweeps read it: skewed clients and servers, half of the flows
//! translated, in the order of a hash table, which has nothing to do with that of their births and
//! is the same in every sweep.

#![expect(clippy::cast_possible_truncation, reason = "drawn numbers lie far below the limits")]

use std::collections::HashSet;
use std::net::Ipv4Addr;

use conntracct_node::source::SweepChunk;
use flow::entry::Zone;
use flow::{BootNanos, Counters, NetnsInode, Proto, Reading, Status, TcpState, Tuple};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

pub(crate) const NETNS: NetnsInode = NetnsInode(4_026_531_840);

/// Live entries.
pub(crate) struct Gateway {
    rng: SmallRng,
    pub(crate) readings: Vec<Reading>,
}

impl Gateway {
    /// `flows` entries, born in the hour before the wall-clock time `now` (nanoseconds).
    pub(crate) fn new(flows: u32, now: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(SEED);
        let clients: Vec<u32> =
            (0..2_000).map(|_| rng.random::<u32>() >> 16 | 0x0a14_0000).collect();
        let servers: Vec<u32> = (0..20_000).map(|_| rng.random()).collect();
        let mut known = HashSet::new();
        let mut readings = Vec::new();
        while readings.len() < flows as usize {
            let orig = original(&mut rng, &clients, &servers);
            if known.insert((orig.src, orig.dst, orig.sport, orig.dport, orig.proto.0)) {
                let number = readings.len() as u32;
                let born = now - u64::from(flows - number) * 3_600_000_000_000 / u64::from(flows);
                readings.push(reading(&mut rng, orig, number, born));
            }
        }
        let mut gateway = Self { rng, readings };
        gateway.grow();
        gateway
    }

    /// From now on the entries are read in another order than that of their births, in which a
    /// node that watches them sees them first.
    pub(crate) fn settle(&mut self) {
        self.readings.shuffle(&mut self.rng);
    }

    /// Every entry grows: by log-uniform packets of sizes by direction.
    pub(crate) fn grow(&mut self) {
        for reading in &mut self.readings {
            let rng = &mut self.rng;
            let packets = (rng.random_range(0.0..11.0f64)).exp2().ceil();
            let answers = (packets * rng.random_range(0.6..2.5)).ceil();
            let more = Counters::new(
                packets as u64,
                (packets * rng.random_range(52.0..400.0)) as u64,
                answers as u64,
                (answers * rng.random_range(200.0..1_452.0)) as u64,
            );
            reading.counters = reading.counters.map(|before| before.plus(more));
        }
    }

    /// The sweep that begins at `begin`, in chunks like those of netlink.
    pub(crate) fn chunks(&self, begin: BootNanos) -> Vec<SweepChunk> {
        let chunk = |(readings, at): (&[Reading], u64)| SweepChunk {
            at: BootNanos(begin.0 + at * 60_000),
            readings: readings.to_vec(),
        };
        self.readings.chunks(CHUNK).zip(1..).map(chunk).collect()
    }
}

fn original(rng: &mut SmallRng, clients: &[u32], servers: &[u32]) -> Tuple {
    let (proto, dport) = match rng.random_range(0..100) {
        0..55 => (Proto::TCP, 443),
        55..75 => (Proto::UDP, 53),
        75..85 => (Proto::UDP, 443),
        85..92 => (Proto::TCP, 80),
        _ => (Proto::TCP, rng.random_range(1_024..u16::MAX)),
    };
    Tuple {
        src: Ipv4Addr::from_bits(pick(rng, clients)).into(),
        dst: Ipv4Addr::from_bits(pick(rng, servers)).into(),
        sport: rng.random_range(1_024..61_000),
        dport,
        proto,
    }
}

/// An entry, the first ones more often (as place to the power of -2/3).
fn pick(rng: &mut SmallRng, of: &[u32]) -> u32 {
    let place = rng.random_range(0.0..1.0f64).powi(3) * of.len() as f64;
    of.get(place as usize).copied().unwrap_or_default()
}

fn reading(rng: &mut SmallRng, orig: Tuple, number: u32, born: u64) -> Reading {
    let mut reply = orig.inverse();
    let translated = rng.random_ratio(1, 2);
    if translated {
        reply.dst = Ipv4Addr::new(198, 51, 100, rng.random_range(1..5)).into();
        // The kernel keeps a source port where it is free.
        if rng.random_ratio(1, 5) {
            reply.dport = rng.random_range(1_024..u16::MAX);
        }
    }
    let tcp = orig.proto == Proto::TCP;
    let nat = if translated { Status::SRC_NAT } else { 0 };
    Reading {
        netns: NETNS,
        zone: Zone(0),
        orig,
        reply,
        start: born,
        stop: 0,
        kernel_id: number,
        mark: 0,
        status: Status(Status::CONFIRMED | Status::SEEN_REPLY | Status::ASSURED | nat),
        tcp: TcpState(if tcp { 3 } else { 0 }),
        fresh: tcp,
        counters: Some(Counters::ZERO),
    }
}

/// The same entries in every run.
const SEED: u64 = 1;

/// Readings a chunk, as the netlink source hands them over.
const CHUNK: usize = 512;
