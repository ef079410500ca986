//! Sources: where readings come from. One trait, so that the probe neither knows nor cares
//! whether the kernel is asked over netlink, by eBPF, or not at all.

pub mod ebpf;
pub mod filtered;
pub mod metrics;
pub mod netlink;
pub mod record;
mod recording;
pub mod replay;

use std::time::Duration;

use flow::{BootNanos, NetnsInode, Reading};

/// Something that happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An entry was inserted; no counters, perhaps no start.
    New(Reading),
    /// An entry was destroyed; its last counters.
    End(Reading),
}

/// An event and when it was read: an upper bound of every time in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// When user space read it.
    pub at: BootNanos,
    /// What happened.
    pub event: Event,
}

/// A run of live entries that were read before `at`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepChunk {
    /// When user space had read all of them: an upper bound for each.
    pub at: BootNanos,
    /// The entries.
    pub readings: Vec<Reading>,
}

/// What a whole sweep says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepReport {
    /// Before the first entry was asked for.
    pub begin: BootNanos,
    /// After the last one was read.
    pub end: BootNanos,
    /// Namespaces whose tables were read from end to end. An entry of one of these that was not
    /// in the sweep was not alive at `begin` (or it is being destroyed).
    pub complete: Vec<NetnsInode>,
    /// Namespaces that could not be read to the end, with the reason.
    pub failed: Vec<(NetnsInode, String)>,
    /// Namespaces that have gone since the last sweep, with all their entries.
    pub gone: Vec<NetnsInode>,
}

impl SweepReport {
    /// The report of a sweep at `now` that read nothing from end to end.
    #[must_use]
    pub const fn nothing(now: BootNanos) -> Self {
        Self { begin: now, end: now, complete: Vec::new(), failed: Vec::new(), gone: Vec::new() }
    }
}

/// Whether every end is delivered, and what was lost where not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceHealth {
    /// The kernel keeps undelivered ends for us (`NETLINK_BROADCAST_ERROR`), or the source
    /// cannot lose any.
    pub reliable_ends: bool,
    /// Ends dropped because the bounded table of ended entries was full. Their counters were
    /// read, so the loss is exact.
    pub dropped_ends: u64,
    /// Counters of the ends in `dropped_ends`.
    pub dropped: flow::Counters,
    /// Ends that the kernel could not deliver while it did not keep them: no counters were read.
    /// Never too few; 0 before Linux 4.12, which does not tell (then `overruns` is all there is).
    pub lost_ends: u64,
    /// Births that could not be delivered or kept. Harmless: the sweep or the end tells.
    pub lost_births: u64,
    /// Living entries that were not known and that listing the table has found: births that were
    /// missed, and repaired so.
    pub missed_births: u64,
    /// Times the kernel said that it could not deliver (`ENOBUFS`).
    pub overruns: u64,
    /// Times the guard switched reliable ends off.
    pub guard_trips: u64,
    /// NEW events read.
    pub births: u64,
    /// DESTROY events read.
    pub deaths: u64,
    /// Messages that could not be parsed.
    pub malformed: u64,
    /// Ends in the bounded table, waiting to be taken.
    pub ended_waiting: u64,
    /// How full the kernel's table is, in thousandths: the fullest namespace over the limit.
    pub fill_permille: u64,
}

/// Why a source failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The process lacks a privilege.
    #[error("{what} needs {needs}; run as root or grant it with AmbientCapabilities={needs}")]
    Privilege {
        /// What was tried.
        what: &'static str,
        /// The capability that is missing.
        needs: &'static str,
    },
    /// The kernel refused something else.
    #[error("{what} failed")]
    Kernel {
        /// What was tried.
        what: String,
        /// What the kernel said.
        #[source]
        error: std::io::Error,
    },
    /// A recording could not be read.
    #[error("recording {file} line {line}: {problem}")]
    Recording {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where readings come from. Blocking: the probe calls it from a blocking thread.
///
/// The contract: events are subscribed before the first sweep; an entry that was alive when a
/// complete sweep began is in that sweep or its end is among the events (at once where ends are
/// reliable, else perhaps never).
pub trait Source: Send {
    /// Its name in logs, metrics and `Hello`: `ebpf`, `netlink`, `replay`.
    fn name(&self) -> &'static str;

    /// Appends what happened since the last call, in order for each entry. Never waits.
    ///
    /// # Errors
    /// When the source is broken for good; lag and loss are in [`Source::health`].
    fn events(&mut self, out: &mut Vec<Timed>) -> Result<(), SourceError>;

    /// Reads every live entry once, chunk by chunk; a slow `take` slows the sweep, nothing else.
    ///
    /// # Errors
    /// When no namespace could be read at all.
    fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError>;

    /// What it lost, and whether it can lose.
    fn health(&self) -> SourceHealth;

    /// How long until it has nothing more to give (a replay's end), where it has an end.
    fn remaining(&self) -> Option<Duration> {
        None
    }
}
