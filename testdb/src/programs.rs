//! PostgreSQL's programs on this machine.

use std::io;
use std::path::PathBuf;

/// The folder that holds `initdb`, `postgres` and `psql`.
///
/// # Errors
/// When PostgreSQL is not installed.
pub(crate) fn folder() -> io::Result<PathBuf> {
    let complete = |folder: &PathBuf| PROGRAMS.iter().all(|name| folder.join(name).exists());
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps versions beside each other, out of the path.
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let debian = versions.into_iter().map(|(_, folder)| folder);
    debian.chain(std::env::split_paths(&path)).find(complete).ok_or_else(|| {
        io::Error::other("PostgreSQL is not installed; as root: apt-get install postgresql")
    })
}

const PROGRAMS: [&str; 3] = ["initdb", "postgres", "psql"];
const DEBIAN: &str = "/usr/lib/postgresql";
