//! Sessions over real QUIC on the loopback, with an aggregator as small as it can be.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use flow::{Interval, StoreId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use wire::batch::{Builder, Compression};
use wire::control::{Ack, Pong, Received, RefuseReason, Refused, Welcome};

use super::*;
use crate::spool::{MachineId, MemDisk, OpenContext, Span, Spool, SpoolConfig};
use crate::uplink::UplinkConfig;
use crate::uplink::task::{Target, run};

const BOOT: BootId = BootId([1; 16]);

/// What the aggregator has, across its connections.
#[derive(Default)]
struct Store {
    committed: u64,
    held: BTreeMap<u64, Bytes>,
    /// Frames in the order they were committed.
    frames: Vec<Bytes>,
    hellos: Vec<Hello>,
}

/// How the aggregator behaves.
#[derive(Clone, Copy)]
enum Manner {
    /// Breaks the connection whenever this many more frames have come.
    BreakAfter(usize),
    /// Refuses everybody.
    Refuse,
}

fn frame(seq: u64) -> Frame {
    let interval = Interval {
        number: seq,
        length_ms: 10_000,
        part: 1,
        parts: 1,
        sweep_begin: BootNanos(0),
        sweep_end: BootNanos(0),
        boot: BOOT,
        clock: flow::record::ClockPair::default(),
        offset: None,
        totals: flow::record::KernelTotals::default(),
        paused: false,
    };
    Builder::new(Compression::Lz4).finish(Seq(seq), &interval).unwrap()
}

fn spool(frames: u64) -> SpoolHandle<MemDisk> {
    let context = OpenContext {
        machine: MachineId([1; 16]),
        boot: BOOT,
        now: BootNanos(0),
        wall: UnixNanos(0),
        fresh: Epoch([1; 16]),
        seed: 1,
    };
    let (mut spool, _) = Spool::open(MemDisk::new(), context, SpoolConfig::default()).unwrap();
    for seq in 1..=frames {
        spool.append(spool.epoch(), &[frame(seq)]).unwrap();
    }
    SpoolHandle::spawn(spool).unwrap().0
}

fn tls() -> (quinn::ServerConfig, quinn::ClientConfig) {
    tls_until(rcgen::date_time_ymd(2100, 1, 1))
}

/// A certificate that ends then, and those who trust it.
fn tls_until(end: time::OffsetDateTime) -> (quinn::ServerConfig, quinn::ClientConfig) {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = end;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate: CertificateDer<'static> = params.self_signed(&key).unwrap().der().clone();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = QuicServerConfig::try_from(server).unwrap();
    let client = QuicClientConfig::try_from(client).unwrap();
    let client = quinn::ClientConfig::new(Arc::new(client));
    (quinn::ServerConfig::with_crypto(Arc::new(server)), client)
}

/// Starts an aggregator; it ends with the test's runtime.
fn aggregator(config: quinn::ServerConfig, store: Arc<Mutex<Store>>, manner: Manner) -> SocketAddr {
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            tokio::spawn(serve(connection, Arc::clone(&store), manner));
        }
    });
    address
}

async fn say(control: &mut SendStream, message: Message) {
    // A connection that has gone is noticed where frames are awaited.
    let _gone = control.write_all(&message.encode().unwrap().bytes).await;
}

