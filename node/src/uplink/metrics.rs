//! What the uplink and its spool show.

use std::sync::atomic::AtomicU64;

use flow::BootNanos;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::core::Uplink;
use super::error::SessionError;
use crate::spool::{Level, NewEpochReason, SpoolView};
use crate::tls::{Certificates, TlsMetrics};

/// Label: why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// One of a closed set.
    pub reason: &'static str,
}

/// Metrics of the uplink and the spool; clones share the same figures.
#[derive(Clone, Debug, Default)]
pub struct UplinkMetrics {
    /// 1 while welcomed.
    pub connected: Gauge,
    /// Attempts to connect.
    pub attempts: Counter,
    /// Sessions welcomed.
    pub sessions: Counter,
    /// Handshakes that were refused, by whom and why.
    pub handshakes: TlsMetrics,
    /// Certificates and their ends.
    pub certificates: Certificates,
    /// Ends of sessions and attempts, by reason.
    pub ended: Family<ReasonLabel, Counter>,
    /// Frames sent, every time.
    pub sent: Counter,
    /// Frames sent again.
    pub resent: Counter,
    /// Frames not taken, by what to do with them.
    pub nacks: Family<ReasonLabel, Counter>,
    /// Frames on their way without `Received`.
    pub unreceived: Gauge,
    /// Round trip of the clock sample believed in.
    pub round_trip: Gauge<f64, AtomicU64>,
    /// How wrong the clock offset may be.
    pub clock_error: Gauge<f64, AtomicU64>,
    /// The last acknowledged frame of the epoch being sent.
    pub acked: Gauge<u64, AtomicU64>,
    /// Bytes on disk.
    pub spool_bytes: Gauge<u64, AtomicU64>,
    /// Frames on disk.
    pub spool_frames: Gauge<u64, AtomicU64>,
    /// Frames not acknowledged.
    pub spool_waiting: Gauge<u64, AtomicU64>,
    /// 0 normal, 1 paused, 2 full.
    pub spool_level: Gauge,
    /// Epochs to be drained.
    pub spool_drains: Gauge<u64, AtomicU64>,
    /// Frames written.
    pub spool_appended: Counter,
    /// Gap frames written.
    pub spool_gaps: Counter,
    /// Frames that could not be read back.
    pub spool_unreadable: Counter,
    /// Frames rejected by the aggregator.
    pub spool_rejected: Counter,
    /// Writes that found no room.
    pub spool_full: Counter,
    /// Frames told again under another epoch's name.
    pub spool_retold: Counter,
    /// New epochs, by reason.
    pub spool_epochs: Family<ReasonLabel, Counter>,
    /// Checkpoints written.
    pub spool_checkpoints: Counter,
}

