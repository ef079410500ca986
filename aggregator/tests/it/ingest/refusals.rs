//! Who is not let in, by whom, and what both sides say about it.

use std::path::Path;
use std::sync::Arc;

use aggregator::pki;
use aggregator::tls::{self, Failure, TlsError};
use jiff::Timestamp;
use node::tls::{Failure as NodeFailure, HostCheck, Identity, IdentityError, Side, TlsProblem};
use quinn::Endpoint;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, SerialNumber};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::fleet::{Client, Fleet, Server, config_of, dial, hours};

/// What the node learns when it connects with `config`.
async fn refusal(server: &Server, config: quinn::ClientConfig) -> TlsProblem {
    let error = match dial(server.address, config).await {
        // With TLS 1.3 the client may be through before the server has looked at it.
        Ok((connection, _endpoint)) => connection.closed().await,
        Err(error) => error,
    };
    TlsProblem::of(&error).unwrap_or_else(|| panic!("no TLS refusal: {error}"))
}

/// The aggregator refuses, for these reasons, and both sides say so in a line.
async fn refused_by_aggregator(
    server: &Server,
    config: quinn::ClientConfig,
    ours: Failure,
    nodes: NodeFailure,
) {
    let problem = refusal(server, config).await;
    assert_eq!((problem.by, problem.failure), (Side::Theirs, nodes), "{problem:?}");
    let metrics = node::tls::TlsMetrics::default();
    metrics.count(&problem);
    assert_eq!(metrics.refused(Side::Theirs, nodes), 1);
    server.until(|metrics| metrics.tls.failed(ours) > 0).await;
    assert_eq!(server.metrics.tls.failed(ours), 1);
    let others: u64 = Failure::ALL.iter().map(|f| server.metrics.tls.failed(*f)).sum();
    assert_eq!(others, 1);
    let line = ours.to_string();
    assert!(server.log().contains(&line), "{line:?} not in {}", server.log());
    assert!(problem.to_string().len() > 20);
}

/// A client that trusts anybody: only the aggregator's checks stand in its way.
fn reckless(identity: Option<(&Path, &Path)>) -> quinn::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnybody));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

#[derive(Debug)]
struct TrustsAnybody;

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Has the fleet's own key sign a certificate that `pki issue` would never make.
fn forge(fleet: &Fleet, name: &str, uri: &str, usage: ExtendedKeyUsagePurpose) {
    let read = |file| std::fs::read_to_string(fleet.authority.dir().join(file)).unwrap();
    let ca_key = KeyPair::from_pem(&read(pki::CA_KEY)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read(pki::CA_CERT), ca_key).unwrap();
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&[0x41; 16]));
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    let (cert_path, key_path) = super::fleet::pem_paths(fleet.dir.path(), name);
    std::fs::write(cert_path, cert.pem()).unwrap();
    std::fs::write(key_path, key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn a_peer_without_a_certificate() {
    let server = Server::start(&Fleet::new());
    let (ours, nodes) = (Failure::NoCertificate, NodeFailure::NoCertificate);
    refused_by_aggregator(&server, reckless(None), ours, nodes).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let server = Server::start(&fleet);
    let paths = other.join("gw1");
    let config = reckless(Some((&paths.cert, &paths.key)));
    let (ours, nodes) = (Failure::WrongAuthority, NodeFailure::WrongAuthority);
    refused_by_aggregator(&server, config, ours, nodes).await;
}

#[tokio::test]
async fn an_expired_certificate() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let paths = fleet.join_at("gw1", Timestamp::now() - hours(3 * 8_766));
    let (ours, nodes) = (Failure::Expired, NodeFailure::Expired);
    refused_by_aggregator(&server, config_of(&paths), ours, nodes).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let paths = fleet.join_at("gw1", Timestamp::now() + hours(48));
    let (ours, nodes) = (Failure::NotYetValid, NodeFailure::NotYetValid);
    refused_by_aggregator(&server, config_of(&paths), ours, nodes).await;
}

