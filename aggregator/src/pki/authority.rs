//! What the authority does: begin, issue, take back, list.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use flow::NodeName;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

use super::files::{self, Secrecy};
use super::issued::{IssuedCertificate, IssuedFile, Serial, Standing};
use super::{
    CA_CERT, CA_KEY, ISSUED, NODE_URI_PREFIX, PkiError, SERVER_CERT, SERVER_KEY, SERVER_URI, bundle,
};

/// How long the authority's certificate is good: ten years, more than a gateway's life.
pub const CA_VALIDITY: SignedDuration = SignedDuration::from_hours(10 * YEAR_HOURS);
/// How long the aggregator's certificate is good: two years; `pki renew-server` makes the next.
pub const SERVER_VALIDITY: SignedDuration = SignedDuration::from_hours(2 * YEAR_HOURS);
/// How long a node's certificate is good: two years; `pki issue NAME --renew` makes the next.
pub const NODE_VALIDITY: SignedDuration = SignedDuration::from_hours(2 * YEAR_HOURS);
/// Certificates are good from this long before their issue, for hosts whose clock is behind.
pub const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// Names of the aggregator where none are given.
pub const DEFAULT_SANS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const YEAR_HOURS: i64 = 8_766;

/// An authority: its folder, and where its key is.
#[derive(Clone, Debug)]
pub struct Authority {
    dir: PathBuf,
    ca_key: PathBuf,
}

/// What [`Authority::issue`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate as listed.
    pub certificate: IssuedCertificate,
    /// The bundle for `conntracct-node join`.
    pub bundle: PathBuf,
}

