//! SIGHUP: reads anew what can change under a running node, and says in one line what did, what
//! needs a restart, and what could not be used. It never ends the process.
//!
//! Read anew: the log's level, the keys towards the aggregator (for the next connection), and the
//! HTTP listener's token and certificate. Everything else that is configured takes a restart:
//! source, filter and interval decide what the records of an epoch mean, limits and addresses are
//! given to threads and sockets that live as long as the process.

use daemon::config::{ConfigError, chain, differences};
use daemon::log::Control;
use tracing::{info, warn};

use crate::config::{Config, RawConfig};
use crate::keys::Keys;

/// Loads the configuration as it was loaded at the start: same file, environment and flags.
pub type Load = Box<dyn Fn() -> Result<(Config, RawConfig), ConfigError> + Send>;

/// What the process was started with, and how to look at it again.
pub struct Origin {
    /// The configuration as it was written.
    pub raw: RawConfig,
    /// Loads it again.
    pub load: Load,
    /// The running log.
    pub log: Control,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").field("raw", &self.raw).finish_non_exhaustive()
    }
}

/// What can be read anew in the running node.
pub(crate) struct Reload {
    origin: Origin,
    log: daemon::log::Settings,
    http: Option<daemon::http::Keys>,
    keys: Option<Keys>,
}

/// What a reload came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    /// What is in use now and was not before.
    changed: Vec<String>,
    /// Keys of the configuration that take a restart.
    restart: Vec<String>,
    /// What could not be used and stays as it was, with the reason.
    failed: Vec<String>,
}

impl Reload {
    pub(crate) fn new(
        origin: Origin,
        config: &Config,
        http: Option<daemon::http::Keys>,
        keys: Option<Keys>,
    ) -> Self {
        Self { origin, log: config.log.clone(), http, keys }
    }

    /// Reads everything anew and says what came of it.
    pub(crate) fn run(&mut self) {
        let (config, raw) = match (self.origin.load)() {
            Ok(loaded) => loaded,
            Err(error) => {
                let error = chain(&error);
                warn!(error, "the configuration is wrong; nothing was reloaded");
                return;
            }
        };
        let mut report = Report { restart: self.waiting(&raw), ..Report::default() };
        self.keys(&config, &raw, &mut report);
        self.http(&mut report);
        // With -d the level does not follow the configuration.
        let (old, new) = (&self.origin.raw.log.level, &raw.log.level);
        let level = old != new && config.log != self.log;
        if level {
            report.changed.push(format!("log.level ({old} -> {new})"));
        }
        // The line must be seen if it would be at either level.
        let seen_before = tracing::enabled!(tracing::Level::INFO);
        if seen_before {
            report.tell();
        }
        if level {
            self.level(&config, new);
        }
        if !seen_before {
            report.tell();
        }
    }

    /// The keys that differ from what runs and take a restart.
    fn waiting(&self, raw: &RawConfig) -> Vec<String> {
        let differ = differences(&self.origin.raw, raw).unwrap_or_else(|error| vec![chain(&error)]);
        differ.into_iter().filter(|key| !RELOADED.contains(&key.as_str())).collect()
    }

    fn keys(&mut self, config: &Config, raw: &RawConfig, report: &mut Report) {
        let Some(keys) = &mut self.keys else { return };
        match keys.read(&config.keys) {
            Ok(changed) => {
                report.changed.extend(changed);
                self.origin.raw.tls = raw.tls.clone();
            }
            Err(error) => report.failed.push(chain(&error)),
        }
    }

    fn http(&self, report: &mut Report) {
        let Some(http) = &self.http else { return };
        match http.reload() {
            Ok(changed) => report.changed.extend(changed.into_iter().map(str::to_owned)),
            Err(error) => report.failed.push(chain(&error)),
        }
    }

    fn level(&mut self, config: &Config, level: &str) {
        match self.origin.log.set(&config.log) {
            Ok(()) => {
                self.log = config.log.clone();
                self.origin.raw.log.level = level.to_owned();
            }
            Err(error) => warn!(error = chain(&error), "the log's level stays as it was"),
        }
    }
}

impl Report {
    fn tell(&self) {
        let list = |items: &[String]| match items {
            [] => "nothing".to_owned(),
            items => items.join(", "),
        };
        let (changed, needs_restart) = (list(&self.changed), list(&self.restart));
        if self.failed.is_empty() {
            info!(changed, needs_restart, "reloaded");
        } else {
            let failed = self.failed.join("; ");
            warn!(changed, needs_restart, failed, "reloaded in part; the rest stays as it was");
        }
    }
}

/// Keys of the configuration that a running node follows.
const RELOADED: [&str; 4] = ["log.level", "tls.ca", "tls.cert", "tls.key"];
