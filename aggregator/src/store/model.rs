//! A store in memory: the contract of [`Store`] with no disk below it.
//!
//! The simulation runs whole clusters on it, and the conformance suite compares the databases
//! with it. Faults happen where a database has them: a commit that does nothing, one that is
//! undone or kept while its caller cannot know, questions without an answer. Its futures are
//! always ready.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use flow::{Counters, Epoch, NodeName, Seq, StoreId, UnixNanos};

use super::row::{
    BatchRow, ChangeSet, EntryNo, EpochRow, FlowRow, GapRow, Identity, LastIds, Loaded, NetnsRow,
    NodeNo, NodeRow, ObserverRow, PathNo, WriterToken, view_hash,
};
use super::{CommitError, Meta, Progress, SCHEMA_VERSION, Store, StoreError};

/// Something that goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The transaction is refused before it begins.
    Unavailable,
    /// COMMIT is lost on its way: nothing is written, and the caller is told it cannot know.
    LostCommit,
    /// The answer to COMMIT is lost: everything is written, and the caller cannot know.
    KeptCommit,
    /// As [`Fault::LostCommit`], and the question what became of it gets no answer either.
    LostAndSilent,
    /// As [`Fault::KeptCommit`], and the question what became of it gets no answer either.
    KeptAndSilent,
}

/// What the model was at some moment: its data and who was its writer.
#[derive(Clone, Debug)]
pub struct Backup {
    writer: Option<WriterToken>,
    contents: Contents,
    identities: HashMap<Identity, EntryNo>,
}

/// Everything the model holds, for tests to look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Nodes.
    pub nodes: BTreeMap<NodeNo, NodeRow>,
    /// Progress.
    pub epochs: BTreeMap<(NodeNo, Epoch), EpochRow>,
    /// Namespaces.
    pub netns: Vec<NetnsRow>,
    /// Entries.
    pub observers: BTreeMap<EntryNo, ObserverRow>,
    /// Records in the order committed, strays among them.
    pub flows: Vec<FlowRow>,
    /// Frames' history.
    pub batches: Vec<BatchRow>,
    /// Gaps.
    pub gaps: Vec<GapRow>,
    /// Paths that became others, and which they are now.
    pub aliases: BTreeMap<PathNo, PathNo>,
    /// Transactions committed.
    pub commits: u64,
}

#[derive(Debug)]
struct State {
    store: StoreId,
    writer: Option<WriterToken>,
    contents: Contents,
    identities: HashMap<Identity, EntryNo>,
    commit_faults: VecDeque<Fault>,
    away: u32,
}

/// A store in memory; clones share it, as processes share a database.
#[derive(Clone, Debug)]
pub struct ModelStore {
    state: Arc<Mutex<State>>,
}

