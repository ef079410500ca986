//! What outlives the node in the kernel: the hook on the end of entries, and the ring it fills.
//!
//! Both are pinned in a BPF file system once the layout is proved, so that ends wait in the ring
//! while the node is started again, and come with their last counters. The hook on births is not
//! kept: who lives is listed at the start, and the ring has room for twice as many ends.
//!
//! Every life of a node makes programs and maps of its own and pins them under a name of their
//! own, then takes what waits from those of the lives before it and removes them. So another
//! version takes over what the one before has left, as long as it can read it: the name says in
//! which form the records are. From the moment the first life is pinned there is always a hook;
//! an end that two lives' hooks have told is told twice, which the flow table knows.
//!
//! Where the kernel has no hooks that are files (before 5.15), or no BPF file system is mounted or
//! may be written to, nothing is kept.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::pin::PinError;
use daemon::config::chain;
use ebpf_abi::Kind;
use rustix::fs::statfs;

use super::feed::{LOSSES_TOLD, Told, waited};
use super::layout::Layout;
use super::programs::Programs;

/// Why nothing outlives the node.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// There is no BPF file system.
    #[error("{} is not in a BPF file system (mount -t bpf bpf /sys/fs/bpf)", folder.display())]
    NoBpffs {
        /// Where one was looked for.
        folder: PathBuf,
    },
    /// Another process has the folder.
    #[error("{} is in use by another process", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A file or folder could not be made, looked at or removed.
    #[error("{} cannot be used", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The kernel's hooks are no files.
    #[error("this kernel's hooks end with the process (it is older than Linux 5.15)")]
    NoLinks,
    /// A map or a hook could not be pinned.
    #[error("{} cannot be pinned", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        error: PinError,
    },
    /// Records of another version, or made by another layout.
    #[error("{} is of another version, or of another layout", life.display())]
    Form {
        /// Whose.
        life: PathBuf,
    },
    /// What another life has left cannot be opened.
    #[error("{} cannot be opened", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: MapError,
    },
}

/// The folder in which the lives of one node follow each other. While it is held, no other
/// process uses it.
#[derive(Debug)]
pub(super) struct Keep {
    folder: PathBuf,
    form: String,
    earlier: Vec<Life>,
    _locked: File,
}

/// What was in the kernel of the lives before.
#[derive(Debug, Default)]
pub(super) struct Waited {
    /// In order.
    pub(super) told: Vec<Told>,
    /// Ends that did not fit and that no life has counted.
    pub(super) lost: u64,
}

/// The folder of one life: its ring, its losses, its hook.
#[derive(Debug)]
struct Life {
    folder: PathBuf,
    number: u64,
    is_readable: bool,
}

impl Keep {
    /// Takes the folder, which is made where it is missing.
    pub(super) fn open(folder: &Path, layout: &Layout) -> Result<Self, KeepError> {
        let here = folder.ancestors().find(|path| path.is_dir());
        let in_bpffs = here.and_then(|path| statfs(path).ok());
        // Its width differs by architecture.
        let kind = in_bpffs.map(|stat| stat.f_type.to_le_bytes());
        if kind.is_none_or(|kind| !kind.starts_with(&BPF_FS_MAGIC.to_le_bytes())) {
            return Err(KeepError::NoBpffs { folder: folder.to_owned() });
        }
        let error = |error| KeepError::File { path: folder.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(error)?;
        let locked = lock(folder)?;
        let form = form(layout);
        let earlier = lives(folder, &form).map_err(error)?;
        Ok(Self { folder: folder.to_owned(), form, earlier, _locked: locked })
    }

    /// Whether an earlier life has proved this very layout on this kernel: nothing is pinned
    /// before that.
    pub(super) fn is_proved(&self) -> bool {
        self.earlier.iter().any(|life| life.is_readable)
    }

    /// Pins this life's hook and ring.
    pub(super) fn pin(&self, programs: &mut Programs) -> Result<(), KeepError> {
        if !programs.can_outlive() {
            return Err(KeepError::NoLinks);
        }
        let number = self.earlier.iter().map(|life| life.number + 1).max().unwrap_or(0);
        let folder = self.folder.join(format!("{}_{number}", self.form));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| KeepError::File { path: folder.clone(), error })?;
        let pinned = programs.pin([RING, LOSSES, HOOK].map(|name| folder.join(name)));
        pinned.map_err(|(path, error)| {
            let _left_for_the_next_life = remove(&folder);
            KeepError::Pin { path, error }
        })
    }

    /// Takes what waits from the lives before, and removes them: this one's hook is attached.
    pub(super) fn take_over(&mut self, layout: &Layout) -> Waited {
        let mut waited = Waited::default();
        for life in std::mem::take(&mut self.earlier) {
            let read = match life.is_readable {
                true => life.read(layout, &mut waited),
                false => Err(KeepError::Form { life: life.folder.clone() }),
            };
            if let Err(error) = read.and_then(|()| remove(&life.folder)) {
                let reason = chain(&error);
                tracing::warn!(reason, "what waits in the kernel is replaced, unread");
                let _said = remove(&life.folder);
            }
        }
        waited
    }
}