impl Authority {
    /// The authority in `dir`, whether it exists yet or not.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), ca_key: dir.join(CA_KEY) }
    }

    /// The same with its key at another place.
    #[must_use]
    pub fn with_key(self, ca_key: &Path) -> Self {
        Self { ca_key: ca_key.to_owned(), ..self }
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a new authority and the aggregator's certificate, good for the names `sans` (DNS
    /// names and IP addresses; [`DEFAULT_SANS`] where empty).
    ///
    /// # Errors
    /// When any of its files exists, a name is none, or the folder cannot be written.
    pub fn init(&self, sans: &[String], now: Timestamp) -> Result<(), PkiError> {
        let sans = server_names(sans)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.dir)
            .map_err(|source| PkiError::Unwritable { path: self.dir.clone(), source })?;
        let _lock = files::lock(&self.dir)?;
        let ours = [CA_CERT, SERVER_CERT, SERVER_KEY, ISSUED].map(|name| self.dir.join(name));
        if let Some(path) = ours.into_iter().chain([self.ca_key.clone()]).find(|p| p.exists()) {
            return Err(PkiError::Exists { path });
        }
        let key = new_key()?;
        let ca = ca_params(now)
            .self_signed(&key)
            .map_err(|source| PkiError::Crypto { what: "the authority's certificate", source })?;
        files::create(&self.ca_key, &key.serialize_pem(), Secrecy::Private)?;
        files::create(&self.dir.join(CA_CERT), &ca.pem(), Secrecy::Public)?;
        let issuer = Issuer::from_ca_cert_pem(&ca.pem(), key)
            .map_err(|source| PkiError::Crypto { what: "the authority", source })?;
        self.write_server(&issuer, sans, now)?;
        IssuedFile::default().save(&self.dir)
    }

    /// Makes a new certificate and key for the aggregator in place of the old ones.
    ///
    /// # Errors
    /// When there is no authority, its key is elsewhere, or the folder cannot be written.
    pub fn renew_server(&self, sans: &[String], now: Timestamp) -> Result<(), PkiError> {
        let sans = server_names(sans)?;
        self.exists()?;
        let _lock = files::lock(&self.dir)?;
        let issuer = self.issuer()?;
        self.write_server(&issuer, sans, now)
    }

    /// Issues a certificate to a node and writes its bundle to `out`, which must not exist.
    /// Where the node has a good certificate already, `renew` must say that another is wanted.
    ///
    /// # Errors
    /// When there is no authority, its key is elsewhere, the node has a certificate, or a file
    /// cannot be written.
    pub fn issue(
        &self,
        name: &NodeName,
        out: &Path,
        renew: bool,
        now: Timestamp,
    ) -> Result<Issued, PkiError> {
        self.issue_for(name, out, renew, now, NODE_VALIDITY)
    }

    /// As [`Authority::issue`], good for `validity` from now on.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_for(
        &self,
        name: &NodeName,
        out: &Path,
        renew: bool,
        now: Timestamp,
        validity: SignedDuration,
    ) -> Result<Issued, PkiError> {
        self.exists()?;
        let _lock = files::lock(&self.dir)?;
        let mut list = IssuedFile::load(&self.dir)?;
        let good = |c: &&IssuedCertificate| c.name == *name && c.standing(now) == Standing::Good;
        if let Some(old) = list.certificates.iter().find(good).filter(|_| !renew) {
            let (serial, not_after) = (old.serial, old.not_after);
            return Err(PkiError::AlreadyIssued { name: name.clone(), serial, not_after });
        }
        let issuer = self.issuer()?;
        let serial = Serial::random(&mut rand::rng());
        let not_after = whole_second(saturating_add(now, validity));
        let uri = format!("{NODE_URI_PREFIX}{name}");
        let mut params = leaf_params(name.as_str(), serial, now, not_after);
        params.subject_alt_names = vec![uri_san(&uri)?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = sign(&params, &issuer, "the node's certificate")?;
        let ca = files::read(&self.dir.join(CA_CERT), MAX_PEM)?;
        let text = bundle::compose(name, &ca, &certificate, &key);
        files::create(out, &text, Secrecy::Private)?;
        let certificate = IssuedCertificate {
            name: name.clone(),
            serial,
            issued_at: whole_second(now),
            not_after,
            revoked_at: None,
        };
        list.certificates.push(certificate.clone());
        // A bundle whose serial is not listed would be refused without an explanation.
        list.save(&self.dir).inspect_err(|_| drop(fs::remove_file(out)))?;
        Ok(Issued { certificate, bundle: out.to_owned() })
    }

    /// Takes back a node's certificates: all, or the one with `serial`. An aggregator that runs
    /// sees the change within seconds and closes the node's session.
    ///
    /// # Errors
    /// When the name or serial is unknown, all were revoked before, or the list cannot be written.
    pub fn revoke(
        &self,
        name: &NodeName,
        serial: Option<Serial>,
        now: Timestamp,
    ) -> Result<Vec<IssuedCertificate>, PkiError> {
        self.exists()?;
        let _lock = files::lock(&self.dir)?;
        let mut list = IssuedFile::load(&self.dir)?;
        let mut of_name = list.certificates.iter_mut().filter(|c| c.name == *name).peekable();
        if of_name.peek().is_none() {
            return Err(PkiError::UnknownName { name: name.clone() });
        }
        let mut before = None;
        let mut revoked = Vec::new();
        for certificate in of_name.filter(|c| serial.is_none_or(|wanted| c.serial == wanted)) {
            if certificate.revoked_at.is_some() {
                before = before.max(certificate.revoked_at);
            } else {
                certificate.revoked_at = Some(whole_second(now));
                revoked.push(certificate.clone());
            }
        }
        match (revoked.is_empty(), before, serial) {
            (false, ..) => list.save(&self.dir).map(|()| revoked),
            (true, Some(at), _) => Err(PkiError::AlreadyRevoked { name: name.clone(), at }),
            (true, None, Some(serial)) => {
                Err(PkiError::UnknownSerial { name: name.clone(), serial })
            }
            (true, None, None) => Err(PkiError::UnknownName { name: name.clone() }),
        }
    }

    /// Every certificate ever issued.
    ///
    /// # Errors
    /// When there is no authority or its list cannot be read.
    pub fn list(&self) -> Result<Vec<IssuedCertificate>, PkiError> {
        self.exists()?;
        IssuedFile::load(&self.dir).map(|list| list.certificates)
    }

    fn exists(&self) -> Result<(), PkiError> {
        if self.dir.join(CA_CERT).exists() {
            Ok(())
        } else {
            Err(PkiError::NoAuthority { dir: self.dir.clone(), missing: CA_CERT })
        }
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        if !self.ca_key.exists() {
            return Err(PkiError::KeyElsewhere { path: self.ca_key.clone() });
        }
        let damaged = |path: &Path, error: rcgen::Error| PkiError::Damaged {
            path: path.to_owned(),
            problem: error.to_string(),
        };
        let cert = self.dir.join(CA_CERT);
        let pem = files::read(&cert, MAX_PEM)?;
        let key = KeyPair::from_pem(&files::read(&self.ca_key, MAX_PEM)?)
            .map_err(|error| damaged(&self.ca_key, error))?;
        if !belongs(&pem, &key) {
            return Err(PkiError::WrongKey { key: self.ca_key.clone(), cert });
        }
        Issuer::from_ca_cert_pem(&pem, key).map_err(|error| damaged(&cert, error))
    }

    fn write_server(
        &self,
        issuer: &Issuer<'_, KeyPair>,
        sans: Vec<SanType>,
        now: Timestamp,
    ) -> Result<(), PkiError> {
        let serial = Serial::random(&mut rand::rng());
        let not_after = saturating_add(now, SERVER_VALIDITY);
        let mut params = leaf_params("conntracct aggregator", serial, now, not_after);
        params.subject_alt_names = sans;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (certificate, key) = sign(&params, issuer, "the aggregator's certificate")?;
        // Key first: a crash in between leaves a pair that says so at start, not a lost key.
        files::replace(&self.dir.join(SERVER_KEY), &key, Secrecy::Private)?;
        files::replace(&self.dir.join(SERVER_CERT), &certificate, Secrecy::Public)
    }
}

