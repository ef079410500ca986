//! A node's end of a session, as light as it can be: `Hello`, then the frames as fast as QUIC's
//! windows let them go, until the last one is acknowledged. It has a thread and a runtime of its
//! own, as a node has a machine of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flow::Seq;
use node::tls::{HostCheck, Identity, IdentityPaths, client_config};
use node::uplink::quic::with_transport;
use quinn::{Connection, Endpoint, RecvStream};
use tokio::sync::Barrier;
use wire::control::{Hello, Message};
use wire::frame::{Frame, HEADER_LEN, Header};

use super::Failed;
use super::server::Keys;
use super::traffic::{Gateway, Load};

/// Delivers a load to an aggregator, each gateway its part; how long that took, from the first
/// frame's first byte to the acknowledgement of all last frames. The sessions are there before that.
pub(crate) async fn deliver(
    address: SocketAddr,
    keys: &Keys,
    load: &Arc<Load>,
) -> Result<Duration, Failed> {
    let greeted = Arc::new(Barrier::new(load.gateways().count()));
    let mut all = Vec::new();
    for gateway in load.gateways() {
        let (done, result) = tokio::sync::oneshot::channel();
        let (keys, load, greeted) = (keys.of(gateway)?, Arc::clone(load), Arc::clone(&greeted));
        let thread = std::thread::Builder::new().name("gateway".to_owned()).spawn(move || {
            let took = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Failed::from)
                .and_then(|runtime| {
                    runtime.block_on(session(address, &keys, (gateway, &load), &greeted))
                });
            // Whoever asked is still there: it waits for this.
            let _told = done.send(took);
        })?;
        all.push((thread, result));
    }
    let mut longest = Duration::ZERO;
    for (thread, result) in all {
        let took = result.await?;
        thread.join().map_err(|_panicked| "a gateway's thread panicked")?;
        longest = longest.max(took?);
    }
    Ok(longest)
}

async fn session(
    address: SocketAddr,
    keys: &IdentityPaths,
    (gateway, load): (Gateway, &Load),
    greeted: &Barrier,
) -> Result<Duration, Failed> {
    let tls = with_transport(client_config(&Identity::load(keys)?, HostCheck::UriOnly)?);
    let endpoint = Endpoint::client(([0u16; 8], 0).into())?;
    let connection = endpoint.connect_with(tls, address, "localhost")?.await?;
    let (mut control, mut answers) = connection.open_bi().await?;
    control.write_all(&Message::Hello(hello(gateway)?).encode()?.bytes).await?;
    match hear(&mut answers).await? {
        Some(Message::Welcome(welcome)) if welcome.committed == Seq::NONE => {}
        other => return Err(format!("no welcome: {other:?}").into()),
    }
    greeted.wait().await;
    let begun = Instant::now();
    let last = load.last();
    let frames = load.frames(gateway).iter();
    let sending = send(&connection, frames.map(|frame| frame.bytes.clone()));
    tokio::try_join!(sending, acknowledged(&mut answers, last))?;
    let took = begun.elapsed();
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(took)
}

fn hello(gateway: Gateway) -> Result<Hello, Failed> {
    Ok(Hello {
        node: gateway.name()?.to_string(),
        epoch: gateway.epoch(),
        boot: gateway.boot(),
        source: "replay".to_owned(),
        kernel: "6.1.0".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        first_unacknowledged: Seq(1),
        next: Seq(1),
        store: None,
        extensions: Vec::new(),
    })
}

/// Each frame on a stream of its own; the aggregator's limit on streams is the window.
async fn send(connection: &Connection, frames: impl Iterator<Item = Bytes>) -> Result<(), Failed> {
    for frame in frames {
        let mut stream = connection.open_uni().await?;
        stream.write_chunk(frame).await?;
        stream.finish()?;
    }
    Ok(())
}

/// Waits until everything up to `last` is acknowledged.
async fn acknowledged(answers: &mut RecvStream, last: Seq) -> Result<(), Failed> {
    loop {
        match hear(answers).await? {
            Some(Message::Ack(ack)) if ack.seq >= last => return Ok(()),
            Some(Message::Ack(_) | Message::Received(_)) | None => {}
            Some(other) => return Err(format!("unexpected answer: {other:?}").into()),
        }
    }
}

/// The next message; `None` for a kind that is not known.
async fn hear(answers: &mut RecvStream) -> Result<Option<Message>, Failed> {
    let mut bytes = vec![0; HEADER_LEN];
    answers.read_exact(&mut bytes).await?;
    let header = Header::peek(&bytes)?;
    bytes.resize(header.frame_len(), 0);
    answers.read_exact(bytes.get_mut(HEADER_LEN..).unwrap_or_default()).await?;
    Ok(Message::decode(&Frame::parse(bytes.into())?)?)
}
