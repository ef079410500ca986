//! When frames arrive: delayed, cut off for hours, twice, again under another name, or never.
//! Those of one epoch come in its order, as the first part's sessions see to.

use std::collections::HashMap;
use std::time::Duration;

use flow::UnixNanos;
use flow::clock::SessionClock;
use rand::Rng;
use rand::seq::SliceRandom;

use super::node::Sent;
use super::recipe::{Fault, Part, Recipe};
use super::site::BEGIN;
use super::traffic::seconds;
use super::world::Told;

/// A frame that arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: UnixNanos,
    /// Its place in [`Told::frames`].
    pub(crate) frame: usize,
    pub(crate) session: Option<SessionClock>,
}

/// Delivers what was sent; puts frames told again to the others. In order of time.
pub(crate) fn deliver(told: &mut Told) -> Vec<Arrival> {
    let recipe = told.recipe;
    let faults = recipe.faults();
    let mut arrivals: Vec<Arrival> = Vec::new();
    let moments = moments(told);
    for (frame, at) in moments.iter().enumerate() {
        let sent = &told.frames[frame];
        let lost = told.lost.iter().any(|(epoch, by)| *epoch == sent.epoch && at >= by);
        told.happened.lost += u64::from(lost);
        if !lost && recipe.has_node(sent.node) {
            arrivals.push(Arrival { at: *at, frame, session: session(told, sent.node, *at) });
        }
    }
    let mut rng = recipe.stream(Part::Post, 1_000);
    if faults.has(Fault::Duplicates) {
        for number in 0..arrivals.len() {
            let (twice, later) = (rng.random_bool(0.1), rng.random_range(0.0..600.0));
            if twice {
                let again =
                    Arrival { at: arrivals[number].at.plus(seconds(later)), ..arrivals[number] };
                told.happened.duplicates += 1;
                arrivals.push(again);
            }
        }
    }
    if faults.has(Fault::Copies) {
        copies(told, &mut arrivals);
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    arrivals
}

/// When each frame arrives, if it does.
fn moments(told: &Told) -> Vec<UnixNanos> {
    let recipe = &told.recipe;
    let prompt = recipe.scenario == super::recipe::Scenario::Translated;
    let mut links: Vec<Link> = (0..told.nodes.len()).map(|node| Link::new(told, node)).collect();
    let mut last: HashMap<u32, UnixNanos> = HashMap::new();
    let mut moments = Vec::with_capacity(told.frames.len());
    for Sent { node, epoch, at, .. } in &told.frames {
        let link = &mut links[*node];
        let most = if prompt { 0.3 } else { link.slow };
        let delay = seconds(link.rng.random_range(0.001..most));
        let mut arrives = at.plus(delay).plus(link.late);
        for (from, to) in &link.cuts {
            if arrives >= *from && arrives < *to {
                arrives = to.plus(delay);
            }
        }
        let before = last.entry(*epoch).or_insert(BEGIN);
        *before = arrives.max(before.plus(Duration::from_nanos(1)));
        moments.push(*before);
    }
    moments
}

struct Link {
    slow: f64,
    late: Duration,
    cuts: Vec<(UnixNanos, UnixNanos)>,
    rng: rand::rngs::SmallRng,
}

impl Link {
    fn new(told: &Told, node: usize) -> Self {
        let mut rng = told.recipe.stream(Part::Post, node);
        let slow = [0.1, 1.0, 4.0][rng.random_range(0..3)];
        let late = told.site.late.iter().find(|(late, _)| *late == node);
        let late = late.map_or(Duration::ZERO, |(_, by)| *by);
        let length = told.end.diff(BEGIN) as f64 / 1e9;
        let mut cuts = Vec::new();
        for _ in 0..rng.random_range(0..3u8) {
            let from = BEGIN.plus(seconds(rng.random_range(0.0..length)));
            let away = 30.0 * rng.random_range(0.0..(10_000_f64 / 30.0).ln()).exp();
            if told.recipe.faults().has(Fault::Cuts) {
                cuts.push((from, from.plus(seconds(away))));
            }
        }
        cuts.sort_unstable();
        Self { slow, late, cuts, rng }
    }
}

/// The clock of the session that a frame arrives on: that of the boot the node is in by then.
fn session(told: &Told, node: usize, at: UnixNanos) -> Option<SessionClock> {
    let node = &told.nodes[node];
    let boot = node.boots.iter().rev().find(|boot| boot.from <= at)?;
    let clock = SessionClock { offset: boot.offset(), boot: boot.id, at: boot.time(at) };
    node.measures.then_some(clock)
}

/// A run of an epoch's frames is told again under the name of another epoch.
fn copies(told: &mut Told, arrivals: &mut Vec<Arrival>) {
    let mut rng = told.recipe.stream(Part::Copy, 0);
    for node in 0..told.nodes.len() {
        let own: Vec<usize> =
            (0..told.frames.len()).filter(|n| told.frames[*n].node == node).collect();
        if own.is_empty() || !told.recipe.has_node(node) {
            continue;
        }
        let epoch = told.frames[own[rng.random_range(0..own.len())]].epoch;
        let own: Vec<usize> = own.into_iter().filter(|n| told.frames[*n].epoch == epoch).collect();
        let (one, other) = (rng.random_range(0..own.len()), rng.random_range(0..own.len()));
        let new = told.next_epoch;
        told.next_epoch += 1;
        let mut at = told.frames[own[one.max(other)]].at;
        at = at.plus(seconds(rng.random_range(0.0..2_000.0)));
        for (seq, frame) in (1..).zip(&own[one.min(other)..=one.max(other)]) {
            let copy = Sent { epoch: new, seq, ..told.frames[*frame].clone() };
            let session = session(told, node, at);
            arrivals.push(Arrival { at, frame: told.frames.len(), session });
            told.frames.push(copy);
            told.happened.copied += 1;
            at = at.plus(seconds(rng.random_range(0.001..1.0)));
        }
    }
}

/// The same arrivals in another order that keeps each node's own.
pub(crate) fn shuffled(told: &Told, recipe: &Recipe, arrivals: &[Arrival]) -> Vec<Arrival> {
    let mut rng = recipe.stream(Part::Order, 0);
    let mut turns: Vec<usize> = arrivals.iter().map(|a| told.frames[a.frame].node).collect();
    // Long runs of one host, or all mixed.
    let runs = rng.random_range(1..30usize);
    let mut chunks: Vec<Vec<usize>> = turns.chunks(runs).map(<[usize]>::to_vec).collect();
    if runs == 1 {
        turns.shuffle(&mut rng);
    } else {
        chunks.shuffle(&mut rng);
        turns = chunks.concat();
    }
    let mut queues: HashMap<usize, std::collections::VecDeque<Arrival>> = HashMap::new();
    for arrival in arrivals {
        queues.entry(told.frames[arrival.frame].node).or_default().push_back(*arrival);
    }
    let mut clock = BEGIN;
    let mut order = Vec::with_capacity(arrivals.len());
    for node in turns {
        let Some(arrival) = queues.get_mut(&node).and_then(|queue| queue.pop_front()) else {
            continue;
        };
        clock = clock.plus(Duration::from_secs(1));
        order.push(Arrival { at: clock, ..arrival });
    }
    order
}
