//! The spool: frames on disk until the aggregator has committed them, and the baselines they
//! imply.
//!
//! Not a queue in memory and not a database: every answer comes from segment files that anybody
//! can copy, and from one index that opening rebuilds. All calls block on the disk.
//!
//! # On disk
//! One flat folder:
//!
//! | file | content |
//! |---|---|
//! | `identity` | machine, folder, store, epochs, acknowledged numbers ([`identity`]) |
//! | `<epoch>-<first number>.seg` | wire frames, one after the other ([`segment`]) |
//! | `<epoch>-<first number>.gap` | a gap that takes the place of what a segment has there |
//! | `<epoch>-<number>.ckpt` | baselines after that frame ([`checkpoint`]) |
//! | `<epoch>-<number>.rejected` | a copy of a frame the aggregator rejected |
//! | `*.tmp` | not finished, means nothing |
//!
//! `<folder>.lock` beside it keeps a second node out; a folder that cannot be used at all is
//! renamed to `<folder>.broken-<n>`. docs/spool.md tells an operator what to do with either.
//!
//! # What it keeps
//! - What [`Spool::append`] took is durable and never changes; its number is given once.
//! - A segment goes when all its frames are acknowledged *and* stand before a checkpoint:
//!   baselines are the checkpoint and the fold of all frames after it.
//! - A beginning of a frame at the very end is an append that a crash cut short: it was never
//!   confirmed, never sent, and is cut off. Any other damage ends the epoch: what is readable is
//!   sent, what is not is passed by a gap, and a new epoch begins without baselines.
//! - An epoch that ends is *drained*: sent under its own name before the current one.
//! - When there is no room nothing is half-written, and every call may be repeated.

pub mod checkpoint;
pub mod config;
pub mod disk;
pub mod identity;
mod log;
pub mod memdisk;
mod name;
mod open;
mod rejected;
mod report;
pub mod segment;

use std::collections::VecDeque;

use flow::table::{Baseline, DurableSweep};
use flow::{BootId, BootNanos, Counters, Epoch, FlowNo, Seq, StoreId, UnixNanos};
use wire::batch;
use wire::frame::Frame;
use wire::gap::{Gap, GapReason};

pub use self::config::SpoolConfig;
pub use self::disk::{Disk, DiskError, FileDisk, FolderInode};
pub use self::identity::MachineId;
pub use self::memdisk::MemDisk;
pub use self::report::{
    EpochView, Level, NewEpochReason, OpenReport, Restored, SpoolError, SpoolTotals, SpoolView,
};
pub use self::segment::{Span, SpanError};

use self::checkpoint::WriteError;
use self::identity::Identity;
use self::log::EpochLog;
use self::name::Name;
use self::rejected::Rejected;

/// What opening a spool needs to know of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenContext {
    /// This machine.
    pub machine: MachineId,
    /// This boot.
    pub boot: BootId,
    /// Now.
    pub now: BootNanos,
    /// Now by the wall clock, for the gaps that opening may write.
    pub wall: UnixNanos,
    /// 128 fresh random bits, used if a new epoch begins.
    pub fresh: Epoch,
    /// A random number: outsiders choose the tuples that baselines are hashed by.
    pub seed: u64,
}

/// A node's spool. See the module.
#[derive(Debug)]
pub struct Spool<D> {
    disk: D,
    config: SpoolConfig,
    machine: MachineId,
    folder: FolderInode,
    boot: BootId,
    store: Option<StoreId>,
    /// Given up, not yet acknowledged; oldest first.
    drains: VecDeque<EpochLog>,
    current: EpochLog,
    /// The last frame whose baselines are in the checkpoint; [`Seq::NONE`] where there is none.
    checkpoint: Seq,
    checkpoint_bytes: u64,
    checkpoint_at: BootNanos,
    /// Bytes of frames after the checkpoint.
    since_checkpoint: u64,
    writing: Option<checkpoint::Writer>,
    /// The last sweep that durable frames are complete for.
    durable: Option<DurableSweep>,
    rejected: Rejected,
    /// The last write found the disk full.
    no_space: bool,
    totals: SpoolTotals,
}

