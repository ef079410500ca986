//! The one way in: sessions hand frames to the pipeline, the pipeline hands answers back.
//!
//! Sessions (one task a node) put the frames of an epoch in order and submit them here. One task
//! counts and commits; nothing else changes what has been counted.

mod admit;
pub mod commit;
mod decode;
pub mod hold;
pub mod intake;
mod metrics;
mod outbox;
pub mod task;

use bytes::Bytes;
use flow::clock::SessionClock;
use flow::{Epoch, NodeName, Seq, StoreId};
use tokio::sync::{mpsc, oneshot};
use wire::frame::Digest;

pub use metrics::PipelineMetrics;

/// A data frame that arrived whole: header parsed, digest checked, nothing decompressed.
#[derive(Debug)]
pub struct Arrived {
    /// Who sent it, from its certificate.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// First and last number it stands for (equal but for a `Gap` over several).
    pub first: Seq,
    /// See `first`.
    pub last: Seq,
    /// The digest of its header.
    pub digest: Digest,
    /// The whole frame as sent, header included.
    pub frame: Bytes,
    /// The live session's clock offset when it arrived.
    pub clock: Option<SessionClock>,
    /// Where its answer goes.
    pub answer: mpsc::Sender<Answer>,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Everything up to and including this number is committed; the digest of the frame with
    /// that number, where it is known.
    Ack(Seq, Option<Digest>),
    /// Not taken now: send it again after this many milliseconds.
    Later {
        /// The frame.
        seq: Seq,
        /// How long to wait.
        retry_after_ms: u32,
    },
    /// Never to be taken under this number, which another frame has.
    OtherBytes {
        /// The frame.
        seq: Seq,
        /// What is wrong, for a person.
        reason: String,
    },
    /// Never to be taken; the node replaces it by a `Gap`.
    Rejected {
        /// The frame.
        seq: Seq,
        /// Why, for a person.
        reason: String,
    },
}

/// What a session needs to know before it says `Welcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The store behind the pipeline.
    pub store: StoreId,
    /// The last committed number of this (node, epoch), [`Seq::NONE`] for a new one.
    pub committed: Seq,
    /// The digest of that frame, where there is one.
    pub digest: Option<Digest>,
}

/// Why the pipeline takes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PipelineError {
    /// It has stopped.
    #[error("the pipeline has stopped")]
    Stopped,
    /// The store cannot be asked now.
    #[error("the store is away: {0}")]
    StoreAway(String),
    /// The node begins one epoch after the other.
    #[error(transparent)]
    Epochs(#[from] intake::TooManyEpochs),
}

/// Requests of sessions to the pipeline.
#[derive(Debug)]
pub enum Request {
    /// A session begins. Frames taken from an older session of this node stay taken; copies of
    /// them get the answer of their originals.
    Open {
        /// The node.
        node: NodeName,
        /// Its epoch.
        epoch: Epoch,
        /// The answer.
        reply: oneshot::Sender<Result<Opened, PipelineError>>,
    },
    /// A frame.
    Frame(Box<Arrived>),
}

/// A session's handle to the pipeline. Its queue is bounded: a full one slows the sessions.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
}

impl Handle {
    /// Requests that may wait, 256 MiB of the largest frames; sessions wait when it is full, and
    /// QUIC slows the nodes.
    pub const QUEUE: usize = 64;

    /// A handle and the queue that the pipeline reads.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(Self::QUEUE);
        (Self { requests }, queue)
    }

    /// Begins a session.
    ///
    /// # Errors
    /// When the pipeline has stopped or its store cannot be asked.
    pub async fn open(&self, node: NodeName, epoch: Epoch) -> Result<Opened, PipelineError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Open { node, epoch, reply };
        self.requests.send(request).await.map_err(|_closed| PipelineError::Stopped)?;
        answer.await.map_err(|_closed| PipelineError::Stopped)?
    }

    /// Hands over a frame; waits while the queue is full.
    ///
    /// # Errors
    /// When the pipeline has stopped.
    pub async fn submit(&self, frame: Arrived) -> Result<(), PipelineError> {
        let request = Request::Frame(Box::new(frame));
        self.requests.send(request).await.map_err(|_closed| PipelineError::Stopped)
    }
}