impl UplinkMetrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        let uplink = registry.sub_registry_with_prefix("conntracct_uplink");
        uplink.register(
            "connected",
            "1 while the aggregator has welcomed us",
            self.connected.clone(),
        );
        uplink.register("attempts", "Attempts to connect", self.attempts.clone());
        uplink.register("sessions", "Sessions welcomed", self.sessions.clone());
        uplink.register("ended", "Sessions and attempts that ended, by reason", self.ended.clone());
        uplink.register("frames_sent", "Frames sent, every time", self.sent.clone());
        uplink.register("frames_resent", "Frames sent again", self.resent.clone());
        uplink.register("nacks", "Frames not taken, by verdict", self.nacks.clone());
        uplink.register("unreceived_frames", "Frames on their way", self.unreceived.clone());
        let help = "Round trip of the clock sample in use";
        uplink.register_with_unit("round_trip", help, Unit::Seconds, self.round_trip.clone());
        let help = "How wrong the measured clock offset may be";
        uplink.register_with_unit("clock_error", help, Unit::Seconds, self.clock_error.clone());
        uplink.register("acked_seq", "Last acknowledged frame", self.acked.clone());
        self.handshakes.register(registry);
        self.certificates.register(registry);

        let spool = registry.sub_registry_with_prefix("conntracct_spool");
        spool.register_with_unit("disk", "Bytes on disk", Unit::Bytes, self.spool_bytes.clone());
        spool.register("frames", "Frames on disk", self.spool_frames.clone());
        spool.register("waiting_frames", "Frames not acknowledged", self.spool_waiting.clone());
        let help = "0 normal, 1 updates paused, 2 full";
        spool.register("level", help, self.spool_level.clone());
        spool.register("drains", "Old epochs to be sent first", self.spool_drains.clone());
        spool.register("frames_written", "Frames written", self.spool_appended.clone());
        spool.register("gaps_written", "Gap frames written", self.spool_gaps.clone());
        let help = "Frames that could not be read back";
        spool.register("unreadable_frames", help, self.spool_unreadable.clone());
        let help = "Frames the aggregator rejected";
        spool.register("rejected_frames", help, self.spool_rejected.clone());
        spool.register("full", "Writes that found no room", self.spool_full.clone());
        let help = "Frames told under another epoch's name, theirs being taken (node rolled back)";
        spool.register("retold_frames", help, self.spool_retold.clone());
        spool.register("epochs", "New epochs, by reason", self.spool_epochs.clone());
        spool.register("checkpoints", "Checkpoints written", self.spool_checkpoints.clone());
    }

    /// Shows the uplink as it is now.
    pub fn show_uplink(&self, uplink: &Uplink, now: BootNanos) {
        let totals = uplink.totals();
        self.connected.set(uplink.is_connected().into());
        self.unreceived.set(i64::try_from(uplink.unreceived()).unwrap_or(i64::MAX));
        catch_up(&self.attempts, totals.attempts);
        catch_up(&self.sessions, totals.sessions);
        catch_up(&self.sent, totals.sent);
        catch_up(&self.resent, totals.resent);
        for (reason, total) in [("retry", totals.nacks_retry), ("reject", totals.nacks_reject)] {
            catch_up(&self.nacks.get_or_create(&ReasonLabel { reason }), total);
        }
        if let Some(sample) = uplink.sample() {
            self.round_trip.set(sample.round_trip.as_secs_f64());
            self.clock_error.set(sample.error(now).as_secs_f64());
        }
    }

    /// Shows the spool as it is now.
    pub fn show_spool(&self, view: &SpoolView) {
        self.acked.set(view.sending.acked.0);
        self.spool_bytes.set(view.bytes);
        self.spool_frames.set(view.frames as u64);
        self.spool_waiting.set(view.waiting);
        self.spool_drains.set(view.drains as u64);
        self.spool_level.set(match view.level {
            Level::Normal => 0,
            Level::Paused => 1,
            Level::Full => 2,
        });
        let totals = view.totals;
        catch_up(&self.spool_appended, totals.appended);
        catch_up(&self.spool_gaps, totals.gaps);
        catch_up(&self.spool_unreadable, totals.unreadable);
        catch_up(&self.spool_rejected, totals.rejected);
        catch_up(&self.spool_full, totals.full);
        catch_up(&self.spool_retold, totals.retold);
        catch_up(&self.spool_checkpoints, totals.checkpoints);
    }

    /// Counts a new epoch.
    pub fn new_epoch(&self, reason: &NewEpochReason) {
        self.spool_epochs.get_or_create(&ReasonLabel { reason: reason.label() }).inc();
    }

    /// Counts the end of a session or an attempt.
    pub fn count_ended(&self, error: &SessionError) {
        self.ended.get_or_create(&ReasonLabel { reason: error.label() }).inc();
        if let SessionError::Tls { problem } = error {
            self.handshakes.count(problem);
        }
    }
}

/// Moves a counter on to a total that is counted elsewhere.
fn catch_up(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_follow_the_totals_and_carry_their_names() {
        let metrics = UplinkMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut view = SpoolView { level: Level::Paused, bytes: 42, ..SpoolView::default() };
        view.totals.appended = 3;
        metrics.show_spool(&view);
        view.totals.appended = 5;
        metrics.show_spool(&view);
        metrics.new_epoch(&NewEpochReason::Copied);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "conntracct_spool_frames_written_total 5",
            "conntracct_spool_disk_bytes 42",
            "conntracct_spool_level 1",
            "conntracct_spool_epochs_total{reason=\"copied\"} 1",
            "conntracct_uplink_connected 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} not in:\n{text}");
        }
    }
}
