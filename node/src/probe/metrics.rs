//! Numbers of the probe and its source.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::source::metrics::SourceMetrics;
use crate::source::{SourceHealth, SweepReport};

/// What the probe counts.
#[derive(Debug, Default)]
pub struct ProbeMetrics {
    /// Events taken from the source.
    pub events: Counter,
    /// Readings of live entries taken from the source.
    pub readings: Counter,
    /// Sweeps in which every namespace was read to its end.
    pub sweeps_complete: Counter,
    /// Sweeps in which some namespace was not.
    pub sweeps_partial: Counter,
    /// Calls to the source that failed.
    pub failures: Counter,
    /// Messages that the aggregation did not take because it has stopped.
    pub unheard: Counter,
    /// Length of the last sweep.
    pub sweep_seconds: Gauge<f64, AtomicU64>,
    /// What the source says of itself.
    pub source: SourceMetrics,
    last: Mutex<SourceHealth>,
}

impl ProbeMetrics {
    /// Puts the numbers under their names.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("conntracct_probe");
        r.register("events", EVENTS, self.events.clone());
        r.register("readings", READINGS, self.readings.clone());
        r.register("sweeps_complete", COMPLETE, self.sweeps_complete.clone());
        r.register("sweeps_partial", PARTIAL, self.sweeps_partial.clone());
        r.register("failures", FAILURES, self.failures.clone());
        r.register("unheard", UNHEARD, self.unheard.clone());
        r.register("sweep_seconds", SWEEP_SECONDS, self.sweep_seconds.clone());
        self.source.register(registry);
    }

    /// Takes in a sweep's report.
    pub fn swept(&self, report: &SweepReport) {
        let kind = match report.failed.is_empty() {
            true => &self.sweeps_complete,
            false => &self.sweeps_partial,
        };
        kind.inc();
        self.sweep_seconds.set(report.end.since(report.begin).as_secs_f64());
        self.source.swept(report);
    }

    /// Takes in what the source says of itself.
    pub fn health(&self, health: &SourceHealth) {
        self.source.observe(health);
        *self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = *health;
    }

    /// What the source last said of itself.
    #[must_use]
    pub fn last_health(&self) -> SourceHealth {
        *self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

const EVENTS: &str = "Births and ends taken from the source. The rate of new connections, twice";
const READINGS: &str = "Readings of live entries taken by sweeps. The size of the kernel's table \
                        times sweeps";
const COMPLETE: &str = "Sweeps in which every namespace was read to its end. One each interval; \
                        none for two intervals: see the log";
const PARTIAL: &str = "Sweeps in which some namespace was not read to its end. What was missed \
                       comes with the next sweep; always: the table is too large for the interval";
const FAILURES: &str = "Calls to the source that failed. The log says which and why; missing \
                        privileges or a kernel without conntrack are usual";
const UNHEARD: &str = "Messages that a stopped aggregation did not take. Never but while the node \
                       stops; otherwise report it";
const SWEEP_SECONDS: &str = "Length of the last sweep in seconds. Must stay well below the \
                             interval: lengthen the interval, or use a faster source";
