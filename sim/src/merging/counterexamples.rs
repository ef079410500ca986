//! The smallest records that a wrong rule counts wrongly, one test each, by their numbers. Each
//! goes through linking and counting alone, and through the aggregator's own counting and
//! commits, with and without crashes.

use std::time::Duration;

use flow::clock::SessionClock;
use flow::entry::Zone;
use flow::merge::{Domain, MergeConfig};
use flow::record::{ClockPair, KernelTotals};
use flow::{
    Birth, BootId, BootNanos, ClockOffset, Counters, FlowNo, Interval, NetnsId, NetnsInode, Record,
    RecordFlags, Status, TcpState, Tuple, UnixNanos,
};

use super::conntrack::Idle;
use super::counting::{Counting, Pure, Way};
use super::node::Sent;
use super::post::Arrival;
use super::recipe::{Fault, Recipe, Scenario};
use super::site::{BEGIN, Site, Spot};
use super::stored;
use super::world::{Happened, Told};

/// An entry on a host.
#[derive(Clone, Copy, Debug)]
struct Entry {
    node: usize,
    start: f64,
    inside: Tuple,
    outside: Tuple,
    fresh: bool,
}

fn tuple(src: &str, dst: &str) -> Tuple {
    Tuple::ports(flow::Proto::TCP, src.parse().unwrap(), dst.parse().unwrap())
}

const SERVER: &str = "192.0.2.1:443";

fn plain() -> Tuple {
    tuple("10.0.0.1:4000", SERVER)
}

fn public() -> Tuple {
    tuple("198.51.100.1:4000", SERVER)
}

fn entry(node: usize, start: f64) -> Entry {
    Entry { node, start, inside: plain(), outside: plain(), fresh: false }
}

/// What an entry's counters were at `until`, there and back, and since when they may have grown.
#[derive(Clone, Copy, Debug)]
struct Read {
    entry: Entry,
    since: f64,
    until: f64,
    base: (u64, u64),
    cum: (u64, u64),
    ended: bool,
}

fn read(entry: Entry, since: f64, until: f64, base: (u64, u64), cum: (u64, u64)) -> Read {
    Read { entry, since, until, base, cum, ended: false }
}

impl Read {
    fn end(self) -> Self {
        Self { ended: true, ..self }
    }

    fn record(&self) -> Record {
        let Entry { node, start, inside, outside, fresh } = self.entry;
        let counters =
            |(there, back): (u64, u64)| Counters::new(there, there * 100, back, back * 100);
        let flags = RecordFlags::default()
            .with_if(RecordFlags::FRESH, fresh)
            .with_if(RecordFlags::END, self.ended);
        Record {
            flow: FlowNo(1),
            netns: NetnsId { inode: NETNS, boot: boot(node) },
            zone: Zone(0),
            orig: inside,
            reply: outside.inverse(),
            birth: Birth::Start(u64::try_from(moment(start).0).unwrap()),
            mark: 0,
            status: Status(Status::CONFIRMED),
            tcp: TcpState(3),
            flags,
            since: boottime(self.since),
            until: boottime(self.until),
            cum: counters(self.cum),
            delta: counters(self.cum).above(counters(self.base)),
            offset: Counters::ZERO,
            stop: 0,
        }
    }
}

const NETNS: NetnsInode = NetnsInode(4_026_531_840);

fn boot(node: usize) -> BootId {
    BootId([u8::try_from(node).unwrap() + 1; 16])
}

fn moment(seconds: f64) -> UnixNanos {
    BEGIN.plus(Duration::from_secs_f64(seconds))
}

fn boottime(seconds: f64) -> BootNanos {
    BootNanos(1_000_000_000_000).plus(Duration::from_secs_f64(seconds))
}

/// Hosts that tell readings, in the order in which they arrive.
#[derive(Default)]
struct Tale {
    frames: Vec<Sent>,
    arrivals: Vec<Arrival>,
    seqs: Vec<u64>,
    /// Each host's clock is measured, or is this far ahead.
    wrong: Option<Vec<f64>>,
}

