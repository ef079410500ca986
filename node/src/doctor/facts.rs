//! What the doctor knows of this machine: plain values, collected elsewhere, judged elsewhere.

use std::fmt;
use std::path::PathBuf;

use flow::NodeName;
use jiff::Timestamp;

use crate::netns::NetnsChoice;
use crate::source::metrics::LiveKinds;

/// Something that was looked at, or why it could not be.
pub type Known<T> = Result<T, String>;

/// Everything that is judged.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When it was collected.
    pub now: Timestamp,
    /// What the configuration wants.
    pub wanted: Wanted,
    /// The kernel.
    pub kernel: KernelFacts,
    /// What this process may do.
    pub capabilities: Capabilities,
    /// Conntrack in each watched namespace; names that could not be opened beside it.
    pub namespaces: Vec<NetnsFacts>,
    /// Namespaces that are to be watched and cannot be, with the reason.
    pub unopened: Vec<(String, String)>,
    /// Where the node keeps what outlives it.
    pub state: StateFacts,
    /// The running node.
    pub node: NodeFacts,
    /// Keys; `None` where no aggregator is configured.
    pub keys: Option<Known<KeyFacts>>,
    /// Each configured address of the aggregator.
    pub aggregators: Vec<AggregatorFacts>,
}

/// What the configuration wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which source.
    pub source: WantedSource,
    /// Which namespaces.
    pub netns: NetnsChoice,
    /// Whether the node sets sysctls.
    pub sysctl_manage: bool,
    /// Most bytes of the spool.
    pub spool_bytes: u64,
}

/// The source that is configured, without its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedSource {
    /// eBPF where it can be had, else netlink.
    Auto,
    /// eBPF or nothing.
    Ebpf,
    /// Netlink.
    Netlink,
    /// A recording: the kernel does not matter.
    Replay,
}

/// The kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// `uname -r`.
    pub release: Known<String>,
    /// Whether `/sys/kernel/btf/vmlinux` is there.
    pub btf: bool,
    /// Whether `/sys/kernel/btf/nf_conntrack` is there; it is not where conntrack is built in.
    pub module_btf: bool,
    /// Whether functions can be hooked.
    pub kprobes: Kprobes,
    /// The functions that would be hooked.
    pub hooks: Known<String>,
    /// Whether the kernel keeps its memory from root.
    pub lockdown: Lockdown,
    /// Whether the eBPF source could be opened, and is proved; `None` where it was not tried.
    pub trial: Option<Trial>,
}

/// How hooking stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kprobes {
    /// Functions can be hooked.
    Available,
    /// The kernel was built without it.
    Missing,
    /// It is switched off (`/sys/kernel/debug/kprobes/enabled`).
    Off,
}

/// `/sys/kernel/security/lockdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Off, or not in this kernel.
    Off,
    /// The kernel cannot be changed; reading it is fine.
    Integrity,
    /// The kernel cannot be read.
    Confidentiality,
}

/// An attempt at the eBPF source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It works.
    Proved,
    /// Nothing is tracked, so that there is nothing to prove it on.
    Unproved,
    /// It does not, and why, in one line; what to do.
    Failed {
        /// The reason.
        reason: String,
        /// The cure.
        cure: &'static str,
    },
}

/// The capabilities that matter, of the process that looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `CAP_NET_ADMIN`.
    pub net_admin: bool,
    /// `CAP_SYS_ADMIN`.
    pub sys_admin: bool,
    /// `CAP_BPF`.
    pub bpf: bool,
    /// `CAP_PERFMON`.
    pub perfmon: bool,
}

/// Conntrack in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsFacts {
    /// `own`, a name or a path.
    pub label: String,
    /// Values by the sysctls' names without `nf_conntrack_`: `None` where the kernel has none.
    pub sysctls: Known<Sysctls>,
    /// What the table holds; not looked at where conntrack is not loaded.
    pub table: Known<TableFacts>,
    /// Whether anything makes the kernel track.
    pub tracking: Tracking,
    /// Flowtables without `counter`, as `table name`; why not, where they cannot be listed.
    pub uncounting_flowtables: Known<Vec<String>>,
}

