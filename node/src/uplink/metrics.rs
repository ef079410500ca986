//! What the uplink and its spool show.

use std::sync::atomic::AtomicU64;

use daemon::label::present;
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
#[derive(Clone, Debug)]
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

impl Default for UplinkMetrics {
    fn default() -> Self {
        let reasons = |labels: &[&'static str]| {
            labels.iter().map(|&reason| ReasonLabel { reason }).collect::<Vec<_>>()
        };
        Self {
            connected: Gauge::default(),
            attempts: Counter::default(),
            sessions: Counter::default(),
            ended: present(reasons(&SessionError::LABELS)),
            sent: Counter::default(),
            resent: Counter::default(),
            nacks: present(reasons(&["retry", "reject"])),
            unreceived: Gauge::default(),
            round_trip: Gauge::default(),
            clock_error: Gauge::default(),
            acked: Gauge::default(),
            spool_bytes: Gauge::default(),
            spool_frames: Gauge::default(),
            spool_waiting: Gauge::default(),
            spool_level: Gauge::default(),
            spool_drains: Gauge::default(),
            spool_appended: Counter::default(),
            spool_gaps: Counter::default(),
            spool_unreadable: Counter::default(),
            spool_rejected: Counter::default(),
            spool_full: Counter::default(),
            spool_retold: Counter::default(),
            spool_epochs: present(reasons(&NewEpochReason::LABELS)),
            spool_checkpoints: Counter::default(),
            handshakes: TlsMetrics::default(),
            certificates: Certificates::default(),
        }
    }
}

impl UplinkMetrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        let uplink = registry.sub_registry_with_prefix("conntracct_uplink");
        uplink.register("connected", CONNECTED, self.connected.clone());
        uplink.register("attempts", ATTEMPTS, self.attempts.clone());
        uplink.register("sessions", SESSIONS, self.sessions.clone());
        uplink.register("ended", ENDED, self.ended.clone());
        uplink.register("frames_sent", SENT, self.sent.clone());
        uplink.register("frames_resent", RESENT, self.resent.clone());
        uplink.register("nacks", NACKS, self.nacks.clone());
        uplink.register("unreceived_frames", UNRECEIVED, self.unreceived.clone());
        let (round_trip, error) = (self.round_trip.clone(), self.clock_error.clone());
        uplink.register_with_unit("round_trip", ROUND_TRIP, Unit::Seconds, round_trip);
        uplink.register_with_unit("clock_error", CLOCK_ERROR, Unit::Seconds, error);
        uplink.register("acked_seq", ACKED, self.acked.clone());
        self.handshakes.register(registry);
        self.certificates.register(registry);

        let spool = registry.sub_registry_with_prefix("conntracct_spool");
        spool.register_with_unit("disk", DISK, Unit::Bytes, self.spool_bytes.clone());
        spool.register("frames", FRAMES, self.spool_frames.clone());
        spool.register("waiting_frames", WAITING, self.spool_waiting.clone());
        spool.register("level", LEVEL, self.spool_level.clone());
        spool.register("drains", DRAINS, self.spool_drains.clone());
        spool.register("frames_written", WRITTEN, self.spool_appended.clone());
        spool.register("gaps_written", GAPS, self.spool_gaps.clone());
        spool.register("unreadable_frames", UNREADABLE, self.spool_unreadable.clone());
        spool.register("rejected_frames", REJECTED, self.spool_rejected.clone());
        spool.register("full", FULL, self.spool_full.clone());
        spool.register("retold_frames", RETOLD, self.spool_retold.clone());
        spool.register("epochs", EPOCHS, self.spool_epochs.clone());
        spool.register("checkpoints", CHECKPOINTS, self.spool_checkpoints.clone());
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

const CONNECTED: &str = "1 while the aggregator has welcomed us. At 0 the spool fills: alert on \
                         it; /readyz says why";
const ATTEMPTS: &str = "Attempts to connect. Rising while not connected: see ended by reason";
const SESSIONS: &str = "Sessions welcomed. Rising steadily: connections break, see ended by reason";
const ENDED: &str = "Sessions and attempts that ended, by reason. tls, refused, other_store and \
                     disputed need a person, the log says what to do; the rest mends itself";
const SENT: &str = "Frames sent, every time. The load on the network";
const RESENT: &str = "Frames sent again. After each break some; rising in a session: the \
                      aggregator is behind or the network loses packets";
const NACKS: &str = "Frames that the aggregator did not take, by verdict. retry is normal after \
                     losses; reject: see conntracct_spool_rejected_frames";
const UNRECEIVED: &str = "Frames on their way, 16 at most. Always 16: the aggregator or the \
                          network is the bottleneck";
const ROUND_TRIP: &str = "Round trip of the clock sample in use. Half of it bounds the error of \
                          the measured clock";
const CLOCK_ERROR: &str = "How wrong the measured clock offset may be. Above 2 s times of flows \
                           are blurred: the node was not connected for long";
const ACKED: &str = "The last acknowledged frame of the epoch being sent. Stands still while \
                     frames wait: nothing is committed there";
const DISK: &str = "Bytes of the spool on disk. At 80 % of limits.spool updates pause";
const FRAMES: &str = "Frames on disk, those kept for their baselines included. Falls after each \
                      checkpoint";
const WAITING: &str = "Frames not acknowledged. Growing: the aggregator is away or too slow";
const LEVEL: &str = "0 normal, 1 updates paused (80 %), 2 full. At 2 ends wait in memory and are \
                     then dropped: get the aggregator back, or raise limits.spool";
const DRAINS: &str = "Old epochs that are sent before the current one. Goes to 0 by itself";
const WRITTEN: &str = "Frames written and synced. The load on the disk";
const GAPS: &str = "Gap frames written: numbers without records, or dropped ends. Each tells the \
                    store what is missing; see the log";
const UNREADABLE: &str = "Frames that could not be read back from disk. Damage: check the disk; a \
                          gap tells the store";
const REJECTED: &str = "Frames the aggregator rejected for ever. They are set aside in the spool's \
                        folder: report one";
const FULL: &str = "Writes that found no room, on the disk or in the budget. Growth waits in the \
                    kernel: free space, or get the aggregator back";
const RETOLD: &str = "Frames told under another epoch's name because theirs is taken. The state \
                      folder was rolled back; nothing is counted twice";
const EPOCHS: &str = "New epochs, by reason. fresh once is normal; any other says what happened to \
                      the state folder or the store, nothing is counted twice";
const CHECKPOINTS: &str = "Checkpoints of the baselines written. One in five minutes, or for each \
                           64 MiB";

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
