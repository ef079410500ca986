//! One connection from its first packet to its end: handshake, certificate, `Hello`, `Welcome`,
//! session.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use flow::NodeName;
use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument;
use wire::control::{Hello, Message, RefuseReason, Refused, Welcome};
use wire::frame::MAX_FRAME;

use super::clock::ClockWatch;
use super::close::{CloseReason, End};
use super::reorder::Reorder;
use super::session::{Session, finish, wall_clock};
use super::table::NotAdmitted;
use super::{GatePass, Ingest, stream};
use crate::pipeline::PipelineError;
use crate::tls::{Failure, Peer};

/// A refusal: what the node and the log are told.
struct No {
    reason: RefuseReason,
    close: CloseReason,
    text: String,
}

impl No {
    fn new(reason: RefuseReason, text: impl Into<String>) -> Self {
        Self { reason, close: CloseReason::Refused, text: text.into() }
    }
}

/// Serves one peer to its end.
pub(super) async fn serve(
    ingest: Arc<Ingest>,
    incoming: Incoming,
    pass: GatePass,
    shutdown: watch::Receiver<bool>,
) {
    let address = incoming.remote_address();
    let metrics = ingest.metrics.clone();
    let connection = match handshake(&ingest, incoming).await {
        Ok(connection) => connection,
        Err((failure, detail)) => {
            metrics.tls.count(failure);
            let said = {
                let mut quiet = ingest.quiet.lock().unwrap_or_else(PoisonError::into_inner);
                quiet.say(Instant::now(), failure)
            };
            if let Some(kept_back) = said {
                let (reason, told) = (failure.as_str(), failure.to_string());
                tracing::warn!(%address, reason, told, detail, kept_back, "handshake failed");
            }
            return;
        }
    };
    let peer = match Peer::of(&connection) {
        Ok(peer) => peer,
        Err(problem) => {
            // The handshake has checked this certificate, so this is a fault of ours.
            metrics.tls.count(Failure::Other);
            tracing::error!(%address, %problem, "certificate not readable after the handshake");
            return;
        }
    };
    let span = tracing::info_span!("session", node = %peer.node, %address);
    let end = attend(ingest, &connection, peer, pass, shutdown).instrument(span.clone()).await;
    metrics.count_closed(end.reason);
    let _entered = span.entered();
    let reason = end.reason.as_str();
    match end.reason {
        CloseReason::Done | CloseReason::Replaced | CloseReason::Shutdown => {
            tracing::info!(reason, detail = end.text, "connection closed");
        }
        _ => tracing::warn!(reason, detail = end.text, "connection closed"),
    }
    connection.close(end.reason.code(), end.text.as_bytes());
}

async fn handshake(ingest: &Ingest, incoming: Incoming) -> Result<Connection, (Failure, String)> {
    let failed = |error: ConnectionError| (Failure::of(&error), error.to_string());
    let connecting = incoming.accept().map_err(failed)?;
    match timeout(ingest.config.hello_timeout, connecting).await {
        Ok(connected) => connected.map_err(failed),
        Err(_elapsed) => Err((Failure::Timeout, String::new())),
    }
}

async fn attend(
    ingest: Arc<Ingest>,
    connection: &Connection,
    peer: Peer,
    pass: GatePass,
    shutdown: watch::Receiver<bool>,
) -> End {
    let metrics = ingest.metrics.clone();
    let (mut send, mut recv) = match control_stream(&ingest, connection).await {
        Ok(stream) => stream,
        Err(end) => return told(end, connection),
    };
    let begun = begin(&ingest, connection, peer, &mut recv, shutdown).await;
    drop(pass);
    let (session, welcome) = match begun {
        Ok(begun) => begun,
        Err(Stop::No(no)) => {
            metrics.count_refused(no.reason);
            return refuse(send, no).await;
        }
        Err(Stop::End(end)) => return told(end, connection),
    };
    let message = match Message::Welcome(welcome).encode() {
        Ok(message) => message,
        Err(error) => return End::malformed(&error),
    };
    if let Err(error) = send.write_all(&message.bytes).await {
        return told(End::new(CloseReason::Lost, error.to_string()), connection);
    }
    metrics.welcomed.inc();
    metrics.sessions.inc();
    tracing::info!(epoch = %session.epoch, "session welcomed");
    let end = session.run(send, recv).await;
    metrics.sessions.dec();
    told(end, connection)
}

/// Where we closed the connection from elsewhere, says why instead of "closed".
fn told(end: End, connection: &Connection) -> End {
    match connection.close_reason() {
        Some(ConnectionError::LocallyClosed) if end.reason == CloseReason::Lost => {
            End::new(CloseReason::Replaced, "a newer session of this node took over")
        }
        Some(error @ ConnectionError::ApplicationClosed(_)) => End::of(&error),
        _ => end,
    }
}

