//! The command line of `conntracct-node`. Flags carry no defaults of their own: those are in the
//! configuration's `Default`, and a test holds the help text to them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use daemon::config::Flags;

use crate::join::JoinCommand;

/// Streams this gateway's exact conntrack counters to an aggregator.
///
/// Without a command it runs: reads every connection's counters from the kernel at each interval,
/// keeps what changed on disk until the aggregator has stored it, and loses nothing when the
/// network, the aggregator or the node itself goes away. Without --aggregator it works for its
/// local sinks only.
#[derive(Debug, Parser)]
#[command(
    name = crate::config::PROGRAM,
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP
)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,

    /// What every command understands.
    #[command(flatten)]
    pub general: GeneralArgs,
}

/// How to run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Address of the aggregator
    ///
    /// Give it several times where several addresses lead to the same store.
    /// [env: CONNTRACCT_AGGREGATOR, commas between]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Aggregator")]
    pub aggregator: Vec<String>,

    /// The authority's certificate [default: /etc/conntracct/pki/ca.pem]
    ///
    /// `conntracct-node join` installs it. [env: CONNTRACCT_TLS__CA]
    #[arg(long, value_name = "FILE", help_heading = "Aggregator")]
    pub ca: Option<PathBuf>,

    /// The node's certificate [default: /etc/conntracct/pki/node.pem]
    ///
    /// The node's name towards the aggregator is the one in here. [env: CONNTRACCT_TLS__CERT]
    #[arg(long, value_name = "FILE", help_heading = "Aggregator")]
    pub cert: Option<PathBuf>,

    /// The node's private key [default: /etc/conntracct/pki/node.key]
    ///
    /// [env: CONNTRACCT_TLS__KEY]
    #[arg(long, value_name = "FILE", help_heading = "Aggregator")]
    pub key: Option<PathBuf>,

    /// Accept a store other than the one known
    ///
    /// A node remembers which store took its records and refuses any other, so that a wrong
    /// address cannot swallow them. With this flag it starts afresh with the new one.
    /// [env: CONNTRACCT_ACCEPT_NEW_STORE=true]
    #[arg(long, help_heading = "Aggregator")]
    pub accept_new_store: bool,

    /// Where readings come from: auto, ebpf, netlink or replay:FILE [default: auto]
    ///
    /// auto takes ebpf where this kernel and the process's privileges allow it, else netlink, and
    /// says why. ebpf ends where it cannot be had.
    /// [env: CONNTRACCT_SOURCE]
    #[arg(long, value_name = "SOURCE", help_heading = "Reading")]
    pub source: Option<String>,

    /// The kernel's type information, for eBPF on a kernel without its own
    ///
    /// A BTF file, as archives for kernels built without CONFIG_DEBUG_INFO_BTF have them.
    /// [env: CONNTRACCT_EBPF__BTF]
    #[arg(long, value_name = "FILE", conflicts_with = "layout", help_heading = "Reading")]
    pub btf: Option<PathBuf>,

    /// The part of it that is the module nf_conntrack's, where that is a file of its own
    ///
    /// [env: CONNTRACCT_EBPF__BTF_MODULE]
    #[arg(long, value_name = "FILE", requires = "btf", help_heading = "Reading")]
    pub btf_module: Option<PathBuf>,

    /// Where things lie in this kernel, for eBPF; `conntracct-node layout` writes such a file
    ///
    /// [env: CONNTRACCT_EBPF__LAYOUT]
    #[arg(long, value_name = "FILE", help_heading = "Reading")]
    pub layout: Option<PathBuf>,

    /// Record everything the source reads, for --source replay:FILE
    ///
    /// [env: CONNTRACCT_RECORD]
    #[arg(long, value_name = "FILE", help_heading = "Reading")]
    pub record: Option<PathBuf>,

    /// Time between two readings of all connections, 1s to 1h [default: 10s]
    ///
    /// Readings are taken at its multiples on the wall clock, so that all nodes' intervals line
    /// up. [env: CONNTRACCT_INTERVAL]
    #[arg(long, value_name = "TIME", help_heading = "Reading")]
    pub interval: Option<String>,

    /// Network namespaces to read: own, all, or names or paths [default: own]
    ///
    /// Names are those of `ip netns`, paths are absolute; commas between several.
    /// [env: CONNTRACCT_NETNS]
    #[arg(long, value_name = "NETNS", value_delimiter = ',', help_heading = "Reading")]
    pub netns: Vec<String>,

    /// Leave out flows from or to a loopback address
    ///
    /// [env: CONNTRACCT_FILTER__EXCLUDE_LOOPBACK=true]
    #[arg(long, help_heading = "Filter")]
    pub exclude_loopback: bool,

    /// Only flows from or to these addresses and networks [default: all]
    ///
    /// Of the tuple as the opener sent it; commas between several. [env: CONNTRACCT_FILTER__INCLUDE]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', help_heading = "Filter")]
    pub include: Vec<String>,

    /// No flows from or to these addresses and networks
    ///
    /// Stronger than --include; commas between several. [env: CONNTRACCT_FILTER__EXCLUDE]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', help_heading = "Filter")]
    pub exclude: Vec<String>,

    /// Only flows of these protocols, by name or number [default: all]
    ///
    /// Commas between several. [env: CONNTRACCT_FILTER__PROTOCOLS]
    #[arg(long, value_name = "PROTO", value_delimiter = ',', help_heading = "Filter")]
    pub protocols: Vec<String>,

    /// No flows of these protocols, by name or number
    ///
    /// Commas between several. [env: CONNTRACCT_FILTER__EXCLUDE_PROTOCOLS]
    #[arg(long, value_name = "PROTO", value_delimiter = ',', help_heading = "Filter")]
    pub exclude_protocols: Vec<String>,

    /// The node's name in its own logs and sinks [default: the host's name]
    ///
    /// Towards an aggregator the certificate's name counts. [env: CONNTRACCT_NAME]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Print the merged configuration as TOML and exit
    #[arg(long)]
    pub dump_config: bool,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "General")]
