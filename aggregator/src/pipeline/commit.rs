//! From decoded frames to committed rows: one change set at a time, whatever the store does.
//!
//! Without a runtime of its own: on a store whose futures are always ready
//! ([`ModelStore`](crate::store::model::ModelStore)) nothing here ever waits, so the simulation
//! drives it as plain code.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;

use flow::{Epoch, NodeName, Seq, StoreId, UnixNanos};
use thiserror::Error;

use super::hold::{Hold, HoldConfig};
use crate::count::{
    Answers, Asked, CountError, CountMetrics, Counted, Counter, CounterConfig, Counting, Draft,
    Frame, Linked, Needs,
};
use crate::store::row::{FrameName, NodeNo, WriterToken};
use crate::store::{CommitError, Progress, Store, StoreError};

/// What became of a frame for good, or for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Everything of (node, epoch) up to this number is committed.
    Committed {
        /// The node.
        node: NodeName,
        /// The epoch.
        epoch: Epoch,
        /// The last number committed.
        last: Seq,
    },
    /// The store can never keep this frame; the others went on without it.
    Rejected {
        /// The node.
        node: NodeName,
        /// The epoch.
        epoch: Epoch,
        /// The frame.
        seq: Seq,
        /// What is wrong with it, for a person.
        reason: String,
    },
    /// Not taken, because one before it of the same epoch was rejected.
    Later {
        /// The node.
        node: NodeName,
        /// The epoch.
        epoch: Epoch,
        /// The frame.
        seq: Seq,
    },
}

/// Frames on their way into the store, and what became of those before them.
#[derive(Debug, Default)]
pub struct Work {
    /// Frames that arrived, in the order of each epoch. Where several observers may see one flow
    /// they wait in the committer until everybody has told of that time, or long enough.
    pub arrived: Vec<Frame>,
    /// Frames to be committed now, in the order of each epoch.
    pub todo: Vec<Frame>,
    /// Of how many of these the entries are linked already.
    pub linked: usize,
    /// What became of others; to be taken by the caller.
    pub done: Vec<Done>,
}

/// Why work stopped.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Stop {
    /// The store cannot do it now: run the same work again later. Nothing is lost.
    #[error("the store is away: {0}")]
    Away(String),
    /// This process must not go on.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Why an aggregator must stop writing.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Fatal {
    /// Another process took over.
    #[error(
        "another aggregator has taken this store over; this one stops, the nodes keep what is \
         not acknowledged"
    )]
    OtherWriter,
    /// The store was set back while this process ran; a restart reads it again.
    #[error(
        "the store is not as this aggregator left it (a backup was restored?); restart the \
         aggregator to read it again, the nodes keep what is not acknowledged"
    )]
    SetBack,
    /// Memory and store disagree about what is committed; a restart reads it again.
    #[error(
        "memory and store disagree about epoch {epoch} of {node} (memory is before frame {first}, \
         the store is at {committed}); restart the aggregator to read the store again"
    )]
    Disagree {
        /// The node.
        node: String,
        /// The epoch.
        epoch: Epoch,
        /// The first frame of the set.
        first: Seq,
        /// The last frame the store says is committed.
        committed: Seq,
    },
    /// Frames that nobody should have handed over, or numbers used up.
    #[error("frames cannot be counted")]
    Count(#[from] CountError),
}

/// A draft whose COMMIT may or may not have happened.
#[derive(Debug)]
struct Doubt {
    draft: Draft,
    /// How many of the frames to do it covers.
    frames: usize,
}

/// Counts and commits. Memory takes a set only after its COMMIT.
#[derive(Debug)]
pub struct Committer<S> {
    store: S,
    id: StoreId,
    token: WriterToken,
    pub(super) counter: Counter,
    /// Rows that make a transaction.
    pub(super) rows: usize,
    doubt: Option<Doubt>,
    /// Entries to be closed before anything else is counted.
    closing: Option<Draft>,
    pub(super) metrics: CountMetrics,
    pub(super) hold: Hold<Frame>,
}

/// Rows that make a transaction: COMMIT is a small part of it then, and nobody waits long for one.
pub const TRANSACTION_ROWS: usize = 10_000;

