//! The command line of `conntracct-aggregator`. Flags carry no defaults of their own: those are
//! in the configuration's `Default`, and a test holds the help text to them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use daemon::config::{Flags, Span};

use crate::archive::Format as ArchiveFormat;
use crate::pki::PkiCommand;

/// Takes the flow records of many gateways and stores each flow once.
///
/// Without a command it runs: nodes connect over QUIC with their certificates, what they send is
/// stored exactly once and then acknowledged. `report` and `flows` read the store, whether it
/// runs or not.
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
    /// Where nodes connect, UDP.
    // Spelled out because rustdoc takes the default for a link.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        help = "Where nodes connect, UDP [default: [::]:4433]",
        long_help = "Where nodes connect, UDP [default: [::]:4433]\n\n[env: CONNTRACCT_LISTEN]"
    )]
    pub listen: Option<String>,

    /// Where metrics and health are served, or off [default: 127.0.0.1:8080]
    ///
    /// All but health wants the token in STATE/http-token. Off loopback it needs a certificate
    /// (api.cert, api.key). [env: CONNTRACCT_API_ENDPOINT, CONNTRACCT_API_ENABLED=false]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<String>,

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
    /// Without it: aggregator.{toml,yaml,yml,json} in ~/.config/conntracct, then in
    /// /etc/conntracct.
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Where flows are stored: sqlite:PATH or postgres://... [default: sqlite:STATE/flows.db]
    ///
    /// postgres://USER@HOST/DATABASE?sslmode=verify-full, or postgres:///DATABASE?host=FOLDER for
    /// the socket in FOLDER. A password belongs into a file, into PGPASSWORD, or into this URL in
    /// the configuration file; never on the command line. [env: CONNTRACCT_STORE]
    #[arg(long, value_name = "STORE", global = true)]
    pub store: Option<String>,

    /// File that holds the password of a PostgreSQL store
    ///
    /// [env: CONNTRACCT_STORE_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub store_password_file: Option<PathBuf>,

    /// Folder of certificates and keys [default: STATE/pki]
    ///
    /// [env: CONNTRACCT_PKI]
    #[arg(long, value_name = "DIR", global = true)]
    pub pki: Option<PathBuf>,

    /// STATE, the folder of everything that outlives the process
    ///
    /// [default: /var/lib/conntracct-aggregator as root, else
    /// ~/.local/state/conntracct-aggregator] [env: CONNTRACCT_STATE_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,

    /// Log what is done in detail
    ///
    /// [env: CONNTRACCT_LOG__LEVEL=debug]
    #[arg(short, long, global = true)]
    pub debug: bool,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show who moved how much, each flow counted once
    Report(ReportArgs),
    /// Show stored flows, or new ones as they are stored
    Flows(FlowsArgs),
    /// Make and manage the certificates of the aggregator and its nodes
    Pki(PkiCommand),
    /// Bring the store to this program's version
    Migrate(MigrateArgs),
    /// Move a store from SQLite to PostgreSQL
    ///
    /// Everything goes over, progress of every node included, so nodes go on as if nothing had
    /// happened. Stop the aggregator first. The SQLite file is only read. An interrupted move is
    /// gone on with by the same command; at the end both stores are added up and must agree.
    MigrateStore(MigrateStoreArgs),
    /// Write flows to files, as CSV or Parquet
    ///
    /// One or more files a day and a manifest with their digests and sums, which are compared with
    /// what the store itself adds up. The store is only read, beside a running aggregator or
    /// without one. An export into a folder that was interrupted is gone on with by the same
    /// command. docs/export.md explains every column.
    Export(ExportArgs),
    /// Take an export into this store
    ///
    /// Everything is checked against the manifest before anything is written. Stop the aggregator
    /// first. An interrupted import is gone on with by the same command. What is in the store
    /// already, or could be counted twice, is refused: see docs/export.md.
    Import(ImportArgs),
    /// Say whether the configuration is right, and which file it came from
    CheckConfig,
    /// Say whether the running program is well; fails where it does not answer
    CheckHealth(HealthArgs),
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

/// Arguments of `migrate-store`.
#[derive(Debug, Clone, clap::Args)]
pub struct MigrateStoreArgs {
    /// The SQLite file to be moved, as sqlite:PATH or PATH
    #[arg(long, value_name = "PATH")]
    pub from: String,
}

/// Arguments of `export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Records after this time, like 2026-11-22, "2026-11-22 18:30" (local) or
    /// 2026-11-22T18:30:00Z [default: from the first]
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,

    /// Records up to this time [default: now]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,

    /// How to write them [default: csv, or what the file's name says]
    #[arg(long, value_enum)]
    pub format: Option<ArchiveFormat>,

    /// The folder to write into, or one file whose name ends in .csv or .parquet
    #[arg(short, long, value_name = "DIR|FILE", default_value = "conntracct-export")]
    pub output: PathBuf,
}

/// Arguments of `import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// The export: its folder, its one file, or its manifest
    #[arg(value_name = "DIR|FILE")]
    pub export: PathBuf,
}

