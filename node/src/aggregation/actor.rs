//! The aggregation actor: takes what the probe says, closes intervals, and waits for them to be
//! durable before it takes anything else.
//!
//! Closing encodes up to a million records, so it runs on a blocking thread with the
//! [`Aggregation`] moved into it. Ends that cannot be spooled stay in the table.

use std::sync::Arc;

use actix::fut::wrap_future;
use actix::prelude::*;
use flow::{ClockOffset, Record};
use tokio::runtime::Handle;
use tracing::{debug, error, warn};

use super::feed::Feed;
use super::listing::{Choice, Listing};
use super::metrics::AggregationMetrics;
use super::{Aggregation, Closing, Room};
use crate::sink::stdout::LineSink;
use crate::uplink::actor::{Append, AskRoom, Checkpoint};

/// Where closed intervals go.
pub enum Outlet {
    /// Into the spool, and from there to the aggregator.
    Spool {
        /// What the spool can take.
        room: Recipient<AskRoom>,
        /// Makes frames durable.
        append: Recipient<Append>,
        /// Takes a checkpoint of the baselines.
        checkpoint: Recipient<Checkpoint>,
    },
    /// To a local sink.
    Lines(LineSink),
}

/// Asks for live flows.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Listing")]
pub struct ListFlows(pub Choice);

/// The actor.
pub struct AggregationActor {
    /// Away while an interval is being closed; nothing is handled meanwhile.
    core: Option<Box<Aggregation>>,
    outlet: Arc<Outlet>,
    metrics: Arc<AggregationMetrics>,
}

impl AggregationActor {
    /// An actor around `core`.
    pub fn new(core: Aggregation, outlet: Outlet, metrics: Arc<AggregationMetrics>) -> Self {
        Self { core: Some(Box::new(core)), outlet: Arc::new(outlet), metrics }
    }

    /// Runs `work` on a blocking thread with the core; nothing else is handled meanwhile.
    fn with_core(
        &mut self,
        work: impl FnOnce(&mut Aggregation, &Shell) + Send + 'static,
    ) -> AtomicResponse<Self, ()> {
        let Some(mut core) = self.core.take() else {
            return AtomicResponse::new(Box::pin(fut::ready(())));
        };
        let (outlet, metrics) = (Arc::clone(&self.outlet), Arc::clone(&self.metrics));
        let away = tokio::task::spawn_blocking(move || {
            let shell = Shell { outlet, metrics, runtime: Handle::current() };
            work(&mut core, &shell);
            shell.metrics.table(&core.table().stats());
            core
        });
        let back = wrap_future::<_, Self>(away).map(|done, actor, _| match done {
            Ok(core) => actor.core = Some(core),
            Err(lost) => error!(error = %lost, "the aggregation's thread died"),
        });
        AtomicResponse::new(Box::pin(back))
    }
}

impl Actor for AggregationActor {
    type Context = Context<Self>;
}

impl Handler<Feed> for AggregationActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: Feed, _: &mut Context<Self>) -> Self::Result {
        let done = AtomicResponse::new(Box::pin(fut::ready(())));
        let Some(core) = &mut self.core else { return done };
        match message {
            Feed::SweepBegin(begin) => core.sweep_begin(begin),
            Feed::Chunk(clock, chunk) => core.chunk(clock, &chunk),
            Feed::Events(clock, events) => {
                core.events(clock, &events);
                if core.ends_are_due() {
                    return self
                        .with_core(|core, shell| shell.close(core, Aggregation::close_ends));
                }
            }
            Feed::SweepEnd(report, end) => {
                return self.with_core(move |core, shell| {
                    core.sweep_end(report.as_ref(), &end);
                    shell.close(core, Aggregation::close_interval);
                    shell.metrics.intervals.inc();
                    shell.checkpoint(core);
                });
            }
        }
        done
    }
}

impl Handler<ListFlows> for AggregationActor {
    type Result = MessageResult<ListFlows>;

