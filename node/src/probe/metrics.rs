//! Numbers of the probe and its source.

use std::sync::Mutex;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

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
    pub sweep_nanoseconds: Gauge,
    /// 1 while the kernel keeps undelivered ends for us.
    pub reliable_ends: Gauge,
    /// Ends whose counters were read but dropped.
    pub dropped_ends: Gauge,
    /// Bytes of both directions of the dropped ends.
    pub dropped_bytes: Gauge,
    /// Times the kernel could not deliver.
    pub overruns: Gauge,
    /// Times the guard switched reliable ends off.
    pub guard_trips: Gauge,
    /// Messages of the kernel that could not be parsed.
    pub malformed: Gauge,
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
        r.register("sweep_nanoseconds", "Length of the last sweep", self.sweep_nanoseconds.clone());
        r.register("reliable_ends", "1 while no end can be lost", self.reliable_ends.clone());
        r.register("dropped_ends", "Ends read but dropped", self.dropped_ends.clone());
        r.register("dropped_bytes", "Bytes of the ends dropped", self.dropped_bytes.clone());
        r.register("overruns", "Times the kernel could not deliver", self.overruns.clone());
        r.register("guard_trips", "Times reliable ends were switched off", self.guard_trips.clone());
        r.register("malformed", "Kernel messages that made no sense", self.malformed.clone());
    }

    /// Takes in a sweep's report.
    pub fn swept(&self, report: &SweepReport) {
        let kind = match report.failed.is_empty() {
            true => &self.sweeps_complete,
            false => &self.sweeps_partial,
        };
        kind.inc();
        let length = report.end.since(report.begin).as_nanos();
        self.sweep_nanoseconds.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// Takes in what the source says of itself.
    pub fn health(&self, health: &SourceHealth) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.reliable_ends.set(i64::from(health.reliable_ends));
        self.dropped_ends.set(gauge(health.dropped_ends));
        let bytes = health.dropped.orig.bytes.plus(health.dropped.reply.bytes);
        self.dropped_bytes.set(gauge(bytes.get()));
        self.overruns.set(gauge(health.overruns));
        self.guard_trips.set(gauge(health.guard_trips));
        self.malformed.set(gauge(health.malformed));
        *self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = *health;
    }

    /// What the source last said of itself.
    #[must_use]
    pub fn last_health(&self) -> SourceHealth {
        *self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
