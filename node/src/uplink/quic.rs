//! One session over QUIC: the core's steps carried out.
//!
//! Control frames travel on one bidirectional stream that this side opens; each data frame on a
//! unidirectional stream of its own. Connected means welcomed: with TLS 1.3 a refused
//! certificate shows only after the handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flow::{BootId, BootNanos, Epoch, NodeName, Seq, UnixNanos};
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use quinn::{
    Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use wire::control::{Hello, Message};
use wire::frame::{Frame, FrameError, HEADER_LEN, Header};

use super::core::{Ended, Step, Uplink};
use super::error::SessionError;
use super::metrics::UplinkMetrics;
use super::orders::{Means, Order, obey};
use super::owner::{SpoolGone, SpoolHandle};
use crate::spool::{Disk, FreshNames, NewEpochReason, SpoolView, Stored};
use crate::tls::{self, Holder};

/// Who this node says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name, the one in its certificate.
    pub node: NodeName,
    /// Its boot.
    pub boot: BootId,
    /// Its source: `netlink`, `replay`.
    pub source: String,
    /// `uname -r`.
    pub kernel: String,
    /// Its version.
    pub version: String,
}

/// The clocks of this host.
pub trait Clock: Send + Sync {
    /// `CLOCK_BOOTTIME`.
    fn boot(&self) -> BootNanos;
    /// `CLOCK_REALTIME`.
    fn wall(&self) -> UnixNanos;
}

/// The kernel's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot(&self) -> BootNanos {
        crate::clock::now()
    }

    fn wall(&self) -> UnixNanos {
        crate::clock::wall()
    }
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address.
    pub address: SocketAddr,
    /// The name for TLS.
    pub name: String,
}

/// What a session works with.
pub struct Session<'a, D> {
    /// The UDP socket.
    pub endpoint: &'a Endpoint,
    /// Who we are and whom we trust, transport parameters aside; each connection takes the latest.
    pub tls: watch::Receiver<quinn::ClientConfig>,
    /// Who this node says it is.
    pub about: &'a About,
    /// The spool.
    pub spool: &'a SpoolHandle<D>,
    /// The clocks.
    pub clock: &'a dyn Clock,
    /// The figures.
    pub metrics: &'a UplinkMetrics,
    /// Told of every new epoch. The flow table learns of it by [`SpoolView::current`], and cannot
    /// miss it: the spool refuses frames and baselines of the old one.
    pub new_epoch: &'a (dyn Fn(&NewEpochReason) + Send + Sync),
    /// Shown the core whenever something has happened: publishes the clock offset, and whether
    /// the aggregator has welcomed us.
    pub watch: &'a (dyn Fn(&Uplink) + Send + Sync),
}

impl<D> Session<'_, D> {
    pub(super) fn show(&self, core: &Uplink, view: &SpoolView, now: BootNanos) {
        self.metrics.show_uplink(core, now);
        self.metrics.show_spool(view);
        (self.watch)(core);
    }
}

impl<D> std::fmt::Debug for Session<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("about", &self.about).finish_non_exhaustive()
    }
}

/// The transport parameters of a node's connections.
#[must_use]
pub fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    // The aggregator opens no streams: its answers come on the one this side opens.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW));
    transport.receive_window(VarInt::from_u32(RECEIVE_WINDOW));
    transport.send_window(SEND_WINDOW);
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()));
    transport.datagram_receive_buffer_size(None);
    transport
}

/// Runs one session to its end: connects to `peer`, says `Hello`, carries out what `core` says.
/// Returns `Ok` when `stop` is done, else why it ended. The caller then tells the core
/// ([`Uplink::disconnected`]).
///
/// # Errors
/// How it ended; [`Ended::EpochDone`] is no fault.
pub async fn run_session<D: Disk + 'static>(
    session: &Session<'_, D>,
    core: &mut Uplink,
    peer: &Peer,
    stop: impl Future<Output = ()>,
) -> Result<(), SessionError> {
    tokio::pin!(stop);
    let deadline = core.connect_deadline();
    let connection = tokio::select! {
        connected = connect(session, peer, deadline) => connected?,
        () = &mut stop => return Ok(()),
    };
    let ended = tokio::select! {
        ended = talk(session, core, &connection, peer.address) => ended,
        () = &mut stop => Ok(()),
    };
    connection.close(VarInt::from_u32(0), b"done");
    ended
}

