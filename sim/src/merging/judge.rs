//! What must hold of a merging world: the truth against what was counted. The numbers are those
//! of the list in the module's text.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use flow::merge::{Label, MergeConfig};
use flow::{Counters, NetnsId, NetnsInode, Proto, UnixNanos};

use super::conntrack::Entry;
use super::counting::{Counting, Named, Pure, Row, Way};
use super::outcome::{Amounts, Outcome};
use super::post::{self, Arrival};
use super::recipe::{Fault, Scenario};
use super::stored::Sums;
use super::world::Told;

/// Packets and bytes there, then back.
type Four = [u64; 4];

/// Flows that some entry has counted together: judged as one.
#[derive(Debug, Default)]
struct Unit {
    flows: BTreeSet<usize>,
    entries: Vec<Named>,
}

/// What was counted, by entry, in the flow's directions.
#[derive(Debug, Default)]
pub(super) struct Book {
    stored: HashMap<Named, [i64; 4]>,
    raw: HashMap<Named, Four>,
    retractions: u64,
    fell: bool,
    rows: u64,
    grown: Vec<Grown>,
}

/// One growth in its flow's directions, and between which moments it was, as sure as clocks are.
#[derive(Clone, Copy, Debug)]
struct Grown {
    entry: Named,
    growth: Four,
    since: Option<UnixNanos>,
    until: Option<UnixNanos>,
}

impl Grown {
    fn observer(&self) -> (usize, NetnsInode) {
        (self.entry.0, self.entry.1.netns.inode)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let before = |one: &Self, other: &Self| {
            one.until.zip(other.since).is_some_and(|(until, since)| until <= since)
        };
        self.observer() != other.observer() && !before(self, other) && !before(other, self)
    }
}

/// An entry's place among the tables.
#[derive(Clone, Copy, Debug)]
struct Place {
    spot: usize,
    entry: usize,
}

/// A world and what was counted of it.
pub(super) struct Judge<'t> {
    told: &'t Told,
    places: HashMap<Named, Place>,
    /// Highest reading that arrived.
    reached: HashMap<Named, Counters>,
}

impl Book {
    pub(super) const fn retractions(&self) -> u64 {
        self.retractions
    }
}

impl<'t> Judge<'t> {
    pub(super) fn new(told: &'t Told, arrivals: &[Arrival]) -> Self {
        let mut places = HashMap::new();
        for (spot, (of, table)) in told.site.spots.iter().zip(&told.tables).enumerate() {
            for (at, entry) in table.entries.iter().enumerate() {
                places.insert((of.node, entry.id), Place { spot, entry: at });
            }
        }
        let mut reached: HashMap<Named, Counters> = HashMap::new();
        for arrival in arrivals {
            let sent = &told.frames[arrival.frame];
            for record in &sent.records {
                let most = reached.entry((sent.node, record.entry())).or_default();
                *most = most.max(record.cum);
            }
        }
        Self { told, places, reached }
    }

    fn entry(&self, named: &Named) -> Option<&Entry> {
        let place = self.places.get(named)?;
        self.told.tables[place.spot].entries.get(place.entry)
    }

    /// Counts all that arrives.
    pub(super) fn count(&self, arrivals: &[Arrival], way: Way) -> Result<(Book, Pure), String> {
        let mut pure = Pure::new(way, &self.told.site.spots);
        let mut book = Book::default();
        for arrival in arrivals {
            let sent = &self.told.frames[arrival.frame];
            let rows = pure.arrive(sent, arrival.session, arrival.at);
            self.note(&mut book, &rows)?;
        }
        let rows = pure.finish();
        self.note(&mut book, &rows)?;
        match pure.differed {
            true => Err("26: a draft that was made again came out different".to_owned()),
            false => Ok((book, pure)),
        }
    }

