//! Starts and stops the node, in order. Nothing else starts an actor or ends one.
//!
//! Start: what can be wrong in configuration and keys first, then sysctls (an entry born before
//! accounting is on is never counted), then the source, the spool, the actors from the leaf to
//! the probe, and at last the sessions with the aggregator.
//!
//! Stop: the probe makes a last sweep, which is answered when the aggregation has put everything
//! into durable frames; then the sessions get a grace to deliver them; then sysctls are given
//! back. A second signal ends the process at once: what was durable stays so. SIGHUP reloads
//! ([`crate::reload`]) and never ends anything.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use anyhow::Context as _;
use daemon::http::{AppState, Bound};
use daemon::ready::Readiness;
use flow::record::MeasuredOffset;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::aggregation::Aggregation;
use crate::aggregation::actor::{AggregationActor, Outlet};
use crate::config::Config;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::opening::{self, Opened, UplinkPlan};
use crate::probe::actor::{Finish, Probe};
use crate::probe::schedule::Schedule;
use crate::reload::{Origin, Reload};
use crate::sink::stdout::LineSink;
use crate::source::Source;
use crate::sysctl::Sysctls;
use crate::sysctl::actor::{Restore, SysctlActor};
use crate::uplink::SpoolHandle;
use crate::uplink::actor::UplinkActor;
use crate::watchers;

/// How long the sessions may go on delivering after the last frame was spooled.
const DELIVERY_GRACE: Duration = Duration::from_secs(10);

/// Runs a node until it is told to stop or its source has come to its end.
///
/// # Errors
/// When it cannot start; the error says what to do.
pub fn run(config: Config, origin: Origin) -> anyhow::Result<()> {
    watchers::abort_on_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    runtime.block_on(serve(config, origin))
}

async fn serve(config: Config, origin: Origin) -> anyhow::Result<()> {
    // Before anything else: from here on a SIGHUP does not end the process.
    let mut hangup = signal(SignalKind::hangup()).context("signals cannot be received")?;
    let metrics = Arc::new(Metrics::default());
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let readiness = Readiness::default();

    let http = match &config.http {
        Some(listener) => Some(daemon::http::bind(listener, metrics.http.clone()).await?),
        None => None,
    };
    let opened = opening::open(&config, &metrics)?;
    let Opened { boot, sysctls, source, spool, identity } = opened;
    let name = identity.as_ref().map_or_else(|| config.name.clone(), |id| id.node.clone());
    let source_name = source.name();
    info!(node = %name, source = source_name, version = env!("CARGO_PKG_VERSION"), "starting");

    let (offset_out, offset) = watch::channel(None);
    let (outlet, core, sending) = match (spool, identity) {
        (Some(spool), Some(identity)) => {
            let now = crate::clock::now();
            let restored = spool.baselines.map(|baselines| (spool.epoch, baselines, now));
            let seed = rand::random();
            let core = Aggregation::new(opening::aggregation(&config), boot, restored, seed);
            let (handle, _thread) = SpoolHandle::spawn(spool.spool)
                .context("the spool's thread could not be started")?;
            (OutletPlan::Spool(handle.clone(), offset), core, Some((handle, identity)))
        }
        _ => {
            let sink = LineSink::spawn(std::io::stdout())
                .context("the thread that writes to standard output could not be started")?;
            metrics.sink(&sink.counts());
            let core = Aggregation::new(opening::aggregation(&config), boot, None, rand::random());
            (OutletPlan::Lines(sink), core, None)
        }
    };

    let (exhausted_out, mut exhausted) = watch::channel(false);
    let plan = Plan { core, outlet, source, sysctls, exhausted: exhausted_out, config: &config };
    let actors = Actors::start(plan, Arc::clone(&metrics)).await?;
    let (uplink, keys) = match sending {
        Some((spool, identity)) => {
            let certificates = metrics.uplink.certificates.clone();
            let (keys, tls) = Keys::of(identity, certificates.clone())?;
            watchers::watch_certificates(&readiness, certificates);
            let plan = UplinkPlan {
                config: &config,
                boot,
                source: source_name,
                node: name,
                tls,
                spool,
                offset: offset_out,
                metrics: Arc::clone(&metrics),
                readiness: readiness.clone(),
            };
            let uplink = opening::uplink(plan).context("the uplink could not be started")?;
            (Some(uplink), Some(keys))
        }
        None => (None, None),
    };
    let mut reload = Reload::new(origin, &config, http.as_ref().map(Bound::keys), keys);
    watchers::watch_source(&readiness, Arc::clone(&metrics), config.interval.length());
    let (stop_http, http_stopped) = oneshot::channel::<()>();
    let server = http.map(|bound| {
        let state = AppState {
            registry: Arc::new(registry),
            readiness: readiness.clone(),
            stats: crate::http::stats(Arc::clone(&metrics)),
        };
        serve_http(bound, state, crate::http::router(actors.listing.clone()), http_stopped)
    });

    let mut stop = Stop::new()?;
    loop {
        tokio::select! {
            () = stop.told() => {
                info!("stopping: a last sweep, then what is spooled is delivered");
                break;
            }
            _ = exhausted.wait_for(|done| *done) => {
                info!("the source has come to its end");
                break;
            }
            _ = hangup.recv() => reload.run(),
        }
    }
    let orderly = async {
        actors.finish().await;
        if let Some(uplink) = uplink {
            uplink.finish(DELIVERY_GRACE).await;
        }
        actors.end(config.sysctl.restore_on_exit).await;
    };
    tokio::select! {
        () = orderly => {}
        () = stop.told() => warn!("told to stop again: ending at once"),
    }
    drop(stop_http);
    if let Some(server) = server {
        let _ended = tokio::time::timeout(Duration::from_secs(1), server).await;
    }
    info!("stopped");
    Ok(())
}

