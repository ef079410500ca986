//! The check of a node's certificate inside the handshake.
//!
//! Each refusal maps to a TLS alert of its own, because the alert is what the node's side learns
//! (`conntracct-node` turns it into a sentence): see [`super::failure`].

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::issued::{IssuedList, SerialProblem};
use super::peer::{Peer, PeerProblem};

/// Chain, time, use, name and serial of a node's certificate.
#[derive(Debug)]
pub(super) struct NodeVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    issued: Arc<IssuedList>,
}

impl NodeVerifier {
    pub(super) fn new(
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
        issued: Arc<IssuedList>,
    ) -> Result<Self, Error> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            // A node has one certificate and needs no hint which to send.
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { chain, issued })
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(tell_early_from_late)?;
        let peer = Peer::from_der(end_entity).map_err(|problem| match problem {
            PeerProblem::WrongUse(_) => CertificateError::InvalidPurpose,
            PeerProblem::ForeignName(_) => CertificateError::NotValidForName,
            PeerProblem::ForeignSerial => CertificateError::ApplicationVerificationFailure,
            PeerProblem::Malformed | PeerProblem::Absent => CertificateError::BadEncoding,
        })?;
        self.issued.check(&peer).map_err(|problem| match problem {
            SerialProblem::Revoked => CertificateError::Revoked,
            SerialProblem::Unknown => CertificateError::ApplicationVerificationFailure,
        })?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// TLS has one alert, `certificate_expired`, for both ends of a certificate's time; a clock that
/// is behind deserves another sentence, so that one goes out as `certificate_unknown`.
fn tell_early_from_late(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => CertificateError::Other(OtherError(Arc::new(NotYetValid))).into(),
        other => other,
    }
}

#[derive(thiserror::Error)]
#[error("not valid yet")]
struct NotYetValid;

impl fmt::Debug for NotYetValid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