    fn note(&self, book: &mut Book, rows: &[Row]) -> Result<(), String> {
        for row in rows {
            let entry = self.entry(&row.entry).ok_or("a row of an entry that never lived")?;
            let stored = book.stored.entry(row.entry).or_default();
            let counted = along(entry, row.counted.components());
            (0..4).for_each(|at| stored[at] += counted[at].cast_signed());
            for (named, back) in &row.back {
                let entry = self.entry(named).ok_or("taken back of an entry that never lived")?;
                let stored = book.stored.entry(*named).or_default();
                let back = along(entry, back.components());
                (0..4).for_each(|at| stored[at] -= back[at].cast_signed());
            }
            let raw = book.raw.entry(row.entry).or_default();
            let grown = along(entry, row.raw.components());
            (0..4).for_each(|at| raw[at] += grown[at]);
            book.rows += 1;
            if !row.raw.is_zero() {
                let bounds = row.span.map(|span| {
                    let slack = span.slack.saturating_mul(2);
                    (span.since.map(|since| since.minus(slack)), span.until.plus(slack))
                });
                // What grew at an unknown time becomes part of the next growth.
                let last = book.grown.iter().rfind(|grown| grown.entry == row.entry);
                let known = last.is_none_or(|last| last.until.is_some());
                book.grown.push(Grown {
                    entry: row.entry,
                    growth: grown,
                    since: bounds.filter(|_| known).and_then(|(since, _)| since),
                    until: bounds.map(|(_, until)| until),
                });
            }
            book.retractions += row.back.len() as u64;
            book.fell |= row.fell;
        }
        Ok(())
    }

    /// Flows, joined where an entry has counted packets of several.
    fn units(&self) -> Vec<Unit> {
        let flows = self.told.site.flows.len();
        let mut of: Vec<usize> = (0..flows).collect();
        let mut entries: BTreeMap<usize, Vec<Named>> = BTreeMap::new();
        let mut firsts = Vec::new();
        let mut named: Vec<(&Named, &Place)> = self.places.iter().collect();
        named.sort_by_key(|(_, place)| (place.spot, place.entry));
        for (named, place) in named {
            let entry = &self.told.tables[place.spot].entries[place.entry];
            let seen = entry.log.iter().flatten();
            let own: BTreeSet<usize> =
                seen.map(|seen| self.told.packets[seen.packet as usize].flow).collect();
            let Some(first) = own.first().copied() else { continue };
            for flow in own {
                let (from, to) = (of[flow].max(of[first]), of[flow].min(of[first]));
                of.iter_mut().filter(|unit| **unit == from).for_each(|unit| *unit = to);
            }
            firsts.push((first, *named));
        }
        for (first, named) in firsts {
            entries.entry(of[first]).or_default().push(named);
        }
        let mut units: BTreeMap<usize, Unit> = BTreeMap::new();
        for (flow, unit) in of.iter().enumerate() {
            let unit_entries = units.entry(*unit).or_default();
            unit_entries.flows.insert(flow);
            unit_entries.entries = entries.get(unit).cloned().unwrap_or_default();
        }
        units.into_values().filter(|unit| !unit.entries.is_empty()).collect()
    }

    /// Every packet that a reading which arrived has counted, once: by what the host that counted
    /// it highest counted it for.
    fn union(&self, entries: &[Named]) -> Four {
        let mut best: HashMap<u32, (u64, u64)> = HashMap::new();
        for named in entries {
            let (Some(entry), Some(reached)) = (self.entry(named), self.reached.get(named)) else {
                continue;
            };
            for (log, tally) in entry.log.iter().zip([reached.orig, reached.reply]) {
                for seen in log.iter().take_while(|seen| seen.up_to <= tally.bytes.get()) {
                    let best = best.entry(seen.packet).or_default();
                    *best = (best.0.max(seen.packets), best.1.max(seen.bytes));
                }
            }
        }
        let mut union = [0; 4];
        for (packet, (packets, bytes)) in best {
            let back = usize::from(self.told.packets[packet as usize].back);
            union[2 * back] += packets;
            union[2 * back + 1] += bytes;
        }
        union
    }

    /// What the best observer of each component has told.
    fn best(&self, entries: &[Named]) -> Four {
        self.best_of(entries, |netns| netns.inode)
    }

    fn best_of<K: Eq + Hash>(&self, entries: &[Named], key: impl Fn(NetnsId) -> K) -> Four {
        let mut of: HashMap<(usize, K), Four> = HashMap::new();
        for named in entries {
            let (Some(entry), Some(reached)) = (self.entry(named), self.reached.get(named)) else {
                continue;
            };
            let sum = of.entry((named.0, key(named.1.netns))).or_default();
            let four = along(entry, reached.components());
            (0..4).for_each(|at| sum[at] += four[at]);
        }
        of.values().fold([0; 4], |most, sum| std::array::from_fn(|at| most[at].max(sum[at])))
    }

    /// Whether every translation that carried packets was told of at all: else nobody can know
    /// that what is on its two sides is one flow.
    fn is_decidable(&self, unit: &Unit) -> bool {
        unit.entries.iter().all(|named| {
            let translated = self.entry(named).is_some_and(Entry::is_translated);
            !translated || self.reached.contains_key(named)
        })
    }

