//! A merging world's events in order of time: packets, sweeps, and what goes wrong on hosts.
//! What comes of it is the truth, and frames.

use std::time::Duration;

use flow::{NetnsId, Reading, UnixNanos};
use rand::Rng;
use rand::rngs::SmallRng;

use super::conntrack::{Arriving, Conntrack, Entry, Way};
use super::node::{Boot, Close, Node, Sent};
use super::recipe::{Fault, Faults, Part, Recipe};
use super::site::{BEGIN, Site};
use super::traffic::{Packet, seconds};

/// A world that is over: what passed, and what was told of it.
pub(crate) struct Told {
    pub(crate) recipe: Recipe,
    pub(crate) site: Site,
    pub(crate) packets: Vec<Packet>,
    pub(crate) tables: Vec<Conntrack>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) frames: Vec<Sent>,
    /// Epochs whose frames are lost where they have not arrived by then.
    pub(crate) lost: Vec<(u32, UnixNanos)>,
    pub(crate) end: UnixNanos,
    /// The first epoch number that is free.
    pub(crate) next_epoch: u32,
    pub(crate) happened: Happened,
}

/// How often things happened that worlds are made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Node processes that were away for a while.
    pub outages: u64,
    /// Epochs begun without baselines.
    pub rebases: u64,
    /// Frames that were lost with their spool.
    pub lost: u64,
    /// Frames told again under another epoch's name.
    pub copied: u64,
    /// Frames that arrived twice.
    pub duplicates: u64,
    /// Wall clocks that were stepped.
    pub steps: u64,
    /// Hosts that were booted again.
    pub reboots: u64,
    /// Entries copied between a pair.
    pub synchronised: u64,
    /// Entries picked up the wrong way round.
    pub reversed: u64,
    /// Entries whose host translates.
    pub translated: u64,
    /// Tuples used again by an entry of the same host.
    pub used_again: u64,
    /// Packets lost between hosts.
    pub packets_lost: u64,
    /// Changes that were drafted and thrown away.
    pub drafts_dropped: u64,
    /// COMMITs that were refused, lost, or kept without an answer.
    pub commit_faults: u64,
    /// Times the aggregator died.
    pub crashes: u64,
    /// Groups that turned out to be one.
    pub merged: u64,
    /// Rows that took something back.
    pub retractions: u64,
}

