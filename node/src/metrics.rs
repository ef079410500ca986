//! All numbers of the node, in one place for `/metrics` and `/stats`.

use std::sync::{Arc, Mutex, PoisonError};

use daemon::http::HttpMetrics;
use prometheus_client::registry::Registry;

use crate::aggregation::metrics::AggregationMetrics;
use crate::filter::metrics::FilterMetrics;
use crate::probe::metrics::ProbeMetrics;
use crate::sink::stdout::SinkCounts;
use crate::sysctl::metrics::SysctlMetrics;
use crate::uplink::UplinkMetrics;

/// The node's metrics by component.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The probe and its source.
    pub probe: Arc<ProbeMetrics>,
    /// What the filter leaves out.
    pub filter: FilterMetrics,
    /// The aggregation and the flow table.
    pub aggregation: Arc<AggregationMetrics>,
    /// The uplink and the spool.
    pub uplink: UplinkMetrics,
    /// Sysctls.
    pub sysctl: Arc<SysctlMetrics>,
    /// The HTTP listener.
    pub http: HttpMetrics,
    sink: Mutex<Option<Arc<SinkCounts>>>,
}

impl Metrics {
    /// Puts all of them under their names.
    pub fn register(&self, registry: &mut Registry) {
        self.probe.register(registry);
        self.filter.register(registry);
        self.aggregation.register(registry);
        self.uplink.register(registry);
        self.sysctl.register(registry);
        self.http.register(registry);
    }

    /// Takes the numbers of the local sink along.
    pub fn sink(&self, counts: &Arc<SinkCounts>) {
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(counts));
    }

    /// The numbers of the local sink, where there is one.
    #[must_use]
    pub fn sink_counts(&self) -> Option<Arc<SinkCounts>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
