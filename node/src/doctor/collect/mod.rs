//! Looks at this machine. Changes nothing, but for kernel modules that netlink loads by itself when
//! it is asked (`nf_conntrack_netlink`, `nf_tables`, `nfnetlink_hook`), and hooks that the trial of
//! the eBPF source attaches for a moment. Every wait is bounded.

mod aggregator;
mod kernel;
mod netns;
mod node;

use std::path::Path;

use daemon::config::chain;
use jiff::Timestamp;
use rustix::fs::{Access, AtFlags, CWD};

use super::facts::{Facts, KeyFacts, StateFacts, StateFound, Wanted, WantedSource};
use crate::clock;
use crate::config::{Config, SourceChoice};
use crate::tls::Identity;

/// Everything that is judged.
pub(super) fn facts(config: &Config) -> Facts {
    let wanted = Wanted {
        source: match config.source {
            SourceChoice::Auto => WantedSource::Auto,
            SourceChoice::Ebpf => WantedSource::Ebpf,
            SourceChoice::Netlink => WantedSource::Netlink,
            SourceChoice::Replay(_) => WantedSource::Replay,
        },
        netns: config.netns.clone(),
        sysctl_manage: config.sysctl.manage,
        spool_bytes: config.limits.spool_bytes,
    };
    let capabilities = kernel::capabilities();
    let (namespaces, unopened) = netns::all(&config.netns);
    let tracked = namespaces
        .iter()
        .any(|netns| netns.sysctls.as_ref().is_ok_and(super::facts::Sysctls::has_conntrack));
    let identity = (!config.aggregators.is_empty()).then(|| Identity::load(&config.keys));
    let keys = identity.as_ref().map(|identity| match identity {
        Ok(identity) => Ok(KeyFacts {
            node: identity.node.clone(),
            ends: identity.not_after,
            authority_ends: identity.authority_not_after(),
        }),
        Err(error) => Err(chain(error)),
    });
    let identity = identity.and_then(Result::ok);
    let now = Timestamp::from_nanosecond(clock::wall().get().into());
    Facts {
        now: now.unwrap_or(Timestamp::UNIX_EPOCH),
        kernel: kernel::facts(config, &wanted, capabilities, tracked),
        wanted,
        capabilities,
        namespaces,
        unopened,
        state: state(&config.state_dir),
        node: node::facts(config),
        keys,
        aggregators: aggregator::facts(config, identity.as_ref()),
    }
}

fn state(folder: &Path) -> StateFacts {
    let found = match std::fs::metadata(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => StateFound::Absent,
        Err(error) => StateFound::Unusable(error.to_string()),
        Ok(meta) if !meta.is_dir() => StateFound::Unusable("it is not a folder".to_owned()),
        Ok(_) => usable(folder),
    };
    StateFacts { folder: folder.to_owned(), found }
}

fn usable(folder: &Path) -> StateFound {
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if let Err(error) = rustix::fs::accessat(CWD, folder, all, AtFlags::EACCESS) {
        return StateFound::Unusable(error.to_string());
    }
    match rustix::fs::statvfs(folder) {
        Err(error) => StateFound::Unusable(error.to_string()),
        Ok(disk) => StateFound::Usable {
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
            spool: size(&folder.join("spool")),
        },
    }
}

/// Bytes of the files in a folder, those that can be seen.
fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = files.filter_map(|file| file.metadata().ok()).filter(std::fs::Metadata::is_file);
    sizes.map(|meta| meta.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_is_looked_at_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let found = |path: &Path| state(path).found;
        assert_eq!(found(&folder.path().join("none")), StateFound::Absent);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(found(&file), StateFound::Unusable(_)));
        assert!(matches!(found(&file.join("below")), StateFound::Unusable(_)));
        std::fs::create_dir(folder.path().join("spool")).unwrap();
        std::fs::write(folder.path().join("spool/a"), [0; 100]).unwrap();
        let StateFound::Usable { free, spool } = found(folder.path()) else { panic!("usable") };
        assert!(free > 0);
        assert_eq!(spool, 100);
    }
}
