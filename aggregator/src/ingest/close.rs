//! Why sessions end and why they do not begin: closed sets for metrics, codes for the wire.

use std::fmt;

use daemon::config::chain;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use quinn::{ConnectionError, VarInt};
use wire::control::RefuseReason;

/// Why a connection ended. Its number is the QUIC application error code that the node sees; a
/// sentence travels beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseReason {
    /// The node closed it.
    Done = 0,
    /// The session was refused; a `Refused` message said why.
    Refused = 1,
    /// A newer session of the same node and epoch took over.
    Replaced = 2,
    /// The certificate was revoked, or is no longer listed.
    Revoked = 3,
    /// The certificate's time ended.
    Expired = 4,
    /// The node sent something that is not the protocol.
    Malformed = 5,
    /// The node speaks another protocol version.
    Version = 6,
    /// A frame did not arrive in time, or `Hello` did not.
    Stalled = 7,
    /// The node does not read what it is told.
    NotReading = 8,
    /// This aggregator stops.
    Shutdown = 9,
    /// The pipeline has stopped.
    Pipeline = 10,
    /// The path is gone: silence, reset, network failure.
    Lost = 11,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::Done,
        Self::Refused,
        Self::Replaced,
        Self::Revoked,
        Self::Expired,
        Self::Malformed,
        Self::Version,
        Self::Stalled,
        Self::NotReading,
        Self::Shutdown,
        Self::Pipeline,
        Self::Lost,
    ];

    /// The application error code.
    #[must_use]
    pub const fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Stalled => "stalled",
            Self::NotReading => "not_reading",
            Self::Shutdown => "shutdown",
            Self::Pipeline => "pipeline",
            Self::Lost => "lost",
        }
    }
}

impl EncodeLabelValue for CloseReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        fmt::Write::write_str(encoder, self.as_str())
    }
}

/// How a connection ended: the reason, and a sentence for the log and for the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) reason: CloseReason,
    pub(super) text: String,
}

impl End {
    pub(super) fn new(reason: CloseReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// What the node did wrong.
    pub(super) fn malformed(error: &dyn std::error::Error) -> Self {
        Self::new(CloseReason::Malformed, chain(error))
    }

    /// The other side, or the network, ended it; or we did, on behalf of another task.
    pub(super) fn of(error: &ConnectionError) -> Self {
        let reason = match error {
            ConnectionError::ApplicationClosed(_) => CloseReason::Done,
            _ => CloseReason::Lost,
        };
        Self::new(reason, error.to_string())
    }
}

/// Label of a refused session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefuseLabel(pub RefuseReason);

impl RefuseLabel {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self(RefuseReason::WrongName),
        Self(RefuseReason::NameInUse),
        Self(RefuseReason::Revoked),
        Self(RefuseReason::Unavailable),
        Self(RefuseReason::TooManyNodes),
        Self(RefuseReason::Malformed),
        Self(RefuseReason::Unknown),
    ];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            RefuseReason::WrongName => "wrong_name",
            RefuseReason::NameInUse => "name_in_use",
            RefuseReason::Revoked => "revoked",
            RefuseReason::Unavailable => "unavailable",
            RefuseReason::TooManyNodes => "too_many_nodes",
            RefuseReason::Malformed => "malformed",
            RefuseReason::Unknown => "unknown",
        }
    }
}

impl EncodeLabelValue for RefuseLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        fmt::Write::write_str(encoder, self.as_str())
    }
}
