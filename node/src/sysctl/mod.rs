//! The sysctls that make the kernel count: `net.netfilter.nf_conntrack_{acct,timestamp,events}`
//! set to 1 in every watched namespace, the originals kept and given back on request.
//!
//! - `core`: what to change and what to complain of, pure;
//! - `state`: the file that remembers the originals;
//! - this: reading and writing `/proc/sys/net/netfilter` inside the namespaces.
//!
//! `acct` and `timestamp` take effect for entries born afterwards; `events` = 1 (instead of 2)
//! makes entries announce their end even where nobody listened when they were born.

pub mod actor;
mod core;
pub mod metrics;
mod state;

use std::io;
use std::path::{Path, PathBuf};

use flow::{BootId, NetnsInode};

use self::core::{Change, Found, LONGEST_TIMEOUTS, WANTED, plan};
pub use self::core::{Key, LongTimeout};
use self::state::{Record, State};
pub use self::state::{STATE_FILE, StateError};
use crate::netns::{self, Netns, NetnsChoice};

/// What is managed, and where the originals are kept.
#[derive(Clone, Debug)]
pub struct SysctlConfig {
    /// Whether anything is written (`sysctl_manage`); if not, it is only looked at.
    pub manage: bool,
    /// Which namespaces.
    pub netns: NetnsChoice,
    /// The node's state folder; the file in it is [`STATE_FILE`].
    pub state_folder: PathBuf,
    /// Whether [`Sysctls::restore`] is meant to be called at exit (`restore_on_exit`).
    pub restore_on_exit: bool,
    /// Whether long timeouts are looked for (off where no sink takes ends, or when silenced).
    pub timeout_warnings: bool,
}

/// The sysctls of the watched namespaces.
#[derive(Debug)]
pub struct Sysctls {
    config: SysctlConfig,
    state: State,
    /// What this object has set: a value that is another one later has drifted.
    set: Vec<(NetnsInode, Key)>,
    warned: Vec<(NetnsInode, Warning)>,
}

/// What was found and done.
#[derive(Debug, Default)]
pub struct Report {
    /// Values set, with what they were.
    pub changed: Vec<Changed>,
    /// Of these, values that somebody else had changed since they were set.
    pub drifted: usize,
    /// What somebody should know. Each is reported by one report only, until it is over.
    pub warnings: Vec<(NetnsInode, Warning)>,
    /// What could not be read or written.
    pub failed: Vec<SysctlError>,
}

/// A value that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where.
    pub netns: NetnsInode,
    /// Which.
    pub key: Key,
    /// What it was.
    pub from: u64,
    /// What it is.
    pub to: u64,
}

/// Something to tell the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Not managed, and off.
    #[error(
        "{0} is off and sysctl_manage is false: {consequence}; set {0}=1",
        consequence = .0.consequence()
    )]
    Off(Key),
    /// This kernel has no such key.
    #[error("this kernel has no {0}: {consequence}", consequence = .0.consequence())]
    Missing(Key),
    /// Ends come late.
    #[error(
        "{} is {} s, more than {} s: entries stay that long after their last packet, \
         so their ends come late",
        .0.key, .0.seconds, .0.most
    )]
    LongTimeout(LongTimeout),
}

