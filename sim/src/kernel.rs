//! A host's conntrack table, as a model: entries are born, carry packets, are zeroed, die, and
//! the host reboots. It also keeps the truth that everything else is measured against.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flow::entry::Zone;
use flow::{
    BootId, BootNanos, Counters, EntryId, NetnsId, NetnsInode, Proto, Reading, Status, TcpState,
    Tuple, UnixNanos,
};
use node::source::{Event, Timed};
use rand::Rng;
use rand::rngs::SmallRng;

/// The one namespace of every host.
pub(crate) const NETNS: NetnsInode = NetnsInode(4_026_531_840);

/// What really happened to one entry.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    /// Every packet and byte that passed, whatever the counters say.
    pub passed: Counters,
    /// Somebody zeroed its counters at least once: what grew between the last reading and the
    /// zeroing cannot be known.
    pub zeroed: bool,
    /// It has ended.
    pub ended: bool,
    /// No living node was handed its end.
    pub unheard: bool,
}

#[derive(Clone, Debug)]
struct Live {
    id: EntryId,
    reply: Tuple,
    kernel_id: u32,
    start: u64,
    fresh: bool,
    counters: Counters,
}

/// A host: its table, its clocks, its truth.
#[derive(Debug)]
pub(crate) struct Kernel {
    host: u8,
    boot: BootId,
    booted: UnixNanos,
    /// What the host's wall clock is ahead of true time, in nanoseconds.
    wall_error: i64,
    timestamps: bool,
    live: Vec<Live>,
    events: VecDeque<Timed>,
    listening: bool,
    next_id: u32,
    truth: BTreeMap<EntryId, Truth>,
}

impl Kernel {
    /// A freshly booted host. `wall_error` is in nanoseconds; with `timestamps` off entries have
    /// no start stamp.
    pub(crate) fn new(
        host: u8,
        now: UnixNanos,
        wall_error: i64,
        timestamps: bool,
        rng: &mut SmallRng,
    ) -> Self {
        Self {
            host,
            boot: BootId(rng.random()),
            booted: now.minus(std::time::Duration::from_secs(rng.random_range(1..100_000))),
            wall_error,
            timestamps,
            live: Vec::new(),
            events: VecDeque::new(),
            listening: false,
            next_id: rng.random(),
            truth: BTreeMap::new(),
        }
    }

    /// The current boot.
    pub(crate) const fn boot(&self) -> BootId {
        self.boot
    }

    /// `CLOCK_BOOTTIME` at a true time.
    pub(crate) fn boottime(&self, now: UnixNanos) -> BootNanos {
        BootNanos(u64::try_from(now.diff(self.booted)).unwrap_or(0))
    }

    /// `CLOCK_REALTIME` at a true time.
    pub(crate) fn wall(&self, now: UnixNanos) -> UnixNanos {
        UnixNanos(now.get() + self.wall_error)
    }

    /// Somebody switches `nf_conntrack_timestamp`: entries born from now on are the other kind.
    pub(crate) fn switch_stamps(&mut self) {
        self.timestamps = !self.timestamps;
    }

    /// Somebody sets the wall clock.
    pub(crate) fn step_wall(&mut self, by: i64) {
        self.wall_error += by;
    }

    /// The truth about every entry there ever was.
    pub(crate) const fn truth(&self) -> &BTreeMap<EntryId, Truth> {
        &self.truth
    }

    /// Live entries.
    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// A node's event socket opens: from now on ends are kept for it.
    pub(crate) fn listen(&mut self) {
        self.listening = true;
    }

    /// The socket closes: what was not read is gone, and nobody sees the ends to come.
    pub(crate) fn deaf(&mut self) {
        self.listening = false;
        for timed in self.events.drain(..) {
            if let Event::End(reading) = timed.event
                && let Some(truth) = self.truth.get_mut(&identity(&reading, self.boot))
            {
                truth.unheard = true;
            }
        }
    }

    /// What the socket holds, read at `now`.
    pub(crate) fn read_events(&mut self, now: UnixNanos, most: usize) -> Vec<Timed> {
        let at = self.boottime(now);
        let count = most.min(self.events.len());
        self.events.drain(..count).map(|timed| Timed { at, ..timed }).collect()
    }

    /// Readings of the live entries in `from..to` of the table's order.
    pub(crate) fn dump(&self, from: usize, to: usize) -> Vec<Reading> {
        let to = to.min(self.live.len());
        self.live.get(from..to).unwrap_or_default().iter().map(|e| reading(e, 0)).collect()
    }

    /// An entry is born; sometimes one whose tuple was there before.
    pub(crate) fn birth(&mut self, now: UnixNanos, rng: &mut SmallRng) {
        let (orig, reply) = tuples(self.host, rng);
        let netns = NetnsId { inode: NETNS, boot: self.boot };
        if self.live.iter().any(|e| e.id.orig == orig) {
            return;
        }
        let start = match self.timestamps {
            true => u64::try_from(self.wall(now).get()).unwrap_or(1).max(1),
            false => 0,
        };
        self.next_id = self.next_id.wrapping_add(1);
        let birth = flow::Birth::of(start, self.next_id);
        let id = EntryId { netns, zone: Zone(0), orig, birth };
        if self.truth.contains_key(&id) {
            return;
        }
        let fresh = orig.proto == Proto::TCP && rng.random_bool(0.9);
        let mut entry =
            Live { id, reply, kernel_id: self.next_id, start, fresh, counters: Counters::ZERO };
        let truth = Truth { passed: Counters::ZERO, zeroed: false, ended: false, unheard: false };
        self.truth.insert(id, truth);
        if self.listening {
            let event = Event::New(Reading { counters: None, start: 0, ..reading(&entry, 0) });
            self.events.push_back(Timed { at: self.boottime(now), event });
        }
        self.carry(&mut entry, rng);
        self.live.push(entry);
    }