impl Tale {
    /// So many hosts, each of which has swept once at the beginning.
    fn of(nodes: usize) -> Self {
        let mut tale = Self { seqs: vec![0; nodes], ..Self::default() };
        (0..nodes).for_each(|node| tale.tell(node, 0.1, 0.1, &[]));
        tale
    }

    /// The clocks are off by so many seconds, and nobody has measured that.
    fn with_clocks_off(mut self, wrong: &[f64]) -> Self {
        self.wrong = Some(wrong.to_vec());
        self.arrivals.iter_mut().for_each(|arrival| arrival.session = None);
        for sent in &mut self.frames {
            sent.interval.clock.wall = moment(0.1 + 10.0 + wrong[sent.node]).minus(TEN);
        }
        self
    }

    /// A frame of a sweep at `swept` arrives.
    fn tell(&mut self, node: usize, swept: f64, arrives: f64, reads: &[Read]) {
        self.seqs[node] += 1;
        let offset = ClockOffset::between(boottime(0.0), moment(0.0));
        let session = SessionClock { offset, boot: boot(node), at: boottime(arrives) };
        let wrong = self.wrong.as_ref().map_or(0.0, |wrong| wrong[node]);
        let interval = Interval {
            number: self.seqs[node],
            length_ms: 10_000,
            part: 1,
            parts: 1,
            sweep_begin: boottime(swept),
            sweep_end: boottime(swept),
            boot: boot(node),
            clock: ClockPair {
                boot: boottime(swept),
                wall: moment(swept + 10.0 + wrong).minus(TEN),
                synchronised: true,
                stepped: false,
            },
            offset: None,
            totals: KernelTotals::default(),
            paused: false,
        };
        let session = self.wrong.is_none().then_some(session);
        let arrival = Arrival { at: moment(arrives), frame: self.frames.len(), session };
        self.arrivals.push(arrival);
        let records = reads.iter().map(Read::record).collect();
        let (epoch, seq) = (u32::try_from(node).unwrap(), self.seqs[node]);
        self.frames.push(Sent { node, epoch, seq, at: moment(swept), interval, records });
    }

    /// A reading is told by the sweep that takes it.
    fn say(&mut self, read: Read) {
        let until = read.until;
        let last = self.arrivals.last().map_or(0.0, |last| last.at.diff(BEGIN) as f64 / 1e9);
        self.tell(read.entry.node, until, until.max(last) + 0.2, &[read]);
    }

    /// Packets counted in the end, by everyone who counts; always the same.
    fn total(self) -> i64 {
        let nodes = self.seqs.len();
        let mut pure = self.pure(nodes);
        let frames = self.frames;
        for seed in 0..12 {
            let recipe = Recipe::new(Scenario::Full, seed);
            let told = told(recipe, nodes, frames.clone());
            let (sums, trouble) = stored::store(&told, &self.arrivals).unwrap();
            let of = |counters: Counters| {
                (counters.orig.packets.get() + counters.reply.packets.get()).cast_signed()
            };
            let stored: i64 = sums.values().map(|sum| of(sum.counted) - of(sum.back)).sum();
            assert_eq!(stored, pure, "seed {seed} of {trouble:?}");
            pure = stored;
        }
        pure
    }

    fn pure(&self, nodes: usize) -> i64 {
        let hold = Duration::from_secs(0);
        let way = Way { merge: MergeConfig::default(), hold, dropped: 3 };
        let mut pure = Pure::new(way, &spots(nodes));
        let mut rows = Vec::new();
        for arrival in &self.arrivals {
            rows.extend(pure.arrive(&self.frames[arrival.frame], arrival.session, arrival.at));
        }
        rows.extend(pure.finish());
        assert!(rows.iter().all(|row| !row.fell), "5: it fell");
        let of = |c: &Counters| (c.orig.packets.get() + c.reply.packets.get()).cast_signed();
        let counted: i64 = rows.iter().map(|row| of(&row.counted)).sum();
        let back = rows.iter().flat_map(|row| &row.back);
        counted - back.map(|(_, back)| of(back)).sum::<i64>()
    }
}

const TEN: Duration = Duration::from_secs(10);