async fn control_stream(
    ingest: &Ingest,
    connection: &Connection,
) -> Result<(SendStream, RecvStream), End> {
    match timeout(ingest.config.hello_timeout, connection.accept_bi()).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(End::of(&error)),
        Err(_elapsed) => Err(no_hello(ingest)),
    }
}

fn no_hello(ingest: &Ingest) -> End {
    let seconds = ingest.config.hello_timeout.as_secs();
    End::new(CloseReason::Stalled, format!("no Hello within {seconds} s"))
}

enum Stop {
    No(No),
    End(End),
}

impl From<No> for Stop {
    fn from(no: No) -> Self {
        Self::No(no)
    }
}

/// From `Hello` to the `Welcome` that answers it.
async fn begin(
    ingest: &Arc<Ingest>,
    connection: &Connection,
    peer: Peer,
    recv: &mut RecvStream,
    shutdown: watch::Receiver<bool>,
) -> Result<(Session, Welcome), Stop> {
    let hello = read_hello(ingest, recv).await?;
    check_name(&peer, &hello)?;
    ingest.issued.check(&peer).map_err(|problem| No {
        close: CloseReason::Revoked,
        ..No::new(RefuseReason::Revoked, problem.to_string())
    })?;
    let admitted = ingest.sessions.admit(&peer.node, hello.epoch, connection).await;
    let seat = admitted.map_err(|refused| {
        let reason = match refused {
            NotAdmitted::NameInUse { .. } => RefuseReason::NameInUse,
            NotAdmitted::TooManyNodes { .. } => RefuseReason::TooManyNodes,
        };
        No::new(reason, refused.to_string())
    })?;
    let opening = ingest.pipeline.open(peer.node.clone(), hello.epoch);
    let opened = timeout(ingest.config.open_timeout, opening)
        .await
        .unwrap_or_else(|_elapsed| Err(PipelineError::StoreAway("no answer in time".to_owned())))
        .map_err(|error| No::new(RefuseReason::Unavailable, error.to_string()))?;
    tracing::debug!(source = hello.source, kernel = hello.kernel, version = hello.version, "hello");
    let welcome = Welcome {
        store: opened.store,
        committed: opened.committed,
        max_unreceived: ingest.config.window(),
        max_frame: u32::try_from(MAX_FRAME).unwrap_or(u32::MAX),
        time: wall_clock(),
        extensions: vec![],
    }
    .with_committed_digest(opened.digest);
    let session = Session {
        ingest: ingest.clone(),
        epoch: hello.epoch,
        digest: opened.digest,
        seat,
        connection: connection.clone(),
        reorder: Reorder::new(opened.committed, ingest.config.reorder),
        clock: ClockWatch::new(hello.boot),
        peer,
        shutdown,
    };
    Ok((session, welcome))
}

async fn read_hello(ingest: &Ingest, recv: &mut RecvStream) -> Result<Hello, Stop> {
    let reading = stream::read_control(recv, ingest.config.hello_timeout);
    match timeout(ingest.config.hello_timeout, reading).await {
        Ok(Ok(Some(Message::Hello(hello)))) => Ok(hello),
        Ok(Ok(_)) => Err(No {
            close: CloseReason::Malformed,
            ..No::new(RefuseReason::Malformed, "the first message must be Hello")
        }
        .into()),
        Ok(Err(end)) if matches!(end.reason, CloseReason::Malformed | CloseReason::Version) => {
            Err(No { reason: RefuseReason::Malformed, close: end.reason, text: end.text }.into())
        }
        Ok(Err(end)) => Err(Stop::End(end)),
        Err(_elapsed) => Err(Stop::End(no_hello(ingest))),
    }
}

fn check_name(peer: &Peer, hello: &Hello) -> Result<(), No> {
    match NodeName::new(&hello.node) {
        Ok(name) if name == peer.node => Ok(()),
        Ok(name) => {
            let text = format!(
                "this node calls itself {name}, its certificate says {}: remove the configured \
                 name or join with the bundle of {name}",
                peer.node
            );
            Err(No::new(RefuseReason::WrongName, text))
        }
        Err(error) => Err(No::new(RefuseReason::WrongName, error.to_string())),
    }
}

/// Tells the node, and gives the message time to arrive before the connection closes.
async fn refuse(mut send: SendStream, no: No) -> End {
    let message = no.text.clone();
    let refused = Refused { reason: no.reason, message, extensions: vec![] };
    if let Ok(frame) = Message::Refused(refused).encode()
        && send.write_all(&frame.bytes).await.is_ok()
    {
        finish(send).await;
    }
    End::new(no.close, no.text)
}
