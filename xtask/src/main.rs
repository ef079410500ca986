//! `cargo xtask VERB`: everything a developer or a machine does with this repository beyond
//! plain cargo. One file (or folder) a verb; no shell scripts.

mod bench;
mod chaos;
mod containers;
mod dashboards;
mod ebpf;
mod interrupt;
mod kills;
mod lab;
mod nightly;
mod packages;
mod sim;
mod steps;
mod test;
mod threads;
mod tidy;
mod up;
mod verbs;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match verbs::Flags::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
