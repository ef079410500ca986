//! Ingest: takes what nodes send over QUIC and hands it to the pipeline, in order.
//!
//! One task a connection. It lets in who has a good certificate and a name that is free, reads
//! each data frame off a stream of its own, puts the frames of the epoch in order ([`reorder`]),
//! submits them, and tells the node what becomes of them. Nothing is decompressed and nothing is
//! counted here; that is the pipeline's.
//!
//! Bounds: nodes ([`IngestConfig::max_nodes`]), peers on their way in ([`gate`]), streams and
//! bytes in transit (QUIC windows), bytes of frames that the pipeline has not taken (a budget for
//! each session and one for all), frames waiting or in flight ([`reorder::ReorderLimits`]),
//! messages a node has not read. When one is full the node is slowed, a frame is sent back to
//! come again, or the session is closed with a reason; each is counted ([`IngestMetrics`]).

pub mod clock;
pub mod close;
mod connection;
pub mod gate;
pub mod metrics;
pub mod quiet;
pub mod reorder;
mod session;
mod sessions;
mod stream;
pub mod table;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{Endpoint, Incoming, TransportConfig, VarInt};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::pipeline::Handle;
use crate::tls::{Failure, IssuedList};

pub use close::CloseReason;
pub use metrics::{FrameFate, IngestMetrics};

/// What ingest may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngestConfig {
    /// Nodes connected at once.
    pub max_nodes: usize,
    /// Data streams a node may have open: frames on their way without `Received`.
    pub max_unreceived: u32,
    /// Bytes on their way on one stream.
    pub stream_window: u32,
    /// Bytes on their way on one connection.
    pub connection_window: u32,
    /// How long a handshake, and then `Hello`, may take.
    pub hello_timeout: Duration,
    /// How long the store may take to say where an epoch stands.
    pub open_timeout: Duration,
    /// A connection without any packet for this long is dead.
    pub idle_timeout: Duration,
    /// A stream on which nothing arrives for this long ends its connection.
    pub stall: Duration,
    /// How long a session must be silent before another epoch may take its name.
    pub silence: Duration,
    /// Bytes of frames that the pipeline has not taken, of one session.
    pub session_bytes: usize,
    /// The same of all sessions.
    pub total_bytes: usize,
    /// How long the pipeline may take to answer what is in flight when we stop.
    pub grace: Duration,
    /// Bounds of each session's frames.
    pub reorder: reorder::ReorderLimits,
    /// Bounds of peers on their way in.
    pub gate: gate::GateLimits,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            max_nodes: 10_000,
            max_unreceived: 16,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            hello_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            silence: Duration::from_secs(30),
            session_bytes: 32 << 20,
            total_bytes: 256 << 20,
            grace: Duration::from_secs(10),
            reorder: reorder::ReorderLimits::default(),
            gate: gate::GateLimits::default(),
        }
    }
}

impl IngestConfig {
    /// The QUIC parameters that enforce the windows on the node's side.
    #[must_use]
    pub fn transport(&self) -> TransportConfig {
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_uni_streams(VarInt::from_u32(self.max_unreceived))
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(self.idle_timeout.try_into().ok());
        transport
    }
}

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on UDP {listen}; is another aggregator running, or is the address not ours?"
)]
pub struct ListenError {
    listen: SocketAddr,
    #[source]
    source: io::Error,
}

/// Opens the QUIC endpoint. Must be called within a tokio runtime.
///
/// # Errors
/// When the address is taken or not ours.
pub fn listen(
    listen: SocketAddr,
    tls: quinn::ServerConfig,
    config: &IngestConfig,
) -> Result<Endpoint, ListenError> {
    Endpoint::server(bounded(tls, config), listen).map_err(|source| ListenError { listen, source })
}

/// Lets new connections use `tls`; those there are go on as they began.
pub fn renew(endpoint: &Endpoint, tls: quinn::ServerConfig, config: &IngestConfig) {
    endpoint.set_server_config(Some(bounded(tls, config)));
}

fn bounded(mut tls: quinn::ServerConfig, config: &IngestConfig) -> quinn::ServerConfig {
    tls.transport_config(Arc::new(config.transport()));
    tls.max_incoming(config.gate.pending);
    tls
}

/// Ingest, ready to serve.
#[derive(Debug)]
pub struct Ingest {
    pipeline: Handle,
    issued: Arc<IssuedList>,
    config: IngestConfig,
    metrics: IngestMetrics,
    sessions: Arc<sessions::Sessions>,
    memory: Arc<Semaphore>,
    gate: Mutex<gate::Gate>,
    quiet: Mutex<quiet::Quiet<Failure>>,
}

impl Ingest {
    /// Ingest in front of `pipeline`, for the certificates in `issued`.
    #[must_use]
    pub fn new(
        pipeline: Handle,
        issued: Arc<IssuedList>,
        config: IngestConfig,
        metrics: IngestMetrics,
    ) -> Self {
        Self {
            pipeline,
            issued,
            config,
            metrics,
            sessions: Arc::new(sessions::Sessions::new(&config)),
            memory: Arc::new(Semaphore::new(config.total_bytes)),
            gate: Mutex::new(gate::Gate::new(config.gate)),
            quiet: Mutex::default(),
        }
    }

    /// Serves nodes until `stop` is ready; then takes nothing new, waits for the pipeline's
    /// answers within [`IngestConfig::grace`], tells them, and closes every connection.
    ///
    /// The list of issued certificates is followed meanwhile.
    pub async fn serve(self, endpoint: Endpoint, stop: impl Future<Output = ()> + Send) {
        let ingest = Arc::new(self);
        let (shutdown, watching) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        let issued = ingest.issued.clone();
        let mut follow = std::pin::pin!(issued.follow());
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = &mut follow => {}
                incoming = endpoint.accept() => match incoming {
                    Some(incoming) => ingest.arrived(incoming, &watching, &mut connections),
                    None => break,
                },
                Some(_) = connections.join_next() => {}
            }
        }
        endpoint.set_server_config(None);
        shutdown.send_replace(true);
        while connections.join_next().await.is_some() {}
        endpoint.close(CloseReason::Shutdown.code(), b"the aggregator stops; come back");
        endpoint.wait_idle().await;
    }

    fn arrived(
        self: &Arc<Self>,
        incoming: Incoming,
        shutdown: &watch::Receiver<bool>,
        connections: &mut JoinSet<()>,
    ) {
        let address = incoming.remote_address().ip();
        let proven = incoming.remote_address_validated();
        let verdict = {
            let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            gate.arrived(address, proven)
        };
        match verdict {
            gate::Verdict::Enter => {
                self.metrics.pending.inc();
                let pass = GatePass { ingest: self.clone(), address };
                let shutdown = shutdown.clone();
                connections.spawn(connection::serve(self.clone(), incoming, pass, shutdown));
            }
            gate::Verdict::Retry => {
                self.metrics.retries.inc();
                if let Err(error) = incoming.retry() {
                    error.into_incoming().refuse();
                }
            }
            gate::Verdict::Refuse => {
                self.metrics.turned_away.inc();
                incoming.refuse();
            }
        }
    }
}

/// A peer's place at the gate; given up when dropped.
struct GatePass {
    ingest: Arc<Ingest>,
    address: IpAddr,
}

impl Drop for GatePass {
    fn drop(&mut self) {
        self.ingest.metrics.pending.dec();
        self.ingest.gate.lock().unwrap_or_else(PoisonError::into_inner).left(self.address);
    }
}
