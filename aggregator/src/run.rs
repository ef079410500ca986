//! Starts and stops the aggregator, in order.
//!
//! Start: keys and listeners first, because what is wrong there needs no store; then the store
//! (its migrations, its writer token, what is open in it; a database server is waited for), the
//! pipeline, and at last the sessions.
//! Stop: sessions take nothing new and tell the answers they still get; the pipeline's queue then
//! closes, and it commits what it has; then the store is closed. SIGHUP in between: [`crate::reload`].

use std::sync::Arc;

use anyhow::Context as _;
use daemon::http::{AppState, Bound, HttpMetrics, Stats, registry_stats};
use daemon::ready::{Part, Readiness};
use flow::UnixNanos;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use rand::Rng;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::config::{Config, RawConfig, StoreChoice};
use crate::count::{CounterConfig, MergeSettings};
use crate::ingest::{Ingest, IngestConfig};
use crate::metrics::Metrics;
use crate::pipeline::commit::Committer;
use crate::pipeline::hold::HoldConfig;
use crate::pipeline::task::{PipelineConfig, StoreState};
use crate::pipeline::{self, Handle};
use crate::reload::{self, Reload};
use crate::store::postgres::PostgresStore;
use crate::store::row::WriterToken;
use crate::store::sqlite::{SqliteConfig, SqliteStore};
use crate::store::{Backend, OpenError};
use crate::tls::{Certificates, IssuedList, ServerFiles};

/// A configuration, where it can be read again, and how much of it is logged.
pub struct Start {
    /// What to run on.
    pub config: Config,
    /// The same as it was written.
    pub raw: RawConfig,
    /// Where it came from.
    pub source: reload::Source,
    /// The installed log.
    pub log: daemon::log::Control,
}

/// Runs an aggregator until it is told to stop, or must.
///
/// # Errors
/// When it cannot start or go on; the error says what to do.
pub fn run(start: Start) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    runtime.block_on(async {
        match start.config.store.clone() {
            StoreChoice::Sqlite(path) => {
                let sqlite = SqliteConfig::new(path);
                serve(start, async || Box::pin(SqliteStore::open(&sqlite)).await).await
            }
            StoreChoice::Postgres(address) => {
                serve(start, async || Box::pin(PostgresStore::open(&address)).await).await
            }
        }
    })
}

/// Runs on the store that `open` opens when its turn comes.
async fn serve<S: Backend>(
    start: Start,
    open: impl AsyncFn() -> Result<S, OpenError>,
) -> anyhow::Result<()> {
    let Start { config, raw, source, log } = start;
    // Before anything else: unheard, it would end the process.
    let hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be received")?;
    let mut registry = Registry::default();
    let readiness = Readiness::default();
    let http_metrics = HttpMetrics::default();
    std::fs::create_dir_all(&config.state_dir).with_context(|| {
        format!("the state folder {} cannot be made", config.state_dir.display())
    })?;

    let issued = Arc::new(IssuedList::load(&config.pki)?);
    let files = ServerFiles::in_dir(&config.pki);
    let certificates = Certificates::read(&files)?;
    let tls = crate::tls::server_config(&files, Arc::clone(&issued), Timestamp::now())?;
    let settings = ingest_config(&config);
    let endpoint = crate::ingest::listen(config.listen, tls, &settings)?;
    let listen = endpoint.local_addr().unwrap_or(config.listen);
    let http = bind(&config, &http_metrics).await?;

    let condition = readiness.part("store", "not asked yet");
    let waiting =
        Waiting { config: &config, http, http_metrics: &http_metrics, readiness: &readiness };
    let Some((store, http)) = waiting.open(open, &condition).await? else {
        info!("stopped, the store was never there");
        return Ok(());
    };
    let token = WriterToken(rand::random());
    let committer = Committer::start(store.clone(), token, counter_config(&config), now())
        .await
        .context("what is in the store could not be read")?
        .holding(HoldConfig {
            // Others must find room to say what the frames that wait are waiting for.
            bytes: usize::try_from(config.limits.decode_budget / 2).unwrap_or(usize::MAX),
            ..HoldConfig::default()
        });
    let metrics = Metrics {
        store: store.metrics().clone(),
        count: committer.metrics().clone(),
        issued: issued.metrics().clone(),
        http: http_metrics,
        ..Metrics::default()
    };
    metrics.register(&mut registry);
    info!(store = %committer.store_id(), place = %config.store, "the store is open");

    let (handle, queue) = Handle::channel();
    let (state, states) = watch::channel(StoreState::Up);
    watch_store(condition, states);
    let writing = pipeline_config(&config);
    let counted = metrics.pipeline.clone();
    let mut pipeline = tokio::spawn(pipeline::task::run(committer, queue, writing, counted, state));

    let mut reload = Reload {
        source,
        running: raw,
        log,
        issued: Arc::clone(&issued),
        files,
        certificates,
        endpoint: endpoint.clone(),
        ingest: settings,
        http: http.as_ref().map(Bound::keys),
        metrics: metrics.reload.clone(),
    };
    let ingest = Ingest::new(handle, issued, settings, metrics.ingest.clone());
    let (stop_ingest, ingest_stopped) = oneshot::channel::<()>();
    let sessions = tokio::spawn(ingest.serve(endpoint, async move {
        let _dropped = ingest_stopped.await;
    }));
    info!(%listen, version = env!("CARGO_PKG_VERSION"), "taking nodes");

    let (stop_http, http_stopped) = oneshot::channel::<()>();
    let server = http.map(|bound| {
        info!(addresses = ?bound.addresses(), "listening for HTTP");
        let registry = Arc::new(registry);
        let shown = Arc::clone(&registry);
        let stats: Stats = Arc::new(move || registry_stats(&shown));
        let state = AppState { registry, readiness: readiness.clone(), stats };
        tokio::spawn(bound.serve(state, axum::Router::new(), async move {
            let _dropped = http_stopped.await;
        }))
    });

    let failed = tokio::select! {
        () = told_to_stop() => None,
        () = reload_when_told(hangup, &mut reload) => None,
        ended = &mut pipeline => Some(ended),
    };
    // It holds the endpoint.
    drop(reload);
    drop(stop_ingest);
    let _ended = sessions.await;
    let ended = match failed {
        Some(ended) => ended,
        None => {
            info!("stopping: what was taken is committed first");
            pipeline.await
        }
    };
    drop(stop_http);
    if let Some(server) = server {
        let _ended = server.await;
    }
    store.close().await;
    ended.context("the pipeline died")?.context("the aggregator must stop")?;
    info!("stopped");
    Ok(())
}

