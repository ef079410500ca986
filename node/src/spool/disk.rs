//! What a spool asks of a disk, and the real one.
//!
//! A disk here is one flat folder. The trait is small so that a simulated disk
//! ([`MemDisk`](super::memdisk::MemDisk)) can lose and tear everything a real one may lose and
//! tear. All calls block; they belong on a blocking thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A folder's inode: a copied folder has another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FolderInode(pub u64);

/// A file in the folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name, without a path.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// One folder on a disk.
///
/// Durability: [`Disk::append`] and [`Disk::truncate`] may be lost or torn by a crash until
/// [`Disk::sync`] returned; [`Disk::write_atomic`] and [`Disk::rename`] are durable when they
/// return, and happen wholly or not at all; a [`Disk::remove`] may be undone by a crash.
pub trait Disk: Send {
    /// The regular files, in no order.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Exactly `len` bytes from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file is shorter; else as the operating system says.
    fn read(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Writes `bytes` at the end, which the caller knows to be `at`; makes the file if needed.
    ///
    /// # Errors
    /// After an error any part of `bytes` may have been written: truncate before going on.
    fn append(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts a file to `len` bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()>;

    /// Makes a file's bytes, length and name durable.
    ///
    /// # Errors
    /// After an error nothing written since the last success may be relied upon.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Puts a whole file in place of another, durably, or leaves everything as it was.
    ///
    /// # Errors
    /// As the operating system says.
    fn write_atomic(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Renames a synced file, durably.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// The folder's inode.
    ///
    /// # Errors
    /// As the operating system says.
    fn folder(&self) -> io::Result<FolderInode>;

    /// Renames the whole folder to `<folder>.broken-<n>` and begins an empty one; returns where
    /// the old one is now. Nothing is deleted.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_aside(&mut self) -> io::Result<String>;
}

/// Ends the names of files that are not whole yet; those left over by a crash mean nothing.
pub const TEMPORARY: &str = ".tmp";

/// Why a folder could not be taken.
#[derive(Debug, Error)]
pub enum DiskError {
    /// Another process has it.
    #[error(
        "the spool {} is in use by another conntracct-node; stop it, or give this one a state \
         folder of its own", .folder.display()
    )]
    InUse {
        /// The spool's folder.
        folder: PathBuf,
    },
    /// It cannot be made or opened.
    #[error("the spool folder {} cannot be opened", .folder.display())]
    Open {
        /// The spool's folder.
        folder: PathBuf,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
}

/// A real folder. While this lives, `<folder>.lock` beside it keeps other nodes out.
#[derive(Debug)]
pub struct FileDisk {
    folder: PathBuf,
    /// Names were added since the folder was last synced.
    unsynced_names: bool,
    /// Held for its lock; the kernel releases it with the process.
    _lock: File,
}

impl FileDisk {
    /// Makes the folder where needed, and takes it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    pub fn open(folder: &Path) -> Result<Self, DiskError> {
        let failed = |error| DiskError::Open { folder: folder.to_owned(), error };
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = File::create(beside(folder, "lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(DiskError::InUse { folder: folder.to_owned() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let disk = Self { folder: folder.to_owned(), unsynced_names: true, _lock: lock };
        disk.sync_parent().map_err(failed)?;
        Ok(disk)
    }

    /// The folder's path.
    #[must_use]
    pub fn folder_path(&self) -> &Path {
        &self.folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()?;
        self.unsynced_names = false;
        Ok(())
    }

    fn sync_parent(&self) -> io::Result<()> {
        match self.folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }
}

/// `<folder>.<ending>`: a name beside the folder.
fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                entries.push(Entry { name, len: meta.len() });
            }
        }
        Ok(entries)
    }

    fn read(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(name))?;
        // The length is checked against the file before anything of that size is allocated.
        let need = offset.saturating_add(len as u64);
        if file.metadata()?.len() < need {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn append(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        if at == 0 {
            self.unsynced_names = true;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all_at(bytes, at)
    }

    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(name))?.set_len(len)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        File::open(self.path(name))?.sync_data()?;
        if self.unsynced_names { self.sync_folder() } else { Ok(()) }
    }

    fn write_atomic(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}{TEMPORARY}");
        let written = (|| {
            let mut file = File::create(self.path(&temporary))?;
            file.write_all(bytes)?;
            file.sync_data()
        })();
        if let Err(error) = written {
            // A full disk must get its bytes back; the first error is the one to report.
            let _left_for_the_next_open = fs::remove_file(self.path(&temporary));
            return Err(error);
        }
        self.rename(&temporary, name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        self.sync_folder()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn folder(&self) -> io::Result<FolderInode> {
        Ok(FolderInode(fs::metadata(&self.folder)?.ino()))
    }

    fn set_aside(&mut self) -> io::Result<String> {
        let free = (1..=MAX_ASIDE)
            .map(|n| beside(&self.folder, &format!("broken-{n}")))
            .find(|path| !path.exists())
            .ok_or_else(|| io::Error::other(format!("{MAX_ASIDE} broken spools lie beside it")))?;
        fs::rename(&self.folder, &free)?;
        fs::create_dir(&self.folder)?;
        self.sync_parent()?;
        Ok(free.display().to_string())
    }
}

/// Broken spools kept beside the live one; with more of them a person must look.
const MAX_ASIDE: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("spool");
        let first = FileDisk::open(&folder).unwrap();
        let error = FileDisk::open(&folder).unwrap_err();
        assert!(matches!(error, DiskError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("in use by another conntracct-node"));
        drop(first);
        FileDisk::open(&folder).unwrap();
    }

    #[test]
    fn files_are_written_read_cut_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::open(&dir.path().join("spool")).unwrap();
        disk.append("a", 0, b"hello ").unwrap();
        disk.append("a", 6, b"world").unwrap();
        disk.sync("a").unwrap();
        assert_eq!(disk.read("a", 6, 5).unwrap(), b"world");
        let eof = disk.read("a", 6, 6).unwrap_err();
        assert_eq!(eof.kind(), io::ErrorKind::UnexpectedEof);
        disk.truncate("a", 5).unwrap();
        disk.write_atomic("b", b"one").unwrap();
        disk.write_atomic("b", b"two").unwrap();
        disk.rename("b", "c").unwrap();
        disk.remove("nothing").unwrap();
        let mut list = disk.list().unwrap();
        list.sort();
        let entry = |name: &str, len| Entry { name: name.to_owned(), len };
        assert_eq!(list, [entry("a", 5), entry("c", 3)]);
        assert_eq!(disk.read("c", 0, 3).unwrap(), b"two");
    }

    #[test]
    fn a_folder_set_aside_keeps_its_files_and_its_successor_another_inode() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("spool");
        let mut disk = FileDisk::open(&folder).unwrap();
        let inode = disk.folder().unwrap();
        disk.write_atomic("a", b"one").unwrap();
        let aside = disk.set_aside().unwrap();
        assert_eq!(fs::read(Path::new(&aside).join("a")).unwrap(), b"one");
        assert_eq!(disk.list().unwrap(), []);
        assert_ne!(disk.folder().unwrap(), inode);
        assert!(disk.set_aside().unwrap().ends_with(".broken-2"));
        assert!(FileDisk::open(&folder).is_err(), "the lock stays with the path");
    }
}
