//! What ingest counts.

use std::sync::atomic::AtomicI64;

use daemon::label::present;
use prometheus_client::encoding::EncodeLabelSet;
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

daemon::closed_label! {
    /// What became of a data frame that arrived.
    pub enum FrameFate {
        /// Taken, on its way to the pipeline.
        Taken = "taken",
        /// Here already.
        Duplicate = "duplicate",
        /// Committed already.
        Committed = "committed",
        /// Given up because frames before it are missing; the node sends it again.
        Early = "early",
        /// Of a kind that this version does not know; skipped.
        Unknown = "unknown",
    }
}

/// Label of a data frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FrameLabels {
    /// What became of it.
    pub fate: FrameFate,
}

/// Counters and gauges of ingest. A clone counts the same things.
#[derive(Clone, Debug)]
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

impl Default for IngestMetrics {
    fn default() -> Self {
        let refused = RefuseLabel::ALL.into_iter().map(|reason| RefuseLabels { reason });
        let closed = CloseReason::ALL.into_iter().map(|reason| CloseLabels { reason });
        let frames = FrameFate::ALL.iter().map(|&fate| FrameLabels { fate });
        Self {
            tls: TlsMetrics::default(),
            sessions: Gauge::default(),
            welcomed: Counter::default(),
            refused: present(refused),
            closed: present(closed),
            pending: Gauge::default(),
            retries: Counter::default(),
            turned_away: Counter::default(),
            frames: present(frames),
            bytes: Counter::default(),
            buffered_bytes: Gauge::default(),
            memory_waits: Counter::default(),
            acks: Counter::default(),
            nacks: Counter::default(),
            clock_misfits: Counter::default(),
        }
    }
}

impl IngestMetrics {
    /// Makes the metrics visible.
    pub fn register(&self, registry: &mut Registry) {
        self.tls.register(registry);
        let r = registry.sub_registry_with_prefix("conntracct_ingest");
        r.register("sessions", SESSIONS, self.sessions.clone());
        r.register("sessions_welcomed", WELCOMED, self.welcomed.clone());
        r.register("sessions_refused", REFUSED, self.refused.clone());
        r.register("connections_closed", CLOSED, self.closed.clone());
        r.register("peers_pending", PENDING, self.pending.clone());
        r.register("retries", RETRIES, self.retries.clone());
        r.register("peers_turned_away", TURNED_AWAY, self.turned_away.clone());
        r.register("frames", FRAMES, self.frames.clone());
        r.register("frame_bytes", FRAME_BYTES, self.bytes.clone());
        r.register("buffered_bytes", BUFFERED, self.buffered_bytes.clone());
        r.register("memory_waits", MEMORY_WAITS, self.memory_waits.clone());
        r.register("acks", ACKS, self.acks.clone());
        r.register("nacks", NACKS, self.nacks.clone());
        r.register("clock_misfits", CLOCK_MISFITS, self.clock_misfits.clone());
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

const SESSIONS: &str = "Nodes connected. Fewer than the fleet: `report --by node` shows who is \
                        silent";
const WELCOMED: &str = "Sessions begun. Many more than nodes: connections break, look at \
                        connections_closed by reason";
const REFUSED: &str = "Sessions refused after the handshake, by reason. name_in_use: two hosts \
                       share a certificate; wrong_name: a node's configured name is not its \
                       certificate's; too_many_nodes: raise limits.nodes";
const CLOSED: &str = "Connections ended after the handshake, by reason. lost: the network; \
                      malformed, stalled and not_reading: a broken or hostile node, the log \
                      names it";
const PENDING: &str = "Peers between their first packet and Welcome. High for long: a flood, or a \
                       store that does not answer";
const RETRIES: &str = "Peers asked to prove their address because many were on their way in. \
                       Rises after an outage of the whole fleet; otherwise somebody floods the \
                       port";
const TURNED_AWAY: &str = "Peers turned away because too many were on their way in. They come \
                           back by themselves; for long, it is a flood";
const FRAMES: &str = "Data frames that arrived whole, by what became of them. early or duplicate \
                      in numbers: the network loses packets";
const FRAME_BYTES: &str = "Bytes of these frames, headers included. The load on the network";
const BUFFERED: &str = "Bytes reserved for frames that the pipeline has not taken, 256 MiB at \
                        most. High for long: the store is behind";
const MEMORY_WAITS: &str = "Frames that had to wait for that memory. Nodes are slowed, nothing is \
                            lost; the store is behind";
const ACKS: &str = "Acknowledgements sent. None while frames come in: nothing is committed, see \
                    /readyz";
const NACKS: &str = "Frames that the pipeline did not take, to come again or never. \
                     conntracct_pipeline_frames says why";
const CLOCK_MISFITS: &str = "Clock offsets told by nodes that contradict their own pings. One \
                             node all the time: its clock or its network path is broken";

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
