//! Opens what the node runs on: sysctls, the source, the spool, the uplink. What can be wrong
//! comes out here, with what to do, before anything runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use daemon::config::chain;
use daemon::ready::Readiness;
use flow::record::MeasuredOffset;
use flow::table::{BaselineSet, TableLimits};
use flow::{BootId, Epoch, NodeName};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::aggregation::AggregationConfig;
use crate::clock;
use crate::config::{Config, SourceChoice};
use crate::filter::Filter;
use crate::metrics::Metrics;
use crate::netns::NetnsChoice;
use crate::source::ebpf::hooks::Hooks;
use crate::source::ebpf::{EbpfConfig, EbpfError, EbpfSource, keep};
use crate::source::filtered::Filtered;
use crate::source::netlink::{NetlinkConfig, NetlinkSource};
use crate::source::record::{DEFAULT_LIMIT, Recorder};
use crate::source::replay::Replay;
use crate::source::{Source, SourceError};
use crate::spool::{
    FileDisk, MachineId, NewEpochReason, OpenContext, Restored, Spool, SpoolConfig,
};
use crate::sysctl::actor::tell;
use crate::sysctl::{SysctlConfig, Sysctls};
use crate::tls::Identity;
use crate::uplink::quic::{About, Session, SystemClock};
use crate::uplink::task::{self, Target};
use crate::uplink::{SpoolHandle, Uplink, UplinkConfig};

/// What was opened.
pub(crate) struct Opened {
    pub(crate) boot: BootId,
    pub(crate) sysctls: Option<Sysctls>,
    pub(crate) source: Box<dyn Source>,
    pub(crate) spool: Option<OpenedSpool>,
    pub(crate) identity: Option<Identity>,
}

/// A spool, and what it remembered.
pub(crate) struct OpenedSpool {
    pub(crate) spool: Spool<FileDisk>,
    pub(crate) epoch: Epoch,
    /// Nothing where a new epoch began: then everything is reported anew.
    pub(crate) baselines: Option<BaselineSet>,
}

/// Opens everything but the uplink: keys first, because that needs no privilege; sysctls before
/// the source.
pub(crate) fn open(config: &Config, metrics: &Metrics) -> anyhow::Result<Opened> {
    let boot = clock::boot_id().context("the boot id cannot be read from /proc")?;
    let identity = match config.aggregators.is_empty() {
        true => None,
        false => Some(identity(config)?),
    };
    std::fs::create_dir_all(&config.state_dir).with_context(|| {
        format!("the state folder {} cannot be made", config.state_dir.display())
    })?;
    let sysctls = sysctls(config, boot, metrics)?;
    let source = source(config, metrics)?;
    let spool = identity.as_ref().map(|_| spool(config, boot)).transpose()?;
    Ok(Opened { boot, sysctls, source, spool, identity })
}

fn identity(config: &Config) -> anyhow::Result<Identity> {
    Ok(Identity::load(&config.keys)?)
}

/// The aggregation's settings.
pub(crate) fn aggregation(config: &Config) -> AggregationConfig {
    let limits = TableLimits {
        live: config.limits.live_flows,
        ended: config.limits.ended_flows,
        ..TableLimits::default()
    };
    let interval = config.interval.length();
    AggregationConfig { limits, interval, ..AggregationConfig::default() }
}

fn netns(config: &Config) -> NetnsChoice {
    config.netns.clone()
}

fn sysctls(config: &Config, boot: BootId, metrics: &Metrics) -> anyhow::Result<Option<Sysctls>> {
    if matches!(config.source, SourceChoice::Replay(_)) {
        return Ok(None);
    }
    let settings = SysctlConfig {
        manage: config.sysctl.manage,
        netns: netns(config),
        state_folder: config.state_dir.clone(),
        restore_on_exit: config.sysctl.restore_on_exit,
        timeout_warnings: config.sysctl.timeout_warnings,
    };
    let mut sysctls = Sysctls::open(settings, boot)?;
    let report = sysctls.apply()?;
    metrics.sysctl.observe(&report);
    tell(&report);
    Ok(Some(sysctls))
}

/// The source: recorded where that is asked for, then filtered.
fn source(config: &Config, metrics: &Metrics) -> anyhow::Result<Box<dyn Source>> {
    let source = unfiltered(config)?;
    if config.filter.is_open() {
        return Ok(source);
    }
    info!("some flows are left out by the filter; conntracct_filter_* counts them");
    Ok(Box::new(Filtered::new(source, config.filter.clone(), metrics.filter.clone())))
}

