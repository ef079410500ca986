//! Conversion of a node's times to the aggregator's clock, with their uncertainty
//! (the design's rules of times: a session's own offset, else the header's last measured one,
//! else a trustworthy wall clock, else unknown).

use crate::id::BootId;
use crate::units::{BootNanos, ClockOffset};

/// A live session's measured clock offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionClock {
    /// Aggregator's wall clock less the node's boottime.
    pub offset: ClockOffset,
    /// The boot of the node that it was measured in.
    pub boot: BootId,
    /// When it was measured, by that boot's boottime.
    pub at: BootNanos,
}