async fn connect<D>(
    session: &Session<'_, D>,
    peer: &Peer,
    deadline: Duration,
) -> Result<Connection, SessionError> {
    let address = peer.address;
    let tls = with_transport(session.tls.borrow().clone());
    let connecting = session
        .endpoint
        .connect_with(tls, address, &peer.name)
        .map_err(|error| SessionError::Connect { address, error })?;
    match tokio::time::timeout(deadline, connecting).await {
        Ok(connected) => {
            let connection = connected.map_err(|error| SessionError::lost(address, error))?;
            note_certificate(session.metrics, &connection);
            Ok(connection)
        }
        Err(_elapsed) => Err(SessionError::NoAnswer { address }),
    }
}

/// Notes when the aggregator's certificate ends.
fn note_certificate(metrics: &UplinkMetrics, connection: &Connection) {
    let shown = connection.peer_identity();
    let chain = shown.and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    if let Some(ends) = chain.and_then(|chain| tls::ends(chain.first()?)) {
        metrics.certificates.note(Holder::Aggregator, ends);
    }
}

async fn talk<D: Disk + 'static>(
    session: &Session<'_, D>,
    core: &mut Uplink,
    connection: &Connection,
    address: SocketAddr,
) -> Result<(), SessionError> {
    let lost = |error| SessionError::lost(address, error);
    let (mut control, answers) = connection.open_bi().await.map_err(lost)?;
    let mut views = session.spool.watch();
    let view = *views.borrow_and_update();
    let hello = Message::Hello(hello(session.about, &view)).encode()?;
    put(connection, &mut control, &hello).await.map_err(lost)?;
    core.connected(view.sending.epoch);

    let mut answers = std::pin::pin!(messages(connection.clone(), answers));
    let mut sending = FuturesUnordered::new();
    loop {
        let view = *views.borrow_and_update();
        let now = session.clock.boot();
        session.show(core, &view, now);
        let until = match core.step(now, &view) {
            Step::Close(ended) => return Err(ended.into()),
            Step::Connect { .. } => return Err(Ended::Protocol { what: "nothing" }.into()),
            Step::Ping(ping) => {
                let ping = Message::Ping(ping).encode()?;
                put(connection, &mut control, &ping).await.map_err(lost)?;
                continue;
            }
            Step::Send { epoch, seq } => {
                if let Some(stored) = fetch(session, epoch, seq).await? {
                    core.sent(epoch, stored.span);
                    sending.push(send(connection.clone(), stored.frame.bytes));
                    continue;
                }
                // Acknowledged or drained a moment ago: the view will say so.
                now.plus(VIEW_PAUSE)
            }
            Step::Wait { until } => until,
        };
        tokio::select! {
            message = answers.next() => match message {
                Some(Ok(message)) => {
                    let now = session.clock.boot();
                    let orders = core.message(now, message, &view);
                    carry_out(session, orders).await?;
                }
                Some(Err(Answers::Lost(error))) => return Err(lost(error)),
                Some(Err(Answers::Session(error))) => return Err(error),
                None => return Err(lost(connection.closed().await)),
            },
            Some(sent) = sending.next() => sent.map_err(lost)?,
            changed = views.changed() => changed.map_err(|_closed| SpoolGone)?,
            () = tokio::time::sleep(until.since(session.clock.boot())) => {}
        }
    }
}

fn hello(about: &About, view: &SpoolView) -> Hello {
    Hello {
        node: about.node.to_string(),
        epoch: view.sending.epoch,
        boot: about.boot,
        source: about.source.clone(),
        kernel: about.kernel.clone(),
        version: about.version.clone(),
        first_unacknowledged: view.sending.acked.next(),
        next: view.sending.next,
        store: view.store,
        extensions: Vec::new(),
    }
}

async fn fetch<D: Disk + 'static>(
    session: &Session<'_, D>,
    epoch: Epoch,
    seq: Seq,
) -> Result<Option<Stored>, SessionError> {
    let wall = session.clock.wall();
    Ok(session.spool.call(move |spool| spool.frame(epoch, seq, wall)).await??)
}

