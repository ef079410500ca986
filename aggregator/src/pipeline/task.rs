//! The task between sessions and store.
//!
//! It takes requests one by one, puts each frame where it belongs ([`Intake`]), decodes the next
//! ones and collects about a transaction's worth. One change set is in flight, on a task of its
//! own; the next one is decoded meanwhile. When both are full the queue is not read, sessions
//! wait, and QUIC slows the nodes.
//!
//! While the store is away the set in flight is kept and tried again with growing pauses; frames
//! that arrive then are put off, so nothing is lost and nothing piles up.

use std::time::{Duration, SystemTime};

use daemon::config::chain;
use flow::{StoreId, UnixNanos};
use rand::Rng;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::commit::{Committer, Done, Fatal, Stop, TRANSACTION_ROWS, Work};
use super::decode::{self, Decoded};
use super::intake::{Intake, Place};
use super::metrics::{FrameOutcome, PipelineMetrics};
use super::outbox::Outbox;
use super::{Answer, Arrived, Opened, PipelineError, Request};
use crate::count::Frame;
use crate::store::Store;

/// Bounds of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineConfig {
    /// Rows that are worth a transaction. While one is on its way, frames for [`AHEAD`] more are
    /// collected.
    pub rows: usize,
    /// How long the first frame of a set waits for others.
    pub wait: Duration,
    /// Declared bytes of decoded frames, in flight and collected, of all nodes.
    pub decode_budget: usize,
    /// The shortest pause before a store that is away is tried again.
    pub retry_min: Duration,
    /// The longest one.
    pub retry_max: Duration,
    /// How often memory is cleared of entries that ended long ago, and silent ones are closed.
    pub evict_every: Duration,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            rows: TRANSACTION_ROWS,
            wait: Duration::from_millis(250),
            decode_budget: 256 << 20,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
            evict_every: Duration::from_secs(60),
        }
    }
}

/// Whether frames can be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// The last transaction went in.
    Up,
    /// The last one did not; why, for a person. Nodes keep their frames.
    Away(String),
}

/// Why the pipeline stopped before its queue was closed.
#[derive(Debug, Error)]
pub enum PipelineFailure {
    /// This process must not write any more.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The task that commits ended by itself.
    #[error("the task that writes to the store died")]
    Died,
}

/// Runs the pipeline until its queue is closed and everything taken is committed (or the store is
/// away: then the nodes still have it).
///
/// # Errors
/// When this process must stop writing.
pub async fn run<S: Store>(
    committer: Committer<S>,
    queue: mpsc::Receiver<Request>,
    config: PipelineConfig,
    metrics: PipelineMetrics,
    state: watch::Sender<StoreState>,
) -> Result<(), PipelineFailure> {
    Pipeline::new(committer, queue, config, metrics, state).run().await
}

/// Transactions' worth of frames that are collected at most: within such a set each is counted
/// while the one before it is committed.
pub const AHEAD: usize = 4;

/// How soon a frame that is ahead of its turn may come again.
const RETRY_EARLY_MS: u32 = 1_000;

/// How soon a frame may come again when the store is away.
const RETRY_AWAY_MS: u32 = 5_000;

/// How often answers that found no room are tried again, and levels are shown.
const TICK: Duration = Duration::from_millis(250);

/// A change set's frames on their way, or back from it.
type Flight<S> = (Committer<S>, Work, Result<(), Stop>);

enum Writer<S> {
    /// Nothing is in flight.
    Idle(Box<Committer<S>>),
    /// A set is.
    Flying(JoinHandle<Flight<S>>),
    /// A set waits for the store to come back.
    Waiting { committer: Box<Committer<S>>, work: Work, until: Instant },
}

struct Collected {
    frames: Vec<Frame>,
    rows: usize,
    declared: usize,
    since: Option<Instant>,
}

impl Collected {
    const fn new() -> Self {
        Self { frames: Vec::new(), rows: 0, declared: 0, since: None }
    }

    fn push(&mut self, Decoded { frame, declared }: Decoded) {
        // A frame without records is work too.
        self.rows += frame.rows().max(1);
        self.declared += declared;
        self.since.get_or_insert_with(Instant::now);
        self.frames.push(frame);
    }
}

