//! `cargo xtask lab ...`: a real network in namespaces, real traffic, and counts of it that do
//! not depend on each other.
//!
//! `lab kernel` needs no product: it proves that the two witnesses (conntrack's own events and
//! nftables' counters) agree. [`counts`] adds the product, [`mod@kill`] destroys parts of it,
//! [`mod@burst`] holds parts of it still.

mod burst;
pub(crate) mod capture;
mod conntrackd;
pub(crate) mod course;
mod hold;
mod kernel;
mod kill;
pub(crate) mod netns;
pub(crate) mod network;
pub(crate) mod once;
pub(crate) mod relay;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod summary;
pub(crate) mod tally;
pub(crate) mod topology;
pub(crate) mod traffic;
pub(crate) mod truth;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::interrupt::Interrupt;
use crate::{packages, workspace};
use topology::Topology;

pub(crate) use kill::kill;
pub(crate) use run::{Plan, counts};

/// The networks there are; one of them is run twice, in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// A NAT gateway, then a router
    Router,
    /// Two NAT gateways, one behind the other
    Nat2,
    /// Router, NAT and NAT in a row
    Chain,
    /// Two gateways, one takes over from the other and gives back: without and with conntrackd
    Ha,
    /// Requests by one gateway, replies by another
    Asym,
    /// Equal addresses at several sites, behind NAT and in domains
    Overlap,
    /// A second gateway joins the path in mid-flow
    Reroute,
    /// One host that watches its containers' namespaces and its own
    Netns,
}

impl Variant {
    /// Those in which several observers see a flow in ways of their own.
    pub(crate) const MERGING: [Self; 6] =
        [Self::Chain, Self::Ha, Self::Asym, Self::Overlap, Self::Reroute, Self::Netns];
    /// Those of them that every change must pass.
    pub(crate) const CHEAP: [Self; 2] = [Self::Chain, Self::Overlap];

    /// What to run.
    pub(crate) const fn topologies(self) -> &'static [&'static Topology] {
        match self {
            Self::Router => &[&topology::ROUTER],
            Self::Nat2 => &[&topology::NAT2],
            Self::Chain => &[&topology::CHAIN],
            Self::Ha => &[&topology::HA, &topology::HA_SYNCED],
            Self::Asym => &[&topology::ASYM],
            Self::Overlap => &[&topology::OVERLAP],
            Self::Reroute => &[&topology::REROUTE],
            Self::Netns => &[&topology::NETNS],
        }
    }
}

/// What to do with the lab.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Traffic without the product: conntrack's events against nftables' counters
    Kernel {
        /// gw2 translates too
        #[arg(long)]
        nat2: bool,
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
        Verb::Kernel { nat2, rounds } => {
            let topology = if *nat2 { &topology::NAT2 } else { &topology::ROUTER };
            kernel::run(topology, *rounds, &Interrupt::listen()?)
        }
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
    kernel::run(&topology::ROUTER, 3, &interrupt)?;
    counts(&plan(&topology::ROUTER, 15, true, profile), &interrupt)?;
    counts(&plan(&topology::ROUTER, 8, false, profile), &interrupt)
}

/// The two variants without merging to speak of, for longer.
pub(crate) fn check_all(profile: &str) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    for topology in [&topology::ROUTER, &topology::NAT2] {
        kernel::run(topology, 20, &interrupt)?;
        counts(&plan(topology, 60, true, profile), &interrupt)?;
        counts(&plan(topology, 60, false, profile), &interrupt)?;
    }
    Ok(())
}

/// One flow, one count: labs in which several observers see a flow, each for `seconds`.
pub(crate) fn check_once(variants: &[Variant], seconds: u64, profile: &str) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    for topology in variants.iter().flat_map(|variant| variant.topologies()) {
        let counted = counts(&plan(topology, seconds, false, profile), &interrupt);
        counted.with_context(|| format!("lab {}", topology.name))?;
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

fn plan(topology: &'static Topology, seconds: u64, capture: bool, profile: &str) -> Plan {
    Plan {
        topology,
        time: Some(Duration::from_secs(seconds)),
        interval: "2s".into(),
        store: None,
        capture,
        keep: false,
        profile: profile.to_owned(),
    }
}
