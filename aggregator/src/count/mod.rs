//! Counting: decoded frames become one change set.
//!
//! The core is pure. [`Counter::count`] makes a [`Draft`]: the change set, and what memory will be
//! after it; or it says what must be asked of the store first ([`Needs`], [`Counter::learn`]).
//! Nothing moves until the set is committed; [`Counter::apply`] then takes the draft. A draft that
//! was not committed is thrown away, and the same frames are counted again.
//!
//! An entry's growth ([`flow::count`]) is what is counted of it, as long as its observer is alone
//! in its domain. Where several hosts may see one flow their entries are linked first
//! ([`Counter::link`]), and what a growth counts for is up to its group ([`flow::merge`]).

mod counting;
pub mod domains;
mod draft;
mod entries;
pub mod frame;
mod known;
mod linking;
mod memory;
mod merged;
mod merging;
pub mod metrics;
mod numbers;
mod silence;

use std::time::Duration;

use flow::merge::{Domain, LinkStats};
use flow::{Epoch, NodeName, Seq, UnixNanos};
use hashbrown::HashSet;
use thiserror::Error;

use crate::store::Progress;
use crate::store::row::{
    ChangeSet, EntryNo, FlowRow, Identity, Loaded, NodeNo, ObserverRow, view_hash,
};

pub use counting::Counting;
pub use draft::Draft;
pub use frame::{Body, Frame};
use known::Known;
pub use linking::Linked;
use memory::Memory;
pub use merging::MergeSettings;
pub use metrics::{CountMetrics, CountStats};
pub use silence::SilenceLimits;

/// Bounds of what the counter keeps and believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterConfig {
    /// How long an entry stays in memory after its end.
    pub memory_horizon: Duration,
    /// Rows with a time older than this at their receipt are stray: the longest age of a node's
    /// spool and a day.
    pub horizon: Duration,
    /// Entries in memory; over it those not heard of for longest are forgotten and asked of the
    /// store when they come back.
    pub max_entries: usize,
    /// How long entries may be silent before they are closed.
    pub silence: SilenceLimits,
    /// How a flow of several observers is counted once; `None`: each observer counts in full.
    pub merge: Option<MergeSettings>,
}

impl Default for CounterConfig {
    fn default() -> Self {
        Self {
            memory_horizon: Duration::from_secs(3_600),
            horizon: Duration::from_secs(8 * 86_400),
            max_entries: 8_000_000,
            silence: SilenceLimits::default(),
            merge: Some(MergeSettings::default()),
        }
    }
}

/// What must be asked of the store before frames can be counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Entries that memory does not have and the store may.
    pub find: Vec<Identity>,
    /// Entries whose count must come from their rows.
    pub counted: Vec<EntryNo>,
    /// The earliest time their rows can have.
    pub counted_from: UnixNanos,
    /// Hashes of views ([`view_hash`]) that entries of other
    /// observers may have.
    pub views: Vec<i64>,
    /// Entries all of whose rows must be told, because their group counts together.
    pub history: Vec<EntryNo>,
    /// The earliest time those rows can have.
    pub history_from: UnixNanos,
    /// Entries are in no group any more: the frames must be linked again.
    pub link: bool,
}

/// What a store answers to [`Needs`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Entries found, by identity or view.
    pub found: Vec<ObserverRow>,
    /// Counts of entries.
    pub counted: Vec<(EntryNo, flow::Counters)>,
    /// Rows of entries.
    pub history: Vec<FlowRow>,
}

/// What counting frames gives.
#[derive(Debug)]
pub enum Counted {
    /// They are counted.
    Draft(Box<Draft>),
    /// The store must be asked first.
    Needs(Needs),
}

/// What the store has been asked already for one set of frames.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    absent: HashSet<Identity, foldhash::fast::RandomState>,
    views: HashSet<i64, foldhash::fast::RandomState>,
    /// Entries that were asked for or found,
    answered: HashSet<Identity, foldhash::fast::RandomState>,
    /// and views of those found.
    follow: HashSet<i64, foldhash::fast::RandomState>,
    thorough: bool,
}