impl ModelStore {
    /// An empty store of this name.
    #[must_use]
    pub fn new(store: StoreId) -> Self {
        let state = State {
            store,
            writer: None,
            contents: Contents::default(),
            identities: HashMap::new(),
            commit_faults: VecDeque::new(),
            away: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Makes the next commits that get this far go wrong, in this order.
    pub fn inject(&self, faults: impl IntoIterator<Item = Fault>) {
        self.locked().commit_faults.extend(faults);
    }

    /// Leaves the next `questions` (everything but commits) without an answer.
    pub fn leave_unanswered(&self, questions: u32) {
        self.locked().away = questions;
    }

    /// A backup of what it holds now.
    #[must_use]
    pub fn back_up(&self) -> Backup {
        let state = self.locked();
        let (contents, identities) = (state.contents.clone(), state.identities.clone());
        Backup { writer: state.writer, contents, identities }
    }

    /// Puts a backup back: whatever was committed since is gone.
    pub fn restore(&self, backup: &Backup) {
        let Backup { writer, contents, identities } = backup.clone();
        let mut state = self.locked();
        (state.writer, state.contents, state.identities) = (writer, contents, identities);
    }

    /// What it holds now.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.locked().contents.clone()
    }

    /// Calls `look` on what it holds now, without a copy.
    pub fn with_contents<T>(&self, look: impl FnOnce(&Contents) -> T) -> T {
        look(&self.locked().contents)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it holds the lock but a test that looks; the state stays whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T>(&self, question: impl FnOnce(&mut State) -> T) -> Result<T, StoreError> {
        let mut state = self.locked();
        if state.away > 0 {
            state.away -= 1;
            return Err(StoreError::Unavailable("the model store is told to be away".to_owned()));
        }
        Ok(question(&mut state))
    }
}

impl State {
    fn commit(&mut self, token: WriterToken, set: &ChangeSet) -> Result<(), CommitError> {
        if self.commit_faults.front() == Some(&Fault::Unavailable) {
            self.commit_faults.pop_front();
            return Err(CommitError::Unavailable("the model store is told to be away".to_owned()));
        }
        if self.writer != Some(token) {
            return Err(CommitError::OtherWriter);
        }
        check_values(set)?;
        self.check_progress(set)?;
        self.check_unique(set)?;
        let fault = self.commit_faults.pop_front();
        if matches!(fault, Some(Fault::LostAndSilent | Fault::KeptAndSilent)) {
            self.away = self.away.max(1);
        }
        match fault {
            Some(Fault::LostCommit | Fault::LostAndSilent) => {
                return Err(CommitError::Unknown("the model store lost the commit".to_owned()));
            }
            Some(Fault::KeptCommit | Fault::KeptAndSilent) => {
                self.apply(set);
                return Err(CommitError::Unknown("the model store lost the answer".to_owned()));
            }
            Some(Fault::Unavailable) | None => self.apply(set),
        }
        Ok(())
    }

    fn check_progress(&self, set: &ChangeSet) -> Result<(), CommitError> {
        for advance in &set.advances {
            let key = (advance.row.node, advance.row.epoch);
            let row = self.contents.epochs.get(&key);
            let committed = row.map_or(Seq::NONE, |row| row.committed);
            if committed.next() != advance.first {
                return Err(CommitError::Conflict {
                    node: key.0,
                    epoch: key.1,
                    first: advance.first,
                    committed: row.map(progress_of),
                });
            }
        }
        Ok(())
    }

    fn check_unique(&self, set: &ChangeSet) -> Result<(), CommitError> {
        let twice = |reason: &str| CommitError::Data { frame: None, reason: reason.to_owned() };
        let contents = &self.contents;
        for node in &set.new_nodes {
            if contents.nodes.values().any(|n| n.name == node.name || n.node == node.node) {
                return Err(twice("a node exists twice"));
            }
        }
        for netns in &set.netns {
            let same =
                |n: &NetnsRow| n.netns == netns.netns || (n.node, n.id) == (netns.node, netns.id);
            if contents.netns.iter().any(same) {
                return Err(twice("a network namespace exists twice"));
            }
        }
        for row in &set.observers {
            if contents.observers.contains_key(&row.entry)
                || self.identities.contains_key(&row.identity())
            {
                return Err(twice("an entry exists twice"));
            }
        }
        Ok(())
    }

    fn apply(&mut self, set: &ChangeSet) {
        let contents = &mut self.contents;
        for node in set.new_nodes.iter().chain(&set.switched) {
            contents.nodes.insert(node.node, node.clone());
        }
        for advance in &set.advances {
            contents.epochs.insert((advance.row.node, advance.row.epoch), advance.row);
        }
        contents.netns.extend(&set.netns);
        for row in &set.observers {
            contents.observers.insert(row.entry, ObserverRow { frame: 0, ..*row });
            self.identities.insert(row.identity(), row.entry);
        }
        for ended in &set.ended {
            if let Some(row) = contents.observers.get_mut(&ended.entry) {
                row.ended = Some(ended.at);
            }
        }
        for entry in &set.reopened {
            if let Some(row) = contents.observers.get_mut(entry) {
                row.ended = None;
            }
        }
        contents.flows.extend(set.flows.iter().map(|row| FlowRow { frame: 0, ..*row }));
        contents.batches.extend(&set.batches);
        contents.gaps.extend(set.gaps.iter().cloned());
        for alias in &set.aliases {
            for into in contents.aliases.values_mut().filter(|into| **into == alias.path) {
                *into = alias.into;
            }
            contents.aliases.insert(alias.path, alias.into);
        }
        contents.commits += 1;
    }

    fn load(&self, ended_from: UnixNanos) -> Loaded {
        let contents = &self.contents;
        let kept = |row: &&ObserverRow| row.ended.is_none_or(|ended| ended >= ended_from);
        let path = |row: &ObserverRow| contents.aliases.get(&row.path).copied().unwrap_or(row.path);
        let rows = contents.observers.values();
        let mut heard = BTreeMap::<NodeNo, UnixNanos>::new();
        for batch in &contents.batches {
            let last = heard.entry(batch.name.node).or_insert(batch.received);
            *last = batch.received.max(*last);
        }
        Loaded {
            nodes: contents.nodes.values().cloned().collect(),
            epochs: contents.epochs.values().copied().collect(),
            netns: contents.netns.clone(),
            heard: heard.into_iter().collect(),
            observers: rows
                .clone()
                .filter(kept)
                .map(|row| ObserverRow { path: path(row), ..*row })
                .collect(),
            forgotten: rows.clone().any(|row| !kept(&row)).then_some(ended_from),
            ids: LastIds {
                node: contents.nodes.keys().copied().max().unwrap_or_default(),
                netns: contents.netns.iter().map(|row| row.netns).max().unwrap_or_default(),
                entry: contents.observers.keys().copied().max().unwrap_or_default(),
                path: rows.map(|row| row.path).max().unwrap_or_default(),
            },
        }
    }

    fn counted(&self, entries: &[EntryNo], from: UnixNanos) -> Vec<(EntryNo, Counters)> {
        let base = |entry: &EntryNo| self.contents.observers.get(entry).map(|row| row.base);
        let mut sums: BTreeMap<EntryNo, Counters> =
            entries.iter().filter_map(|entry| Some((*entry, base(entry)?))).collect();
        for row in &self.contents.flows {
            if let Some(sum) = sums.get_mut(&row.entry)
                && (row.stray.is_some() || row.time >= from)
            {
                *sum = sum.plus(row.raw);
            }
        }
        sums.into_iter().collect()
    }
}

const fn progress_of(row: &EpochRow) -> Progress {
    Progress { committed: row.committed, digest: row.digest }
}

/// The ranges every store has: counters and stamps are signed there.
fn check_values(set: &ChangeSet) -> Result<(), CommitError> {
    let over = |frame: u32, reason: &str| CommitError::Data {
        frame: usize::try_from(frame).ok().and_then(|at| set.frames.get(at)).copied(),
        reason: reason.to_owned(),
    };
    let fits = |n: u64| i64::try_from(n).is_ok();
    for row in &set.flows {
        let values = row.counted.components().into_iter().chain(row.raw.components());
        if !values.chain([row.seq.get()]).all(fits) {
            return Err(over(row.frame, "a counter exceeds 2^63 - 1"));
        }
    }
    for row in &set.observers {
        if !row.birth.start().is_none_or(fits) {
            return Err(over(row.frame, "a start stamp exceeds 2^63 - 1"));
        }
    }
    Ok(())
}

impl Store for ModelStore {
    async fn meta(&self) -> Result<Meta, StoreError> {
        self.ask(|state| Meta { store: state.store, schema: SCHEMA_VERSION })
    }

    async fn take_writer(&self, token: WriterToken, _now: UnixNanos) -> Result<(), StoreError> {
        self.ask(|state| state.writer = Some(token))
    }

    async fn load(&self, ended_from: UnixNanos) -> Result<Loaded, StoreError> {
        self.ask(|state| state.load(ended_from))
    }

    async fn commit(&self, token: WriterToken, set: &ChangeSet) -> Result<(), CommitError> {
        self.locked().commit(token, set)
    }

    async fn progress(
        &self,
        node: &NodeName,
        epoch: Epoch,
    ) -> Result<Option<Progress>, StoreError> {
        self.ask(|state| {
            let node = state.contents.nodes.values().find(|row| row.name == *node)?;
            state.contents.epochs.get(&(node.node, epoch)).map(progress_of)
        })
    }

    async fn find(&self, identities: &[Identity]) -> Result<Vec<ObserverRow>, StoreError> {
        self.ask(|state| {
            let entries = identities.iter().filter_map(|identity| state.identities.get(identity));
            entries.filter_map(|entry| state.contents.observers.get(entry)).copied().collect()
        })
    }

    async fn index_views(&self) -> Result<(), StoreError> {
        self.ask(|_state| ())
    }

    async fn find_views(&self, hashes: &[i64]) -> Result<Vec<ObserverRow>, StoreError> {
        self.ask(|state| {
            let wanted: HashSet<i64> = hashes.iter().copied().collect();
            let has = |row: &&ObserverRow| {
                [row.inside, row.outside].iter().any(|tuple| wanted.contains(&view_hash(tuple)))
            };
            state.contents.observers.values().filter(has).copied().collect()
        })
    }

    async fn history(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> Result<Vec<FlowRow>, StoreError> {
        self.ask(|state| {
            let wanted: HashSet<EntryNo> = entries.iter().copied().collect();
            let late = |row: &&FlowRow| row.stray.is_some() || row.time >= from;
            let rows = state.contents.flows.iter().filter(|row| wanted.contains(&row.entry));
            rows.filter(late).copied().collect()
        })
    }

    async fn counted(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> Result<Vec<(EntryNo, Counters)>, StoreError> {
        self.ask(|state| state.counted(entries, from))
    }

    async fn gaps(&self, from: UnixNanos, limit: u32) -> Result<Vec<GapRow>, StoreError> {
        self.ask(|state| {
            let mut gaps: Vec<GapRow> =
                state.contents.gaps.iter().filter(|gap| gap.received >= from).cloned().collect();
            gaps.sort_by_key(|gap| gap.received);
            gaps.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            gaps
        })
    }
}
