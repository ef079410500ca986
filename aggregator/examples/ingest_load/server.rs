//! The aggregator from its socket to its store: authority, TLS, sessions and pipeline are the
//! program's own, with their usual limits; the store is the caller's.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use aggregator::count::CounterConfig;
use aggregator::ingest::{self, Ingest, IngestConfig, IngestMetrics};
use aggregator::pipeline::commit::Committer;
use aggregator::pipeline::task::{self, PipelineConfig, PipelineFailure, StoreState};
use aggregator::pipeline::{Handle, PipelineMetrics};
use aggregator::pki::Authority;
use aggregator::store::Store;
use aggregator::store::row::WriterToken;
use aggregator::tls::{self, IssuedList, ServerFiles};
use jiff::Timestamp;
use node::tls::IdentityPaths;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::Failed;
use super::traffic::{self, Gateway};

/// An authority, and what it issued to two gateways.
pub(crate) struct Keys {
    authority: Authority,
    gateways: [IdentityPaths; 2],
}

impl Keys {
    /// A new authority in `folder`.
    pub(crate) fn make(folder: &Path) -> Result<Self, Failed> {
        let now = Timestamp::now();
        let authority = Authority::at(&folder.join("pki"));
        authority.init(&[], now)?;
        let issue = |gateway: Gateway| -> Result<IdentityPaths, Failed> {
            let (name, bundle) = (gateway.name()?, folder.join(format!("{}.bundle", gateway.0)));
            authority.issue(&name, &bundle, false, now)?;
            Ok(node::join::join(&bundle, &folder.join(name.as_str()), false)?.paths)
        };
        let gateways = [issue(Gateway(1))?, issue(Gateway(2))?];
        Ok(Self { authority, gateways })
    }

    /// A gateway's.
    pub(crate) fn of(&self, Gateway(number): Gateway) -> Result<IdentityPaths, Failed> {
        let keys = self.gateways.get(usize::from(number) - 1);
        Ok(keys.ok_or("no keys for this gateway")?.clone())
    }
}

/// A running aggregator.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    sessions: JoinHandle<()>,
    pipeline: JoinHandle<Result<(), PipelineFailure>>,
}

impl Server {
    /// Starts an aggregator over `store` on a free port of the loopback.
    pub(crate) async fn start<S: Store>(store: S, keys: &Keys) -> Result<Self, Failed> {
        let token = WriterToken([1; 16]);
        let committer =
            Committer::start(store, token, CounterConfig::default(), traffic::now()).await?;
        let (handle, queue) = Handle::channel();
        let (state, _shown) = watch::channel(StoreState::Up);
        let (config, metrics) = (PipelineConfig::default(), PipelineMetrics::default());
        let pipeline = tokio::spawn(task::run(committer, queue, config, metrics, state));

        let folder = keys.authority.dir();
        let issued = Arc::new(IssuedList::load(folder)?);
        let files = ServerFiles::in_dir(folder);
        let tls = tls::server_config(&files, Arc::clone(&issued), Timestamp::now())?;
        let config = IngestConfig::default();
        let endpoint = ingest::listen("[::1]:0".parse()?, tls, &config)?;
        let address = endpoint.local_addr()?;
        let ingest = Ingest::new(handle, issued, config, IngestMetrics::default());
        let (stop, stopped) = oneshot::channel();
        let sessions = tokio::spawn(ingest.serve(endpoint, async {
            let _told = stopped.await;
        }));
        Ok(Self { address, stop, sessions, pipeline })
    }

    /// Stops it, sessions first.
    pub(crate) async fn stop(self) -> Result<(), Failed> {
        drop(self.stop);
        self.sessions.await?;
        Ok(self.pipeline.await??)
    }
}