struct Pipeline<S> {
    config: PipelineConfig,
    metrics: PipelineMetrics,
    state: watch::Sender<StoreState>,
    queue: mpsc::Receiver<Request>,
    closed: bool,
    store: StoreId,
    intake: Intake,
    outbox: Outbox,
    collected: Collected,
    writer: Option<Writer<S>>,
    /// Declared bytes of the set in flight.
    flying: usize,
    /// How long the last pause was, where the store has not come back since.
    away: Option<Duration>,
    evicted: Instant,
    /// When frames that wait for others' word were looked at last.
    released: Instant,
}

/// What woke the pipeline.
enum Wake<S> {
    Request(Option<Request>),
    Landed(Box<Result<Flight<S>, tokio::task::JoinError>>),
    Due,
    Tick,
}

impl<S: Store> Pipeline<S> {
    fn new(
        committer: Committer<S>,
        queue: mpsc::Receiver<Request>,
        config: PipelineConfig,
        metrics: PipelineMetrics,
        state: watch::Sender<StoreState>,
    ) -> Self {
        let mut intake = Intake::default();
        for (node, epoch, progress) in committer.counter().all_progress() {
            intake.restore(node, epoch, progress);
        }
        Self {
            config,
            metrics,
            state,
            queue,
            closed: false,
            store: committer.store_id(),
            intake,
            outbox: Outbox::default(),
            collected: Collected::new(),
            writer: Some(Writer::Idle(Box::new(committer))),
            flying: 0,
            away: None,
            evicted: Instant::now(),
            released: Instant::now(),
        }
    }

