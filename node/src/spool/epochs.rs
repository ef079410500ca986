//! Which store acknowledges, which epochs there are, and how one takes the place of another.

use flow::{BootNanos, Epoch, Seq, StoreId, UnixNanos};
use wire::frame::Digest;
use wire::gap::GapReason;

use super::config::SpoolConfig;
use super::disk::Disk;
use super::identity::{self, Identity};
use super::log::EpochLog;
use super::name::Name;
use super::report::SpoolError;
use super::{Span, Spool, chain, log_mut};

/// Random names for epochs that may have to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshNames {
    /// For a new current epoch.
    pub current: Epoch,
    /// For an epoch whose own name is taken.
    pub drain: Epoch,
}

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
    /// caller's flow table forgets its baselines.
    ///
    /// # Errors
    /// When the identity could not be written, or too many epochs wait to be drained: the old
    /// epoch then goes on.
    pub fn new_epoch(&mut self, fresh: Epoch, now: BootNanos) -> Result<(), SpoolError> {
        if self.drains.len() + 2 > SpoolConfig::MAX_EPOCHS {
            return Err(SpoolError::Epochs { drains: self.drains.len() });
        }
        self.abandon_checkpoint();
        let old = std::mem::replace(&mut self.current, EpochLog::new(fresh));
        self.drains.push_back(old);
        if let Err(error) = self.persist() {
            if let Some(old) = self.drains.pop_back() {
                self.current = old;
            }
            return Err(error);
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

    /// Whether the frame that stands for `seq` here has this digest. A number that is
    /// acknowledged already, was never given or cannot be read back is not disputed; nothing
    /// agrees in an epoch that [`Spool::overtaken`] was called for and could not rename.
    ///
    /// # Errors
    /// When reading failed in a way that may pass.
    pub fn agrees(
        &self,
        epoch: Epoch,
        seq: Seq,
        digest: Option<Digest>,
    ) -> Result<bool, SpoolError> {
        let Some(log) = self.log(epoch).filter(|log| log.is_waiting(seq)) else { return Ok(true) };
        if log.disputed {
            return Ok(false);
        }
        let Some(theirs) = digest else { return Ok(true) };
        let ours = log.digest(&self.disk, seq).map_err(SpoolError::disk("a frame"))?;
        Ok(ours.is_none_or(|ours| ours == theirs))
    }

    /// The aggregator has other frames under numbers of `epoch` than this spool: the node was
    /// rolled back. Readings are absolute, so what waits is simply told under another name: the
    /// epoch, given up first where it is the current one, is sent as `names.drain`, the same
    /// bytes under the same numbers, with a gap over the numbers that were acknowledged. The
    /// current one is then `names.current`.
    ///
    /// May be called again after an error or a crash, with other names: nothing is told twice
    /// that would count twice.
    ///
    /// # Errors
    /// As [`Spool::new_epoch`]; the frames wait under the old name as long as this did not
    /// succeed.
    pub fn overtaken(
        &mut self,
        epoch: Epoch,
        names: FreshNames,
        now: BootNanos,
        wall: UnixNanos,
    ) -> Result<(), SpoolError> {
        if let Some(log) = log_mut(&mut self.drains, &mut self.current, epoch) {
            log.disputed = true;
        }
        if epoch == self.current.epoch {
            self.new_epoch(names.current, now)?;
        }
        let Some(log) = self.drains.iter().find(|log| log.epoch == epoch) else { return Ok(()) };
        let (acked, waiting) = (log.acked, log.waiting());
        // The gap first: over acknowledged numbers it changes nothing under the old name.
        if acked > Seq::NONE {
            let span = Span { first: Seq::NONE.next(), last: acked };
            self.put_gap(epoch, span, GapReason::Renamed, wall, RENAMED)?;
        }
        self.rename(epoch, names.drain, Seq::NONE);
        if let Err(error) = self.persist() {
            self.rename(names.drain, epoch, acked);
            return Err(error);
        }
        if let Some(log) = self.drains.iter_mut().find(|log| log.epoch == names.drain) {
            log.disputed = false;
        }
        self.totals.retold += waiting;
        Ok(())
    }

    fn rename(&mut self, from: Epoch, to: Epoch, acked: Seq) {
        if let Some(log) = self.drains.iter_mut().find(|log| log.epoch == from) {
            (log.epoch, log.acked) = (to, acked);
        }
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
            epochs: self.drains.iter().chain([&self.current]).map(EpochLog::known).collect(),
        };
        let frame = identity.encode().map_err(|error| SpoolError::Encode {
            what: "the identity file",
            why: chain(&error),
        })?;
        let written = self.disk.write_atomic(identity::NAME, &frame.bytes);
        self.settle("the identity file", written)
    }
}

const RENAMED: &str = "committed under the epoch's old name, before the node was rolled back";
const FORGOTTEN: &str = "the frame was acknowledged and forgotten before the store was restored";