fn unfiltered(config: &Config) -> anyhow::Result<Box<dyn Source>> {
    let source: Box<dyn Source> = match &config.source {
        SourceChoice::Replay(file) => return Ok(Box::new(Replay::open(file)?)),
        SourceChoice::Netlink => {
            release_hooks(config);
            Box::new(netlink(config)?)
        }
        SourceChoice::Ebpf => Box::new(ebpf(config)?),
        SourceChoice::Auto => match ebpf(config) {
            Ok(source) => Box::new(source),
            Err(error) => {
                info!(reason = %chain(&error), "source: netlink, eBPF cannot be used");
                release_hooks(config);
                Box::new(netlink(config)?)
            }
        },
    };
    match &config.record {
        Some(file) => Ok(Box::new(Recorder::begin(source, file, DEFAULT_LIMIT)?)),
        None => Ok(source),
    }
}

fn netlink(config: &Config) -> Result<NetlinkSource, SourceError> {
    NetlinkSource::open(NetlinkConfig {
        netns: netns(config),
        ended_limit: config.limits.ended_flows,
        ..NetlinkConfig::default()
    })
}

/// The folder in which this node's hooks outlive it.
pub(crate) fn pins(config: &Config) -> PathBuf {
    keep::folder(&config.ebpf.pins, &config.state_dir)
}

/// Removes hooks that an earlier life has left for one of another kind.
fn release_hooks(config: &Config) {
    match keep::release(&pins(config)) {
        Ok(true) => info!("what an earlier life had left in the kernel was removed"),
        Ok(false) => {}
        Err(error) => warn!(reason = %chain(&error), "hooks of an earlier life stay in the kernel"),
    }
}

fn ebpf(config: &Config) -> Result<EbpfSource, EbpfError> {
    // Without a spool nobody remembers what the ends belong to.
    let keep = (config.ebpf.keep && !config.aggregators.is_empty()).then(|| pins(config));
    if keep.is_none() {
        release_hooks(config);
    }
    let source = EbpfSource::open(EbpfConfig {
        keep,
        netns: netns(config),
        layout: config.ebpf.layout.clone(),
        ring_bytes: config.ebpf.ring_bytes,
        reconcile_every: config.ebpf.reconcile_every,
        ended_limit: config.limits.ended_flows,
        live_limit: config.limits.live_flows,
        ..EbpfConfig::default()
    })?;
    let Hooks { birth, death, adoption } = source.hooks();
    let waits = source.is_kept();
    info!(birth, death, adoption, waits, "source: eBPF, proved on living entries");
    Ok(source)
}

fn spool(config: &Config, boot: BootId) -> anyhow::Result<OpenedSpool> {
    let disk = FileDisk::open(&config.state_dir.join(SPOOL_FOLDER))?;
    let context = OpenContext {
        machine: machine(Path::new("/etc/machine-id")),
        boot,
        now: clock::now(),
        wall: clock::wall(),
        fresh: Epoch(rand::random()),
        seed: rand::random(),
    };
    let settings =
        SpoolConfig { budget_bytes: config.limits.spool_bytes, ..SpoolConfig::default() };
    let (mut spool, Restored { baselines, report }) = Spool::open(disk, context, settings)?;
    let mut new_epoch = report.new_epoch.clone();
    let memory = FilterMemory::of(config);
    if new_epoch.is_none() && !memory.knows(&config.filter) {
        spool
            .new_epoch(Epoch(rand::random()), clock::now())
            .context("another filter begins a new epoch, which the spool could not note")?;
        new_epoch = Some(NewEpochReason::OtherFilter);
    }
    memory.remember(&config.filter)?;
    let epoch = spool.epoch();
    match &new_epoch {
        None => info!(%epoch, torn_bytes = report.torn_bytes, "the spool goes on"),
        Some(reason) => {
            let drains = spool.drains().count();
            info!(%epoch, reason = %reason, drains, "a new epoch begins");
        }
    }
    if let Some((place, why)) = &report.set_aside {
        warn!(place, why, "the old spool could not be used and was set aside");
    }
    if report.unreadable > 0 {
        warn!(frames = report.unreadable, "frames cannot be read back; gaps take their place");
    }
    let baselines = new_epoch.is_none().then_some(baselines);
    Ok(OpenedSpool { spool, epoch, baselines })
}

/// The filter that the spool's baselines were made with, in a file beside the spool.
///
/// With another one, an entry that the last sweep left out may be older than that sweep, which
/// its first record must not deny. So it begins a new epoch, and is remembered only after that: a
/// crash between the two costs an epoch more.
struct FilterMemory {
    file: PathBuf,
}

impl FilterMemory {
    fn of(config: &Config) -> Self {
        Self { file: config.state_dir.join(FILTER_FILE) }
    }