    async fn run(mut self) -> Result<(), PipelineFailure> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.launch();
            if self.is_finished() {
                return Ok(());
            }
            match self.wake(&mut tick).await {
                Wake::Request(Some(request)) => self.request(request),
                Wake::Request(None) => self.closed = true,
                Wake::Landed(flight) => {
                    let (committer, work, result) =
                        flight.map_err(|_panicked| PipelineFailure::Died)?;
                    self.landed(committer, work, result)?;
                }
                Wake::Due => {}
                Wake::Tick => self.tick(),
            }
        }
    }

    async fn wake(&mut self, tick: &mut tokio::time::Interval) -> Wake<S> {
        let takes = !self.closed && self.has_room();
        let due = self.due();
        let idle = Instant::now() + Duration::from_secs(3_600);
        let flight = async {
            match &mut self.writer {
                Some(Writer::Flying(flight)) => flight.await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            landed = flight => Wake::Landed(Box::new(landed)),
            request = self.queue.recv(), if takes => Wake::Request(request),
            () = tokio::time::sleep_until(due.unwrap_or(idle)), if due.is_some() => Wake::Due,
            _ = tick.tick() => Wake::Tick,
        }
    }

    /// Room for another frame. While the store is away all are put off, so there is room.
    fn has_room(&self) -> bool {
        let used = self.collected.declared + self.flying;
        self.away.is_some()
            || self.collected.rows < self.config.rows.saturating_mul(AHEAD)
                && used < self.config.decode_budget
    }

    /// When the next set is to be launched, where that depends on time alone.
    fn due(&self) -> Option<Instant> {
        match &self.writer {
            Some(Writer::Idle(_)) => self.collected.since.map(|since| since + self.config.wait),
            Some(Writer::Waiting { until, .. }) => Some(*until),
            Some(Writer::Flying(_)) | None => None,
        }
    }

    /// Launches what is ready: the set that waits for the store, or a full or old enough one.
    fn launch(&mut self) {
        self.writer = match self.writer.take() {
            Some(Writer::Waiting { committer, work, until, .. }) if Instant::now() >= until => {
                Some(self.fly(committer, work))
            }
            Some(Writer::Idle(committer)) if self.is_set_ready() => {
                let Collected { frames, rows, declared, .. } =
                    std::mem::replace(&mut self.collected, Collected::new());
                self.flying = committer.held().1.saturating_add(declared);
                self.metrics.launched(rows);
                Some(self.fly(committer, Work { arrived: frames, ..Work::default() }))
            }
            Some(Writer::Idle(committer)) if self.is_release_due(&committer) => {
                self.released = Instant::now();
                Some(self.fly(committer, Work::default()))
            }
            other => other,
        };
    }

    fn fly(&self, mut committer: Box<Committer<S>>, mut work: Work) -> Writer<S> {
        let all = self.closed;
        Writer::Flying(tokio::spawn(async move {
            let result = match committer.admit(&mut work, now(), all).await {
                Ok(()) => committer.run(&mut work).await,
                Err(stop) => Err(stop),
            };
            (*committer, work, result)
        }))
    }

    /// Whether frames that wait for others' word are to be looked at again.
    fn is_release_due(&self, committer: &Committer<S>) -> bool {
        committer.held().0 > 0 && (self.closed || self.released.elapsed() >= TICK)
    }

    fn is_set_ready(&self) -> bool {
        let Some(since) = self.collected.since else { return false };
        self.closed
            || self.collected.rows >= self.config.rows
            || self.collected.declared >= self.config.decode_budget
            || since.elapsed() >= self.config.wait
    }

    /// Whether the queue is closed and nothing more can be done.
    fn is_finished(&self) -> bool {
        self.closed
            && match &self.writer {
                Some(Writer::Idle(committer)) => {
                    self.collected.frames.is_empty() && committer.held().0 == 0
                }
                Some(Writer::Waiting { .. }) => true,
                Some(Writer::Flying(_)) | None => false,
            }
    }

    fn landed(
        &mut self,
        committer: Committer<S>,
        mut work: Work,
        result: Result<(), Stop>,
    ) -> Result<(), PipelineFailure> {
        for done in work.done.drain(..) {
            self.done(done);
        }
        let committer = Box::new(committer);
        match result {
            Ok(()) => {
                self.flying = committer.held().1;
                if self.away.take().is_some() {
                    tracing::info!("the store is back");
                }
                self.show(StoreState::Up);
                self.writer = Some(Writer::Idle(committer));
            }
            Err(Stop::Fatal(fatal)) => return Err(fatal.into()),
            Err(Stop::Away(why)) => {
                let pause = self.away.map_or(self.config.retry_min, |last| last.saturating_mul(2));
                let pause = pause.min(self.config.retry_max);
                if self.away.is_none() {
                    tracing::warn!(reason = %why, "the store is away, nodes keep their frames");
                }
                self.away = Some(pause);
                self.show(StoreState::Away(why));
                // Half to one and a half, so that several aggregators do not knock together.
                let until = Instant::now() + pause.mul_f64(rand::rng().random_range(0.5..1.5));
                self.writer = Some(Writer::Waiting { committer, work, until });
            }
        }
        Ok(())
    }

    fn show(&self, state: StoreState) {
        self.metrics.away(state != StoreState::Up);
        self.state.send_if_modified(|shown| {
            let changed = *shown != state;
            *shown = state;
            changed
        });
    }

    /// Tells a session what became of its frames.
    fn done(&mut self, done: Done) {
        let (node, epoch, answer) = match done {
            Done::Committed { node, epoch, last } => {
                self.intake.commit(&node, epoch, last);
                let digest = self.intake.committed_digest(&node, epoch);
                (node, epoch, Answer::Ack(last, digest))
            }
            Done::Rejected { node, epoch, seq, reason } => {
                tracing::error!(%node, %epoch, %seq, reason, "a frame was refused by the store");
                self.metrics.frame(FrameOutcome::Refused);
                self.intake.give_up(&node, epoch, seq);
                self.put_off_collected(&node, epoch);
                (node, epoch, Answer::Rejected { seq, reason })
            }
            Done::Later { node, epoch, seq } => {
                self.metrics.frame(FrameOutcome::PutOff);
                (node, epoch, Answer::Later { seq, retry_after_ms: RETRY_EARLY_MS })
            }
        };
        self.send(&node, epoch, answer);
    }

    /// Gives up collected frames of an epoch: one before them was refused.
    fn put_off_collected(&mut self, node: &flow::NodeName, epoch: flow::Epoch) {
        let (mut kept, mut off) = (Vec::new(), Vec::new());
        for frame in self.collected.frames.drain(..) {
            let same = frame.node == *node && frame.epoch == epoch;
            if same { off.push(frame.first) } else { kept.push(frame) }
        }
        // Their share of the budget comes back with the set.
        self.collected.frames = kept;
        if self.collected.frames.is_empty() {
            self.collected = Collected::new();
        }
        for seq in off {
            self.metrics.frame(FrameOutcome::PutOff);
            self.send(node, epoch, Answer::Later { seq, retry_after_ms: RETRY_EARLY_MS });
        }
    }

    fn send(&mut self, node: &flow::NodeName, epoch: flow::Epoch, answer: Answer) {
        if let Some(to) = self.intake.answers(node, epoch) {
            self.outbox.send(node, epoch, to, answer);
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Open { node, epoch, reply } => {
                // What was taken of an older session stays taken: copies of it attach to it.
                let opened = match (&self.away, &*self.state.borrow()) {
                    (Some(_), StoreState::Away(why)) => Err(PipelineError::StoreAway(why.clone())),
                    _ => self.intake.open(&node, epoch, now()).map_err(Into::into).map(|()| {
                        let committed = self.intake.committed(&node, epoch);
                        let digest = self.intake.committed_digest(&node, epoch);
                        Opened { store: self.store, committed, digest }
                    }),
                };
                // The session may have gone meanwhile.
                let _gone = reply.send(opened);
            }
            Request::Frame(arrived) => self.arrived(&arrived),
        }
    }

    fn arrived(&mut self, arrived: &Arrived) {
        let Arrived { node, epoch, first, last, digest, .. } = arrived;
        self.intake.answer_to(node, *epoch, arrived.answer.clone());
        let is_gap = decode::is_gap(arrived);
        let seq = *first;
        let (outcome, answer) =
            match self.intake.place(node, *epoch, (*first, *last), digest, is_gap) {
                Place::Next => match self.take(arrived) {
                    Ok(()) => (FrameOutcome::Accepted, None),
                    Err((outcome, answer)) => (outcome, Some(answer)),
                },
                Place::Committed(committed) => {
                    let digest = self.intake.committed_digest(node, *epoch);
                    (FrameOutcome::Copy, Some(Answer::Ack(committed, digest)))
                }
                Place::Pending => (FrameOutcome::Copy, None),
                Place::Early => {
                    let later = Answer::Later { seq, retry_after_ms: RETRY_EARLY_MS };
                    (FrameOutcome::Early, Some(later))
                }
                Place::OtherBytes => {
                    tracing::error!(
                        %node, %epoch, %seq,
                        "a frame with other bytes arrived under a number that is taken"
                    );
                    self.intake.contest(node, *epoch);
                    let reason = OTHER_BYTES.to_owned();
                    (FrameOutcome::OtherBytes, Some(Answer::OtherBytes { seq, reason }))
                }
                Place::Straddles => {
                    self.intake.contest(node, *epoch);
                    let reason = STRADDLES.to_owned();
                    (FrameOutcome::OtherBytes, Some(Answer::OtherBytes { seq, reason }))
                }
            };
        self.metrics.frame(outcome);
        if let Some(answer) = answer {
            self.outbox.send(node, *epoch, &arrived.answer, answer);
        }
    }

    /// Decodes and collects the next frame of its epoch.
    fn take(&mut self, arrived: &Arrived) -> Result<(), (FrameOutcome, Answer)> {
        let seq = arrived.first;
        if self.away.is_some() {
            let later = Answer::Later { seq, retry_after_ms: RETRY_AWAY_MS };
            return Err((FrameOutcome::StoreAway, later));
        }
        let declared = decode::declared(arrived);
        let frame = decode::decode(arrived, now()).map_err(|error| {
            let (node, epoch, reason) = (&arrived.node, arrived.epoch, chain(&error));
            tracing::error!(%node, %epoch, %seq, reason, "a frame cannot be taken");
            (FrameOutcome::Malformed, Answer::Rejected { seq, reason })
        })?;
        self.intake.accept(&arrived.node, arrived.epoch, arrived.last, arrived.digest);
        self.collected.push(Decoded { frame, declared });
        Ok(())
    }

    fn tick(&mut self) {
        let owed = self.outbox.retry();
        let dropped = self.outbox.take_dropped();
        let budget = self.collected.declared + self.flying;
        self.metrics.levels(self.queue.len(), budget, owed, dropped);
        if self.evicted.elapsed() >= self.config.evict_every {
            self.writer = match self.writer.take() {
                Some(Writer::Idle(mut committer)) => Some(match committer.look_after(now()) {
                    // There may be more: looked for again as soon as these are closed.
                    true => self.fly(committer, Work::default()),
                    false => {
                        self.evicted = Instant::now();
                        Writer::Idle(committer)
                    }
                }),
                other => other,
            };
        }
    }
}

/// The aggregator's wall clock.
fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixNanos::default().plus(since.unwrap_or_default())
}

const OTHER_BYTES: &str = "this number of this epoch was taken with other bytes: two hosts send \
     under one name and epoch (a cloned node?), or the spool was changed; give the clone its own \
     certificate and a new state folder";

const STRADDLES: &str = "a gap must not cover numbers that are committed already together with \
     numbers that are not";
