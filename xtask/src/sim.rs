//! `cargo xtask sim`: seeded worlds of the simulation, as many as wanted, or one that failed
//! again.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::workspace::{self, CI_PROFILE, cargo};

/// Flags of `cargo xtask sim`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// How many worlds
    #[arg(long, default_value_t = 1_000)]
    worlds: u32,
    /// The first world's seed; the next ones follow [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// What changes besides everything that goes wrong: nothing (usual), the store and time
    /// stamps (changing), the same on a real database (sqlite); or worlds in which several hosts
    /// see one flow (merging; merging-stored: also through counting and commits)
    #[arg(long, default_value = "usual")]
    setting: String,
    #[command(flatten)]
    merging: Merging,
}

/// Flags of merging worlds: what a failing one prints.
#[derive(clap::Args, Default)]
struct Merging {
    /// How hosts see flows [default: all scenarios in turn]
    #[arg(long)]
    scenario: Option<String>,
    /// Which flows carry packets, as a mask
    #[arg(long)]
    flows: Option<String>,
    /// Which nodes report, as a mask
    #[arg(long)]
    nodes: Option<String>,
    /// Seconds of traffic
    #[arg(long)]
    seconds: Option<String>,
    /// Faults that are left out
    #[arg(long)]
    without: Option<String>,
    /// Tell a failing world record by record
    #[arg(long)]
    explain: bool,
}

impl Merging {
    fn arguments(&self) -> Vec<&str> {
        let Self { scenario, flows, nodes, seconds, without, explain } = self;
        let said = [
            ("--scenario", scenario),
            ("--flows", flows),
            ("--nodes", nodes),
            ("--seconds", seconds),
            ("--without", without),
        ];
        let said = said.into_iter().filter_map(|(flag, value)| Some([flag, value.as_deref()?]));
        said.flatten().chain(explain.then_some("--explain")).collect()
    }
}

/// Runs them.
///
/// # Errors
/// A world went wrong; it has printed its seed.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    worlds(flags.worlds, flags.seed.unwrap_or_else(now), &flags.setting, &flags.merging)
}

/// Runs worlds that were never run before: `count` usual ones and as many merging ones, a quarter
/// as many where stores change, and some on a real database, which takes a hundred times as long.
pub(crate) fn new_worlds(count: u32) -> Result<()> {
    let settings = [
        (count, "usual"),
        (count, "merging"),
        (count / 4, "changing"),
        ((count / 400).max(1), "sqlite"),
    ];
    for (worlds, setting) in settings {
        let (setting, merging) = (setting.to_owned(), Merging::default());
        run(&Flags { worlds, seed: None, setting, merging })?;
    }
    Ok(())
}

/// A few thousand worlds take less time than a release build: the profile of the tests is used,
/// whose dependencies are built already.
fn worlds(count: u32, seed: u64, setting: &str, merging: &Merging) -> Result<()> {
    let (count, seed) = (count.to_string(), seed.to_string());
    let mut command = cargo(["run", "--locked", "-q", "-p", "conntracct-sim", "--profile"]);
    command.args([CI_PROFILE, "--", "--worlds", &count, "--seed", &seed]);
    command.args(["--setting", setting]).args(merging.arguments());
    workspace::run(&mut command)
}