#[tokio::test]
async fn a_revoked_certificate() {
    let fleet = Fleet::new();
    let paths = fleet.join("gw1");
    fleet.revoke("gw1");
    let server = Server::start(&fleet);
    let (ours, nodes) = (Failure::Revoked, NodeFailure::Revoked);
    refused_by_aggregator(&server, config_of(&paths), ours, nodes).await;
}

#[tokio::test]
async fn a_serial_that_is_not_listed() {
    let fleet = Fleet::new();
    let list = fleet.authority.dir().join(pki::ISSUED);
    let before = std::fs::read(&list).unwrap();
    let paths = fleet.join("gw1");
    std::fs::write(&list, before).unwrap();
    let server = Server::start(&fleet);
    let (ours, nodes) = (Failure::UnknownSerial, NodeFailure::UnknownSerial);
    refused_by_aggregator(&server, config_of(&paths), ours, nodes).await;
}

#[tokio::test]
async fn the_aggregators_certificate_playing_node() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let files = fleet.files();
    let config = reckless(Some((&files.cert, &files.key)));
    refused_by_aggregator(&server, config, Failure::WrongUse, NodeFailure::WrongUse).await;
}

#[tokio::test]
async fn a_node_certificate_with_a_foreign_name() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    forge(&fleet, "odd", "spiffe://example/gw1", ExtendedKeyUsagePurpose::ClientAuth);
    let (cert, key) = super::fleet::pem_paths(fleet.dir.path(), "odd");
    let config = reckless(Some((&cert, &key)));
    refused_by_aggregator(&server, config, Failure::ForeignName, NodeFailure::ForeignName).await;
}

#[tokio::test]
async fn another_protocol_version() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"conntracct/2".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    refused_by_aggregator(&server, config, Failure::Protocol, NodeFailure::Protocol).await;
}

#[tokio::test]
async fn a_certificate_revoked_while_its_node_is_connected() {
    let fleet = Fleet::new();
    let (paths, other) = (fleet.join("gw1"), fleet.join("gw2"));
    let server = Server::start(&fleet);
    let client = Client::welcome(&server, &paths, "gw1").await;
    let mut bystander = Client::welcome(&server, &other, "gw2").await;
    fleet.revoke("gw1");
    server.issued.reload().unwrap();
    let (code, told) = client.closed().await;
    assert_eq!(code, 3);
    assert!(told.contains("revoked"), "{told}");
    server.until(|m| m.closed(aggregator::ingest::CloseReason::Revoked) == 1).await;
    assert!(server.log().contains("certificate was revoked"), "{}", server.log());
    let again = refusal(&server, config_of(&paths)).await;
    assert_eq!((again.by, again.failure), (Side::Theirs, NodeFailure::Revoked));
    bystander.data(&super::fleet::batch(1).bytes).await;
    assert!(matches!(bystander.hear().await, wire::control::Message::Received(_)));
}

#[tokio::test]
async fn a_damaged_list_changes_nothing_until_it_is_whole_again() {
    let fleet = Fleet::new();
    let paths = fleet.join("gw1");
    let server = Server::start(&fleet);
    std::fs::write(fleet.authority.dir().join(pki::ISSUED), "{").unwrap();
    assert!(server.issued.reload().is_err());
    Client::welcome(&server, &paths, "gw1").await;
}

/// A server that shows `cert`, as an impostor would; counts nothing.
fn impostor(cert: &Path, key: &Path) -> Endpoint {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    config.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(config).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    Endpoint::server(config, "[::1]:0".parse().unwrap()).unwrap()
}

