//! Gaps: numbers of an epoch that carry no records, and what is known to be missing.
//!
//! A gap is a data frame: numbered, spooled, counted in its place like a batch. Frozen like the
//! control messages; what is new travels in `extensions`.

use bincode::{Decode, Encode};
use flow::{BootId, Counters, Seq, UnixNanos};
use thiserror::Error;

use crate::codec::{self, CodecError};
use crate::control::Extensions;
use crate::field::{self, FieldError};
use crate::frame::{Frame, FrameError, Kind};

/// Why there is a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum GapReason {
    /// A number this version does not know; the gap counts all the same, its note says more.
    Unknown = 0,
    /// The aggregator rejected the frame; the node keeps it aside.
    Rejected = 1,
    /// The frame could not be read back from the spool.
    Unreadable = 2,
    /// The frame had been acknowledged and forgotten, and a restored store asks for it again.
    Forgotten = 3,
    /// Ended flows were dropped because the spool was full.
    DroppedEnds = 4,
    /// These numbers were acknowledged under another epoch's name, which other frames had taken:
    /// nothing is missing.
    Renamed = 5,
}

/// A gap over the numbers `first..=last`. A gap of dropped ends has a number of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First number passed.
    pub first: Seq,
    /// Last number passed.
    pub last: Seq,
    /// Why.
    pub reason: GapReason,
    /// The node's boot when it was written.
    pub boot: BootId,
    /// The node's wall clock when it was written.
    pub at: UnixNanos,
    /// Flows whose last growth is missing, where known.
    pub flows: u64,
    /// That growth, where known.
    pub lost: Counters,
    /// For a person. Cut to [`field::MAX_TEXT`] bytes when encoded.
    pub note: String,
    /// Later fields.
    pub extensions: Extensions,
}

/// Why a gap could not be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GapError {
    /// The frame is no gap.
    #[error("a frame of kind {} is no gap", kind.0)]
    NotGap {
        /// The frame's kind.
        kind: Kind,
    },
    /// It covers no numbers, or the number 0, which no frame has.
    #[error("a gap over the numbers {first}..={last} covers no frame")]
    Range {
        /// First number.
        first: Seq,
        /// Last number.
        last: Seq,
    },
    /// A field breaks its limit.
    #[error("a gap breaks a limit")]
    Field(#[from] FieldError),
    /// The body is not that of a gap.
    #[error("the body of a gap cannot be read or written")]
    Body(#[from] CodecError),
    /// The frame cannot be made.
    #[error("a gap cannot be framed")]
    Frame(#[from] FrameError),
}

impl Gap {
    /// Encodes the gap into a frame. The note is cut to its limit.
    ///
    /// # Errors
    /// An empty range, or a field or body beyond its limit.
    pub fn encode(&self) -> Result<Frame, GapError> {
        self.check()?;
        let body = codec::encode(&GapV1::from(self))?;
        Ok(Frame::new(Kind::GAP, &body)?)
    }

    /// Decodes a frame of kind [`Kind::GAP`].
    ///
    /// # Errors
    /// Another kind, a body that is not exactly a gap, an empty range, a field beyond its limit.
    pub fn decode(frame: &Frame) -> Result<Self, GapError> {
        let kind = frame.kind();
        if kind != Kind::GAP {
            return Err(GapError::NotGap { kind });
        }
        let gap = Self::from(codec::decode::<GapV1>(frame.body())?);
        gap.check()?;
        field::check_text("note", &gap.note)?;
        Ok(gap)
    }

    fn check(&self) -> Result<(), GapError> {
        let Self { first, last, .. } = *self;
        if first == Seq::NONE || first > last {
            return Err(GapError::Range { first, last });
        }
        Ok(field::check_extensions(&self.extensions)?)
    }
}

impl GapReason {
    const fn from_wire(number: u16) -> Self {
        match number {
            1 => Self::Rejected,
            2 => Self::Unreadable,
            3 => Self::Forgotten,
            4 => Self::DroppedEnds,
            5 => Self::Renamed,
            _ => Self::Unknown,
        }
    }
}

/// The frozen shape of a gap's body, version 1: field order is the format.
#[derive(Encode, Decode)]
struct GapV1 {
    first: u64,
    last: u64,
    reason: u16,
    boot: [u8; 16],
    at: i64,
    flows: u64,
    /// Packets and bytes of the original direction, then of the reply direction.
    lost: [u64; 4],
    note: String,
    extensions: Extensions,
}

impl From<&Gap> for GapV1 {
    fn from(gap: &Gap) -> Self {
        Self {
            first: gap.first.0,
            last: gap.last.0,
            reason: gap.reason as u16,
            boot: gap.boot.0,
            at: gap.at.0,
            flows: gap.flows,
            lost: gap.lost.components(),
            note: field::cut_text(&gap.note).to_owned(),
            extensions: gap.extensions.clone(),
        }
    }
}

impl From<GapV1> for Gap {
    fn from(shape: GapV1) -> Self {
        let GapV1 { first, last, reason, boot, at, flows, lost, note, extensions } = shape;
        Self {
            first: Seq(first),
            last: Seq(last),
            reason: GapReason::from_wire(reason),
            boot: BootId(boot),
            at: UnixNanos(at),
            flows,
            lost: Counters::from_components(lost),
            note,
            extensions,
        }
    }
}
