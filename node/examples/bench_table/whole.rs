//! The whole node's memory: the real program plays 100,000 live flows, spools them and delivers
//! them to a real aggregator.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failed;
use crate::replay::{self, Plan, Running};

/// The largest of [`ROUNDS`] peaks, in bytes.
pub(crate) fn peak_memory() -> Result<u64, Failed> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let plan = Plan { flows: 100_000, sweeps: 8 };
    replay::record(&plan, &at("recording"))?;
    let (pki, keys) = (at("pki"), at("keys"));
    run(aggregator()?.args(["pki", "--dir"]).arg(&pki).arg("init"))?;
    let bundle = at("gw1.bundle");
    let mut issue = aggregator()?;
    issue.args(["pki", "--dir"]).arg(&pki).args(["issue", "gw1", "--output"]).arg(&bundle);
    run(&mut issue)?;
    run(node()?.arg("join").arg(&bundle).arg("--dir").arg(&keys))?;

    let listen = free_address()?;
    let mut serving = aggregator()?;
    serving.arg("--pki").arg(&pki).arg("--state-dir").arg(at("aggregator"));
    let mut serving = Running::start(serving.args(["--http", "off", "--listen", &listen]))?;
    serving.read_until(|line| line.contains("taking nodes"))?;
    let mut most = 0;
    for round in 0..ROUNDS {
        let mut command = node()?;
        command
            .args(["--aggregator", &listen])
            .arg("--state-dir")
            .arg(at(&format!("node-{round}")));
        for (flag, file) in [("--ca", "ca.pem"), ("--cert", "node.pem"), ("--key", "node.key")] {
            command.arg(flag).arg(keys.join(file));
        }
        let (peak, records) = replay::peak_memory(&mut command, &at("recording"))?;
        // Sweeps that a busy machine missed come together.
        if records < 2 * u64::from(plan.flows) {
            return Err(format!(
                "only {records} records were spooled: this machine is too busy to sweep {} flows \
                 every second",
                plan.flows
            )
            .into());
        }
        most = most.max(peak);
    }
    Ok(most)
}

fn run(command: &mut Command) -> Result<(), Failed> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn aggregator() -> Result<Command, Failed> {
    program("conntracct-aggregator")
}

fn node() -> Result<Command, Failed> {
    program("conntracct-node")
}

/// A program of this workspace, built like this one.
fn program(name: &str) -> Result<Command, Failed> {
    let this = std::env::current_exe()?;
    let path: Option<PathBuf> = this.parent().and_then(Path::parent).map(|built| built.join(name));
    let path = path.filter(|path| path.is_file());
    let path = path.ok_or_else(|| {
        format!("{name} is not built: run `cargo build --release -p {name}`, then this again")
    })?;
    let mut command = Command::new(path);
    command.env_clear();
    Ok(command)
}

/// An address of the loopback whose port was free a moment ago.
fn free_address() -> Result<String, Failed> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// How often the node is started, each time with an empty state folder.
const ROUNDS: usize = 3;