pub struct GeneralArgs {
    /// Configuration file: TOML, YAML or JSON by its extension
    ///
    /// Without it: node.{toml,yaml,yml,json} in ~/.config/conntracct, then in /etc/conntracct.
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Folder of the spool and everything else that outlives the process
    ///
    /// [default: /var/lib/conntracct-node as root, else ~/.local/state/conntracct-node]
    /// [env: CONNTRACCT_STATE_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,

    /// Where metrics, health and the live table are served, or off [default: localhost:8000]
    ///
    /// Off loopback it needs a certificate (api.cert, api.key) and shows nothing without the
    /// token. [env: CONNTRACCT_API_ENDPOINT, CONNTRACCT_API_ENABLED=false]
    #[arg(long, value_name = "ADDRESS:PORT", global = true)]
    pub http: Option<String>,

    /// Log what is done in detail
    ///
    /// [env: CONNTRACCT_LOG__LEVEL=debug]
    #[arg(short, long, global = true)]
    pub debug: bool,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether the configuration is right, and which file it came from
    CheckConfig,
    /// Say whether the running program is well; fails where it does not answer
    CheckHealth(HealthArgs),
    /// Install the keys that `conntracct-aggregator pki issue NAME` wrote for this node
    Join(JoinCommand),
    /// Look for what makes figures wrong or missing, and say how to cure it; fails where it is
    Doctor(DoctorArgs),
    /// Send real traffic through a network of its own, and check what the source says of it
    ///
    /// Needs root. Makes network namespaces that nobody else sees and that end with the process,
    /// sends TCP, UDP and ICMP through them, with and without NAT, and compares what the source
    /// reports with what was sent. What cannot be checked on this kernel is skipped, with the
    /// reason. Fails where a check fails, or where none could be made.
    Test(TestArgs),
    /// Show the live connections of the running node
    Flows(FlowsArgs),
    /// Write where things lie in this kernel, for --layout on a kernel that does not say it
    Layout(LayoutArgs),
    /// Put the conntrack sysctls back to what they were before the node changed them
    RestoreSysctls,
    /// Remove the hooks that wait in the kernel for the next start
    ///
    /// While the node is stopped, ends of flows go on being kept in the kernel for its next start
    /// (`ebpf.keep`). Whoever stops it for good takes them away with this.
    ReleaseHooks,
    /// Show version, commit and compiler
    Version,
}

/// Arguments of `check-health`.
#[derive(Clone, Copy, Debug, Args)]
pub struct HealthArgs {
    /// Fail also while it runs but cannot do its work
    ///
    /// Without it being alive is enough, and what is the matter is only shown.
    #[arg(long)]
    pub ready: bool,
}

/// Arguments of `layout`.
#[derive(Debug, Args)]
pub struct LayoutArgs {
    /// The type information (BTF) of the kernel that is meant [default: the running one's]
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,

    /// The part of it that is the module nf_conntrack's, where that is a file of its own
    #[arg(long, value_name = "FILE", requires = "btf")]
    pub btf_module: Option<PathBuf>,
}

/// Arguments of `doctor`.
#[derive(Clone, Copy, Debug, Args)]
pub struct DoctorArgs {
    /// Print one JSON object instead of lines for people
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Which source: auto, ebpf or netlink [default: as configured, auto]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,

    /// The kernel's type information, for eBPF on a kernel without its own
    #[arg(long, value_name = "FILE", conflicts_with = "layout")]
    pub btf: Option<PathBuf>,

    /// The part of it that is the module nf_conntrack's, where that is a file of its own
    #[arg(long, value_name = "FILE", requires = "btf")]
    pub btf_module: Option<PathBuf>,

    /// Where things lie in this kernel, for eBPF
    #[arg(long, value_name = "FILE")]
    pub layout: Option<PathBuf>,

    /// Print one JSON object instead of lines for people
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Only flows from this address or network
    #[arg(long, value_name = "CIDR")]
    pub src: Option<String>,

    /// Only flows to this address or network
    #[arg(long, value_name = "CIDR")]
    pub dst: Option<String>,

