//! The node's configuration: what may be written ([`RawConfig`]) and what the program runs on
//! ([`Config`]), whose every field is legal.

mod choices;
mod raw;

use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::config::{ConfigError, Flags, Loaded, Surroundings};
use daemon::http::{Listener, TokenRule};
use daemon::log;
use flow::NodeName;

use crate::filter::Filter;
use crate::netns::NetnsChoice;
use crate::source::ebpf::LayoutChoice;
use crate::tls::IdentityPaths;

pub use choices::{Interval, Peer, SourceChoice};
pub use raw::{RawConfig, RawEbpf, RawFilter, RawLimits, RawSysctl, RawTls};

/// A legal configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that was read, where there was one.
    pub file: Option<PathBuf>,
    /// This node's name for its own logs and sinks. Towards an aggregator the name is the one in
    /// the node's certificate, whatever is said here.
    pub name: NodeName,
    /// Where the aggregators are; several addresses mean the same store behind them. Empty: the
    /// node works for its local sinks only.
    pub aggregators: Vec<Peer>,
    /// Where readings come from.
    pub source: SourceChoice,
    /// How the eBPF source reads, where it does.
    pub ebpf: Ebpf,
    /// A file that gets everything the source reads.
    pub record: Option<PathBuf>,
    /// Whose connections are read.
    pub netns: NetnsChoice,
    /// Time between sweeps.
    pub interval: Interval,
    /// Which flows are left out.
    pub filter: Filter,
    /// Whether a store other than the one known is taken, once.
    pub accept_new_store: bool,
    /// Where spool, sysctl originals and token are kept.
    pub state_dir: PathBuf,
    /// Keys towards the aggregator.
    pub keys: IdentityPaths,
    /// What is done to sysctls.
    pub sysctl: Sysctl,
    /// The HTTP listener, if there is one.
    pub http: Option<Listener>,
    /// Bounds.
    pub limits: Limits,
    /// Logs.
    pub log: log::Settings,
}

/// How the eBPF source reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ebpf {
    /// Where the kernel's layout comes from.
    pub layout: LayoutChoice,
    /// How often each namespace's table is listed, to find births that were missed.
    pub reconcile_every: Duration,
    /// Bytes of the ring buffer between kernel and node; what does not fit is counted and found
    /// again, or told as lost.
    pub ring_bytes: u32,
    /// Whether ends wait in the kernel while the node is started again.
    pub keep: bool,
    /// The folder of a BPF file system in which they do.
    pub pins: PathBuf,
}

/// What is done to `nf_conntrack_*` sysctls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Set those that counting needs, and set them again when they change.
    pub manage: bool,
    /// Put the originals back at exit.
    pub restore_on_exit: bool,
    /// Warn of timeouts so long that ends come late.
    pub timeout_warnings: bool,
}

/// Bounds of the node's memory and disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live flows tracked; those beyond are accounted by their end only.
    pub live_flows: usize,
    /// Ended flows that wait for the spool; those beyond are dropped, counted and told.
    pub ended_flows: usize,
    /// Bytes of the spool; updates pause at 80 %, nothing is deleted.
    pub spool_bytes: u64,
    /// Frames sent and not yet received; the rest waits in the spool.
    pub unreceived_frames: usize,
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
        let name = choices::name(raw.name.as_deref(), &surroundings.hostname, &origins)?;
        let state_dir = raw.state_dir.clone().unwrap_or_else(|| surroundings.state_dir(PROGRAM));
        let source = choices::source(&raw.source, &origins)?;
        if matches!(source, SourceChoice::Replay(_)) && raw.record.is_some() {
            let problem = "records what the kernel says; it cannot be used with `source = \
                           \"replay:...\"`";
            return Err(origins.bad("record", problem));
        }
        let http = if raw.api_enabled {
            let endpoint = &raw.api_endpoint;
            Some(raw.api.parse(endpoint, TokenRule::OffLoopback, &state_dir, &origins)?)
        } else {
            None
        };
        let config = Self {
            file: origins.file().map(Path::to_owned),
            aggregators: choices::peers(&raw.aggregator, &origins)?,
            source,
            ebpf: raw.ebpf.parse(&origins)?,
            record: raw.record.clone(),
            netns: choices::netns(&raw.netns, &origins)?,
            interval: choices::interval(raw.interval, &origins)?,
            filter: raw.filter.parse(&origins)?,
            accept_new_store: raw.accept_new_store,
            keys: IdentityPaths {
                ca: raw.tls.ca.clone(),
                cert: raw.tls.cert.clone(),
                key: raw.tls.key.clone(),
            },
            sysctl: Sysctl {
                manage: raw.sysctl_manage,
                restore_on_exit: raw.sysctl.restore_on_exit,
                timeout_warnings: raw.sysctl.timeout_warnings,
            },
            http,
            limits: raw.limits.parse(&origins)?,
            log: raw.log.parse(debug, &origins)?,
            name,
            state_dir,
        };
        raw.name = Some(config.name.to_string());
        raw.state_dir = Some(config.state_dir.clone());
        Ok((config, raw))
    }
}

/// The name of this program's configuration files, without extension.
pub const STEM: &str = "node";

/// The name of this program and of its state folder.
pub const PROGRAM: &str = "conntracct-node";

#[cfg(test)]
mod tests;
