//! What a spool says about itself: what opening it found, how full it is, what went wrong.

use std::io;

use flow::table::BaselineSet;
use flow::{Epoch, Seq, StoreId};
use thiserror::Error;

use super::segment::SpanError;

/// Why the old epoch was given up and a new one begun. The table then forgets its baselines.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NewEpochReason {
    /// There was no spool.
    #[error("there was no spool")]
    Fresh,
    /// The machine id is another one: a cloned disk.
    #[error("the spool comes from another machine (a clone)")]
    OtherMachine,
    /// The folder's inode is another one: a copy, or a restored backup.
    #[error("the spool's folder is a copy")]
    Copied,
    /// Frames, or the baselines, cannot be read back.
    #[error("the spool is damaged: {unreadable} frames cannot be read")]
    Damaged {
        /// Frames with a number that cannot be read.
        unreadable: u64,
    },
    /// Frames that had been acknowledged, or were part of a checkpoint, are not there.
    #[error("the spool ends at frame {found}, and frame {known} was there")]
    LostTail {
        /// The last frame there is.
        found: Seq,
        /// The last one known to have been.
        known: Seq,
    },
    /// The checkpoint is damaged or gone.
    #[error("the checkpoint of the baselines cannot be read")]
    BaselinesLost,
    /// The identity file is damaged or gone; the frames are still there.
    #[error("the spool's identity file cannot be read")]
    IdentityLost,
    /// The whole folder could not be used and was renamed.
    #[error("the spool could not be opened and was set aside")]
    SetAside,
    /// The aggregator has committed frames that this node has not written: its state folder, or
    /// its machine, was rolled back.
    #[error(
        "the aggregator has frame {committed}, this node's next one is {next}: the node was rolled back"
    )]
    RolledBack {
        /// The aggregator's last committed frame.
        committed: Seq,
        /// The frame this node would have written next.
        next: Seq,
    },
    /// The aggregator has another frame under a number of this node's: its state folder, or its
    /// machine, was rolled back, or a copy of it is running elsewhere.
    #[error("the aggregator has another frame {seq} than this node: the node was rolled back")]
    OtherBytes {
        /// The number.
        seq: Seq,
    },
    /// The aggregator has lost frames that it acknowledged: its store was restored.
    #[error(
        "frame {acked} was acknowledged, the aggregator has {committed}: its store was restored"
    )]
    StoreRestored {
        /// The aggregator's last committed frame.
        committed: Seq,
        /// The last frame it had acknowledged.
        acked: Seq,
    },
    /// Another store was accepted.
    #[error("another store was accepted")]
    OtherStore,
    /// The node was started with another filter: flows that the last sweep left out may be older
    /// than it.
    #[error("the node was started with another filter")]
    OtherFilter,
}

impl NewEpochReason {
    /// Every label that [`NewEpochReason::label`] gives.
    pub const LABELS: [&str; 13] = [
        "fresh",
        "other_machine",
        "copied",
        "damaged",
        "lost_tail",
        "baselines_lost",
        "identity_lost",
        "set_aside",
        "rolled_back",
        "other_bytes",
        "store_restored",
        "other_store",
        "other_filter",
    ];

    /// The reason as a metric's label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::OtherMachine => "other_machine",
            Self::Copied => "copied",
            Self::Damaged { .. } => "damaged",
            Self::LostTail { .. } => "lost_tail",
            Self::BaselinesLost => "baselines_lost",
            Self::IdentityLost => "identity_lost",
            Self::SetAside => "set_aside",
            Self::RolledBack { .. } => "rolled_back",
            Self::OtherBytes { .. } => "other_bytes",
            Self::StoreRestored { .. } => "store_restored",
            Self::OtherStore => "other_store",
            Self::OtherFilter => "other_filter",
        }
    }
}

/// What opening a spool found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Why a new epoch was begun; `None` where the spool goes on as it was.
    pub new_epoch: Option<NewEpochReason>,
    /// Bytes of unfinished appends that were cut off. Nothing durable was in them.
    pub torn_bytes: u64,
    /// Numbers that cannot be read back and are passed by a gap.
    pub unreadable: u64,
    /// The last frames are of another boot of this host.
    pub boot_changed: bool,
    /// Epochs to be drained before the current one is sent.
    pub drains: usize,
    /// Where the folder is now that could not be used, and why it could not.
    pub set_aside: Option<(String, String)>,
}