    /// Only flows to this port
    #[arg(long)]
    pub port: Option<u16>,

    /// Only flows of this protocol, by name or number
    #[arg(long)]
    pub proto: Option<String>,

    /// Most to show, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,

    /// Which come first
    #[arg(long, value_enum, default_value_t = Order::Bytes)]
    pub sort: Order,

    /// How to print: a table, or JSON with one object a line
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Which flows come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Those with the most bytes, both directions.
    Bytes,
    /// Those with the most packets, both directions.
    Packets,
    /// The youngest.
    Newest,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON object a line.
    Json,
}

impl Cli {
    /// Source, and type information, its module's part and layout, as the command or else the run
    /// has them.
    fn source_flags(&self) -> (Option<&String>, [Option<&PathBuf>; 3]) {
        let run = &self.run;
        let (source, files) = match &self.command {
            Some(Command::Layout(args)) => (&None, [&args.btf, &args.btf_module, &None]),
            Some(Command::Test(args)) => {
                (&args.source, [&args.btf, &args.btf_module, &args.layout])
            }
            _ => (&None, [&None, &None, &None]),
        };
        let of_run = [&run.btf, &run.btf_module, &run.layout].map(Option::as_ref);
        let files = files.map(Option::as_ref);
        // They belong together.
        let files = if files.iter().any(Option::is_some) { files } else { of_run };
        (source.as_ref().or(run.source.as_ref()), files)
    }

    /// What the flags say, by configuration key.
    #[must_use]
    pub fn flags(&self) -> Flags {
        let text = |path: &PathBuf| path.display().to_string();
        let (run, general) = (&self.run, &self.general);
        let mut flags = Flags::default();
        let list = |items: &Vec<String>| (!items.is_empty()).then(|| items.clone());
        flags.set("aggregator", "--aggregator", list(&run.aggregator));
        flags.set("tls.ca", "--ca", run.ca.as_ref().map(text));
        flags.set("tls.cert", "--cert", run.cert.as_ref().map(text));
        flags.set("tls.key", "--key", run.key.as_ref().map(text));
        let accept = run.accept_new_store.then_some(true);
        flags.set("accept_new_store", "--accept-new-store", accept);
        let (source, [btf, module, layout]) = self.source_flags();
        flags.set("source", "--source", source.cloned());
        flags.set("ebpf.btf", "--btf", btf.map(text));
        flags.set("ebpf.btf_module", "--btf-module", module.map(text));
        flags.set("ebpf.layout", "--layout", layout.map(text));
        flags.set("record", "--record", run.record.as_ref().map(text));
        flags.set("interval", "--interval", run.interval.clone());
        flags.set("netns", "--netns", list(&run.netns));
        let loopback = run.exclude_loopback.then_some(true);
        flags.set("filter.exclude_loopback", "--exclude-loopback", loopback);
        flags.set("filter.include", "--include", list(&run.include));
        flags.set("filter.exclude", "--exclude", list(&run.exclude));
        flags.set("filter.protocols", "--protocols", list(&run.protocols));
        let protocols = list(&run.exclude_protocols);
        flags.set("filter.exclude_protocols", "--exclude-protocols", protocols);
        flags.set("name", "--name", run.name.clone());
        flags.set("state_dir", "--state-dir", general.state_dir.as_ref().map(text));
        match general.http.as_deref() {
            Some("off") => flags.set("api_enabled", "--http", Some(false)),
            endpoint => {
                flags.set("api_enabled", "--http", endpoint.map(|_| true));
                flags.set("api_endpoint", "--http", endpoint.map(str::to_owned));
            }
        }
        flags
    }
}

const AFTER_HELP: &str = "--help says more, with examples.";

const AFTER_LONG_HELP: &str = "\
Examples:
  conntracct-node --aggregator flows.example.net:4433
      run as a gateway's agent (needs root, or CAP_NET_ADMIN)
  conntracct-node join gw1.bundle
      install this node's keys first
  conntracct-node -c /etc/conntracct/node.toml check-config
      check a configuration without starting anything
  conntracct-node --aggregator flows.example.net:4433 doctor
      what would make figures wrong or missing here, and the cure
  conntracct-node test
      real traffic in namespaces of its own: does this kernel count as it should?
  conntracct-node flows --dst 10.0.0.0/8 --port 443
      what is going on right now

Configuration: built-in defaults, then the file, then CONNTRACCT_ variables of the environment
(two underscores between levels: CONNTRACCT_LIMITS__SPOOL=2GiB), then flags; the later wins.
--dump-config shows the result. Durations and sizes carry units: 10s, 1h30m, 64MiB.";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn general_flags_may_follow_the_command() {
        let cli = Cli::try_parse_from(["conntracct-node", "check-config", "-c", "x.toml", "-d"]);
        let cli = cli.unwrap();
        assert!(cli.general.debug);
        assert_eq!(cli.general.config, Some("x.toml".into()));
        assert!(matches!(cli.command, Some(Command::CheckConfig)));
    }
}
