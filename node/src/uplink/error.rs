//! Why sessions end, in words for a person and labels for metrics.

use std::net::SocketAddr;

use quinn::ConnectionError;
use thiserror::Error;
use wire::control::ControlError;
use wire::frame::FrameError;

use super::core::Ended;
use super::owner::SpoolGone;
use crate::spool::SpoolError;
use crate::tls::TlsProblem;

/// Why a session, or an attempt at one, ended. Made for a person; [`SessionError::label`] for
/// metrics.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The core ended it.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// A certificate was refused, by us or by the aggregator.
    #[error("{problem}")]
    Tls {
        /// Who refused whom, and what to do.
        problem: TlsProblem,
    },
    /// Nobody answers.
    #[error("no answer from the aggregator at {address}; is it running, and does UDP reach it?")]
    NoAnswer {
        /// The address.
        address: SocketAddr,
    },
    /// The aggregator closed the connection and said why.
    #[error("the aggregator closed the connection: {why}")]
    ClosedByPeer {
        /// Its words.
        why: String,
    },
    /// The connection broke.
    #[error("the connection to {address} broke")]
    Lost {
        /// The address.
        address: SocketAddr,
        /// How.
        #[source]
        error: ConnectionError,
    },
    /// The connection could not even be begun.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        error: quinn::ConnectError,
    },
    /// The aggregator sent a frame that is none.
    #[error("the aggregator sent something that is not a conntracct frame")]
    Frame(#[from] FrameError),
    /// The aggregator sent a message that cannot be read, or ours cannot be written.
    #[error("a control message cannot be read or written")]
    Control(#[from] ControlError),
    /// The spool failed.
    #[error("the spool failed")]
    Spool(#[from] SpoolError),
    /// The spool's thread has ended.
    #[error(transparent)]
    SpoolGone(#[from] SpoolGone),
    /// The host name has no address.
    #[error("the aggregator's name {host} has no address; check it and the resolver")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        error: std::io::Error,
    },
}

impl SessionError {
    /// Every label that [`SessionError::label`] gives.
    pub const LABELS: [&str; 13] = [
        "epoch_done",
        "disputed",
        "refused",
        "other_store",
        "no_welcome",
        "silence",
        "protocol",
        "tls",
        "no_answer",
        "closed",
        "lost",
        "spool",
        "resolve",
    ];

    /// The reason as a metric's label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Ended(Ended::EpochDone) => "epoch_done",
            Self::Ended(Ended::Disputed) => "disputed",
            Self::Ended(Ended::Refused { .. }) => "refused",
            Self::Ended(Ended::OtherStore { .. }) => "other_store",
            Self::Ended(Ended::NoWelcome { .. }) => "no_welcome",
            Self::Ended(Ended::Silence { .. }) => "silence",
            Self::Ended(Ended::Protocol { .. }) | Self::Frame(_) | Self::Control(_) => "protocol",
            Self::Tls { .. } => "tls",
            Self::NoAnswer { .. } => "no_answer",
            Self::ClosedByPeer { .. } => "closed",
            Self::Lost { .. } | Self::Connect { .. } => "lost",
            Self::Spool(_) | Self::SpoolGone(_) => "spool",
            Self::Resolve { .. } => "resolve",
        }
    }

    /// Whether a person must do something before it can work.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::Ended(Ended::OtherStore { .. } | Ended::Refused { .. } | Ended::Disputed)
                | Self::Tls { .. }
        )
    }

    pub(crate) fn lost(address: SocketAddr, error: ConnectionError) -> Self {
        if let Some(problem) = TlsProblem::of(&error) {
            return Self::Tls { problem };
        }
        match error {
            ConnectionError::TimedOut => Self::NoAnswer { address },
            ConnectionError::ApplicationClosed(close) => {
                Self::ClosedByPeer { why: String::from_utf8_lossy(&close.reason).into_owned() }
            }
            error => Self::Lost { address, error },
        }
    }
}
