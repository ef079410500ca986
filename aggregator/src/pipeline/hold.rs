//! Frames that are linked and wait to be counted: pure.
//!
//! When two routers and a translating gateway between them see a flow, the routers' readings can
//! be known to be the same packets only once the gateway's has arrived. Counted before, they would
//! be stored twice and taken back later. So where a domain has several nodes that deliver a frame
//! waits until each of them has told of a sweep that began after this frame's had ended, or until
//! that should long have happened. What is counted in the end does not depend on the hold: it only
//! spares rows that take back others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use flow::merge::Domain;
use flow::{Epoch, NodeName, UnixNanos};

/// Bounds of the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldConfig {
    /// Frames held of one node; over it its oldest is counted early.
    pub frames_a_node: usize,
    /// Bytes of frames held, of all nodes; over it the oldest of all is counted early.
    pub bytes: usize,
    /// How much longer than the domain's longest interval a frame waits at most.
    pub grace: Duration,
}

impl Default for HoldConfig {
    fn default() -> Self {
        Self { frames_a_node: 64, bytes: 256 << 20, grace: Duration::from_secs(5) }
    }
}

/// A moment by the aggregator's clock, and by how much it may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sure {
    /// The moment.
    pub at: UnixNanos,
    /// By how much it may be wrong.
    pub slack: Duration,
}

/// A frame to be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<T> {
    /// The frame.
    pub frame: T,
    /// Its node.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// The domains its node observes.
    pub domains: [Domain; 2],
    /// When it arrived.
    pub arrived: UnixNanos,
    /// End of its sweep: nothing in it was read later. `None` where no clock could be trusted.
    pub swept: Option<Sure>,
    /// Begin of the last complete sweep told by it and those before it.
    pub watermark: Option<Sure>,
    /// The node's interval.
    pub interval: Duration,
    /// More parts of its interval follow.
    pub more: bool,
    /// What it takes of the budget.
    pub bytes: usize,
}

/// Why frames were released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldStats {
    /// Nobody else could have told anything about them, or everybody had.
    pub complete: u64,
    /// They had waited long enough.
    pub waited: u64,
    /// They were over a bound.
    pub cut_short: u64,
}

#[derive(Debug)]
struct Node {
    number: usize,
    domains: [Domain; 2],
    /// When its last frame arrived.
    heard: UnixNanos,
    watermark: Option<Sure>,
    interval: Duration,
}

/// Held frames, one lane a (node, epoch). See the module's text.
#[derive(Debug)]
pub struct Hold<T> {
    config: HoldConfig,
    nodes: HashMap<NodeName, Node>,
    lanes: BTreeMap<(NodeName, Epoch), VecDeque<Held<T>>>,
    bytes: usize,
    stats: HoldStats,
}

/// What a domain's nodes that deliver have told: those two that have told least, by node number, and
/// up to when. `None` where a node has told nothing with a time.
#[derive(Clone, Debug, Default)]
struct Told {
    least: Vec<(Option<UnixNanos>, usize)>,
    interval: Duration,
}

impl Told {
    fn add(&mut self, node: &Node) {
        self.interval = self.interval.max(node.interval);
        let sure = node.watermark.map(|mark| mark.at.minus(mark.slack));
        self.least.push((sure, node.number));
        self.least.sort_unstable();
        self.least.truncate(2);
    }

    /// Whether every node but `own` has told of a sweep that began at or after `end`.
    fn beyond(&self, own: usize, end: Option<Sure>) -> bool {
        let others = self.least.iter().find(|(_, number)| *number != own);
        let Some((told, _)) = others else { return true };
        match (told, end) {
            (Some(told), Some(end)) => *told >= end.at.plus(end.slack),
            _ => false,
        }
    }
}

impl<T> Hold<T> {
    /// An empty hold.
    #[must_use]
    pub fn new(config: HoldConfig) -> Self {
        Self {
            config,
            nodes: HashMap::new(),
            lanes: BTreeMap::new(),
            bytes: 0,
            stats: HoldStats::default(),
        }
    }

    /// Takes a frame, linked already.
    pub fn push(&mut self, held: Held<T>) {
        let number = self.nodes.len();
        let node = self.nodes.entry(held.node.clone()).or_insert_with(|| Node {
            number,
            domains: held.domains,
            heard: held.arrived,
            watermark: None,
            interval: held.interval,
        });
        node.heard = node.heard.max(held.arrived);
        node.interval = held.interval;
        node.watermark = match (node.watermark, held.watermark) {
            (Some(known), Some(new)) if known.at >= new.at => Some(known),
            (_, new) => new.or(node.watermark),
        };
        self.bytes = self.bytes.saturating_add(held.bytes);
        self.lanes.entry((held.node.clone(), held.epoch)).or_default().push_back(held);
    }

