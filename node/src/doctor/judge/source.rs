//! The kernel, the eBPF source, and what this process may do.

use crate::doctor::facts::{Capabilities, Facts, Kprobes, Lockdown, Trial, WantedSource, version};
use crate::doctor::finding::Finding;
use crate::netns::NetnsChoice;

pub(super) fn judge(facts: &Facts, out: &mut Vec<Finding>) {
    out.push(kernel(facts));
    if matches!(facts.wanted.source, WantedSource::Auto | WantedSource::Ebpf) {
        ebpf(facts, out);
    }
    privileges(facts, out);
}

fn kernel(facts: &Facts) -> Finding {
    const CHECK: &str = "kernel.version";
    let release = match &facts.kernel.release {
        Ok(release) => release,
        Err(why) => return Finding::unknown(CHECK, format!("the kernel's release: {why}")),
    };
    let text = format!("Linux {release}");
    match (version(release), facts.wanted.source) {
        (None, _) => Finding::unknown(CHECK, format!("{text}: not a version that is understood")),
        (_, WantedSource::Replay) => Finding::ok(CHECK, text),
        (Some(found), _) if found < OLDEST => Finding::problem(
            CHECK,
            format!("{text} is older than 4.9: its conntrack does not tell all that is needed"),
            "run a kernel of 4.9 or later, 5.10 or later for eBPF",
        ),
        (Some(found), WantedSource::Ebpf) if found < OLDEST_EBPF => Finding::problem(
            CHECK,
            format!("{text} is older than 5.10, which the eBPF source needs"),
            "use `source = \"auto\"` or \"netlink\", or a later kernel",
        ),
        (Some(found), WantedSource::Auto) if found < OLDEST_EBPF => {
            Finding::note(CHECK, format!("{text}: the source is netlink; eBPF needs 5.10"))
        }
        (Some(_), _) => Finding::ok(CHECK, text),
    }
}

/// The eBPF source. The trial decides; the rest says why, and is a problem only where eBPF was
/// demanded.
fn ebpf(facts: &Facts, out: &mut Vec<Finding>) {
    let kernel = &facts.kernel;
    let bad = |check, text: &str, cure: &str| match facts.wanted.source {
        WantedSource::Ebpf => Finding::problem(check, text, cure),
        _ => Finding::note(check, text).cure(cure),
    };
    out.push(match (kernel.btf, kernel.module_btf) {
        (true, true) => {
            Finding::ok("source.btf", "the kernel and nf_conntrack describe themselves")
        }
        (true, false) => Finding::ok(
            "source.btf",
            "the kernel describes itself; nf_conntrack is built in, or not loaded, or says nothing",
        ),
        // With a file all is well; the trial shows it.
        (false, _) => Finding::note("source.btf", "the kernel does not describe itself")
            .cure("give its type information with --btf, or a layout with --layout"),
    });
    out.push(match kernel.kprobes {
        Kprobes::Available => Finding::ok("source.kprobes", "kernel functions can be hooked"),
        Kprobes::Missing => bad(
            "source.kprobes",
            "this kernel was built without kprobes, which the eBPF source needs",
            "use `source = \"netlink\"`, or a kernel with CONFIG_KPROBES",
        ),
        Kprobes::Off => bad(
            "source.kprobes",
            "kprobes are switched off",
            "echo 1 > /sys/kernel/debug/kprobes/enabled",
        ),
    });
    out.push(match &kernel.hooks {
        Ok(names) => Finding::ok("source.hooks", names.clone()),
        Err(why) => bad("source.hooks", why, "modprobe nf_conntrack_netlink; else use netlink"),
    });
    out.push(match kernel.lockdown {
        Lockdown::Confidentiality => bad(
            "source.lockdown",
            "the kernel is locked down (confidentiality): eBPF programs may not read its memory",
            "use `source = \"netlink\"`, or boot with lockdown=integrity",
        ),
        other => Finding::ok("source.lockdown", format!("lockdown: {other}")),
    });
    let capable = can_load(&facts.capabilities, facts);
    out.push(if capable {
        Finding::ok("privileges.ebpf", "this process may load eBPF programs")
    } else {
        let modern = facts.kernel.release.as_deref().ok().and_then(version) >= Some((5, 8));
        let cure = match modern {
            true => "run as root, or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
            false => "run as root, or grant CAP_SYS_ADMIN and CAP_NET_ADMIN",
        };
        bad("privileges.ebpf", "this process may not load eBPF programs", cure)
    });
    out.extend(kernel.trial.as_ref().map(|trial| match trial {
        Trial::Proved => {
            Finding::ok("source.ebpf", "the eBPF source works, proved on living entries")
        }
        Trial::Unproved => bad(
            "source.ebpf",
            "the eBPF source loads, but no connection is tracked to prove it on; a node started \
             now reads over netlink, or ends where eBPF is demanded",
            "start the node when there is traffic",
        ),
        Trial::Failed { reason, cure } => {
            let instead = match facts.wanted.source {
                WantedSource::Ebpf => "the node does not start",
                _ => "the source is netlink",
            };
            bad(
                "source.ebpf",
                &format!("the eBPF source cannot be used, {instead}: {reason}"),
                cure,
            )
        }
    }));
}

