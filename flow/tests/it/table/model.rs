//! The table against a model of a kernel: entries are born, grow, are zeroed, die and are born
//! again under the same tuple, while sweeps fail half way, ends come late, twice or never, spools
//! pause or fail, the node crashes anywhere, and its clock is stepped.

use std::collections::{BTreeMap, BTreeSet};

use flow::entry::{EntryId, Zone};
use flow::record::{ClockPair, RecordFlags};
use flow::table::{Baseline, BaselineSet, EmitMode, FlowTable, SweepEnd, TableLimits};
use flow::{Birth, Counters, FlowNo, Interval, NetnsId, NetnsInode, Reading, Record, UnixNanos};
use proptest::prelude::*;

use super::kit::{BOOT, interval, ms, reading, stamp};

/// One entry's whole life.
#[derive(Clone, Debug)]
struct Life {
    place: Place,
    start: u64,
    kernel_id: u32,
    /// What it really carried by when, absolute.
    log: Vec<(u64, [u64; 4])>,
    /// What the kernel says: less after somebody zeroed it.
    kernel: Counters,
    zeroed: bool,
    died: Option<u64>,
    stop: u64,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Pending,
    /// To which life of the node, and when.
    Delivered {
        node: u32,
        at: u64,
    },
    Lost,
}

/// A namespace and a tuple in it.
type Place = (u8, u8);

#[derive(Clone, Debug)]
enum Act {
    Wait(u16),
    Born { place: Place, stamped: bool },
    Packets { place: Place, reply: bool, packets: u8 },
    Zero(Place),
    Die(Place),
    Deliver { pick: u8, twice: bool },
    Lose(u8),
    Sweep { fails: Option<u8>, mid: Vec<(u8, Self)>, late: bool },
    FailSweep,
    Emit { mode: EmitMode, early: bool, fate: Fate },
    Checkpoint,
    Crash,
    Forget,
    Wipe,
    Step(i16),
}

/// What becomes of emitted records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Durable,
    Lost,
    /// Durable, and the node dies before it can commit.
    DurableThenCrash,
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    /// The kernel gives every life of a tuple the same id.
    ids_repeat: bool,
    live: usize,
}

struct World {
    setup: Setup,
    now: u64,
    wall_ahead: i64,
    stepped: bool,
    /// When this life of the node began, and when its state was wiped last.
    started: u64,
    wiped: u64,
    lives: Vec<Life>,
    alive: BTreeMap<Place, usize>,
    node: u32,
    table: FlowTable,
    checkpoint: (Vec<Baseline>, FlowNo, Option<flow::table::DurableSweep>),
    frames: Vec<(Interval, Vec<Record>)>,
    /// Highest reading that arrived, per entry: what an aggregator counts.
    counted: BTreeMap<EntryId, Counters>,
    /// `cum` of the last durable record of this epoch.
    durable: BTreeMap<EntryId, Counters>,
    ended: BTreeSet<EntryId>,
    ended_seen: BTreeSet<EntryId>,
}

const GRACE_MS: u64 = 3_000;

fn new_table(setup: Setup) -> FlowTable {
    FlowTable::new(limits(setup), BOOT, 1)
}

fn limits(setup: Setup) -> TableLimits {
    TableLimits {
        live: setup.live,
        ended: 64,
        grace_sweeps: 2,
        grace: std::time::Duration::from_millis(GRACE_MS),
    }
}

impl World {
    fn new(setup: Setup) -> Self {
        let mut world = Self {
            setup,
            now: 10_000,
            wall_ahead: 0,
            stepped: false,
            started: 0,
            wiped: 0,
            lives: Vec::new(),
            alive: BTreeMap::new(),
            node: 0,
            table: new_table(setup),
            checkpoint: (Vec::new(), FlowNo(1), None),
            frames: Vec::new(),
            counted: BTreeMap::new(),
            durable: BTreeMap::new(),
            ended: BTreeSet::new(),
            ended_seen: BTreeSet::new(),
        };
        world.set_clock();
        world
    }

