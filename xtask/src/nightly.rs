//! `cargo xtask nightly`: what takes too long for every change. It builds what users get, runs
//! every lab, all kernels, fuzzes every decoder, simulates many worlds and audits the dependencies.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Variant;
use crate::steps::Steps;
use crate::workspace::{self, CI_PROFILE, cargo};
use crate::{bench, chaos, dashboards, kills, lab, packages, sim, vm};

/// Flags of `cargo xtask nightly`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 300)]
    fuzz_seconds: u32,
    /// Worlds the simulation runs
    #[arg(long, default_value_t = 20_000)]
    worlds: u32,
    /// Install missing system packages without asking (as root)
    #[arg(long)]
    yes: bool,
}

/// Runs all steps; what a machine cannot do is listed as not run.
///
/// # Errors
/// A step failed.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let root = workspace::is_root();
    let mut needed = vec![packages::BUILD, packages::TESTS, packages::VM];
    if root {
        needed.push(packages::LAB);
        needed.push(packages::SYNC);
    }
    packages::ensure(&needed, flags.yes)?;
    let mut steps = Steps::new();
    steps.run("release build", || {
        workspace::run(&mut cargo(["build", "--locked", "--release", "--workspace", "--bins"]))
    });
    steps.run("many worlds", || sim::new_worlds(flags.worlds));
    steps.run("a million entries of one view", || {
        let million = ["nextest", "run", "--locked", "--cargo-profile", CI_PROFILE];
        let of = ["--workspace", "--run-ignored", "only", "-E", "test(a_million_entries)"];
        workspace::run(cargo(million).args(of))
    });
    steps.run("dashboards, a whole day", dashboards::check_day);
    steps.run("five million rows moved", bench::check_move);
    steps.run("kills", || kills::check(200));
    steps.run("database away", || kills::check_away(Duration::from_secs(60)));
    if root {
        steps.run("labs", || lab::check_all(CI_PROFILE));
        steps.run("labs: one flow, one count", || {
            lab::check_once(&Variant::MERGING, 60, CI_PROFILE)
        });
        for (name, seed) in [("chaos, seed 1", 1), ("chaos, seed 2", 2), ("chaos, seed 3", 3)] {
            steps.run(name, || chaos::check(10, seed));
        }
        steps.run("lab: kill", || lab::check_kill(CI_PROFILE));
        steps.run("lab: burst", || lab::check_burst(CI_PROFILE));
    } else {
        steps.skip("labs", "needs root");
    }
    steps.run("kernel tests in every kernel", vm::matrix);
    match vm::lacks_arm64() {
        None => steps.run("kernel tests on arm64", vm::arm64),
        Some(why) => steps.skip("kernel tests on arm64", why),
    }
    match fuzzing_lacks() {
        None => steps.run("fuzzing", || fuzz(flags.fuzz_seconds)),
        Some(why) => steps.skip("fuzzing", why),
    }
    if workspace::has_program("cargo-deny") {
        steps.run("bans, licences, sources", || {
            workspace::run(&mut cargo(["deny", "--locked", "check", "bans", "licenses", "sources"]))
        });
        steps.run("advisories", || {
            workspace::run(&mut cargo(["deny", "--locked", "check", "advisories"]))
        });
    } else {
        steps.skip("audit", "cargo-deny is not installed: cargo install cargo-deny");
    }
    steps.finish(None)
}

/// What fuzzing needs and this machine does not have.
fn fuzzing_lacks() -> Option<&'static str> {
    let nightly = || plain_cargo("+nightly").arg("--version").output();
    if !workspace::has_program("cargo-fuzz") {
        Some("cargo-fuzz is not installed: cargo install cargo-fuzz")
    } else if !nightly().is_ok_and(|output| output.status.success()) {
        Some("there is no nightly compiler: rustup toolchain install nightly")
    } else {
        None
    }
}

/// Not the cargo that runs us: only the one on the path understands `+nightly`.
fn plain_cargo(toolchain: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(toolchain);
    command
}

/// Every target of `fuzz/`, one after the other. What they find interesting is kept beside the
/// build; the committed corpora are read only: they are replayed with every test run, and grow by
/// hand.
fn fuzz(seconds: u32) -> Result<()> {
    let folder = workspace::root().join("fuzz");
    let manifest = folder.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).context("could not read fuzz/Cargo.toml")?;
    let table: toml::Table = text.parse().context("could not parse fuzz/Cargo.toml")?;
    let targets = table.get("bin").and_then(toml::Value::as_array);
    for target in targets.into_iter().flatten() {
        let name = target.get("name").and_then(toml::Value::as_str);
        let name = name.context("a fuzz target without a name in fuzz/Cargo.toml")?;
        let found = workspace::target_dir().join("fuzz-corpus").join(name);
        fs::create_dir_all(&found)
            .with_context(|| format!("could not make {}", found.display()))?;
        let mut command = plain_cargo("+nightly");
        command.args(["fuzz", "run", name]).arg(&found).arg(folder.join("corpus").join(name));
        command.arg("--").arg(format!("-max_total_time={seconds}")).current_dir(&folder);
        workspace::run(&mut command)?;
    }
    Ok(())
}
