//! All numbers of the aggregator, in one place for `/metrics`, `/stats` and docs/metrics.md.

use daemon::http::HttpMetrics;
use prometheus_client::registry::Registry;

use crate::count::CountMetrics;
use crate::ingest::IngestMetrics;
use crate::pipeline::PipelineMetrics;
use crate::reload::ReloadMetrics;
use crate::store::metrics::StoreMetrics;
use crate::tls::issued::IssuedMetrics;

/// The aggregator's metrics by component; clones share the same figures.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Sessions and their frames.
    pub ingest: IngestMetrics,
    /// The list of issued certificates.
    pub issued: IssuedMetrics,
    /// Frames between sessions and store.
    pub pipeline: PipelineMetrics,
    /// What was counted.
    pub count: CountMetrics,
    /// Transactions.
    pub store: StoreMetrics,
    /// Reloads of the configuration.
    pub reload: ReloadMetrics,
    /// The HTTP listener.
    pub http: HttpMetrics,
}

impl Metrics {
    /// Puts all of them under their names.
    pub fn register(&self, registry: &mut Registry) {
        self.ingest.register(registry);
        self.issued.register(registry);
        self.pipeline.register(registry);
        self.count.register(registry);
        self.store.register(registry);
        self.reload.register(registry);
        self.http.register(registry);
    }
}