/// Why a sysctl could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The state file.
    #[error(transparent)]
    State(#[from] StateError),
    /// The namespaces could not be listed.
    #[error("looking for network namespaces failed")]
    Namespaces(#[source] io::Error),
    /// A namespace could not be entered or its files not be read.
    #[error("reading the sysctls of the network namespace {netns} failed")]
    Read {
        /// Its name.
        netns: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A value could not be written.
    #[error(
        "writing {value} to {key} in the network namespace {netns} failed; it needs CAP_NET_ADMIN \
         and a writable /proc/sys, or set it before the start and sysctl_manage = false"
    )]
    Write {
        /// Its name.
        netns: String,
        /// Which sysctl.
        key: Key,
        /// What was to be written.
        value: u64,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// What [`restore`] did.
#[derive(Debug, Default)]
pub struct Restored {
    /// Values given back.
    pub restored: Vec<Changed>,
    /// Values that somebody else has changed since: left alone.
    pub foreign: Vec<(NetnsInode, Key)>,
    /// Namespaces that are gone, and their values with them.
    pub gone: Vec<NetnsInode>,
    /// What failed; these originals stay on record.
    pub failed: Vec<SysctlError>,
}

impl Sysctls {
    /// Reads the originals that are on record. Changes nothing.
    ///
    /// # Errors
    /// When the state file is there and cannot be understood: without it an original could be
    /// lost.
    pub fn open(config: SysctlConfig, boot: BootId) -> Result<Self, SysctlError> {
        let state = State::open(&config.state_folder, boot)?;
        Ok(Self { config, state, set: Vec::new(), warned: Vec::new() })
    }

    /// Sets what has to be set, in all namespaces, the originals on record first.
    ///
    /// # Errors
    /// When the namespaces cannot be listed or the originals not be written down (then nothing
    /// is changed). What fails in one namespace is in the report.
    pub fn apply(&mut self) -> Result<Report, SysctlError> {
        let found = netns::discover(&self.config.netns).map_err(SysctlError::Namespaces)?;
        let mut report = Report::default();
        let mut warnings = Vec::new();
        for (netns, error) in found.failed {
            report.failed.push(SysctlError::Read { netns, error });
        }
        for netns in &found.namespaces {
            match read(netns) {
                Ok(values) => {
                    let plan = plan(&values, self.config.manage, self.config.timeout_warnings);
                    warnings.extend(plan.warnings.into_iter().map(|w| (netns.inode(), w)));
                    self.carry_out(netns, &plan.changes, &mut report)?;
                }
                Err(error) => {
                    report.failed.push(SysctlError::Read { netns: netns.label().to_owned(), error })
                }
            }
        }
        report.warnings =
            warnings.iter().filter(|warning| !self.warned.contains(warning)).copied().collect();
        self.warned = warnings;
        Ok(report)
    }

    /// [`Sysctls::apply`] again, for each interval: repairs drift, takes in new namespaces.
    /// An error is in the report.
    pub fn check(&mut self) -> Report {
        self.apply().unwrap_or_else(|error| Report { failed: vec![error], ..Report::default() })
    }

    /// Gives the originals back, and forgets those that were.
    ///
    /// # Errors
    /// When the record of what is left cannot be written.
    pub fn restore(&mut self) -> Result<Restored, SysctlError> {
        self.set.clear();
        give_back(&mut self.state, &self.config.netns)
    }

    /// Whether the originals are to be given back at exit.
    #[must_use]
    pub const fn restores_on_exit(&self) -> bool {
        self.config.manage && self.config.restore_on_exit
    }

    fn carry_out(
        &mut self,
        netns: &Netns,
        changes: &[Change],
        report: &mut Report,
    ) -> Result<(), SysctlError> {
        if changes.is_empty() {
            return Ok(());
        }
        let records = changes.iter().map(|change| Record {
            netns: netns.inode(),
            key: change.key,
            original: change.from,
        });
        self.state.remember(records)?;
        for &Change { key, from, to } in changes {
            if let Err(error) = write(netns, key, to) {
                let netns = netns.label().to_owned();
                report.failed.push(SysctlError::Write { netns, key, value: to, error });
                continue;
            }
            let set = (netns.inode(), key);
            if self.set.contains(&set) {
                report.drifted += 1;
            } else {
                self.set.push(set);
            }
            report.changed.push(Changed { netns: netns.inode(), key, from, to });
        }
        Ok(())
    }
}

/// Gives back the originals on record in a state folder, for `restore-sysctls`: in whichever
/// namespaces they are.
///
/// # Errors
/// When the record cannot be read, or what is left of it not be written.
pub fn restore(state_folder: &Path, boot: BootId) -> Result<Restored, SysctlError> {
    give_back(&mut State::open(state_folder, boot)?, &NetnsChoice::All)
}

fn give_back(state: &mut State, choice: &NetnsChoice) -> Result<Restored, SysctlError> {
    let found = netns::discover(choice).map_err(SysctlError::Namespaces)?;
    let mut done = Restored::default();
    let mut left = Vec::new();
    for record in state.records().to_vec() {
        let Record { netns: inode, key, original } = record;
        let Some(netns) = found.namespaces.iter().find(|n| n.inode() == inode) else {
            if !done.gone.contains(&inode) {
                done.gone.push(inode);
            }
            continue;
        };
        match read_key(netns, key) {
            Ok(Some(from)) if from == WANTED => match write(netns, key, original) {
                Ok(()) => {
                    done.restored.push(Changed { netns: inode, key, from, to: original });
                }
                Err(error) => {
                    let netns = netns.label().to_owned();
                    done.failed.push(SysctlError::Write { netns, key, value: original, error });
                    left.push(record);
                }
            },
            Ok(Some(from)) if from == original => {}
            Ok(_) => done.foreign.push((inode, key)),
            Err(error) => {
                done.failed.push(SysctlError::Read { netns: netns.label().to_owned(), error });
                left.push(record);
            }
        }
    }
    state.keep(left)?;
    Ok(done)
}

/// Reads all keys and timeouts of a namespace; `None` for those the kernel does not have.
fn read(netns: &Netns) -> io::Result<Found> {
    netns.enter(|| {
        let mut found = Found::default();
        for key in Key::ALL {
            found.keys.push((key, value_of(&key.path())?));
        }
        if found.keys.iter().all(|(_, value)| value.is_none()) {
            // Conntrack is a module that nobody has asked for yet: ctnetlink asks for it.
            crate::source::netlink::load_kernel_module()?;
            found.keys.clear();
            for key in Key::ALL {
                found.keys.push((key, value_of(&key.path())?));
            }
        }
        for (name, _) in LONGEST_TIMEOUTS {
            if let Some(seconds) = value_of(&core::path(name))? {
                found.timeouts.push((name, seconds));
            }
        }
        Ok(found)
    })
}

fn read_key(netns: &Netns, key: Key) -> io::Result<Option<u64>> {
    netns.enter(|| value_of(&key.path()))
}

fn write(netns: &Netns, key: Key, value: u64) -> io::Result<()> {
    netns.enter(|| std::fs::write(key.path(), format!("{value}\n")))
}

/// The number in a file of `/proc/sys`; `None` where there is no such file.
fn value_of(path: &str) -> io::Result<Option<u64>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let number = text.trim().parse().map(Some);
    number.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {error}")))
}
