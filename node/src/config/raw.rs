//! The configuration as it is written. `Default` is the one place where defaults are.

use std::path::PathBuf;

use daemon::config::{ConfigError, Origins, Size, Span, Strings};
use daemon::http::RawApi;
use daemon::log::RawLog;
use serde::{Deserialize, Serialize};

use super::{Ebpf, Limits};
use crate::filter::{Filter, Networks, Protocols};
use crate::source::ebpf::LayoutChoice;
use crate::tls::IdentityPaths;

/// A configuration file of the node. Values first, then tables: TOML wants it so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// The node's name; the host's name made legal where it is not given.
    pub name: Option<String>,
    /// `HOST:PORT` of the aggregator, or of several in front of one store.
    pub aggregator: Strings,
    /// `auto`, `ebpf`, `netlink` or `replay:FILE`.
    pub source: String,
    /// A file to record the source to.
    pub record: Option<PathBuf>,
    /// `own`, `all` or paths of network namespaces.
    pub netns: Strings,
    /// Time between sweeps.
    pub interval: Span,
    /// Whether another store is accepted.
    pub accept_new_store: bool,
    /// The state folder.
    pub state_dir: Option<PathBuf>,
    /// Whether sysctls are set.
    pub sysctl_manage: bool,
    /// Whether there is an HTTP listener.
    pub api_enabled: bool,
    /// Where it listens.
    pub api_endpoint: String,
    /// Who may ask it.
    pub api: RawApi,
    /// The eBPF source.
    pub ebpf: RawEbpf,
    /// Which flows are left out.
    pub filter: RawFilter,
    /// More about sysctls.
    pub sysctl: RawSysctl,
    /// Keys towards the aggregator.
    pub tls: RawTls,
    /// Bounds.
    pub limits: RawLimits,
    /// Logs.
    pub log: RawLog,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            name: None,
            aggregator: Strings::default(),
            source: "auto".into(),
            record: None,
            netns: Strings(vec!["own".into()]),
            interval: Span::secs(10),
            accept_new_store: false,
            state_dir: None,
            sysctl_manage: true,
            api_enabled: true,
            api_endpoint: "localhost:8000".into(),
            api: RawApi::default(),
            ebpf: RawEbpf::default(),
            filter: RawFilter::default(),
            sysctl: RawSysctl::default(),
            tls: RawTls::default(),
            limits: RawLimits::default(),
            log: RawLog::default(),
        }
    }
}

/// The `[ebpf]` section; see [`Ebpf`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEbpf {
    /// A file of the kernel's type information, where the kernel has none.
    pub btf: Option<PathBuf>,
    /// The part of it that is the module `nf_conntrack`'s.
    pub btf_module: Option<PathBuf>,
    /// A layout file.
    pub layout: Option<PathBuf>,
    /// See [`Ebpf::reconcile_every`].
    pub reconcile: Span,
    /// See [`Ebpf::ring_bytes`].
    pub ring: Size,
    /// See [`Ebpf::keep`].
    pub keep: bool,
    /// See [`Ebpf::pins`].
    pub pins: PathBuf,
}

impl Default for RawEbpf {
    fn default() -> Self {
        Self {
            btf: None,
            btf_module: None,
            layout: None,
            reconcile: Span::secs(300),
            ring: Size::mib(16),
            keep: true,
            pins: "/sys/fs/bpf/conntracct".into(),
        }
    }
}

impl RawEbpf {
    pub(super) fn parse(&self, origins: &Origins) -> Result<Ebpf, ConfigError> {
        let layout = match (&self.layout, &self.btf) {
            (None, None) if self.btf_module.is_some() => {
                let problem = "stands on the kernel's own: give ebpf.btf, too";
                return Err(origins.bad("ebpf.btf_module", problem.to_owned()));
            }
            (None, None) => LayoutChoice::Kernel,
            (None, Some(base)) => {
                LayoutChoice::Btf { base: base.clone(), module: self.btf_module.clone() }
            }
            (Some(_), _) if self.btf_module.is_some() => {
                let problem = "and ebpf.layout are both given; one of them says it all";
                return Err(origins.bad("ebpf.btf_module", problem.to_owned()));
            }
            (Some(file), None) => LayoutChoice::File(file.clone()),
            (Some(_), Some(_)) => {
                let problem = "and ebpf.btf are both given; one of them says it all";
                return Err(origins.bad("ebpf.layout", problem.to_owned()));
            }
        };
        let (min, max) = (Span::secs(10), Span::secs(3600));
        if !(min.0..=max.0).contains(&self.reconcile.0) {
            let problem = format!("is {}, but must be from {min} to {max}", self.reconcile);
            return Err(origins.bad("ebpf.reconcile", problem));
        }
        // A power of two and whole pages: the kernel takes nothing else.
        let ring = u32::try_from(self.ring.0).ok();
        let ring = ring.filter(|ring| ring.is_power_of_two() && (1 << 12..=1 << 30).contains(ring));
        let ring_bytes = ring.ok_or_else(|| {
            let problem = "but must be 4KiB, 8KiB and so on, doubling, up to 1GiB";
            origins.bad("ebpf.ring", format!("is {}, {problem}", self.ring))
        })?;
        let (keep, pins) = (self.keep, self.pins.clone());
        Ok(Ebpf { layout, reconcile_every: self.reconcile.0, ring_bytes, keep, pins })
    }
}

