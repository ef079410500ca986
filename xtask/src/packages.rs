//! System packages that tests and labs need: named when missing, installed on machines that have
//! nobody to ask.

use std::io::IsTerminal;
use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace;

/// A program some step runs, and the Debian package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    name: &'static str,
    package: &'static str,
    used_for: &'static str,
}

/// What the steps without root need.
pub(crate) const BUILD: &[Program] =
    &[Program { name: "cc", package: "gcc", used_for: "building ring, zstd and SQLite" }];

/// What the tests need, those without root too.
pub(crate) const TESTS: &[Program] = &[Program {
    // PostgreSQL's own programs lie out of the path; this one comes with them.
    name: "pg_ctlcluster",
    package: "postgresql",
    used_for: "the PostgreSQL store and the dashboards, on servers of their own",
}];

/// What the labs and kernel tests need, all as root.
pub(crate) const LAB: &[Program] = &[
    Program { name: "ip", package: "iproute2", used_for: "the lab's namespaces and links" },
    Program {
        name: "nft",
        package: "nftables",
        used_for: "the lab's NAT and independent counters",
    },
    Program { name: "sqlite3", package: "sqlite3", used_for: "reading the store independently" },
    Program { name: "conntrack", package: "conntrack", used_for: "kernel tests of the node" },
];

/// What the lab of a pair of gateways needs besides. Debian starts it with the machine; that one
/// keeps statistics only and is of no use here.
pub(crate) const SYNC: &[Program] = &[Program {
    name: "conntrackd",
    package: "conntrackd",
    used_for: "a gateway that takes over from another",
}];

/// What an emulated machine with a kernel of Debian's needs.
pub(crate) const VM: &[Program] = &[
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86", used_for: "the machine" },
    Program { name: "busybox", package: "busybox-static", used_for: "its start" },
    Program { name: "depmod", package: "kmod", used_for: "its kernel's modules" },
    Program { name: "xz", package: "xz-utils", used_for: "its kernel's modules" },
    Program { name: "strip", package: "binutils", used_for: "smaller test programs" },
    Program { name: "ip", package: "iproute2", used_for: "the kernel tests" },
    Program { name: "nft", package: "nftables", used_for: "the kernel tests" },
    Program { name: "conntrack", package: "conntrack", used_for: "the kernel tests" },
    Program { name: "ping", package: "iputils-ping", used_for: "the kernel tests" },
    Program { name: "setpriv", package: "util-linux", used_for: "the kernel tests" },
    Program { name: "setcap", package: "libcap2-bin", used_for: "the kernel tests" },
];

/// What an emulated arm64 machine needs besides.
pub(crate) const ARM64: &[Program] = &[
    Program { name: "qemu-system-aarch64", package: "qemu-system-arm", used_for: "the machine" },
    Program {
        name: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
        used_for: "the programs in it",
    },
];

/// What checks the files of the containers.
pub(crate) const CONTAINERS: &[Program] = &[
    Program {
        name: "docker-compose",
        package: "docker-compose",
        used_for: "checking docker/compose.yaml",
    },
    Program { name: "promtool", package: "prometheus", used_for: "checking what it is to scrape" },
];

/// Makes sure that all `programs` are there.
///
/// # Errors
/// Some are missing and may not be installed, or installing failed. The message names the
/// packages and the command that installs them.
pub(crate) fn ensure(programs: &[&[Program]], yes: bool) -> Result<()> {
    let missing = missing(programs, is_there);
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    packages.sort_unstable();
    packages.dedup();
    for program in &missing {
        eprintln!("missing: {} (package {}), {}", program.name, program.package, program.used_for);
    }
    let command = format!("apt-get update && apt-get install -y {}", packages.join(" "));
    if !may_install(yes) {
        bail!("system packages are missing; as root: {command}  (or pass --yes)");
    }
    eprintln!("{command}");
    workspace::run(Command::new("apt-get").args(["update", "-q"]))?;
    workspace::run(
        Command::new("apt-get")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(&packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Debian keeps PostgreSQL's server programs, a folder a version, off the search path.
fn is_there(name: &str) -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    workspace::has_program(name)
        || versions.map(|version| version.path()).any(|v| v.join("bin").join(name).is_file())
}

fn missing(programs: &[&[Program]], has: impl Fn(&str) -> bool) -> Vec<Program> {
    programs.iter().copied().flatten().filter(|program| !has(program.name)).copied().collect()
}

fn may_install(yes: bool) -> bool {
    let asked = yes || std::env::var("CI").is_ok_and(|ci| ci == "true");
    let nobody_to_ask = !std::io::stdin().is_terminal();
    workspace::is_root() && workspace::has_program("apt-get") && (asked || nobody_to_ask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named() {
        let found = missing(&[BUILD, LAB], |name| name != "nft");
        assert_eq!(found.iter().map(|p| p.package).collect::<Vec<_>>(), ["nftables"]);
        assert!(missing(&[BUILD, LAB], |_| true).is_empty());
    }
}