fn spots(nodes: usize) -> Vec<Spot> {
    let second = Duration::from_secs(1);
    let idle = Idle {
        opening: second,
        established: second,
        time_wait: second,
        closed: second,
        unanswered: second,
        answered: second,
    };
    let (inside, outside) = (Domain(0), Domain(0));
    let spot = |node| Spot {
        node,
        netns: NETNS,
        public: None,
        inside,
        outside,
        idle,
        joining: false,
        twin: None,
    };
    (0..nodes).map(spot).collect()
}

fn told(recipe: Recipe, nodes: usize, frames: Vec<Sent>) -> Told {
    let site = Site {
        spots: spots(nodes),
        nodes,
        flows: Vec::new(),
        packets: Vec::new(),
        begins: Vec::new(),
        loss: 0.0,
        dies: None,
        late: Vec::new(),
        end: moment(10_000.0),
    };
    Told {
        recipe,
        site,
        packets: Vec::new(),
        tables: Vec::new(),
        nodes: Vec::new(),
        frames,
        lost: Vec::new(),
        end: moment(10_000.0),
        next_epoch: 100,
        happened: Happened::default(),
    }
}

#[test]
fn some_of_the_worlds_they_go_through_are_hostile() {
    let hostile = |seed| Recipe::new(Scenario::Full, seed).faults().has(Fault::Commits);
    assert!((0..12).any(hostile) && !(0..12).all(hostile));
}

#[test]
fn x1_a_late_joiner_adds_nothing() {
    let mut tale = Tale::of(2);
    tale.say(read(entry(0, 55.6), 55.6, 66.5, (0, 0), (1, 3)));
    tale.say(read(entry(1, 63.2), 63.2, 70.0, (0, 0), (1, 1)));
    assert_eq!(tale.total(), 4);
}

#[test]
fn x2_an_entry_made_again_while_another_hosts_lives_on() {
    let (a, again, b) = (entry(0, 1.0), entry(0, 100.9), entry(1, 1.0));
    let mut tale = Tale::of(2);
    tale.say(read(a, 1.0, 10.0, (0, 0), (9, 11)));
    tale.say(read(b, 1.0, 12.0, (0, 0), (9, 11)));
    tale.say(read(a, 30.0, 41.0, (9, 11), (9, 11)).end());
    tale.say(read(again, 100.9, 110.0, (0, 0), (2, 2)));
    tale.say(read(b, 100.0, 112.0, (9, 11), (11, 13)));
    assert_eq!(tale.total(), 24);
}

#[test]
fn x3_the_first_host_is_told_of_hours_later() {
    let (a, b) = (entry(0, 1.0), entry(1, 30.0));
    let mut tale = Tale::of(2);
    tale.say(read(b, 30.0, 40.0, (0, 0), (5, 0)));
    tale.say(read(b, 40.0, 50.0, (5, 0), (10, 0)));
    for ten in 0..5_u32 {
        let (since, before) = (f64::from(ten) * 10.0, u64::from(ten) * 5);
        let read = read(a, since.max(1.0), since + 10.0, (before, 0), (before + 5, 0));
        tale.tell(0, since + 10.0, 8_000.0 + f64::from(ten), &[read]);
    }
    assert_eq!(tale.total(), 25);
}

#[test]
fn x4_a_takeover_on_a_copied_entry() {
    let mut tale = Tale::of(2);
    tale.say(read(entry(0, 26.0), 26.0, 76.0, (0, 0), (40, 0)));
    tale.say(read(entry(1, 26.0), 77.0, 86.4, (0, 0), (22, 0)));
    assert_eq!(tale.total(), 62);
}

#[test]
fn x5_there_and_back_on_the_old_entry() {
    let (a, b) = (entry(0, 1.0), entry(1, 12.0));
    let mut tale = Tale::of(2);
    tale.say(read(a, 1.0, 10.0, (0, 0), (6, 0)));
    tale.say(read(b, 12.0, 20.0, (0, 0), (5, 0)));
    tale.say(read(a, 22.0, 30.0, (6, 0), (11, 0)));
    assert_eq!(tale.total(), 16);
}

