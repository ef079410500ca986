//! The conntracct aggregator.

use std::process::ExitCode;

use clap::Parser;
use conntracct_aggregator::cli::Cli;
use conntracct_aggregator::commands::execute;

fn main() -> ExitCode {
    daemon::exit::code(execute(Cli::parse()))
}
