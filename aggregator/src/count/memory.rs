//! What the counter knows without asking: committed truth only.

use std::time::Duration;

use flow::clock::Span;
use flow::count::EntryCount;
use flow::merge::{EntryRef, MergeDraft, Told};
use flow::record::Interval;
use flow::{BootNanos, Counters, Epoch, NetnsId, NodeName, Seq, UnixNanos};
use hashbrown::{HashMap, HashSet};

use super::entries::{Entries, Place};
use super::frame::Frame;
use super::merging::{self, MergeSettings, Merging, entry_ref};
use super::numbers::Numbers;
use crate::store::row::{
    EntryNo, EpochRow, FlowRow, Identity, LastIds, Loaded, NetnsNo, NetnsRow, NodeNo, NodeRow,
    ObserverRow, PathNo, Sweep,
};

type State = foldhash::fast::RandomState;

/// Whether an entry's count is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// It is in [`Entry::count`].
    Known,
    /// It has not been asked for since the entry was loaded: it is what its node believes, where
    /// [`Known::base_is_counted`](super::known::Known::base_is_counted), and the sum of its rows otherwise.
    Unknown,
}

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) entry: EntryNo,
    pub(super) path: PathNo,
    pub(super) count: EntryCount,
    pub(super) counted: Counted,
    /// The store has it; else it is linked, and no record of it is counted yet.
    pub(super) stored: bool,
    /// Whoever may have seen its flow is in memory too, or was asked for.
    pub(super) accompanied: bool,
    /// Mark of its first record.
    pub(super) seen: UnixNanos,
    /// Mark of its last one, or a later one: since it was loaded, of its node's last frame.
    pub(super) touched: UnixNanos,
    /// Mark of its end.
    pub(super) ended: Option<UnixNanos>,
}

/// Progress of an epoch, and where its sweeps are.
#[derive(Clone, Copy, Debug)]
pub(super) struct EpochState {
    pub(super) row: EpochRow,
    /// Number of the last interval.
    pub(super) interval: Option<u64>,
    /// The last complete sweep before that interval.
    pub(super) before: Option<Sweep>,
}

impl EpochState {
    /// An epoch that begins with `frame`, at `mark`.
    pub(super) const fn begun(frame: &Frame, node: NodeNo, mark: UnixNanos) -> Self {
        let row = EpochRow {
            node,
            epoch: frame.epoch,
            committed: Seq::NONE,
            digest: frame.digest,
            begun: mark,
            last_gap: None,
            sweep: None,
        };
        Self { row, interval: None, before: None }
    }

    /// The last complete sweep before `interval`: an entry that it did not show was born later.
    pub(super) fn sweep_before(&self, interval: &Interval) -> Option<BootNanos> {
        let same = self.interval == Some(interval.number);
        let sweep = if same { self.before } else { self.row.sweep }?;
        (sweep.boot == interval.boot).then_some(sweep.begin)
    }

    /// Moves on over a frame of `interval`.
    pub(super) fn swept(&mut self, interval: &Interval) {
        if self.interval != Some(interval.number) {
            self.interval = Some(interval.number);
            self.before = self.row.sweep;
        }
        let begin = match self.row.sweep {
            Some(last) if last.boot == interval.boot => last.begin.max(interval.sweep_begin),
            _ => interval.sweep_begin,
        };
        self.row.sweep = Some(Sweep { boot: interval.boot, begin });
    }
}

/// A node and its epochs: all of them in memory, those that moved in a change.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) row: NodeRow,
    pub(super) epochs: HashMap<Epoch, EpochState, State>,
}

/// What a committed set changes.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) nodes: HashMap<NodeName, Node, State>,
    pub(super) netns: HashMap<(NodeNo, NetnsId), NetnsNo, State>,
    /// Entries that memory has, as they are then; each once.
    known: Vec<(Place, Entry)>,
    /// Where each stands among them.
    places: HashMap<Place, usize, State>,
    /// Entries that it has not.
    pub(super) fresh: HashMap<Identity, Entry, State>,
    /// Groups of entries, as they are then.
    pub(super) merge: MergeDraft,
    pub(super) ids: LastIds,
    pub(super) latest: UnixNanos,
}

impl Change {
    /// An empty change with room for `entries` known ones.
    pub(super) fn new(ids: LastIds, latest: UnixNanos, entries: usize) -> Self {
        let places = HashMap::with_capacity_and_hasher(entries, State::default());
        Self { known: Vec::with_capacity(entries), places, ids, latest, ..Self::default() }
    }