/// The node refuses an impostor, and the impostor's side learns why.
async fn refused_by_node(cert: &Path, key: &Path, config: quinn::ClientConfig, why: NodeFailure) {
    let endpoint = impostor(cert, key);
    let address = endpoint.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let incoming = endpoint.accept().await.unwrap();
        incoming.await.unwrap_err()
    });
    let error = dial(address, config).await.err().unwrap();
    let problem = TlsProblem::of(&error).unwrap();
    assert_eq!((problem.by, problem.failure), (Side::Ours, why), "{problem:?}");
    let metrics = node::tls::TlsMetrics::default();
    metrics.count(&problem);
    assert_eq!(metrics.refused(Side::Ours, why), 1);
    assert_eq!(Failure::of(&accepting.await.unwrap()), Failure::RefusedByPeer);
}

#[tokio::test]
async fn a_node_certificate_playing_aggregator() {
    let fleet = Fleet::new();
    let (victim, thief) = (fleet.join("gw1"), fleet.join("gw2"));
    let config = config_of(&victim);
    refused_by_node(&thief.cert, &thief.key, config, NodeFailure::WrongUse).await;
}

#[tokio::test]
async fn an_aggregator_of_another_authority() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let config = config_of(&fleet.join("gw1"));
    let files = other.files();
    refused_by_node(&files.cert, &files.key, config, NodeFailure::WrongAuthority).await;
}

#[tokio::test]
async fn an_aggregator_with_a_foreign_name() {
    let fleet = Fleet::new();
    let config = config_of(&fleet.join("gw1"));
    forge(&fleet, "odd", "conntracct:other", ExtendedKeyUsagePurpose::ServerAuth);
    let (cert, key) = super::fleet::pem_paths(fleet.dir.path(), "odd");
    refused_by_node(&cert, &key, config, NodeFailure::ForeignName).await;
}

#[tokio::test]
async fn an_expired_aggregator_is_refused_by_nodes_and_refuses_to_start() {
    let fleet = Fleet::new();
    fleet.authority.renew_server(&[], Timestamp::now() - hours(3 * 8_766)).unwrap();
    let files = fleet.files();
    let config = config_of(&fleet.join("gw1"));
    refused_by_node(&files.cert, &files.key, config, NodeFailure::Expired).await;

    let issued = Arc::new(tls::IssuedList::load(fleet.authority.dir()).unwrap());
    let error = tls::server_config(&files, issued.clone(), Timestamp::now()).unwrap_err();
    assert!(matches!(error, TlsError::Expired { .. }), "{error}");
    assert!(error.to_string().contains("pki renew-server"), "{error}");
    let node = fleet.join("gw2");
    let swapped = tls::ServerFiles { cert: node.cert, key: node.key, ..files };
    let error = tls::server_config(&swapped, issued, Timestamp::now()).unwrap_err();
    assert!(matches!(error, TlsError::NotOurs { .. }), "{error}");
}

#[tokio::test]
async fn the_host_is_checked_only_where_that_is_asked_for() {
    let fleet = Fleet::new();
    fleet.authority.renew_server(&["gw.example.net".to_owned()], Timestamp::now()).unwrap();
    let paths = fleet.join("gw1");
    let files = fleet.files();
    let identity = Identity::load(&paths).unwrap();
    let strict = node::tls::client_config(&identity, HostCheck::Required).unwrap();
    refused_by_node(&files.cert, &files.key, strict, NodeFailure::ForeignName).await;
    let server = Server::start(&fleet);
    Client::welcome(&server, &paths, "gw1").await;
}

#[test]
fn an_identity_of_mixed_files_is_refused_before_it_is_used() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let (ours, theirs) = (fleet.join("gw1"), other.join("gw1"));
    let mixed = node::tls::IdentityPaths { ca: theirs.ca, ..ours.clone() };
    let error = Identity::load(&mixed).unwrap_err();
    assert!(matches!(error, IdentityError::WrongAuthority { .. }), "{error}");
    let mixed = node::tls::IdentityPaths { key: theirs.key, ..ours };
    let error = Identity::load(&mixed).unwrap_err();
    assert!(matches!(error, IdentityError::WrongKey { .. }), "{error}");
}
