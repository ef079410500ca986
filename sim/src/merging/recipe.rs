//! What a merging world is made from: a scenario, a seed, and what is left out of it. The same
//! recipe always gives the same world, and leaving something out leaves the rest as it is: every
//! part draws from a stream of its own.

use std::fmt;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How hosts see flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// One observer.
    Single,
    /// A chain of observers, each of which sees every packet; half of them with translation.
    Chain,
    /// A pair of gateways: the route moves to the second one when the first dies for good.
    TakeoverDies,
    /// The same, and the first lives on.
    TakeoverAlive,
    /// The route moves to the second gateway, and back.
    ThereAndBack,
    /// One host sees everything, others join later, and leave.
    LateJoin,
    /// One host sees the questions, one the answers, a third perhaps both, perhaps late.
    OneWay,
    /// Router, translating gateway, router; perhaps twice.
    Translated,
    /// The same, and what the gateway says comes hours late.
    LateGateway,
    /// Equal private addresses behind different public ones, or in different domains.
    Overlap,
    /// Tuples used again, seen by all.
    Reuse,
    /// Tuples used again, each generation seen by one host alone.
    ReuseApart,
    /// A chain, and one host's spool comes hours after everything else.
    Replay,
    /// A chain that loses packets between its hosts.
    Loss,
    /// A chain with everything that can go wrong.
    Full,
    /// Hosts that see a flow by the hour, asymmetric and changing routes, with everything that can
    /// go wrong.
    Partial,
}

impl Scenario {
    /// All of them, with the names that the command knows.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::Single, "single"),
        (Self::Chain, "chain"),
        (Self::TakeoverDies, "takeover-dies"),
        (Self::TakeoverAlive, "takeover-alive"),
        (Self::ThereAndBack, "there-and-back"),
        (Self::LateJoin, "late-join"),
        (Self::OneWay, "one-way"),
        (Self::Translated, "translated"),
        (Self::LateGateway, "late-gateway"),
        (Self::Overlap, "overlap"),
        (Self::Reuse, "reuse"),
        (Self::ReuseApart, "reuse-apart"),
        (Self::Replay, "replay"),
        (Self::Loss, "loss"),
        (Self::Full, "full"),
        (Self::Partial, "partial"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// Whether the one best observer of each direction sees all that any observer sees, so that
    /// the total has to be exact.
    #[must_use]
    pub const fn has_a_best_observer(self) -> bool {
        !matches!(
            self,
            Self::TakeoverDies
                | Self::TakeoverAlive
                | Self::ThereAndBack
                | Self::ReuseApart
                | Self::Partial
        )
    }

    /// Whether everything arrives as it should: the scenario is about something else.
    const fn is_prompt(self) -> bool {
        matches!(self, Self::Translated)
    }

    /// Whether all that can go wrong does so more often.
    const fn is_rough(self) -> bool {
        matches!(self, Self::Full | Self::Partial)
    }
}

/// Something that can be left out of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Node processes are away for 5 s to minutes, and come back with their baselines.
    Outages,
    /// A node comes back without its baselines.
    Rebase,
    /// A spool is nearly full for a while.
    Pause,
    /// A node cannot reach the aggregator for 30 s to 10,000 s.
    Cuts,
    /// What a spool still held is lost with it.
    LostSpools,
    /// What a spool held is told again later, under the name of another epoch.
    Copies,
    /// Frames arrive twice.
    Duplicates,
    /// Clocks are not measured: the hosts' wall clocks, up to 1.9 s off, are all there is.
    Unmeasured,
    /// Wall clocks are stepped by an hour.
    Steps,
    /// Hosts reboot.
    Reboots,
    /// The kernel keeps no start stamps.
    Unstamped,
    /// Sweeps are not on time, and take up to two seconds.
    Jitter,
    /// Sweeps are not read to their end.
    TornSweeps,
    /// A host joins packets before it counts them.
    Joining,
    /// Linked frames are counted at once.
    NoHold,
    /// Changes are not committed at first, or are and nobody knows, or the aggregator dies.
    Commits,
}

impl Fault {
    /// All of them, with the names that the command knows.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::Outages, "outages"),
        (Self::Rebase, "rebase"),
        (Self::Pause, "pause"),
        (Self::Cuts, "cuts"),
        (Self::LostSpools, "lost-spools"),
        (Self::Copies, "copies"),
        (Self::Duplicates, "duplicates"),
        (Self::Unmeasured, "unmeasured"),
        (Self::Steps, "steps"),
        (Self::Reboots, "reboots"),
        (Self::Unstamped, "unstamped"),
        (Self::Jitter, "jitter"),
        (Self::TornSweeps, "torn-sweeps"),
        (Self::Joining, "joining"),
        (Self::NoHold, "no-hold"),
        (Self::Commits, "commits"),
    ];

    /// How often a world has it.
    const fn chance(self, scenario: Scenario) -> f64 {
        if scenario.is_prompt() {
            return match self {
                Self::Jitter | Self::Joining | Self::Commits => 0.5,
                _ => 0.0,
            };
        }
        let rough = scenario.is_rough();
        match self {
            Self::Jitter | Self::Joining | Self::Duplicates | Self::Commits => 0.5,
            Self::Reboots | Self::Unstamped => {
                if rough {
                    0.2
                } else {
                    0.1
                }
            }
            _ => {
                if rough {
                    0.5
                } else {
                    0.25
                }
            }
        }
    }
}

