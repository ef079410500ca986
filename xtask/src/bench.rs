//! `cargo xtask bench NAME`: a benchmark against its baseline, measured in the same run.
//!
//! The programs are examples of the crate they measure, so that they see its public interface
//! only. With `--json FILE` they write `{"bench", "machine", "figures": [...]}`, one figure a
//! baseline.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::workspace::{self, cargo};

/// Flags of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Which one
    #[arg(value_enum)]
    name: Name,
    /// Also write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Bytes of an encoded delta, against an IPFIX record of the same information
    Wire,
    /// Sweep difference of the flow table, against a plain hash map; encoding; memory of the node
    Table,
    /// A table dump and its parsing, against the kernel's part alone (root)
    Netlink,
    /// A sweep by eBPF, against the kernel's dump of the same table (root)
    Sweep,
    /// Rows a second from socket to SQLite, against a bare insert loop
    IngestSqlite,
    /// Rows a second from socket to PostgreSQL, against bare COPY and the predecessor's SQL
    IngestPostgres,
    /// Records a second of one, two and three gateways that see the same flows, against merging
    /// switched off
    Merge,
    /// migrate-store, export and import of five million rows, against bare COPY
    Move,
}

/// How a benchmark is run.
struct Plan {
    package: &'static str,
    example: &'static str,
    /// It needs root.
    root: bool,
    /// Programs that it runs; they are built first.
    programs: &'static [&'static str],
}

impl Name {
    const fn plan(self) -> Plan {
        let (package, example) = match self {
            Self::Wire => ("conntracct-wire", "bench_wire"),
            Self::Table => ("conntracct-node", "bench_table"),
            Self::Netlink => ("conntracct-node", "bench_netlink"),
            Self::Sweep => ("conntracct-node", "bench_sweep"),
            Self::IngestSqlite => ("conntracct-aggregator", "bench_ingest_sqlite"),
            Self::IngestPostgres => ("conntracct-aggregator", "bench_ingest_postgres"),
            Self::Merge => ("conntracct-aggregator", "bench_merge"),
            Self::Move => ("conntracct-aggregator", "bench_move"),
        };
        let programs: &[&str] = match self {
            Self::Table => &["conntracct-node", "conntracct-aggregator"],
            Self::Wire
            | Self::Netlink
            | Self::Sweep
            | Self::IngestSqlite
            | Self::IngestPostgres
            | Self::Merge
            | Self::Move => &[],
        };
        Plan { package, example, root: matches!(self, Self::Netlink | Self::Sweep), programs }
    }
}

/// Moves, exports and imports five million rows: each adds up both sides, so it is a check too.
///
/// # Errors
/// It does not build, or two sides differ.
pub(crate) fn check_move() -> Result<()> {
    run(&Flags { name: Name::Move, json: None })
}

/// Builds and runs the benchmark.
///
/// # Errors
/// It needs root and we are not, it does not build, or it failed.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let Plan { package, example, root, programs } = flags.name.plan();
    if root && !workspace::is_root() {
        bail!("the {example} benchmark fills a real conntrack table: run it as root");
    }
    if !programs.is_empty() {
        let mut build = cargo(["build", "--locked", "--release"]);
        workspace::run(build.args(programs.iter().flat_map(|program| ["-p", *program])))?;
    }
    let mut command = cargo(["run", "--locked", "--release", "-p", package, "--example", example]);
    if let Some(file) = &flags.json {
        // The example runs in the workspace's root, the file is meant from where the user is.
        command.arg("--").arg("--json").arg(std::path::absolute(file)?);
    }
    workspace::run(&mut command)
}
