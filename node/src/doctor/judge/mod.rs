//! From facts to findings: pure. `docs/doctor.md` lists every check by its name.
//!
//! A finding is a problem only where figures are or will be wrong or missing for it with the
//! configuration as it is. What merely decides which source is taken is a note: both are exact.

mod conntrack;
mod node;
mod source;
#[cfg(test)]
mod tests;

use super::facts::Facts;
use super::finding::Finding;

/// Every check that applies, each with its outcome.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    source::judge(facts, &mut findings);
    conntrack::judge(facts, &mut findings);
    node::judge(facts, &mut findings);
    findings
}

/// Every check there is, for the documentation and its test.
pub const CHECKS: &[&str] = &[
    "kernel.version",
    "source.btf",
    "source.kprobes",
    "source.hooks",
    "source.lockdown",
    "source.ebpf",
    "privileges.netlink",
    "privileges.ebpf",
    "privileges.netns",
    "privileges.sysctl",
    "netns.open",
    "conntrack.loaded",
    "conntrack.tracking",
    "conntrack.acct",
    "conntrack.timestamp",
    "conntrack.events",
    "conntrack.fill",
    "conntrack.held",
    "conntrack.uncounted",
    "conntrack.offloaded",
    "conntrack.flowtables",
    "state.folder",
    "state.disk",
    "node.running",
    "node.ready",
    "node.ends",
    "node.births",
    "node.unseen",
    "node.table",
    "node.spool",
    "node.clock",
    "keys.files",
    "keys.node",
    "keys.authority",
    "keys.aggregator",
    "aggregator.handshake",
];