    fn stored(&self, book: &Book, entries: &[Named]) -> [i64; 4] {
        let stored = entries.iter().filter_map(|named| book.stored.get(named));
        stored.fold([0; 4], |sum, more| std::array::from_fn(|at| sum[at] + more[at]))
    }

    /// Properties 1 to 5, 22, 28 and what depends on the scenario.
    pub(super) fn judge(&self, book: &Book, pure: &Pure) -> Result<Outcome, String> {
        let recipe = &self.told.recipe;
        if book.fell {
            return Err("5: stored was more than can be, though nothing had been merged".to_owned());
        }
        if recipe.scenario == Scenario::Translated && book.retractions > 0 {
            return Err(format!("13: {} rows took back in a prompt world", book.retractions));
        }
        let mut outcome = Outcome { worlds: 1, rows: book.rows, ..Outcome::default() };
        let mut exact = true;
        for unit in self.units() {
            let stored = self.stored(book, &unit.entries);
            let (union, best) = (self.union(&unit.entries), self.best(&unit.entries));
            let raw = unit.entries.iter().filter_map(|named| book.raw.get(named));
            let raw: Four = raw.fold([0; 4], |sum, r| std::array::from_fn(|at| sum[at] + r[at]));
            let say = |what: &str| {
                Err(format!(
                    "{what}: flows {:?} stored {stored:?}, passed {union:?}, best {best:?}",
                    unit.flows
                ))
            };
            if recipe.scenario == Scenario::Single && stored.map(i64::cast_unsigned) != best {
                return say("1: one observer's readings are not what is stored");
            }
            if (0..4).any(|at| stored[at] < best[at].cast_signed()) {
                return say("4: less than the best observer told");
            }
            if (0..4).any(|at| stored[at] > raw[at].cast_signed()) {
                return say("28: more than all readings grew by");
            }
            if !self.is_decidable(&unit) {
                outcome.undecidable += 1;
                continue;
            }
            if (0..4).any(|at| stored[at] > union[at].cast_signed()) {
                return say("3: more than passed");
            }
            if recipe.scenario.has_a_best_observer() && stored.map(i64::cast_unsigned) != union {
                // Where the best observer's own readings are missing, others fill in.
                if best == union {
                    return say("2: not what passed");
                }
            }
            exact &= stored.map(i64::cast_unsigned) == union;
            let amounts = Amounts::of(stored, union);
            outcome.amounts = outcome.amounts.plus(&amounts);
            outcome.lost.extend(self.lost(&unit, &amounts));
            outcome.flows += unit.flows.len() as u64;
        }
        outcome.exact = u64::from(exact);
        if recipe.scenario == Scenario::Overlap {
            self.isolation(pure)?;
        }
        if recipe.scenario == Scenario::Reuse {
            self.generations(book, pure)?;
        }
        Ok(outcome)
    }

    /// What a flow that moved between hosts lost by each move, in milliseconds of its mean traffic.
    fn lost(&self, unit: &Unit, amounts: &Amounts) -> Option<u64> {
        let moves = match self.told.recipe.scenario {
            Scenario::TakeoverDies | Scenario::TakeoverAlive => 1,
            Scenario::ThereAndBack => 2,
            _ => return None,
        };
        let own = |packet: &&super::traffic::Packet| unit.flows.contains(&packet.flow);
        let first = self.told.packets.iter().find(own)?;
        let last = self.told.packets.iter().rfind(own)?;
        let lived = u128::try_from(last.at.diff(first.at) / 1_000_000).ok()?;
        let lost = u128::from(amounts.under) * lived / u128::from(amounts.passed.max(1)) / moves;
        u64::try_from(lost).ok()
    }