impl Happened {
    /// Every number with its name.
    #[must_use]
    pub const fn all(&self) -> [(&'static str, u64); 17] {
        [
            ("outages", self.outages),
            ("rebases", self.rebases),
            ("frames lost", self.lost),
            ("frames copied", self.copied),
            ("frames twice", self.duplicates),
            ("clock steps", self.steps),
            ("reboots", self.reboots),
            ("entries synchronised", self.synchronised),
            ("entries reversed", self.reversed),
            ("entries translated", self.translated),
            ("tuples used again", self.used_again),
            ("packets lost", self.packets_lost),
            ("drafts dropped", self.drafts_dropped),
            ("commits gone wrong", self.commit_faults),
            ("aggregator crashes", self.crashes),
            ("groups merged", self.merged),
            ("retractions", self.retractions),
        ]
    }

    /// Both together.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            outages: self.outages + other.outages,
            rebases: self.rebases + other.rebases,
            lost: self.lost + other.lost,
            copied: self.copied + other.copied,
            duplicates: self.duplicates + other.duplicates,
            steps: self.steps + other.steps,
            reboots: self.reboots + other.reboots,
            synchronised: self.synchronised + other.synchronised,
            reversed: self.reversed + other.reversed,
            translated: self.translated + other.translated,
            used_again: self.used_again + other.used_again,
            packets_lost: self.packets_lost + other.packets_lost,
            drafts_dropped: self.drafts_dropped + other.drafts_dropped,
            commit_faults: self.commit_faults + other.commit_faults,
            crashes: self.crashes + other.crashes,
            merged: self.merged + other.merged,
            retractions: self.retractions + other.retractions,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Packet(usize),
    Second,
    SweepBegin(usize),
    /// Half of the entries are read.
    SweepHalf(usize, usize),
    SweepEnd(usize, bool),
    Stop(usize),
    /// Without baselines; and what the spool held is lost.
    Start {
        node: usize,
        rebase: bool,
        lost: bool,
    },
    Step(usize, i64),
    Reboot(usize),
    Pause(usize, bool),
    Dies(usize),
}

struct World {
    told: Told,
    faults: Faults,
    loss: SmallRng,
    ends: SmallRng,
}

impl Told {
    /// Lives through the world of `recipe`.
    pub(crate) fn live(recipe: Recipe) -> Self {
        let mut site = Site::build(&recipe);
        let packets = std::mem::take(&mut site.packets);
        let faults = recipe.faults();
        let nodes: Vec<Node> = (0..site.nodes).map(|node| begin(&recipe, faults, node)).collect();
        let of = |spot: &super::site::Spot| {
            let netns = NetnsId { inode: spot.netns, boot: nodes[spot.node].boot().id };
            Conntrack::new(netns, spot.public, spot.idle)
        };
        let tables = site.spots.iter().map(of).collect();
        let end = site.end.plus(SETTLE);
        let told = Self {
            recipe,
            packets,
            tables,
            nodes,
            frames: Vec::new(),
            lost: Vec::new(),
            end,
            next_epoch: u32::try_from(site.nodes).unwrap_or(0),
            happened: Happened::default(),
            site,
        };
        let [loss, ends] = [0, 1].map(|number| recipe.stream(Part::Loss, number));
        let mut world = World { told, faults, loss, ends };
        for (_, event) in world.plan() {
            world.happen(event.0, event.1);
        }
        let entries = world.told.tables.iter().flat_map(|table| &table.entries);
        for entry in entries {
            let happened = &mut world.told.happened;
            happened.reversed += u64::from(entry.reversed);
            happened.translated += u64::from(entry.is_translated());
        }
        world.told
    }
}

fn begin(recipe: &Recipe, faults: Faults, number: usize) -> Node {
    let mut rng = recipe.stream(Part::Node, number);
    let up = Duration::from_secs(rng.random_range(10_000..10_000_000));
    let error = rng.random_range(-200_000_000..=200_000_000);
    let boot = Boot::new(number, 0, BEGIN, up, error);
    let length = Duration::from_secs([5, 10, 10, 10, 15][rng.random_range(0..5)]);
    let mut node = Node::new(number, boot, length);
    node.wall_error = rng.random_range(-1_900_000_000..=1_900_000_000);
    node.epoch = u32::try_from(number).unwrap_or(0);
    node.measures = !faults.has(Fault::Unmeasured);
    node.stamps = !(faults.has(Fault::Unstamped) && rng.random_bool(0.5));
    // It runs already, or is installed in the middle of all this.
    node.start(BEGIN, Some(node.epoch));
    node
}

impl World {
    /// All that is to happen, in order.
    fn plan(&self) -> Vec<(UnixNanos, (UnixNanos, Event))> {
        let mut plan: Vec<(UnixNanos, Event)> = Vec::new();
        let told = &self.told;
        plan.extend(told.packets.iter().enumerate().map(|(n, p)| (p.at, Event::Packet(n))));
        let length = u64::try_from(told.end.diff(BEGIN) / 1_000_000_000).unwrap_or(0);
        plan.extend((0..length).map(|n| (BEGIN.plus(Duration::from_secs(n)), Event::Second)));
        for node in 0..told.nodes.len() {
            self.plan_sweeps(node, &mut plan);
            self.plan_faults(node, &mut plan);
        }
        if let Some((node, at)) = told.site.dies {
            plan.push((at, Event::Dies(node)));
        }
        plan.sort_by_key(|(at, _)| *at);
        plan.into_iter().map(|(at, event)| (at, (at, event))).collect()
    }

    fn plan_sweeps(&self, node: usize, plan: &mut Vec<(UnixNanos, Event)>) {
        let mut rng = self.told.recipe.stream(Part::Sweeps, node);
        let length = self.told.nodes[node].length;
        let jitter = self.faults.has(Fault::Jitter);
        // Aligned to the host's own idea of time, more or less.
        let mut at = BEGIN.plus(length.mul_f64(rng.random_range(0.0..1.0)));
        while at < self.told.end {
            let late =
                if jitter { rng.random_range(0.0..0.25) } else { rng.random_range(0.0..0.01) };
            let takes = if jitter { rng.random_range(0.0..2.0) } else { 0.05 };
            let begin = at.plus(length.mul_f64(late));
            let torn = self.faults.has(Fault::TornSweeps) && rng.random_bool(0.1);
            plan.push((begin, Event::SweepBegin(node)));
            for (half, part) in [0.3, 0.7].into_iter().enumerate() {
                if !torn || half == 0 {
                    let moment = begin.plus(seconds(takes * part));
                    plan.push((moment, Event::SweepHalf(node, half)));
                }
            }
            plan.push((begin.plus(seconds(takes)), Event::SweepEnd(node, torn)));
            at = at.plus(length);
        }
    }