async fn serve(connection: Connection, store: Arc<Mutex<Store>>, manner: Manner) -> Option<()> {
    let (mut control, from) = connection.accept_bi().await.ok()?;
    let mut messages = std::pin::pin!(messages(connection.clone(), from));
    let Some(Ok(Message::Hello(hello))) = messages.next().await else { return None };
    store.lock().unwrap().hellos.push(hello);
    let Manner::BreakAfter(mut patience) = manner else {
        let message = "gw1 is connected from elsewhere".to_owned();
        let reason = RefuseReason::NameInUse;
        let refused = Refused { reason, message, extensions: Vec::new() };
        say(&mut control, Message::Refused(refused)).await;
        control.finish().ok()?;
        connection.closed().await;
        return None;
    };
    let committed = Seq(store.lock().unwrap().committed);
    let welcome = Welcome {
        store: StoreId([7; 16]),
        committed,
        max_unreceived: 4,
        max_frame: 4 << 20,
        time: UnixNanos(0),
        extensions: Vec::new(),
    };
    say(&mut control, Message::Welcome(welcome)).await;
    loop {
        tokio::select! {
            Some(Ok(message)) = messages.next() => {
                let Message::Ping(ping) = message else { return None };
                let now = UnixNanos(5_000_000_000);
                let (sent, received, answered) = (ping.sent, now, now);
                let pong = Pong { sent, received, answered, extensions: Vec::new() };
                say(&mut control, Message::Pong(pong)).await;
            }
            stream = connection.accept_uni() => {
                let bytes = stream.ok()?.read_to_end(4 << 20).await.ok()?;
                if patience == 0 {
                    connection.close(VarInt::from_u32(9), b"the aggregator stops; come back");
                    return None;
                }
                patience -= 1;
                let frame = Frame::parse(bytes.into()).unwrap();
                let seq = Span::of(&frame).unwrap().last;
                let committed = {
                    let mut store = store.lock().unwrap();
                    store.held.insert(seq.0, frame.bytes);
                    while let Some(bytes) = { let next = store.committed + 1; store.held.remove(&next) } {
                        store.committed += 1;
                        store.frames.push(bytes);
                    }
                    Seq(store.committed)
                };
                let extensions = Vec::new;
                say(&mut control, Message::Received(Received { seq, extensions: extensions() })).await;
                say(&mut control, Message::Ack(Ack { seq: committed, extensions: extensions() })).await;
            }
        }
    }
}

struct Node {
    endpoint: Endpoint,
    about: About,
    spool: SpoolHandle<MemDisk>,
    metrics: UplinkMetrics,
    core: Uplink,
}

impl Node {
    fn new(frames: u64) -> Self {
        let about = About {
            node: NodeName::new("gw1").unwrap(),
            boot: BOOT,
            source: "test".to_owned(),
            kernel: "6.12".to_owned(),
            version: "0".to_owned(),
        };
        let config =
            UplinkConfig { backoff_first: Duration::from_millis(1), ..UplinkConfig::default() };
        Self {
            endpoint: Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap(),
            about,
            spool: spool(frames),
            metrics: UplinkMetrics::default(),
            core: Uplink::new(config, BOOT),
        }
    }

    fn session(&self, tls: quinn::ClientConfig) -> Session<'_, MemDisk> {
        Session {
            endpoint: &self.endpoint,
            tls: watch::channel(tls).1,
            about: &self.about,
            spool: &self.spool,
            clock: &SystemClock,
            metrics: &self.metrics,
            new_epoch: &|_| {},
            watch: &|_| {},
        }
    }
}

#[tokio::test]
async fn everything_arrives_in_order_over_breaking_connections() {
    const FRAMES: u64 = 40;
    let (server, client) = tls();
    let store = Arc::new(Mutex::new(Store::default()));
    let address = aggregator(server, Arc::clone(&store), Manner::BreakAfter(7));
    let node = Node::new(FRAMES);
    let mut core = node.core.clone();
    let targets = [Target { host: "localhost".to_owned(), port: address.port() }];
    let mut view = node.spool.watch();
    let done = async {
        view.wait_for(|view| view.waiting == 0).await.unwrap();
        let append = node.spool.call(|spool| spool.append(spool.epoch(), &[frame(FRAMES + 1)]));
        append.await.unwrap().unwrap();
        view.wait_for(|view| view.sending.acked == Seq(FRAMES + 1)).await.unwrap();
    };
    run(&node.session(client), &mut core, &targets, done).await;

    let store = store.lock().unwrap();
    let expected: Vec<Bytes> = (1..=FRAMES + 1).map(|seq| frame(seq).bytes).collect();
    assert_eq!(store.frames, expected);
    assert!(store.hellos.len() >= 6, "{} sessions of seven frames", store.hellos.len());
    let last = store.hellos.last().unwrap();
    assert_eq!((last.node.as_str(), last.store), ("gw1", Some(StoreId([7; 16]))));
    assert!(last.first_unacknowledged > Seq(1), "a session goes on where the last one ended");
    assert_eq!(core.totals().sessions, store.hellos.len() as u64);
    assert!(core.offset().is_some(), "pings were answered");
    assert!(node.metrics.sent.get() > FRAMES);
}