    /// An entry that memory has, where this changes it.
    pub(super) fn known(&self, place: Place) -> Option<&Entry> {
        self.known.get(*self.places.get(&place)?).map(|(_, entry)| entry)
    }

    /// Takes note that memory has entries now which it did not have: their places.
    pub(super) fn find_places(&mut self, entries: &Entries) {
        let fresh = std::mem::take(&mut self.fresh);
        for (identity, entry) in fresh {
            match entries.find(&identity) {
                Some(place) => self.keep(place, entry),
                None => drop(self.fresh.insert(identity, entry)),
            }
        }
    }

    /// Changes an entry that memory has.
    pub(super) fn keep(&mut self, place: Place, entry: Entry) {
        let next = self.known.len();
        let at = *self.places.entry(place).or_insert(next);
        match self.known.get_mut(at) {
            Some(kept) => kept.1 = entry,
            None => self.known.push((place, entry)),
        }
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) nodes: HashMap<NodeName, Node, State>,
    pub(super) netns: HashMap<(NodeNo, NetnsId), NetnsNo, State>,
    pub(super) entries: Entries,
    /// Groups of entries, where a domain has several observers.
    pub(super) merging: Option<Merging>,
    /// What is linked and not counted.
    pub(super) numbers: Numbers,
    /// Observers of frames that have arrived since it was loaded, while nothing is merged.
    met: HashSet<(NodeName, NetnsId), State>,
    /// A domain has two of all these, and merging must begin.
    pub(super) shared: bool,
    pub(super) ids: LastIds,
    /// The latest mark given out: a receipt, raised so that marks strictly grow whatever the
    /// aggregator's clock does.
    pub(super) latest: UnixNanos,
    /// Entries that were first seen at or before this may be in the store without being here.
    pub(super) forgotten: Option<UnixNanos>,
    /// Nothing was heard of any such entry after this.
    pub(super) unheard: Option<UnixNanos>,
}

impl Memory {
    /// What a store loaded; linked, if flows are to be merged and a domain has two observers, or
    /// will have (`shared`).
    pub(super) fn from_loaded(
        loaded: Loaded,
        settings: Option<&MergeSettings>,
        shared: bool,
    ) -> Self {
        let (ids, forgotten) = (loaded.ids, loaded.forgotten);
        let mut memory = Self { ids, forgotten, unheard: forgotten, ..Self::default() };
        let mut names = HashMap::<NodeNo, NodeName, State>::default();
        for row in loaded.nodes {
            memory.mark(row.epoch_since);
            names.insert(row.node, row.name.clone());
            let node = Node { row, epochs: HashMap::default() };
            memory.nodes.insert(node.row.name.clone(), node);
        }
        for row in loaded.epochs {
            memory.mark(row.begun.max(row.last_gap.unwrap_or(row.begun)));
            let node = names.get(&row.node).and_then(|name| memory.nodes.get_mut(name));
            if let Some(node) = node {
                let state = EpochState { row, interval: None, before: None };
                node.epochs.insert(row.epoch, state);
            }
        }
        for NetnsRow { netns, node, id } in loaded.netns {
            memory.netns.insert((node, id), netns);
        }
        if let Some(settings) = settings
            && (shared || merging::is_shared(&settings.domains, memory.observers()))
        {
            let mut merging = Merging::new(settings, memory.ids.path);
            for ((node, _), netns) in &memory.netns {
                if let Some(name) = names.get(node) {
                    merging.observe(*netns, name);
                }
            }
            memory.merging = Some(merging);
        }
        memory.mark(loaded.forgotten.unwrap_or_default());
        memory.entries.reserve(loaded.observers.len());
        // No reading is younger than its node's last frame. A node whose last frame the store has
        // forgotten was heard of longer ago than anything lives.
        let heard: HashMap<NodeNo, UnixNanos, State> = loaded.heard.into_iter().collect();
        for row in &loaded.observers {
            let heard = heard.get(&row.node).copied().unwrap_or_default();
            memory.recall(row, row.ended.unwrap_or(heard));
        }
        memory
    }

    fn mark(&mut self, at: UnixNanos) {
        self.latest = self.latest.max(at);
    }

