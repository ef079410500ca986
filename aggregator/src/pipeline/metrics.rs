//! Metrics of the pipeline.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

daemon::closed_label! {
    /// What became of a frame when it came in.
    pub(super) enum FrameOutcome {
        /// Taken.
        Accepted = "accepted",
        /// A copy of a committed or pending one.
        Copy = "copy",
        /// Ahead of its turn; to be sent again.
        Early = "early",
        /// The store was away; to be sent again.
        StoreAway = "store_away",
        /// It cannot be decoded, or has values that cannot be stored.
        Malformed = "malformed",
        /// Other bytes under a number that is taken.
        OtherBytes = "other_bytes",
        /// Refused by the store.
        Refused = "refused",
        /// Put off because one before it was refused.
        PutOff = "put_off",
    }
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
            frames: daemon::label::present(
                FrameOutcome::ALL.iter().map(|&outcome| OutcomeLabel { outcome }),
            ),
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
        let registry = registry.sub_registry_with_prefix("conntracct_pipeline");
        registry.register(
            "frames",
            "Frames, by what became of them when they came in. malformed, other_bytes and refused \
             are never normal: the log names node and frame",
            self.frames.clone(),
        );
        registry.register(
            "queue_requests",
            "Requests of sessions that wait for the pipeline, 64 at most. Always full: the store \
             is the bottleneck, nodes are slowed and spool",
            self.queue.clone(),
        );
        registry.register(
            "decoded_bytes",
            "Declared bytes of decoded frames that are not committed. At limits.decode_budget \
             frames wait: the store is behind",
            self.budget.clone(),
        );
        registry.register(
            "set_rows",
            "Rows handed to one transaction. Small sets at a high load cost rate: raise \
             limits.transaction_time",
            self.rows.clone(),
        );
        registry.register(
            "store_away",
            "1 while the store cannot be written and nodes keep their frames. Alert on it; \
             /readyz says why",
            self.away.clone(),
        );
        registry.register(
            "owed_answers",
            "Answers that sessions have no room for yet. High for long: a node does not read; \
             its session ends by itself",
            self.owed.clone(),
        );
        registry.register(
            "dropped_answers",
            "Answers dropped because a session does not read. Nothing is lost: its node sends \
             again",
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
