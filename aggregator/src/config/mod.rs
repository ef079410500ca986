//! The aggregator's configuration: what may be written ([`RawConfig`]) and what the program runs
//! on ([`Config`]), whose every field is legal.

mod merge;
mod raw;
mod store;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::config::{ConfigError, Flags, Loaded, Origins, Surroundings};
use daemon::http::{Listener, TokenRule};
use daemon::log;

use crate::count::domains::Domains;

pub use merge::{RawDomain, RawMerge};
pub use raw::{RawConfig, RawLimits};
pub use store::StoreChoice;

/// A legal configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that was read, where there was one.
    pub file: Option<PathBuf>,
    /// Where nodes connect (UDP).
    pub listen: SocketAddr,
    /// Where flows are stored.
    pub store: StoreChoice,
    /// The folder of the authority's certificate, the list of issued ones, the server's keys.
    pub pki: PathBuf,
    /// Everything else that outlives the process.
    pub state_dir: PathBuf,
    /// The longest time a node may have been away and still deliver what it has spooled.
    pub spool_age_max: Duration,
    /// In which networks the nodes see flows; `None`: every node counts in full.
    pub merge: Option<Arc<Domains>>,
    /// The HTTP listener, if there is one.
    pub http: Option<Listener>,
    /// Bounds.
    pub limits: Limits,
    /// Logs.
    pub log: log::Settings,
}

/// Bounds of the aggregator's memory and transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes with a session at once; more are refused.
    pub nodes: usize,
    /// Bytes of decoded frames at once, taken before decompressing; more frames wait.
    pub decode_budget: u64,
    /// Rows after which a transaction is committed.
    pub transaction_rows: usize,
    /// Age at which a transaction is committed.
    pub transaction_time: Duration,
}

impl Config {
    /// Loads the configuration: defaults, `file` or the search paths, environment, `flags`.
    /// `debug` is the flag `-d`.
    ///
    /// # Errors
    /// Anything wrong anywhere; nothing may start then.
    pub fn load(
        file: Option<&Path>,
        surroundings: &Surroundings,
        flags: Flags,
        debug: bool,
    ) -> Result<(Self, RawConfig), ConfigError> {
        let loaded = daemon::config::load(STEM, file, surroundings, flags)?;
        Self::parse(loaded, surroundings, debug)
    }

    /// The legal configuration, and the written one with what was left open filled in.
    fn parse(
        Loaded { mut raw, origins }: Loaded<RawConfig>,
        surroundings: &Surroundings,
        debug: bool,
    ) -> Result<(Self, RawConfig), ConfigError> {
        let state_dir = raw.state_dir.clone().unwrap_or_else(|| surroundings.state_dir(PROGRAM));
        let store = StoreChoice::parse(&raw, &state_dir, &origins)?;
        let http = if raw.api_enabled {
            let endpoint = &raw.api_endpoint;
            Some(raw.api.parse(endpoint, TokenRule::Always, &state_dir, &origins)?)
        } else {
            None
        };
        let config = Self {
            file: origins.file().map(Path::to_owned),
            listen: listen(&raw.listen, &origins)?,
            store,
            pki: raw.pki.clone().unwrap_or_else(|| state_dir.join(PKI_FOLDER)),
            spool_age_max: raw::within(
                "spool_age_max",
                raw.spool_age_max.0,
                (Duration::from_secs(3600), Duration::from_secs(90 * 86_400)),
                &origins,
            )?,
            merge: raw.merge.parse(&origins)?,
            http,
            limits: raw.limits.parse(&origins)?,
            log: raw.log.parse(debug, &origins)?,
            state_dir,
        };
        raw.store = Some(config.store.url());
        raw.pki = Some(config.pki.clone());
        raw.state_dir = Some(config.state_dir.clone());
        Ok((config, raw))
    }
}

/// The name of this program's configuration files, without extension.
pub const STEM: &str = "aggregator";

/// The name of this program and of its state folder.
pub const PROGRAM: &str = "conntracct-aggregator";

/// The PKI's folder in the state folder, unless configured.
const PKI_FOLDER: &str = "pki";

fn listen(text: &str, origins: &Origins) -> Result<SocketAddr, ConfigError> {
    text.parse().map_err(|_not_an_address| {
        let problem = format!(
            "is {text:?}, but must be ADDRESS:PORT, like \"[::]:4433\" (all addresses) or \
             \"192.0.2.1:4433\""
        );
        origins.bad("listen", problem)
    })
}

#[cfg(test)]
mod tests;
