//! The check of the aggregator's certificate inside the handshake.
//!
//! Each refusal maps to a TLS alert of its own, which both sides turn into a sentence: see
//! [`super::failure`].

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::HostCheck;
use super::identity::{CertificateProblem, check_aggregator_certificate};

/// Chain, time, use and name of the aggregator's certificate.
#[derive(Debug)]
pub(super) struct AggregatorVerifier {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    host: HostCheck,
}

impl AggregatorVerifier {
    pub(super) fn new(roots: RootCertStore, provider: &CryptoProvider, host: HostCheck) -> Self {
        Self { roots, algorithms: provider.signature_verification_algorithms, host }
    }
}

impl ServerCertVerifier for AggregatorVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
        .map_err(tell_early_from_late)?;
        check_aggregator_certificate(end_entity).map_err(|problem| match problem {
            CertificateProblem::WrongUse => CertificateError::InvalidPurpose,
            CertificateProblem::ForeignName => CertificateError::NotValidForName,
            CertificateProblem::Malformed => CertificateError::BadEncoding,
        })?;
        if self.host == HostCheck::Required {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC never speaks TLS 1.2 (RFC 9001 section 4.2)".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
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
