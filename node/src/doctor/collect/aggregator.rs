//! The way to the aggregator: a real QUIC handshake with the configured keys, and nothing after it.
//! No `Hello` is said, so a session that the running node has is not disturbed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use daemon::config::chain;
use futures_util::future::select_ok;
use quinn::{Connection, Endpoint, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::net::lookup_host;

use crate::config::{Config, Peer};
use crate::doctor::facts::{AggregatorFacts, Handshake, Known};
use crate::tls::{self, HostCheck, Identity};
use crate::uplink::SessionError;
use crate::uplink::quic::with_transport;

/// Each configured address, tried one after the other where there are keys.
pub(super) fn facts(config: &Config, identity: Option<&Identity>) -> Vec<AggregatorFacts> {
    let tried = identity.map(|identity| try_all(&config.aggregators, identity));
    let mut tried = tried.into_iter().flatten();
    let peers = config.aggregators.iter();
    peers
        .map(|peer| AggregatorFacts { address: peer.to_string(), handshake: tried.next() })
        .collect()
}

fn try_all(peers: &[Peer], identity: &Identity) -> Vec<Known<Handshake>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return peers.iter().map(|_| Err(error.to_string())).collect(),
    };
    let tried = runtime.block_on(async {
        let mut tried = Vec::with_capacity(peers.len());
        for peer in peers {
            let attempt = tokio::time::timeout(PATIENCE, attempt(peer, identity));
            let silence = |_elapsed| Err(format!("no answer within {} s", PATIENCE.as_secs()));
            tried.push(attempt.await.unwrap_or_else(silence));
        }
        tried
    });
    // A resolver that hangs is not waited for.
    runtime.shutdown_background();
    tried
}

/// Any of the addresses will do.
async fn attempt(peer: &Peer, identity: &Identity) -> Known<Handshake> {
    let Peer { host, port } = peer;
    let unknown = |error| chain(&SessionError::Resolve { host: host.clone(), error });
    let addresses: Vec<SocketAddr> =
        lookup_host((host.as_str(), *port)).await.map_err(unknown)?.take(MOST_ADDRESSES).collect();
    let attempts =
        addresses.into_iter().map(|address| Box::pin(shake_hands(address, host, identity)));
    let attempts: Vec<_> = attempts.collect();
    if attempts.is_empty() {
        return Err(unknown(std::io::ErrorKind::NotFound.into()));
    }
    // Where all fail, what the last one said.
    select_ok(attempts).await.map(|(done, _others)| done)
}

async fn shake_hands(address: SocketAddr, host: &str, identity: &Identity) -> Known<Handshake> {
    let begun = Instant::now();
    let any: SocketAddr =
        if address.is_ipv4() { ([0u8; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let endpoint = Endpoint::client(any).map_err(|error| format!("no UDP socket: {error}"))?;
    let config = tls::client_config(identity, HostCheck::UriOnly);
    let config = with_transport(config.map_err(|error| chain(&error))?);
    let connecting = endpoint
        .connect_with(config, address, host)
        .map_err(|error| chain(&SessionError::Connect { address, error }))?;
    let lost = |error| chain(&SessionError::lost(address, error));
    let connection = connecting.await.map_err(lost)?;
    agreed(&connection).await.map_err(lost)?;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let shown = connection.peer_identity();
    let chain = shown.and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let ends = chain.and_then(|chain| tls::ends(chain.first()?));
    connection.close(VarInt::from_u32(0), b"done");
    // Only so that the aggregator need not wait for our silence.
    let _sent = tokio::time::timeout(CLOSING, endpoint.wait_idle()).await;
    Ok(Handshake { ends, took_ms })
}

/// Waits until the aggregator has agreed, too: with TLS 1.3 it looks at our certificate after our
/// side is done, and says HANDSHAKE_DONE (RFC 9001 section 4.1.2) or closes.
async fn agreed(connection: &Connection) -> Result<(), quinn::ConnectionError> {
    while connection.stats().frame_rx.handshake_done == 0 {
        tokio::select! {
            error = connection.closed() => return Err(error),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    Ok(())
}

/// For one configured address, looking its name up included.
const PATIENCE: Duration = Duration::from_secs(5);

/// For saying goodbye.
const CLOSING: Duration = Duration::from_millis(200);

/// quinn does not tell when the handshake is confirmed; it counts.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;
