//! Metrics of the pipeline.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What became of a frame when it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum FrameOutcome {
    /// Taken.
    Accepted,
    /// A copy of a committed or pending one.
    Copy,
    /// Ahead of its turn; to be sent again.
    Early,
    /// The store was away; to be sent again.
    StoreAway,
    /// It cannot be decoded, or has values that cannot be stored.
    Malformed,
    /// Other bytes under a number that is taken.
    OtherBytes,
    /// Refused by the store.
    Refused,
    /// Put off because one before it was refused.
    PutOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: FrameOutcome,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct PipelineMetrics {
    frames: Family<OutcomeLabel, Counter>,
    queue: Gauge<i64, AtomicI64>,
    budget: Gauge<i64, AtomicI64>,
    rows: Histogram,
    away: Gauge<i64, AtomicI64>,
    owed: Gauge<i64, AtomicI64>,
    answers_dropped: Counter,
}

impl Default for PipelineMetrics {
    fn default() -> Self {
        Self {
            frames: Family::default(),
            queue: Gauge::default(),
            budget: Gauge::default(),
            rows: Histogram::new([1.0, 10.0, 100.0, 1e3, 2e3, 5e3, 1e4, 2e4]),
            away: Gauge::default(),
            owed: Gauge::default(),
            answers_dropped: Counter::default(),
        }
    }
}

impl PipelineMetrics {
    /// Adds them to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "conntracct_pipeline_frames",
            "Frames by what became of them when they came in",
            self.frames.clone(),
        );
        registry.register(
            "conntracct_pipeline_queue_requests",
            "Requests of sessions that wait; nodes are slowed when it is full",
            self.queue.clone(),
        );
        registry.register(
            "conntracct_pipeline_decoded_bytes",
            "Declared bytes of decoded frames that are not committed (the decode budget's use)",
            self.budget.clone(),
        );
        registry.register(
            "conntracct_pipeline_set_rows",
            "Rows handed to one transaction",
            self.rows.clone(),
        );
        registry.register(
            "conntracct_pipeline_store_away",
            "1 while the store cannot be written and nodes keep their frames",
            self.away.clone(),
        );
        registry.register(
            "conntracct_pipeline_owed_answers",
            "Answers that sessions have no room for yet",
            self.owed.clone(),
        );
        registry.register(
            "conntracct_pipeline_dropped_answers",
            "Answers dropped because a session does not read; its node sends again",
            self.answers_dropped.clone(),
        );
    }

    pub(super) fn frame(&self, outcome: FrameOutcome) {
        self.frames.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(super) fn levels(&self, queue: usize, budget: usize, owed: usize, dropped: u64) {
        let gauge = |gauge: &Gauge<i64, AtomicI64>, value: usize| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge(&self.queue, queue);
        gauge(&self.budget, budget);
        gauge(&self.owed, owed);
        self.answers_dropped.inc_by(dropped);
    }

    pub(super) fn launched(&self, rows: usize) {
        self.rows.observe(f64::from(u32::try_from(rows).unwrap_or(u32::MAX)));
    }

    pub(super) fn away(&self, away: bool) {
        self.away.set(i64::from(away));
    }
}
