//! TLS of the listener: a certificate chain and a key from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::TlsAcceptor;

use super::TlsFiles;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the right kind.
    #[error("{} does not hold {what}", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What the parser or the system said.
        #[source]
        error: pem::Error,
    },
    /// Certificate and key do not serve.
    #[error("the certificate {} and its key cannot be used", cert.display())]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// What the library said.
        #[source]
        error: rustls::Error,
    },
}

/// A certificate chain, and what speaks TLS with it.
pub(super) struct Speaker {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) acceptor: TlsAcceptor,
}

/// What these files make.
pub(super) fn load(files: &TlsFiles) -> Result<Speaker, TlsError> {
    let chain = chain(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::Pem {
        file: files.key.clone(),
        what: "a private key in PEM",
        error,
    })?;
    let unusable = |error| TlsError::Unusable { cert: files.cert.clone(), error };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)
        .map_err(unusable)?;
    Ok(Speaker { chain, acceptor: TlsAcceptor::from(Arc::new(config)) })
}

/// The certificates of a file, at least one.
pub(super) fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error| {
        let what = "a certificate in PEM";
        TlsError::Pem { file: file.to_owned(), what, error }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect())
        .map_err(failed)?;
    if chain.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(chain)
}
