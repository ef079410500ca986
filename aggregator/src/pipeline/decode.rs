//! From a frame's bytes to what is counted.

use flow::UnixNanos;
use thiserror::Error;
use wire::batch::{self, BatchError};
use wire::frame::{FrameError, Header, Kind};
use wire::gap::{Gap, GapError};

use super::Arrived;
use crate::count::frame::FrameRefused;
use crate::count::{Body, Frame};

/// Why a frame can never be taken.
#[derive(Debug, Error)]
pub(super) enum Undecodable {
    /// The envelope is wrong.
    #[error("its header cannot be read")]
    Frame(#[from] FrameError),
    /// The batch is wrong.
    #[error("its batch cannot be decoded")]
    Batch(#[from] BatchError),
    /// The gap is wrong.
    #[error("its gap cannot be decoded")]
    Gap(#[from] GapError),
    /// A value cannot be stored.
    #[error(transparent)]
    Values(#[from] FrameRefused),
    /// It is no data frame.
    #[error("frames of kind {0} carry no data")]
    Kind(u16),
    /// What it is announced as is not what it says.
    #[error("it was announced as number {announced} and says {said}")]
    Number {
        /// The number it came under.
        announced: u64,
        /// The number inside.
        said: u64,
    },
}

/// A frame, and the bytes it declared: what it takes of the decode budget until it is committed.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) frame: Frame,
    pub(super) declared: usize,
}

fn envelope(arrived: &Arrived) -> Result<wire::frame::Frame, FrameError> {
    // The session has checked the digest over all bytes.
    let header = Header::peek(&arrived.frame)?;
    Ok(wire::frame::Frame { header, bytes: arrived.frame.clone() })
}

/// Whether it is a gap, by its header.
pub(super) fn is_gap(arrived: &Arrived) -> bool {
    Header::peek(&arrived.frame).is_ok_and(|header| header.kind == Kind::GAP)
}

/// The bytes a frame will take of the decode budget, by its own word; bounded by the protocol's
/// limits, and nothing is decompressed to know it.
pub(super) fn declared(arrived: &Arrived) -> usize {
    let header = envelope(arrived).ok().and_then(|frame| batch::peek(&frame).ok());
    let columns = header.map_or(0, |header| usize::try_from(header.decompressed).unwrap_or(0));
    columns.saturating_add(arrived.frame.len())
}

/// Decodes a frame that arrived at `received`.
pub(super) fn decode(arrived: &Arrived, received: UnixNanos) -> Result<Frame, Undecodable> {
    let envelope = envelope(arrived)?;
    let (said, body) = match envelope.header.kind {
        Kind::BATCH => {
            let (header, records) = batch::decode(&envelope)?;
            let interval = Box::new(header.interval);
            ((header.seq, header.seq), Body::Batch { interval, records })
        }
        Kind::GAP => {
            let gap = Gap::decode(&envelope)?;
            ((gap.first, gap.last), Body::Gap(Box::new(gap)))
        }
        Kind(other) => return Err(Undecodable::Kind(other)),
    };
    for (announced, said) in [(arrived.first, said.0), (arrived.last, said.1)] {
        if announced != said {
            let (announced, said) = (announced.get(), said.get());
            return Err(Undecodable::Number { announced, said });
        }
    }
    let frame = Frame {
        node: arrived.node.clone(),
        epoch: arrived.epoch,
        first: arrived.first,
        last: arrived.last,
        digest: arrived.digest,
        received,
        clock: arrived.clock,
        body,
    };
    frame.check()?;
    Ok(frame)
}