/// Entries closed in one transaction; what remains is closed by the next ones.
const CLOSED_AT_ONCE: usize = 10_000;

impl<S: Store> Committer<S> {
    /// Takes the store over and loads what is committed. `now` decides how much of the ended
    /// entries comes into memory.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn start(
        store: S,
        token: WriterToken,
        config: CounterConfig,
        now: UnixNanos,
    ) -> Result<Self, StoreError> {
        let id = store.meta().await?.store;
        store.take_writer(token, now).await?;
        let loaded = store.load(now.minus(config.memory_horizon)).await?;
        let counter = Counter::new(config, loaded);
        if counter.is_merging() {
            store.index_views().await?;
        }
        let (doubt, closing, metrics) = (None, None, CountMetrics::default());
        let rows = TRANSACTION_ROWS;
        let hold = Hold::new(HoldConfig::default());
        Ok(Self { store, id, token, counter, rows, doubt, closing, metrics, hold })
    }

    /// The same with transactions of `rows` rows instead of [`TRANSACTION_ROWS`]; a frame is never
    /// split, so one may take some more.
    #[must_use]
    pub fn with_transactions(self, rows: usize) -> Self {
        Self { rows, ..self }
    }

    /// The store's name.
    #[must_use]
    pub const fn store_id(&self) -> StoreId {
        self.id
    }

    /// What counting knows.
    #[must_use]
    pub const fn counter(&self) -> &Counter {
        &self.counter
    }

    /// Whether there is a COMMIT whose outcome is not known.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Metrics of counting, to be registered once.
    #[must_use]
    pub const fn metrics(&self) -> &CountMetrics {
        &self.metrics
    }

    /// Forgets what memory need not know, and looks for entries that have been silent for longer
    /// than they can live. Whether [`Committer::run`] has some to close now, also without frames.
    pub fn look_after(&mut self, now: UnixNanos) -> bool {
        // A draft is made of what memory is: while there is one, memory stays.
        if self.doubt.is_none() && self.closing.is_none() {
            let evicted = self.counter.evict(now);
            self.metrics.memory(self.counter.entries(), evicted);
            self.closing = self.counter.close_silent(now, CLOSED_AT_ONCE);
        }
        self.closing.is_some()
    }

    /// Commits the work's frames. What was done stands in the work even when this stops early.
    ///
    /// # Errors
    /// [`Stop::Away`]: run the same work again later, and nothing else before it.
    /// [`Stop::Fatal`]: never run anything again.
    pub async fn run(&mut self, work: &mut Work) -> Result<(), Stop> {
        self.close().await?;
        if let Some(frames) = self.settle(&work.todo).await? {
            finish(work, frames);
        }
        self.link(work).await?;
        let mut bisect = Bisect::new(self.transaction(&work.todo));
        let mut ahead = None;
        while !work.todo.is_empty() {
            let frames = match self.settle(&work.todo).await? {
                Some(frames) => Ok(frames),
                None => self.attempt(&work.todo, &bisect, &mut ahead).await?,
            };
            match frames {
                Ok(frames) => {
                    finish(work, frames);
                    bisect = Bisect::new(self.transaction(&work.todo));
                }
                Err(Refused { frame, reason }) => {
                    let at = frame.and_then(|name| self.index_of(&work.todo, name));
                    if let Some(bad) = bisect.narrow(at, work.todo.len()) {
                        let (node, epoch) = reject(work, bad, &reason);
                        let given_up = self.hold.give_up(&node, epoch);
                        work.done.extend(given_up.into_iter().map(put_off));
                        bisect = Bisect::new(self.transaction(&work.todo));
                    }
                }
            }
        }
        self.metrics.memory(self.counter.entries(), 0);
        self.metrics.linked(&self.counter.take_link_stats());
        Ok(())
    }

    /// Closes the entries that were found silent. Closing one again changes nothing, so a commit
    /// whose outcome is not known is run again.
    pub(super) async fn close(&mut self) -> Result<(), Stop> {
        let Some(draft) = self.closing.take() else { return Ok(()) };
        match self.store.commit(self.token, draft.set()).await {
            Ok(()) => {
                self.take(draft);
                Ok(())
            }
            Err(CommitError::OtherWriter) => Err(Fatal::OtherWriter.into()),
            Err(CommitError::SetBack) => Err(Fatal::SetBack.into()),
            Err(error @ (CommitError::Unknown(_) | CommitError::Unavailable(_))) => {
                self.closing = Some(draft);
                Err(Stop::Away(error.to_string()))
            }
            Err(error @ (CommitError::Conflict { .. } | CommitError::Data { .. })) => {
                // Its entries stay open, and are looked at again.
                tracing::error!(%error, "silent entries were not closed");
                Ok(())
            }
        }
    }

    /// How many of the frames make a transaction, one at least: a frame is never split.
    fn transaction(&self, todo: &[Frame]) -> usize {
        let mut rows = 0;
        let full = |frame: &Frame| {
            rows += frame.rows().max(1);
            rows >= self.rows
        };
        todo.iter().position(full).map_or(todo.len(), |last| last + 1)
    }

    /// Tries to commit the first frames of `todo`: how many went in, or what was refused. Those of
    /// the next transaction are counted meanwhile.
    async fn attempt(
        &mut self,
        todo: &[Frame],
        bisect: &Bisect,
        ahead: &mut Option<Ahead>,
    ) -> Result<Result<usize, Refused>, Stop> {
        let (frames, rest) = todo.split_at_checked(bisect.limit).unwrap_or((todo, &[]));
        let counted = ahead.take().filter(|ahead| ahead.frames == frames.len() && !bisect.thorough);
        let draft = match counted {
            Some(Ahead { draft, .. }) => draft,
            None => self.count(frames, bisect).await?,
        };
        let next = rest.get(..self.transaction(rest)).unwrap_or_default();
        let asked = Asked::default();
        let mut counting =
            (!next.is_empty()).then(|| self.counter.begin(next, &asked, Some(&draft)));
        let commit = Box::pin(self.store.commit(self.token, draft.set()));
        let committed = beside(commit, &mut counting).await;
        if committed.is_ok() {
            *ahead =
                counting.and_then(Ahead::finish).map(|draft| Ahead { draft, frames: next.len() });
        }
        match committed {
            Ok(()) => {
                self.take(draft);
                if let Some(ahead) = ahead {
                    self.counter.settle(&mut ahead.draft);
                }
            }
            Err(CommitError::Unknown(_) | CommitError::Conflict { .. }) => {
                // A conflict too may be this very set, committed by an attempt that was given up.
                self.doubt = Some(Doubt { draft, frames: frames.len() });
                return match self.settle(todo).await? {
                    Some(frames) => Ok(Ok(frames)),
                    None => Err(Stop::Away("a commit did not happen; it is run again".to_owned())),
                };
            }
            Err(CommitError::Unavailable(why)) => return Err(Stop::Away(why)),
            Err(CommitError::OtherWriter) => return Err(Fatal::OtherWriter.into()),
            Err(CommitError::SetBack) => return Err(Fatal::SetBack.into()),
            Err(CommitError::Data { frame, reason }) => return Ok(Err(Refused { frame, reason })),
        }
        Ok(Ok(frames.len()))
    }

    /// Counts `frames` over memory, and asks the store for what is missing there.
    async fn count(&mut self, frames: &[Frame], bisect: &Bisect) -> Result<Draft, Stop> {
        let mut asked = if bisect.thorough { Asked::thorough() } else { Asked::default() };
        loop {
            match self.counter.count(frames, &asked).map_err(Fatal::Count)? {
                Counted::Draft(draft) => return Ok(*draft),
                Counted::Needs(needs) => {
                    self.ask(&needs, &mut asked).await?;
                    if self.counter.is_merging() && (needs.link || !needs.find.is_empty()) {
                        // Forgotten since they were linked, and their company with them.
                        Box::pin(self.link_frames(frames)).await?;
                    }
                }
            }
        }
    }

    /// Asks the store what counting needs.
    async fn ask(&mut self, needs: &Needs, asked: &mut Asked) -> Result<(), Stop> {
        let mut answers = Answers::default();
        if !needs.find.is_empty() {
            answers.found = self.store.find(&needs.find).await.map_err(away)?;
        }
        if !needs.views.is_empty() {
            answers.found.extend(self.store.find_views(&needs.views).await.map_err(away)?);
        }
        if !needs.counted.is_empty() {
            let from = needs.counted_from;
            answers.counted = self.store.counted(&needs.counted, from).await.map_err(away)?;
        }
        if !needs.history.is_empty() {
            let from = needs.history_from;
            answers.history = self.store.history(&needs.history, from).await.map_err(away)?;
        }
        self.counter.learn(needs, &answers, asked);
        Ok(())
    }

    /// Links the entries of all frames of `work`: they find those of other observers that may see
    /// the same flows. While a commit is in doubt memory must stay, and nothing is linked.
    pub(super) async fn link(&mut self, work: &mut Work) -> Result<(), Stop> {
        loop {
            let waiting = work.todo.get(work.linked..).unwrap_or_default();
            if self.link_frames(waiting).await? && self.link_frames(&work.arrived).await? {
                work.linked = work.todo.len();
                return Ok(());
            }
            let frames = work.todo.iter().chain(&work.arrived);
            let now = frames.map(|frame| frame.received).max().unwrap_or_default();
            self.begin_merging(now).await?;
            work.linked = 0;
        }
    }

    /// Whether they are linked: else merging must begin, and all that waits be linked again.
    async fn link_frames(&mut self, frames: &[Frame]) -> Result<bool, Stop> {
        let mut asked = Asked::default();
        loop {
            match self.counter.link(frames, &asked).map_err(Fatal::Count)? {
                Linked::Done => return Ok(true),
                Linked::Needs(needs) => self.ask(&needs, &mut asked).await?,
                Linked::Reload => return Ok(false),
            }
        }
    }

    /// A domain has a second observer: everything known is read from the store once more.
    async fn begin_merging(&mut self, now: UnixNanos) -> Result<(), Stop> {
        tracing::info!("several observers share a domain: each flow is counted once from now on");
        self.store.index_views().await.map_err(away)?;
        let config = self.counter.config().clone();
        let loaded = self.store.load(now.minus(config.memory_horizon)).await.map_err(away)?;
        self.counter = Counter::merging(config, loaded);
        Ok(())
    }

    /// Finds out what became of a commit in doubt. How many frames it took in, if it happened.
    pub(super) async fn settle(&mut self, todo: &[Frame]) -> Result<Option<usize>, Stop> {
        let Some(doubt) = &self.doubt else { return Ok(None) };
        let Some(advance) = doubt.draft.set().advances.first() else {
            self.doubt = None;
            return Ok(None);
        };
        // The set's first frame is the first to do: it begins the first advance.
        let Some(frame) = todo.first() else { return Ok(None) };
        let (first, row) = (advance.first, advance.row);
        let progress = self.store.progress(&frame.node, frame.epoch).await.map_err(away)?;
        let ours = Progress { committed: row.committed, digest: row.digest };
        let committed = progress.map_or(Seq::NONE, |progress| progress.committed);
        let Some(doubt) = self.doubt.take() else { return Ok(None) };
        if progress == Some(ours) {
            self.take(doubt.draft);
            Ok(Some(doubt.frames))
        } else if committed.next() == first {
            Ok(None)
        } else {
            let (node, epoch) = (frame.node.to_string(), frame.epoch);
            Err(Fatal::Disagree { node, epoch, first, committed }.into())
        }
    }

    fn take(&mut self, draft: Draft) {
        let (_set, stats) = self.counter.apply(draft);
        self.metrics.committed(&stats);
    }

    /// Which of the frames has this name: by node number, which frames do not carry.
    fn index_of(&self, todo: &[Frame], name: FrameName) -> Option<usize> {
        let known = |frame: &Frame| self.counter.node_no(&frame.node);
        let same_node = |no: Option<NodeNo>| no.is_none_or(|no| no == name.node);
        todo.iter().position(|frame| {
            frame.epoch == name.epoch && frame.first == name.seq && same_node(known(frame))
        })
    }
}

