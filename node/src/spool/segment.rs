//! Segments: plain concatenations of wire frames, and how one is walked when nothing about it
//! can be trusted.

use bytes::Bytes;
use flow::Seq;
use thiserror::Error;
use wire::batch::{self, BatchError};
use wire::frame::{Frame, FrameError, HEADER_LEN, Header, Kind, MAGIC, digest_of};
use wire::gap::{Gap, GapError};

/// The numbers a frame stands for: equal but for a gap over several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first number.
    pub first: Seq,
    /// The last number.
    pub last: Seq,
}

/// Why a frame does not belong into a spool.
#[derive(Debug, Error)]
pub enum SpanError {
    /// Neither a batch nor a gap.
    #[error("a frame of kind {} has no number", .kind.0)]
    Kind {
        /// Its kind.
        kind: Kind,
    },
    /// A batch whose header cannot be read.
    #[error("the header of a batch cannot be read")]
    Batch(#[from] BatchError),
    /// A gap that cannot be read.
    #[error("a gap cannot be read")]
    Gap(#[from] GapError),
}

impl Span {
    /// How many numbers.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.last.0.saturating_sub(self.first.0).saturating_add(1)
    }

    /// The numbers of a data frame.
    ///
    /// # Errors
    /// When it is no data frame or cannot be read.
    pub fn of(frame: &Frame) -> Result<Self, SpanError> {
        match frame.header.kind {
            Kind::BATCH => {
                let seq = batch::peek(frame)?.seq;
                Ok(Self { first: seq, last: seq })
            }
            Kind::GAP => {
                let gap = Gap::decode(frame)?;
                Ok(Self { first: gap.first, last: gap.last })
            }
            kind => Err(SpanError::Kind { kind }),
        }
    }
}

/// A readable frame found in a segment.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) span: Span,
    pub(super) offset: usize,
    pub(super) frame: Frame,
}

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With its last frame.
    Whole,
    /// After this byte come the remains of a write that was not finished.
    Torn(usize),
    /// After this byte comes something that no unfinished write leaves.
    Damaged(usize),
}

/// Walks a segment, calls `found` for every readable data frame, and says how it ends. Damage in
/// the middle is stepped over by looking for the next readable frame.
pub(super) fn walk(bytes: &Bytes, mut found: impl FnMut(Found)) -> End {
    let mut at = 0;
    let mut searches = MAX_SEARCHES;
    while at < bytes.len() {
        match data_frame(bytes, at) {
            Ok((span, frame)) => {
                let offset = at;
                at += frame.bytes.len();
                found(Found { span, offset, frame });
            }
            Err(_unreadable) => match search(bytes, at + 1, &mut searches) {
                Some(next) => at = next,
                None if is_torn(bytes, at) => return End::Torn(at),
                None => return End::Damaged(at),
            },
        }
    }
    End::Whole
}

#[derive(Debug, Error)]
#[error("no frame here")]
enum Unreadable {
    Frame(#[from] FrameError),
    Span(#[from] SpanError),
}

/// The data frame at `at`, digest checked.
fn data_frame(bytes: &Bytes, at: usize) -> Result<(Span, Frame), Unreadable> {
    let (frame, _next) = Frame::parse_prefix(bytes, at)?;
    Ok((Span::of(&frame)?, frame))
}

/// The next readable frame from `from` on. `searches` bounds the digests that are computed in
/// vain: bytes that look like a header may be as many as one likes.
fn search(bytes: &Bytes, from: usize, searches: &mut u32) -> Option<usize> {
    let tail = bytes.get(from..)?;
    let candidates = tail.windows(MAGIC.len()).enumerate().filter(|(_, w)| *w == MAGIC);
    for (place, _) in candidates {
        *searches = searches.checked_sub(1)?;
        if data_frame(bytes, from + place).is_ok() {
            return Some(from + place);
        }
    }
    None
}

/// Whether what lies from `at` to the end may be an append that was not finished: a beginning of
/// a frame that is too short, or space that was allotted and never written.
fn is_torn(bytes: &[u8], at: usize) -> bool {
    let rest = bytes.get(at..).unwrap_or_default();
    let short = match Header::peek(rest) {
        // A frame that is whole but for a wrong length is damage.
        Ok(header) => rest.len() < header.frame_len() && !is_whole(&header, rest),
        Err(FrameError::Truncated { .. }) => {
            let n = rest.len().min(MAGIC.len());
            rest.len() < HEADER_LEN && rest.get(..n) == MAGIC.get(..n)
        }
        Err(_) => false,
    };
    let last_sector = rest.get(rest.len().saturating_sub(SECTOR)..).unwrap_or_default();
    short || last_sector.iter().all(|byte| *byte == 0)
}

/// Whether all of `rest` is one frame by its digest, whatever its length field says.
fn is_whole(header: &Header, rest: &[u8]) -> bool {
    let body = rest.get(HEADER_LEN..).unwrap_or_default();
    let length = u32::try_from(body.len());
    length.is_ok_and(|length| digest_of(header.kind, length, body) == header.digest)
}

/// Digests computed in vain per segment before the rest is given up.
const MAX_SEARCHES: u32 = 256;

/// Bytes a disk writes together.
const SECTOR: usize = 512;