/// A frame to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its numbers.
    pub span: Span,
    /// The frame.
    pub frame: Frame,
}

impl<D: Disk> Spool<D> {
    /// The epoch new frames belong to.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.current.epoch
    }

    /// The number of the next new frame.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.current.last().next()
    }

    /// The store that acknowledges, once known.
    #[must_use]
    pub const fn store(&self) -> Option<StoreId> {
        self.store
    }

    /// Epochs to be drained, oldest first.
    pub fn drains(&self) -> impl Iterator<Item = EpochView> {
        self.drains.iter().map(|log| view(log, false))
    }

    /// The state at a glance.
    #[must_use]
    pub fn view(&self) -> SpoolView {
        let logs = || self.drains.iter().chain([&self.current]);
        SpoolView {
            current: self.current.epoch,
            next: self.next_seq(),
            sending: match self.drains.front() {
                Some(log) => view(log, false),
                None => view(&self.current, true),
            },
            store: self.store,
            level: self.level(),
            bytes: self.bytes(),
            frames: logs().map(EpochLog::frames).sum(),
            waiting: logs().map(EpochLog::waiting).sum(),
            drains: self.drains.len(),
            totals: self.totals,
        }
    }

    /// How full the spool is.
    #[must_use]
    pub fn level(&self) -> Level {
        let (bytes, budget) = (self.bytes(), self.config.budget_bytes);
        if self.no_space || bytes >= budget || self.frames() >= SpoolConfig::MAX_FRAMES {
            Level::Full
        } else if bytes >= budget / 100 * SpoolConfig::PAUSE_PERCENT {
            Level::Paused
        } else {
            Level::Normal
        }
    }

    /// Bytes on disk that count against the budget: frames of all epochs, gaps, the checkpoint.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let logs = self.drains.iter().chain([&self.current]);
        logs.map(EpochLog::bytes).sum::<u64>() + self.checkpoint_bytes
    }

    fn frames(&self) -> usize {
        self.drains.iter().chain([&self.current]).map(EpochLog::frames).sum()
    }

    /// Writes frames with the numbers from [`Spool::next_seq`] on. When it returns they are
    /// durable, all of them; after an error none of them is there.
    ///
    /// # Errors
    /// [`SpoolError::is_full`] when there is no room: growth waits, baselines stay.
    pub fn append(&mut self, frames: &[Frame]) -> Result<(), SpoolError> {
        let limit = self.config.budget_bytes;
        self.append_within(frames, limit)
    }

    fn append_within(&mut self, frames: &[Frame], limit: u64) -> Result<(), SpoolError> {
        let mut spans = Vec::with_capacity(frames.len());
        let mut expected = self.next_seq();
        let mut durable = self.durable;
        for frame in frames {
            let span = Span::of(frame)?;
            if span.first != expected {
                return Err(SpoolError::Order { expected, found: span.first });
            }
            expected = span.last.next();
            durable = durable_after(frame).or(durable);
            spans.push((span, frame));
        }
        let needed: u64 = frames.iter().map(|frame| frame.bytes.len() as u64).sum();
        let (used, budget) = (self.bytes(), limit);
        if used + needed > budget || self.frames() + frames.len() > SpoolConfig::MAX_FRAMES {
            self.totals.full += 1;
            return Err(SpoolError::Full { used, budget, needed });
        }
        let written = self.current.append(&mut self.disk, &spans, self.config.segment_bytes);
        self.settle("frames", written)?;
        self.durable = durable;
        self.since_checkpoint += needed;
        self.totals.appended += frames.len() as u64;
        Ok(())
    }

    /// Remembers whether the disk had room, and turns its error into ours.
    fn settle<T>(&mut self, what: &'static str, done: std::io::Result<T>) -> Result<T, SpoolError> {
        let done = done.map_err(SpoolError::disk(what));
        self.no_space = matches!(done, Err(SpoolError::NoSpace { .. }));
        self.totals.full += u64::from(self.no_space);
        done
    }

    /// Tells of ended flows that were dropped because the spool was full, by a gap with a number
    /// of its own. A small reserve over the budget is kept for such gaps.
    ///
    /// # Errors
    /// As [`Spool::append`].
    pub fn dropped_ends(
        &mut self,
        flows: u64,
        lost: Counters,
        wall: UnixNanos,
    ) -> Result<Seq, SpoolError> {
        let seq = self.next_seq();
        let note = "flows ended while the spool was full";
        let span = Span { first: seq, last: seq };
        let gap = Gap { flows, lost, ..self.gap(span, GapReason::DroppedEnds, wall, note) };
        let limit = self.config.budget_bytes.saturating_add(SpoolConfig::GAP_RESERVE_BYTES);
        self.append_within(&[encode(&gap)?], limit)?;
        self.totals.gaps += 1;
        Ok(seq)
    }

    fn gap(&self, span: Span, reason: GapReason, at: UnixNanos, note: &str) -> Gap {
        Gap {
            first: span.first,
            last: span.last,
            reason,
            boot: self.boot,
            at,
            flows: 0,
            lost: Counters::ZERO,
            note: note.to_owned(),
            extensions: Vec::new(),
        }
    }

    /// The frame that stands for a number: the spooled one, or the gap in its place. One that
    /// can no longer be read back is replaced by a gap, for good. `None` where the number is not
    /// one of a frame that waits.
    ///
    /// # Errors
    /// When such a gap could not be written, or reading failed in a way that may pass.
    pub fn frame(
        &mut self,
        epoch: Epoch,
        seq: Seq,
        wall: UnixNanos,
    ) -> Result<Option<Stored>, SpoolError> {
        let Some(log) = self.log(epoch).filter(|log| log.is_waiting(seq)) else { return Ok(None) };
        let read = log.read(&self.disk, seq).map_err(SpoolError::disk("a frame"))?;
        if let Some((span, frame)) = read {
            return Ok(Some(Stored { span, frame }));
        }
        let span = Span { first: seq, last: seq };
        let frame = self.put_gap(epoch, span, GapReason::Unreadable, wall, UNREADABLE)?;
        self.totals.unreadable += 1;
        Ok(Some(Stored { span, frame }))
    }

    fn put_gap(
        &mut self,
        epoch: Epoch,
        span: Span,
        reason: GapReason,
        wall: UnixNanos,
        note: &str,
    ) -> Result<Frame, SpoolError> {
        let frame = encode(&self.gap(span, reason, wall, note))?;
        let written = match log_mut(&mut self.drains, &mut self.current, epoch) {
            Some(log) => log.put_gap(&mut self.disk, span, &frame),
            None => Ok(()),
        };
        self.settle("a gap", written)?;
        self.totals.gaps += 1;
        Ok(frame)
    }

    /// Everything of `epoch` up to `seq` is committed. A drained epoch whose last frame that is
    /// goes away. Numbers of other epochs and numbers never given are ignored.
    ///
    /// # Errors
    /// When files could not be removed or the identity not be written; the acknowledgement
    /// counts all the same.
    pub fn ack(&mut self, epoch: Epoch, seq: Seq) -> Result<(), SpoolError> {
        let Some(log) = log_mut(&mut self.drains, &mut self.current, epoch) else { return Ok(()) };
        if seq <= log.acked || seq > log.last() {
            return Ok(());
        }
        log.acked = seq;
        self.tidy()
    }

    /// Removes what is acknowledged and needed for nothing else.
    fn tidy(&mut self) -> Result<(), SpoolError> {
        let over = self.drains.iter().any(|log| log.waiting() == 0);
        let baseline = self.checkpoint.min(self.current.acked);
        let forget = self.current.can_forget(baseline)
            || self.drains.iter().any(|log| log.can_forget(log.acked));
        if !over && !forget {
            return Ok(());
        }
        self.persist()?;
        let mut done = self.current.forget(&mut self.disk, baseline);
        for log in &mut self.drains {
            let acked = log.acked;
            done = done.and(log.forget(&mut self.disk, acked));
        }
        let disk = &mut self.disk;
        self.drains.retain(|log| {
            let waits = log.waiting() > 0;
            if !waits {
                done = std::mem::replace(&mut done, Ok(())).and(log.remove(disk));
            }
            waits
        });
        self.settle("acknowledgements", done)?;
        if over { self.persist() } else { Ok(()) }
    }

    /// The aggregator will never take a frame: a copy is kept aside, and a gap takes its place.
    ///
    /// # Errors
    /// When the gap could not be written; the frame then stays where it is.
    pub fn reject(
        &mut self,
        epoch: Epoch,
        seq: Seq,
        reason: &str,
        wall: UnixNanos,
    ) -> Result<(), SpoolError> {
        let Some(log) = self.log(epoch).filter(|log| log.is_waiting(seq)) else { return Ok(()) };
        let read = log.read(&self.disk, seq).map_err(SpoolError::disk("a frame"))?;
        let limit = self.config.rejected_bytes;
        let (span, kept) = match read {
            Some((span, frame)) => {
                let name = Name::Rejected(epoch, span.first);
                (span, self.rejected.keep(&mut self.disk, name, &frame, limit))
            }
            None => (Span { first: seq, last: seq }, false),
        };
        let note = if kept { reason.to_owned() } else { format!("{reason} (no copy kept)") };
        self.put_gap(epoch, span, GapReason::Rejected, wall, &note)?;
        self.totals.rejected += 1;
        self.totals.rejected_not_kept += u64::from(!kept);
        Ok(())
    }

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
    /// When the disk fails.
    pub fn checkpoint_begin(&mut self) -> Result<(), SpoolError> {
        self.abandon_checkpoint();
        let (epoch, seq) = (self.current.epoch, self.current.last());
        let begun = checkpoint::Writer::begin(&mut self.disk, epoch, seq, self.durable);
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
        baselines: impl IntoIterator<Item = &'a Baseline>,
        next_flow: FlowNo,
        now: BootNanos,
    ) -> Result<(), SpoolError> {
        self.checkpoint_begin()?;
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

    fn abandon_checkpoint(&mut self) {
        if let Some(writer) = self.writing.take() {
            let _left_for_the_next_open = writer.abandon(&mut self.disk);
        }
    }

    fn persist(&mut self) -> Result<(), SpoolError> {
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

    fn log(&self, epoch: Epoch) -> Option<&EpochLog> {
        self.drains.iter().chain([&self.current]).find(|log| log.epoch == epoch)
    }
}

fn log_mut<'a>(
    drains: &'a mut VecDeque<EpochLog>,
    current: &'a mut EpochLog,
    epoch: Epoch,
) -> Option<&'a mut EpochLog> {
    drains.iter_mut().chain([current]).find(|log| log.epoch == epoch)
}

fn view(log: &EpochLog, current: bool) -> EpochView {
    EpochView { epoch: log.epoch, acked: log.acked, next: log.last().next(), current }
}

fn encode(gap: &Gap) -> Result<Frame, SpoolError> {
    gap.encode().map_err(|error| SpoolError::Encode { what: "a gap", why: chain(&error) })
}

/// An error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The sweep that all frames up to `frame` are complete for, where it is the one that completes
/// them; the same rule as [`BaselineSet::fold_interval`](flow::table::BaselineSet::fold_interval).
fn durable_after(frame: &Frame) -> Option<DurableSweep> {
    let interval = batch::peek(frame).ok()?.interval;
    let whole = interval.parts != 0 && !interval.paused;
    whole.then_some(DurableSweep {
        boot: interval.boot,
        begin: interval.sweep_begin,
        end: interval.sweep_end,
    })
}

const UNREADABLE: &str = "the frame could not be read back from the spool";
const FORGOTTEN: &str = "the frame was acknowledged and forgotten before the store was restored";

#[cfg(test)]
mod tests;
