//! The eBPF source: two hooks that run once a flow, and a program that reads many entries' counters
//! at once. Nothing runs for a packet.
//!
//! - [`btf`], [`layout`], [`entry`]: where things lie in this kernel, and bytes to readings, pure;
//! - [`hooks`]: which kernel functions are hooked, pure;
//! - [`programs`]: loading, attaching, running; `feed`: records as they come;
//! - `table`: which entries live, pure; `join`: adoption and proof, pure; `adopt`: the dump that
//!   both look at.
//!
//! What the programs read is not trusted before it is proved: entries that netlink lists are read
//! before, listed, and read again, and the three must fit ([`EbpfError::Disproved`]). A layout
//! that is wrong is an error, never a wrong number.
//!
//! What ends while the node is started again waits in the kernel: [`keep`].
//!
//! `collect` serves benchmarks and tests.
//!
//! What can be lost, and how it is noticed: a record that does not fit into the ring is counted by
//! the kernel; an entry whose end was lost is missed by two sweeps in a row; a lost birth is found
//! by the reconciliation, a dump of each namespace every few minutes, and at the next sweep where
//! the kernel has counted a loss.

mod adopt;
pub mod btf;
#[doc(hidden)]
pub mod collect;
pub mod entry;
mod feed;
pub mod hooks;
mod join;
pub mod keep;
pub mod layout;
pub mod programs;
mod table;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ebpf_abi::{CHUNK, Kind};
use flow::{BootNanos, NetnsInode};
use rustix::thread::{CapabilitySet, CapabilitySets};

use self::adopt::Watched;
use self::feed::{Feed, FeedBounds, FeedCounts};
use self::hooks::{Hooks, NoHook};
pub use self::join::Contradiction;
use self::join::Join;
use self::keep::{Keep, KeepError, Waited};
use self::layout::{Layout, LayoutError};
use self::programs::{LoadSettings, Loaded, Programs, ProgramsError};
use self::table::LiveTable;
use super::netlink::load_kernel_module;
use super::{Event, Source, SourceError, SourceHealth, SweepChunk, SweepReport, Timed};
use crate::clock;
use crate::netns::{self, Netns, NetnsChoice};

/// Where the layout comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LayoutChoice {
    /// The running kernel's type information.
    #[default]
    Kernel,
    /// Type information in files.
    Btf {
        /// Of the kernel (`vmlinux`).
        base: PathBuf,
        /// Of the module `nf_conntrack`, which stands on it, where it is one and does not only
        /// bring what the kernel's file has, too.
        module: Option<PathBuf>,
    },
    /// A layout file.
    File(PathBuf),
}

impl LayoutChoice {
    /// The layout.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        match self {
            Self::Kernel => Layout::of_kernel(),
            Self::Btf { base, module } => Layout::of_files(base, module.as_deref()),
            Self::File(file) => Layout::of_toml(file),
        }
    }
}

/// How an [`EbpfSource`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EbpfConfig {
    /// Which namespaces.
    pub netns: NetnsChoice,
    /// Where the layout comes from.
    pub layout: LayoutChoice,
    /// Bytes of the ring buffer: a power of two, pages.
    pub ring_bytes: u32,
    /// Ended entries that may wait to be taken; beyond, they are dropped and counted.
    pub ended_limit: usize,
    /// Births that may wait to be taken; beyond, they are dropped and counted.
    pub births_limit: usize,
    /// Living entries that are swept; those beyond are known by their end only.
    pub live_limit: usize,
    /// How often each namespace's table is listed to find what was missed.
    pub reconcile_every: Duration,
    /// The folder of a BPF file system in which the hook on ends outlives this process, where it
    /// shall.
    pub keep: Option<PathBuf>,
}

impl Default for EbpfConfig {
    fn default() -> Self {
        Self {
            netns: NetnsChoice::Own,
            layout: LayoutChoice::Kernel,
            ring_bytes: ebpf_abi::RING_BYTES,
            ended_limit: 100_000,
            births_limit: 100_000,
            live_limit: 1 << 20,
            reconcile_every: Duration::from_mins(5),
            keep: None,
        }
    }
}

