//! Following namespaces, and listing what lives in them: at the start, and every few minutes.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use daemon::config::chain;
use flow::entry::EntryKey;
use flow::{BootNanos, NetnsInode, Reading};

use super::entry::{self, is_held};
use super::join::{Join, Joined, SAMPLE, contradiction};
use super::{EbpfError, EbpfSource};
use crate::clock;
use crate::netns::{Netns, NetnsChoice};
use crate::source::SourceError;
use crate::source::netlink::dump::{DumpError, DumpSocket, Part};
use crate::source::netlink::fill::FillFiles;
use crate::source::netlink::{buckets, parse};

/// A namespace that is watched.
pub(super) struct Watched {
    netns: Netns,
    dump: Option<DumpSocket>,
    pub(super) fill: FillFiles,
    /// When it is listed again.
    due: BootNanos,
}

impl EbpfSource {
    /// Adopts everything that lives in the chosen namespaces, and proves the layout on it; where
    /// an earlier life has proved it already, nothing need live.
    pub(super) fn adopt_and_prove(&mut self, is_proved: bool) -> Result<(), EbpfError> {
        let found = self.discover()?;
        if let Some((name, error)) = found.failed.into_iter().next() {
            let what = format!("opening the network namespace {name}");
            return Err(SourceError::Kernel { what, error }.into());
        }
        self.programs.adopt(true)?;
        let mut all = Joined::default();
        for netns in found.namespaces {
            let inode = netns.inode();
            self.watch(netns)?;
            let joined = self.list(inode)?;
            all.matched += joined.matched;
            all.unlike += joined.unlike;
            all.untold += joined.untold;
            all.contradiction = all.contradiction.or(joined.contradiction);
            all.sample.extend(joined.sample);
        }
        self.programs.adopt(false)?;
        // What was found at the start was not missed.
        self.noticed.missed_births = 0;
        match self.prove(all) {
            Err(EbpfError::Unproved) if is_proved => Ok(()),
            proof => proof,
        }
    }

    /// Whether what the programs read is what netlink says.
    fn prove(&mut self, joined: Joined) -> Result<(), EbpfError> {
        let Joined { matched, unlike, untold, contradiction, sample } = joined;
        if let Some(contradiction) = contradiction {
            return Err(EbpfError::Disproved(Box::new(contradiction)));
        }
        // Adoptions that did not fit into the ring are no mistake of the layout.
        let excused = self.feed.counts().lost_adoptions;
        if untold > excused || unlike * 2 > matched {
            return Err(EbpfError::Unrecognised { listed: matched + untold, matched });
        }
        if matched == 0 {
            return Err(EbpfError::Unproved);
        }
        self.prove_sweep(sample)
    }

    /// Sweeps entries that netlink has listed: the same entries, no counter below.
    fn prove_sweep(&mut self, mut sample: Vec<(u64, Reading)>) -> Result<(), EbpfError> {
        sample.sort_unstable_by_key(|(ct, _)| *ct);
        sample.truncate(SAMPLE);
        let pointers: Vec<u64> = sample.iter().map(|(ct, _)| *ct).collect();
        let swept = self.programs.sweep(&pointers)?;
        let mut proved = 0;
        for (swept, (_, listed)) in swept.iter().zip(&sample) {
            let Ok(mut reading) = entry::reading(&self.layout, swept, listed.netns) else {
                continue;
            };
            // An entry that has ended meanwhile proves nothing, and says so.
            if !is_held(swept) || reading.start != listed.start {
                continue;
            }
            reading.kernel_id = listed.kernel_id;
            if let Some(mut found) = contradiction(listed, &reading) {
                std::mem::swap(&mut found.ours, &mut found.netlink);
                return Err(EbpfError::Disproved(Box::new(found)));
            }
            proved += 1;
        }
        match proved {
            0 => Err(EbpfError::Unproved),
            _ => Ok(()),
        }
    }

    /// Follows the namespaces: adopts new ones, forgets those that are gone. Gives those that
    /// could not be listed.
    pub(super) fn follow(&mut self) -> Result<Vec<(NetnsInode, String)>, SourceError> {
        if self.config.netns == NetnsChoice::Own {
            return Ok(Vec::new());
        }
        let found = self.discover()?;
        let present: Vec<NetnsInode> = found.namespaces.iter().map(Netns::inode).collect();
        let mut failing: Vec<(String, String)> =
            found.failed.iter().map(|(name, error)| (name.clone(), error.to_string())).collect();
        if found.left_out > 0 {
            let name = format!("{} namespaces beyond the limit", found.left_out);
            failing.push((name, "not watched".to_owned()));
        }
        for netns in found.namespaces {
            let label = netns.label().to_owned();
            if !self.watched.contains_key(&netns.inode())
                && let Err(error) = self.watch(netns)
            {
                failing.push((label, chain(&error)));
            }
        }
        for (name, reason) in &failing {
            if !self.failing.contains(name) {
                tracing::warn!(name, reason, "a network namespace is not watched");
            }
        }
        self.failing = failing.into_iter().map(|(name, _)| name).collect();
        let gone: Vec<NetnsInode> =
            self.watched.keys().copied().filter(|inode| !present.contains(inode)).collect();
        for inode in gone {
            self.watched.remove(&inode);
            // Of all namespaces the entries' ends are told whoever watches them.
            if self.config.netns != NetnsChoice::All {
                self.table.forget(inode);
            }
        }
        Ok(Vec::new())
    }