async fn bind(config: &Config, metrics: &HttpMetrics) -> anyhow::Result<Option<Bound>> {
    Ok(match &config.http {
        Some(listener) => Some(daemon::http::bind(listener, metrics.clone()).await?),
        None => None,
    })
}

/// An aggregator whose store is not open yet.
struct Waiting<'a> {
    config: &'a Config,
    http: Option<Bound>,
    http_metrics: &'a HttpMetrics,
    readiness: &'a Readiness,
}

impl Waiting<'_> {
    /// Opens the store. A database server that is away is waited for: machines start in any order.
    /// Meanwhile `/readyz` says so; nodes find nobody who listens to them and keep their frames.
    /// `None` where we were told to stop before it was there.
    async fn open<S>(
        mut self,
        open: impl AsyncFn() -> Result<S, OpenError>,
        condition: &Part,
    ) -> anyhow::Result<Option<(S, Option<Bound>)>> {
        let why = match open().await {
            Err(OpenError::Unavailable { why, .. })
                if matches!(self.config.store, StoreChoice::Postgres(_)) =>
            {
                why
            }
            opened => return Ok(Some((opened?, self.http))),
        };
        let place = &self.config.store;
        warn!(%place, reason = %why, "the store is away, waiting for it; nodes keep their frames");
        condition.degraded(format!("the store is away: {why}"));
        let (stop, stopped) = oneshot::channel::<()>();
        let server = self.http.take().map(|bound| {
            info!(addresses = ?bound.addresses(), "listening for HTTP until the store is there");
            let mut registry = Registry::default();
            self.http_metrics.register(&mut registry);
            let registry = Arc::new(registry);
            let shown = Arc::clone(&registry);
            let stats: Stats = Arc::new(move || registry_stats(&shown));
            let state = AppState { registry, readiness: self.readiness.clone(), stats };
            tokio::spawn(bound.serve(state, axum::Router::new(), async move {
                let _dropped = stopped.await;
            }))
        });
        let store = tokio::select! {
            () = told_to_stop() => None,
            store = again(open, condition) => Some(store?),
        };
        drop(stop);
        if let Some(server) = server {
            let _ended = server.await;
        }
        let Some(store) = store else { return Ok(None) };
        info!("the store is back");
        // A listener that has ended is made anew, with the metrics of an open store.
        Ok(Some((store, bind(self.config, self.http_metrics).await?)))
    }
}

/// Tries until the store is open, with growing pauses.
async fn again<S>(
    open: impl AsyncFn() -> Result<S, OpenError>,
    condition: &Part,
) -> Result<S, OpenError> {
    let mut pause = PipelineConfig::default().retry_min;
    loop {
        // Half to one and a half, so that several do not knock together.
        tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.5..1.5))).await;
        match open().await {
            Err(OpenError::Unavailable { why, .. }) => {
                condition.degraded(format!("the store is away: {why}"));
            }
            opened => return opened,
        }
        pause = pause.saturating_mul(2).min(PipelineConfig::default().retry_max);
    }
}

fn now() -> UnixNanos {
    let nanos = Timestamp::now().as_nanosecond();
    UnixNanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

fn ingest_config(config: &Config) -> IngestConfig {
    IngestConfig { max_nodes: config.limits.nodes, ..IngestConfig::default() }
}

fn counter_config(config: &Config) -> CounterConfig {
    let horizon = config.spool_age_max + std::time::Duration::from_secs(86_400);
    let merge = config.merge.as_ref().map(|domains| MergeSettings {
        domains: Arc::clone(domains),
        // So that nobody can make views meet that are not alike.
        seed: rand::random(),
        ..MergeSettings::default()
    });
    CounterConfig { horizon, merge, ..CounterConfig::default() }
}

fn pipeline_config(config: &Config) -> PipelineConfig {
    PipelineConfig {
        rows: config.limits.transaction_rows,
        wait: config.limits.transaction_time,
        decode_budget: usize::try_from(config.limits.decode_budget).unwrap_or(usize::MAX),
        ..PipelineConfig::default()
    }
}

/// Keeps the store's condition on `/readyz` up to date. The pipeline logs it, once an outage.
fn watch_store(part: Part, mut states: watch::Receiver<StoreState>) {
    tokio::spawn(async move {
        part.fine();
        while states.changed().await.is_ok() {
            let state = states.borrow_and_update().clone();
            match state {
                StoreState::Up => part.fine(),
                StoreState::Away(why) => {
                    part.degraded(format!("the store is away: {why}; nodes keep their frames"));
                }
            }
        }
    });
}

/// Reloads at every SIGHUP, for ever.
async fn reload_when_told(mut hangup: Signal, reload: &mut Reload) {
    while hangup.recv().await.is_some() {
        reload.run(Timestamp::now());
    }
    std::future::pending().await
}

async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("signals cannot be received; only SIGKILL ends this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