    fn handle(&mut self, ListFlows(choice): ListFlows, _: &mut Context<Self>) -> Self::Result {
        let Some(core) = &self.core else { return MessageResult(Listing::default()) };
        let pair = core.clock();
        let clock = ClockOffset::between(pair.boot, pair.wall);
        MessageResult(Listing::of(core.table().iter(), &choice, clock, crate::clock::now()))
    }
}

/// How to close the table: an interval, or ends between sweeps.
type Close = fn(&mut Aggregation, &Room) -> Result<Option<Closing>, super::CloseError>;

/// What a closing needs of the world, on its blocking thread.
struct Shell {
    outlet: Arc<Outlet>,
    metrics: Arc<AggregationMetrics>,
    runtime: Handle,
}

impl Shell {
    fn close(&self, core: &mut Aggregation, close: Close) {
        match &*self.outlet {
            Outlet::Lines(sink) => self.write_lines(core, sink),
            Outlet::Spool { room, append, .. } => {
                if !self.spool(core, close, room, append) {
                    self.metrics.postponed.inc();
                }
            }
        }
    }

    /// Whether the closing is durable.
    fn spool(
        &self,
        core: &mut Aggregation,
        close: Close,
        room: &Recipient<AskRoom>,
        append: &Recipient<Append>,
    ) -> bool {
        let Ok(Some(room)) = self.runtime.block_on(room.send(AskRoom)) else { return false };
        let closing = match close(core, &room) {
            Ok(Some(closing)) => closing,
            Ok(None) => return false,
            Err(error) => {
                error!(error = %error, "an interval could not be put into frames; it comes again");
                return false;
            }
        };
        let message = Append { epoch: closing.epoch, frames: closing.frames.clone() };
        match self.runtime.block_on(append.send(message)) {
            Ok(Ok(())) => {
                self.metrics.frames.inc_by(closing.frames.len() as u64);
                self.metrics.records.inc_by(closing.records() as u64);
                debug!(frames = closing.frames.len(), records = closing.records(), "spooled");
                self.metrics.unencodable.inc_by(closing.unencodable);
                core.durable(closing);
                true
            }
            Ok(Err(error)) => {
                warn!(error = %error, "an interval could not be spooled; it comes again");
                false
            }
            Err(_stopped) => false,
        }
    }

    /// Writes the baselines out, where that is due.
    fn checkpoint(&self, core: &Aggregation) {
        let Outlet::Spool { checkpoint, .. } = &*self.outlet else { return };
        let say = |message| matches!(self.runtime.block_on(checkpoint.send(message)), Ok(true));
        let Some(epoch) = core.epoch() else { return };
        if !say(Checkpoint::Due) {
            return;
        }
        let mut baselines = core.table().baselines().peekable();
        let mut written = say(Checkpoint::Begin(epoch));
        while written && baselines.peek().is_some() {
            let chunk = baselines.by_ref().take(CHECKPOINT_CHUNK).collect();
            written = say(Checkpoint::Add(chunk));
        }
        if !(written && say(Checkpoint::Finish(core.table().next_flow()))) {
            warn!("no checkpoint of the baselines could be written; the spool keeps more frames");
        }
    }

    fn write_lines(&self, core: &mut Aggregation, sink: &LineSink) {
        let pair = core.clock();
        let clock = ClockOffset::between(pair.boot, pair.wall);
        let mut batch: Vec<Record> = Vec::new();
        let mut written = 0u64;
        core.drain_to(&mut |record| {
            batch.push(*record);
            written += 1;
            if batch.len() >= wire::batch::MAX_RECORDS {
                sink.offer(clock, std::mem::take(&mut batch));
            }
        });
        if !batch.is_empty() {
            sink.offer(clock, batch);
        }
        self.metrics.records.inc_by(written);
    }
}

/// Baselines in one message to the spool.
const CHECKPOINT_CHUNK: usize = 10_000;
