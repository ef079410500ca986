//! A fleet on loopback: a real authority, a real server, clients made of the node's own TLS. The
//! pipeline's place is taken by the test itself, which sees each `Arrived` and answers it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use aggregator::ingest::{self, Ingest, IngestConfig, IngestMetrics};
use aggregator::pipeline::{Arrived, Handle, Opened, PipelineError, Request};
use aggregator::pki::Authority;
use aggregator::tls::{self, IssuedList, ServerFiles};
use flow::record::{ClockPair, KernelTotals};
use flow::{BootId, BootNanos, Epoch, Interval, NodeName, Seq, StoreId};
use jiff::{SignedDuration, Timestamp};
use node::tls::{HostCheck, Identity, IdentityPaths};
use quinn::{ConnectionError, Endpoint, RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot};
use wire::batch::{Builder, Compression};
use wire::control::{Hello, Message};
use wire::frame::{Frame, HEADER_LEN, Header};

pub(crate) const STORE: StoreId = StoreId([9; 16]);

pub(crate) fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

/// An authority and the identities it issued.
pub(crate) struct Fleet {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) authority: Authority,
}

impl Fleet {
    /// Made five years ago, so that what it issued since may have expired.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::at(&dir.path().join("pki"));
        authority.init(&[], Timestamp::now() - hours(5 * 8_766)).unwrap();
        authority.renew_server(&[], Timestamp::now()).unwrap();
        Self { dir, authority }
    }

    pub(crate) fn files(&self) -> ServerFiles {
        ServerFiles::in_dir(self.authority.dir())
    }

    /// Issues to `name` at the time `at` and joins it.
    pub(crate) fn join_at(&self, name: &str, at: Timestamp) -> IdentityPaths {
        let bundle = self.dir.path().join(format!("{name}.bundle"));
        let name = NodeName::new(name).unwrap();
        self.authority.issue(&name, &bundle, false, at).unwrap();
        let dir = self.dir.path().join(name.as_str());
        node::join::join(&bundle, &dir, false).unwrap().paths
    }

    pub(crate) fn join(&self, name: &str) -> IdentityPaths {
        self.join_at(name, Timestamp::now())
    }

    pub(crate) fn revoke(&self, name: &str) {
        let name = NodeName::new(name).unwrap();
        self.authority.revoke(&name, None, Timestamp::now()).unwrap();
    }
}

/// What the fake pipeline says to `open`.
pub(crate) type Store = Arc<Mutex<Result<HashMap<Epoch, Seq>, PipelineError>>>;

/// A running ingest.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: IngestMetrics,
    pub(crate) issued: Arc<IssuedList>,
    pub(crate) arrived: mpsc::Receiver<Arrived>,
    pub(crate) store: Store,
    log: Log,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    _subscriber: tracing::subscriber::DefaultGuard,
}

impl Server {
    pub(crate) fn start(fleet: &Fleet) -> Self {
        Self::start_with(fleet, IngestConfig::default())
    }

    pub(crate) fn start_with(fleet: &Fleet, config: IngestConfig) -> Self {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::INFO)
            .with_writer(log.clone())
            .finish();
        // Tests run on one thread, so its default subscriber sees every task.
        let guard = tracing::subscriber::set_default(subscriber);
        let issued = Arc::new(IssuedList::load(fleet.authority.dir()).unwrap());
        let tls = tls::server_config(&fleet.files(), issued.clone(), Timestamp::now()).unwrap();
        let endpoint = ingest::listen("[::1]:0".parse().unwrap(), tls, &config).unwrap();
        let address = endpoint.local_addr().unwrap();
        let (handle, requests) = Handle::channel();
        let metrics = IngestMetrics::default();
        let store: Store = Arc::new(Mutex::new(Ok(HashMap::new())));
        let (frames, arrived) = mpsc::channel(1_000);
        tokio::spawn(pretend(requests, frames, store.clone()));
        let ingest = Ingest::new(handle, issued.clone(), config, metrics.clone());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(ingest.serve(endpoint, async {
            let _ = stopped.await;
        }));
        let stop = Some(stop);
        Self { address, metrics, issued, arrived, store, log, stop, task, _subscriber: guard }
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap()
    }

    /// Asks it to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until it has stopped.
    pub(crate) async fn stopped(self) {
        self.task.await.unwrap();
    }

    /// Waits for a condition of the metrics, with the rest of the runtime running.
    pub(crate) async fn until(&self, what: impl Fn(&IngestMetrics) -> bool) {
        while !what(&self.metrics) {
            tokio::task::yield_now().await;
        }
    }
}

