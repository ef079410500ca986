//! SIGHUP: what can be read again is, one line of log says what has changed and what waits for a
//! restart, and nothing that is wrong ends the process.
//!
//! Read again: the list of issued certificates (sessions of revoked ones close), the
//! certificates of the QUIC endpoint (for new connections), token and certificate of the HTTP
//! listener, and of the configuration `log.level`.

use std::sync::Arc;

use daemon::config::{ConfigError, chain, differences};
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quinn::Endpoint;

use crate::config::{Config, RawConfig};
use crate::ingest::{self, IngestConfig};
use crate::tls::{self, Certificates, IssuedList, ServerFiles, TlsError};

/// Reads the configuration again, from where it was read at start.
pub type Source = Box<dyn Fn() -> Result<(Config, RawConfig), ConfigError> + Send>;

/// Everything that can be changed while the program runs.
pub struct Reload {
    /// Where the configuration comes from.
    pub source: Source,
    /// What is in force of it; keys that wait for a restart keep their old value here.
    pub running: RawConfig,
    /// How much is logged.
    pub log: daemon::log::Control,
    /// Who may connect.
    pub issued: Arc<IssuedList>,
    /// The files of the QUIC endpoint's certificates.
    pub files: ServerFiles,
    /// What was in them.
    pub certificates: Certificates,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its bounds.
    pub ingest: IngestConfig,
    /// Token and certificate of the HTTP listener.
    pub http: Option<daemon::http::Keys>,
    /// What came of reloads.
    pub metrics: ReloadMetrics,
}

/// What came of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What is different now.
    pub changed: Vec<String>,
    /// Keys of the configuration whose new value waits for a restart.
    pub restart: Vec<String>,
    /// What is wrong, for a person; what was before stays in force.
    pub failed: Vec<String>,
}

impl Reload {
    /// Reads everything again and says so in one line of log.
    pub fn run(&mut self, now: Timestamp) -> Reloaded {
        let mut done = Reloaded::default();
        self.configuration(&mut done);
        let listed = self.issued.len();
        match self.issued.reload() {
            Ok(false) => {}
            Ok(true) => {
                done.changed
                    .push(format!("issued certificates ({listed} -> {})", self.issued.len()));
            }
            Err(error) => done.failed.push(chain(&error)),
        }
        match self.quic(now) {
            Ok(changed) => done.changed.extend(changed.into_iter().map(str::to_owned)),
            Err(error) => done.failed.push(chain(&error)),
        }
        match self.http.as_ref().map_or_else(|| Ok(Vec::new()), daemon::http::Keys::reload) {
            Ok(changed) => done.changed.extend(changed.into_iter().map(str::to_owned)),
            Err(error) => done.failed.push(chain(&error)),
        }
        self.metrics.count(&done);
        done.tell();
        done
    }

    fn configuration(&mut self, done: &mut Reloaded) {
        let (fresh, raw) = match (self.source)() {
            Ok(loaded) => loaded,
            Err(error) => return done.failed.push(chain(&error)),
        };
        let differ = match differences(&self.running, &raw) {
            Ok(keys) => keys,
            Err(error) => return done.failed.push(chain(&error)),
        };
        for key in differ {
            if key != LEVEL {
                done.restart.push(key);
                continue;
            }
            match self.log.set(&fresh.log) {
                Ok(()) => {
                    let (old, new) = (&self.running.log.level, &raw.log.level);
                    done.changed.push(format!("{LEVEL} ({old} -> {new})"));
                    self.running.log.level.clone_from(new);
                }
                Err(error) => done.failed.push(chain(&error)),
            }
        }
    }

    fn quic(&mut self, now: Timestamp) -> Result<Vec<&'static str>, TlsError> {
        let fresh = Certificates::read(&self.files)?;
        let changed = self.certificates.differences(&fresh);
        if !changed.is_empty() {
            let tls = tls::server_config(&self.files, Arc::clone(&self.issued), now)?;
            ingest::renew(&self.endpoint, tls, &self.ingest);
            self.certificates = fresh;
        }
        Ok(changed)
    }
}

impl Reloaded {
    fn tell(&self) {
        let list = |items: &[String], none: &str| {
            if items.is_empty() { none.to_owned() } else { items.join(", ") }
        };
        let changed = list(&self.changed, "nothing");
        let needs_restart = list(&self.restart, "nothing");
        if self.failed.is_empty() {
            tracing::info!(changed, needs_restart, "reloaded");
        } else {
            let failed = self.failed.join("; ");
            tracing::error!(changed, needs_restart, failed, "reloaded in part");
        }
    }
}

/// The one key that takes effect at once.
const LEVEL: &str = "log.level";

daemon::closed_label! {
    /// How a reload went.
    enum Outcome {
        /// Everything was read.
        Whole = "whole",
        /// Something could not be used; the rest was read.
        Part = "part",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

/// What came of reloads; clones share the same figures.
#[derive(Clone, Debug)]
pub struct ReloadMetrics {
    reloads: Family<OutcomeLabel, Counter>,
    waiting: Gauge,
}

impl Default for ReloadMetrics {
    fn default() -> Self {
        let labels = Outcome::ALL.iter().map(|&outcome| OutcomeLabel { outcome });
        Self { reloads: daemon::label::present(labels), waiting: Gauge::default() }
    }
}

impl ReloadMetrics {
    /// Adds them to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("conntracct_config");
        registry.register(
            "reloads",
            "Reloads on SIGHUP, by outcome. part: something could not be used and its old value \
             is in force, the log says what",
            self.reloads.clone(),
        );
        registry.register(
            "waiting_keys",
            "Keys of the configuration whose new value waits for a restart, at the last reload. \
             Not 0: restart when convenient",
            self.waiting.clone(),
        );
    }

    fn count(&self, done: &Reloaded) {
        let outcome = if done.failed.is_empty() { Outcome::Whole } else { Outcome::Part };
        self.reloads.get_or_create(&OutcomeLabel { outcome }).inc();
        self.waiting.set(i64::try_from(done.restart.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_are_named_in_full() {
        let before = RawConfig::default();
        let mut after = RawConfig { store: Some("sqlite:/x".to_owned()), ..before.clone() };
        after.limits.nodes = 7;
        after.log.level = "debug".to_owned();
        assert_eq!(differences(&before, &after).unwrap(), ["limits.nodes", "log.level", "store"]);
        assert_eq!(differences(&after, &after).unwrap(), Vec::<String>::new());
    }
}
