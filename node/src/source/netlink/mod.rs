//! The netlink source: ctnetlink events and dumps, on every kernel from 4.9 on.
//!
//! - [`attr`], [`parse`]: bytes to readings, pure;
//! - `socket`, [`dump`], `port`: the kernel's sides;
//! - [`guard`]: when ends may be reliable, pure;
//! - `events`, `queue`: the event thread and its bounded table.
//!
//! A DESTROY carries the entry's whole counters, so the source is exact whatever births it
//! misses, as long as ends are reliable. It needs `nf_conntrack_events = 1`: with 2 (the default
//! of recent kernels) entries born while nobody listened never announce their end.

pub mod attr;
pub mod dump;
mod events;
pub(super) mod fill;
pub mod guard;
pub mod parse;
mod port;
mod queue;
mod socket;

use std::collections::BTreeMap;
use std::io;

use daemon::config::chain;
use flow::{NetnsInode, Reading};

use self::dump::{DumpError, DumpSocket, Part};
pub use self::events::EventHold;
use self::events::EventThread;
use self::port::Port;
use self::queue::Bounds;
use super::{Source, SourceError, SourceHealth, SweepChunk, SweepReport, Timed};
use crate::clock;
use crate::netns::{self, Netns, NetnsChoice};

/// How a [`NetlinkSource`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkConfig {
    /// Which namespaces.
    pub netns: NetnsChoice,
    /// Bytes of each event socket's receive buffer, two sockets a namespace; at most 512 MiB.
    /// The kernel takes the memory only for what is queued.
    pub rcvbuf: usize,
    /// Ended entries that may wait to be taken; beyond, they are dropped and counted.
    pub ended_limit: usize,
    /// Births that may wait to be taken; beyond, they are dropped and counted.
    pub births_limit: usize,
}

impl Default for NetlinkConfig {
    fn default() -> Self {
        Self {
            netns: NetnsChoice::Own,
            rcvbuf: 32 << 20,
            ended_limit: 100_000,
            births_limit: 100_000,
        }
    }
}

/// Reads conntrack over netlink.
pub struct NetlinkSource {
    config: NetlinkConfig,
    events: EventThread,
    watched: BTreeMap<NetnsInode, Watched>,
    /// Warned of already, so that each name is complained of once.
    failing: Vec<String>,
}

struct Watched {
    netns: Netns,
    dump: Option<DumpSocket>,
}

impl NetlinkSource {
    /// Opens the event sockets of all chosen namespaces and starts to listen.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN` (and `CAP_SYS_ADMIN` for namespaces that are not the process's
    /// own), when a listed namespace does not exist, or when the kernel refuses.
    pub fn open(config: NetlinkConfig) -> Result<Self, SourceError> {
        let bounds = Bounds { births: config.births_limit, ends: config.ended_limit };
        let events = EventThread::start(bounds)
            .map_err(|error| failed("starting the event thread", error))?;
        let mut source = Self { config, events, watched: BTreeMap::new(), failing: Vec::new() };
        let found = source.discover()?;
        if let Some((name, error)) = found.failed.into_iter().next() {
            return Err(failed(&format!("opening the network namespace {name}"), error));
        }
        for netns in found.namespaces {
            source.watch(netns)?;
        }
        Ok(source)
    }

    /// Holds up the event thread, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn event_hold(&self) -> EventHold {
        self.events.holder()
    }

    /// Namespaces that are watched.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NetnsInode> {
        self.watched.keys().copied().collect()
    }

    /// Entries that have ended and that the kernel keeps because their end could not be
    /// delivered yet, over all namespaces. They count towards the kernel's limit.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn held_ends(&mut self) -> Result<u64, SourceError> {
        let mut held = 0;
        for watched in self.watched.values_mut() {
            let mut dump = watched.socket().map_err(|error| failed(OPENING, error))?;
            let done = dump.held(|part| held += u64::from(matches!(part, Part::Entry(_))));
            done.map_err(|error| failed("listing entries held for delivery", flat(error)))?;
            watched.dump = Some(dump);
        }
        Ok(held)
    }

    fn discover(&self) -> Result<netns::Found, SourceError> {
        netns::discover(&self.config.netns)
            .map_err(|error| failed("looking for network namespaces", error))
    }

    fn watch(&mut self, netns: Netns) -> Result<(), SourceError> {
        let (inode, rcvbuf) = (netns.inode(), self.config.rcvbuf);
        let (port, dump) = netns
            .enter(move || Ok((Port::open(inode, rcvbuf)?, DumpSocket::open()?)))
            .map_err(|error| entering(&netns, error))?;
        self.events.listen(port);
        self.watched.insert(inode, Watched { netns, dump: Some(dump) });
        Ok(())
    }

    /// Follows the namespaces: opens new ones, gives back those that are gone.
    fn follow(&mut self) -> Result<Vec<NetnsInode>, SourceError> {
        if self.config.netns == NetnsChoice::Own {
            return Ok(Vec::new());
        }
        let found = self.discover()?;
        let mut failing = Vec::new();
        if found.left_out > 0 {
            let name = format!("{} namespaces beyond the limit", found.left_out);
            failing.push((name, "not watched".to_owned()));
        }
        failing.extend(found.failed.iter().map(|(name, error)| (name.clone(), error.to_string())));
        let present: Vec<_> = found.namespaces.iter().map(Netns::inode).collect();
        for netns in found.namespaces {
            let label = netns.label().to_owned();
            if !self.watched.contains_key(&netns.inode())
                && let Err(error) = self.watch(netns)
            {
                failing.push((label, error.to_string()));
            }
        }
        for (name, reason) in &failing {
            if !self.failing.contains(name) {
                tracing::warn!(name, reason, "a network namespace is not watched");
            }
        }
        self.failing = failing.into_iter().map(|(name, _)| name).collect();
        Ok(self.watched.keys().copied().filter(|inode| !present.contains(inode)).collect())
    }
}