/// Does to the spool what the core orders. A full disk does not end the session: acknowledgements
/// make room, and what could not be written comes up again, because the aggregator says it again.
async fn carry_out<D: Disk + 'static>(
    session: &Session<'_, D>,
    orders: Vec<Order>,
) -> Result<(), SessionError> {
    let (now, wall) = (session.clock.boot(), session.clock.wall());
    for order in orders {
        let fresh = FreshNames { current: Epoch(rand::random()), drain: Epoch(rand::random()) };
        let means = Means { fresh, now, wall };
        let done = session.spool.call(move |spool| obey(spool, order, &means));
        let begun = match done.await? {
            Err(error) if error.is_full() => {
                tracing::debug!(%error, "the spool could not write what the aggregator told it");
                continue;
            }
            done => done?,
        };
        if let Some(reason) = begun {
            session.metrics.new_epoch(&reason);
            (session.new_epoch)(&reason);
        }
    }
    Ok(())
}

/// Writes a control frame. An aggregator that does not read is given up like a silent one.
async fn put(
    connection: &Connection,
    control: &mut SendStream,
    frame: &Frame,
) -> Result<(), ConnectionError> {
    match tokio::time::timeout(WRITE_TIMEOUT, control.write_all(&frame.bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(quinn::WriteError::ConnectionLost(error))) => Err(error),
        Ok(Err(_stopped)) => Err(connection.closed().await),
        Err(_elapsed) => Err(ConnectionError::TimedOut),
    }
}

/// Sends a data frame on a stream of its own.
async fn send(connection: Connection, frame: Bytes) -> Result<(), ConnectionError> {
    let mut stream = connection.open_uni().await?;
    match stream.write_chunk(frame).await {
        Ok(()) => {}
        Err(quinn::WriteError::ConnectionLost(error)) => return Err(error),
        // The aggregator stops a stream when it has no room: its Nack says when to try again.
        Err(_stopped) => return Ok(()),
    }
    let _already_reset = stream.finish();
    Ok(())
}

enum Answers {
    Lost(ConnectionError),
    Session(SessionError),
}

/// The aggregator's messages; unknown kinds are skipped.
fn messages(
    connection: Connection,
    stream: RecvStream,
) -> impl Stream<Item = Result<Message, Answers>> {
    futures_util::stream::unfold(Some((connection, stream)), |state| async move {
        let (connection, mut stream) = state?;
        match next_message(&connection, &mut stream).await {
            Ok(message) => Some((Ok(message), Some((connection, stream)))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

async fn next_message(
    connection: &Connection,
    stream: &mut RecvStream,
) -> Result<Message, Answers> {
    let protocol = |error: FrameError| Answers::Session(error.into());
    loop {
        let mut head = [0; HEADER_LEN];
        read(connection, stream, &mut head).await?;
        let header = Header::parse(&head).map_err(protocol)?;
        if !header.kind.is_control() {
            let what = "a data frame on the control stream";
            return Err(Answers::Session(Ended::Protocol { what }.into()));
        }
        let mut bytes = vec![0; header.frame_len()];
        let (start, body) = bytes.split_at_mut(HEADER_LEN);
        start.copy_from_slice(&head);
        read(connection, stream, body).await?;
        let frame = Frame::parse(Bytes::from(bytes)).map_err(protocol)?;
        let message = Message::decode(&frame).map_err(|e| Answers::Session(e.into()))?;
        if let Some(message) = message {
            return Ok(message);
        }
    }
}

async fn read(
    connection: &Connection,
    stream: &mut RecvStream,
    into: &mut [u8],
) -> Result<(), Answers> {
    match stream.read_exact(into).await {
        Ok(()) => Ok(()),
        Err(quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => {
            Err(Answers::Lost(error))
        }
        // The stream ended: the connection's end, which says why, follows.
        Err(_) => Err(Answers::Lost(connection.closed().await)),
    }
}

/// The spool's view is asked again after this, should it not have changed by itself.
const VIEW_PAUSE: Duration = Duration::from_millis(200);

/// Bytes of answers that may wait here: they are read at once.
const RECEIVE_WINDOW: u32 = 256 << 10;

/// Bytes sent and not acknowledged by QUIC.
const SEND_WINDOW: u64 = 8 << 20;

/// Keeps mappings of NAT gateways and firewalls open.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A path that carries nothing for so long is gone.
const IDLE_TIMEOUT_MS: u32 = 20_000;

/// A control frame that cannot be written for so long means that the aggregator hangs.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// The configuration with the node's transport parameters.
#[must_use]
pub fn with_transport(mut config: quinn::ClientConfig) -> quinn::ClientConfig {
    config.transport_config(Arc::new(transport()));
    config
}

#[cfg(test)]
mod tests;