/// The sysctls of a namespace. `None`: the kernel has no such file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// `nf_conntrack_acct`.
    pub acct: Option<u64>,
    /// `nf_conntrack_timestamp`.
    pub timestamp: Option<u64>,
    /// `nf_conntrack_events`.
    pub events: Option<u64>,
    /// `nf_conntrack_count`.
    pub count: Option<u64>,
    /// `nf_conntrack_max`.
    pub max: Option<u64>,
    /// Whether this process could write them.
    pub writable: bool,
}

impl Sysctls {
    /// Whether conntrack is there at all.
    #[must_use]
    pub const fn has_conntrack(&self) -> bool {
        self.count.is_some()
    }
}

/// What the table of a namespace holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableFacts {
    /// Living entries.
    pub live: LiveKinds,
    /// Ended entries whose end the kernel could not deliver to a listener yet.
    pub held: u64,
}

/// What is known of whether the kernel tracks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    /// Whether the kernel's hook is in place, for IPv4 and IPv6; only newer kernels tell.
    pub hooks: Option<(bool, bool)>,
    /// Whether an nf_tables rule needs connections; `None` where rules cannot be listed.
    pub rules: Option<bool>,
    /// Whether tables of the old iptables are loaded, whose rules cannot be seen.
    pub legacy: bool,
}

/// The state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFacts {
    /// Where.
    pub folder: PathBuf,
    /// What was found there.
    pub found: StateFound,
}

/// What was found where the state folder should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateFound {
    /// Nothing: the node makes it.
    Absent,
    /// It can be used.
    Usable {
        /// Bytes free on its disk.
        free: u64,
        /// Bytes that the spool takes already.
        spool: u64,
    },
    /// It cannot.
    Unusable(String),
}

/// The node that runs here, as its HTTP page shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeFacts {
    /// The configuration has no listener.
    NoListener,
    /// Nothing answers.
    Silent(String),
    /// Something answers that cannot be used: another program, a refusal.
    Refused(String),
    /// It answers.
    Running(Box<Running>),
}

/// What a running node says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    /// Conditions of `/readyz` that are not fine: name and words.
    pub degraded: Vec<(String, String)>,
    /// Ends that were lost: `conntracct_source_lost_ends_total`.
    pub lost_ends: u64,
    /// Ends that were dropped, by the source and by the table.
    pub dropped_ends: u64,
    /// Births that were lost.
    pub lost_births: u64,
    /// Births that a reconciliation has found.
    pub missed_births: u64,
    /// Entries closed because no end came.
    pub ended_unseen: u64,
    /// Live entries beyond the table.
    pub untracked: u64,
    /// 0 normal, 1 updates paused, 2 full.
    pub spool_level: u64,
    /// Frames that are not acknowledged.
    pub spool_waiting: u64,
    /// Bytes of the spool.
    pub spool_bytes: u64,
    /// Whether an aggregator has welcomed it; `None` where it has none.
    pub connected: Option<bool>,
    /// How wrong its clock offset to the aggregator may be, seconds; `None` before the first one.
    pub clock_error_seconds: Option<f64>,
}

/// The keys, checked as the node checks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// The name in the certificate.
    pub node: NodeName,
    /// When the certificate ends.
    pub ends: Timestamp,
    /// When the authority's ends.
    pub authority_ends: Option<Timestamp>,
}

/// An address of the aggregator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatorFacts {
    /// As configured.
    pub address: String,
    /// The handshake; `Err` is a sentence with what to do. `None` where it was not tried: there
    /// are no keys.
    pub handshake: Option<Known<Handshake>>,
}

/// A handshake that both sides have agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// When the aggregator's certificate ends.
    pub ends: Option<Timestamp>,
    /// Milliseconds from the first packet to the aggregator's consent.
    pub took_ms: u64,
}

/// Major and minor number of a release like `6.12.5-amd64`.
#[must_use]
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut words = release.split(|c: char| !c.is_ascii_digit());
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

impl fmt::Display for Lockdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        })
    }
}
