//! The same frames through the aggregator's own counting and commits, on its model store: COMMITs
//! are refused, lost, or kept without an answer, the aggregator dies before, at and after them,
//! forgets what is old, and asks the store for it.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aggregator::count::domains::{DomainRule, Domains, Pattern};
use aggregator::count::{Body, CounterConfig, Frame, MergeSettings};
use aggregator::pipeline::commit::{Committer, Done, Stop, Work};
use aggregator::store::model::{Fault, ModelStore};
use aggregator::store::row::WriterToken;
use flow::merge::Domain;
use flow::{Counters, EntryId, Epoch, NodeName, Seq, StoreId, UnixNanos};
use rand::Rng;
use rand::rngs::SmallRng;
use wire::frame::Digest;

use super::counting::Named;
use super::post::Arrival;
use super::recipe::{self, Part};
use super::world::Told;

/// What the store holds of an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) raw: Counters,
    pub(super) counted: Counters,
    pub(super) back: Counters,
}

/// What went wrong on the way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    pub(super) commits: u64,
    pub(super) crashes: u64,
}

struct Centre<'t> {
    told: &'t Told,
    store: ModelStore,
    config: CounterConfig,
    committer: Committer<ModelStore>,
    work: Work,
    rng: SmallRng,
    /// All that arrived, in order, each once.
    arrived: Vec<Frame>,
    known: BTreeSet<(u32, u64)>,
    hostile: bool,
    trouble: Trouble,
}

/// Counts and commits all that arrives, and what is stored then.
pub(super) fn store(
    told: &Told,
    arrivals: &[Arrival],
) -> Result<(BTreeMap<Named, Sums>, Trouble), String> {
    let mut centre = Centre::new(told)?;
    for arrival in arrivals {
        centre.arrive(arrival)?;
    }
    centre.finish()?;
    let sums = centre.sums()?;
    Ok((sums, centre.trouble))
}

impl<'t> Centre<'t> {
    fn new(told: &'t Told) -> Result<Self, String> {
        let mut rng = told.recipe.stream(Part::Centre, 1);
        let merge = MergeSettings { domains: Arc::new(domains(told)?), ..MergeSettings::default() };
        let memory_horizon = Duration::from_secs(rng.random_range(60..3_600));
        let merge = Some(merge);
        let config = CounterConfig { memory_horizon, merge, ..CounterConfig::default() };
        let store = ModelStore::new(StoreId([5; 16]));
        let committer = begin(&store, &config, super::site::BEGIN, &mut rng)?;
        let hostile = told.recipe.faults().has(recipe::Fault::Commits);
        let (work, trouble) = (Work::default(), Trouble::default());
        let (arrived, known) = (Vec::new(), BTreeSet::new());
        Ok(Self { told, store, config, committer, work, rng, arrived, known, hostile, trouble })
    }