    /// Whether it is this one. Without a file nothing was left out.
    fn knows(&self, filter: &Filter) -> bool {
        match std::fs::read_to_string(&self.file) {
            Ok(text) => text == filter.to_string(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound && filter.is_open(),
        }
    }

    fn remember(&self, filter: &Filter) -> anyhow::Result<()> {
        if self.knows(filter) {
            return Ok(());
        }
        let fresh = self.file.with_extension("tmp");
        std::fs::write(&fresh, filter.to_string())
            .and_then(|()| std::fs::rename(&fresh, &self.file))
            .with_context(|| format!("{} cannot be written", self.file.display()))
    }
}

/// The file of [`FilterMemory`] in the state folder.
const FILTER_FILE: &str = "filter";

/// The folder of the spool in the state folder.
const SPOOL_FOLDER: &str = "spool";

/// This machine's id; all zero where it has none, so that clones of such machines look alike.
fn machine(file: &Path) -> MachineId {
    let id = clock::machine_id().and_then(|text| text.parse::<BootId>().ok());
    let Some(BootId(bytes)) = id else {
        warn!(file = %file.display(), "no machine id: a cloned spool cannot be told by it");
        return MachineId::default();
    };
    MachineId(bytes)
}

/// The sessions' task, and how to end it.
pub(crate) struct RunningUplink {
    spool: SpoolHandle,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl RunningUplink {
    /// Waits until everything is acknowledged, at most for `grace`, then ends the sessions.
    pub(crate) async fn finish(self, grace: Duration) {
        let mut view = self.spool.watch();
        let delivered = view.wait_for(|view| view.waiting == 0);
        if tokio::time::timeout(grace, delivered).await.is_err() {
            let waiting = self.spool.view().waiting;
            warn!(frames = waiting, "frames stay in the spool; they are sent after the next start");
        }
        self.stop.send_replace(true);
        let _ended = self.task.await;
    }
}

/// What the uplink needs of the running node.
pub(crate) struct UplinkPlan<'p> {
    pub(crate) config: &'p Config,
    pub(crate) boot: BootId,
    pub(crate) source: &'static str,
    /// The name in this node's certificate.
    pub(crate) node: NodeName,
    pub(crate) tls: watch::Receiver<quinn::ClientConfig>,
    pub(crate) spool: SpoolHandle,
    pub(crate) offset: watch::Sender<Option<MeasuredOffset>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) readiness: Readiness,
}

/// Starts the sessions' task.
pub(crate) fn uplink(plan: UplinkPlan<'_>) -> anyhow::Result<RunningUplink> {
    let UplinkPlan { config, boot, source, node, tls, spool, offset, metrics, readiness } = plan;
    let endpoint = quinn::Endpoint::client(([0u16; 8], 0).into())
        .or_else(|_no_ipv6| quinn::Endpoint::client(([0u8; 4], 0).into()))
        .context("no UDP socket could be opened")?;
    let targets: Vec<Target> = config
        .aggregators
        .iter()
        .map(|peer| Target { host: peer.host.clone(), port: peer.port })
        .collect();
    let settings = UplinkConfig {
        addresses: targets.len(),
        accept_new_store: config.accept_new_store,
        max_unreceived: u32::try_from(config.limits.unreceived_frames).unwrap_or(u32::MAX),
        ..UplinkConfig::default()
    };
    let about = about(node, boot, source)?;
    let (stop, stopped) = watch::channel(false);
    let handle = spool.clone();
    let connected = readiness.part("aggregator", "not connected yet");
    let task = tokio::spawn(async move {
        let mut core = Uplink::new(settings, boot);
        let watch = move |core: &Uplink| {
            offset.send_if_modified(|last| std::mem::replace(last, core.offset()) != core.offset());
            match core.is_connected() {
                true => connected.fine(),
                false => connected
                    .degraded("no aggregator has welcomed this node; frames wait in the spool"),
            }
        };
        let session = Session {
            endpoint: &endpoint,
            tls,
            about: &about,
            spool: &handle,
            clock: &SystemClock,
            metrics: &metrics.uplink,
            new_epoch: &|reason| warn!(reason = %reason, "a new epoch begins"),
            watch: &watch,
        };
        let mut stopped = stopped;
        task::run(&session, &mut core, &targets, async move {
            let _gone = stopped.wait_for(|stop| *stop).await;
        })
        .await;
    });
    Ok(RunningUplink { spool, stop, task })
}

fn about(node: NodeName, boot: BootId, source: &str) -> anyhow::Result<About> {
    let kernel = clock::kernel_release().context("the kernel's release cannot be read")?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(About { node, boot, source: source.to_owned(), kernel, version })
}