    /// Bytes of the frames held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames held.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.lanes.values().map(VecDeque::len).sum()
    }

    /// Why frames were released since this was asked last.
    pub fn take_stats(&mut self) -> HoldStats {
        std::mem::take(&mut self.stats)
    }

    /// Frames that need wait no longer, each epoch's in order; at most about `most` bytes of them.
    pub fn release(&mut self, now: UnixNanos, most: usize) -> Vec<T> {
        let told = self.told(now);
        let mut released = Vec::new();
        let mut taken = 0;
        let names: Vec<(NodeName, Epoch)> = self.lanes.keys().cloned().collect();
        for name in names {
            while taken < most {
                let Some(lane) = self.lanes.get(&name) else { break };
                let Some(head) = lane.front() else { break };
                let Some(why) = self.why_now(head, lane, &told, now) else { break };
                self.stats.note(why);
                taken += head.bytes;
                released.extend(self.pop(&name));
            }
        }
        while self.bytes > self.config.bytes && taken < most {
            let oldest = self
                .lanes
                .iter()
                .filter_map(|(name, lane)| Some((lane.front()?.arrived, name.clone())));
            let Some((_, name)) = oldest.min() else { break };
            self.stats.note(Why::CutShort);
            taken += self.lanes.get(&name).and_then(VecDeque::front).map_or(0, |held| held.bytes);
            released.extend(self.pop(&name));
        }
        released
    }

    /// All frames, each epoch's in order: whoever stops waits for nobody.
    pub fn release_all(&mut self) -> Vec<T> {
        self.bytes = 0;
        std::mem::take(&mut self.lanes).into_values().flatten().map(|held| held.frame).collect()
    }

    /// Gives up the frames of an epoch: one before them was refused, or its session is over.
    pub fn give_up(&mut self, node: &NodeName, epoch: Epoch) -> Vec<T> {
        let lane = self.lanes.remove(&(node.clone(), epoch)).unwrap_or_default();
        self.bytes = lane.iter().fold(self.bytes, |sum, held| sum.saturating_sub(held.bytes));
        lane.into_iter().map(|held| held.frame).collect()
    }

    fn pop(&mut self, name: &(NodeName, Epoch)) -> Option<T> {
        let lane = self.lanes.get_mut(name)?;
        let held = lane.pop_front()?;
        if lane.is_empty() {
            self.lanes.remove(name);
        }
        self.bytes = self.bytes.saturating_sub(held.bytes);
        Some(held.frame)
    }

    /// Nobody waits for a node that has missed an interval.
    fn told(&self, now: UnixNanos) -> HashMap<Domain, Told> {
        let mut told = HashMap::<Domain, Told>::new();
        let grace = self.config.grace;
        let delivers = |node: &&Node| now <= node.heard.plus(node.interval.saturating_add(grace));
        for node in self.nodes.values().filter(delivers) {
            let [one, other] = node.domains;
            told.entry(one).or_default().add(node);
            if other != one {
                told.entry(other).or_default().add(node);
            }
        }
        told
    }

    fn why_now(
        &self,
        head: &Held<T>,
        lane: &VecDeque<Held<T>>,
        told: &HashMap<Domain, Told>,
        now: UnixNanos,
    ) -> Option<Why> {
        if lane.len() > self.config.frames_a_node {
            return Some(Why::CutShort);
        }
        let Some(node) = self.nodes.get(&head.node) else { return Some(Why::Complete) };
        let domains = || node.domains.iter().filter_map(|domain| told.get(domain));
        let last_part = || lane.iter().any(|held| !held.more);
        if domains().all(|told| told.beyond(node.number, head.swept)) && last_part() {
            return Some(Why::Complete);
        }
        let longest = domains().map(|told| told.interval).max().unwrap_or(head.interval);
        let wait = longest.max(head.interval).saturating_add(self.config.grace);
        (now >= head.arrived.plus(wait)).then_some(Why::Waited)
    }
}

#[derive(Clone, Copy)]
enum Why {
    Complete,
    Waited,
    CutShort,
}

