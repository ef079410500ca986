//! What keeps an eye on the running node: readiness of the source, the end of certificates, and
//! panics.

use std::sync::Arc;
use std::time::Duration;

use daemon::ready::Readiness;
use jiff::Timestamp;
use tracing::error;

use crate::clock;
use crate::metrics::Metrics;
use crate::tls::Certificates;

/// A panic anywhere ends the process: actix would end the actor silently and go on without it.
/// The service manager starts the node again, and the spool knows where it was.
pub(crate) fn abort_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        error!(panic = %panic, "a defect ends the process; it continues from its spool");
        std::process::abort();
    }));
}

/// Keeps the source's condition on `/readyz` up to date.
pub(crate) fn watch_source(readiness: &Readiness, metrics: Arc<Metrics>, interval: Duration) {
    let sweeps = readiness.part("sweeps", "no sweep has been completed yet");
    let ends = readiness.part("ends", "the source has not said anything yet");
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut seen, mut quiet) = (0, Duration::ZERO);
        loop {
            tick.tick().await;
            let now = metrics.probe.sweeps_complete.get();
            quiet = if now == seen { quiet + Duration::from_secs(1) } else { Duration::ZERO };
            seen = now;
            match (seen, quiet > interval * 3) {
                (0, _) => sweeps.degraded("no sweep has been completed yet"),
                (_, true) => sweeps.degraded("no sweep was completed for three intervals"),
                (_, false) => sweeps.fine(),
            }
            if metrics.probe.last_health().reliable_ends {
                ends.fine();
            } else {
                ends.degraded(
                    "ends may be lost: the guard switched reliable ends off, or the source \
                     has not started; see docs/troubleshoot.md",
                );
            }
        }
    });
}

/// Tells of certificates that end soon, and keeps `/readyz` up to date about those that have.
pub(crate) fn watch_certificates(readiness: &Readiness, certificates: Certificates) {
    let part = readiness.part("certificates", "not looked at yet");
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(CERTIFICATES_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = Timestamp::from_nanosecond(clock::wall().get().into());
            match now.ok().and_then(|now| certificates.look(now)) {
                Some(expired) => part.degraded(expired),
                None => part.fine(),
            }
        }
    });
}

/// How often the ends of certificates are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(5);
