//! Who a certificate says its holder is.

use flow::NodeName;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::pki::{NODE_URI_PREFIX, SERVER_URI, Serial};

/// A node as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// Its certificate's serial.
    pub serial: Serial,
    /// When its certificate ends.
    pub not_after: Timestamp,
}

/// Why a certificate is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerProblem {
    /// It cannot be parsed.
    #[error("it is malformed")]
    Malformed,
    /// It is for another use.
    #[error("it is not good for {0} and that only")]
    WrongUse(&'static str),
    /// It names something else, or nothing, or several things.
    #[error("its SAN URI is not a single {0}")]
    ForeignName(&'static str),
    /// Its serial is none of ours.
    #[error("its serial is not one of this authority's")]
    ForeignSerial,
    /// There is no certificate.
    #[error("there is none")]
    Absent,
}

impl Peer {
    /// Reads a node's certificate. Its signature is checked elsewhere.
    ///
    /// # Errors
    /// When it is not a node certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, PeerProblem> {
        let certificate = parse(der)?;
        let usage = usage(&certificate)?;
        if !usage.client_auth || usage.server_auth || usage.any {
            return Err(PeerProblem::WrongUse("clientAuth"));
        }
        let foreign = PeerProblem::ForeignName("conntracct:node:<name>");
        let name = single_uri(&certificate).and_then(|uri| uri.strip_prefix(NODE_URI_PREFIX));
        let node = name.and_then(|name| NodeName::new(name).ok()).ok_or(foreign)?;
        let serial =
            Serial::from_der(certificate.raw_serial()).ok_or(PeerProblem::ForeignSerial)?;
        Ok(Self { node, serial, not_after: not_after(&certificate) })
    }

    /// Reads the certificate that a connection's handshake was made with.
    ///
    /// # Errors
    /// When it is not a node certificate, or there is none.
    pub fn of(connection: &quinn::Connection) -> Result<Self, PeerProblem> {
        let identity = connection.peer_identity().ok_or(PeerProblem::Absent)?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>();
        let chain = chain.map_err(|_other_type| PeerProblem::Absent)?;
        Self::from_der(chain.first().ok_or(PeerProblem::Absent)?)
    }
}

/// Checks that a certificate is an aggregator's, and says when it ends.
pub(super) fn check_server(der: &[u8]) -> Result<Timestamp, PeerProblem> {
    let certificate = parse(der)?;
    let usage = usage(&certificate)?;
    if !usage.server_auth || usage.client_auth || usage.any {
        return Err(PeerProblem::WrongUse("serverAuth"));
    }
    if single_uri(&certificate) != Some(SERVER_URI) {
        return Err(PeerProblem::ForeignName(SERVER_URI));
    }
    Ok(not_after(&certificate))
}

struct Usage {
    client_auth: bool,
    server_auth: bool,
    any: bool,
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PeerProblem> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(PeerProblem::Malformed),
    }
}

fn usage(certificate: &X509Certificate<'_>) -> Result<Usage, PeerProblem> {
    let usage = certificate.extended_key_usage().map_err(|_malformed| PeerProblem::Malformed)?;
    Ok(usage.map_or(Usage { client_auth: false, server_auth: false, any: false }, |usage| Usage {
        client_auth: usage.value.client_auth,
        server_auth: usage.value.server_auth,
        any: usage.value.any,
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

fn not_after(certificate: &X509Certificate<'_>) -> Timestamp {
    // Beyond jiff's range (year 9999) is as good as never.
    Timestamp::from_second(certificate.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX)
}