/// A set of [`Fault`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults(u32);

impl Faults {
    /// Whether it is in the set.
    #[must_use]
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & 1 << fault as u32 != 0
    }

    /// The set with it.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u32)
    }
}

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// How hosts see flows.
    pub scenario: Scenario,
    /// Decides everything that is not said here.
    pub seed: u64,
    /// Which of the world's flows carry packets: bit by bit.
    pub flows: u32,
    /// Which of its nodes report what they see: bit by bit.
    pub nodes: u32,
    /// Packets are sent for so long.
    pub seconds: u32,
    /// What does not go wrong.
    pub without: Faults,
}

impl Recipe {
    /// A whole world.
    #[must_use]
    pub fn new(scenario: Scenario, seed: u64) -> Self {
        let without = Faults::default();
        let whole = Self { scenario, seed, flows: !0, nodes: !0, seconds: 0, without };
        Self { seconds: whole.stream(Part::Length, 0).random_range(60..300), ..whole }
    }

    /// The stream of random numbers that a part of the world draws from.
    pub(crate) fn stream(&self, part: Part, number: usize) -> SmallRng {
        let place = (self.scenario as u64) << 20 ^ (part as u64) << 14 ^ number as u64;
        // The generator's own seeding spreads these over all its bits.
        SmallRng::seed_from_u64(self.seed << 26 ^ place)
    }

    /// What goes wrong in it.
    #[must_use]
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (number, (fault, _)) in Fault::ALL.into_iter().enumerate() {
            let drawn = self.stream(Part::Fault, number).random_bool(fault.chance(self.scenario));
            if drawn && !self.without.has(fault) {
                faults = faults.with(fault);
            }
        }
        faults
    }

    pub(crate) const fn has_flow(&self, flow: usize) -> bool {
        self.flows >> (flow % 32) & 1 != 0
    }

    pub(crate) const fn has_node(&self, node: usize) -> bool {
        self.nodes >> (node % 32) & 1 != 0
    }
}

impl fmt::Display for Recipe {
    /// The flags that repeat it, with the setting before them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = Self::new(self.scenario, self.seed);
        let Self { scenario, seed, .. } = self;
        write!(f, "--worlds 1 --seed {seed} --scenario {}", scenario.name())?;
        if self.flows != whole.flows {
            write!(f, " --flows {:#x}", self.flows)?;
        }
        if self.nodes != whole.nodes {
            write!(f, " --nodes {:#x}", self.nodes)?;
        }
        if self.seconds != whole.seconds {
            write!(f, " --seconds {}", self.seconds)?;
        }
        let left_out = Fault::ALL.iter().filter(|(fault, _)| self.without.has(*fault));
        let left_out: Vec<&str> = left_out.map(|(_, name)| *name).collect();
        if !left_out.is_empty() {
            write!(f, " --without {}", left_out.join(","))?;
        }
        Ok(())
    }
}

/// A part of a world that draws its own random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Length,
    Fault,
    Site,
    Packets,
    Loss,
    Node,
    Sweeps,
    Post,
    Copy,
    Centre,
    Order,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_are_each_their_own() {
        for (place, (fault, _)) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, place);
        }
        for (scenario, name) in Scenario::ALL {
            assert_eq!(scenario.name(), name);
        }
        let recipe = Recipe::new(Scenario::Full, 7);
        assert_eq!(recipe.to_string(), "--worlds 1 --seed 7 --scenario full");
        let less = Recipe { flows: 2, without: Faults::default().with(Fault::Cuts), ..recipe };
        assert!(less.to_string().ends_with("--flows 0x2 --without cuts"));
    }

    #[test]
    fn leaving_one_fault_out_leaves_the_others() {
        for seed in 0..50 {
            let whole = Recipe::new(Scenario::Partial, seed);
            let without = Faults::default().with(Fault::Rebase);
            let less = Recipe { without, ..whole }.faults();
            for (fault, _) in Fault::ALL.into_iter().filter(|(fault, _)| *fault != Fault::Rebase) {
                assert_eq!(whole.faults().has(fault), less.has(fault));
            }
            assert!(!less.has(Fault::Rebase));
        }
    }
}
