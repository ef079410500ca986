//! Why a connection to the aggregator does not come about: a closed set for metrics, a sentence
//! with the cure for each.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use quinn::ConnectionError;

/// Who refused whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// We refused the aggregator.
    Ours,
    /// The aggregator refused us.
    Theirs,
}

/// What was wrong with the refused side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It has no certificate.
    NoCertificate,
    /// Its certificate is of another authority.
    WrongAuthority,
    /// Its certificate's time is over.
    Expired,
    /// Its certificate's time has not begun.
    NotYetValid,
    /// Its certificate was revoked.
    Revoked,
    /// Its certificate is not in the aggregator's list.
    UnknownSerial,
    /// Its certificate is for the other side's use.
    WrongUse,
    /// Its certificate names something else.
    ForeignName,
    /// It does not hold its certificate's key.
    BadSignature,
    /// No common protocol version.
    Protocol,
    /// Another TLS alert.
    Other,
}

/// A handshake that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProblem {
    /// Who refused.
    pub by: Side,
    /// Why.
    pub failure: Failure,
    /// What the refusing side's library said, for the log's details.
    pub detail: String,
}

impl TlsProblem {
    /// The TLS refusal in a connection's error, if it is one. With TLS 1.3 the aggregator's
    /// refusal of our certificate comes after `connect` has returned, so every error of a
    /// connection before `Welcome` is worth a look.
    #[must_use]
    pub fn of(error: &ConnectionError) -> Option<Self> {
        let (by, code, detail) = match error {
            ConnectionError::TransportError(ours) => (Side::Ours, ours.code, ours.reason.clone()),
            ConnectionError::ConnectionClosed(theirs) => {
                let reason = String::from_utf8_lossy(&theirs.reason).into_owned();
                (Side::Theirs, theirs.error_code, reason)
            }
            _ => return None,
        };
        // RFC 9001 section 4.8: TLS alerts are the codes 0x100 to 0x1ff.
        let alert = u64::from(code).checked_sub(0x100).and_then(|code| u8::try_from(code).ok())?;
        Some(Self { by, failure: Failure::from_alert(alert), detail })
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.by {
            Side::Theirs => self.failure.refused_by_them(),
            Side::Ours => self.failure.refused_by_us(),
        })
    }
}

impl std::error::Error for TlsProblem {}

impl Failure {
    /// Every failure.
    pub const ALL: [Self; 11] = [
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
        Self::Other,
    ];

    /// RFC 8446 section 6.2, as both sides' verifiers choose the alerts.
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
            Self::Other => "other",
        }
    }

    const fn refused_by_them(self) -> &'static str {
        match self {
            Self::NoCertificate => {
                "the aggregator wants a certificate and this node has none: run \
                 `conntracct-aggregator pki issue NAME` there and `conntracct-node join \
                 NAME.bundle` here"
            }
            Self::WrongAuthority => {
                "the aggregator does not know the authority that issued this node's certificate: \
                 this bundle is of another fleet; issue one there and join again"
            }
            Self::Expired => {
                "this node's certificate has expired: issue a new one (`pki issue NAME`) and join \
                 again"
            }
            Self::NotYetValid => {
                "the aggregator says that this node's certificate is not valid yet: check the \
                 aggregator's clock"
            }
            Self::Revoked => {
                "this node's certificate was revoked: if that was a mistake, issue a new one \
                 (`pki issue NAME`) and join again"
            }
            Self::UnknownSerial => {
                "the aggregator's list does not hold this node's certificate: issue a new one \
                 (`pki issue NAME`) and join again, or restore its pki/issued.json"
            }
            Self::WrongUse => {
                "this node shows a certificate that is not for nodes: join with the bundle that \
                 `pki issue NAME` wrote"
            }
            Self::ForeignName => {
                "this node's certificate names no node: join with the bundle that `pki issue \
                 NAME` wrote"
            }
            Self::BadSignature => "this node's key does not fit its certificate: join again",
            Self::Protocol => {
                "the aggregator speaks another protocol version: upgrade the older side"
            }
            Self::Other => "the aggregator refused the TLS handshake",
        }
    }

    const fn refused_by_us(self) -> &'static str {
        match self {
            Self::NoCertificate => "the aggregator shows no certificate",
            Self::WrongAuthority => {
                "the aggregator's certificate is not of the authority in this node's ca.pem: this \
                 is another fleet's aggregator, or somebody stands in for it"
            }
            Self::Expired => {
                "the aggregator's certificate has expired: run `conntracct-aggregator pki \
                 renew-server` there, or check this host's clock"
            }
            Self::NotYetValid => {
                "the aggregator's certificate is not valid yet: check this host's clock"
            }
            Self::Revoked => "the aggregator's certificate was revoked",
            Self::UnknownSerial => "the aggregator's certificate is not acceptable",
            Self::WrongUse => {
                "the certificate shown is not an aggregator's: a node stands in for the aggregator"
            }
            Self::ForeignName => {
                "the certificate shown names another host or is not an aggregator's: check the \
                 address, or issue it with --san"
            }
            Self::BadSignature => "the aggregator does not hold its certificate's key",
            Self::Protocol => {
                "the other side does not speak conntracct/1: check the address and port, or \
                 upgrade the older side"
            }
            Self::Other => "the TLS handshake with the aggregator failed",
        }
    }
}

impl EncodeLabelValue for Failure {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        fmt::Write::write_str(encoder, self.as_str())
    }
}

impl EncodeLabelValue for Side {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        fmt::Write::write_str(encoder, if *self == Self::Ours { "node" } else { "aggregator" })
    }
}

/// Labels of a refused handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    /// Who refused.
    pub by: Side,
    /// Why.
    pub reason: Failure,
}

/// Handshakes refused, by side and reason.
#[derive(Clone, Debug)]
pub struct TlsMetrics {
    /// All label values are present from the start.
    pub refused: Family<FailureLabels, Counter>,
}

impl Default for TlsMetrics {
    fn default() -> Self {
        let refused = Family::default();
        for by in [Side::Ours, Side::Theirs] {
            for reason in Failure::ALL {
                drop(refused.get_or_create(&FailureLabels { by, reason }));
            }
        }
        Self { refused }
    }
}

impl TlsMetrics {
    /// Counts one.
    pub fn count(&self, problem: &TlsProblem) {
        let labels = FailureLabels { by: problem.by, reason: problem.failure };
        self.refused.get_or_create(&labels).inc();
    }

    /// How many `by` refused for `reason`.
    #[must_use]
    pub fn refused(&self, by: Side, reason: Failure) -> u64 {
        self.refused.get_or_create(&FailureLabels { by, reason }).get()
    }

    /// Makes the metrics visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "conntracct_uplink_handshakes_refused",
            "TLS handshakes refused, by whom and why. The log has the sentence with what to do",
            self.refused.clone(),
        );
    }
}