impl HoldStats {
    const fn note(&mut self, why: Why) {
        match why {
            Why::Complete => self.complete += 1,
            Why::Waited => self.waited += 1,
            Why::CutShort => self.cut_short += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Domain = Domain(0);

    fn at(seconds: i64) -> UnixNanos {
        UnixNanos(seconds * 1_000_000_000)
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn sure(seconds: i64) -> Option<Sure> {
        Some(Sure { at: at(seconds), slack: Duration::from_millis(250) })
    }

    /// A frame of a sweep that took half a second before `swept`, arrived a second after it.
    fn frame(node: &str, number: u32, swept: i64) -> Held<u32> {
        Held {
            frame: number,
            node: name(node),
            epoch: Epoch([1; 16]),
            domains: [HERE; 2],
            arrived: at(swept + 1),
            swept: sure(swept),
            watermark: sure(swept - 1),
            interval: Duration::from_secs(10),
            more: false,
            bytes: 100,
        }
    }

    #[test]
    fn nobody_waits_alone() {
        let mut hold = Hold::new(HoldConfig::default());
        hold.push(Held { domains: [Domain(1); 2], ..frame("b", 9, 10) });
        assert_eq!(hold.release(at(11), usize::MAX), [9]);
        hold.push(frame("a", 1, 10));
        hold.push(Held { more: true, ..frame("a", 2, 20) });
        assert_eq!(hold.release(at(11), usize::MAX), [1], "part of an interval waits for the rest");
        hold.push(frame("a", 3, 20));
        assert_eq!(hold.release(at(21), usize::MAX), [2, 3]);
        assert_eq!((hold.bytes(), hold.frames()), (0, 0));
        assert_eq!(hold.take_stats().complete, 4);
    }

    #[test]
    fn a_frame_waits_for_the_sweeps_of_others() {
        let mut hold = Hold::new(HoldConfig::default());
        hold.push(frame("a", 1, 10));
        hold.push(frame("b", 2, 9));
        assert!(hold.release(at(11), usize::MAX).is_empty());
        // B's next sweep began at 18, after A's had ended; A's has not ended after B's first.
        hold.push(frame("b", 3, 19));
        assert_eq!(hold.release(at(20), usize::MAX), [1]);
        hold.push(frame("a", 4, 20));
        assert_eq!(hold.release(at(21), usize::MAX), [2]);
        // B goes silent: until it has missed an interval, no longer.
        assert!(hold.release(at(34), usize::MAX).is_empty());
        assert_eq!(hold.release(at(35), usize::MAX), [3]);
        assert_eq!(hold.release(at(36), usize::MAX), [4]);
        // Gone: nobody waits for it.
        hold.push(frame("a", 5, 40));
        assert_eq!(hold.release(at(41), usize::MAX), [5]);
        let stats = hold.take_stats();
        assert_eq!((stats.complete, stats.waited, stats.cut_short), (4, 1, 0));
    }

    #[test]
    fn a_gateway_waits_for_both_its_domains() {
        let (inside, outside) = (Domain(1), Domain(2));
        let of = |node, number, swept, domains| Held { domains, ..frame(node, number, swept) };
        let mut hold = Hold::new(HoldConfig::default());
        hold.push(of("out", 9, 8, [outside; 2]));
        hold.push(of("in", 8, 8, [inside; 2]));
        hold.push(of("gw", 1, 10, [inside, outside]));
        hold.push(of("in", 2, 25, [inside; 2]));
        assert!(!hold.release(at(12), usize::MAX).contains(&1), "outside has told nothing since");
        hold.push(of("out", 3, 25, [outside; 2]));
        assert!(hold.release(at(12), usize::MAX).contains(&1));
    }

    #[test]
    fn times_nobody_can_trust_wait_the_longest() {
        let mut hold = Hold::new(HoldConfig::default());
        hold.push(Held { swept: None, ..frame("a", 1, 10) });
        hold.push(frame("b", 2, 30));
        assert!(hold.release(at(25), usize::MAX).is_empty());
        assert_eq!(hold.release(at(26), usize::MAX), [1]);
    }

    #[test]
    fn bounds_let_the_oldest_go_first_and_keep_the_order() {
        let mut hold = Hold::new(HoldConfig { bytes: 350, ..HoldConfig::default() });
        hold.push(frame("c", 9, 11));
        hold.push(frame("a", 1, 12));
        hold.push(frame("b", 2, 10));
        hold.push(frame("a", 3, 9));
        assert_eq!(hold.release(at(13), usize::MAX), [2], "the oldest that may go");
        hold.config.frames_a_node = 1;
        assert_eq!(hold.release(at(13), usize::MAX), [1]);
        assert_eq!(hold.take_stats().cut_short, 2);
        assert_eq!(hold.give_up(&name("a"), Epoch([1; 16])), [3]);
        assert_eq!(hold.bytes(), 100);
        assert_eq!(hold.release_all(), [9]);
        assert_eq!((hold.bytes(), hold.frames()), (0, 0));
    }
}
