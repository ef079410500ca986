//! Beginnings: a table from durable baselines, the baselines of a table, and giving them up.

use super::baseline::{Baseline, BaselineSet, kept};
use super::bounds::{CleanSweep, Wall};
use super::slab::{Slot, State};
use super::{FlowTable, TableLimits};
use crate::counters::Counters;
use crate::entry::EntryKey;
use crate::id::{BootId, FlowNo};
use crate::record::RecordFlags;
use crate::units::BootNanos;

impl FlowTable {
    /// A table that goes on where durable records ended, at `now`.
    ///
    /// Entries of this boot wait to be found by the first sweeps or their end, and are closed
    /// like any other missing entry if they are not. Entries of an earlier boot are closed with
    /// the next emission.
    ///
    /// Entries beyond [`TableLimits::live`] (the limit was lowered) are forgotten: they are
    /// first seen again, from an unknown `since`.
    #[must_use]
    pub fn restore(
        limits: TableLimits,
        boot: BootId,
        seed: u64,
        set: BaselineSet,
        now: BootNanos,
    ) -> Self {
        let mut table = Self::new(limits, boot, seed);
        table.rebasing = false;
        table.wall = Wall::of_a_later_life();
        table.next_flow = set.next_flow();
        table.durable = set.durable().filter(|durable| durable.boot == boot);
        let mut forgot = false;
        for baseline in set.into_entries() {
            if baseline.entry.netns.boot != boot {
                table.bygone.push(baseline);
            } else if table.tallies.stats.live < table.limits.live as u64 {
                table.await_entry(&baseline, now);
            } else {
                forgot = true;
            }
        }
        table.tallies.ended_unseen = table.bygone.len() as u64;
        table.tallies.stats.ended_unseen = table.bygone.len() as u64;
        table.watermark = table.durable.map_or(BootNanos::BOOT, |durable| durable.begin);
        if forgot {
            table.namespaces.clear();
            table.watermark = BootNanos::BOOT;
        }
        table
    }

    /// What must survive a restart: the baseline of every entry whose end is not durable. For
    /// checkpoints, together with [`FlowTable::next_flow`]; true at any moment but between
    /// records that have become durable and their commit.
    pub fn baselines(&self) -> impl Iterator<Item = Baseline> {
        let slots = self.slots.iter().filter(|slot| slot.has_baseline);
        slots.map(|slot| self.baseline(slot)).chain(self.bygone.iter().copied())
    }

    /// A new epoch begins in a running node: every entry is reported whole again, from an
    /// unknown `since`, marked [`RecordFlags::REBASE`], and numbered anew. Entries of earlier
    /// boots are forgotten: the new epoch never named them.
    pub fn forget_baselines(&mut self) {
        self.generation += 1;
        self.bygone = Vec::new();
        // What they are reported from now on began long before that sweep.
        self.durable = None;
        let mut next = 1;
        for slot in self.slots.iter_mut().filter(|slot| slot.state != State::Remembered) {
            slot.spooled = Counters::ZERO;
            slot.since = BootNanos::BOOT;
            slot.has_baseline = false;
            slot.flags = slot.flags.with(RecordFlags::REBASE);
            slot.flow = FlowNo(next);
            next += 1;
        }
        self.next_flow = FlowNo(next);
    }

    fn baseline(&self, slot: &Slot) -> Baseline {
        Baseline {
            entry: slot.entry(self.boot),
            flow: slot.flow,
            reply: slot.reply,
            cum: slot.spooled,
            offset: slot.offset(),
            since: slot.since,
            mark: slot.mark,
            status: slot.status,
            tcp: slot.tcp,
            flags: kept(slot.flags),
        }
    }

    fn await_entry(&mut self, baseline: &Baseline, now: BootNanos) {
        let Baseline { entry, offset, .. } = *baseline;
        let key = EntryKey { orig: entry.orig, netns: entry.netns.inode, zone: entry.zone };
        let slot = Slot {
            key,
            reply: baseline.reply,
            birth: entry.birth,
            cum: baseline.cum,
            spooled: baseline.cum,
            since: baseline.since,
            read: now,
            // When it really was is not kept; it was before the restart.
            grown: now,
            stop: 0,
            flow: baseline.flow,
            offset: (!offset.is_zero()).then(|| Box::new(offset)),
            mark: baseline.mark,
            status: baseline.status,
            flags: kept(baseline.flags),
            tcp: baseline.tcp,
            turn: 0,
            missed: 0,
            state: State::Live,
            has_baseline: true,
            restored: true,
        };
        let hash = self.slots.hash(&key);
        if self.slots.insert(hash, slot).is_none() {
            return;
        }
        self.tallies.stats.live += 1;
        // That the namespace has a baseline says that it was watched then: an entry of it
        // without one has no packet from before.
        if let Some(durable) = self.durable {
            let netns = self.namespaces.entry(key.netns).or_default();
            if netns.last().is_none() {
                let sweep = CleanSweep { begin: durable.begin, end: durable.end };
                netns.push(sweep, self.limits.grace);
            }
        }
    }
}