    /// Begins to watch a namespace; it is listed by the next reconciliation.
    fn watch(&mut self, netns: Netns) -> Result<(), SourceError> {
        let opened = netns.enter(|| Ok((DumpSocket::open()?, FillFiles::open())));
        let (dump, fill) = opened.map_err(|error| entering(&netns, error))?;
        let due = BootNanos::BOOT;
        self.watched.insert(netns.inode(), Watched { netns, dump: Some(dump), fill, due });
        Ok(())
    }

    /// Lists the namespaces whose turn it is: all of them where births were lost, else each one
    /// every few minutes, and one that has entries without a name.
    pub(super) fn reconcile(&mut self, now: BootNanos, all: bool) -> Vec<(NetnsInode, String)> {
        let mut due: Vec<NetnsInode> = self
            .watched
            .iter()
            .filter(|(_, watched)| all || watched.due <= now)
            .map(|(inode, _)| *inode)
            .collect();
        due.extend(self.table.nameless().map(|(key, _)| key.netns));
        due.retain(|inode| self.watched.contains_key(inode));
        due.sort_unstable();
        due.dedup();
        if due.is_empty() {
            return Vec::new();
        }
        let mut failed = Vec::new();
        if let Err(error) = self.programs.adopt(true) {
            let reason = chain(&error);
            return due.into_iter().map(|inode| (inode, reason.clone())).collect();
        }
        for inode in due {
            let missed = self.noticed.missed_births;
            let is_new = self.watched.get(&inode).is_some_and(|w| w.due == BootNanos::BOOT);
            match self.list(inode) {
                Ok(joined) if joined.untold > 0 => {
                    let problem = format!("{} entries were not told", joined.untold);
                    failed.push((inode, problem));
                }
                Ok(_) => {}
                Err(error) => failed.push((inode, chain(&error))),
            }
            let found = self.noticed.missed_births - missed;
            if is_new {
                // What lives in a namespace before it is watched was not missed.
                self.noticed.missed_births = missed;
            } else if found > 0 {
                tracing::info!(netns = inode.0, found, "entries whose birth was not told");
            }
        }
        if let Err(error) = self.programs.adopt(false) {
            tracing::warn!(error = %chain(&error), "the adoption hook could not be taken off");
        }
        failed
    }

    /// Lists a namespace's table while the adoption hook is on.
    fn list(&mut self, inode: NetnsInode) -> Result<Joined, SourceError> {
        let mut last = DumpError::Interrupted;
        for _ in 0..TRIES {
            let Some(watched) = self.watched.get_mut(&inode) else { break };
            let dump =
                watched.dump.take().map_or_else(|| watched.netns.enter(DumpSocket::open), Ok);
            let mut dump = dump.map_err(|error| entering(&watched.netns, error))?;
            let before = buckets();
            let (joined, done) = self.list_once(inode, &mut dump);
            let due = self.next_turn(inode);
            let Some(watched) = self.watched.get_mut(&inode) else { break };
            match done {
                Ok(()) if before == buckets() => {
                    watched.dump = Some(dump);
                    watched.due = due;
                    return Ok(joined);
                }
                Ok(()) | Err(DumpError::Interrupted) => watched.dump = Some(dump),
                Err(error) => last = error,
            }
        }
        let error = match last {
            DumpError::Kernel(error) => error,
            other => io::Error::other(other),
        };
        Err(SourceError::Kernel { what: "listing the conntrack table".to_owned(), error })
    }

    fn list_once(
        &mut self,
        inode: NetnsInode,
        dump: &mut DumpSocket,
    ) -> (Joined, Result<(), DumpError>) {
        self.absorb();
        self.join = Some(Join::default());
        let nameless: HashMap<EntryKey, u64> = self.table.nameless().collect();
        let (mut listed, mut malformed) = (Vec::new(), false);
        let done = dump.entries(|part| match part {
            Part::Entry(message) => match parse::reading(message.body, inode) {
                Ok(reading) => listed.push(reading),
                Err(_unreadable) => malformed = true,
            },
            Part::Read => {
                // All entries of this datagram were told before it was received.
                self.absorb();
                let Some(join) = &mut self.join else { return };
                for reading in &listed {
                    let ct = join.list(reading);
                    let ct = ct.or_else(|| nameless.get(&reading.key()).copied());
                    if let Some(ct) = ct.filter(|_| reading.start == 0) {
                        self.table.name(ct, reading.kernel_id);
                    }
                }
                join.datagram(&listed);
                listed.clear();
            }
        });
        let joined = self.join.take().unwrap_or_default().finish();
        (joined, if malformed { Err(DumpError::Malformed) } else { done })
    }

    /// When a namespace is listed again: in a whole period, less up to a tenth that its number
    /// decides, so that many do not come together.
    fn next_turn(&self, inode: NetnsInode) -> BootNanos {
        let period = self.config.reconcile_every;
        let early = period.checked_div(10).unwrap_or(Duration::ZERO) * (inode.0 % 16) / 16;
        clock::now().plus(period.saturating_sub(early))
    }
}

fn entering(netns: &Netns, error: io::Error) -> SourceError {
    match error.raw_os_error() {
        Some(libc::EPERM) if netns.label() != "own" => SourceError::Privilege {
            what: "entering another network namespace",
            needs: "CAP_SYS_ADMIN",
        },
        Some(libc::EPERM | libc::EACCES) => SourceError::Privilege {
            what: "listing conntrack over netlink",
            needs: "CAP_NET_ADMIN",
        },
        _ => SourceError::Kernel {
            what: format!("listing conntrack in the network namespace {}", netns.label()),
            error,
        },
    }
}

/// Times a disturbed dump is begun.
const TRIES: usize = 3;