async fn pretend(
    mut requests: mpsc::Receiver<Request>,
    frames: mpsc::Sender<Arrived>,
    store: Store,
) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Open { epoch, reply, .. } => {
                let known = store.lock().unwrap().clone();
                let committed = |known: HashMap<Epoch, Seq>| known.get(&epoch).copied();
                let opened = known.map(|known| Opened {
                    store: STORE,
                    committed: committed(known).unwrap_or(Seq::NONE),
                    digest: None,
                });
                let _ = reply.send(opened);
            }
            Request::Frame(frame) => {
                if frames.send(*frame).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A connection of a node, its control stream open once it said `Hello`.
pub(crate) struct Client {
    pub(crate) connection: quinn::Connection,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    _endpoint: Endpoint,
}

/// Connects with a TLS configuration; keeps the endpoint alive.
pub(crate) async fn dial(
    address: SocketAddr,
    config: quinn::ClientConfig,
) -> Result<(quinn::Connection, Endpoint), ConnectionError> {
    let endpoint = Endpoint::client("[::1]:0".parse().unwrap()).unwrap();
    let connection = endpoint.connect_with(config, address, "localhost").unwrap().await?;
    Ok((connection, endpoint))
}

pub(crate) fn config_of(paths: &IdentityPaths) -> quinn::ClientConfig {
    let identity = Identity::load(paths).unwrap();
    node::tls::client_config(&identity, HostCheck::UriOnly).unwrap()
}

impl Client {
    pub(crate) async fn connect(server: &Server, paths: &IdentityPaths) -> Self {
        let (connection, endpoint) = dial(server.address, config_of(paths)).await.unwrap();
        let (send, recv) = connection.open_bi().await.unwrap();
        Self { connection, send, recv, _endpoint: endpoint }
    }

    /// Connects and says `Hello` as `name` with `epoch`; returns the first answer.
    pub(crate) async fn hello(
        server: &Server,
        paths: &IdentityPaths,
        name: &str,
        epoch: u8,
    ) -> (Self, Message) {
        let mut client = Self::connect(server, paths).await;
        client.say(&Message::Hello(hello(name, epoch))).await;
        let answer = client.hear().await;
        (client, answer)
    }

    /// As [`Client::hello`], expecting `Welcome`.
    pub(crate) async fn welcome(server: &Server, paths: &IdentityPaths, name: &str) -> Self {
        let (client, answer) = Self::hello(server, paths, name, 1).await;
        assert!(matches!(answer, Message::Welcome(_)), "{answer:?}");
        client
    }

    pub(crate) async fn say(&mut self, message: &Message) {
        self.send.write_all(&message.encode().unwrap().bytes).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Message {
        let mut bytes = vec![0; HEADER_LEN];
        self.recv.read_exact(&mut bytes).await.unwrap();
        let header = Header::peek(&bytes).unwrap();
        bytes.resize(header.frame_len(), 0);
        self.recv.read_exact(&mut bytes[HEADER_LEN..]).await.unwrap();
        let frame = Frame::parse(bytes.into()).unwrap();
        Message::decode(&frame).unwrap().unwrap()
    }

    /// Sends bytes on a data stream of their own, to its end.
    pub(crate) async fn data(&self, bytes: &[u8]) {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.finish().unwrap();
    }

    /// Waits for the aggregator to close; its code and its words.
    pub(crate) async fn closed(&self) -> (u64, String) {
        match self.connection.closed().await {
            ConnectionError::ApplicationClosed(close) => {
                (close.error_code.into_inner(), String::from_utf8(close.reason.to_vec()).unwrap())
            }
            other => panic!("not closed by the aggregator: {other}"),
        }
    }
}

pub(crate) fn hello(name: &str, epoch: u8) -> Hello {
    Hello {
        node: name.to_owned(),
        epoch: Epoch([epoch; 16]),
        boot: BootId([3; 16]),
        source: "replay".to_owned(),
        kernel: "6.1.0".to_owned(),
        version: "0.1.0".to_owned(),
        first_unacknowledged: Seq(1),
        next: Seq(1),
        store: None,
        extensions: vec![],
    }
}

/// An interval without records, numbered `seq`.
pub(crate) fn batch(seq: u64) -> Frame {
    let interval = Interval {
        number: 1_000 + seq,
        length_ms: 10_000,
        part: 1,
        parts: 1,
        sweep_begin: BootNanos(1),
        sweep_end: BootNanos(2),
        boot: BootId([3; 16]),
        clock: ClockPair::default(),
        offset: None,
        totals: KernelTotals::default(),
        paused: false,
    };
    Builder::new(Compression::Lz4).finish(Seq(seq), &interval).unwrap()
}

pub(crate) fn pem_paths(dir: &std::path::Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}
