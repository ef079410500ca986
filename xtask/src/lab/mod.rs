//! `cargo xtask lab ...`: a real network in namespaces, real traffic, and counts of it that do
//! not depend on each other.

mod capture;
mod kernel;
mod netns;
mod network;
mod rules;
mod tally;
mod traffic;

use anyhow::{Result, bail};

use crate::interrupt::Interrupt;
use crate::workspace;
use network::Variant;

/// What to do with the lab.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Traffic without the product: conntrack's events against nftables' counters
    Kernel {
        /// What gw2 does
        #[arg(long, value_enum, default_value = "router")]
        variant: Variant,
        /// Rounds of traffic, about 1,200 flows each
        #[arg(long, default_value_t = 5)]
        rounds: u32,
    },
    /// Remove what a killed lab left behind
    Clean {
        /// Also labs that still run
        #[arg(long)]
        all: bool,
    },
}

/// Does it.
///
/// # Errors
/// Not root, or the lab found a difference.
pub(crate) fn run(verb: &Verb) -> Result<()> {
    needs_root()?;
    match verb {
        Verb::Kernel { variant, rounds } => kernel::run(*variant, *rounds, &Interrupt::listen()?),
        Verb::Clean { all } => {
            let gone = netns::clean(*all)?;
            eprintln!("{} namespaces removed", gone.len());
            Ok(())
        }
    }
}

/// # Errors
/// We are not root; says what it is needed for.
pub(crate) fn needs_root() -> Result<()> {
    if !workspace::is_root() {
        bail!("the lab makes network namespaces and nftables rules: run it as root");
    }
    Ok(())
}
pub(crate) fn check(_: &str) -> Result<()> {
    bail!("not yet")
}
pub(crate) fn check_all(_: &str) -> Result<()> {
    bail!("not yet")
}
pub(crate) fn check_kill(_: &str) -> Result<()> {
    bail!("not yet")
}
