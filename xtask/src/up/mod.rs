//! `cargo xtask up`: the product on this machine, with keys, a store and a node, until Ctrl-C or
//! for a given time; with `--lab` in a real network, and then judged by independent counts.

mod database;
mod folder;
pub(crate) mod here;
mod http;
pub(crate) mod process;
pub(crate) mod stack;
pub(crate) mod stored;

pub(crate) use database::Database;
pub(crate) use folder::Folder;
pub(crate) use http::metric;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::interrupt::Interrupt;
use crate::lab::{self, Variant};
use crate::{packages, workspace};

/// Flags of `cargo xtask up`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// In a small real network of namespaces, with traffic and independent counts
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "router")]
    lab: Option<Lab>,
    /// End by itself after this time, like 30s or 5m; without it Ctrl-C ends it
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Where the aggregator stores: sqlite:PATH, postgres://..., or postgres for a server that is
    /// started and deleted with the rest [default: a file that is deleted at the end]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// Time between two readings of all connections [default: 2s in the lab, else 10s]
    #[arg(long, value_name = "TIME")]
    interval: Option<String>,
    /// Lab: nobody but the node listens to conntrack; nftables alone is the judge
    #[arg(long, requires = "lab")]
    no_capture: bool,
    /// Keep keys, states, store and logs, and say where
    #[arg(long)]
    keep: bool,
    /// Profile to build with
    #[arg(long, default_value = "up", value_name = "PROFILE")]
    profile: String,
    /// Install missing system packages without asking
    #[arg(long)]
    yes: bool,
}

/// What kind of lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Lab {
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
    /// Everything is killed, wiped and cut off once
    Kill,
}

/// Runs it.
///
/// # Errors
/// Not root, it does not build or start, or what is stored differs from what the kernel counted.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "a node reads the kernel's connection table (CAP_NET_ADMIN): run this as root, e.g. \
             sudo -E env PATH=\"$PATH\" cargo xtask up"
        );
    }
    packages::ensure(&[packages::BUILD, packages::LAB], flags.yes)?;
    let interrupt = Interrupt::listen()?;
    let interval = |default: &str| flags.interval.clone().unwrap_or_else(|| default.to_owned());
    let variant = match flags.lab {
        None => {
            let run = here::Plan {
                time: flags.time,
                interval: interval("10s"),
                store: flags.store.clone(),
                keep: flags.keep,
                profile: flags.profile.clone(),
            };
            return here::run(&run, &interrupt);
        }
        Some(Lab::Kill) => return lab::kill(&flags.profile, flags.keep, &interrupt),
        Some(Lab::Router) => Variant::Router,
        Some(Lab::Nat2) => Variant::Nat2,
        Some(Lab::Chain) => Variant::Chain,
        Some(Lab::Ha) => Variant::Ha,
        Some(Lab::Asym) => Variant::Asym,
        Some(Lab::Overlap) => Variant::Overlap,
        Some(Lab::Reroute) => Variant::Reroute,
        Some(Lab::Netns) => Variant::Netns,
    };
    if variant == Variant::Ha {
        packages::ensure(&[packages::SYNC], flags.yes)?;
    }
    for topology in variant.topologies() {
        let plan = lab::Plan {
            topology,
            time: flags.time,
            interval: interval("2s"),
            store: flags.store.clone(),
            capture: !flags.no_capture,
            keep: flags.keep,
            profile: flags.profile.clone(),
        };
        lab::counts(&plan, &interrupt)?;
    }
    Ok(())
}

/// A time with a unit: `90s`, `5m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let error = || format!("expected a time like 30s, 5m or 1h, got {text:?}");
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().ok().ok_or_else(error)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(error()),
    };
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert!(
            ["30", "s", "", "1d", "99999999999999999999s"].iter().all(|t| duration(t).is_err())
        );
    }
}
