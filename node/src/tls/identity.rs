//! The node's identity: the authority's certificate, its own, and its key, checked as a whole
//! before anything is sent.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flow::NodeName;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The SAN URI of an aggregator's certificate.
const AGGREGATOR_URI: &str = "conntracct:aggregator";
/// What the SAN URI of a node's certificate starts with; its name follows.
const NODE_URI_PREFIX: &str = "conntracct:node:";
/// Largest PEM file read, in bytes.
const MAX_PEM: u64 = 64 << 10;

/// Where a node's certificates and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPaths {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl IdentityPaths {
    /// Where `conntracct-node join` puts them unless told otherwise.
    pub const DEFAULT_DIR: &str = "/etc/conntracct/pki";

    /// The files in a folder written by `conntracct-node join`.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        Self { ca: dir.join("ca.pem"), cert: dir.join("node.pem"), key: dir.join("node.key") }
    }
}

impl Default for IdentityPaths {
    fn default() -> Self {
        Self::in_dir(Path::new(Self::DEFAULT_DIR))
    }
}

/// A node's checked certificates and key.
#[derive(Debug)]
pub struct Identity {
    /// The node's name, from its certificate.
    pub node: NodeName,
    /// When the certificate ends.
    pub not_after: Timestamp,
    pub(super) ca: Vec<CertificateDer<'static>>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The files are not there.
    #[error(
        "no keys in {dir} ({missing} is missing): run `conntracct-aggregator pki issue NAME` \
         there and `conntracct-node join NAME.bundle` here"
    )]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// The first file that is not there.
        missing: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {path}; it must be readable by the user that conntracct-node runs as")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {wanted} in PEM form; `conntracct-node join NAME.bundle` writes it")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The certificate is not a node's.
    #[error(
        "{path} is not a node's certificate ({problem}); use the bundle that \
         `conntracct-aggregator pki issue NAME` wrote"
    )]
    NotANode {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: CertificateProblem,
    },
    /// Certificate and key do not fit.
    #[error("{key} is not the key of {cert}; run `conntracct-node join` with the node's bundle")]
    WrongKey {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        cert: PathBuf,
    },
    /// The certificate is of another authority.
    #[error(
        "{cert} was not issued by the authority in {ca}; both come in one bundle: run \
         `conntracct-node join` with it"
    )]
    WrongAuthority {
        /// The certificate file.
        cert: PathBuf,
        /// The authority's file.
        ca: PathBuf,
    },
}

/// Why a certificate is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// It cannot be parsed.
    #[error("it is malformed")]
    Malformed,
    /// It is for another use.
    #[error("it is for another use")]
    WrongUse,
    /// It names something else, nothing, or several things.
    #[error("its SAN URI names something else")]
    ForeignName,
}

impl Identity {
    /// Reads and checks the three files: the certificate is a node's, the key is its key, the
    /// authority signed it. Its time is not checked here: an expired one is refused by the
    /// aggregator, and renewing it must not need a restart loop.
    ///
    /// # Errors
    /// When a file is missing, holds something else, or they do not belong together; each names
    /// the file and the cure.
    pub fn load(paths: &IdentityPaths) -> Result<Self, IdentityError> {
        if let Some(missing) = [&paths.ca, &paths.cert, &paths.key].into_iter().find(|p| absent(p))
        {
            let dir = missing.parent().unwrap_or_else(|| Path::new(".")).to_owned();
            return Err(IdentityError::Missing { dir, missing: missing.clone() });
        }
        let (ca, chain) = (read(&paths.ca)?, read(&paths.cert)?);
        Self::parse(&ca, &chain, &read(&paths.key)?, paths)
    }