impl Source for NetlinkSource {
    fn name(&self) -> &'static str {
        "netlink"
    }

    fn events(&mut self, out: &mut Vec<Timed>) -> Result<(), SourceError> {
        self.events.take(out);
        self.events.broken().map_or(Ok(()), |error| Err(failed("reading conntrack events", error)))
    }

    fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError> {
        let begin = clock::now();
        let gone = self.follow()?;
        let (mut complete, mut failures) = (Vec::new(), Vec::new());
        let mut privilege = None;
        for (inode, watched) in &mut self.watched {
            match watched.sweep(take) {
                Ok(()) if gone.contains(inode) => {}
                Ok(()) => complete.push(*inode),
                Err(error @ SourceError::Privilege { .. }) => privilege = Some(error),
                Err(error) => failures.push((*inode, chain(&error))),
            }
        }
        for inode in &gone {
            self.events.leave(*inode);
            self.watched.remove(inode);
        }
        match privilege {
            Some(error) if complete.is_empty() => Err(error),
            _ => Ok(SweepReport { begin, end: clock::now(), complete, failed: failures, gone }),
        }
    }

    fn health(&self) -> SourceHealth {
        self.events.health()
    }
}

impl Watched {
    /// Takes the dump socket out, opening a new one where the last one failed.
    fn socket(&mut self) -> io::Result<DumpSocket> {
        self.dump.take().map_or_else(|| self.netns.enter(DumpSocket::open), Ok)
    }

    /// Reads the whole table; a dump that a resize disturbed is taken again.
    fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<(), SourceError> {
        let mut last = DumpError::Interrupted;
        for _ in 0..TRIES {
            let mut socket = self.socket().map_err(|error| failed(OPENING, error))?;
            let buckets = buckets();
            match read_table(&mut socket, self.netns.inode(), take) {
                Ok(()) if buckets == self::buckets() => {
                    self.dump = Some(socket);
                    return Ok(());
                }
                Ok(()) | Err(DumpError::Interrupted) => {
                    self.dump = Some(socket);
                    last = DumpError::Interrupted;
                }
                // A socket in an unknown state is closed; the next try opens another.
                Err(error) => {
                    let again = error.is_transient();
                    last = error;
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(failed("reading the conntrack table", flat(last)))
    }
}

impl DumpError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::Malformed => false,
            Self::Kernel(error) => {
                matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM))
            }
        }
    }
}

fn read_table(
    socket: &mut DumpSocket,
    netns: NetnsInode,
    take: &mut dyn FnMut(SweepChunk),
) -> Result<(), DumpError> {
    let mut readings: Vec<Reading> = Vec::with_capacity(CHUNK + CHUNK / 2);
    let mut malformed = false;
    let done = socket.entries(|part| match part {
        Part::Entry(message) => match parse::reading(message.body, netns) {
            Ok(reading) => readings.push(reading),
            Err(_unreadable) => malformed = true,
        },
        Part::Read if readings.len() >= CHUNK => {
            let full = std::mem::replace(&mut readings, Vec::with_capacity(CHUNK + CHUNK / 2));
            take(SweepChunk { at: clock::now(), readings: full });
        }
        Part::Read => {}
    });
    if !readings.is_empty() {
        take(SweepChunk { at: clock::now(), readings });
    }
    match done {
        // Not the whole table: one entry more than was handed over.
        Ok(()) if malformed => Err(DumpError::Malformed),
        done => done,
    }
}

/// Buckets of the host's one conntrack hash; `None` where `/proc/sys` is not readable.
pub(super) fn buckets() -> Option<String> {
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_buckets").ok()
}

/// Makes the kernel load conntrack and its netlink side, where they are modules.
///
/// # Errors
/// When the kernel has neither.
pub fn load_kernel_module() -> io::Result<()> {
    // Joining a group asks for the module that speaks in it (`nfnetlink_bind`).
    socket::Socket::for_events(socket::Group::Ends, 4096).map(drop)
}

fn entering(netns: &Netns, error: io::Error) -> SourceError {
    if error.raw_os_error() == Some(libc::EPERM) && netns.label() != "own" {
        return SourceError::Privilege {
            what: "entering another network namespace",
            needs: "CAP_SYS_ADMIN",
        };
    }
    failed(&format!("listening to conntrack in the network namespace {}", netns.label()), error)
}

fn failed(what: &str, error: io::Error) -> SourceError {
    if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
        return SourceError::Privilege {
            what: "reading conntrack over netlink",
            needs: "CAP_NET_ADMIN",
        };
    }
    SourceError::Kernel { what: what.to_owned(), error }
}

fn flat(error: DumpError) -> io::Error {
    match error {
        DumpError::Kernel(error) => error,
        other => io::Error::other(other),
    }
}

const OPENING: &str = "opening a conntrack socket";

/// Times a disturbed dump is begun in one sweep.
const TRIES: usize = 3;

/// Readings of one chunk, and at most a datagram more.
const CHUNK: usize = 512;