    fn wall(&self) -> u64 {
        stamp(self.now).saturating_add_signed(self.wall_ahead)
    }

    fn set_clock(&mut self) {
        let wall = UnixNanos(i64::try_from(self.wall()).unwrap());
        let boot = ms(self.now);
        self.table.set_clock(ClockPair { boot, wall, synchronised: true, stepped: false });
    }

    fn read(&self, life: &Life) -> Reading {
        let (netns, n) = life.place;
        Reading {
            netns: NetnsInode(u32::from(netns)),
            kernel_id: life.kernel_id,
            stop: life.stop,
            counters: Some(life.kernel),
            ..reading(u16::from(n), life.start, 0)
        }
    }

    fn entry(&self, life: &Life) -> EntryId {
        let read = self.read(life);
        let netns = NetnsId { inode: read.netns, boot: BOOT };
        EntryId { netns, zone: Zone(0), orig: read.orig, birth: read.birth() }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Wait(by) => self.now += u64::from(*by),
            Act::Born { place, stamped } => self.born(*place, *stamped),
            Act::Packets { place, reply, packets } => {
                self.packets(*place, *reply, u64::from(*packets));
            }
            Act::Zero(place) => {
                if let Some(&life) = self.alive.get(place) {
                    self.lives[life].kernel = Counters::ZERO;
                    self.lives[life].zeroed = true;
                }
            }
            Act::Die(place) => {
                if let Some(life) = self.alive.remove(place) {
                    let stop = self.wall();
                    let life = &mut self.lives[life];
                    life.died = Some(self.now);
                    life.stop = if life.start == 0 { 0 } else { stop };
                }
            }
            Act::Deliver { pick, twice } => {
                if let Some(life) = self.waiting(*pick) {
                    self.deliver(life);
                    if *twice {
                        self.now += 1;
                        self.deliver(life);
                    }
                }
            }
            Act::Lose(pick) => {
                if let Some(life) = self.waiting(*pick) {
                    self.lives[life].end = End::Lost;
                }
            }
            Act::Sweep { fails, mid, late } => self.sweep(*fails, mid, *late),
            Act::FailSweep => {
                self.table.sweep_begin(ms(self.now));
                self.table.sweep_failed();
                self.now += 1;
            }
            Act::Emit { mode, early, fate } => self.emit(*mode, *early, *fate),
            Act::Checkpoint => {
                let set = self.restored_set();
                let baselines = self.table.baselines().collect();
                self.checkpoint = (baselines, self.table.next_flow(), set.durable());
                self.frames.clear();
            }
            Act::Crash => self.crash(),
            Act::Forget | Act::Wipe => {
                if matches!(act, Act::Forget) {
                    self.table.forget_baselines();
                } else {
                    self.node += 1;
                    self.wiped = self.now;
                    self.table = new_table(self.setup);
                    self.set_clock();
                }
                self.checkpoint = (Vec::new(), FlowNo(1), None);
                self.frames.clear();
                self.durable.clear();
            }
            Act::Step(by) => {
                self.wall_ahead += i64::from(*by) * 1_000_000;
                self.stepped = true;
            }
        }
    }

    fn born(&mut self, place: Place, stamped: bool) {
        if self.alive.contains_key(&place) {
            return;
        }
        // Two births never share a nanosecond.
        self.now += 1;
        let kernel_id = if self.setup.ids_repeat {
            u32::from(place.0) << 8 | u32::from(place.1)
        } else {
            u32::try_from(self.lives.len()).unwrap()
        };
        let life = Life {
            place,
            start: if stamped { self.wall() + self.lives.len() as u64 } else { 0 },
            kernel_id,
            log: Vec::new(),
            kernel: Counters::ZERO,
            zeroed: false,
            died: None,
            stop: 0,
            end: End::Pending,
        };
        self.alive.insert(place, self.lives.len());
        self.table.born(&Reading { start: 0, counters: None, ..self.read(&life) });
        self.lives.push(life);
        self.now += 1;
    }

    fn packets(&mut self, place: Place, reply: bool, packets: u64) {
        let Some(&life) = self.alive.get(&place) else { return };
        let life = &mut self.lives[life];
        let bytes = packets * 100;
        let more = if reply {
            Counters::new(0, 0, packets, bytes)
        } else {
            Counters::new(packets, bytes, 0, 0)
        };
        life.kernel = life.kernel.plus(more);
        let before = life.log.last().map_or([0; 4], |(_, sum)| *sum);
        let sum = Counters::from_components(before).plus(more).components();
        life.log.push((self.now, sum));
    }

    fn waiting(&self, pick: u8) -> Option<usize> {
        let waiting: Vec<_> = (0..self.lives.len())
            .filter(|&at| self.lives[at].died.is_some() && self.lives[at].end == End::Pending)
            .collect();
        waiting.get(usize::from(pick) % waiting.len().max(1)).copied()
    }

    fn deliver(&mut self, life: usize) {
        self.set_clock();
        let read = self.read(&self.lives[life]);
        self.table.ended(&read, ms(self.now));
        if self.lives[life].end == End::Pending {
            self.lives[life].end = End::Delivered { node: self.node, at: self.now };
        }
    }

    fn sweep(&mut self, fails: Option<u8>, mid: &[(u8, Act)], late: bool) {
        self.set_clock();
        self.table.sweep_begin(ms(self.now));
        self.now += 1;
        let mut chunk = Vec::new();
        let mut complete = Vec::new();
        let mut turn = 0;
        for netns in 0..NETNSES {
            for n in 0..TUPLES {
                for (_, act) in mid.iter().filter(|(at, _)| *at == turn) {
                    self.act(act);
                }
                turn += 1;
                if fails == Some(netns) && n > 0 {
                    continue;
                }
                if let Some(&life) = self.alive.get(&(netns, n)) {
                    chunk.push(self.read(&self.lives[life]));
                    self.now += 1;
                }
                if !late {
                    self.set_clock();
                    for reading in chunk.drain(..) {
                        self.table.swept(&reading, ms(self.now));
                    }
                }
            }
            if fails != Some(netns) {
                complete.push(NetnsInode(u32::from(netns)));
            }
        }
        self.set_clock();
        for reading in chunk {
            self.table.swept(&reading, ms(self.now));
        }
        let failed: Vec<_> = fails.iter().map(|netns| NetnsInode(u32::from(*netns))).collect();
        let report =
            SweepEnd { end: ms(self.now), complete: &complete, failed: &failed, gone: &[] };
        self.table.sweep_end(&report);
        if mid.is_empty() && fails.is_none() {
            assert_eq!(self.table.totals().live_flows, self.alive.len() as u64);
        }
        self.now += 1;
    }

    fn emit(&mut self, mode: EmitMode, early: bool, fate: Fate) {
        let mut records = Vec::new();
        let emission = self.table.emit(mode, &mut |record| records.push(*record));
        let parts = u32::from(!(early && mode == EmitMode::EndsOnly));
        let header = interval(&self.table, ms(self.now), parts, mode != EmitMode::All);
        if fate == Fate::Lost || mode == EmitMode::Nothing {
            return;
        }
        for record in &records {
            self.check(record);
        }
        self.frames.push((header, records));
        if fate == Fate::DurableThenCrash {
            self.crash();
        } else {
            self.table.commit(emission).unwrap();
            if parts == 1 {
                self.table.close_interval();
            }
        }
    }

    fn restored_set(&self) -> BaselineSet {
        let mut set = BaselineSet::new(5);
        let (baselines, next_flow, durable) = &self.checkpoint;
        baselines.iter().for_each(|baseline| set.insert(*baseline));
        set.set_next_flow(*next_flow);
        durable.iter().for_each(|durable| set.set_durable(*durable));
        for (header, records) in &self.frames {
            records.iter().for_each(|record| set.fold(record, header));
            set.fold_interval(header);
        }
        set
    }

    fn crash(&mut self) {
        let set = self.restored_set();
        for baseline in set.iter().filter(|_| !self.setup.ids_repeat) {
            assert_eq!(Some(&baseline.cum), self.durable.get(&baseline.entry));
        }
        self.node += 1;
        self.now += 1;
        self.started = self.now;
        self.table = FlowTable::restore(limits(self.setup), BOOT, 6, set, ms(self.now));
        self.set_clock();
    }

    /// What must be true of every record that becomes durable.
    fn check(&mut self, record: &Record) {
        let entry = record.entry();
        let lives: Vec<_> =
            self.lives.iter().filter(|life| self.entry(life) == entry).cloned().collect();
        let [life] = &lives[..] else {
            assert!(self.setup.ids_repeat && matches!(entry.birth, Birth::Id(_)), "{record:?}");
            self.count(record);
            return;
        };
        let counted = self.counted.get(&entry).copied().unwrap_or_default();
        let ended = self.ended.contains(&entry);
        if !ended {
            let base = self.durable.get(&entry).copied().unwrap_or_default();
            assert_eq!(record.base(), base, "cum - delta is what was durable: {record:?}");
        }
        if record.flags.has(RecordFlags::UNSEEN) {
            assert!(life.died.is_some(), "closed, and alive: {record:?}");
        }
        assert!(record.since <= record.until, "{record:?}");
        let held = match life.end {
            End::Delivered { at, .. } => at - life.died.unwrap(),
            _ => 0,
        };
        // Beyond what the table may assume: an end later than the grace without a stamp that can
        // be read (none, a step, a restart), and one that was held for a node whose state was
        // wiped while its clock was stepped.
        let died_before = |moment| life.died.is_some_and(|died| died < moment);
        let late = held >= GRACE_MS
            && (life.start == 0 || self.stepped || died_before(self.started))
            || self.stepped && died_before(self.wiped);
        if !life.zeroed && !late {
            let base = if ended { record.base().max(counted) } else { record.base() };
            if let Some((first, last)) = life.span(base, record.cum) {
                assert!(record.since <= ms(first), "grew from {first} ms on: {record:?}");
                assert!(record.until >= ms(last), "grew until {last} ms: {record:?}");
            }
        }
        self.count(record);
    }

    fn count(&mut self, record: &Record) {
        let entry = record.entry();
        let counted = self.counted.entry(entry).or_default();
        *counted = counted.max(record.cum);
        self.durable.insert(entry, record.cum);
        if record.flags.has(RecordFlags::END) {
            self.ended.insert(entry);
            if !record.flags.has(RecordFlags::UNSEEN) {
                self.ended_seen.insert(entry);
            }
        }
    }

    /// Everything comes to rest, then the books must balance.
    fn finish(mut self) {
        self.now += 1;
        for life in 0..self.lives.len() {
            if self.lives[life].died.is_some() && self.lives[life].end == End::Pending {
                self.deliver(life);
            }
        }
        self.now += 1;
        self.sweep(None, &[], false);
        self.emit(EmitMode::All, false, Fate::Durable);
        let mut truth: BTreeMap<EntryId, (Counters, Vec<Life>)> = BTreeMap::new();
        for life in &self.lives {
            let entry = self.entry(life);
            let sum = truth.entry(entry).or_default();
            sum.0 = sum.0.plus(life.total());
            sum.1.push(life.clone());
        }
        for (entry, (total, lives)) in truth {
            let counted = self.counted.get(&entry).copied().unwrap_or_default();
            assert!(!total.any_below(counted), "over: {counted:?} of {total:?}");
            let [life] = &lives[..] else { continue };
            let told = match life.end {
                End::Delivered { node, .. } => {
                    node == self.node || self.ended_seen.contains(&entry)
                }
                End::Pending => self.table.get(&entry).is_some(),
                End::Lost => false,
            };
            if told && !life.zeroed {
                assert_eq!(counted, total, "{entry:?}");
            }
        }
    }
}