impl Asked {
    /// Nothing asked yet; every entry that is not in memory will be asked for, whatever the
    /// clocks say about its age. For frames that the store refused because an entry exists.
    #[must_use]
    pub fn thorough() -> Self {
        Self { thorough: true, ..Self::default() }
    }

    /// Whether this is a [`Asked::thorough`] one.
    #[must_use]
    pub const fn is_thorough(&self) -> bool {
        self.thorough
    }
}

/// Why frames cannot be counted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CountError {
    /// They do not follow what is committed.
    #[error("frame {first} of {node} does not follow {committed}")]
    Order {
        /// Their node.
        node: NodeName,
        /// The frame's first number.
        first: Seq,
        /// The last number committed or counted before it.
        committed: Seq,
    },
    /// The store's numbers for nodes, namespaces or entries are used up.
    #[error("the store has no number left for another {what}")]
    Exhausted {
        /// For what.
        what: &'static str,
    },
}

/// What has been counted, as far as it is in memory, and how to count on.
#[derive(Debug)]
pub struct Counter {
    config: CounterConfig,
    memory: Memory,
}

impl Counter {
    /// A counter that goes on from what a store loaded.
    #[must_use]
    pub fn new(config: CounterConfig, loaded: Loaded) -> Self {
        let memory = Memory::from_loaded(loaded, config.merge.as_ref(), false);
        Self { config, memory }
    }

    /// The same, and merging whether or not a domain has a second observer yet.
    #[must_use]
    pub fn merging(config: CounterConfig, loaded: Loaded) -> Self {
        let memory = Memory::from_loaded(loaded, config.merge.as_ref(), true);
        Self { config, memory }
    }

    /// Its bounds.
    #[must_use]
    pub const fn config(&self) -> &CounterConfig {
        &self.config
    }

    /// Whether flows of several observers are counted once: since a domain has two of them.
    #[must_use]
    pub const fn is_merging(&self) -> bool {
        self.memory.merging.is_some()
    }

    /// What is committed of a (node, epoch); `None` where nothing is.
    #[must_use]
    pub fn progress(&self, node: &NodeName, epoch: Epoch) -> Option<Progress> {
        let row = self.memory.nodes.get(node)?.epochs.get(&epoch)?.row;
        Some(Progress { committed: row.committed, digest: row.digest })
    }

    /// Progress of every (node, epoch).
    pub fn all_progress(&self) -> impl Iterator<Item = (&NodeName, Epoch, Progress)> {
        self.memory.nodes.iter().flat_map(|(name, node)| {
            node.epochs.iter().map(move |(epoch, state)| {
                let row = state.row;
                (name, *epoch, Progress { committed: row.committed, digest: row.digest })
            })
        })
    }

    /// The domains that a node observes, where flows of several observers are counted once.
    #[must_use]
    pub fn domains(&self, node: &NodeName) -> Option<[Domain; 2]> {
        let sides = self.memory.merging.as_ref()?.sides(node);
        Some([sides.inside, sides.outside])
    }

    /// Groups, entries and segments of entries in memory.
    #[must_use]
    pub fn merge_size(&self) -> (usize, usize, usize) {
        let merging = self.memory.merging.as_ref();
        merging.map_or((0, 0, 0), |merging| merging.merger.size())
    }

    /// What linking did since it was asked last.
    pub fn take_link_stats(&mut self) -> LinkStats {
        let merging = self.memory.merging.as_mut();
        merging.map_or_else(LinkStats::default, |merging| merging.merger.take_stats())
    }

    /// A node's row number, once a frame of it was committed.
    #[must_use]
    pub fn node_no(&self, name: &NodeName) -> Option<NodeNo> {
        self.memory.nodes.get(name).map(|node| node.row.node)
    }

