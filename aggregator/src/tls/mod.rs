//! TLS towards the nodes: the aggregator proves itself, every node proves its name.
//!
//! TLS 1.3 only, ring as the only provider. A node's certificate must chain to our authority, be
//! good for `clientAuth` and nothing else, carry one SAN URI `conntracct:node:<name>`, and its
//! serial must be listed and not revoked ([`IssuedList`]). Sessions are never resumed: every
//! connection is checked in full, so nothing taken back opens the door again.

pub mod failure;
pub mod issued;
pub mod peer;
mod verifier;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::pki;

pub use failure::{Failure, TlsMetrics};
pub use issued::{IssuedError, IssuedList, SerialProblem};
pub use peer::{Peer, PeerProblem};

/// Where the aggregator's certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl ServerFiles {
    /// The files in an authority's folder.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            ca: dir.join(pki::CA_CERT),
            cert: dir.join(pki::SERVER_CERT),
            key: dir.join(pki::SERVER_KEY),
        }
    }
}

/// Why the aggregator's own certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error(
        "cannot read {path}; it must be readable by the user that the aggregator runs as, and \
         `conntracct-aggregator pki init` makes it for a new fleet"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {wanted} in PEM form")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The certificate's time is over.
    #[error("{path} expired at {not_after}; run `conntracct-aggregator pki renew-server`")]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it ended.
        not_after: Timestamp,
    },
    /// The certificate is not an aggregator's.
    #[error(
        "{path} is not an aggregator's certificate ({problem}); run `conntracct-aggregator pki \
         renew-server`"
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: PeerProblem,
    },
    /// Certificate and key do not fit.
    #[error(
        "{cert} and {key} cannot be used together; run `conntracct-aggregator pki renew-server`"
    )]
    Unusable {
        /// Our certificate.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
        /// What the library said.
        #[source]
        source: Box<rustls::Error>,
    },
}

/// What the aggregator shows nodes, and by whose certificates it knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    ca: Vec<CertificateDer<'static>>,
    own: Vec<CertificateDer<'static>>,
}

impl Certificates {
    /// Reads them.
    ///
    /// # Errors
    /// When a file is missing or holds something else.
    pub fn read(files: &ServerFiles) -> Result<Self, TlsError> {
        Ok(Self { ca: certificates(&files.ca)?, own: certificates(&files.cert)? })
    }

    /// What differs in `other`, in words.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let parts = [
            ("server certificate", self.own != other.own),
            ("CA certificate", self.ca != other.ca),
        ];
        parts.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
    }
}

/// The QUIC server's configuration, transport parameters aside.
///
/// # Errors
/// When a file is missing or holds something else, or our own certificate is not good at `now`.
pub fn server_config(
    files: &ServerFiles,
    issued: Arc<IssuedList>,
    now: Timestamp,
) -> Result<quinn::ServerConfig, TlsError> {
    let ca = certificates(&files.ca)?;
    let chain = certificates(&files.cert)?;
    check_own(files, &chain, now)?;
    let key = key(&files.key)?;
    let tls = rustls_config(&ca, chain, key, issued).map_err(|source| TlsError::Unusable {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source: Box::new(source),
    })?;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(tls)))
}

fn rustls_config(
    ca: &[CertificateDer<'static>],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    issued: Arc<IssuedList>,
) -> Result<QuicServerConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier::NodeVerifier::new(roots, &provider, issued)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    QuicServerConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()))
}

fn check_own(
    files: &ServerFiles,
    chain: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<(), TlsError> {
    let path = || files.cert.clone();
    let first = chain.first().map_or(&[][..], AsRef::as_ref);
    let not_after =
        peer::check_server(first).map_err(|problem| TlsError::NotOurs { path: path(), problem })?;
    if not_after < now { Err(TlsError::Expired { path: path(), not_after }) } else { Ok(()) }
}

/// Largest PEM file read, in bytes.
const MAX_PEM: u64 = 64 << 10;

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PEM).read_to_end(&mut content))
        .map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })?;
    Ok(content)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = || TlsError::NotPem { path: path.to_owned(), wanted: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(not_pem)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_refused| TlsError::NotPem { path: path.to_owned(), wanted: "private key" })
}
