//! Conntrack in each watched namespace.

use std::fs::OpenOptions;
use std::io;

use crate::doctor::facts::{Known, NetnsFacts, Sysctls, TableFacts, Tracking};
use crate::netlink::{Talk, nftables};
use crate::netns::{self, Netns, NetnsChoice};
use crate::source::metrics::LiveKinds;
use crate::source::netlink::dump::{DumpError, DumpSocket, Part};
use crate::source::netlink::parse;
use daemon::config::chain;

/// All that are to be watched; and those that cannot be opened, with the reason.
pub(super) fn all(choice: &NetnsChoice) -> (Vec<NetnsFacts>, Vec<(String, String)>) {
    match netns::discover(choice) {
        Ok(found) => {
            let failed = found.failed.iter().map(|(name, error)| (name.clone(), error.to_string()));
            (found.namespaces.iter().map(one).collect(), failed.collect())
        }
        Err(error) => (Vec::new(), vec![("the process's own".to_owned(), error.to_string())]),
    }
}

fn one(netns: &Netns) -> NetnsFacts {
    let label = netns.label().to_owned();
    let looked = netns.enter(|| {
        let sysctls = sysctls()?;
        Ok(match sysctls.has_conntrack() {
            true => (sysctls, table(netns), tracking(), flowtables()),
            // Nothing is asked that would load it.
            false => {
                let absent = || "conntrack is not loaded".to_owned();
                (sysctls, Err(absent()), Tracking::default(), Err(absent()))
            }
        })
    });
    match looked {
        Ok((sysctls, table, tracking, uncounting_flowtables)) => {
            NetnsFacts { label, sysctls: Ok(sysctls), table, tracking, uncounting_flowtables }
        }
        Err(error) => NetnsFacts {
            label,
            sysctls: Err(error.to_string()),
            table: Err(error.to_string()),
            tracking: Tracking::default(),
            uncounting_flowtables: Err(error.to_string()),
        },
    }
}

/// Of the calling thread's namespace.
fn sysctls() -> io::Result<Sysctls> {
    let path = |key: &str| format!("/proc/sys/net/netfilter/nf_conntrack_{key}");
    let number = |key: &str| match std::fs::read_to_string(path(key)) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    Ok(Sysctls {
        acct: number("acct")?,
        timestamp: number("timestamp")?,
        events: number("events")?,
        count: number("count")?,
        max: number("max")?,
        // Opening one changes nothing.
        writable: OpenOptions::new().write(true).open(path("acct")).is_ok(),
    })
}

fn table(netns: &Netns) -> Known<TableFacts> {
    read_table(netns).map_err(|error| chain(&error))
}

fn read_table(netns: &Netns) -> Result<TableFacts, DumpError> {
    let mut dump = DumpSocket::open().map_err(DumpError::Kernel)?;
    let mut live = LiveKinds::default();
    dump.entries(|part| {
        let Part::Entry(message) = part else { return };
        if let Ok(reading) = parse::reading(message.body, netns.inode()) {
            live.count(&reading);
        }
    })?;
    let mut held = 0;
    dump.held(|part| held += u64::from(matches!(part, Part::Entry(_))))?;
    Ok(TableFacts { live, held })
}

/// Each on a socket of its own: after an error the kernel may still be answering.
fn tracking() -> Tracking {
    let ask = |question: &dyn Fn(&mut Talk) -> io::Result<bool>| {
        Talk::netfilter().and_then(|mut talk| question(&mut talk)).ok()
    };
    let hooks = |family| ask(&|talk| nftables::tracks(talk, family));
    // The thread's own: `/proc/net` is that of the process.
    let tables = |family: &str| {
        let file = format!("/proc/thread-self/net/{family}_tables_names");
        std::fs::read_to_string(file).is_ok_and(|text| !text.trim().is_empty())
    };
    Tracking {
        hooks: hooks(NFPROTO_IPV4).zip(hooks(NFPROTO_IPV6)),
        rules: ask(&nftables::rules_track),
        legacy: tables("ip") || tables("ip6"),
    }
}

fn flowtables() -> Known<Vec<String>> {
    let listed = Talk::netfilter().and_then(|mut talk| nftables::flowtables(&mut talk));
    match listed {
        Ok(found) => {
            let silent = found.into_iter().filter(|flowtable| !flowtable.counter);
            Ok(silent.map(|flowtable| format!("{} {}", flowtable.table, flowtable.name)).collect())
        }
        // A kernel that has no flowtables.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error.to_string()),
    }
}

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
