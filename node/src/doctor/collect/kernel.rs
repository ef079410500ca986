//! The kernel, and what this process may do in it.

use std::path::Path;

use daemon::config::chain;
use rustix::thread::CapabilitySet;

use crate::clock;
use crate::config::Config;
use crate::doctor::facts::{
    Capabilities, KernelFacts, Known, Kprobes, Lockdown, Trial, Wanted, WantedSource,
};
use crate::source::ebpf::hooks::Hooks;
use crate::source::ebpf::layout::LayoutError;
use crate::source::ebpf::programs::ProgramsError;
use crate::source::ebpf::{EbpfConfig, EbpfError, EbpfSource};

pub(super) fn facts(
    config: &Config,
    wanted: &Wanted,
    has: Capabilities,
    tracked: bool,
) -> KernelFacts {
    let ebpf = matches!(wanted.source, WantedSource::Auto | WantedSource::Ebpf);
    let capable = has.net_admin && (has.sys_admin || (has.bpf && has.perfmon));
    KernelFacts {
        release: clock::kernel_release().map_err(|error| error.to_string()),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        module_btf: Path::new("/sys/kernel/btf/nf_conntrack").exists(),
        kprobes: kprobes(),
        hooks: hooks(),
        lockdown: lockdown(&read("/sys/kernel/security/lockdown")),
        trial: (ebpf && capable && tracked).then(|| trial(config)),
    }
}

/// The capabilities in force.
pub(super) fn capabilities() -> Capabilities {
    let Ok(sets) = rustix::thread::capabilities(None) else { return Capabilities::default() };
    let has = |one| sets.effective.contains(one);
    Capabilities {
        net_admin: has(CapabilitySet::NET_ADMIN),
        sys_admin: has(CapabilitySet::SYS_ADMIN),
        bpf: has(CapabilitySet::BPF),
        perfmon: has(CapabilitySet::PERFMON),
    }
}

/// Hooks are asked for through this unit of the kernel's counters, on every kernel that the eBPF
/// source works on.
fn kprobes() -> Kprobes {
    if !Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        Kprobes::Missing
    } else if read("/sys/kernel/debug/kprobes/enabled").trim() == "0" {
        Kprobes::Off
    } else {
        Kprobes::Available
    }
}

fn hooks() -> Known<String> {
    let symbols = std::fs::read_to_string("/proc/kallsyms")
        .map_err(|error| format!("/proc/kallsyms: {error}"))?;
    let Hooks { birth, death, adoption } =
        Hooks::find(&symbols).map_err(|error| error.to_string())?;
    Ok(format!("births by {birth}, ends by {death}, living entries by {adoption}"))
}

/// `none [integrity] confidentiality`; nothing where the kernel has no lockdown.
fn lockdown(text: &str) -> Lockdown {
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    match chosen.map(|(word, _)| word) {
        Some("integrity") => Lockdown::Integrity,
        Some("confidentiality") => Lockdown::Confidentiality,
        _ => Lockdown::Off,
    }
}

/// Opens the eBPF source as a node would, and closes it.
fn trial(config: &Config) -> Trial {
    let opened = EbpfSource::open(EbpfConfig {
        netns: config.netns.clone(),
        layout: config.ebpf.layout.clone(),
        ..EbpfConfig::default()
    });
    match opened {
        Ok(_source) => Trial::Proved,
        Err(EbpfError::Unproved) => Trial::Unproved,
        Err(error) => Trial::Failed { reason: chain(&error), cure: cure(&error) },
    }
}

/// What to do where the eBPF source cannot be used.
const fn cure(error: &EbpfError) -> &'static str {
    match error {
        EbpfError::Layout(LayoutError::Unreadable { .. }) => {
            "give the kernel's type information with --btf, or a layout with --layout"
        }
        EbpfError::Layout(_) => "the file is of another kernel, or damaged: give the right one",
        EbpfError::Hooks(_) => "modprobe nf_conntrack_netlink; else use netlink",
        EbpfError::Programs(ProgramsError::Paranoid { .. }) => {
            "set kernel.perf_event_paranoid to 2, or run as root"
        }
        EbpfError::Privilege { .. } | EbpfError::Programs(ProgramsError::Privilege { .. }) => {
            "run as root, or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
        }
        EbpfError::Programs(ProgramsError::Lockdown) => {
            "use netlink, or boot with lockdown=integrity"
        }
        EbpfError::Programs(ProgramsError::Attach { .. }) => {
            "use netlink, or a kernel with CONFIG_KPROBES"
        }
        EbpfError::Disproved(_) | EbpfError::Unrecognised { .. } => {
            "give this kernel's own type information; without a file please report it with the \
             kernel's version"
        }
        EbpfError::Unproved => "start the node when there is traffic",
        EbpfError::Programs(_) | EbpfError::Netlink(_) | EbpfError::Kernel { .. } => "use netlink",
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_the_word_in_brackets() {
        assert_eq!(lockdown("[none] integrity confidentiality\n"), Lockdown::Off);
        assert_eq!(lockdown("none [integrity] confidentiality\n"), Lockdown::Integrity);
        assert_eq!(lockdown("none integrity [confidentiality]\n"), Lockdown::Confidentiality);
        for text in ["", "]", "[", "[integrity", "none integrity"] {
            assert_eq!(lockdown(text), Lockdown::Off, "{text:?}");
        }
    }
}