#[test]
fn x6_one_way_each_one_of_them_reversed_and_a_late_third() {
    let reversed = Entry { inside: plain().inverse(), outside: plain().inverse(), ..entry(1, 1.3) };
    let mut tale = Tale::of(3);
    tale.say(read(entry(0, 1.0), 1.0, 10.0, (0, 0), (2, 0)));
    tale.say(read(reversed, 1.3, 10.0, (0, 0), (1, 0)));
    tale.say(read(entry(2, 5.0), 5.0, 10.0, (0, 0), (1, 1)));
    assert_eq!(tale.total(), 3);
}

#[test]
fn a_third_host_that_sees_both_ways_adds_nothing_to_two_that_see_one_each() {
    let back = Entry { inside: plain().inverse(), outside: plain().inverse(), ..entry(1, 1.3) };
    for late in [None, Some(11.0), Some(9_000.0)] {
        let mut tale = Tale::of(3);
        tale.say(read(entry(0, 1.0), 1.0, 10.0, (0, 0), (6, 0)));
        tale.say(read(back, 1.3, 10.5, (0, 0), (4, 0)));
        tale.say(read(entry(0, 1.0), 10.0, 20.0, (6, 0), (7, 0)).end());
        tale.say(read(back, 10.5, 20.0, (4, 0), (9, 0)).end());
        if let Some(arrives) = late {
            let full = read(entry(2, 1.0), 1.0, 20.0, (0, 0), (7, 9)).end();
            tale.tell(2, 20.0, arrives, &[full]);
        }
        assert_eq!(tale.total(), 16, "{late:?}");
    }
}

#[test]
fn x7_the_second_host_is_first_heard_of_after_a_crash() {
    let (a, b) = (entry(0, 1.0), entry(1, 1.0));
    let mut tale = Tale::of(2);
    tale.say(read(a, 1.0, 10.0, (0, 0), (10, 0)));
    tale.say(read(b, 1.0, 11.0, (0, 0), (10, 0)));
    tale.say(read(a, 10.0, 20.0, (10, 0), (13, 0)));
    assert_eq!(tale.total(), 13);
}

#[test]
fn x8_x9_the_gateway_between_two_routers_comes_an_hour_late() {
    let inner = entry(0, 1.0);
    let outer = Entry { inside: public(), outside: public(), ..entry(1, 1.0) };
    let gateway = Entry { outside: public(), ..entry(2, 1.0) };
    let mut tale = Tale::of(3);
    tale.say(read(inner, 1.0, 10.0, (0, 0), (10, 10)));
    tale.say(read(outer, 1.0, 10.0, (0, 0), (10, 10)));
    let read_then = read(gateway, 1.0, 10.0, (0, 0), (10, 10));
    tale.tell(2, 10.0, 3_600.0, &[read_then]);
    tale.say(read(inner, 10.0, 20.0, (10, 10), (13, 10)));
    assert_eq!(tale.total(), 23);
}

#[test]
fn x10_generations_nearer_than_the_clocks_are_right() {
    let mut tale = Tale::of(2).with_clocks_off(&[1.25, -1.25]);
    for node in [0, 1] {
        let (one, other) = (entry(node, 20.0), entry(node, 25.0));
        tale.say(read(one, 20.0, 22.0, (0, 0), (5, 0)).end());
        tale.say(read(other, 25.0, 30.0, (0, 0), (7, 0)).end());
    }
    assert_eq!(tale.total(), 12);
}

#[test]
fn x11_one_entry_lingers_through_two_generations() {
    let (long, one, other) = (entry(0, 1.0), entry(1, 1.0), entry(1, 50.0));
    let mut tale = Tale::of(2);
    tale.say(read(long, 1.0, 10.0, (0, 0), (6, 0)));
    tale.say(read(one, 1.0, 11.0, (0, 0), (6, 0)).end());
    tale.say(read(other, 50.0, 58.0, (0, 0), (4, 0)).end());
    tale.say(read(long, 49.0, 60.0, (6, 0), (10, 0)));
    assert_eq!(tale.total(), 10);
}

#[test]
fn x12_a_host_goes_on_with_another_entry() {
    let (one, other, b) = (entry(0, 1.0), entry(0, 12.0), entry(1, 1.0));
    let mut tale = Tale::of(2);
    tale.say(read(one, 1.0, 10.0, (0, 0), (8, 0)).end());
    tale.say(read(other, 12.0, 20.0, (0, 0), (8, 0)));
    tale.say(read(b, 1.0, 21.0, (0, 0), (16, 0)));
    assert_eq!(tale.total(), 16);
}

