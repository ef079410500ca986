//! A disk in memory that crashes, tears, fills up and rots on demand. For tests and the
//! simulation; a node never uses it.
//!
//! What a crash may do is what [`Disk`] allows: bytes that were not synced survive as a prefix,
//! as a prefix followed by zeros, or sector by sector; names that were not synced survive or
//! not; removals that were not synced may be undone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::disk::{Disk, Entry, FolderInode, TEMPORARY};

/// A handle to a disk in memory; clones share it, as a restarted process shares its disk.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

/// A copy of a whole disk: a backup, a virtual machine's snapshot, a clone.
#[derive(Clone, Debug)]
pub struct Snapshot(State);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct MemFile {
    /// What a reader sees.
    data: Vec<u8>,
    /// What a crash leaves for certain.
    durable: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<u64, MemFile>,
    /// Files made so far.
    made: u64,
    /// Names as a reader sees them, to keys of `files`.
    names: BTreeMap<String, u64>,
    /// Names as a crash leaves them.
    durable_names: BTreeMap<String, u64>,
    inode: u64,
    capacity: Option<u64>,
    /// Steps that still succeed before the disk stops answering.
    steps_left: Option<u64>,
    steps: u64,
    aside: Vec<BTreeMap<String, Vec<u8>>>,
}