    /// Takes an entry the store has, last heard of at `touched` or before; one that is here
    /// already is newer.
    fn recall(&mut self, row: &ObserverRow, touched: UnixNanos) {
        self.mark(row.seen.max(row.ended.unwrap_or(row.seen)));
        let entry = Entry {
            entry: row.entry,
            path: row.path,
            count: EntryCount { counted: row.base, reached: None, start: row.start },
            counted: Counted::Unknown,
            stored: true,
            accompanied: false,
            seen: row.seen,
            touched: touched.max(row.seen),
            ended: row.ended,
        };
        let identity = row.identity();
        match self.entries.find_mut(&identity) {
            None => {
                self.entries.add(identity, entry);
                if let Some(merging) = &mut self.merging {
                    merging.recall(row, entry.touched);
                }
            }
            // It was linked as if it were new.
            Some(linked) if !linked.stored => {
                if let Some(merging) = &mut self.merging {
                    merging.merger.rename(entry_ref(linked.entry), entry_ref(row.entry));
                }
                *linked = entry;
            }
            Some(_) => {}
        }
    }

    /// All observers, nodes and their namespaces: those that the store has and those met since.
    pub(super) fn observers(&self) -> impl Iterator<Item = (&NodeName, NetnsId)> {
        let names: HashMap<NodeNo, &NodeName, State> =
            self.nodes.iter().map(|(name, node)| (node.row.node, name)).collect();
        let stored = self.netns.keys().filter_map(move |(node, id)| Some((*names.get(node)?, *id)));
        stored.chain(self.met.iter().map(|(node, id)| (node, *id)))
    }

    /// Takes note of an observer; whether it is news.
    pub(super) fn meet(&mut self, node: &NodeName, id: NetnsId) -> bool {
        let stored = |node: &Node| self.netns.contains_key(&(node.row.node, id));
        if self.nodes.get(node).is_some_and(stored) {
            return false;
        }
        self.met.insert((node.clone(), id))
    }

    /// Takes an entry that was just asked for, because a reading of it has arrived.
    pub(super) fn learn(&mut self, row: &ObserverRow) {
        self.recall(row, self.latest);
    }

    /// All entries of `nodes` whose count is not known, and the first mark among them: whoever
    /// must scan rows for one scans for all.
    pub(super) fn uncounted_of(&self, nodes: &HashSet<NodeNo, State>) -> (Vec<EntryNo>, UnixNanos) {
        let mut first = UnixNanos(i64::MAX);
        if nodes.is_empty() {
            return (Vec::new(), first);
        }
        let netns: HashSet<NetnsNo, State> = self
            .netns
            .iter()
            .filter(|((node, _), _)| nodes.contains(node))
            .map(|(_, netns)| *netns)
            .collect();
        let mut entries = Vec::new();
        for (_, identity, entry) in self.entries.iter() {
            if entry.counted == Counted::Unknown && netns.contains(&identity.netns) {
                first = first.min(entry.seen);
                entries.push(entry.entry);
            }
        }
        entries.sort_unstable();
        (entries, first)
    }

    /// Takes what rows say of the entries asked for; one without rows has counted nothing.
    pub(super) fn take_counts(&mut self, asked: &[EntryNo], counted: &[(EntryNo, Counters)]) {
        if asked.is_empty() {
            return;
        }
        let sums: HashMap<EntryNo, Counters, State> = counted.iter().copied().collect();
        let asked: HashSet<EntryNo, State> = asked.iter().copied().collect();
        for entry in self.entries.values_mut() {
            if entry.counted == Counted::Unknown && asked.contains(&entry.entry) {
                entry.count.counted = sums.get(&entry.entry).copied().unwrap_or_default();
                entry.counted = Counted::Known;
            }
        }
    }

    /// All entries of `wanted`, and the earliest time that rows of theirs can have.
    pub(super) fn rows_from(
        &self,
        wanted: &HashSet<EntryNo, State>,
        horizon: Duration,
    ) -> UnixNanos {
        let mut from = UnixNanos(i64::MAX);
        if wanted.is_empty() {
            return from;
        }
        for (_, _, entry) in self.entries.iter() {
            if wanted.contains(&entry.entry) {
                let start = entry.count.start.map(|start| start.minus(START_MARGIN));
                from = from.min(start.unwrap_or_else(|| entry.seen.minus(horizon)));
            }
        }
        from
    }

