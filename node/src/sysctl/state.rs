//! The file that remembers what the sysctls were before the node changed them.
//!
//! JSON: `{"version":1,"records":[{"boot":"..","netns":4026531840,"key":"nf_conntrack_acct",
//! "original":0},..]}`. It is written under another name, synced and renamed before the first
//! change. A record of this boot is never overwritten: a second life of the node would take the
//! first one's value for the original. Records of other boots are dropped, a boot resets all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flow::{BootId, NetnsInode};
use serde::{Deserialize, Serialize};

use super::Key;

/// An original value in this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) netns: NetnsInode,
    pub(super) key: Key,
    pub(super) original: u64,
}

/// The originals of this boot.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    boot: BootId,
    records: Vec<Record>,
}

/// Why the originals could not be read or written down.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file could not be read.
    #[error("reading the original sysctls from {path} failed")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The file does not say what it should.
    #[error(
        "{path} does not hold original sysctls: {problem}; look at it, set the sysctls as they \
         should be without conntracct, and remove it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The file could not be written.
    #[error("writing the original sysctls to {path} failed, so none is changed")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    version: u32,
    records: Vec<OnDiskRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDiskRecord {
    boot: String,
    netns: u32,
    key: String,
    original: u64,
}

impl State {
    /// Reads what is on record for this boot; nothing where there is no file.
    pub(super) fn open(folder: &Path, boot: BootId) -> Result<Self, StateError> {
        let path = folder.join(STATE_FILE);
        let records = match fs::read(&path) {
            Ok(bytes) => parse(&bytes, boot)
                .map_err(|problem| StateError::Damaged { path: path.clone(), problem })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StateError::Read { path, error }),
        };
        Ok(Self { path, boot, records })
    }

    /// The originals of this boot.
    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds originals that are not on record yet, and syncs them to the disk.
    pub(super) fn remember(
        &mut self,
        records: impl Iterator<Item = Record>,
    ) -> Result<(), StateError> {
        let before = self.records.len();
        for record in records {
            let known = |r: &Record| (r.netns, r.key) == (record.netns, record.key);
            if !self.records.iter().any(known) {
                self.records.push(record);
            }
        }
        if self.records.len() == before {
            return Ok(());
        }
        self.write().inspect_err(|_| self.records.truncate(before))
    }

    /// Keeps only these; removes the file where there are none.
    pub(super) fn keep(&mut self, records: Vec<Record>) -> Result<(), StateError> {
        if records == self.records {
            return Ok(());
        }
        self.records = records;
        self.write()
    }

    fn write(&mut self) -> Result<(), StateError> {
        let done = if self.records.is_empty() { remove(&self.path) } else { self.replace() };
        done.map_err(|error| StateError::Write { path: self.path.clone(), error })
    }

    fn replace(&self) -> io::Result<()> {
        let boot = self.boot.to_string();
        let records = self.records.iter().map(|record| OnDiskRecord {
            boot: boot.clone(),
            netns: record.netns.0,
            key: record.key.name().to_owned(),
            original: record.original,
        });
        let bytes =
            serde_json::to_vec_pretty(&OnDisk { version: VERSION, records: records.collect() })?;
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(folder)?;
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(folder)?.sync_all()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn parse(bytes: &[u8], boot: BootId) -> Result<Vec<Record>, String> {
    let disk: OnDisk = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if disk.version != VERSION {
        return Err(format!("version {}, not {VERSION}", disk.version));
    }
    let mut records = Vec::new();
    for OnDiskRecord { boot: recorded, netns, key, original } in disk.records {
        let recorded: BootId = recorded.parse().map_err(|error| format!("boot: {error}"))?;
        let key = Key::named(&key).ok_or_else(|| format!("unknown key {key:?}"))?;
        if recorded == boot {
            records.push(Record { netns: NetnsInode(netns), key, original });
        }
    }
    Ok(records)
}

/// The file in the node's state folder.
pub const STATE_FILE: &str = "sysctls.json";

const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([1; 16]);

    const fn record(netns: u32, key: Key, original: u64) -> Record {
        Record { netns: NetnsInode(netns), key, original }
    }

    #[test]
    fn a_record_of_this_boot_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let first = record(1, Key::Acct, 0);
        let mut state = State::open(folder.path(), BOOT).unwrap();
        state.remember([first].into_iter()).unwrap();
        let mut state = State::open(folder.path(), BOOT).unwrap();
        let other = record(1, Key::Events, 2);
        state.remember([record(1, Key::Acct, 1), other].into_iter()).unwrap();
        let state = State::open(folder.path(), BOOT).unwrap();
        assert_eq!(state.records(), [first, other]);
    }

    #[test]
    fn another_boot_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path(), BOOT).unwrap();
        state.remember([record(1, Key::Acct, 0)].into_iter()).unwrap();
        let mut state = State::open(folder.path(), BootId([2; 16])).unwrap();
        assert!(state.records().is_empty());
        let next = record(1, Key::Acct, 1);
        state.remember([next].into_iter()).unwrap();
        assert_eq!(State::open(folder.path(), BootId([2; 16])).unwrap().records(), [next]);
        assert!(State::open(folder.path(), BOOT).unwrap().records().is_empty());
    }

    #[test]
    fn nothing_left_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path(), BOOT).unwrap();
        state.remember([record(1, Key::Acct, 0)].into_iter()).unwrap();
        assert!(folder.path().join(STATE_FILE).exists());
        state.keep(Vec::new()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn damage_is_told_and_nothing_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(STATE_FILE);
        for bytes in ["", "{", r#"{"version":2,"records":[]}"#, r#"{"version":1}"#] {
            fs::write(&path, bytes).unwrap();
            let error = State::open(folder.path(), BOOT).unwrap_err().to_string();
            assert!(error.contains(STATE_FILE), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn what_cannot_be_written_down_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let mut state =
            State { path: folder.path().join("file/x"), boot: BOOT, records: Vec::new() };
        let done = state.remember([record(1, Key::Acct, 0)].into_iter());
        assert!(matches!(done, Err(StateError::Write { .. })));
        assert!(state.records().is_empty());
    }
}