    /// As [`Identity::load`], of content that is in memory; `paths` are its names in errors.
    pub(crate) fn parse(
        ca: &[u8],
        chain: &[u8],
        key: &[u8],
        paths: &IdentityPaths,
    ) -> Result<Self, IdentityError> {
        let ca = certificates(ca, &paths.ca)?;
        let chain = certificates(chain, &paths.cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_refused| IdentityError::NotPem {
            path: paths.key.clone(),
            wanted: "private key",
        })?;
        let first = chain.first().map_or(&[][..], AsRef::as_ref);
        let (node, not_after, not_before) = parse_node_certificate(first)
            .map_err(|problem| IdentityError::NotANode { path: paths.cert.clone(), problem })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider).map_err(|_mismatch| {
            IdentityError::WrongKey { key: paths.key.clone(), cert: paths.cert.clone() }
        })?;
        let wrong_authority =
            || IdentityError::WrongAuthority { cert: paths.cert.clone(), ca: paths.ca.clone() };
        let mut roots = RootCertStore::empty();
        for authority in &ca {
            roots.add(authority.clone()).map_err(|_not_a_root| wrong_authority())?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .map_err(|_no_root| wrong_authority())?;
        // Whether the authority signed it does not depend on today's date.
        let within = not_before.as_duration().as_secs().max(0).unsigned_abs();
        let within = UnixTime::since_unix_epoch(std::time::Duration::from_secs(within));
        let (leaf, rest) = chain.split_first().ok_or_else(wrong_authority)?;
        verifier.verify_client_cert(leaf, rest, within).map_err(|_refused| wrong_authority())?;
        Ok(Self { node, not_after, ca, chain, key })
    }

    /// Whether this node's certificate is the one in `other`.
    pub(crate) fn has_certificate_of(&self, other: &Self) -> bool {
        self.chain == other.chain
    }

    /// Whether the authority is the one in `other`.
    pub(crate) fn has_authority_of(&self, other: &Self) -> bool {
        self.ca == other.ca
    }

    /// When the authority's certificate ends; the last of several, as there are while one takes
    /// another's place.
    #[must_use]
    pub fn authority_not_after(&self) -> Option<Timestamp> {
        self.ca.iter().filter_map(|der| ends(der)).max()
    }

    /// Whether `other` is the same certificate.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.has_certificate_of(other) && self.has_authority_of(other)
    }

    /// Whether `newer` is another certificate of the same node and authority.
    pub(crate) fn renewed_by(&self, newer: &Self) -> bool {
        self.node == newer.node && self.has_authority_of(newer)
    }
}

/// Name, end and begin of a node certificate. Its signature is checked elsewhere.
fn parse_node_certificate(
    der: &[u8],
) -> Result<(NodeName, Timestamp, Timestamp), CertificateProblem> {
    let certificate = parse(der)?;
    let (client, server) = usage(&certificate)?;
    if !client || server {
        return Err(CertificateProblem::WrongUse);
    }
    let name = single_uri(&certificate).and_then(|uri| uri.strip_prefix(NODE_URI_PREFIX));
    let node = name.and_then(|name| NodeName::new(name).ok());
    let validity = certificate.validity();
    let time = |at: i64, beyond| Timestamp::from_second(at).unwrap_or(beyond);
    let not_after = time(validity.not_after.timestamp(), Timestamp::MAX);
    let not_before = time(validity.not_before.timestamp(), Timestamp::UNIX_EPOCH);
    Ok((node.ok_or(CertificateProblem::ForeignName)?, not_after, not_before))
}

/// When a certificate ends; `None` where it is none.
pub(crate) fn ends(der: &[u8]) -> Option<Timestamp> {
    let after = parse(der).ok()?.validity().not_after.timestamp();
    Some(Timestamp::from_second(after).unwrap_or(Timestamp::MAX))
}

/// Checks use and name of an aggregator's certificate. Its signature is checked elsewhere.
pub(super) fn check_aggregator_certificate(der: &[u8]) -> Result<(), CertificateProblem> {
    let certificate = parse(der)?;
    let (client, server) = usage(&certificate)?;
    if !server || client {
        return Err(CertificateProblem::WrongUse);
    }
    if single_uri(&certificate) == Some(AGGREGATOR_URI) {
        Ok(())
    } else {
        Err(CertificateProblem::ForeignName)
    }
}

fn absent(path: &Path) -> bool {
    matches!(path.metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PEM).read_to_end(&mut content))
        .map_err(|source| IdentityError::Unreadable { path: path.to_owned(), source })?;
    Ok(content)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| IdentityError::NotPem { path: path.to_owned(), wanted: "certificate" })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateProblem> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateProblem::Malformed),
    }
}

/// Good for clients, good for servers; `anyExtendedKeyUsage` counts as both.
fn usage(certificate: &X509Certificate<'_>) -> Result<(bool, bool), CertificateProblem> {
    let usage =
        certificate.extended_key_usage().map_err(|_malformed| CertificateProblem::Malformed)?;
    Ok(usage.map_or((false, false), |usage| {
        (usage.value.client_auth || usage.value.any, usage.value.server_auth || usage.value.any)
    }))
}

fn single_uri<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    uris.next().filter(|_| uris.next().is_none())
}