impl Life {
    fn read(&self, layout: &Layout, all: &mut Waited) -> Result<(), KeepError> {
        let open = |name: &str| {
            let path = self.folder.join(name);
            MapData::from_pin(&path).map_err(|error| KeepError::Open { path, error })
        };
        let losses = open(LOSSES);
        let ring = match open(RING) {
            Ok(ring) => ring,
            // It was killed while it pinned; the life before it is still there.
            Err(_) if !self.folder.join(HOOK).exists() => return Ok(()),
            Err(error) => return Err(error),
        };
        let wrong = |error| KeepError::Open { path: self.folder.clone(), error };
        let mut ring = RingBuf::try_from(Map::RingBuf(ring)).map_err(wrong)?;
        let losses = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(losses?)).map_err(wrong)?;
        let sum = |index: u32| losses.get(&index, 0).map(|values| values.iter().sum::<u64>());
        while let Some(record) = ring.next() {
            all.told.extend(waited(layout, &record).filter(|told| told.kind == Kind::End));
        }
        let lost = sum(Kind::End as u32).map_err(wrong)?;
        all.lost += lost.saturating_sub(sum(LOSSES_TOLD).map_err(wrong)?);
        Ok(())
    }
}

/// The folder of the node that keeps its state in `state`, below `pins`.
#[must_use]
pub fn folder(pins: &Path, state: &Path) -> PathBuf {
    let state = state.canonicalize().unwrap_or_else(|_missing| state.to_owned());
    let mut name = String::new();
    for byte in state.as_os_str().as_bytes().iter().skip_while(|byte| **byte == b'/') {
        match byte {
            b'/' => name.push('-'),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(*byte)),
            // A BPF file system wants no dots.
            byte => name.push_str(&format!("_{byte:02x}")),
        }
    }
    pins.join(name)
}

/// Removes what the lives of a node have left in `folder`; says whether there was anything.
///
/// # Errors
/// When a node is using it, or it may not be removed.
pub fn release(folder: &Path) -> Result<bool, KeepError> {
    if !folder.is_dir() {
        return Ok(false);
    }
    let _locked = lock(folder)?;
    let error = |error| KeepError::File { path: folder.to_owned(), error };
    let lives = lives(folder, "").map_err(error)?;
    let any = !lives.is_empty();
    lives.iter().try_for_each(|life| remove(&life.folder))?;
    std::fs::remove_dir(folder).map_err(error)?;
    Ok(any)
}

fn lock(folder: &Path) -> Result<File, KeepError> {
    let path = folder.to_owned();
    let file = match File::open(folder) {
        Ok(file) => file,
        Err(error) => return Err(KeepError::File { path, error }),
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(KeepError::Busy { folder: path }),
        Err(TryLockError::Error(error)) => Err(KeepError::File { path, error }),
    }
}

/// Removes a life: its hook first.
fn remove(life: &Path) -> Result<(), KeepError> {
    for name in [HOOK, RING, LOSSES] {
        let path = life.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(KeepError::File { path, error });
            }
            _ => {}
        }
    }
    std::fs::remove_dir(life).map_err(|error| KeepError::File { path: life.to_owned(), error })
}

/// The lives in a folder, the oldest first.
fn lives(folder: &Path, form: &str) -> io::Result<Vec<Life>> {
    let mut lives = Vec::new();
    for found in std::fs::read_dir(folder)? {
        let found = found?;
        let name = found.file_name();
        let Some((theirs, number)) = name.to_str().and_then(|name| name.rsplit_once('_')) else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        lives.push(Life { folder: found.path(), number, is_readable: theirs == form });
    }
    lives.sort_unstable_by_key(|life| life.number);
    Ok(lives)
}

/// The form of the records: the version of their outer part, and the layout by which the programs
/// have copied entries and by which they are taken apart. As FNV-1a, which stays the same.
fn form(layout: &Layout) -> String {
    let text = format!("{} {layout:?}", ebpf_abi::VERSION);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

const RING: &str = "ring";
const LOSSES: &str = "losses";
const HOOK: &str = "ends";

#[cfg(test)]
mod tests {
    use super::super::layout::tests::linux_6_12;
    use super::*;

    #[test]
    fn every_state_folder_has_a_name_without_dots() {
        let pins = Path::new("/sys/fs/bpf/conntracct");
        let name = |state: &str| folder(pins, Path::new(state)).display().to_string();
        assert_eq!(name("/nowhere/node"), "/sys/fs/bpf/conntracct/nowhere-node");
        assert_eq!(name("/nowhere/.a-b_c"), "/sys/fs/bpf/conntracct/nowhere-_2ea_2db_5fc");
    }

    #[test]
    fn another_layout_is_another_form() {
        let (mut other, layout) = (linux_6_12(), linux_6_12());
        assert_eq!(form(&other), form(&layout));
        other.tuple.dport += 1;
        assert_ne!(form(&other), form(&layout));
    }

    #[test]
    fn lives_are_found_by_name_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["aa_10", "aa_9", "bb_2", "else", "aa_x"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found = lives(folder.path(), "aa").unwrap();
        let found: Vec<_> = found.iter().map(|life| (life.number, life.is_readable)).collect();
        assert_eq!(found, [(2, false), (9, true), (10, true)]);
    }

    #[test]
    fn an_ordinary_file_system_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let keep = folder.path().join("keep");
        let error = Keep::open(&keep, &linux_6_12()).unwrap_err();
        assert!(matches!(error, KeepError::NoBpffs { .. }), "{error}");
        assert!(!keep.exists());
        assert!(!release(&keep).unwrap());
    }
}
