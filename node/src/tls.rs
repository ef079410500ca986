//! TLS towards the aggregator: who we are, whom we speak to, and what went wrong.
//!
//! TLS 1.3 only, ring as the only provider. The aggregator is known by its certificate: it must
//! chain to the authority in our `ca.pem`, be good for `serverAuth` and nothing else, and carry
//! one SAN URI `conntracct:aggregator`. That URI is its identity, not the address it was reached
//! at: gateways reach it by addresses that change, through NAT or over a tunnel, and the
//! authority issues such a certificate to nobody else. Where one authority serves several
//! aggregators that must not stand in for each other, [`HostCheck::Required`] also wants the
//! configured host among the certificate's DNS names or IP addresses.

mod expiry;
mod failure;
mod identity;
mod verifier;

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::RootCertStore;

pub use expiry::{Certificates, Expiry, Holder, Notice, Stage};
pub use failure::{Failure, FailureLabels, Side, TlsMetrics, TlsProblem};
pub(crate) use identity::ends;
pub use identity::{CertificateProblem, Identity, IdentityError, IdentityPaths};

/// Whether the aggregator's certificate must name the host it was reached at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostCheck {
    /// The SAN URI is enough.
    #[default]
    UriOnly,
    /// The host name or address given must be in the certificate too.
    Required,
}

/// An identity could not be made into a TLS configuration.
#[derive(Debug, thiserror::Error)]
#[error("the certificates of node {node} cannot be used; run `conntracct-node join` again")]
pub struct ConfigError {
    node: flow::NodeName,
    #[source]
    source: Box<rustls::Error>,
}

/// The QUIC client's configuration, transport parameters aside.
///
/// # Errors
/// When the identity's certificates or key cannot be used; [`Identity::load`] has checked them,
/// so this means a kind of key that is not supported.
pub fn client_config(
    identity: &Identity,
    host: HostCheck,
) -> Result<quinn::ClientConfig, ConfigError> {
    let tls = rustls_config(identity, host)
        .map_err(|source| ConfigError { node: identity.node.clone(), source: Box::new(source) })?;
    Ok(quinn::ClientConfig::new(Arc::new(tls)))
}

fn rustls_config(identity: &Identity, host: HostCheck) -> Result<QuicClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in &identity.ca {
        roots.add(authority.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier::AggregatorVerifier::new(roots, &provider, host);
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    // The aggregator resumes no sessions: every connection is checked in full.
    config.resumption = rustls::client::Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()))
}
