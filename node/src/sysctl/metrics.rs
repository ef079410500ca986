//! Metrics of sysctl management.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Report;

/// What was set, repaired and complained of.
#[derive(Clone, Debug, Default)]
pub struct SysctlMetrics {
    changed: Counter,
    drifted: Counter,
    failed: Counter,
    warnings: Counter,
    last_failed: Gauge,
}

impl SysctlMetrics {
    /// Adds the metrics to a registry, under `conntracct_sysctl_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("conntracct_sysctl");
        for (name, help, metric) in [
            (
                "changes",
                "Values written, repairs included. A few at start; rising: see drifts",
                &self.changed,
            ),
            (
                "drifts",
                "Values that somebody else had changed and that were set again. Find who else manages \
                 these sysctls: entries born meanwhile may be uncounted",
                &self.drifted,
            ),
            (
                "failures",
                "Values that could not be read or written. Missing privileges, or a kernel \
                 without them: see the log",
                &self.failed,
            ),
            (
                "warnings",
                "Warnings given: long timeouts, settings left alone. See the log; they can be \
                 silenced",
                &self.warnings,
            ),
        ] {
            registry.register(name, help, metric.clone());
        }
        registry.register(
            "failing_values",
            "Values that the last look could not read or write. Not 0: flows may be uncounted or \
             unstamped",
            self.last_failed.clone(),
        );
    }

    /// Takes over a report.
    pub fn observe(&self, report: &Report) {
        self.changed.inc_by(wide(report.changed.len()));
        self.drifted.inc_by(wide(report.drifted));
        self.failed.inc_by(wide(report.failed.len()));
        self.warnings.inc_by(wide(report.warnings.len()));
        self.last_failed.set(i64::try_from(report.failed.len()).unwrap_or(i64::MAX));
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