/// Why the eBPF source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// The process lacks capabilities.
    #[error(
        "eBPF needs {missing}; run as root, or grant what is missing (docs/install.md, \"Without \
         root\")"
    )]
    Privilege {
        /// Their names.
        missing: String,
    },
    /// There is no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A function to hook is missing.
    #[error(transparent)]
    Hooks(#[from] NoHook),
    /// The programs cannot be used.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// Netlink, which adoption and proof need, failed.
    #[error(transparent)]
    Netlink(#[from] SourceError),
    /// Something else of the kernel's could not be used.
    #[error("{what} failed")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// What the programs read is not what netlink says.
    #[error(
        "the layout is wrong for this kernel: of one entry, {} reads {} by eBPF and {} by netlink",
        .0.what, .0.ours, .0.netlink
    )]
    Disproved(Box<Contradiction>),
    /// Netlink lists entries, but the programs see others or none.
    #[error(
        "the layout is wrong for this kernel: netlink lists {listed} entries of which eBPF \
         recognises {matched}"
    )]
    Unrecognised {
        /// Entries that netlink listed.
        listed: u64,
        /// How many of them the programs told of.
        matched: u64,
    },
    /// There is no entry to prove the layout on.
    #[error("no connection is tracked yet, so the layout cannot be proved")]
    Unproved,
}

/// Reads conntrack with eBPF programs.
pub struct EbpfSource {
    config: EbpfConfig,
    layout: Layout,
    hooks: Hooks,
    programs: Programs,
    feed: Feed,
    table: LiveTable,
    watched: BTreeMap<NetnsInode, Watched>,
    /// While a namespace is listed.
    join: Option<Join>,
    /// Events that were taken from the feed between calls of `events`.
    pending: Vec<Timed>,
    /// Namespaces of the last report.
    reported: Vec<NetnsInode>,
    noticed: Noticed,
    /// Warned of already.
    failing: Vec<String>,
    /// Held while ends outlive this process.
    kept: Option<Keep>,
}

/// What was noticed over the sweeps.
#[derive(Clone, Copy, Debug, Default)]
struct Noticed {
    /// Births that reconciliations have found.
    missed_births: u64,
    /// Losses up to the last look.
    lost: (u64, u64),
    /// Looks that found new ones.
    overruns: u64,
    /// Ends lost up to the last but one sweep, and to the last one.
    lost_ends: [u64; 2],
    /// Ends that were lost while no life of the node looked.
    lost_before: u64,
}

impl EbpfSource {
    /// Loads and attaches the programs, adopts what lives already, and proves the layout on it.
    ///
    /// # Errors
    /// When anything of that is not possible here; [`EbpfError`] says what.
    pub fn open(config: EbpfConfig) -> Result<Self, EbpfError> {
        privileged()?;
        let layout = config.layout.layout()?;
        load_kernel_module()
            .map_err(|error| EbpfError::Kernel { what: "loading nf_conntrack_netlink", error })?;
        let kallsyms = std::fs::read_to_string("/proc/kallsyms")
            .map_err(|error| EbpfError::Kernel { what: "reading /proc/kallsyms", error })?;
        let hooks = Hooks::find(&kallsyms)?;
        drop(kallsyms);
        let only_netns = match config.netns {
            NetnsChoice::Own => Netns::own().map(|own| own.inode().0),
            _ => Ok(0),
        };
        let only_netns = only_netns
            .map_err(|error| EbpfError::Kernel { what: "looking at the own namespace", error })?;
        let settings = LoadSettings { ring_bytes: config.ring_bytes, only_netns };
        let Loaded { mut programs, rings } = Programs::load(&layout, settings)?;
        programs.attach(&hooks)?;
        let bounds = FeedBounds { births: config.births_limit, ends: config.ended_limit };
        let feed = Feed::start(rings, layout, bounds)
            .map_err(|error| EbpfError::Kernel { what: "starting to read the ring", error })?;
        let mut source = Self {
            table: LiveTable::new(config.live_limit),
            config,
            layout,
            hooks,
            programs,
            feed,
            watched: BTreeMap::new(),
            join: None,
            pending: Vec::new(),
            reported: Vec::new(),
            noticed: Noticed::default(),
            failing: Vec::new(),
            kept: None,
        };
        let keep = source.config.keep.as_deref().map(|folder| Keep::open(folder, &layout));
        let is_proved = keep.as_ref().is_some_and(|keep| keep.as_ref().is_ok_and(Keep::is_proved));
        source.adopt_and_prove(is_proved)?;
        if let Some(Err(error)) = keep.map(|keep| keep.and_then(|keep| source.outlive(keep))) {
            let reason = daemon::config::chain(&error);
            tracing::info!(reason, "ends do not wait while the node is not running");
        }
        Ok(source)
    }

