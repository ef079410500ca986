//! Traffic of a gateway, from a fixed seed.
//!
//! Assumptions, chosen to look like an access gateway and not to please the codec: skewed
//! clients and servers; flows lie in the order of a hash table, not of their birth, as a dump of
//! the kernel's table has them; a read of the dump stamps about a hundred entries at once; two
//! of five records belong to flows born in the interval; ends come one by one, by events.

#![expect(clippy::cast_possible_truncation, reason = "drawn numbers lie far below the limits")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flow::entry::Zone;
use flow::record::{ClockPair, KernelTotals, MeasuredOffset};
use flow::{
    Birth, BootId, BootNanos, ClockOffset, Counters, FlowNo, Interval, NetnsId, NetnsInode, Proto,
    Record, RecordFlags, Status, TcpState, Tuple, UnixNanos,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use wire::batch::MAX_RECORDS;

/// What traffic looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// IPv4, half of it translated, one namespace, no marks.
    Gateway,
    /// A quarter IPv6, three namespaces, zones, marks, more ICMP.
    Mixed,
}

/// A full batch.
pub(crate) struct Traffic {
    pub(crate) interval: Interval,
    pub(crate) records: Vec<Record>,
}

const SECOND: u64 = 1_000_000_000;
const INTERVAL: u64 = 10 * SECOND;
/// The node's boot by the wall clock.
const BOOTED: u64 = 1_760_000_000 * SECOND + 123_456_789;
/// New flows a second.
const RATE: u64 = 400;
/// How long the node has run when the first batch begins.
const UPTIME: u64 = 3 * 86_400 * SECOND;

/// `count` full batches, always the same ones.
pub(crate) fn batches(mix: Mix, count: usize) -> Vec<Traffic> {
    let mut world = World::new(mix);
    (0..count as u64).map(|number| world.batch(UPTIME + number * INTERVAL)).collect()
}

struct World {
    mix: Mix,
    rng: StdRng,
    clients: Vec<[IpAddr; 2]>,
    servers: Vec<[IpAddr; 2]>,
    public: Vec<IpAddr>,
}

impl World {
    fn new(mix: Mix) -> Self {
        let mut rng = StdRng::seed_from_u64(0xc0_4717_ac7c);
        let mut both = |count: usize, net: [u8; 4], prefix: u32| -> Vec<[IpAddr; 2]> {
            let v4 = Ipv4Addr::from(net).to_bits();
            (0..count)
                .map(|_| {
                    let host: u32 = rng.random::<u32>().checked_shr(prefix).unwrap_or_default();
                    let v6 = 0x2001_0db8_u128 << 96
                        | u128::from(host >> 6) << 64
                        | u128::from(rng.random::<u64>());
                    [Ipv4Addr::from_bits(v4 | host).into(), Ipv6Addr::from_bits(v6).into()]
                })
                .collect()
        };
        let clients = both(2_000, [10, 20, 0, 0], 16);
        let servers = both(20_000, [0, 0, 0, 0], 0);
        let public = (1..=4).map(|host| Ipv4Addr::new(198, 51, 100, host).into()).collect();
        Self { mix, rng, clients, servers, public }
    }

    /// The batch of the interval that begins at `begin`, boottime.
    fn batch(&mut self, begin: u64) -> Traffic {
        let sweep = begin + INTERVAL;
        let mut live: Vec<_> = (0..MAX_RECORDS * 7 / 10).map(|_| self.flow(begin, false)).collect();
        live.shuffle(&mut self.rng);
        let mut until = sweep;
        for (i, record) in live.iter_mut().enumerate() {
            if i % 100 == 0 {
                until += self.rng.random_range(40_000..90_000);
            }
            record.until = BootNanos(until);
        }
        let mut ends: Vec<_> = (live.len()..MAX_RECORDS).map(|_| self.flow(begin, true)).collect();
        ends.sort_by_key(|end| end.until);
        ends.extend(live);
        let wall = UnixNanos((BOOTED + until).cast_signed());
        let counters = Counters::new(1 << 30, 1 << 40, 1 << 30, 1 << 40);
        let interval = Interval {
            number: (BOOTED + sweep) / INTERVAL,
            length_ms: 10_000,
            part: 1,
            parts: 1,
            sweep_begin: BootNanos(sweep),
            sweep_end: BootNanos(until),
            boot: BOOT,
            clock: ClockPair { boot: BootNanos(until), wall, synchronised: true, stepped: false },
            offset: Some(MeasuredOffset {
                offset: ClockOffset(BOOTED.cast_signed() + 1_234),
                boot: BOOT,
                at: BootNanos(begin),
            }),
            totals: KernelTotals {
                live_flows: 100_000,
                live: counters,
                ended_flows: 3_000,
                ended: counters,
                uncounted: 0,
                ended_unseen: 0,
            },
            paused: false,
        };
        Traffic { interval, records: ends }
    }

