//! What the uplink wants done to the spool, and doing it.
//!
//! The core gives [`Order`]s and never touches the spool; the shell that owns the spool calls
//! [`obey`].

use flow::{BootNanos, Epoch, Seq, StoreId, UnixNanos};
use wire::frame::Digest;

use crate::spool::{Disk, FreshNames, NewEpochReason, Spool, SpoolError};

/// What to do to the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Everything up to a number is committed.
    Ack {
        /// The epoch.
        epoch: Epoch,
        /// The number.
        seq: Seq,
        /// The digest of the frame committed under it, where it is known. Where the spool has
        /// another frame there, the epoch is overtaken instead.
        digest: Option<Digest>,
    },
    /// [`Spool::reject`].
    Reject {
        /// The epoch.
        epoch: Epoch,
        /// The frame.
        seq: Seq,
        /// Why, for a person.
        reason: String,
    },
    /// [`Spool::remember_store`].
    Remember(StoreId),
    /// [`Spool::forgotten`].
    Forgotten {
        /// The epoch, which is being drained.
        epoch: Epoch,
        /// What the store has of it.
        committed: Seq,
    },
    /// [`Spool::new_epoch`]; the flow table forgets its baselines.
    NewEpoch(NewEpochReason),
    /// [`Spool::overtaken`]; where the epoch was the current one, the flow table forgets its
    /// baselines.
    Overtaken {
        /// The epoch whose numbers others have taken.
        epoch: Epoch,
        /// How that was noticed.
        reason: NewEpochReason,
    },
}

/// What obeying needs of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// Random names, used where an epoch begins or is renamed.
    pub fresh: FreshNames,
    /// Now.
    pub now: BootNanos,
    /// Now by the wall clock, for gaps.
    pub wall: UnixNanos,
}

/// Does what an order says. Why a new epoch has begun by it, if one has.
///
/// # Errors
/// As the spool's methods. An order that failed may be given again.
pub fn obey<D: Disk>(
    spool: &mut Spool<D>,
    order: Order,
    means: &Means,
) -> Result<Option<NewEpochReason>, SpoolError> {
    let Means { fresh, now, wall } = *means;
    let before = spool.epoch();
    let reason = match order {
        Order::Ack { epoch, seq, digest } => {
            if spool.agrees(epoch, seq, digest)? {
                return spool.ack(epoch, seq).map(|()| None);
            }
            spool.overtaken(epoch, fresh, now, wall)?;
            NewEpochReason::OtherBytes { seq }
        }
        Order::Reject { epoch, seq, reason } => {
            return spool.reject(epoch, seq, &reason, wall).map(|()| None);
        }
        Order::Remember(store) => return spool.remember_store(store).map(|()| None),
        Order::Forgotten { epoch, committed } => {
            return spool.forgotten(epoch, committed, wall).map(|()| None);
        }
        Order::NewEpoch(reason) => {
            spool.new_epoch(fresh.current, now)?;
            reason
        }
        Order::Overtaken { epoch, reason } => {
            spool.overtaken(epoch, fresh, now, wall)?;
            reason
        }
    };
    Ok((spool.epoch() != before).then_some(reason))
}
