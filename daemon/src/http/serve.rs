//! Accepting connections and serving them, up to a bound, until told to stop.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::guard::{Guard, guard};
use super::token::TokenError;
use super::{AppState, BODY, CONNECTIONS, HEADER_TIME, HttpMetrics, Keys, Listener, tls};

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Somebody listens there already.
    #[error(
        "{address} is in use by another process; choose another address with --http or \
         api_endpoint, or turn the listener off with --http off"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There is no TLS.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

/// A listener that is bound and not yet served. What can go wrong has gone wrong by now.
pub struct Bound {
    listeners: Vec<TcpListener>,
    guard: Guard,
    keys: Keys,
    metrics: HttpMetrics,
}

/// Binds the addresses, reads the token (makes it where it is missing) and the certificate.
///
/// # Errors
/// See [`HttpError`]; the messages say what to do.
pub async fn bind(listener: &Listener, metrics: HttpMetrics) -> Result<Bound, HttpError> {
    let keys = Keys::load(listener)?;
    let mut listeners = Vec::with_capacity(listener.addresses.len());
    let mut missing = None;
    for &address in &listener.addresses {
        match TcpListener::bind(address).await {
            Ok(bound) => listeners.push(bound),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(HttpError::InUse { address });
            }
            // A machine without IPv6 has one of localhost's two addresses.
            Err(error) if listener.addresses.len() > 1 && is_absent(&error) => {
                missing = Some(HttpError::Bind { address, error });
            }
            Err(error) => return Err(HttpError::Bind { address, error }),
        }
    }
    match missing {
        Some(error) if listeners.is_empty() => Err(error),
        _ => {
            let guard = Guard::new(listener, keys.clone(), metrics.clone());
            Ok(Bound { listeners, guard, keys, metrics })
        }
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listeners, guard, .. } = self;
        f.debug_struct("Bound").field("listeners", listeners).field("guard", guard).finish()
    }
}

impl Bound {
    /// Where it listens; the ports are real ones where 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Its token and certificate, to be read again while it serves.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// Serves the common pages and those of `more` until `shutdown` is ready; then no connection
    /// is taken any more, requests under way are answered, and after [`GRACE`] it returns.
    pub async fn serve(self, state: AppState, more: Router, shutdown: impl Future<Output = ()>) {
        let rules = middleware::from_fn_with_state(Arc::new(self.guard), guard);
        let router = state.router().merge(more).layer(DefaultBodyLimit::max(BODY)).layer(rules);
        let (stop, stopped) = watch::channel(false);
        let server = Server {
            router,
            keys: self.keys,
            metrics: self.metrics,
            room: Arc::new(Semaphore::new(CONNECTIONS)),
            stopped,
        };
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(server.clone().accept(listener));
        }
        let room = Arc::clone(&server.room);
        drop(server);
        shutdown.await;
        let _ = stop.send(true);
        while accepting.join_next().await.is_some() {}
        // All permits free again: all connections have ended.
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(GRACE, room.acquire_many(all)).await;
    }
}

/// How long requests under way may take once the listener stops.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait when the system has no file descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone)]
struct Server {
    router: Router,
    keys: Keys,
    metrics: HttpMetrics,
    room: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        let mut stopped = self.stopped.clone();
        loop {
            if self.room.available_permits() == 0 {
                self.metrics.full.inc();
            }
            let next = async {
                let permit = Arc::clone(&self.room).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                () = told(&mut stopped) => return,
            };
            let Ok(permit) = permit else { return };
            match accepted {
                Ok((stream, _peer)) => {
                    tokio::spawn(self.clone().connection(stream, permit));
                }
                Err(error) => {
                    crate::occasionally!(warn, %error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        self.metrics.connections.inc();
        let done = match self.keys.acceptor() {
            None => self.http(stream).await,
            Some(acceptor) => {
                match tokio::time::timeout(HEADER_TIME, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => self.http(stream).await,
                    Ok(Err(_)) | Err(_) => Err(()),
                }
            }
        };
        if done.is_err() {
            self.metrics.failed.inc();
        }
        self.metrics.connections.dec();
        drop(permit);
    }

    async fn http(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), ()> {
        let service = TowerToHyperService::new(self.router.clone());
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut stopped = self.stopped.clone();
        let done = tokio::select! {
            done = connection.as_mut() => done,
            () = told(&mut stopped) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        done.map_err(|error| tracing::debug!(%error, "http connection failed"))
    }
}

/// Waits for the word to stop, or for the one who would say it to be gone.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}
