//! The fleet's own small certificate authority: who may speak to the aggregator, and as whom.
//!
//! One folder holds it all: `ca.pem` and `ca.key`, the aggregator's own `aggregator.pem` and
//! `aggregator.key`, and `issued.json`, the list of every node certificate ever issued. A node
//! certificate names its node in a SAN URI and is good for `clientAuth` only; the aggregator's is
//! good for `serverAuth` only, so that neither can play the other. Revocation is that list, not a
//! CRL: an expired CRL stops everybody and an empty one checks nothing.
//!
//! This is not a general CA: no intermediates, no requests signed for others, no renewal over the
//! network. What runs on the wire with these files is in [`crate::tls`].

pub mod authority;
mod bundle;
pub mod command;
mod files;
pub mod issued;

use std::io;
use std::path::PathBuf;

use flow::NodeName;

pub use authority::Authority;
pub use command::PkiCommand;
pub use issued::{IssuedCertificate, IssuedFile, Serial};

/// The authority's certificate; every node has a copy.
pub const CA_CERT: &str = "ca.pem";
/// The authority's key; needed to issue, never to run the aggregator.
pub const CA_KEY: &str = "ca.key";
/// The aggregator's certificate.
pub const SERVER_CERT: &str = "aggregator.pem";
/// The aggregator's key.
pub const SERVER_KEY: &str = "aggregator.key";
/// The list of issued node certificates.
pub const ISSUED: &str = "issued.json";

/// The SAN URI of the aggregator's certificate: what a node checks instead of a host name.
pub const SERVER_URI: &str = "conntracct:aggregator";
/// What the SAN URI of a node's certificate starts with; its name follows.
pub const NODE_URI_PREFIX: &str = "conntracct:node:";

/// Why a change to the authority, or a look at it, did not happen.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// `init` found something.
    #[error(
        "{path} exists already, nothing was changed; a second authority would lock out every node \
         of the first: move the folder away if that is what you want"
    )]
    Exists {
        /// The file that is there.
        path: PathBuf,
    },
    /// No authority in the folder.
    #[error(
        "there is no authority in {dir} ({missing} is missing); run `conntracct-aggregator pki \
         init`, or name the right folder with --dir"
    )]
    NoAuthority {
        /// The folder.
        dir: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// The CA key is not beside the certificate.
    #[error(
        "the CA key is not at {path}; it may be kept elsewhere: run this where it is, or name it \
         with --ca-key"
    )]
    KeyElsewhere {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is damaged: {problem}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate and the key do not belong together.
    #[error("{key} is not the key of {cert}")]
    WrongKey {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        cert: PathBuf,
    },
    /// The node has a certificate that is still good.
    #[error(
        "{name} has a certificate already (serial {serial}, good until {not_after}); `pki revoke \
         {name}` takes it away, `pki issue {name} --renew` makes another one beside it"
    )]
    AlreadyIssued {
        /// The node.
        name: NodeName,
        /// Its certificate.
        serial: Serial,
        /// When that ends.
        not_after: jiff::Timestamp,
    },
    /// No such node.
    #[error("no certificate was ever issued to {name}; `pki list` shows the names there are")]
    UnknownName {
        /// The name asked for.
        name: NodeName,
    },
    /// Nothing of that name is left to revoke.
    #[error("{name} has no certificate with serial {serial}; `pki list` shows those there are")]
    UnknownSerial {
        /// The name asked for.
        name: NodeName,
        /// The serial asked for.
        serial: Serial,
    },
    /// All were revoked before.
    #[error("every certificate of {name} was revoked before (the last at {at})")]
    AlreadyRevoked {
        /// The name asked for.
        name: NodeName,
        /// When the last one was.
        at: jiff::Timestamp,
    },
    /// A name for the aggregator's certificate that cannot stand in one.
    #[error(
        "{text:?} is neither an IP address nor a DNS name; give --san as in \
             --san gw.example.net --san 192.0.2.1"
    )]
    BadSan {
        /// What was given.
        text: String,
    },
    /// The cryptography refused.
    #[error("cannot make {what}")]
    Crypto {
        /// What was being made.
        what: &'static str,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
}
