//! `cargo xtask VERB`: everything a developer or a machine does with this repository beyond
//! plain cargo. One file (or folder) a verb; no shell scripts.

mod bench;
mod interrupt;
mod lab;
mod nightly;
mod packages;
mod steps;
mod test;
mod tidy;
mod up;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development commands of conntracct.
#[derive(Parser)]
#[command(name = "cargo xtask", version, max_term_width = 100)]
struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything that must pass before a change lands; what .ci/run runs
    Test(test::Flags),
    /// Check the house rules that no compiler knows
    Tidy,
    /// Run an aggregator and a node on this machine, or a whole network with --lab
    Up(up::Flags),
    /// The lab's tests and its clean-up
    #[command(subcommand)]
    Lab(lab::Verb),
    /// Run a benchmark against its baseline
    Bench(bench::Flags),
    /// What is too long for every change: release builds, fuzzing, many worlds, audits
    Nightly(nightly::Flags),
}

fn main() -> ExitCode {
    let done = match Flags::parse().verb {
        Verb::Test(flags) => test::run(&flags),
        Verb::Tidy => tidy::run(),
        Verb::Up(flags) => up::run(&flags),
        Verb::Lab(verb) => lab::run(&verb),
        Verb::Bench(flags) => bench::run(&flags),
        Verb::Nightly(flags) => nightly::run(&flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
