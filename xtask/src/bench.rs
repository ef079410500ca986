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
    /// Sweep difference and memory of the flow table, against a plain hash map
    Table,
    /// A table dump and its parsing, against the kernel's part alone (root)
    Netlink,
    /// Rows a second from socket to SQLite, against a bare insert loop
    IngestSqlite,
}

/// Builds and runs the benchmark.
///
/// # Errors
/// It needs root and we are not, it does not build, or it failed.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let (package, example, root) = match flags.name {
        Name::Wire => ("conntracct-wire", "bench_wire", false),
        Name::Table => ("conntracct-flow", "bench_table", false),
        Name::Netlink => ("conntracct-node", "bench_netlink", true),
        Name::IngestSqlite => ("conntracct-aggregator", "bench_ingest_sqlite", false),
    };
    if root && !workspace::is_root() {
        bail!("the {example} benchmark fills a real conntrack table: run it as root");
    }
    let mut command = cargo(["run", "--locked", "--release", "-p", package, "--example", example]);
    if let Some(file) = &flags.json {
        // The example runs in the workspace's root, the file is meant from where the user is.
        command.arg("--").arg("--json").arg(std::path::absolute(file)?);
    }
    workspace::run(&mut command)
}