    /// Lets ends wait for the next life of the node, and takes those that have waited for this
    /// one.
    fn outlive(&mut self, mut keep: Keep) -> Result<(), KeepError> {
        let pinned = keep.pin(&mut self.programs);
        let Waited { told, lost } = keep.take_over(&self.layout);
        // What is pinned is this life's, and nobody else's, until it ends.
        self.kept = pinned.is_ok().then_some(keep);
        let (waited, all) = (told.len(), self.config.netns == NetnsChoice::All);
        for told in told {
            if !all && !self.watched.contains_key(&told.reading.netns) {
                continue;
            }
            // Without a start it has a name that only the life before knew.
            match told.reading.start {
                0 => self.noticed.lost_before += 1,
                _ => self.pending.push(Timed { at: told.at, event: Event::End(told.reading) }),
            }
        }
        self.noticed.lost_before += lost;
        if waited > 0 || lost > 0 {
            tracing::info!(waited, lost, "ends have waited in the kernel for this start");
        }
        pinned
    }

    /// Whether what ends while no node runs waits for the next one.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// The functions that are hooked.
    #[must_use]
    pub const fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// How often the attached programs have run, for tests: see [`Programs::runs`].
    ///
    /// # Errors
    /// When the kernel does not say.
    #[doc(hidden)]
    pub fn runs(&mut self) -> Result<u64, ProgramsError> {
        self.programs.runs()
    }

    /// Births that were not told and that reconciliations have found.
    #[must_use]
    pub const fn missed_births(&self) -> u64 {
        self.noticed.missed_births
    }

    fn discover(&self) -> Result<netns::Found, SourceError> {
        netns::discover(&self.config.netns).map_err(|error| SourceError::Kernel {
            what: "looking for network namespaces".to_owned(),
            error,
        })
    }

    /// Takes what the kernel has told into the table, and keeps the events of it.
    fn absorb(&mut self) {
        let all = self.config.netns == NetnsChoice::All;
        for told in self.feed.take() {
            if !all && !self.watched.contains_key(&told.reading.netns) {
                continue;
            }
            let at = told.at;
            match told.kind {
                Kind::New => {
                    self.table.born(told.ct, &told.reading);
                    self.pending.push(Timed { at, event: Event::New(told.reading) });
                }
                Kind::End => {
                    let ended = self.table.ended(told.ct, &told.reading, rand::random());
                    let ended = ended.map(|reading| Timed { at, event: Event::End(reading) });
                    self.pending.extend(ended);
                }
                Kind::Adopt => {
                    let unknown = self.table.born(told.ct, &told.reading);
                    self.noticed.missed_births += u64::from(unknown);
                    if let Some(join) = &mut self.join {
                        join.tell(told.ct, told.reading);
                    }
                }
                Kind::Seen => {}
            }
        }
    }

    /// Whether births were lost since the last look.
    fn births_were_lost(&mut self) -> bool {
        let counts = self.feed.counts();
        let lost = (
            counts.lost_births + counts.dropped_births + self.table.counts().untracked,
            counts.lost_ends,
        );
        let before = std::mem::replace(&mut self.noticed.lost, lost);
        self.noticed.overruns += u64::from(before != lost);
        lost.0 > before.0
    }

    fn lost_ends(&self, counts: &FeedCounts) -> u64 {
        let table = self.table.counts();
        // A lost end of an entry that was known is also missed by the sweep.
        counts.lost_ends.max(table.missed_ends) + table.nameless_ends + self.noticed.lost_before
    }

