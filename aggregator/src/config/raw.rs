//! The configuration as it is written. `Default` is the one place where defaults are.

use std::path::PathBuf;
use std::time::Duration;

use daemon::config::{ConfigError, Origins, Size, Span};
use daemon::http::RawApi;
use daemon::log::RawLog;
use serde::{Deserialize, Serialize};

use super::{Limits, RawMerge};

/// A configuration file of the aggregator. Values first, then tables: TOML wants it so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Where nodes connect.
    pub listen: String,
    /// `sqlite:PATH`, or the URL of a PostgreSQL database.
    pub store: Option<String>,
    /// The file of its password.
    pub store_password_file: Option<PathBuf>,
    /// The PKI's folder.
    pub pki: Option<PathBuf>,
    /// The state folder.
    pub state_dir: Option<PathBuf>,
    /// The longest absence of a node.
    pub spool_age_max: Span,
    /// Whether there is an HTTP listener.
    pub api_enabled: bool,
    /// Where it listens.
    pub api_endpoint: String,
    /// Who may ask it.
    pub api: RawApi,
    /// In which networks the nodes see flows.
    pub merge: RawMerge,
    /// Bounds.
    pub limits: RawLimits,
    /// Logs.
    pub log: RawLog,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            listen: "[::]:4433".into(),
            store: None,
            store_password_file: None,
            pki: None,
            state_dir: None,
            spool_age_max: Span::secs(7 * 86_400),
            api_enabled: true,
            api_endpoint: "127.0.0.1:8080".into(),
            api: RawApi::default(),
            merge: RawMerge::default(),
            limits: RawLimits::default(),
            log: RawLog::default(),
        }
    }
}

/// The `[limits]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// See [`Limits::nodes`].
    pub nodes: u64,
    /// See [`Limits::decode_budget`].
    pub decode_budget: Size,
    /// See [`Limits::transaction_rows`].
    pub transaction_rows: u64,
    /// See [`Limits::transaction_time`].
    pub transaction_time: Span,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            nodes: 10_000,
            decode_budget: Size::mib(256),
            transaction_rows: 10_000,
            transaction_time: Span::millis(250),
        }
    }
}

impl RawLimits {
    pub(super) fn parse(&self, origins: &Origins) -> Result<Limits, ConfigError> {
        // A frame may declare 16 MiB, and one must always fit.
        let budget = (Size::mib(16), Size::mib(64 << 10));
        let times = (Duration::from_millis(10), Duration::from_secs(10));
        Ok(Limits {
            nodes: count("limits.nodes", self.nodes, (1, 1_000_000), origins)?,
            decode_budget: between("limits.decode_budget", self.decode_budget, budget, origins)?.0,
            transaction_rows: count(
                "limits.transaction_rows",
                self.transaction_rows,
                (1, 1_000_000),
                origins,
            )?,
            transaction_time: within(
                "limits.transaction_time",
                self.transaction_time.0,
                times,
                origins,
            )?,
        })
    }
}

/// A duration within bounds, both included.
pub(super) fn within(
    key: &str,
    time: Duration,
    (min, max): (Duration, Duration),
    origins: &Origins,
) -> Result<Duration, ConfigError> {
    between(key, Span(time), (Span(min), Span(max)), origins).map(|span| span.0)
}

fn count(
    key: &str,
    value: u64,
    (min, max): (u64, u64),
    origins: &Origins,
) -> Result<usize, ConfigError> {
    let value = between(key, value, (min, max), origins)?;
    usize::try_from(value).map_err(|_wide| origins.bad(key, "is too large for this machine"))
}

fn between<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    (min, max): (T, T),
    origins: &Origins,
) -> Result<T, ConfigError> {
    if value < min || value > max {
        return Err(origins.bad(key, format!("is {value}, but must be from {min} to {max}")));
    }
    Ok(value)
}