    fn plan_faults(&self, node: usize, plan: &mut Vec<(UnixNanos, Event)>) {
        let mut rng = self.told.recipe.stream(Part::Node, node + 1_000);
        let traffic = self.told.site.end.diff(BEGIN) as f64 / 1e9;
        let moment = |rng: &mut SmallRng| BEGIN.plus(seconds(rng.random_range(0.0..traffic)));
        for _ in 0..rng.random_range(0..3u8) {
            let (at, long) = (moment(&mut rng), rng.random_bool(0.3));
            let away =
                if long { rng.random_range(30.0..200.0) } else { rng.random_range(2.0..30.0) };
            let (rebase, lost) = (rng.random_bool(0.5), rng.random_bool(0.5));
            if self.faults.has(Fault::Outages) {
                let rebase = rebase && self.faults.has(Fault::Rebase);
                let lost = rebase && lost && self.faults.has(Fault::LostSpools);
                plan.push((at, Event::Stop(node)));
                plan.push((at.plus(seconds(away)), Event::Start { node, rebase, lost }));
            }
        }
        let (at, length) = (moment(&mut rng), rng.random_range(10.0..100.0));
        if self.faults.has(Fault::Pause) {
            plan.push((at, Event::Pause(node, true)));
            plan.push((at.plus(seconds(length)), Event::Pause(node, false)));
        }
        let (at, length) = (moment(&mut rng), rng.random_range(5.0..100.0));
        let by = if rng.random_bool(0.5) { HOUR } else { -HOUR };
        if self.faults.has(Fault::Steps) {
            plan.push((at, Event::Step(node, by)));
            plan.push((at.plus(seconds(length)), Event::Step(node, -by)));
        }
        let (at, away) = (moment(&mut rng), rng.random_range(10.0..60.0));
        if self.faults.has(Fault::Reboots) && rng.random_bool(0.5) {
            plan.push((at, Event::Reboot(node)));
            let start = Event::Start { node, rebase: false, lost: false };
            plan.push((at.plus(seconds(away)), start));
        }
        // In the end whoever can comes back, and all has been read.
        let start = Event::Start { node, rebase: false, lost: false };
        plan.push((self.told.site.end.plus(Duration::from_secs(1)), start));
    }

    fn happen(&mut self, now: UnixNanos, event: Event) {
        match event {
            Event::Packet(number) => self.packet(number),
            Event::Second => self.second(now),
            Event::SweepBegin(node) => self.told.nodes[node].sweep_begin(now),
            Event::SweepHalf(node, half) => {
                let readings = self.readings(node, half);
                self.told.nodes[node].swept(&readings, now);
            }
            Event::SweepEnd(node, torn) => {
                let spots = self.told.site.spots.iter().zip(&self.told.tables);
                let own = spots.filter(|(spot, _)| spot.node == node);
                let namespaces: Vec<_> = own.map(|(_, table)| table.netns()).collect();
                let sent = self.told.nodes[node].sweep_end(&namespaces, torn, now);
                self.told.frames.extend(sent);
            }
            Event::Stop(node) => {
                self.told.happened.outages += u64::from(self.told.nodes[node].is_up());
                self.told.nodes[node].stop();
            }
            Event::Start { node, rebase, lost } => self.start(node, rebase, lost, now),
            Event::Step(node, by) => {
                let node = &mut self.told.nodes[node];
                node.step(by);
                // Whoever is an hour off does not call himself synchronised.
                node.synchronised = node.wall_error.abs() < HOUR / 2;
                self.told.happened.steps += 1;
            }
            Event::Reboot(node) => self.reboot(node, now),
            Event::Pause(node, on) => self.told.nodes[node].paused = on,
            Event::Dies(node) => {
                self.told.nodes[node].stop();
                self.told.nodes[node].gone = true;
            }
        }
    }

    fn start(&mut self, node: usize, rebase: bool, lost: bool, now: UnixNanos) {
        let old = self.told.nodes[node].epoch;
        if self.told.nodes[node].is_up() || self.told.nodes[node].gone {
            return;
        }
        let epoch = rebase.then(|| {
            self.told.next_epoch += 1;
            self.told.next_epoch - 1
        });
        self.told.nodes[node].start(now, epoch);
        self.told.happened.rebases += u64::from(rebase);
        if lost {
            // Its link had been away for a while before.
            self.told.lost.push((old, now.minus(UNSENT)));
        }
    }