    /// Takes all rows of the entries asked for: their groups are made anew of them.
    pub(super) fn take_history(&mut self, asked: &[EntryNo], rows: &[FlowRow]) {
        let Some(merging) = &mut self.merging else { return };
        if asked.is_empty() {
            return;
        }
        let span = |row: &FlowRow| {
            let slack = row.slack.filter(|_| row.stray.is_none())?;
            Some(Span { since: row.since, until: row.time, slack })
        };
        let told: Vec<Told> = rows
            .iter()
            .map(|row| Told {
                entry: entry_ref(row.entry),
                growth: row.raw,
                span: span(row),
                counted: row.counted,
                back: row.is_retraction(),
            })
            .collect();
        let asked: Vec<EntryRef> = asked.iter().copied().map(entry_ref).collect();
        merging.merger.rebuild(&asked, &told);
    }

    /// Whether an entry born at `start` would be here if the store had it: those that are not were
    /// seen first at or before `forgotten`, so they were born before. Half the memory horizon is
    /// left for steps of the clocks that `start` and the marks come from.
    pub(super) fn remembers(&self, start: Span, memory_horizon: Duration) -> bool {
        let margin = (memory_horizon / 2).saturating_add(start.slack);
        self.forgotten.is_none_or(|forgotten| start.until > forgotten.plus(margin))
    }

    /// Whether everybody who may have lived together with an entry born at `start` is here.
    pub(super) fn remembers_others(&self, start: Span, memory_horizon: Duration) -> bool {
        let margin = (memory_horizon / 2).saturating_add(start.slack);
        self.unheard.is_none_or(|unheard| start.until > unheard.plus(margin))
    }

    /// Takes what a committed set changed.
    pub(super) fn take(&mut self, change: Change) {
        let Change { nodes, netns, known, places: _, fresh, merge, ids, latest } = change;
        for (name, Node { row, epochs }) in nodes {
            match self.nodes.get_mut(&name) {
                Some(node) => {
                    node.row = row;
                    node.epochs.extend(epochs);
                }
                None => {
                    self.nodes.insert(name, Node { row, epochs });
                }
            }
        }
        self.netns.extend(netns);
        for (place, entry) in known {
            self.entries.set(place, entry);
        }
        for (identity, entry) in fresh {
            self.entries.add(identity, entry);
        }
        if let Some(merging) = &mut self.merging {
            merging.merger.apply(merge);
        }
        // Linking may have given numbers since.
        self.ids.node = self.ids.node.max(ids.node);
        self.ids.netns = self.ids.netns.max(ids.netns);
        self.ids.entry = self.ids.entry.max(ids.entry);
        self.ids.path = self.ids.path.max(ids.path);
        self.mark(latest);
    }

    /// Forgets entries that ended before `ended_before`, then the longest silent ones over `most`.
    pub(super) fn evict(&mut self, ended_before: UnixNanos, most: usize) {
        self.forget(|entry| {
            // One that is linked and was never counted: its frame was refused.
            let over = !entry.stored || entry.ended.is_some_and(|ended| ended < ended_before);
            over && entry.touched < ended_before
        });
        let over = self.entries.len().saturating_sub(most);
        if over > 0 {
            // A tenth more, so that this is rare.
            let count = (over + most / 10).min(self.entries.len());
            let mut touched: Vec<UnixNanos> =
                self.entries.iter().map(|(_, _, entry)| entry.touched).collect();
            let (_, last, _) = touched.select_nth_unstable(count.saturating_sub(1));
            let last = *last;
            self.forget(|entry| entry.touched <= last);
        }
    }

    /// Forgets entries that are `old`; those of a group when all of it are.
    fn forget(&mut self, old: impl Fn(&Entry) -> bool) {
        let forgotten = match &mut self.merging {
            None => self.entries.retain(|entry| !old(entry)),
            Some(merging) => {
                let old = self.entries.iter().filter(|(_, _, entry)| old(entry));
                let old: HashSet<EntryNo, State> = old.map(|(_, _, entry)| entry.entry).collect();
                let [gone, bereft] = merging.evict(&old);
                if !bereft.is_empty() {
                    for entry in self.entries.values_mut() {
                        entry.accompanied &= !bereft.contains(&entry.entry);
                    }
                }
                self.entries.retain(|entry| {
                    let left = || old.contains(&entry.entry) && !merging.has(entry.entry);
                    !gone.contains(&entry.entry) && !left()
                })
            }
        };
        self.forgotten = self.forgotten.max(forgotten.map(|(seen, _)| seen));
        self.unheard = self.unheard.max(forgotten.map(|(_, heard)| heard));
    }
}

/// How much earlier than its entry's start a row's time may be: steps of the clocks both come from.
const START_MARGIN: Duration = Duration::from_secs(3_600);