/// Arguments of `migrate`.
#[derive(Clone, Debug, Args)]
pub struct MigrateArgs {
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// What to add up by
    ///
    /// src and dst are the addresses of the one who opened the connection and of the one it was
    /// opened to; port is the port (or ICMP type) it was opened to; by node shows what each
    /// gateway saw beside what was counted of it.
    #[arg(long, value_enum, default_value_t = By::Src)]
    pub by: By,

    /// Which time.
    #[command(flatten)]
    pub when: WhenArgs,

    /// Most lines; the rest is added up in one
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub top: u32,

    /// How to print: a table, JSON with one object a line, or CSV with a header
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Arguments of `flows`.
#[derive(Clone, Debug, Args)]
pub struct FlowsArgs {
    /// Which flows.
    #[command(flatten)]
    pub which: WhichArgs,

    /// Which time.
    #[command(flatten)]
    pub when: WhenArgs,

    /// Go on with what is stored from now on, one line a record, until interrupted
    #[arg(long, conflicts_with_all = ["last", "from", "to"])]
    pub follow: bool,

    /// Below each flow, who saw it: through which translation, and what that node counted itself
    ///
    /// As CSV one line an observer, with what it saw in place of what was counted.
    #[arg(long, conflicts_with = "follow")]
    pub observers: bool,

    /// Most flows, those with the latest traffic
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,

    /// How to print: a table, JSON with one object a line, or CSV with a header
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Which flows.
#[derive(Clone, Debug, Default, Args)]
pub struct WhichArgs {
    /// Only flows opened from this address or network
    #[arg(long, value_name = "CIDR")]
    pub src: Option<String>,

    /// Only flows opened to this address or network
    #[arg(long, value_name = "CIDR")]
    pub dst: Option<String>,

    /// Only flows opened to this port
    #[arg(long)]
    pub port: Option<u16>,

    /// Only flows of this protocol, by name or number
    #[arg(long)]
    pub proto: Option<String>,

    /// Only what this node saw
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

/// Which time.
#[derive(Clone, Debug, Default, Args)]
pub struct WhenArgs {
    /// The time that ends now [default: 1h]
    #[arg(long, value_name = "TIME", conflicts_with_all = ["from", "to"])]
    pub last: Option<Span>,

    /// From this time on, like 2026-11-22, "2026-11-22 18:30" (local) or 2026-11-22T18:30:00Z
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,

    /// Up to this time [default: now]
    #[arg(long, value_name = "TIME", requires = "from")]
    pub to: Option<String>,
}

/// What a report adds up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The opener's address.
    Src,
    /// The address it was opened to.
    Dst,
    /// Protocol and port, or ICMP type and code.
    Port,
    /// Protocol.
    Proto,
    /// The node that saw it.
    Node,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON object a line.
    Json,
    /// Comma-separated values with a header.
    Csv,
}

impl Cli {
    /// What the flags say, by configuration key.
    #[must_use]
    pub fn flags(&self) -> Flags {
        let text = |path: &PathBuf| path.display().to_string();
        let (run, general) = (&self.run, &self.general);
        let mut flags = Flags::default();
        flags.set("listen", "--listen", run.listen.clone());
        flags.set("store", "--store", general.store.clone());
        let password = general.store_password_file.as_ref().map(text);
        flags.set("store_password_file", "--store-password-file", password);
        flags.set("pki", "--pki", general.pki.as_ref().map(text));
        flags.set("state_dir", "--state-dir", general.state_dir.as_ref().map(text));
        match run.http.as_deref() {
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
  conntracct-aggregator pki init --san flows.example.net
  conntracct-aggregator pki issue gw1
      make certificates first; the second writes gw1.bundle, for `conntracct-node join`
  conntracct-aggregator --store sqlite:/data/flows.db
      run, with the store in a file of your choice
  conntracct-aggregator --store postgres://conntracct@db/flows --store-password-file /run/pw
      run, with the store in PostgreSQL
  conntracct-aggregator report --by dst --last 24h
      the addresses most was moved with, today
  conntracct-aggregator report --by port --from 2026-11-01 --format csv > ports.csv
      for a spreadsheet
  conntracct-aggregator flows --src 10.0.0.0/8 --port 443 --last 10m
      who opened what
  conntracct-aggregator flows --follow
      watch records arrive
  conntracct-aggregator export --from 2026-11-01 --to 2026-12-01 --format parquet -o november
      a month's records, for an archive or another program; `import november` takes them in again

Configuration: built-in defaults, then the file, then CONNTRACCT_ variables of the environment
(two underscores between levels: CONNTRACCT_LIMITS__NODES=500), then flags; the later wins.
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
    fn times_exclude_each_other() {
        let parse = |arguments: &[&str]| {
            Cli::try_parse_from([&["conntracct-aggregator"], arguments].concat()).is_ok()
        };
        assert!(parse(&["report", "--last", "2h", "--store", "sqlite:x"]));
        assert!(parse(&["report", "--from", "2026-11-22", "--to", "2026-11-23"]));
        assert!(!parse(&["report", "--last", "2h", "--from", "2026-11-22"]));
        assert!(!parse(&["report", "--to", "2026-11-22"]));
        assert!(!parse(&["report", "--last", "2"]));
        assert!(!parse(&["flows", "--follow", "--last", "1h"]));
    }
}
