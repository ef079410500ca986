//! The conntracct agent.

use std::process::ExitCode;

use clap::Parser;
use conntracct_node::cli::Cli;
use conntracct_node::commands::execute;

fn main() -> ExitCode {
    daemon::exit::code(execute(Cli::parse()))
}
