//! When checkpoints are due, and how the spool writes them.

use flow::table::{Baseline, DurableSweep};
use flow::{BootNanos, Epoch, FlowNo, Seq};
use wire::batch;
use wire::frame::Frame;

use super::checkpoint::{WriteError, Writer};
use super::config::SpoolConfig;
use super::disk::Disk;
use super::name::Name;
use super::report::{Level, SpoolError};
use super::{Spool, chain};

impl<D: Disk> Spool<D> {
    /// Whether a checkpoint should be written now.
    #[must_use]
    pub fn checkpoint_due(&self, now: BootNanos) -> bool {
        let age = now.since(self.checkpoint_at).as_secs();
        let SpoolConfig { checkpoint_bytes, checkpoint_secs, .. } = self.config;
        self.since_checkpoint >= checkpoint_bytes
            || self.since_checkpoint > 0 && age >= checkpoint_secs
            || self.level() > Level::Normal && self.current.acked > self.checkpoint
    }

    /// Begins a checkpoint that stands for all frames so far. One that was being written is given
    /// up.
    ///
    /// # Errors
    /// When the disk fails, or `epoch` was given up meanwhile: its baselines are void.
    pub fn checkpoint_begin(&mut self, epoch: Epoch) -> Result<(), SpoolError> {
        self.check_epoch(epoch)?;
        self.abandon_checkpoint();
        let seq = self.current.last();
        let begun = Writer::begin(&mut self.disk, epoch, seq, self.durable);
        self.writing = Some(self.settle("a checkpoint", begun)?);
        Ok(())
    }

    /// Adds baselines as they are now; frames may have been appended since the beginning, and
    /// baselines must never be ahead of them.
    ///
    /// # Errors
    /// When the disk is full or fails; the checkpoint is then given up, the old one stays.
    pub fn checkpoint_add<'a>(
        &mut self,
        baselines: impl IntoIterator<Item = &'a Baseline>,
    ) -> Result<(), SpoolError> {
        let Some(mut writer) = self.writing.take() else { return Err(SpoolError::NoCheckpoint) };
        let disk = &mut self.disk;
        let added = baselines.into_iter().try_for_each(|baseline| writer.add(disk, baseline));
        self.writing = Some(writer);
        self.settle_checkpoint(added)
    }

    /// Makes the checkpoint durable; frames before it that are acknowledged go. `next_flow` is
    /// the number the next new flow gets.
    ///
    /// # Errors
    /// As [`Spool::checkpoint_add`].
    pub fn checkpoint_finish(
        &mut self,
        next_flow: FlowNo,
        now: BootNanos,
    ) -> Result<(), SpoolError> {
        let Some(writer) = self.writing.take() else { return Err(SpoolError::NoCheckpoint) };
        let temporary = writer.temporary_name();
        let finished = writer.finish(&mut self.disk, next_flow);
        if finished.is_err() {
            let _left_for_the_next_open = self.disk.remove(&temporary);
        }
        let (done, bytes) = self.settle_checkpoint(finished)?;
        let before = std::mem::replace(&mut self.checkpoint, done.seq);
        self.checkpoint_bytes = bytes;
        self.checkpoint_at = now;
        self.since_checkpoint = self.current.bytes_after(done.seq);
        self.totals.checkpoints += 1;
        if before != done.seq && before != Seq::NONE {
            let stale = Name::Checkpoint(self.current.epoch, before);
            let removed = self.disk.remove(&stale.to_string());
            self.settle("the removal of a checkpoint", removed)?;
        }
        self.persist()?;
        self.tidy()
    }

    /// A whole checkpoint at once.
    ///
    /// # Errors
    /// As [`Spool::checkpoint_add`].
    pub fn checkpoint<'a>(
        &mut self,
        epoch: Epoch,
        baselines: impl IntoIterator<Item = &'a Baseline>,
        next_flow: FlowNo,
        now: BootNanos,
    ) -> Result<(), SpoolError> {
        self.checkpoint_begin(epoch)?;
        self.checkpoint_add(baselines)?;
        self.checkpoint_finish(next_flow, now)
    }

    fn settle_checkpoint<T>(&mut self, done: Result<T, WriteError>) -> Result<T, SpoolError> {
        match done {
            Ok(done) => Ok(done),
            Err(error) => {
                self.abandon_checkpoint();
                match error {
                    WriteError::Io(error) => self.settle("a checkpoint", Err(error)),
                    other => {
                        let why = chain(&other);
                        Err(SpoolError::Encode { what: "a checkpoint", why })
                    }
                }
            }
        }
    }

    pub(super) fn abandon_checkpoint(&mut self) {
        if let Some(writer) = self.writing.take() {
            let _left_for_the_next_open = writer.abandon(&mut self.disk);
        }
    }
}

/// The sweep that all frames up to `frame` are complete for, where it is the one that completes
/// them; the same rule as [`BaselineSet::fold_interval`](flow::table::BaselineSet::fold_interval).
pub(super) fn durable_after(frame: &Frame) -> Option<DurableSweep> {
    let interval = batch::peek(frame).ok()?.interval;
    let whole = interval.parts != 0 && !interval.paused;
    whole.then_some(DurableSweep {
        boot: interval.boot,
        begin: interval.sweep_begin,
        end: interval.sweep_end,
    })
}