/// A set that was counted while the one before it was committed: as if that had been taken.
struct Ahead {
    draft: Draft,
    /// How many frames it covers.
    frames: usize,
}

impl Ahead {
    /// What is left to count, once the set before is committed. `None` where the store must be
    /// asked first, or frames are wrong: counting them over memory tells.
    fn finish(mut counting: Counting<'_>) -> Option<Draft> {
        while !counting.step(usize::MAX).ok()? {}
        match counting.finish() {
            Counted::Draft(draft) => Some(*draft),
            Counted::Needs(_) => None,
        }
    }
}

/// Waits for a commit, and counts on while it has to wait. Counting that fails is given up.
async fn beside<T>(
    mut commit: impl Future<Output = T> + Unpin,
    counting: &mut Option<Counting<'_>>,
) -> T {
    let mut left = counting.is_some();
    poll_fn(|cx| {
        let polled = Pin::new(&mut commit).poll(cx);
        if polled.is_pending() && left {
            match counting.as_mut().map(|counting| counting.step(SLICE)) {
                Some(Ok(done)) => left = !done,
                _given_up => (left, *counting) = (false, None),
            }
            // The store may be ready for more by now.
            cx.waker().wake_by_ref();
        }
        polled
    })
    .await
}

/// Records counted in one go: half a millisecond, in which a store's buffers do not run dry.
const SLICE: usize = 512;