    /// Entries in memory.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.memory.entries.len()
    }

    /// Takes the store's answers to [`Needs`] into memory: committed truth, so this is allowed at
    /// any time but between [`Counter::count`] and [`Counter::apply`].
    pub fn learn(&mut self, needs: &Needs, answers: &Answers, asked: &mut Asked) {
        for row in &answers.found {
            self.memory.learn(row);
        }
        for identity in &needs.find {
            let entries = &self.memory.entries;
            let known = entries.find(identity).and_then(|place| entries.get(place));
            if !known.is_some_and(|entry| entry.stored) {
                asked.absent.insert(*identity);
            }
        }
        asked.views.extend(&needs.views);
        if self.is_merging() {
            asked.answered.extend(&needs.find);
            asked.answered.extend(answers.found.iter().map(ObserverRow::identity));
            let views = answers.found.iter().flat_map(|row| [row.inside, row.outside]);
            asked.follow.extend(views.map(|tuple| view_hash(&tuple)));
        }
        self.memory.take_counts(&needs.counted, &answers.counted);
        self.memory.take_history(&needs.history, &answers.history);
    }

    /// Counts `frames`, each in its epoch's order. Memory stays as it is.
    ///
    /// Where the store must be asked first it says what: ask, [`Counter::learn`], and count again
    /// until there is a draft. Entries found may need their count next.
    ///
    /// # Errors
    /// When a frame does not follow what is committed, or numbers are used up.
    pub fn count(&self, frames: &[Frame], asked: &Asked) -> Result<Counted, CountError> {
        let mut counting = self.begin(frames, asked, None);
        while !counting.step(usize::MAX)? {}
        Ok(counting.finish())
    }

    /// Begins to count `frames` as [`Counter::count`] does, a few records at a time, and as if
    /// `after`, a draft whose frames come before them, had been applied. The draft that comes of it
    /// is worth nothing unless that one is, and must be [settled](Counter::settle) then.
    #[must_use]
    pub fn begin<'c>(
        &'c self,
        frames: &'c [Frame],
        asked: &'c Asked,
        after: Option<&'c Draft>,
    ) -> Counting<'c> {
        Counting::new(self, frames, asked, after)
    }

    /// Takes a committed draft.
    pub fn apply(&mut self, draft: Draft) -> (ChangeSet, CountStats) {
        let (set, stats, change) = draft.into_parts();
        self.memory.take(change);
        (set, stats)
    }

    /// Makes a draft that was counted over another one ([`Counter::begin`]) one over memory: to be
    /// called when that one has been applied, and nothing since.
    pub fn settle(&self, draft: &mut Draft) {
        draft.change_mut().find_places(&self.memory.entries);
    }

    /// The set that closes entries of which nothing was heard for longer than they can live, at
    /// most `most` of them; `None` where there are none. It must be committed and applied, or
    /// thrown away, before anything else is counted.
    #[must_use]
    pub fn close_silent(&self, now: UnixNanos, most: usize) -> Option<Draft> {
        let known = Known { memory: &self.memory, pending: None };
        draft::Drafting::new(&self.config, known, 0).close_silent(now, most)
    }

    /// Forgets entries that ended longer ago than the memory horizon, and over the bound those not
    /// heard of for longest. Returns how many. A draft made before must not be applied after.
    pub fn evict(&mut self, now: UnixNanos) -> usize {
        let before = self.memory.entries.len();
        self.memory.evict(now.minus(self.config.memory_horizon), self.config.max_entries);
        before.saturating_sub(self.memory.entries.len())
    }
}

/// The next number, or that there is none.
fn next_id<T: Copy + PartialEq>(
    last: T,
    next: impl Fn(T) -> T,
    what: &'static str,
) -> Result<T, CountError> {
    let id = next(last);
    if id == last { Err(CountError::Exhausted { what }) } else { Ok(id) }
}