#[test]
fn x13_a_closed_entry_grows_again() {
    let (a, b) = (entry(0, 1.0), Entry { fresh: true, ..entry(1, 11.0) });
    let mut tale = Tale::of(2);
    tale.say(read(a, 1.0, 10.0, (0, 0), (5, 0)).end());
    for more in 0..10 {
        tale.say(read(b, 11.0, 20.0, (more, 0), (more + 1, 0)));
        tale.say(read(a, 10.0, 20.0, (5 + more, 0), (6 + more, 0)).end());
    }
    // A alone grew by 15; B's ten may be ten of these.
    assert_eq!(tale.total(), 15);
}

#[test]
fn x14_a_run_in_anothers_silence_comes_late() {
    let (a, b) = (entry(0, 1.0), entry(1, 12.0));
    let mut tale = Tale::of(2);
    tale.say(read(a, 1.0, 10.0, (0, 0), (6, 0)));
    tale.say(read(a, 30.0, 40.0, (6, 0), (11, 0)));
    for ten in 4..10_u32 {
        let (since, before) = (f64::from(ten) * 10.0, u64::from(ten) + 7);
        tale.say(read(a, since, since + 10.0, (before, 0), (before + 1, 0)));
    }
    tale.tell(1, 25.0, 5_000.0, &[read(b, 15.0, 25.0, (0, 0), (5, 0))]);
    assert_eq!(tale.total(), 22);
}

#[test]
fn x15_a_port_of_the_gateway_is_another_hosts_flow_at_once() {
    let (one, other) = (tuple("10.0.0.1:4000", SERVER), tuple("10.0.0.2:4000", SERVER));
    let at_gateway = |inside, start| Entry { inside, outside: public(), ..entry(0, start) };
    let at_router = |start| Entry { inside: public(), outside: public(), ..entry(1, start) };
    let mut tale = Tale::of(2);
    tale.say(read(at_gateway(one, 1.0), 1.0, 10.0, (0, 0), (5, 5)).end());
    tale.say(read(at_router(1.0), 1.0, 10.0, (0, 0), (5, 5)).end());
    // The router tells first of what follows: it might belong to what was.
    tale.say(read(at_router(10.1), 10.1, 20.0, (0, 0), (7, 7)));
    tale.say(read(at_gateway(other, 10.1), 10.1, 20.0, (0, 0), (7, 7)));
    assert_eq!(tale.total(), 24);
}

#[test]
fn x16_a_router_does_not_notice_that_the_port_is_another_hosts() {
    let (one, other) = (tuple("10.0.0.1:4000", SERVER), tuple("10.0.0.2:4000", SERVER));
    let at_gateway = |inside, start| Entry { inside, outside: public(), ..entry(0, start) };
    let long = Entry { inside: public(), outside: public(), ..entry(1, 1.0) };
    let mut tale = Tale::of(2);
    tale.say(read(at_gateway(one, 1.0), 1.0, 10.0, (0, 0), (5, 5)).end());
    tale.say(read(long, 1.0, 10.0, (0, 0), (5, 5)));
    tale.say(read(at_gateway(other, 40.0), 40.0, 50.0, (0, 0), (7, 7)).end());
    tale.say(read(long, 39.0, 51.0, (5, 5), (12, 12)));
    assert_eq!(tale.total(), 24);
}

#[test]
fn x17_the_gateway_gives_a_flow_another_port_while_a_router_keeps_it() {
    let gateway = |port: &str, start| Entry { outside: tuple(port, SERVER), ..entry(0, start) };
    let long = entry(1, 1.0);
    let mut tale = Tale::of(2);
    tale.say(read(long, 1.0, 10.0, (0, 0), (5, 5)));
    tale.say(read(gateway("198.51.100.1:4000", 1.0), 1.0, 10.0, (0, 0), (5, 5)).end());
    tale.say(read(gateway("198.51.100.1:4001", 40.0), 40.0, 50.0, (0, 0), (7, 7)).end());
    tale.say(read(long, 39.0, 51.0, (5, 5), (12, 12)));
    assert_eq!(tale.total(), 24);
}