    fn flow(&mut self, begin: u64, end: bool) -> Record {
        let rng = &mut self.rng;
        let new = rng.random_ratio(2, 5);
        // Ages of flows that go on: from the interval before to hours, log-uniform.
        let age = (rng.random_range(0.0..9.0f64)).exp2() * SECOND as f64;
        let born = if new { begin + rng.random_range(0..INTERVAL) } else { begin - age as u64 };
        let until = rng.random_range(born.max(begin)..=begin + INTERVAL);
        let (orig, reply) = self.tuples();
        let rng = &mut self.rng;
        let icmp = orig.proto.is_icmp();
        let tcp = orig.proto == Proto::TCP;
        let reply_seen = !rng.random_ratio(1, 12);
        let delta = growth(rng, orig, reply_seen, new);
        let mut cum = delta;
        if !new {
            let factor = (rng.random_range(0.0..10.0f64)).exp2();
            let before = growth(rng, orig, reply_seen, false).components();
            cum = cum.plus(Counters::from_components(before.map(|n| (n as f64 * factor) as u64)));
        }
        let mut status = Status::CONFIRMED | 1 << 7 | 1 << 8;
        status |= if reply_seen { Status::SEEN_REPLY } else { 0 };
        status |= if reply_seen && !icmp && !new { Status::ASSURED } else { 0 };
        status |= if reply == orig.inverse() { 0 } else { Status::SRC_NAT };
        status |= if end { Status::DYING } else { 0 };
        let mixed = self.mix == Mix::Mixed;
        let netns = if mixed { rng.random_range(0..3) } else { 0 };
        let state = if end { 7 } else { [3, 3, 3, 3, 3, 1, 7, 4][rng.random_range(0..8)] };
        // The node's conversion of the start moves a little from interval to interval.
        let since = if new { born + rng.random_range(0..200) } else { begin };
        Record {
            flow: FlowNo((born - (UPTIME - 3_600 * SECOND)) * RATE / SECOND),
            netns: NetnsId { inode: NetnsInode(4_026_531_840 + netns), boot: BOOT },
            zone: Zone(if mixed && netns == 2 { 7 } else { 0 }),
            orig,
            reply,
            birth: Birth::Start(BOOTED + born),
            mark: if mixed {
                [0, 0, 0, 0x10, 0x20, 0x1000_0001][rng.random_range(0..6)]
            } else {
                0
            },
            status: Status(status),
            tcp: TcpState(if tcp { state } else { 0 }),
            flags: RecordFlags::default()
                .with_if(RecordFlags::END, end)
                .with_if(RecordFlags::FRESH, tcp && !rng.random_ratio(1, 50)),
            since: BootNanos(since),
            until: BootNanos(until),
            cum,
            delta,
            offset: Counters::ZERO,
            stop: if end { BOOTED + until - rng.random_range(5_000..400_000) } else { 0 },
        }
    }

    fn tuples(&mut self) -> (Tuple, Tuple) {
        let rng = &mut self.rng;
        let mixed = self.mix == Mix::Mixed;
        let family = usize::from(mixed && rng.random_ratio(1, 4));
        let src = zipf(rng, &self.clients)[family];
        let dst = zipf(rng, &self.servers)[family];
        if rng.random_ratio(if mixed { 10 } else { 2 }, 100) {
            let (proto, kind) = [(Proto::ICMP, 8), (Proto::ICMPV6, 128)][family];
            let orig = Tuple::icmp(proto, src, dst, rng.random(), kind, 0);
            return (orig, orig.inverse());
        }
        let (proto, dport) = match rng.random_range(0..100) {
            0..50 => (Proto::TCP, 443),
            50..75 => (Proto::UDP, 53),
            75..83 => (Proto::UDP, 443),
            83..88 => (Proto::TCP, 80),
            88..91 => (Proto::UDP, 123),
            91..93 => (Proto::TCP, 22),
            93..97 => (Proto::TCP, rng.random_range(1024..u16::MAX)),
            _ => (Proto::UDP, rng.random_range(1024..u16::MAX)),
        };
        let orig = Tuple { src, dst, sport: rng.random_range(32_768..61_000), dport, proto };
        let mut reply = orig.inverse();
        if family == 0 && rng.random_ratio(1, 2) {
            reply.dst = self.public[rng.random_range(0..self.public.len())];
            // The kernel keeps a source port where it is free.
            if rng.random_ratio(1, 5) {
                reply.dport = rng.random_range(1024..u16::MAX);
            }
        }
        (orig, reply)
    }
}

const BOOT: BootId = BootId([
    0x3e, 0x5f, 0x09, 0x1d, 0x8b, 0x44, 0x4c, 0x06, 0x9d, 0x2f, 0x51, 0x77, 0x20, 0xb3, 0x6a, 0xe8,
]);

/// An interval's growth of one flow: log-uniform packets, sizes by direction.
fn growth(rng: &mut StdRng, orig: Tuple, reply_seen: bool, new: bool) -> Counters {
    if orig.dport == 53 || orig.dport == 123 || orig.proto.is_icmp() {
        let (ask, answer) = (rng.random_range(56..90), rng.random_range(70..300));
        return if reply_seen {
            Counters::new(1, ask, 1, answer)
        } else {
            Counters::new(1, ask, 0, 0)
        };
    }
    let most: f64 = if new { 8.0 } else { 11.0 };
    let packets = rng.random_range(0.0..most).exp2();
    let answers = packets * rng.random_range(0.6..2.5);
    let (size, answer_size) = (rng.random_range(52.0..400.0), rng.random_range(200.0..1_452.0));
    let whole = |n: f64| n.ceil() as u64;
    if !reply_seen {
        return Counters::new(whole(packets.min(5.0)), whole(packets.min(5.0)) * 60, 0, 0);
    }
    Counters::new(
        whole(packets),
        whole(packets.ceil() * size),
        whole(answers),
        whole(answers.ceil() * answer_size),
    )
}

/// An entry, the first ones more often: its place is the cube of a uniform number, so frequency
/// falls as place to the power of -2/3.
fn zipf<'a, T>(rng: &mut StdRng, entries: &'a [T]) -> &'a T {
    let place = rng.random_range(0.0..1.0f64).powi(3) * entries.len() as f64;
    &entries[(place as usize).min(entries.len() - 1)]
}