    /// 14: entries of different flows are never counted together, and share no path.
    fn isolation(&self, pure: &Pure) -> Result<(), String> {
        let units = self.units();
        for (at, one) in units.iter().enumerate() {
            for other in &units[at + 1..] {
                for a in &one.entries {
                    for b in &other.entries {
                        let labels = pure.label(a).zip(pure.label(b));
                        let shared = labels.is_some_and(|(a, b)| a == b);
                        if pure.together(a, b) || shared {
                            return Err(format!("14: of different flows, yet one: {a:?} {b:?}"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// 15: where every host makes a new entry for each use of a tuple, starts are known well, and
    /// uses lie far apart, each use is one path, and nothing of another is in it.
    fn generations(&self, book: &Book, pure: &Pure) -> Result<(), String> {
        let faults = self.told.recipe.faults();
        let blurred = [
            Fault::Unmeasured,
            Fault::Unstamped,
            Fault::Reboots,
            Fault::Steps,
            Fault::Rebase,
            Fault::Outages,
            Fault::TornSweeps,
            Fault::Copies,
            Fault::Pause,
        ];
        if blurred.into_iter().any(|fault| faults.has(fault)) {
            return Ok(());
        }
        for (flow, begins) in self.told.site.begins.iter().enumerate() {
            if self.told.site.flows[flow].tuple.proto != Proto::TCP {
                continue;
            }
            let near = |pair: &[UnixNanos]| pair[1].diff(pair[0]) < 3_000_000_000;
            if begins.windows(2).any(near) {
                continue;
            }
            let mut paths: HashMap<Label, BTreeSet<u32>> = HashMap::new();
            let mut uses: HashMap<u32, BTreeSet<Label>> = HashMap::new();
            let mut whole = true;
            for (named, place) in &self.places {
                let entry = &self.told.tables[place.spot].entries[place.entry];
                let seen = entry.log.iter().flatten();
                let own: Vec<&super::traffic::Packet> =
                    seen.map(|seen| &self.told.packets[seen.packet as usize]).collect();
                if own.first().is_none_or(|packet| packet.flow != flow) {
                    continue;
                }
                let generations: BTreeSet<u32> = own.iter().map(|p| p.generation).collect();
                whole &= generations.len() == 1 && entry.fresh;
                let Some(label) = pure.label(named) else { continue };
                paths.entry(label).or_default().extend(&generations);
                generations.iter().for_each(|g| {
                    uses.entry(*g).or_default().insert(label);
                });
            }
            if whole && (paths.values().any(|g| g.len() > 1) || uses.values().any(|l| l.len() > 1))
            {
                return Err(format!(
                    "15: flow {flow}: paths {paths:?} uses {uses:?} {}",
                    book.rows
                ));
            }
        }
        Ok(())
    }

    /// 10: of what grew no more is missing than, of each two growths of different observers that
    /// may overlap, the smaller one: without those nothing that is left overlaps.
    fn handovers(&self, unit: &Unit, full: &Book) -> Result<(), String> {
        let own = |grown: &&Grown| unit.entries.contains(&grown.entry);
        let grown: Vec<&Grown> = full.grown.iter().filter(own).collect();
        let mut least = [0_i64; 4];
        for (at, one) in grown.iter().enumerate() {
            let overlapping = grown[at + 1..].iter().filter(|other| one.overlaps(other));
            let mut lost = [0; 4];
            for other in overlapping {
                (0..4).for_each(|c| lost[c] += one.growth[c].min(other.growth[c]));
            }
            (0..4).for_each(|c| least[c] += one.growth[c].cast_signed() - lost[c].cast_signed());
        }
        let stored = self.stored(full, &unit.entries);
        match (0..4).any(|at| stored[at] < least[at]) {
            true => Err(format!("10: in full {stored:?}, handovers leave {least:?} at least")),
            false => Ok(()),
        }
    }

    /// 7, 10, 17: the same records with all segments kept, and in another order.
    pub(super) fn recount(
        &self,
        book: &Book,
        arrivals: &[Arrival],
        way: Way,
    ) -> Result<(), String> {
        let all = MergeConfig { segments: usize::MAX, ..way.merge };
        let unlimited = Way { merge: all, ..way };
        let (full, _) = self.count(arrivals, unlimited)?;
        let order = post::shuffled(self.told, &self.told.recipe, arrivals);
        let (other, _) = self.count(&order, unlimited)?;
        let (thin, _) = self.count(&order, way)?;
        for unit in self.units().iter().filter(|unit| self.is_decidable(unit)) {
            let of = |book: &Book| self.stored(book, &unit.entries);
            let (most, best, union) =
                (of(&full), self.best(&unit.entries), self.union(&unit.entries));
            self.handovers(unit, &full)?;
            if (0..4).any(|at| of(book)[at] > most[at]) {
                return Err(format!("17: thinned {:?}, in full {most:?}", of(book)));
            }
            let far = |b: &[i64; 4]| {
                (0..4).any(|at| b[at] > union[at].cast_signed() || b[at] < best[at].cast_signed())
            };
            if far(&of(&thin)) || far(&of(&other)) {
                return Err(format!(
                    "7: in another order {:?} (thinned {:?}), passed {union:?}, best \
                                    {best:?}",
                    of(&other),
                    of(&thin)
                ));
            }
            if of(&other) != most {
                return Err(format!(
                    "7: in full {most:?}, in another order {:?}; passed {union:?}, \
                                    best {best:?}",
                    of(&other)
                ));
            }
        }
        Ok(())
    }

    /// 8, 9, 21, 26: the aggregator's own counting and commits, whatever becomes of COMMITs and
    /// of its process: each observer's readings are stored once, and what is counted of them is
    /// within 3 and 4.
    pub(super) fn stored_within(&self, sums: &BTreeMap<Named, Sums>) -> Result<(), String> {
        for (named, sum) in sums {
            let reached = self.reached.get(named).copied().unwrap_or_default();
            if sum.raw != reached {
                return Err(format!(
                    "21: of {named:?} {:?} is stored, {reached:?} was told",
                    sum.raw
                ));
            }
        }
        for unit in self.units() {
            let mut stored = [0; 4];
            for named in &unit.entries {
                let (Some(entry), Some(sum)) = (self.entry(named), sums.get(named)) else {
                    continue;
                };
                let counted = along(entry, sum.counted.components());
                let back = along(entry, sum.back.components());
                (0..4).for_each(|at| {
                    stored[at] += counted[at].cast_signed() - back[at].cast_signed()
                });
            }
            // A host that was booted again is another observer there.
            let best = self.best_of(&unit.entries, |netns| netns);
            let union = self.union(&unit.entries);
            let under = (0..4).any(|at| stored[at] < best[at].cast_signed());
            let over = (0..4).any(|at| stored[at] > union[at].cast_signed());
            if under || over && self.is_decidable(&unit) {
                return Err(format!(
                    "8: flows {:?} stored {stored:?}, passed {union:?}, best {best:?}",
                    unit.flows
                ));
            }
        }
        Ok(())
    }

    /// 6: everything again, under other epochs' names, adds nothing.
    pub(super) fn again(&self, pure: &mut Pure, arrivals: &[Arrival]) -> Result<(), String> {
        for arrival in arrivals {
            let mut sent = self.told.frames[arrival.frame].clone();
            let rows = pure.arrive(&sent, arrival.session, self.told.end);
            if !rows.is_empty() {
                return Err("6: a frame that arrived again was counted".to_owned());
            }
            sent.epoch += 1_000_000;
            let rows = pure.arrive(&sent, arrival.session, self.told.end);
            let rows = [rows, pure.finish()].concat();
            let added = |row: &&Row| !row.counted.is_zero() || !row.back.is_empty();
            if let Some(row) = rows.iter().find(added) {
                return Err(format!("6: a reading told again was counted: {row:?}"));
            }
        }
        Ok(())
    }

    /// 18, 24: the bounds of every record are true: no packet of its growth passed before its
    /// `since` or after its `until`.
    pub(super) fn bounds(&self) -> Result<(), String> {
        for sent in &self.told.frames {
            let node = &self.told.nodes[sent.node];
            let Some(boot) = node.boots.iter().find(|boot| boot.id == sent.interval.boot) else {
                return Err("a frame of no boot".to_owned());
            };
            for record in &sent.records {
                let Some(entry) = self.entry(&(sent.node, record.entry())) else {
                    return Err(format!("a record of an entry that never lived: {record:?}"));
                };
                let base = record.base();
                let ends = [(base.orig, record.cum.orig), (base.reply, record.cum.reply)];
                for (log, (base, cum)) in entry.log.iter().zip(ends) {
                    let within = |seen: &&super::conntrack::Seen| {
                        seen.up_to > base.bytes.get() && seen.up_to <= cum.bytes.get()
                    };
                    let mut grown = log.iter().filter(within);
                    let first = grown.next();
                    let last = grown.next_back().or(first);
                    let (Some(first), Some(last)) = (first, last) else { continue };
                    let known = record.since != flow::BootNanos::BOOT;
                    if known && boot.moment(record.since) > first.at {
                        return Err(format!(
                            "18: since is after the first packet ({:?}): {record:?} \
                                            of {:?}",
                            boot.time(first.at),
                            sent.interval
                        ));
                    }
                    if boot.moment(record.until) < last.at {
                        return Err(format!(
                            "18: until is before the last packet ({:?}): {record:?} \
                                            of {:?}",
                            boot.time(last.at),
                            sent.interval
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// An entry's numbers in its flow's directions.
fn along(entry: &Entry, [op, ob, rp, rb]: Four) -> Four {
    if entry.reversed { [rp, rb, op, ob] } else { [op, ob, rp, rb] }
}