/// Threads for sessions and HTTP; sweeps and the spool have their own.
const WORKERS: usize = 2;

fn serve_http(
    bound: Bound,
    state: AppState,
    more: axum::Router,
    stopped: oneshot::Receiver<()>,
) -> JoinHandle<()> {
    info!(addresses = ?bound.addresses(), "listening for HTTP");
    tokio::spawn(bound.serve(state, more, async move {
        let _dropped = stopped.await;
    }))
}

/// Signals that ask the node to stop.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be received");
        let terminate = listen(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Where the aggregation's frames will go.
enum OutletPlan {
    Spool(SpoolHandle, watch::Receiver<Option<MeasuredOffset>>),
    Lines(LineSink),
}

/// Everything the actors are made of.
struct Plan<'c> {
    core: Aggregation,
    outlet: OutletPlan,
    source: Box<dyn Source>,
    sysctls: Option<Sysctls>,
    exhausted: watch::Sender<bool>,
    config: &'c Config,
}

/// The actors, on the one thread that actix runs on.
struct Actors {
    probe: Addr<Probe>,
    sysctl: Option<Addr<SysctlActor>>,
    listing: Recipient<crate::aggregation::actor::ListFlows>,
    system: System,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Actors {
    /// Starts them, leaf first.
    async fn start(plan: Plan<'_>, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let Plan { core, outlet, source, sysctls, exhausted, config } = plan;
        let interval = config.interval.length();
        let (started, starting) = oneshot::channel();
        let thread = std::thread::Builder::new().name("actors".to_owned()).spawn(move || {
            let runner = System::new();
            runner.block_on(async move {
                let outlet = match outlet {
                    OutletPlan::Lines(sink) => Outlet::Lines(sink),
                    OutletPlan::Spool(spool, offset) => {
                        let uplink = UplinkActor::new(spool, offset).start();
                        Outlet::Spool {
                            room: uplink.clone().recipient(),
                            append: uplink.clone().recipient(),
                            checkpoint: uplink.recipient(),
                        }
                    }
                };
                let counted = Arc::clone(&metrics.aggregation);
                let aggregation = AggregationActor::new(core, outlet, counted).start();
                let feed = aggregation.clone().recipient();
                let schedule = Schedule::every(interval);
                let counted = Arc::clone(&metrics.probe);
                let probe = Probe::new(source, schedule, feed, counted, exhausted).start();
                let sysctl = sysctls.map(|sysctls| {
                    SysctlActor::new(sysctls, interval, Arc::clone(&metrics.sysctl)).start()
                });
                let listing = aggregation.recipient();
                let _gone = started.send((probe, sysctl, listing, System::current()));
            });
            if let Err(error) = runner.run() {
                warn!(error = %error, "the actors' thread ended badly");
            }
        });
        let thread = thread.context("the actors' thread could not be started")?;
        let (probe, sysctl, listing, system) =
            starting.await.context("the actors could not be started")?;
        Ok(Self { probe, sysctl, listing, system, thread: Some(thread) })
    }

    /// A last sweep, taken in and durable when this returns.
    async fn finish(&self) {
        if self.probe.send(Finish).await.is_err() {
            warn!("the probe had stopped already");
        }
    }

    /// Ends all of them.
    async fn end(mut self, restore_sysctls: bool) {
        if let Some(sysctl) = self.sysctl.take().filter(|_| restore_sysctls)
            && sysctl.send(Restore).await.is_err()
        {
            warn!("sysctls were not given back; run `conntracct-node restore-sysctls`");
        }
        drop((self.probe, self.listing));
        self.system.stop();
        if let Some(thread) = self.thread.take() {
            let _ended = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}
