//! Compares what is stored with what happened.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aggregator::store::model::Contents;
use flow::{Counters, EntryId, NodeName};
use wire::gap::GapReason;

use crate::centre::Delivered;
use crate::host::{DropsTold, Host};
use crate::kernel::Truth;
use crate::outcome::{Outcome, Violation};
use crate::world::World;

/// An entry of a node.
type Named = (NodeName, EntryId);

/// What is stored, and what the committed frames said.
struct Stored {
    /// Sum of the rows.
    sums: HashMap<Named, Counters>,
    /// Highest reading of the committed frames.
    highest: HashMap<Named, Counters>,
    /// Entries whose end, seen, is in a committed frame.
    ended: BTreeSet<Named>,
    /// What the committed gaps tell of dropped ends.
    drops: BTreeSet<(NodeName, DropsTold)>,
}

impl World {
    pub(crate) fn violation(&self, what: String) -> Violation {
        Violation { seed: self.seed, what }
    }

    /// Looks at everything.
    pub(crate) fn judge(&self) -> Result<Outcome, Violation> {
        let contents = self.centre.store.contents();
        let mut stored = self.stored(&contents).map_err(|what| self.violation(what.to_owned()))?;
        let mut outcome = Outcome {
            commits: contents.commits,
            rows: contents.flows.len(),
            happened: self.happened,
            ..Outcome::default()
        };
        for host in &self.hosts {
            outcome.happened = outcome.happened.plus(&host.happened);
            for (entry, truth) in host.kernel.truth() {
                let exact = self
                    .judge_entry(host, entry, truth, &mut stored)
                    .map_err(|what| self.violation(format!("{} {entry:?}: {what}", host.name)))?;
                outcome.entries += 1;
                if exact { outcome.exact += 1 } else { outcome.bounded += 1 }
            }
            self.judge_drops(host, &stored).map_err(|what| self.violation(what))?;
        }
        match stored.sums.keys().next() {
            Some(ghost) => Err(self.violation(format!("stored, but never lived: {ghost:?}"))),
            None => Ok(outcome),
        }
    }

    /// Whether the entry had to be exact, and what is wrong with it.
    fn judge_entry(
        &self,
        host: &Host,
        entry: &EntryId,
        truth: &Truth,
        stored: &mut Stored,
    ) -> Result<bool, String> {
        let named = (host.name.clone(), *entry);
        let got = stored.sums.remove(&named).unwrap_or_default();
        let delivered = stored.highest.get(&named).copied().unwrap_or_default();
        if got != delivered {
            return Err(format!("stored {got:?}, the highest reading delivered is {delivered:?}"));
        }
        if truth.passed.any_below(got) {
            return Err(format!("stored {got:?} of {:?} ({truth:?})", truth.passed));
        }
        let kept = self.hosts.iter().any(|other| other.name == host.name && other.keeps_end(entry));
        let told = kept || stored.ended.contains(&named);
        if truth.ended && !told && !host.is_excused(entry, truth) {
            return Err(format!("its end was seen and is in no frame ({truth:?})"));
        }
        let exact = !truth.zeroed && (told || !truth.ended && !host.gone);
        if exact && got != truth.passed {
            return Err(format!("stored {got:?} must equal {:?} ({truth:?})", truth.passed));
        }
        Ok(exact)
    }

    /// Every drop is told by a gap, and every gap that became durable and was not lost with its
    /// disk is stored.
    fn judge_drops(&self, host: &Host, stored: &Stored) -> Result<(), String> {
        let (told, gaps, unaccounted) = host.drops();
        if told != gaps || unaccounted > 0 {
            return Err(format!(
                "{}: {told} ends dropped and told, gaps say {gaps}; {unaccounted} unaccounted",
                host.name
            ));
        }
        let missing = |told: &&DropsTold| !stored.drops.contains(&(host.name.clone(), **told));
        match host.kept_drops().find(missing) {
            Some(told) => Err(format!("{}: a gap is not stored: {told:?}", host.name)),
            None => Ok(()),
        }
    }

    fn stored(&self, contents: &Contents) -> Result<Stored, &'static str> {
        let mut stored = Stored {
            sums: HashMap::new(),
            highest: HashMap::new(),
            ended: BTreeSet::new(),
            drops: BTreeSet::new(),
        };
        let namespaces: BTreeMap<_, _> =
            contents.netns.iter().map(|row| (row.netns, row.id)).collect();
        let name = |node| contents.nodes.get(&node).map(|row| row.name.clone());
        for row in &contents.flows {
            let observer = contents.observers.get(&row.entry);
            let netns = namespaces.get(&row.netns).copied();
            let (Some(observer), Some(node), Some(netns)) = (observer, name(row.node), netns)
            else {
                return Err("a row without its observer, node or netns");
            };
            let (zone, orig, birth) = (observer.zone, observer.inside, observer.birth);
            let sum = stored.sums.entry((node, EntryId { netns, zone, orig, birth })).or_default();
            *sum = sum.plus(row.raw);
            if row.counted != row.raw {
                return Err("counted differs from raw with one observer");
            }
        }
        for row in &contents.batches {
            let delivered = self.centre.delivered(&row.digest);
            let (Some(node), Some(delivered)) = (name(row.name.node), delivered) else {
                return Err("a batch that nobody delivered");
            };
            for Delivered { entry, cum, ended } in delivered {
                let highest = stored.highest.entry((node.clone(), *entry)).or_default();
                *highest = highest.max(*cum);
                if *ended {
                    stored.ended.insert((node.clone(), *entry));
                }
            }
        }
        for row in contents.gaps.iter().filter(|row| row.reason == GapReason::DroppedEnds) {
            let Some(node) = name(row.name.node) else { return Err("a gap without its node") };
            let (seq, at, flows) = (row.name.seq, row.at, row.flows);
            let lost = row.lost.components();
            stored.drops.insert((node, DropsTold { seq, at, flows, lost }));
        }
        Ok(stored)
    }
}
