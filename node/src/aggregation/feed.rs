//! What the probe says to the aggregation, in the order things happened.

use actix::Message;
use flow::BootNanos;
use flow::record::ClockPair;

use crate::source::{SourceHealth, SweepChunk, SweepReport, Timed};

/// The end of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntervalEnd {
    /// The interval's number.
    pub number: u64,
    /// Both clocks, read after the last reading.
    pub clock: ClockPair,
    /// What the source has lost so far.
    pub health: SourceHealth,
}

/// A message from the probe. Each is taken in before the next one is sent.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Feed {
    /// Events, and both clocks read after them.
    Events(ClockPair, Vec<Timed>),
    /// A sweep begins: nothing has been read yet.
    SweepBegin(BootNanos),
    /// Live entries, and both clocks read after them.
    Chunk(ClockPair, SweepChunk),
    /// The sweep is over (`None`: it failed as a whole), and the interval with it.
    SweepEnd(Option<SweepReport>, IntervalEnd),
}