    /// Some packets pass on some live entry.
    pub(crate) fn traffic(&mut self, rng: &mut SmallRng) {
        if self.live.is_empty() {
            return;
        }
        let at = rng.random_range(0..self.live.len());
        let mut entry = self.live.swap_remove(at);
        self.carry(&mut entry, rng);
        self.live.push(entry);
    }

    fn carry(&mut self, entry: &mut Live, rng: &mut SmallRng) {
        let (op, rp) = (rng.random_range(1..20u64), rng.random_range(0..20u64));
        let (os, rs) = (rng.random_range(40..1500u64), rng.random_range(40..1500u64));
        let passed = Counters::new(op, op * os, rp, rp * rs);
        entry.counters = entry.counters.plus(passed);
        if let Some(truth) = self.truth.get_mut(&entry.id) {
            truth.passed = truth.passed.plus(passed);
        }
    }

    /// Somebody runs `conntrack -L -z`.
    pub(crate) fn zero_counters(&mut self) {
        for entry in &mut self.live {
            entry.counters = Counters::ZERO;
            if let Some(truth) = self.truth.get_mut(&entry.id) {
                truth.zeroed = true;
            }
        }
    }

    /// Some live entry dies.
    pub(crate) fn death(&mut self, now: UnixNanos, rng: &mut SmallRng) {
        if self.live.is_empty() {
            return;
        }
        let entry = self.live.swap_remove(rng.random_range(0..self.live.len()));
        self.bury(&entry, now);
    }

    fn bury(&mut self, entry: &Live, now: UnixNanos) {
        let Some(truth) = self.truth.get_mut(&entry.id) else { return };
        truth.ended = true;
        truth.unheard = !self.listening;
        if self.listening {
            let stop = match entry.start > 0 {
                true => u64::try_from(self.wall(now).get()).unwrap_or(0),
                false => 0,
            };
            let event = Event::End(reading(entry, stop));
            self.events.push_back(Timed { at: self.boottime(now), event });
        }
    }

    /// The host reboots: every entry is gone, and nobody saw it go.
    pub(crate) fn reboot(&mut self, now: UnixNanos, rng: &mut SmallRng) {
        self.deaf();
        for entry in std::mem::take(&mut self.live) {
            if let Some(truth) = self.truth.get_mut(&entry.id) {
                truth.ended = true;
                truth.unheard = true;
            }
        }
        self.boot = BootId(rng.random());
        self.booted = now;
    }
}

fn reading(entry: &Live, stop: u64) -> Reading {
    Reading {
        netns: entry.id.netns.inode,
        zone: entry.id.zone,
        orig: entry.id.orig,
        reply: entry.reply,
        start: entry.start,
        stop,
        kernel_id: entry.kernel_id,
        mark: 0,
        status: Status(Status::CONFIRMED | Status::SEEN_REPLY),
        tcp: TcpState(if entry.id.orig.proto == Proto::TCP { 3 } else { 0 }),
        fresh: entry.fresh,
        counters: Some(entry.counters),
    }
}

fn identity(reading: &Reading, boot: BootId) -> EntryId {
    EntryId {
        netns: NetnsId { inode: reading.netns, boot },
        zone: reading.zone,
        orig: reading.orig,
        birth: reading.birth(),
    }
}

/// Few clients and few ports, so that tuples are used again; half behind source NAT.
fn tuples(host: u8, rng: &mut SmallRng) -> (Tuple, Tuple) {
    let client = rng.random_range(1..4u8);
    let v6 = rng.random_bool(0.3);
    let address = |net: u8, last: u8| match v6 {
        true => IpAddr::V6(Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, last.into())),
        false => IpAddr::V4(Ipv4Addr::new(10, net, 0, last)),
    };
    let (src, dst) = (address(host, client), address(200, rng.random_range(1..4)));
    let port = rng.random_range(1000..1006);
    let orig = match rng.random_range(0..10u8) {
        0 if v6 => Tuple::icmp(Proto::ICMPV6, src, dst, port, 128, 0),
        0 => Tuple::icmp(Proto::ICMP, src, dst, port, 8, 0),
        1..=5 => Tuple { src, dst, sport: port, dport: 443, proto: Proto::TCP },
        6..=8 => Tuple { src, dst, sport: port, dport: 53, proto: Proto::UDP },
        _ => Tuple { src, dst, sport: 0, dport: 0, proto: Proto(50) },
    };
    let mut reply = orig.inverse();
    if rng.random_bool(0.5) {
        reply.dst = address(100, host);
    }
    (orig, reply)
}