impl Life {
    fn total(&self) -> Counters {
        Counters::from_components(self.log.last().map_or([0; 4], |(_, sum)| *sum))
    }

    /// When the first and the last packet of the growth from `base` to `cum` came.
    fn span(&self, base: Counters, cum: Counters) -> Option<(u64, u64)> {
        let mut span: Option<(u64, u64)> = None;
        for (c, (base, cum)) in base.components().into_iter().zip(cum.components()).enumerate() {
            if cum <= base {
                continue;
            }
            let first = self.log.iter().find(|(_, sum)| sum[c] > base)?.0;
            let last = self.log.iter().find(|(_, sum)| sum[c] >= cum)?.0;
            span = Some(span.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
        }
        span
    }
}

const NETNSES: u8 = 2;
const TUPLES: u8 = 3;

fn place() -> impl Strategy<Value = Place> {
    (0..NETNSES, 0..TUPLES)
}

/// What a kernel and its events do, also while a sweep runs.
fn kernel_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (place(), prop::bool::weighted(0.7))
            .prop_map(|(place, stamped)| Act::Born { place, stamped }),
        8 => (place(), any::<bool>(), 1..9u8)
            .prop_map(|(place, reply, packets)| Act::Packets { place, reply, packets }),
        1 => place().prop_map(Act::Zero),
        3 => place().prop_map(Act::Die),
        3 => (any::<u8>(), prop::bool::weighted(0.2))
            .prop_map(|(pick, twice)| Act::Deliver { pick, twice }),
        1 => (1..200u16).prop_map(Act::Wait),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let mode = prop_oneof![
        4 => Just(EmitMode::All),
        2 => Just(EmitMode::EndsOnly),
        1 => Just(EmitMode::Nothing),
    ];
    let fate = prop_oneof![
        6 => Just(Fate::Durable),
        1 => Just(Fate::Lost),
        1 => Just(Fate::DurableThenCrash),
    ];
    let mid = prop::collection::vec((0..NETNSES * TUPLES, kernel_act()), 0..5);
    prop_oneof![
        24 => kernel_act(),
        3 => (1..2_500u16).prop_map(Act::Wait),
        1 => any::<u8>().prop_map(Act::Lose),
        10 => (prop::option::weighted(0.15, 0..NETNSES), mid, any::<bool>())
            .prop_map(|(fails, mid, late)| Act::Sweep { fails, mid, late }),
        1 => Just(Act::FailSweep),
        10 => (mode, any::<bool>(), fate)
            .prop_map(|(mode, early, fate)| Act::Emit { mode, early, fate }),
        2 => Just(Act::Checkpoint),
        2 => Just(Act::Crash),
        1 => Just(Act::Forget),
        1 => Just(Act::Wipe),
        1 => (-5_000..5_000i16).prop_map(Act::Step),
    ]
}

fn run(setup: Setup, acts: &[Act]) {
    let mut world = World::new(setup);
    for act in acts {
        world.act(act);
    }
    world.finish();
}

proptest! {
    #[test]
    fn a_table_is_exact_and_its_bounds_true(acts in prop::collection::vec(act(), 1..120)) {
        run(Setup { ids_repeat: false, live: 1_000 }, &acts);
    }

    #[test]
    fn a_full_table_is_exact_and_its_bounds_true(acts in prop::collection::vec(act(), 1..120)) {
        run(Setup { ids_repeat: false, live: 2 }, &acts);
    }

    #[test]
    fn repeated_kernel_ids_never_count_over(acts in prop::collection::vec(act(), 1..120)) {
        run(Setup { ids_repeat: true, live: 1_000 }, &acts);
    }
}
