//! Network namespaces: which ones are watched, finding them, and doing something inside one.
//!
//! A thread enters a namespace and ends; no thread of the node ever comes back from one. What was
//! opened there (a netlink socket, a file under `/proc/sys/net`) stays bound to it.
//!
//! A socket keeps its namespace alive. A namespace that everybody else has left therefore lives
//! on until the next [`discover`] finds no name and no process of it, and its sockets are closed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flow::NetnsInode;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Which namespaces are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetnsChoice {
    /// The one this process lives in.
    #[default]
    Own,
    /// These: paths, or names as `ip netns` knows them.
    Listed(Vec<String>),
    /// Every one that has a name under `/run/netns` or a process, looked for again before each
    /// sweep.
    All,
}

/// A namespace and how to get into it.
#[derive(Clone, Debug)]
pub struct Netns {
    inode: NetnsInode,
    label: String,
    /// `None` for the process's own: no `setns` and so no privilege is needed.
    handle: Option<Arc<File>>,
}

/// What [`discover`] found.
#[derive(Debug, Default)]
pub struct Found {
    /// The namespaces, in order of their inodes, each once.
    pub namespaces: Vec<Netns>,
    /// Names that could not be opened, and why. Never filled by [`NetnsChoice::Own`].
    pub failed: Vec<(String, io::Error)>,
    /// Namespaces beyond [`MAX_NAMESPACES`], left out.
    pub left_out: usize,
}

impl Netns {
    /// The namespace of this process.
    ///
    /// # Errors
    /// When `/proc/self/ns/net` cannot be looked at.
    pub fn own() -> io::Result<Self> {
        let inode = inode_of(&std::fs::metadata(OWN)?)?;
        Ok(Self { inode, label: "own".to_owned(), handle: None })
    }

    /// The namespace with this path, or with this name under `/run/netns`.
    ///
    /// # Errors
    /// When the file cannot be opened or is not a namespace.
    pub fn named(name: &str) -> io::Result<Self> {
        let path =
            if name.contains('/') { PathBuf::from(name) } else { Path::new(NAMED).join(name) };
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if meta.dev() != std::fs::metadata(OWN)?.dev() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace"));
        }
        let inode = inode_of(&meta)?;
        if inode == Self::own()?.inode {
            return Self::own();
        }
        Ok(Self { inode, label: name.to_owned(), handle: Some(Arc::new(file)) })
    }

    /// Its inode.
    #[must_use]
    pub const fn inode(&self) -> NetnsInode {
        self.inode
    }

    /// How it was found: `own`, a name, or a path.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` inside the namespace, on a thread that ends with it (on this thread where it
    /// is the process's own).
    ///
    /// # Errors
    /// What `setns(2)` answered (`EPERM` without `CAP_SYS_ADMIN`), or what `work` returned.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let Some(handle) = &self.handle else { return work() };
        std::thread::scope(|scope| {
            let inside = move || {
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            };
            let thread = std::thread::Builder::new().name("netns".to_owned());
            thread
                .spawn_scoped(scope, inside)?
                .join()
                .map_err(|_panic| io::Error::other("the thread inside the namespace panicked"))?
        })
    }
}

/// Finds the chosen namespaces. A name that is gone, a process that ends while it is looked at,
/// and one that may not be looked at are no errors for [`NetnsChoice::All`].
///
/// # Errors
/// When the process's own namespace cannot be looked at.
pub fn discover(choice: &NetnsChoice) -> io::Result<Found> {
    let mut failed = Vec::new();
    let mut found = BTreeMap::new();
    match choice {
        NetnsChoice::Own => insert(&mut found, Netns::own()?),
        NetnsChoice::Listed(names) => {
            for name in names {
                match Netns::named(name) {
                    Ok(netns) => insert(&mut found, netns),
                    Err(error) => failed.push((name.clone(), error)),
                }
            }
        }
        NetnsChoice::All => {
            insert(&mut found, Netns::own()?);
            discover_all(&mut found);
        }
    }
    let left_out = found.len().saturating_sub(MAX_NAMESPACES);
    let namespaces = found.into_values().take(MAX_NAMESPACES).collect();
    Ok(Found { namespaces, failed, left_out })
}

fn insert(found: &mut BTreeMap<NetnsInode, Netns>, netns: Netns) {
    found.entry(netns.inode).or_insert(netns);
}

fn discover_all(found: &mut BTreeMap<NetnsInode, Netns>) {
    for entry in std::fs::read_dir(NAMED).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str()
            && let Ok(netns) = Netns::named(name)
        {
            insert(found, netns);
        }
    }
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        let path = format!("/proc/{pid}/ns/net");
        // Most processes share a namespace that is known by now: look before opening.
        let known = std::fs::metadata(&path)
            .and_then(|meta| inode_of(&meta))
            .map(|inode| found.contains_key(&inode));
        if let Ok(false) = known
            && let Ok(netns) = Netns::named(&path)
        {
            insert(found, netns);
        }
    }
}

/// A namespace's inode is 32 bits wide (`struct ns_common` in the kernel).
fn inode_of(meta: &std::fs::Metadata) -> io::Result<NetnsInode> {
    u32::try_from(meta.ino()).map(NetnsInode).map_err(|_too_large| {
        io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace")
    })
}

/// Most namespaces that are watched at once; [`Found::left_out`] counts the others.
pub const MAX_NAMESPACES: usize = 1024;

const OWN: &str = "/proc/self/ns/net";

const NAMED: &str = "/run/netns";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_is_found_whatever_it_is_called() {
        let own = Netns::own().unwrap();
        assert_eq!(Netns::named(OWN).unwrap().inode(), own.inode());
        let found = discover(&NetnsChoice::Own).unwrap();
        assert_eq!(found.namespaces.len(), 1);
        let all = discover(&NetnsChoice::All).unwrap();
        assert!(all.namespaces.iter().any(|n| n.inode() == own.inode() && n.label() == "own"));
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        let names = ["no-such-namespace".to_owned(), "/proc/self/status".to_owned()];
        let found = discover(&NetnsChoice::Listed(names.to_vec())).unwrap();
        assert!(found.namespaces.is_empty());
        assert_eq!(found.failed.len(), 2);
    }
}