fn can_load(has: &Capabilities, facts: &Facts) -> bool {
    let release = facts.kernel.release.as_deref().ok().and_then(version);
    let modern = release.is_none_or(|release| release >= (5, 8));
    has.net_admin && (has.sys_admin || (modern && has.bpf && has.perfmon))
}

fn privileges(facts: &Facts, out: &mut Vec<Finding>) {
    let has = &facts.capabilities;
    if facts.wanted.source == WantedSource::Replay {
        return;
    }
    out.push(if has.net_admin {
        Finding::ok("privileges.netlink", "this process may read conntrack (CAP_NET_ADMIN)")
    } else {
        Finding::problem(
            "privileges.netlink",
            "this process may not read conntrack; seen from it much of the rest is unknown",
            "run as root, or grant CAP_NET_ADMIN (AmbientCapabilities= in a systemd unit)",
        )
    });
    if facts.wanted.netns != NetnsChoice::Own {
        out.push(if has.sys_admin {
            let text = "this process may enter other network namespaces (CAP_SYS_ADMIN)";
            Finding::ok("privileges.netns", text)
        } else {
            Finding::problem(
                "privileges.netns",
                "this process may not enter other network namespaces: their flows are missing",
                "run as root, or grant CAP_SYS_ADMIN, or set `netns = \"own\"`",
            )
        });
    }
    if facts.wanted.sysctl_manage {
        out.extend(writing(facts));
    }
    for (name, why) in &facts.unopened {
        let text = format!("it cannot be opened ({why}): its flows are missing");
        let cure = "`ip netns` lists the names; correct the setting netns";
        out.push(Finding::problem("netns.open", text, cure).about(name));
    }
}

/// Whether the sysctls can be set, where one has to be.
fn writing(facts: &Facts) -> Option<Finding> {
    let sysctls: Vec<_> =
        facts.namespaces.iter().filter_map(|netns| netns.sysctls.as_ref().ok()).collect();
    let due = |value: Option<u64>| value.is_some_and(|value| value != 1);
    let stuck = sysctls.iter().filter(|values| !values.writable && values.has_conntrack());
    let stuck: Vec<_> = stuck.collect();
    if stuck.iter().any(|v| due(v.acct) || due(v.timestamp) || due(v.events)) {
        return Some(Finding::problem(
            "privileges.sysctl",
            "the node is to set nf_conntrack sysctls, and this process may not write them",
            "grant CAP_NET_ADMIN and a writable /proc/sys, or set them at boot (sysctl.d) and \
             `sysctl_manage = false`",
        ));
    }
    (!sysctls.is_empty()).then(|| match stuck.is_empty() {
        true => Finding::ok("privileges.sysctl", "this process may set sysctls"),
        false => Finding::note("privileges.sysctl", "sysctls cannot be set, and need not be now")
            .cure("should somebody change them, they stay so: set them at boot (sysctl.d)"),
    })
}

/// The oldest kernel that the netlink source works on, and the eBPF source.
const OLDEST: (u32, u32) = (4, 9);
const OLDEST_EBPF: (u32, u32) = (5, 10);
