//! Frames as they are counted: decoded, and checked for what no store could keep.

use flow::clock::SessionClock;
use flow::{Counters, Epoch, Interval, NodeName, Record, Seq, UnixNanos};
use thiserror::Error;
use wire::frame::Digest;
use wire::gap::Gap;

/// A data frame, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Who sent it.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// First number it stands for.
    pub first: Seq,
    /// Last number it stands for; `first` but for a gap over several.
    pub last: Seq,
    /// The digest of its header.
    pub digest: Digest,
    /// When it arrived.
    pub received: UnixNanos,
    /// The live session's clock offset then.
    pub clock: Option<SessionClock>,
    /// What it says.
    pub body: Body,
}

/// What a data frame says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Records of an interval.
    Batch {
        /// The interval.
        interval: Box<Interval>,
        /// Its records.
        records: Vec<Record>,
    },
    /// Numbers without records.
    Gap(Box<Gap>),
}

/// Why a frame can never be taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameRefused {
    /// A number beyond what the stores keep.
    #[error("record {index} has {what} beyond 2^63 - 1: {value}")]
    OutOfRange {
        /// The record's place in the frame, from 0.
        index: usize,
        /// Which value.
        what: &'static str,
        /// It.
        value: u64,
    },
    /// The numbers it stands for are none.
    #[error("it stands for the numbers {first} to {last}")]
    Numbers {
        /// Its first number.
        first: Seq,
        /// Its last number.
        last: Seq,
    },
}

impl Frame {
    /// Rows it will make.
    #[must_use]
    pub const fn rows(&self) -> usize {
        match &self.body {
            Body::Batch { records, .. } => records.len(),
            Body::Gap(_) => 1,
        }
    }

    /// Whether it is a gap that stands in the place of a frame with records.
    #[must_use]
    pub fn is_gap_in_place(&self) -> bool {
        match &self.body {
            Body::Gap(gap) => gap.reason != wire::gap::GapReason::DroppedEnds,
            Body::Batch { .. } => false,
        }
    }

    /// Whether every value fits the stores, whose numbers are signed.
    ///
    /// # Errors
    /// The first value that does not fit. Such a frame is refused whole, before it is counted.
    pub fn check(&self) -> Result<(), FrameRefused> {
        let Self { first, last, .. } = *self;
        if first == Seq::NONE || last < first || !fits(last.get()) {
            return Err(FrameRefused::Numbers { first, last });
        }
        let Body::Batch { records, .. } = &self.body else { return Ok(()) };
        for (index, record) in records.iter().enumerate() {
            let over = |what, value| FrameRefused::OutOfRange { index, what, value };
            if let Some(value) = largest(&record.cum).filter(|value| !fits(*value)) {
                return Err(over("a counter", value));
            }
            if let Some(start) = record.birth.start().filter(|start| !fits(*start)) {
                return Err(over("a start stamp", start));
            }
        }
        Ok(())
    }
}

fn largest(counters: &Counters) -> Option<u64> {
    counters.components().into_iter().max()
}

fn fits(value: u64) -> bool {
    i64::try_from(value).is_ok()
}
