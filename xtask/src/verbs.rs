//! The command line: one verb a module.

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{bench, chaos, dashboards, ebpf, kills, lab, nightly, sim, test, tidy, up, vm};

/// Development commands of conntracct.
#[derive(Parser)]
#[command(name = "cargo xtask", max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything that must pass before a change lands; what .ci/run runs
    Test(test::Flags),
    /// Check the house rules that no compiler knows
    Tidy,
    /// Run an aggregator and a node on this machine, or in a whole network with --lab
    Up(up::Flags),
    /// The lab's tests and its clean-up
    #[command(subcommand)]
    Lab(lab::Verb),
    /// Kill nodes, aggregator and PostgreSQL at random; nothing may be lost or doubled
    Kills(kills::Flags),
    /// Kill, cut, lose and fill under real traffic through three gateways; each flow is counted once
    Chaos(chaos::Flags),
    /// Run worlds of the simulation
    Sim(sim::Flags),
    /// Run every query of the Grafana dashboards on a real PostgreSQL
    Dashboards(dashboards::Flags),
    /// Run a benchmark against its baseline
    Bench(bench::Flags),
    /// Rebuild the committed eBPF object (needs the nightly compiler)
    Ebpf,
    /// Run the kernel tests, or a command, inside a real kernel of Debian's
    Vm(vm::Flags),
    /// What is too long for every change: release builds, fuzzing, many worlds, audits
    Nightly(nightly::Flags),
}

impl Flags {
    /// Does what was asked for.
    ///
    /// # Errors
    /// It could not be done, or what was checked is not right.
    pub(crate) fn run(self) -> Result<()> {
        match self.verb {
            Verb::Test(flags) => test::run(&flags),
            Verb::Tidy => tidy::run(),
            Verb::Up(flags) => up::run(&flags),
            Verb::Lab(verb) => lab::run(&verb),
            Verb::Kills(flags) => kills::run(&flags),
            Verb::Chaos(flags) => chaos::run(&flags),
            Verb::Sim(flags) => sim::run(&flags),
            Verb::Dashboards(flags) => dashboards::run(&flags),
            Verb::Bench(flags) => bench::run(&flags),
            Verb::Ebpf => ebpf::run(),
            Verb::Vm(flags) => vm::run(&flags),
            Verb::Nightly(flags) => nightly::run(&flags),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn the_lab_has_a_default_and_a_name() {
        let parses = |words: &[&str]| Flags::try_parse_from(words).is_ok();
        assert!(parses(&["x", "up", "--lab", "--for", "30s"]));
        assert!(parses(&["x", "up", "--lab=kill"]));
        assert!(parses(&["x", "up", "--lab=chain", "--no-capture"]));
        assert!(!parses(&["x", "up", "--lab=nothing"]));
        assert!(!parses(&["x", "up", "--no-capture"]));
    }
}
