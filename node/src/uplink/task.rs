//! Connects for ever: the core's steps between sessions.

use std::net::SocketAddr;
use std::time::Duration;

use flow::BootNanos;
use tokio::net::lookup_host;

use super::core::{Ended, Step, Uplink};
use super::error::SessionError;
use super::quic::{Peer, Session, run_session};
use crate::spool::Disk;

/// An aggregator's address as it was configured; resolved anew for each attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

/// Runs sessions until `stop` is done. `targets` must be as many as
/// [`UplinkConfig::addresses`](super::UplinkConfig::addresses). Failures are counted, and logged
/// at most once in ten seconds each kind.
pub async fn run<D: Disk + 'static>(
    session: &Session<'_, D>,
    core: &mut Uplink,
    targets: &[Target],
    stop: impl Future<Output = ()>,
) {
    tokio::pin!(stop);
    let mut log = Log::default();
    loop {
        let view = session.spool.view();
        let now = session.clock.boot();
        session.show(core, &view, now);
        match core.step(now, &view) {
            Step::Connect { address } => {
                let Some(target) = targets.get(address) else {
                    core.disconnected(now, rand::random());
                    continue;
                };
                let mut stopped = false;
                let ended = async {
                    let peer = resolve(target).await?;
                    let stop = async {
                        (&mut stop).await;
                        stopped = true;
                    };
                    run_session(session, core, &peer, stop).await
                };
                let ended = ended.await;
                if let Err(error) = &ended {
                    session.metrics.count_ended(error);
                    log.tell(error, session.clock.boot());
                }
                let now = session.clock.boot();
                core.disconnected(now, rand::random());
                session.show(core, &session.spool.view(), now);
                if stopped {
                    return;
                }
            }
            Step::Wait { until } => {
                tokio::select! {
                    () = &mut stop => return,
                    () = tokio::time::sleep(until.since(now)) => {}
                }
            }
            // Not connected: there is nothing to be closed, and nothing else to do.
            Step::Close(_) | Step::Ping(_) | Step::Send { .. } => {
                core.disconnected(now, rand::random());
            }
        }
    }
}

async fn resolve(target: &Target) -> Result<Peer, SessionError> {
    let Target { host, port } = target;
    let failed = |error| SessionError::Resolve { host: host.clone(), error };
    let found = lookup_host((host.as_str(), *port)).await.map_err(failed)?;
    let addresses: Vec<SocketAddr> = found.collect();
    // Any of them will do; another attempt may take another one.
    let count = u64::try_from(addresses.len()).unwrap_or(u64::MAX);
    let pick = rand::random::<u64>().checked_rem(count).and_then(|pick| usize::try_from(pick).ok());
    let address = pick.and_then(|pick| addresses.get(pick)).copied();
    let address = address.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    Ok(Peer { address, name: host.clone() })
}

/// Says each kind of failure at most once in ten seconds.
#[derive(Debug, Default)]
struct Log {
    last: Option<(&'static str, BootNanos)>,
}

impl Log {
    fn tell(&mut self, error: &SessionError, now: BootNanos) {
        let reason = error.label();
        let again = self.last.is_some_and(|(last, at)| last == reason && now.since(at) < QUIET);
        if matches!(error, SessionError::Ended(Ended::EpochDone)) {
            tracing::info!("epoch drained or given up, the next one is sent");
        } else if !again {
            self.last = Some((reason, now));
            let detail = std::error::Error::source(error).map(ToString::to_string);
            if error.needs_a_person() {
                tracing::error!(reason, detail, "{error}");
            } else {
                tracing::warn!(reason, detail, "{error}");
            }
        }
    }
}

/// Between two log lines of the same kind.
const QUIET: Duration = Duration::from_secs(10);
