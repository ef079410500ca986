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
use thiserror::Error;
use wire::control::{ControlError, Hello, Message};
use wire::frame::{Frame, FrameError, HEADER_LEN, Header};

use super::core::{Ended, Order, Step, Uplink};
use super::metrics::UplinkMetrics;
use super::owner::{SpoolGone, SpoolHandle};
use crate::spool::{Disk, NewEpochReason, SpoolError, SpoolView, Stored};
use crate::tls::TlsProblem;

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
        let nanos = nanos(rustix::time::ClockId::Boottime);
        BootNanos(u64::try_from(nanos).unwrap_or(0))
    }

    fn wall(&self) -> UnixNanos {
        UnixNanos(nanos(rustix::time::ClockId::Realtime))
    }
}

fn nanos(clock: rustix::time::ClockId) -> i64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
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
    /// Who we are and whom we trust, with [`transport`].
    pub tls: quinn::ClientConfig,
    /// Who this node says it is.
    pub about: &'a About,
    /// The spool.
    pub spool: &'a SpoolHandle<D>,
    /// The clocks.
    pub clock: &'a dyn Clock,
    /// The figures.
    pub metrics: &'a UplinkMetrics,
    /// Told of every new epoch, before the next frame is sent: the flow table forgets its
    /// baselines. See [`SpoolView::current`].
    pub new_epoch: &'a (dyn Fn(&NewEpochReason) + Send + Sync),
}

impl<D> std::fmt::Debug for Session<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("about", &self.about).finish_non_exhaustive()
    }
}

/// Why a session, or an attempt at one, ended. Made for a person; [`SessionError::label`] for
/// metrics.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The core ended it.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// A certificate was refused, by us or by the aggregator.
    #[error("{problem}")]
    Tls {
        /// Who refused whom, and what to do.
        problem: TlsProblem,
    },
    /// Nobody answers.
    #[error("no answer from the aggregator at {address}; is it running, and does UDP reach it?")]
    NoAnswer {
        /// The address.
        address: SocketAddr,
    },
    /// The aggregator closed the connection and said why.
    #[error("the aggregator closed the connection: {why}")]
    ClosedByPeer {
        /// Its words.
        why: String,
    },
    /// The connection broke.
    #[error("the connection to {address} broke")]
    Lost {
        /// The address.
        address: SocketAddr,
        /// How.
        #[source]
        error: ConnectionError,
    },
    /// The connection could not even be begun.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        error: quinn::ConnectError,
    },
    /// The aggregator sent a frame that is none.
    #[error("the aggregator sent something that is not a conntracct frame")]
    Frame(#[from] FrameError),
    /// The aggregator sent a message that cannot be read, or ours cannot be written.
    #[error("a control message cannot be read or written")]
    Control(#[from] ControlError),
    /// The spool failed.
    #[error("the spool failed")]
    Spool(#[from] SpoolError),
    /// The spool's thread has ended.
    #[error(transparent)]
    SpoolGone(#[from] SpoolGone),
    /// The host name has no address.
    #[error("the aggregator's name {host} has no address; check it and the resolver")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        error: std::io::Error,
    },
}

impl SessionError {
    /// The reason as a metric's label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Ended(Ended::EpochDone) => "epoch_done",
            Self::Ended(Ended::Refused { .. }) => "refused",
            Self::Ended(Ended::OtherStore { .. }) => "other_store",
            Self::Ended(Ended::NoWelcome { .. }) => "no_welcome",
            Self::Ended(Ended::Silence { .. }) => "silence",
            Self::Ended(Ended::Protocol { .. }) | Self::Frame(_) | Self::Control(_) => "protocol",
            Self::Tls { .. } => "tls",
            Self::NoAnswer { .. } => "no_answer",
            Self::ClosedByPeer { .. } => "closed",
            Self::Lost { .. } | Self::Connect { .. } => "lost",
            Self::Spool(_) | Self::SpoolGone(_) => "spool",
            Self::Resolve { .. } => "resolve",
        }
    }

    /// Whether a person must do something before it can work.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::Ended(Ended::OtherStore { .. } | Ended::Refused { .. }) | Self::Tls { .. }
        )
    }

    fn lost(address: SocketAddr, error: ConnectionError) -> Self {
        if let Some(problem) = TlsProblem::of(&error) {
            return Self::Tls { problem };
        }
        match error {
            ConnectionError::TimedOut => Self::NoAnswer { address },
            ConnectionError::ApplicationClosed(close) => {
                Self::ClosedByPeer { why: String::from_utf8_lossy(&close.reason).into_owned() }
            }
            error => Self::Lost { address, error },
        }
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
    let connecting = session
        .endpoint
        .connect_with(session.tls.clone(), address, &peer.name)
        .map_err(|error| SessionError::Connect { address, error })?;
    match tokio::time::timeout(deadline, connecting).await {
        Ok(connected) => connected.map_err(|error| SessionError::lost(address, error)),
        Err(_elapsed) => Err(SessionError::NoAnswer { address }),
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
        session.metrics.show_uplink(core, now);
        session.metrics.show_spool(&view);
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
                } else {
                    // Acknowledged or drained a moment ago: the view will say so.
                    views.changed().await.map_err(|_closed| SpoolGone)?;
                }
                continue;
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

/// Does to the spool what the core orders. A full disk does not end the session: what could not
/// be written now comes up again, because the aggregator says it again.
async fn carry_out<D: Disk + 'static>(
    session: &Session<'_, D>,
    orders: Vec<Order>,
) -> Result<(), SessionError> {
    let (now, wall) = (session.clock.boot(), session.clock.wall());
    for order in orders {
        let begun = if let Order::NewEpoch(reason) = &order { Some(reason.clone()) } else { None };
        let fresh = Epoch(rand::random());
        let done = session.spool.call(move |spool| match order {
            Order::Ack { epoch, seq } => spool.ack(epoch, seq),
            Order::Reject { epoch, seq, reason } => spool.reject(epoch, seq, &reason, wall),
            Order::Remember(store) => spool.remember_store(store),
            Order::Forgotten { epoch, committed } => spool.forgotten(epoch, committed, wall),
            Order::NewEpoch(reason) => spool.new_epoch(&reason, fresh, now),
        });
        done.await??;
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

/// Shares a quinn configuration's transport with [`transport`].
pub fn with_transport(mut config: quinn::ClientConfig) -> quinn::ClientConfig {
    config.transport_config(Arc::new(transport()));
    config
}
