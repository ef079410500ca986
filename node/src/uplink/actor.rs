//! The uplink actor: owns the spool. What the aggregation writes and what the session sends,
//! acknowledges and rejects comes here, one message at a time.
//!
//! Disk work runs on a blocking thread that takes the spool with it; nothing else is handled
//! meanwhile, so an append is durable or failed before the next message is looked at.


use actix::prelude::*;
use flow::table::Baseline;
use flow::{Epoch, FlowNo};
use wire::frame::Frame;

use crate::aggregation::Room;
use crate::spool::SpoolError;

/// What the spool can take.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Room")]
pub struct AskRoom;

/// Make these frames durable, all or none.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), AppendError>")]
pub struct Append {
    /// The epoch they are numbered in.
    pub epoch: Epoch,
    /// The frames.
    pub frames: Vec<Frame>,
}

/// Why frames are not durable.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A new epoch began since their numbers were asked for.
    #[error("a new epoch has begun; the interval is numbered anew")]
    Epoch,
    /// The spool could not write them.
    #[error("the spool could not write")]
    Spool(#[from] SpoolError),
    /// The actor has stopped, or its thread died.
    #[error("the spool is closed")]
    Closed,
}

/// The steps of a checkpoint; the answer says whether to go on.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub enum Checkpoint {
    /// Is one due?
    Due,
    /// Begin one that stands for all frames so far.
    Begin,
    /// Baselines as they are now.
    Add(Vec<Baseline>),
    /// That was all; the next new flow gets this number.
    Finish(FlowNo),
}