/// Largest certificate or key file read, in bytes.
const MAX_PEM: u64 = 64 << 10;

fn belongs(pem: &str, key: &KeyPair) -> bool {
    use rcgen::PublicKeyData;
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    x509_parser::parse_x509_certificate(&der)
        .is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|source| PkiError::Crypto { what: "a key", source })
}

fn sign(
    params: &CertificateParams,
    issuer: &Issuer<'_, KeyPair>,
    what: &'static str,
) -> Result<(String, String), PkiError> {
    let key = new_key()?;
    let certificate =
        params.signed_by(&key, issuer).map_err(|source| PkiError::Crypto { what, source })?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn ca_params(now: Timestamp) -> CertificateParams {
    let serial = Serial::random(&mut rand::rng());
    // The name is new each time, so that two authorities are never mistaken for each other.
    let name = format!("conntracct authority {}", &serial.to_string()[..8]);
    let mut params = leaf_params(&name, serial, now, saturating_add(now, CA_VALIDITY));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = false;
    params
}

fn leaf_params(
    name: &str,
    serial: Serial,
    now: Timestamp,
    not_after: Timestamp,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.not_before = to_offset(saturating_add(now, -BACKDATED));
    params.not_after = to_offset(not_after);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn server_names(texts: &[String]) -> Result<Vec<SanType>, PkiError> {
    let default = DEFAULT_SANS.map(str::to_owned);
    let texts = if texts.is_empty() { &default[..] } else { texts };
    let mut names = vec![uri_san(SERVER_URI)?];
    for text in texts {
        names.push(server_name(text).ok_or_else(|| PkiError::BadSan { text: text.clone() })?);
    }
    Ok(names)
}

fn server_name(text: &str) -> Option<SanType> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SanType::IpAddress(ip));
    }
    rustls_pki_types::DnsName::try_from(text).ok()?;
    text.try_into().ok().map(SanType::DnsName)
}

fn uri_san(uri: &str) -> Result<SanType, PkiError> {
    uri.try_into()
        .map(SanType::URI)
        .map_err(|source| PkiError::Crypto { what: "a certificate's name", source })
}

fn saturating_add(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn to_offset(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
