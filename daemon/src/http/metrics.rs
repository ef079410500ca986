//! What the listener says about itself.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of the HTTP listener.
#[derive(Clone, Debug, Default)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    /// Connections now.
    pub(super) connections: Gauge,
    /// Times a new connection had to wait for an old one to end.
    pub(super) full: Counter,
    /// Connections that failed before a request: TLS, time, syntax.
    pub(super) failed: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are")]
enum Outcome {
    ok,
    client_error,
    server_error,
}

impl HttpMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let name = "conntracct_http_requests";
        registry.register(name, "Requests answered, by outcome", self.requests.clone());
        let name = "conntracct_http_connections";
        registry.register(name, "Connections open now", self.connections.clone());
        let name = "conntracct_http_full";
        let help = "Times a connection waited because the limit was reached";
        registry.register(name, help, self.full.clone());
        let name = "conntracct_http_failed_connections";
        let help = "Connections that ended in an error: TLS, timeout, malformed request";
        registry.register(name, help, self.failed.clone());
    }

    pub(super) fn answered(&self, status: axum::http::StatusCode) {
        let outcome = match status.as_u16() {
            400..=499 => Outcome::client_error,
            500.. => Outcome::server_error,
            _ => Outcome::ok,
        };
        self.requests.get_or_create(&RequestLabels { outcome }).inc();
    }
}