    fn arrive(&mut self, arrival: &Arrival) -> Result<(), String> {
        let sent = &self.told.frames[arrival.frame];
        if !self.known.insert((sent.epoch, sent.seq)) {
            return Ok(());
        }
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&sent.epoch.to_le_bytes());
        digest[4..12].copy_from_slice(&sent.seq.to_le_bytes());
        let (first, last) = (Seq(sent.seq), Seq(sent.seq));
        let frame = Frame {
            node: name(sent.node)?,
            epoch: epoch(sent.epoch),
            first,
            last,
            digest: Digest(digest),
            received: arrival.at,
            clock: arrival.session,
            body: Body::Batch { interval: Box::new(sent.interval), records: sent.records.clone() },
        };
        self.arrived.push(frame.clone());
        self.work.arrived.push(frame);
        if self.hostile {
            self.trouble(arrival.at)?;
        }
        self.cycle(arrival.at, false)
    }

    fn trouble(&mut self, now: UnixNanos) -> Result<(), String> {
        const FAULTS: [Fault; 5] = [
            Fault::Unavailable,
            Fault::LostCommit,
            Fault::KeptCommit,
            Fault::LostAndSilent,
            Fault::KeptAndSilent,
        ];
        if self.rng.random_bool(0.1) {
            self.trouble.commits += 1;
            self.store.inject([FAULTS[self.rng.random_range(0..FAULTS.len())]]);
        }
        // Between linking and counting, in doubt, or after a commit that nobody heard of.
        match self.rng.random_range(0..60u8) {
            0 => self.restart(now),
            1 => {
                let linked = ready(self.committer.admit(&mut self.work, now, false));
                self.restart(now)?;
                fatal(linked)
            }
            2 => {
                let committed = ready(self.committer.run(&mut self.work));
                self.restart(now)?;
                fatal(committed)
            }
            _ => Ok(()),
        }
    }

    /// The aggregator dies; the nodes send again what is not committed.
    fn restart(&mut self, now: UnixNanos) -> Result<(), String> {
        self.trouble.crashes += 1;
        self.store.leave_unanswered(0);
        self.committer = begin(&self.store, &self.config, now, &mut self.rng)?;
        self.work = Work::default();
        let counter = self.committer.counter();
        let waits = |frame: &&Frame| {
            let progress = counter.progress(&frame.node, frame.epoch);
            progress.is_none_or(|progress| progress.committed < frame.first)
        };
        let again = |frame: &Frame| Frame { received: now, ..frame.clone() };
        self.work.arrived = self.arrived.iter().filter(waits).map(again).collect();
        Ok(())
    }

    fn cycle(&mut self, now: UnixNanos, all: bool) -> Result<(), String> {
        let linked = ready(self.committer.admit(&mut self.work, now, all));
        if linked.is_ok() {
            let committed = ready(self.committer.run(&mut self.work));
            fatal(committed)?;
        }
        fatal(linked)?;
        for done in self.work.done.drain(..) {
            if !matches!(done, Done::Committed { .. }) {
                return Err(format!("26: a frame was not taken: {done:?}"));
            }
        }
        self.committer.look_after(now);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        let end = self.arrived.last().map_or(self.told.end, |frame| frame.received);
        for _ in 0..TRIES {
            self.cycle(end, true)?;
            let (held, _) = self.committer.held();
            let waits = held + self.work.todo.len() + self.work.arrived.len();
            if waits == 0 && !self.committer.is_in_doubt() {
                return Ok(());
            }
        }
        Err("26: frames are never committed".to_owned())
    }

    fn sums(&self) -> Result<BTreeMap<Named, Sums>, String> {
        let contents = self.store.contents();
        let nodes: BTreeMap<_, _> =
            contents.nodes.values().map(|row| (row.node, &row.name)).collect();
        let netns: BTreeMap<_, _> = contents.netns.iter().map(|row| (row.netns, row.id)).collect();
        let mut sums: BTreeMap<Named, Sums> = BTreeMap::new();
        for row in &contents.flows {
            let of = || {
                let observer = contents.observers.get(&row.entry)?;
                let node = nodes.get(&observer.node)?.as_str().strip_prefix("gw")?.parse().ok()?;
                let netns = *netns.get(&observer.netns)?;
                let (zone, orig, birth) = (observer.zone, observer.inside, observer.birth);
                Some((node, EntryId { netns, zone, orig, birth }))
            };
            let named = of().ok_or("a row without its observer, node or namespace")?;
            let sum = sums.entry(named).or_default();
            sum.raw = sum.raw.plus(row.raw);
            let counted = if row.is_retraction() { &mut sum.back } else { &mut sum.counted };
            *counted = counted.plus(row.counted);
        }
        Ok(sums)
    }
}

fn begin(
    store: &ModelStore,
    config: &CounterConfig,
    now: UnixNanos,
    rng: &mut SmallRng,
) -> Result<Committer<ModelStore>, String> {
    let token = WriterToken(rng.random());
    for _ in 0..TRIES {
        // The store may leave a question or two unanswered yet.
        let started = Committer::start(store.clone(), token, config.clone(), now);
        if let Ok(committer) = ready(started) {
            return Ok(committer.with_transactions(usize::from(token.0[0] % 16) + 1));
        }
    }
    Err("the store never answers".to_owned())
}

fn fatal(done: Result<(), Stop>) -> Result<(), String> {
    match done {
        Ok(()) | Err(Stop::Away(_)) => Ok(()),
        Err(Stop::Fatal(fatal)) => Err(format!("26: {fatal}")),
    }
}

/// The world's domains as an aggregator is told of them.
fn domains(told: &Told) -> Result<Domains, String> {
    let spots = &told.site.spots;
    let most = spots.iter().map(|spot| spot.inside.max(spot.outside).0).max().unwrap_or(0);
    let mut rules = Vec::new();
    for number in 1..=most {
        let mut rule = DomainRule { name: format!("site-{number}"), ..DomainRule::default() };
        for spot in spots {
            let here = |domain: Domain| domain == Domain(number);
            let node: Pattern =
                name(spot.node)?.as_str().parse().map_err(|error| format!("{error}"))?;
            match (here(spot.inside), here(spot.outside)) {
                (true, true) => rule.nodes.push(node),
                (true, false) => rule.inside.push(node),
                (false, true) => rule.outside.push(node),
                (false, false) => {}
            }
        }
        rules.push(rule);
    }
    Ok(Domains::new(rules))
}

fn name(node: usize) -> Result<NodeName, String> {
    NodeName::new(&format!("gw{node}")).map_err(|error| error.to_string())
}

fn epoch(number: u32) -> Epoch {
    let mut epoch = [7; 16];
    epoch[..4].copy_from_slice(&number.to_le_bytes());
    Epoch(epoch)
}

/// The result of a future that never waits, as all of the model store are.
#[expect(clippy::panic, reason = "a model store that waits is a defect of the simulation")]
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the model store's futures are always ready"),
    }
}

/// Times that work is tried again: more than faults can be waiting.
const TRIES: u32 = 1_000;
