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
mod checkpoints;
pub mod config;
pub mod disk;
mod epochs;
pub mod identity;
mod log;
pub mod memdisk;
mod name;
mod open;
mod rejected;
mod report;
pub mod segment;

use std::collections::VecDeque;
use std::io;

use daemon::config::chain;
use flow::table::DurableSweep;
use flow::{BootId, BootNanos, Counters, Epoch, Seq, StoreId, UnixNanos};
use wire::frame::Frame;
use wire::gap::{Gap, GapReason};

pub use self::config::SpoolConfig;
pub use self::disk::{Disk, DiskError, FileDisk, FolderInode};
pub use self::epochs::FreshNames;
pub use self::identity::MachineId;
pub use self::memdisk::MemDisk;
pub use self::report::{
    EpochView, Level, NewEpochReason, OpenReport, Restored, SpoolError, SpoolTotals, SpoolView,
};
pub use self::segment::{Span, SpanError};

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

    /// Writes frames of `epoch` with the numbers from [`Spool::next_seq`] on. When it returns
    /// they are durable, all of them; after an error none of them is there.
    ///
    /// # Errors
    /// [`SpoolError::is_full`] when there is no room: growth waits, baselines stay.
    /// [`SpoolError::OtherEpoch`] when `epoch` was given up meanwhile: baselines are void.
    pub fn append(&mut self, epoch: Epoch, frames: &[Frame]) -> Result<(), SpoolError> {
        self.check_epoch(epoch)?;
        let limit = self.config.budget_bytes;
        self.append_within(frames, limit)
    }

    fn check_epoch(&self, asked: Epoch) -> Result<(), SpoolError> {
        let current = self.current.epoch;
        if asked == current { Ok(()) } else { Err(SpoolError::OtherEpoch { asked, current }) }
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
            durable = checkpoints::durable_after(frame).or(durable);
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
    fn settle<T>(&mut self, what: &'static str, done: io::Result<T>) -> Result<T, SpoolError> {
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
    /// one of a frame that waits, or its epoch is disputed.
    ///
    /// # Errors
    /// When such a gap could not be written, or reading failed in a way that may pass.
    pub fn frame(
        &mut self,
        epoch: Epoch,
        seq: Seq,
        wall: UnixNanos,
    ) -> Result<Option<Stored>, SpoolError> {
        let sent = |log: &&EpochLog| log.is_waiting(seq) && !log.disputed;
        let Some(log) = self.log(epoch).filter(sent) else { return Ok(None) };
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
        // A disk without room for the identity gets it from what goes. A crash between the two
        // takes these frames for lost, which costs an epoch and counts nothing twice.
        let persisted = match self.persist() {
            Err(error) if error.is_full() && forget => false,
            done => done.map(|()| true)?,
        };
        let disk = &mut self.disk;
        // One file that cannot be removed does not keep the others.
        let mut done = vec![self.current.forget(disk, baseline)];
        for log in &mut self.drains {
            done.push(log.forget(disk, log.acked));
        }
        self.drains.retain(|log| {
            let waits = log.waiting() > 0;
            if !waits {
                done.push(log.remove(disk));
            }
            waits
        });
        let done: io::Result<()> = done.into_iter().collect();
        self.settle("the removal of acknowledged frames", done)?;
        if over || !persisted { self.persist() } else { Ok(()) }
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
    let EpochLog { epoch, acked, disputed, .. } = *log;
    EpochView { epoch, acked, next: log.last().next(), current, disputed }
}

fn encode(gap: &Gap) -> Result<Frame, SpoolError> {
    gap.encode().map_err(|error| SpoolError::Encode { what: "a gap", why: chain(&error) })
}

const UNREADABLE: &str = "the frame could not be read back from the spool";

#[cfg(test)]
mod tests;