#[tokio::test]
async fn a_certificate_that_ends_while_connected_is_told_and_the_session_goes_on() {
    let (server, client) = tls_until(time::OffsetDateTime::now_utc() + Duration::from_secs(6));
    let store = Arc::new(Mutex::new(Store::default()));
    let address = aggregator(server, Arc::clone(&store), Manner::BreakAfter(usize::MAX));
    let node = Node::new(1);
    let mut core = node.core.clone();
    assert!(matches!(core.step(SystemClock.boot(), &node.spool.view()), Step::Connect { .. }));
    let peer = Peer { address, name: "localhost".to_owned() };
    let mut view = node.spool.watch();
    let done = async {
        view.wait_for(|view| view.sending.acked == Seq(1)).await.unwrap();
        let certificates = &node.metrics.certificates;
        let over = loop {
            if let Some(over) = certificates.look(jiff::Timestamp::now()) {
                break over;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(over.starts_with("the aggregator's certificate has expired"), "{over}");
        // The session stands: another frame is taken and acknowledged.
        let append = node.spool.call(|spool| spool.append(spool.epoch(), &[frame(2)]));
        append.await.unwrap().unwrap();
        view.wait_for(|view| view.sending.acked == Seq(2)).await.unwrap();
    };
    run_session(&node.session(client), &mut core, &peer, done).await.unwrap();
    assert!(core.is_connected(), "until the caller says that it is not");
    assert_eq!(store.lock().unwrap().hellos.len(), 1);
}

#[tokio::test]
async fn a_refusal_comes_back_in_its_words() {
    let (server, client) = tls();
    let address = aggregator(server, Arc::default(), Manner::Refuse);
    let node = Node::new(1);
    let mut core = node.core.clone();
    assert!(matches!(core.step(SystemClock.boot(), &node.spool.view()), Step::Connect { .. }));
    let peer = Peer { address, name: "localhost".to_owned() };
    let session = node.session(client);
    let error = run_session(&session, &mut core, &peer, std::future::pending()).await.unwrap_err();
    assert_eq!(error.label(), "refused");
    assert!(error.needs_a_person());
    assert!(error.to_string().contains("gw1 is connected from elsewhere"), "{error}");
}

#[tokio::test]
async fn a_foreign_certificate_is_a_tls_problem_and_nobody_is_no_answer() {
    let (server, _) = tls();
    let (_, client) = tls();
    let address = aggregator(server, Arc::default(), Manner::Refuse);
    let node = Node::new(1);
    let mut core = node.core.clone();
    let peer = Peer { address, name: "localhost".to_owned() };
    let session = node.session(client);
    let error = run_session(&session, &mut core, &peer, std::future::pending()).await.unwrap_err();
    assert_eq!(error.label(), "tls", "{error:?}");

    let deaf = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let peer = Peer { address: deaf.local_addr().unwrap(), name: "localhost".to_owned() };
    let config =
        UplinkConfig { connect_timeout: Duration::from_millis(50), ..UplinkConfig::default() };
    let mut core = Uplink::new(config, BOOT);
    let error = run_session(&session, &mut core, &peer, std::future::pending()).await.unwrap_err();
    assert_eq!(error.label(), "no_answer");
    assert!(error.to_string().contains("is it running"), "{error}");
}

#[tokio::test]
async fn a_stop_ends_a_session_without_an_error() {
    let (server, client) = tls();
    let address = aggregator(server, Arc::default(), Manner::BreakAfter(usize::MAX));
    let node = Node::new(3);
    let mut core = node.core.clone();
    assert!(matches!(core.step(SystemClock.boot(), &node.spool.view()), Step::Connect { .. }));
    let peer = Peer { address, name: "localhost".to_owned() };
    let mut view = node.spool.watch();
    let done = async {
        view.wait_for(|view| view.waiting == 0).await.unwrap();
    };
    run_session(&node.session(client), &mut core, &peer, done).await.unwrap();
    assert!(core.is_connected(), "until the caller says that it is not");
}
