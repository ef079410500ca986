//! The command's flags.

use conntracct_sim::Setting;
use conntracct_sim::merging::{Fault, Faults, Recipe, Scenario};

/// Which worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Whole clusters.
    Whole(Setting),
    /// Several hosts that see one flow.
    Merging,
    /// The same, also through the aggregator's counting and commits.
    Stored,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    pub(crate) worlds: u64,
    pub(crate) seed: u64,
    pub(crate) which: Which,
    /// All of them in turn, where none is said.
    pub(crate) scenario: Option<Scenario>,
    flows: Option<u32>,
    nodes: Option<u32>,
    seconds: Option<u32>,
    without: Faults,
    /// Failing worlds are told record by record.
    pub(crate) explain: bool,
}

impl Flags {
    /// Reads them, or says how they are used.
    pub(crate) fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags = Self {
            worlds: 100,
            seed: 1,
            which: Which::Whole(Setting::Usual),
            scenario: None,
            flows: None,
            nodes: None,
            seconds: None,
            without: Faults::default(),
            explain: false,
        };
        while let Some(flag) = arguments.next() {
            if flag == "--explain" {
                flags.explain = true;
                continue;
            }
            let value = arguments.next().unwrap_or_default();
            flags.take(&flag, &value).ok_or_else(|| {
                let scenarios = Scenario::ALL.map(|(_, name)| name).join("|");
                let faults = Fault::ALL.map(|(_, name)| name).join(",");
                format!(
                    "usage: sim [--worlds N] [--seed S] [--setting \
                     usual|changing|sqlite|merging|merging-stored]\nof merging worlds: [--scenario {scenarios}] \
                     [--flows MASK] [--nodes MASK] [--seconds N] [--without {faults}] [--explain]"
                )
            })?;
        }
        Ok(flags)
    }

    fn take(&mut self, flag: &str, value: &str) -> Option<()> {
        match flag {
            "--worlds" => self.worlds = value.parse().ok()?,
            "--seed" => self.seed = value.parse().ok()?,
            "--setting" if value == "merging" => self.which = Which::Merging,
            "--setting" if value == "merging-stored" => self.which = Which::Stored,
            "--setting" => {
                let named = Setting::ALL.into_iter().find(|(_, name)| *name == value)?;
                self.which = Which::Whole(named.0);
            }
            "--scenario" => {
                let named = Scenario::ALL.into_iter().find(|(_, name)| *name == value)?;
                self.scenario = Some(named.0);
            }
            "--flows" => self.flows = Some(mask(value)?),
            "--nodes" => self.nodes = Some(mask(value)?),
            "--seconds" => self.seconds = Some(value.parse().ok()?),
            "--without" => {
                for name in value.split(',') {
                    let named = Fault::ALL.into_iter().find(|(_, known)| *known == name)?;
                    self.without = self.without.with(named.0);
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The world number `number`: all scenarios in turn, or one of them alone.
    pub(crate) fn recipe(&self, number: u64) -> Recipe {
        let all = Scenario::ALL.len() as u64;
        let (scenario, seed) = match self.scenario {
            Some(scenario) => (scenario, number),
            None => {
                let place = usize::try_from(number % all).unwrap_or_default();
                (
                    Scenario::ALL.get(place).map_or(Scenario::Single, |(named, _)| *named),
                    number / all,
                )
            }
        };
        let whole = Recipe::new(scenario, self.seed.wrapping_add(seed));
        Recipe {
            flows: self.flows.unwrap_or(whole.flows),
            nodes: self.nodes.unwrap_or(whole.nodes),
            seconds: self.seconds.unwrap_or(whole.seconds),
            without: self.without,
            ..whole
        }
    }
}

fn mask(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
