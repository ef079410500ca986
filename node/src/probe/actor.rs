//! The probe actor: drains events a few times a second and sweeps once an interval.
//!
//! The source blocks, so every call runs on a blocking thread that takes the source with it and
//! brings it back. Batches go to the aggregation by an awaited send: while the aggregation is
//! busy the sweep waits, and the kernel's table keeps what was not read yet.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::prelude::*;
use daemon::config::chain;
use flow::BootNanos;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{error, warn};

use super::metrics::ProbeMetrics;
use super::schedule::{Schedule, Tick};
use crate::aggregation::feed::{Feed, IntervalEnd};
use crate::clock::HostClock;
use crate::source::metrics::LiveKinds;
use crate::source::{Source, SourceError};

/// How often events are taken from the source between sweeps.
pub const DRAIN_EVERY: Duration = Duration::from_millis(200);

/// Events in one message to the aggregation.
pub const EVENTS_PER_MESSAGE: usize = 8_192;

/// Take what happened since the last time.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Sweep, because this interval has come to its end.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Sweep(pub u64);

/// A last sweep, then nothing more: answered when the aggregation has taken all of it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Finish;

/// The probe.
pub struct Probe {
    source: Option<Box<dyn Source>>,
    clock: HostClock,
    schedule: Schedule,
    feed: Recipient<Feed>,
    metrics: Arc<ProbeMetrics>,
    exhausted: watch::Sender<bool>,
    finished: bool,
}

impl Probe {
    /// A probe of `source` that feeds the aggregation. `exhausted` becomes true when the source
    /// has an end and has come to it.
    pub fn new(
        source: Box<dyn Source>,
        schedule: Schedule,
        feed: Recipient<Feed>,
        metrics: Arc<ProbeMetrics>,
        exhausted: watch::Sender<bool>,
    ) -> Self {
        let (source, clock) = (Some(source), HostClock::new());
        Self { source, clock, schedule, feed, metrics, exhausted, finished: false }
    }

    fn plan_drain(&self, ctx: &mut Context<Self>) {
        if !self.finished {
            ctx.notify_later(Drain, DRAIN_EVERY);
        }
    }

    fn plan_sweep(&self, ctx: &mut Context<Self>) {
        let Tick { number, wait } = self.schedule.next(crate::clock::wall());
        if !self.finished {
            ctx.notify_later(Sweep(number), wait);
        }
    }

    /// Runs `work` on a blocking thread with the source; nothing else is handled meanwhile.
    fn with_source(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut Round<'_>) -> Result<(), SourceError> + Send + 'static,
        then: impl FnOnce(&mut Self, &mut Context<Self>) + 'static,
    ) -> AtomicResponse<Self, ()> {
        let Some(mut source) = self.source.take() else {
            then(self, ctx);
            return AtomicResponse::new(Box::pin(fut::ready(())));
        };
        let (feed, metrics, mut clock) = (self.feed.clone(), Arc::clone(&self.metrics), self.clock);
        let round = tokio::task::spawn_blocking(move || {
            let runtime = Handle::current();
            let mut round =
                Round { source: source.as_mut(), feed, runtime, clock: &mut clock, metrics };
            let outcome = work(&mut round);
            round.say_health();
            (source, clock, outcome)
        });
        let future = wrap_future::<_, Self>(round).map(|done, probe, ctx| {
            match done {
                Ok((source, clock, outcome)) => {
                    if source.remaining() == Some(Duration::ZERO) {
                        probe.exhausted.send_replace(true);
                    }
                    (probe.source, probe.clock) = (Some(source), clock);
                    if let Err(source_error) = outcome {
                        probe.metrics.failures.inc();
                        warn!(error = %chain(&source_error), "the source failed; trying again");
                    }
                }
                Err(lost) => error!(error = %lost, "the source's thread died"),
            }
            then(probe, ctx);
        });
        AtomicResponse::new(Box::pin(future))
    }
}

impl Actor for Probe {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // The first sweep is at once: it adopts what lives already.
        let first = self.schedule.next(crate::clock::wall()).number.saturating_sub(1);
        ctx.notify(Sweep(first));
        self.plan_drain(ctx);
    }
}

impl Handler<Drain> for Probe {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Drain, ctx: &mut Context<Self>) -> Self::Result {
        self.with_source(ctx, |round| round.drain(), |probe, ctx| probe.plan_drain(ctx))
    }
}

impl Handler<Sweep> for Probe {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Sweep(number): Sweep, ctx: &mut Context<Self>) -> Self::Result {
        self.with_source(ctx, move |round| round.sweep(number), |probe, ctx| probe.plan_sweep(ctx))
    }
}

impl Handler<Finish> for Probe {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Finish, ctx: &mut Context<Self>) -> Self::Result {
        self.finished = true;
        let number = self.schedule.next(crate::clock::wall()).number;
        self.with_source(
            ctx,
            move |round| {
                let swept = round.sweep(number);
                // What ended during the sweep belongs to this life, too.
                round.drain().and(swept)
            },
            |_, _| (),
        )
    }
}

/// One visit to the source, on a blocking thread.
struct Round<'r> {
    source: &'r mut dyn Source,
    feed: Recipient<Feed>,
    runtime: Handle,
    clock: &'r mut HostClock,
    metrics: Arc<ProbeMetrics>,
}

impl Round<'_> {
    /// Hands a message to the aggregation and waits until it has been taken in.
    fn send(&self, message: Feed) {
        if self.runtime.block_on(self.feed.send(message)).is_err() {
            self.metrics.unheard.inc();
        }
    }

    fn drain(&mut self) -> Result<(), SourceError> {
        let mut events = Vec::new();
        let outcome = self.source.events(&mut events);
        self.metrics.events.inc_by(events.len() as u64);
        let clock = self.clock.pair();
        let mut chunks = events.chunks(EVENTS_PER_MESSAGE);
        // Also where there are none: what the aggregation holds may be due.
        self.send(Feed::Events(clock, chunks.next().unwrap_or_default().to_vec()));
        for chunk in chunks {
            self.send(Feed::Events(clock, chunk.to_vec()));
        }
        outcome
    }

    fn sweep(&mut self, number: u64) -> Result<(), SourceError> {
        self.drain()?;
        let begin: BootNanos = crate::clock::now();
        self.send(Feed::SweepBegin(begin));
        let (feed, runtime, metrics) = (&self.feed, &self.runtime, &self.metrics);
        let clock = &mut *self.clock;
        let mut kinds = LiveKinds::default();
        let outcome = self.source.sweep(&mut |chunk| {
            chunk.readings.iter().for_each(|reading| kinds.count(reading));
            metrics.readings.inc_by(chunk.readings.len() as u64);
            let chunk = Feed::Chunk(clock.pair(), chunk);
            if runtime.block_on(feed.send(chunk)).is_err() {
                metrics.unheard.inc();
            }
        });
        let (report, outcome) = match outcome {
            Ok(report) => (Some(report), Ok(())),
            Err(error) => (None, Err(error)),
        };
        if let Some(report) = &report {
            self.metrics.swept(report);
            self.metrics.source.live(&kinds);
            for (netns, problem) in &report.failed {
                warn!(netns = netns.0, problem, "a namespace could not be swept to its end");
            }
        }
        let drained = self.drain();
        let (clock, health) = (self.clock.pair(), self.source.health());
        self.send(Feed::SweepEnd(report, IntervalEnd { number, clock, health }));
        outcome.and(drained)
    }

    fn say_health(&self) {
        self.metrics.health(&self.source.health());
    }
}
