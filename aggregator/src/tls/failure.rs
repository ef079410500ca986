//! Why handshakes fail: a closed set for metrics, a sentence for each.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use quinn::ConnectionError;

/// Why a connection did not get through its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The peer has no certificate.
    NoCertificate,
    /// Another authority's certificate.
    WrongAuthority,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// It was taken back.
    Revoked,
    /// Not in the list of issued ones.
    UnknownSerial,
    /// A certificate for another use.
    WrongUse,
    /// A certificate that names no node.
    ForeignName,
    /// The peer does not hold the certificate's key.
    BadSignature,
    /// No common protocol version.
    Protocol,
    /// The node refused our certificate.
    RefusedByPeer,
    /// It took too long.
    Timeout,
    /// The peer went away.
    Gone,
    /// Anything else.
    Other,
}

impl Failure {
    /// Every failure.
    pub const ALL: [Self; 14] = [
        Self::NoCertificate,
        Self::WrongAuthority,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::UnknownSerial,
        Self::WrongUse,
        Self::ForeignName,
        Self::BadSignature,
        Self::Protocol,
        Self::RefusedByPeer,
        Self::Timeout,
        Self::Gone,
        Self::Other,
    ];

    /// What made the handshake fail. The alert tells (RFC 8446 section 6.2, in QUIC by RFC 9001
    /// section 4.8), as `verifier` chooses it.
    #[must_use]
    pub fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(ours) => match alert(ours.code) {
                Some(alert) => Self::from_alert(alert),
                None => Self::Other,
            },
            ConnectionError::ConnectionClosed(theirs) => match alert(theirs.error_code) {
                Some(_) => Self::RefusedByPeer,
                None => Self::Gone,
            },
            ConnectionError::TimedOut => Self::Timeout,
            ConnectionError::VersionMismatch => Self::Protocol,
            ConnectionError::ApplicationClosed(_)
            | ConnectionError::Reset
            | ConnectionError::LocallyClosed => Self::Gone,
            ConnectionError::CidsExhausted => Self::Other,
        }
    }

    const fn from_alert(alert: u8) -> Self {
        match alert {
            42 => Self::ForeignName,
            43 => Self::WrongUse,
            44 => Self::Revoked,
            45 => Self::Expired,
            46 => Self::NotYetValid,
            48 => Self::WrongAuthority,
            49 => Self::UnknownSerial,
            51 => Self::BadSignature,
            116 => Self::NoCertificate,
            70 | 120 => Self::Protocol,
            _ => Self::Other,
        }
    }

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::WrongAuthority => "wrong_authority",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::UnknownSerial => "unknown_serial",
            Self::WrongUse => "wrong_use",
            Self::ForeignName => "foreign_name",
            Self::BadSignature => "bad_signature",
            Self::Protocol => "protocol",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Timeout => "timeout",
            Self::Gone => "gone",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCertificate => {
                "the peer showed no certificate; nodes need one from `pki issue`"
            }
            Self::WrongAuthority => {
                "the peer's certificate is of another authority; issue its bundle here"
            }
            Self::Expired => "the peer's certificate has expired; `pki issue` gives it a new one",
            Self::NotYetValid => {
                "the peer's certificate is not valid yet; check the clocks of both hosts"
            }
            Self::Revoked => "the peer's certificate was revoked; `pki issue` gives it a new one",
            Self::UnknownSerial => {
                "the peer's certificate is not in pki/issued.json; was that file restored or moved?"
            }
            Self::WrongUse => "the peer's certificate is not for nodes (clientAuth)",
            Self::ForeignName => "the peer's certificate names no node (SAN URI conntracct:node:)",
            Self::BadSignature => "the peer does not hold its certificate's key",
            Self::Protocol => "the peer speaks another protocol version; upgrade the older side",
            Self::RefusedByPeer => {
                "the peer refused this aggregator's certificate; its log says why"
            }
            Self::Timeout => "the peer did not finish the handshake in time",
            Self::Gone => "the peer went away during the handshake",
            Self::Other => "the handshake failed",
        })
    }
}

impl EncodeLabelValue for Failure {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        fmt::Write::write_str(encoder, self.as_str())
    }
}

/// The TLS alert in a QUIC error code, if it is one.
fn alert(code: quinn::TransportErrorCode) -> Option<u8> {
    u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
}

/// Label of a failed handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabel {
    /// Why it failed.
    pub reason: Failure,
}

/// Handshakes that failed, by reason.
#[derive(Clone, Debug)]
pub struct TlsMetrics {
    /// By reason; all reasons are present from the start.
    pub failed: Family<FailureLabel, Counter>,
}

impl Default for TlsMetrics {
    fn default() -> Self {
        let failed = Family::default();
        for reason in Failure::ALL {
            drop(failed.get_or_create(&FailureLabel { reason }));
        }
        Self { failed }
    }
}

impl TlsMetrics {
    /// Counts one.
    pub fn count(&self, reason: Failure) {
        self.failed.get_or_create(&FailureLabel { reason }).inc();
    }

    /// How many failed for `reason`.
    #[must_use]
    pub fn failed(&self, reason: Failure) -> u64 {
        self.failed.get_or_create(&FailureLabel { reason }).get()
    }

    /// Makes the metrics visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "conntracct_ingest_handshakes_failed",
            "Connections that did not get through the TLS handshake, by reason. Each reason has its \
             sentence in the log, with what to do",
            self.failed.clone(),
        );
    }
}