/// What the flow table starts from.
pub struct Restored {
    /// Last durable reading of every entry whose end is not durable, for
    /// [`FlowTable::restore`](flow::table::FlowTable::restore); in a new epoch there are none,
    /// and the table begins with [`FlowTable::new`](flow::table::FlowTable::new).
    pub baselines: BaselineSet,
    /// What was found.
    pub report: OpenReport,
}

/// How full the spool is, and so what may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Everything.
    #[default]
    Normal,
    /// Ends and heartbeats only: updates wait in the kernel.
    Paused,
    /// Nothing: ends wait. Go on trying once an interval, the disk may have room again.
    Full,
}

/// One epoch as the uplink sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochView {
    /// The epoch.
    pub epoch: Epoch,
    /// The last acknowledged frame.
    pub acked: Seq,
    /// The frame after the last one there is.
    pub next: Seq,
    /// Whether new frames are written to it; else it is being drained.
    pub current: bool,
    /// Others have taken some of its numbers, and there was no room to give it another name
    /// ([`Spool::overtaken`](super::Spool::overtaken)): none of its frames may be sent.
    pub disputed: bool,
}

/// A spool's state at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolView {
    /// The epoch new frames belong to. When it changes, the flow table forgets its baselines.
    pub current: Epoch,
    /// The number of its next frame.
    pub next: Seq,
    /// The epoch whose frames are to be sent now: the oldest with any, else the current one.
    pub sending: EpochView,
    /// The store that acknowledges.
    pub store: Option<StoreId>,
    /// How full.
    pub level: Level,
    /// Bytes on disk.
    pub bytes: u64,
    /// Frames on disk, acknowledged ones included.
    pub frames: usize,
    /// Frames not acknowledged, all epochs.
    pub waiting: u64,
    /// Epochs to be drained before the current one.
    pub drains: usize,
    /// What has happened since the spool was opened.
    pub totals: SpoolTotals,
}

/// What has happened since a spool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolTotals {
    /// Frames written.
    pub appended: u64,
    /// Gap frames written, all reasons.
    pub gaps: u64,
    /// Frames that could not be read back when they were to be sent.
    pub unreadable: u64,
    /// Frames the aggregator rejected.
    pub rejected: u64,
    /// Rejected frames of which no copy is kept: the disk or the folder's bound was full.
    pub rejected_not_kept: u64,
    /// Writes that failed because spool or disk were full.
    pub full: u64,
    /// Epochs begun.
    pub new_epochs: u64,
    /// Frames sent under another epoch's name because the aggregator had other frames under
    /// their numbers.
    pub retold: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
}

/// Why a spool could not do what it was asked.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// Over the budget. Nothing was written; growth waits.
    #[error("the spool is full: {used} of {budget} bytes used, {needed} needed")]
    Full {
        /// Bytes on disk.
        used: u64,
        /// The budget.
        budget: u64,
        /// Bytes that were to be written.
        needed: u64,
    },
    /// The disk is full. Nothing is left of what was tried; growth waits.
    #[error("no room on the spool's disk for {what}; make room on it")]
    NoSpace {
        /// What was being written.
        what: &'static str,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
    /// The disk failed otherwise.
    #[error("the spool's disk failed, tried to read or write {what}")]
    Disk {
        /// What was being done.
        what: &'static str,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
    /// A frame has not the number that is due.
    #[error("a frame has number {found} where {expected} was due")]
    Order {
        /// The number due.
        expected: Seq,
        /// The number found.
        found: Seq,
    },
    /// Frames or baselines of an epoch that was given up meanwhile.
    #[error("epoch {asked} was given up, {current} has taken its place")]
    OtherEpoch {
        /// The epoch asked for.
        asked: Epoch,
        /// The current one.
        current: Epoch,
    },
    /// A frame that does not belong into a spool.
    #[error("a frame does not belong into a spool")]
    Frame(#[from] SpanError),
    /// Baselines, a gap or the identity could not be encoded.
    #[error("{what} cannot be encoded: {why}")]
    Encode {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// Too many epochs wait to be drained.
    #[error("{drains} epochs wait to be drained already; connect the node to its aggregator")]
    Epochs {
        /// How many.
        drains: usize,
    },
    /// A checkpoint was continued that had not been begun, or had been given up.
    #[error("no checkpoint is being written")]
    NoCheckpoint,
}

impl SpoolError {
    /// Whether there was no room: growth waits, and the same may succeed later.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoSpace { .. })
    }

    pub(super) fn disk(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::NoSpace { what, error },
            _ => Self::Disk { what, error },
        }
    }
}
