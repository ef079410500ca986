//! A client for our own pages: one GET over a new connection, for the commands that ask the
//! running program. Not a general client: it takes what our listener sends.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::token::{Token, TokenError};
use super::{Listener, tls};

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// The status, like 200.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("nothing answers on {address}; is the program running, with its HTTP listener there?")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {address} broke")]
    Broken {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// What came is no answer of ours.
    #[error("what answers on {address} is not this program")]
    Foreign {
        /// The address.
        address: SocketAddr,
    },
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The listener's certificate cannot be read.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The listener's certificate cannot be trusted.
    #[error("the listener's certificate cannot be used to check it")]
    Trust {
        /// What the library said.
        #[source]
        error: rustls::Error,
    },
}

/// Gets `target` (path and query) of the program that serves `listener`, blocking.
///
/// # Errors
/// See [`ClientError`]. A refusal is an answer.
pub fn get(listener: &Listener, target: &str) -> Result<Answer, ClientError> {
    let token = listener.token.as_deref().map(Token::read).transpose()?;
    let (address, tcp) = connect(listener)?;
    let broken = |error| ClientError::Broken { address, error };
    tcp.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    tcp.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    let name = listener.hosts.first().cloned();
    let host = name.clone().unwrap_or_else(|| address.to_string());
    let mut request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    if let Some(token) = token {
        request.push_str(&format!("Authorization: Bearer {}\r\n", token.text()));
    }
    request.push_str("\r\n");
    let raw = match &listener.tls {
        None => exchange(tcp, &request).map_err(broken)?,
        Some(files) => {
            let name = name.unwrap_or_else(|| address.ip().to_string());
            let stream = secure(tcp, name, tls::chain(&files.cert)?)?;
            exchange(stream, &request).map_err(broken)?
        }
    };
    parse(&raw).ok_or(ClientError::Foreign { address })
}

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Largest answer taken, in bytes.
const MAX_ANSWER: u64 = 64 << 20;

fn connect(listener: &Listener) -> Result<(SocketAddr, TcpStream), ClientError> {
    let mut failed = None;
    for &address in &listener.addresses {
        let address = reachable(address);
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(tcp) => return Ok((address, tcp)),
            Err(error) => failed = Some(ClientError::Connect { address, error }),
        }
    }
    let nowhere = || ClientError::Connect {
        address: (Ipv4Addr::UNSPECIFIED, 0).into(),
        error: io::Error::other("the listener has no address"),
    };
    Err(failed.unwrap_or_else(nowhere))
}

/// A listener on all addresses is also on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// TLS to a listener whose certificate is on this machine: what it shows must lead to that file.
fn secure(
    tcp: TcpStream,
    name: String,
    chain: Vec<rustls_pki_types::CertificateDer<'static>>,
) -> Result<StreamOwned<ClientConnection, TcpStream>, ClientError> {
    let trust = |error| ClientError::Trust { error };
    let mut roots = RootCertStore::empty();
    for certificate in chain {
        roots.add(certificate).map_err(trust)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(trust)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name)
        .map_err(|error| trust(rustls::Error::General(error.to_string())))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(trust)?;
    Ok(StreamOwned::new(connection, tcp))
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut raw = Vec::new();
    stream.take(MAX_ANSWER + 1).read_to_end(&mut raw)?;
    if raw.len() as u64 > MAX_ANSWER {
        return Err(io::Error::other(format!("the answer is longer than {MAX_ANSWER} bytes")));
    }
    Ok(raw)
}

fn parse(raw: &[u8]) -> Option<Answer> {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(raw.get(..end)?).ok()?;
    let body = raw.get(end + 4..)?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    // Our listener announces every length; a shorter body is a broken connection.
    (length? == body.len()).then(|| Answer { status, body: body.to_vec() })
}
