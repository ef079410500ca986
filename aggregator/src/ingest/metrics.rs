//! What ingest counts.

use std::fmt;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use wire::control::RefuseReason;

use super::close::{CloseReason, RefuseLabel};
use crate::tls::TlsMetrics;

/// Label of an ended connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    /// Why it ended.
    pub reason: CloseReason,
}

/// Label of a refused session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefuseLabels {
    /// Why it was refused.
    pub reason: RefuseLabel,
}

/// What became of a data frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameFate {
    /// Taken, on its way to the pipeline.
    Taken,
    /// Here already.
    Duplicate,
    /// Committed already.
    Committed,
    /// Given up because frames before it are missing; the node sends it again.
    Early,
    /// Of a kind that this version does not know; skipped.
    Unknown,
}

impl EncodeLabelValue for FrameFate {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        fmt::Write::write_str(
            encoder,
            match self {
                Self::Taken => "taken",
                Self::Duplicate => "duplicate",
                Self::Committed => "committed",
                Self::Early => "early",
                Self::Unknown => "unknown",
            },
        )
    }
}

/// Label of a data frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FrameLabels {
    /// What became of it.
    pub fate: FrameFate,
}

/// Counters and gauges of ingest. A clone counts the same things.
#[derive(Clone, Debug, Default)]
pub struct IngestMetrics {
    /// Handshakes that failed.
    pub tls: TlsMetrics,
    /// Live sessions.
    pub sessions: Gauge,
    /// Sessions welcomed.
    pub welcomed: Counter,
    /// Sessions refused.
    pub refused: Family<RefuseLabels, Counter>,
    /// Connections ended after their handshake.
    pub closed: Family<CloseLabels, Counter>,
    /// Peers on their way in.
    pub pending: Gauge,
    /// Peers asked to prove their address.
    pub retries: Counter,
    /// Peers turned away at the gate.
    pub turned_away: Counter,
    /// Data frames.
    pub frames: Family<FrameLabels, Counter>,
    /// Bytes of data frames, headers included.
    pub bytes: Counter,
    /// Bytes reserved for frames that the pipeline has not taken.
    pub buffered_bytes: Gauge<i64, AtomicI64>,
    /// Times a frame had to wait for that memory.
    pub memory_waits: Counter,
    /// Acknowledgements sent.
    pub acks: Counter,
    /// Frames sent back on the pipeline's behalf, to come again or for ever.
    pub nacks: Counter,
    /// Clock offsets told by nodes that contradict their pings.
    pub clock_misfits: Counter,
}

impl IngestMetrics {
    /// Makes the metrics visible.
    pub fn register(&self, registry: &mut Registry) {
        self.tls.register(registry);
        let mut add = |name: &str, help: &str, metric: Box<dyn RegisterIn>| {
            metric.register_in(registry, name, help);
        };
        add("sessions", "Nodes connected", Box::new(self.sessions.clone()));
        add("sessions_welcomed", "Sessions begun", Box::new(self.welcomed.clone()));
        add("sessions_refused", "Sessions refused", Box::new(self.refused.clone()));
        add("connections_closed", "Connections ended", Box::new(self.closed.clone()));
        add("peers_pending", "Peers on their way in", Box::new(self.pending.clone()));
        let help = "Peers asked to prove their address";
        add("retries", help, Box::new(self.retries.clone()));
        let help = "Peers turned away because too many were on their way in";
        add("peers_turned_away", help, Box::new(self.turned_away.clone()));
        add("frames", "Data frames that arrived whole", Box::new(self.frames.clone()));
        add("frame_bytes", "Bytes of these frames", Box::new(self.bytes.clone()));
        let help = "Bytes reserved for frames on their way to the pipeline";
        add("buffered_bytes", help, Box::new(self.buffered_bytes.clone()));
        let help = "Frames that had to wait for that memory";
        add("memory_waits", help, Box::new(self.memory_waits.clone()));
        add("acks", "Acknowledgements sent", Box::new(self.acks.clone()));
        add("nacks", "Frames that the pipeline did not take", Box::new(self.nacks.clone()));
        let help = "Clock offsets told by nodes that contradict their own pings";
        add("clock_misfits", help, Box::new(self.clock_misfits.clone()));
    }

    /// How many connections ended for `reason`.
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed.get_or_create(&CloseLabels { reason }).get()
    }

    /// How many sessions were refused for `reason`.
    #[must_use]
    pub fn refused(&self, reason: RefuseReason) -> u64 {
        self.refused.get_or_create(&RefuseLabels { reason: RefuseLabel(reason) }).get()
    }

    /// How many frames had this fate.
    #[must_use]
    pub fn frames(&self, fate: FrameFate) -> u64 {
        self.frames.get_or_create(&FrameLabels { fate }).get()
    }

    pub(super) fn count_closed(&self, reason: CloseReason) {
        self.closed.get_or_create(&CloseLabels { reason }).inc();
    }

    pub(super) fn count_refused(&self, reason: RefuseReason) {
        self.refused.get_or_create(&RefuseLabels { reason: RefuseLabel(reason) }).inc();
    }

    pub(super) fn count_frame(&self, fate: FrameFate) {
        self.frames.get_or_create(&FrameLabels { fate }).inc();
    }
}

/// A metric of any type, to be put into a registry.
trait RegisterIn {
    fn register_in(self: Box<Self>, registry: &mut Registry, name: &str, help: &str);
}

impl<M: prometheus_client::registry::Metric> RegisterIn for M {
    fn register_in(self: Box<Self>, registry: &mut Registry, name: &str, help: &str) {
        registry.register(format!("conntracct_ingest_{name}"), help, *self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_visible_under_its_name() {
        let metrics = IngestMetrics::default();
        metrics.count_closed(CloseReason::Revoked);
        metrics.count_refused(RefuseReason::WrongName);
        metrics.count_frame(FrameFate::Early);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "conntracct_ingest_sessions 0",
            "conntracct_ingest_connections_closed_total{reason=\"revoked\"} 1",
            "conntracct_ingest_sessions_refused_total{reason=\"wrong_name\"} 1",
            "conntracct_ingest_frames_total{fate=\"early\"} 1",
            "conntracct_ingest_handshakes_failed_total{reason=\"no_certificate\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
