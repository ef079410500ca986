//! Compares what is stored with what happened.

use std::collections::{BTreeSet, HashMap};

use flow::{Counters, EntryId};

use crate::book::{Book, Named};
use crate::centre::Delivered;
use crate::host::{DropsTold, Host};
use crate::kernel::Truth;
use crate::outcome::{Kind, Outcome, Violation};
use crate::world::World;

/// What is stored, and what the committed frames said.
struct Stored {
    book: Book,
    /// Highest reading of the committed frames.
    highest: HashMap<Named, Counters>,
    /// Entries whose end, seen, is in a committed frame.
    ended: BTreeSet<Named>,
}

impl World {
    pub(crate) fn violation(&self, what: String) -> Violation {
        Violation { seed: self.seed, setting: self.setting, what }
    }

    /// Looks at everything.
    pub(crate) fn judge(&self) -> Result<Outcome, Violation> {
        let mut stored = self.stored().map_err(|what| self.violation(what.to_owned()))?;
        let mut outcome = Outcome {
            commits: self.centre.commits(),
            rows: stored.book.rows,
            happened: self.happened.plus(&self.centre.happened),
            ..Outcome::default()
        };
        for host in &self.hosts {
            outcome.happened = outcome.happened.plus(&host.happened);
            for (entry, truth) in host.kernel.truth() {
                let exact = self
                    .judge_entry(host, entry, truth, &mut stored)
                    .map_err(|what| self.violation(format!("{} {entry:?}: {what}", host.name)))?;
                outcome.entries += 1;
                outcome.happened.add(Kind::Unstamped, u64::from(entry.birth.start().is_none()));
                if exact { outcome.exact += 1 } else { outcome.bounded += 1 }
            }
            self.judge_drops(host, &stored).map_err(|what| self.violation(what))?;
        }
        match stored.book.sums.keys().next() {
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
        let got = stored.book.sums.remove(&named).unwrap_or_default();
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
        let missing = |told: &&DropsTold| !stored.book.drops.contains(&(host.name.clone(), **told));
        match host.kept_drops().find(missing) {
            Some(told) => Err(format!("{}: a gap is not stored: {told:?}", host.name)),
            None => Ok(()),
        }
    }

    fn stored(&self) -> Result<Stored, &'static str> {
        let book = self.centre.store.book();
        let (mut highest, mut over) = (HashMap::<Named, Counters>::new(), BTreeSet::new());
        for (node, digest) in &book.frames {
            let Some(delivered) = self.centre.delivered(digest) else {
                return Err("a batch that nobody delivered");
            };
            for Delivered { entry, cum, ended } in delivered {
                let highest = highest.entry((node.clone(), *entry)).or_default();
                *highest = highest.max(*cum);
                if *ended {
                    over.insert((node.clone(), *entry));
                }
            }
        }
        match book.broken {
            Some(what) => Err(what),
            None => Ok(Stored { book, highest, ended: over }),
        }
    }
}
