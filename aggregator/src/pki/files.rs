//! Reading and writing the authority's files: bounded reads, private modes, and replacement that
//! leaves either the old or the new content, whatever happens in between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::PkiError;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// Everybody (0644): certificates, the list of serials.
    Public,
    /// The owner only (0600): keys and what contains one.
    Private,
}

impl Secrecy {
    const fn mode(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Private => 0o600,
        }
    }
}

/// Reads at most `limit` bytes of text.
pub(super) fn read(path: &Path, limit: u64) -> Result<String, PkiError> {
    let unreadable = |source| PkiError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > limit {
        let problem = format!("it is larger than {limit} bytes");
        return Err(PkiError::Damaged { path: path.to_owned(), problem });
    }
    Ok(text)
}

/// Writes a file that must not exist, and syncs it; a half-written one is removed.
pub(super) fn create(path: &Path, content: &str, secrecy: Secrecy) -> Result<(), PkiError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(secrecy.mode()).open(path);
    let written = match file {
        Ok(file) => fill(file, content).and_then(|()| sync_folder(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(PkiError::Exists { path: path.to_owned() });
        }
        Err(source) => return Err(PkiError::Unwritable { path: path.to_owned(), source }),
    };
    written.map_err(|source| {
        let _ = fs::remove_file(path);
        PkiError::Unwritable { path: path.to_owned(), source }
    })
}

/// Replaces a file's content at one stroke.
pub(super) fn replace(path: &Path, content: &str, secrecy: Secrecy) -> Result<(), PkiError> {
    let unwritable = |source| PkiError::Unwritable { path: path.to_owned(), source };
    let fresh = beside(path);
    let _ = fs::remove_file(&fresh);
    create(&fresh, content, secrecy)?;
    fs::rename(&fresh, path).and_then(|()| sync_folder(path)).map_err(|source| {
        let _ = fs::remove_file(&fresh);
        unwritable(source)
    })
}

/// Takes the folder's lock: one change at a time. Held until the file is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, PkiError> {
    let path = dir.join(".lock");
    let unwritable = |source| PkiError::Unwritable { path: path.clone(), source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(Secrecy::Private.mode())
        .open(&path)
        .map_err(unwritable)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|errno| unwritable(errno.into()))?;
    Ok(file)
}

fn fill(mut file: File, content: &str) -> io::Result<()> {
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_private_file_is_private_and_is_never_overwritten_by_create() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, "one", Secrecy::Private).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create(&path, "two", Secrecy::Private), Err(PkiError::Exists { .. })));
        assert_eq!(read(&path, 3).unwrap(), "one");
        assert!(matches!(read(&path, 2), Err(PkiError::Damaged { .. })));
    }

    #[test]
    fn replacing_leaves_nothing_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(beside(&path), "left by a crash").unwrap();
        replace(&path, "one", Secrecy::Public).unwrap();
        replace(&path, "two", Secrecy::Public).unwrap();
        assert_eq!(read(&path, 100).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