    /// Reads all living entries, chunk by chunk.
    fn read_all(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<(), ProgramsError> {
        let (mut from, mut pointers) = (0, Vec::with_capacity(CHUNK));
        loop {
            self.table.addresses(from, CHUNK, &mut pointers);
            let Some(last) = pointers.last() else { return Ok(()) };
            from = last + 1;
            let entries = self.programs.sweep(&pointers)?;
            let mut readings = Vec::with_capacity(entries.len());
            self.table.swept(&self.layout, entries, &mut readings);
            if !readings.is_empty() {
                take(SweepChunk { at: clock::now(), readings });
            }
        }
    }

    fn report(&mut self, begin: BootNanos, mut failed: Vec<(NetnsInode, String)>) -> SweepReport {
        let mut complete: Vec<NetnsInode> = self.watched.keys().copied().collect();
        if self.config.netns == NetnsChoice::All {
            complete.extend(self.table.namespaces());
            complete.sort_unstable();
            complete.dedup();
        }
        complete.retain(|netns| !failed.iter().any(|(bad, _)| bad == netns));
        failed.dedup_by_key(|(netns, _)| *netns);
        let known: Vec<NetnsInode> =
            complete.iter().copied().chain(failed.iter().map(|(netns, _)| *netns)).collect();
        let gone = std::mem::replace(&mut self.reported, known.clone());
        let gone = gone.into_iter().filter(|netns| !known.contains(netns)).collect();
        SweepReport { begin, end: clock::now(), complete, failed, gone }
    }
}

impl Source for EbpfSource {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn events(&mut self, out: &mut Vec<Timed>) -> Result<(), SourceError> {
        self.absorb();
        out.append(&mut self.pending);
        Ok(())
    }

    fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError> {
        let begin = clock::now();
        let mut failed = self.follow()?;
        self.absorb();
        let all_at_once = self.births_were_lost();
        failed.extend(self.reconcile(begin, all_at_once));
        let read = self.read_all(take);
        self.absorb();
        let lost = self.lost_ends(&self.feed.counts());
        let [_, last] = self.noticed.lost_ends;
        self.noticed.lost_ends = [last, lost];
        read.map_err(unusable)?;
        Ok(self.report(begin, failed))
    }

    fn health(&self) -> SourceHealth {
        let counts = self.feed.counts();
        let [before, _] = self.noticed.lost_ends;
        let lost_ends = self.lost_ends(&counts);
        let fills = self.watched.values().filter_map(|watched| watched.fill.read());
        SourceHealth {
            reliable_ends: lost_ends == before,
            dropped_ends: counts.dropped_ends,
            dropped: counts.dropped,
            lost_ends,
            lost_births: counts.lost_births + counts.dropped_births + self.table.counts().untracked,
            missed_births: self.noticed.missed_births,
            overruns: self.noticed.overruns,
            guard_trips: 0,
            births: counts.births,
            deaths: counts.ends,
            malformed: counts.malformed,
            ended_waiting: counts.waiting_ends,
            fill_permille: fills.map(|f| f.count * 1000 / f.max.max(1)).max().unwrap_or(0),
        }
    }
}

/// Whether the process has what loading, hooking and listing need, as far as it can be told
/// beforehand.
fn privileged() -> Result<(), EbpfError> {
    let Ok(CapabilitySets { effective, .. }) = rustix::thread::capabilities(None) else {
        return Ok(());
    };
    let mut missing = Vec::new();
    for (name, capability) in [
        ("CAP_BPF", CapabilitySet::BPF | CapabilitySet::SYS_ADMIN),
        ("CAP_PERFMON", CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ] {
        if !effective.intersects(capability) {
            missing.push(name);
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(EbpfError::Privilege { missing: missing.join(" and ") }),
    }
}

/// The programs' failure as the source's.
fn unusable(error: ProgramsError) -> SourceError {
    SourceError::Kernel {
        what: "reading conntrack by eBPF".to_owned(),
        error: io::Error::other(error),
    }
}