/// The `[filter]` section; see [`Filter`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawFilter {
    /// See [`Filter::exclude_loopback`].
    pub exclude_loopback: bool,
    /// See [`Filter::include`].
    pub include: Strings,
    /// See [`Filter::exclude`].
    pub exclude: Strings,
    /// See [`Filter::protocols`].
    pub protocols: Strings,
    /// See [`Filter::exclude_protocols`].
    pub exclude_protocols: Strings,
}

impl RawFilter {
    pub(super) fn parse(&self, origins: &Origins) -> Result<Filter, ConfigError> {
        let networks = |key: &str, texts: &Strings| {
            Networks::parse(&texts.0).map_err(|error| origins.bad(key, error.to_string()))
        };
        let protocols = |key: &str, texts: &Strings| {
            let protocols = texts.0.iter().map(|text| text.parse());
            protocols
                .collect::<Result<Protocols, flow::tuple::ProtoError>>()
                .map_err(|error| origins.bad(key, format!("is wrong: {error}")))
        };
        Ok(Filter {
            exclude_loopback: self.exclude_loopback,
            include: networks("filter.include", &self.include)?,
            exclude: networks("filter.exclude", &self.exclude)?,
            protocols: protocols("filter.protocols", &self.protocols)?,
            exclude_protocols: protocols("filter.exclude_protocols", &self.exclude_protocols)?,
        })
    }
}

/// The `[sysctl]` section; `sysctl_manage` stands outside it, where it always was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSysctl {
    /// Whether the originals are put back at exit.
    pub restore_on_exit: bool,
    /// Whether long timeouts are warned of.
    pub timeout_warnings: bool,
}

impl Default for RawSysctl {
    fn default() -> Self {
        Self { restore_on_exit: false, timeout_warnings: true }
    }
}

/// The `[tls]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTls {
    /// The authority's certificate, PEM.
    pub ca: PathBuf,
    /// The node's certificate, PEM.
    pub cert: PathBuf,
    /// The node's private key, PEM.
    pub key: PathBuf,
}

impl Default for RawTls {
    fn default() -> Self {
        let IdentityPaths { ca, cert, key } = IdentityPaths::default();
        Self { ca, cert, key }
    }
}

/// The `[limits]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// See [`Limits::live_flows`].
    pub live_flows: u64,
    /// See [`Limits::ended_flows`].
    pub ended_flows: u64,
    /// See [`Limits::spool_bytes`].
    pub spool: Size,
    /// See [`Limits::unreceived_frames`].
    pub unreceived_frames: u64,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            live_flows: 1 << 20,
            ended_flows: 100_000,
            spool: Size::mib(1024),
            unreceived_frames: 16,
        }
    }
}

impl RawLimits {
    pub(super) fn parse(&self, origins: &Origins) -> Result<Limits, ConfigError> {
        let within = |key: &str, value: u64, min: usize, max: usize| {
            usize::try_from(value).ok().filter(|value| (min..=max).contains(value)).ok_or_else(
                || {
                    let key = format!("limits.{key}");
                    origins.bad(&key, format!("is {value}, but must be from {min} to {max}"))
                },
            )
        };
        let (min, max) = (Size::mib(16), Size::mib(1 << 20));
        if self.spool < min || self.spool > max {
            let problem = format!("is {}, but must be from {min} to {max}", self.spool);
            return Err(origins.bad("limits.spool", problem));
        }
        Ok(Limits {
            live_flows: within("live_flows", self.live_flows, 1_000, 1 << 26)?,
            ended_flows: within("ended_flows", self.ended_flows, 1_000, 10_000_000)?,
            spool_bytes: self.spool.0,
            // The protocol allows no more.
            unreceived_frames: within("unreceived_frames", self.unreceived_frames, 1, 16)?,
        })
    }
}