/// The store cannot be asked now.
fn away(error: StoreError) -> Stop {
    Stop::Away(error.to_string())
}

/// What the store refused.
struct Refused {
    frame: Option<FrameName>,
    reason: String,
}

/// Finds the frame that a store refuses, in as few transactions as the store's words allow.
#[derive(Debug)]
struct Bisect {
    /// How many frames the next transaction takes.
    limit: usize,
    /// Whether every entry is looked up: refused because one exists is no fault of a frame.
    thorough: bool,
}

impl Bisect {
    /// Nothing refused yet, of a transaction of so many frames.
    const fn new(limit: usize) -> Self {
        Self { limit, thorough: false }
    }

    /// After a refusal: `at` is the frame named, of `len` to do. The frame to reject, if it is
    /// found.
    fn narrow(&mut self, at: Option<usize>, len: usize) -> Option<usize> {
        match at {
            // Those before it go in first, as what comes after it of its epoch must wait.
            Some(0) => return Some(0),
            Some(at) => self.limit = at,
            None if !self.thorough => self.thorough = true,
            None if self.limit.min(len) <= 1 => return Some(0),
            None => self.limit = self.limit.min(len) / 2,
        }
        None
    }
}

/// Notes that the first `frames` are committed.
pub(super) fn finish(work: &mut Work, frames: usize) {
    work.linked = work.linked.saturating_sub(frames);
    let mut lanes = HashSet::new();
    let mut done = Vec::new();
    let committed: Vec<Frame> = work.todo.drain(..frames).collect();
    for frame in committed.into_iter().rev() {
        if lanes.insert((frame.node.clone(), frame.epoch)) {
            let (node, epoch, last) = (frame.node, frame.epoch, frame.last);
            done.push(Done::Committed { node, epoch, last });
        }
    }
    work.done.extend(done.into_iter().rev());
}

/// Rejects the frame at `bad`, and puts off those after it of the same epoch: which one that is.
fn reject(work: &mut Work, bad: usize, reason: &str) -> (NodeName, Epoch) {
    let Frame { node, epoch, first: seq, .. } = work.todo.remove(bad);
    let (mut kept, mut later) = (Vec::new(), Vec::new());
    for frame in work.todo.drain(..) {
        if frame.node == node && frame.epoch == epoch {
            later.push(put_off(frame));
        } else {
            kept.push(frame);
        }
    }
    work.todo = kept;
    work.linked = 0;
    let of = (node.clone(), epoch);
    work.done.push(Done::Rejected { node, epoch, seq, reason: reason.to_owned() });
    work.done.extend(later);
    of
}

/// A frame that must wait for one before it.
fn put_off(frame: Frame) -> Done {
    Done::Later { node: frame.node, epoch: frame.epoch, seq: frame.first }
}
