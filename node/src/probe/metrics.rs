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
        r.register("events", "Events taken from the source", self.events.clone());
        r.register("readings", "Readings of live entries", self.readings.clone());
        r.register("sweeps_complete", "Sweeps read to their end", self.sweeps_complete.clone());
        r.register("sweeps_partial", "Sweeps not read to their end", self.sweeps_partial.clone());
        r.register("failures", "Calls to the source that failed", self.failures.clone());
        r.register("unheard", "Messages not taken by a stopped aggregation", self.unheard.clone());
        r.register("sweep_seconds", "Length of the last sweep", self.sweep_seconds.clone());
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
