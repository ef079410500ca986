//! Which store acknowledges, which epochs there are, and how one takes the place of another.

use flow::{BootNanos, Epoch, Seq, StoreId, UnixNanos};
use wire::gap::GapReason;

use super::config::SpoolConfig;
use super::disk::Disk;
use super::identity::{self, Identity};
use super::log::EpochLog;
use super::name::Name;
use super::report::{NewEpochReason, SpoolError};
use super::{Spool, chain};

impl<D: Disk> Spool<D> {
    /// Remembers the store that acknowledges.
    ///
    /// # Errors
    /// When the identity could not be written; it is then not remembered.
    pub fn remember_store(&mut self, store: StoreId) -> Result<(), SpoolError> {
        let before = self.store.replace(store);
        if before == self.store {
            return Ok(());
        }
        let done = self.persist();
        if done.is_err() {
            self.store = before;
        }
        done
    }

    /// Gives the current epoch up and begins `fresh`: what waits of the old one is drained, the
    /// caller's flow table forgets its baselines. For [`NewEpochReason::RolledBack`] the old
    /// epoch's waiting numbers are taken already, and its frames go.
    ///
    /// # Errors
    /// When the identity could not be written, or too many epochs wait to be drained: the old
    /// epoch then goes on.
    pub fn new_epoch(
        &mut self,
        reason: &NewEpochReason,
        fresh: Epoch,
        now: BootNanos,
    ) -> Result<(), SpoolError> {
        if self.drains.len() + 2 > SpoolConfig::MAX_EPOCHS {
            return Err(SpoolError::Epochs { drains: self.drains.len() });
        }
        self.abandon_checkpoint();
        let old = std::mem::replace(&mut self.current, EpochLog::new(fresh));
        let waiting = old.waiting();
        let kept_acked = old.acked;
        self.drains.push_back(old);
        if let (NewEpochReason::RolledBack { .. }, Some(old)) = (reason, self.drains.back_mut()) {
            old.acked = old.last();
        }
        if let Err(error) = self.persist() {
            if let Some(mut old) = self.drains.pop_back() {
                old.acked = kept_acked;
                self.current = old;
            }
            return Err(error);
        }
        if matches!(reason, NewEpochReason::RolledBack { .. }) {
            self.totals.overtaken += waiting;
        }
        self.totals.new_epochs += 1;
        let stale = self.drains.back().map(|old| Name::Checkpoint(old.epoch, self.checkpoint));
        self.checkpoint = Seq::NONE;
        self.checkpoint_bytes = 0;
        self.checkpoint_at = now;
        self.since_checkpoint = 0;
        self.durable = None;
        // The new epoch is durable. What cannot be removed now goes when the spool is opened next.
        if let Some(stale) = stale {
            let _left_for_the_next_open = self.disk.remove(&stale.to_string());
        }
        let _left_for_the_next_open = self.tidy();
        Ok(())
    }

    /// The store behind the aggregator has only `committed` of a drained epoch, of which more was
    /// acknowledged: what is still here is sent again, what is not is passed by gaps.
    ///
    /// # Errors
    /// When a gap could not be written.
    pub fn forgotten(
        &mut self,
        epoch: Epoch,
        committed: Seq,
        wall: UnixNanos,
    ) -> Result<(), SpoolError> {
        let Some(log) = self.drains.iter_mut().find(|log| log.epoch == epoch) else {
            return Ok(());
        };
        log.acked = log.acked.min(committed);
        let missing = log.missing(committed.next(), log.last(), true);
        for span in missing {
            self.put_gap(epoch, span, GapReason::Forgotten, wall, FORGOTTEN)?;
        }
        self.persist()
    }

    /// Writes the identity file.
    pub(super) fn persist(&mut self) -> Result<(), SpoolError> {
        let identity = Identity {
            machine: self.machine,
            folder: self.folder,
            store: self.store,
            epochs: self
                .drains
                .iter()
                .chain([&self.current])
                .map(|log| (log.epoch, log.acked))
                .collect(),
        };
        let frame = identity.encode().map_err(|error| SpoolError::Encode {
            what: "the identity file",
            why: chain(&error),
        })?;
        let written = self.disk.write_atomic(identity::NAME, &frame.bytes);
        self.settle("the identity file", written)
    }
}

const FORGOTTEN: &str = "the frame was acknowledged and forgotten before the store was restored";
