//! `cargo xtask lab ...`: a real network in namespaces, real traffic, and counts of it that do
//! not depend on each other.
//!
//! `lab kernel` needs no product: it proves that the two witnesses (conntrack's own events and
//! nftables' counters) agree. [`counts`] adds the product, [`mod@kill`] destroys parts of it,
//! [`mod@burst`] holds parts of it still.

mod burst;
pub(crate) mod capture;
mod hold;
mod kernel;
mod kill;
pub(crate) mod netns;
mod network;
mod relay;
mod rules;
mod run;
mod summary;
pub(crate) mod tally;
mod traffic;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::interrupt::Interrupt;
use crate::{packages, workspace};

pub(crate) use kill::kill;
pub(crate) use network::Variant;
pub(crate) use run::{Plan, counts};

/// What to do with the lab.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Traffic without the product: conntrack's events against nftables' counters
    Kernel {
        /// What gw2 does
        #[arg(long, value_enum, default_value = "router")]
        variant: Variant,
        /// Rounds of traffic, about 620 flows each
        #[arg(long, default_value_t = 5)]
        rounds: u32,
    },
    /// Kill node and aggregator, wipe a state folder, cut a link; nothing may be lost
    Kill {
        /// Keep keys, states, store and logs, and say where
        #[arg(long)]
        keep: bool,
        /// Profile to build with
        #[arg(long, default_value = "up", value_name = "PROFILE")]
        profile: String,
    },
    /// Hold threads of a node still while tens of thousands of flows end; nothing may be lost
    /// uncounted, and no new connection refused
    Burst {
        /// Keep keys, states, store and logs, and say where
        #[arg(long)]
        keep: bool,
        /// Profile to build with
        #[arg(long, default_value = "up", value_name = "PROFILE")]
        profile: String,
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
    if !workspace::is_root() {
        bail!("the lab makes network namespaces and nftables rules: run it as root");
    }
    packages::ensure(&[packages::LAB], false)?;
    match verb {
        Verb::Kernel { variant, rounds } => kernel::run(*variant, *rounds, &Interrupt::listen()?),
        Verb::Kill { keep, profile } => kill(profile, *keep, &Interrupt::listen()?),
        Verb::Burst { keep, profile } => burst::run(profile, *keep, &Interrupt::listen()?),
        Verb::Clean { all } => {
            let gone = netns::clean(*all)?;
            eprintln!("{} namespaces removed", gone.len());
            Ok(())
        }
    }
}

/// The lab as a test: the witnesses agree, and the product agrees with them; once with nobody
/// but the nodes listening.
pub(crate) fn check(profile: &str) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    kernel::run(Variant::Router, 3, &interrupt)?;
    counts(&plan(Variant::Router, 15, true, profile), &interrupt)?;
    counts(&plan(Variant::Router, 8, false, profile), &interrupt)
}

/// Every variant of the lab, for longer.
pub(crate) fn check_all(profile: &str) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    for variant in [Variant::Router, Variant::Nat2] {
        kernel::run(variant, 20, &interrupt)?;
        counts(&plan(variant, 60, true, profile), &interrupt)?;
        counts(&plan(variant, 60, false, profile), &interrupt)?;
    }
    Ok(())
}

/// The kill test as a test.
pub(crate) fn check_kill(profile: &str) -> Result<()> {
    kill(profile, false, &Interrupt::listen()?)
}

/// The burst test as a test.
pub(crate) fn check_burst(profile: &str) -> Result<()> {
    burst::run(profile, false, &Interrupt::listen()?)
}

fn plan(variant: Variant, seconds: u64, capture: bool, profile: &str) -> Plan {
    Plan {
        variant,
        time: Some(Duration::from_secs(seconds)),
        interval: "2s".into(),
        store: None,
        capture,
        keep: false,
        profile: profile.to_owned(),
    }
}