    fn reboot(&mut self, node: usize, now: UnixNanos) {
        if self.told.nodes[node].gone {
            return;
        }
        self.told.happened.reboots += 1;
        let number = u8::try_from(self.told.nodes[node].boots.len()).unwrap_or(u8::MAX);
        let mut rng = self.told.recipe.stream(Part::Node, node + 2_000 + usize::from(number));
        let error = rng.random_range(-200_000_000..=200_000_000);
        let boot = Boot::new(node, number, now, Duration::from_secs(1), error);
        self.told.nodes[node].stop();
        self.told.nodes[node].boots.push(boot);
        let spots = self.told.site.spots.iter().zip(&mut self.told.tables);
        for (spot, table) in spots.filter(|(spot, _)| spot.node == node) {
            table.reboot(NetnsId { inode: spot.netns, boot: boot.id }, now);
        }
    }

    /// Every second entry of each of the node's namespaces.
    fn readings(&self, node: usize, half: usize) -> Vec<Reading> {
        let mut readings = Vec::new();
        let spots = self.told.site.spots.iter().zip(&self.told.tables);
        for (_, table) in spots.filter(|(spot, _)| spot.node == node) {
            let chosen = table.live().filter(|at| at % 2 == half);
            readings.extend(chosen.map(|at| table.entries[at].reading()));
        }
        readings
    }

    fn second(&mut self, now: UnixNanos) {
        for spot in 0..self.told.tables.len() {
            let stamp = self.told.nodes[self.told.site.spots[spot].node].stamp(now);
            let ended = self.told.tables[spot].expire(now, stamp);
            self.tell_ends(spot, &ended, now);
        }
        for node in 0..self.told.nodes.len() {
            // Most ends wait for no sweep.
            if self.ends.random_bool(0.7) {
                let sent = self.told.nodes[node].close(Close::EndsBetween, now);
                self.told.frames.extend(sent);
            }
        }
    }

    fn tell_ends(&mut self, spot: usize, ended: &[usize], now: UnixNanos) {
        let node = &mut self.told.nodes[self.told.site.spots[spot].node];
        for at in ended {
            node.ended(&self.told.tables[spot].entries[*at].reading(), now);
        }
    }

    fn packet(&mut self, number: usize) {
        let packet = self.told.packets[number];
        let flow = &self.told.site.flows[packet.flow];
        let Some(phase) = flow.phase(packet.at) else { return };
        let (way, mut tuple): (Vec<usize>, _) = if packet.back {
            // The server answers what it got.
            let Some(outer) = flow.outer else { return };
            (phase.back.iter().rev().copied().collect(), outer.inverse())
        } else {
            (phase.there.clone(), flow.tuple)
        };
        for (hop, spot) in way.iter().enumerate() {
            if hop > 0 && self.loss.random_bool(self.told.site.loss) {
                self.told.happened.packets_lost += 1;
                return;
            }
            match self.pass(*spot, number, &packet, tuple) {
                Way::On(on) => tuple = on,
                Way::Ends => return,
            }
        }
        if !packet.back {
            self.told.site.flows[packet.flow].outer = Some(tuple);
        }
    }

    fn pass(&mut self, spot: usize, number: usize, packet: &Packet, tuple: flow::Tuple) -> Way {
        let at = &self.told.site.spots[spot];
        let stamp = self.told.nodes[at.node].stamp(packet.at);
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let arriving = Arriving { number, packet, tuple, stamp, joining: at.joining };
        let (twin, mut ended) = (at.twin, Vec::new());
        let (way, born) = self.told.tables[spot].carry(&arriving, &mut ended);
        if born.is_some() {
            let entries = &self.told.tables[spot].entries;
            let same = |entry: &&Entry| entry.id.orig == tuple;
            let again = entries.iter().rev().skip(1).any(|entry| same(&entry));
            self.told.happened.used_again += u64::from(again);
        }
        self.tell_ends(spot, &ended, packet.at);
        if let Some(twin) = twin {
            self.copy(spot, twin, &tuple, packet.at);
        }
        way
    }

    /// The pair's other host gets the entry, or is told that it lives.
    fn copy(&mut self, from: usize, to: usize, tuple: &flow::Tuple, now: UnixNanos) {
        let stamp = self.told.nodes[self.told.site.spots[to].node].stamp(now);
        let Ok([from, to]) = self.told.tables.get_disjoint_mut([from, to]) else { return };
        let like = |entry: &&Entry| {
            entry.died.is_none() && (entry.id.orig == *tuple || entry.reply == *tuple)
        };
        let Some(entry) = from.entries.iter().rev().find(like) else { return };
        self.told.happened.synchronised += u64::from(to.copy(entry, now, stamp));
    }
}

/// How long hosts go on after the last packet.
const SETTLE: Duration = Duration::from_secs(90);

/// Frames that did not arrive so long before a spool is lost are lost with it.
const UNSENT: Duration = Duration::from_secs(60);

const HOUR: i64 = 3_600_000_000_000;
