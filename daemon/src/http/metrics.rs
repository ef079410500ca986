//! What the listener says about itself.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of the HTTP listener.
#[derive(Clone, Debug)]
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

crate::closed_label! {
    /// How a request was answered.
    enum Outcome {
        /// Below 400.
        Ok = "ok",
        /// 4xx.
        ClientError = "client_error",
        /// 5xx.
        ServerError = "server_error",
    }
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let labels = Outcome::ALL.iter().map(|&outcome| RequestLabels { outcome });
        Self {
            requests: crate::label::present(labels),
            connections: Gauge::default(),
            full: Counter::default(),
            failed: Counter::default(),
        }
    }
}

impl HttpMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("conntracct_http");
        registry.register(
            "requests",
            "Requests answered, by outcome. client_error: look for a scraper with a wrong token, \
             Host or path; server_error: see the log",
            self.requests.clone(),
        );
        registry.register(
            "connections",
            "Connections open now. Always near the limit (100): somebody keeps connections that nobody \
             needs",
            self.connections.clone(),
        );
        registry.register(
            "full",
            "Times a connection had to wait because the limit was reached. Find out who asks so \
             often",
            self.full.clone(),
        );
        registry.register(
            "failed_connections",
            "Connections that ended in an error: TLS, timeout, malformed request. Check that \
             clients speak https where the listener does; on other addresses than loopback, \
             scanners do this",
            self.failed.clone(),
        );
    }

    pub(super) fn answered(&self, status: axum::http::StatusCode) {
        let outcome = match status.as_u16() {
            400..=499 => Outcome::ClientError,
            500.. => Outcome::ServerError,
            _ => Outcome::Ok,
        };
        self.requests.get_or_create(&RequestLabels { outcome }).inc();
    }
}