impl MemDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the disk hold at most `bytes`; `None` is without a limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Lets `steps` more modifying steps happen (an atomic write is four of them); then every
    /// call fails until [`MemDisk::crash`].
    pub fn stop_after(&self, steps: u64) {
        self.lock().steps_left = Some(steps);
    }

    /// Modifying steps so far: what a test iterates over.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// The power fails: what was not synced is lost or torn, as `seed` says, and the disk
    /// answers again.
    pub fn crash(&self, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut state = self.lock();
        let mut names = state.durable_names.clone();
        for (name, file) in &state.names {
            if !names.contains_key(name) && rng.random() {
                names.insert(name.clone(), *file);
            }
        }
        names.retain(|name, _| state.names.contains_key(name) || rng.random());
        for file in state.files.values_mut() {
            file.data = torn(file, &mut rng);
            file.durable = file.data.clone();
        }
        state.names = names;
        state.names_are_durable();
        state.steps_left = None;
    }

    /// A copy of everything as readers see it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.lock().clone())
    }

    /// Puts a copy back: the same folder, as it was then.
    pub fn restore(&self, snapshot: &Snapshot) {
        *self.lock() = snapshot.0.clone();
    }

    /// Another disk with the same files in a folder of its own, as `cp -a` makes it.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut state = self.lock().clone();
        state.inode = state.inode.wrapping_add(1);
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Turns over the bits of `mask` in one byte of a file, durably; false where there is none.
    pub fn flip(&self, name: &str, at: u64, mask: u8) -> bool {
        self.change(name, |data| {
            let byte = usize::try_from(at).ok().and_then(|at| data.get_mut(at));
            byte.map(|byte| *byte ^= mask).is_some()
        })
    }

    /// Cuts a file, durably; false where there is none or it is shorter.
    pub fn cut(&self, name: &str, len: u64) -> bool {
        self.change(name, |data| match usize::try_from(len) {
            Ok(len) if len <= data.len() => {
                data.truncate(len);
                true
            }
            _ => false,
        })
    }

    /// Removes a file, durably, behind the spool's back.
    pub fn lose(&self, name: &str) {
        let mut state = self.lock();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    /// The folders set aside so far, as name to bytes.
    #[must_use]
    pub fn aside(&self) -> Vec<BTreeMap<String, Vec<u8>>> {
        self.lock().aside.clone()
    }

    fn change(&self, name: &str, f: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let mut state = self.lock();
        let Some(place) = state.names.get(name).copied() else { return false };
        let Some(file) = state.files.get_mut(&place) else { return false };
        let changed = f(&mut file.data);
        file.durable = file.data.clone();
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a crash leaves of a file.
fn torn(file: &MemFile, rng: &mut SmallRng) -> Vec<u8> {
    let (durable, data) = (&file.durable, &file.data);
    if data.len() < durable.len() || data.get(..durable.len()) != Some(durable) {
        // A cut that was not synced: it happened or not.
        return if rng.random() { data.clone() } else { durable.clone() };
    }
    let kept = rng.random_range(durable.len()..=data.len());
    let mut left = data.get(..kept).unwrap_or_default().to_vec();
    match rng.random_range(0..3u8) {
        0 => left.resize(data.len(), 0),
        1 => {
            left.resize(data.len(), 0);
            for (sector, source) in left.chunks_mut(SECTOR).zip(data.chunks(SECTOR)).skip(1) {
                if rng.random() {
                    sector.copy_from_slice(source);
                }
            }
        }
        _ => {}
    }
    left
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.steps_left {
            Some(0) => return Err(io::Error::other("the simulated disk has stopped")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.steps += 1;
        Ok(())
    }

    fn alive(&self) -> io::Result<()> {
        match self.steps_left {
            Some(0) => Err(io::Error::other("the simulated disk has stopped")),
            _ => Ok(()),
        }
    }

    fn file(&self, name: &str) -> io::Result<&MemFile> {
        let place = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.files.get(place).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file_mut(&mut self, name: &str) -> io::Result<&mut MemFile> {
        let place = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.files.get_mut(place).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        let files = self.names.values().filter_map(|place| self.files.get(place));
        files.map(|file| file.data.len() as u64).sum()
    }

    /// Writes as much as fits, like a real disk that runs full in the middle.
    fn write(&mut self, name: &str, at: usize, bytes: &[u8]) -> io::Result<()> {
        if !self.names.contains_key(name) {
            self.made += 1;
            self.names.insert(name.to_owned(), self.made);
            self.files.insert(self.made, MemFile::default());
        }
        let room = match self.capacity {
            Some(capacity) => capacity.saturating_sub(self.used()),
            None => u64::MAX,
        };
        let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let file = self.file_mut(name)?;
        if at > file.data.len() {
            return Err(io::Error::other("an append beyond the end"));
        }
        file.data.truncate(at);
        file.data.extend_from_slice(bytes.get(..fits).unwrap_or_default());
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// The folder was synced; files without any name are gone.
    fn names_are_durable(&mut self) {
        self.durable_names = self.names.clone();
        let kept: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|key, _| kept.contains(key));
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        let file = self.file_mut(name)?;
        file.durable = file.data.clone();
        Ok(())
    }
}

impl Disk for MemDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let state = self.lock();
        state.alive()?;
        let entry = |name: &String| {
            let len = state.file(name)?.data.len() as u64;
            Ok(Entry { name: name.clone(), len })
        };
        state.names.keys().map(entry).collect()
    }

    fn read(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let state = self.lock();
        state.alive()?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let data = &state.file(name)?.data;
        let range = offset..offset.saturating_add(len);
        data.get(range).map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn append(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        state.write(name, usize::try_from(at).map_err(io::Error::other)?, bytes)
    }

    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        state.file_mut(name)?.data.resize(len, 0);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        state.sync_file(name)?;
        state.step()?;
        state.names_are_durable();
        Ok(())
    }

    fn write_atomic(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}{TEMPORARY}");
        {
            let mut state = self.lock();
            state.step()?;
            if let Err(error) = state.write(&temporary, 0, bytes) {
                state.names.remove(&temporary);
                return Err(error);
            }
            state.step()?;
            state.sync_file(&temporary)?;
        }
        self.rename(&temporary, name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.step()?;
        state.names_are_durable();
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        state.names.remove(name);
        Ok(())
    }

    fn folder(&self) -> io::Result<FolderInode> {
        Ok(FolderInode(self.lock().inode))
    }

    fn set_aside(&mut self) -> io::Result<String> {
        let mut state = self.lock();
        state.step()?;
        let names: Vec<String> = state.names.keys().cloned().collect();
        let mut files = BTreeMap::new();
        for name in names {
            let data = state.file(&name)?.data.clone();
            files.insert(name, data);
        }
        state.aside.push(files);
        state.names.clear();
        state.durable_names.clear();
        state.files.clear();
        state.inode = state.inode.wrapping_add(1);
        Ok(format!("broken-{}", state.aside.len()))
    }
}

/// Bytes a disk writes together.
const SECTOR: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_may_tear_the_rest() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..64 {
            let mut disk = MemDisk::new();
            disk.append("a", 0, b"durable").unwrap();
            disk.sync("a").unwrap();
            disk.append("a", 7, &[7; 1500]).unwrap();
            disk.crash(seed);
            let len = disk.list().unwrap()[0].len;
            let data = disk.read("a", 0, usize::try_from(len).unwrap()).unwrap();
            assert_eq!(&data[..7], b"durable");
            outcomes.insert(data);
        }
        assert!(outcomes.len() > 10, "only {} ways to crash", outcomes.len());
    }

    #[test]
    fn an_atomic_write_is_old_or_new_at_every_step() {
        let mut seen = BTreeSet::new();
        for steps in 0..=4 {
            for seed in 0..8 {
                let mut disk = MemDisk::new();
                disk.write_atomic("a", b"old").unwrap();
                disk.stop_after(steps);
                let done = disk.write_atomic("a", b"new");
                assert_eq!(done.is_ok(), steps == 4);
                disk.crash(seed);
                let data = disk.read("a", 0, 3).unwrap();
                assert!(data == b"old" || data == b"new");
                assert!(done.is_err() || data == b"new");
                seen.insert(data);
            }
        }
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_full_disk_writes_what_fits() {
        let mut disk = MemDisk::new();
        disk.set_capacity(Some(10));
        let error = disk.append("a", 0, &[1; 11]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.list().unwrap()[0].len, 10);
        disk.truncate("a", 4).unwrap();
        disk.append("a", 4, &[1; 6]).unwrap();
    }
}
