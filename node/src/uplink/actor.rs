//! The uplink actor: the aggregation's way into the spool.
//!
//! The spool lives on its own thread ([`SpoolHandle`]); the sessions' task takes frames out of it
//! there. This actor puts frames in, one message at a time: an append is durable or has failed
//! before the next message is looked at.

use actix::fut::wrap_future;
use actix::prelude::*;
use flow::record::MeasuredOffset;
use flow::table::Baseline;
use flow::{Epoch, FlowNo};
use tokio::sync::watch;
use tracing::warn;
use wire::frame::Frame;

use super::SpoolHandle;
use crate::aggregation::Room;
use crate::spool::SpoolError;

/// What the spool can take; `None` when it is closed.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Option<Room>")]
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
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Its thread has ended.
    #[error("the spool is closed")]
    Closed,
}

/// The steps of a checkpoint; the answer says whether to go on.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub enum Checkpoint {
    /// Is one due?
    Due,
    /// Begin one that stands for all frames so far of this epoch, which the baselines are of.
    Begin(Epoch),
    /// Baselines as they are now.
    Add(Vec<Baseline>),
    /// That was all; the next new flow gets this number.
    Finish(FlowNo),
}

/// The actor.
pub struct UplinkActor {
    spool: SpoolHandle,
    offset: watch::Receiver<Option<MeasuredOffset>>,
}

impl UplinkActor {
    /// An actor in front of `spool`; `offset` is what the sessions last measured.
    pub const fn new(spool: SpoolHandle, offset: watch::Receiver<Option<MeasuredOffset>>) -> Self {
        Self { spool, offset }
    }
}

impl Actor for UplinkActor {
    type Context = Context<Self>;
}

impl Handler<AskRoom> for UplinkActor {
    type Result = AtomicResponse<Self, Option<Room>>;

    fn handle(&mut self, _: AskRoom, _: &mut Context<Self>) -> Self::Result {
        let (spool, offset) = (self.spool.clone(), *self.offset.borrow());
        let asked = async move {
            let room = spool.call(move |spool| Room {
                epoch: spool.epoch(),
                next: spool.next_seq(),
                level: spool.level(),
                offset,
            });
            room.await.ok()
        };
        AtomicResponse::new(Box::pin(wrap_future(asked)))
    }
}

impl Handler<Append> for UplinkActor {
    type Result = AtomicResponse<Self, Result<(), AppendError>>;

    fn handle(&mut self, Append { epoch, frames }: Append, _: &mut Context<Self>) -> Self::Result {
        let spool = self.spool.clone();
        let appended = async move {
            let done = spool.call(move |spool| match spool.append(epoch, &frames) {
                Err(SpoolError::OtherEpoch { .. }) => Err(AppendError::Epoch),
                done => Ok(done?),
            });
            done.await.unwrap_or(Err(AppendError::Closed))
        };
        AtomicResponse::new(Box::pin(wrap_future(appended)))
    }
}

impl Handler<Checkpoint> for UplinkActor {
    type Result = AtomicResponse<Self, bool>;

    fn handle(&mut self, step: Checkpoint, _: &mut Context<Self>) -> Self::Result {
        let spool = self.spool.clone();
        let stepped = async move {
            let now = crate::clock::now();
            let done = spool.call(move |spool| match step {
                Checkpoint::Due => Ok(spool.checkpoint_due(now)),
                Checkpoint::Begin(epoch) => spool.checkpoint_begin(epoch).map(|()| true),
                Checkpoint::Add(baselines) => spool.checkpoint_add(&baselines).map(|()| true),
                Checkpoint::Finish(next) => spool.checkpoint_finish(next, now).map(|()| true),
            });
            match done.await {
                Ok(Ok(go_on)) => go_on,
                Ok(Err(error)) => {
                    warn!(error = %error, "a checkpoint could not be written");
                    false
                }
                Err(_closed) => false,
            }
        };
        AtomicResponse::new(Box::pin(wrap_future(stepped)))
    }
}
