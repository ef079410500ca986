//! Sweeps: every live entry's reading, and which entries were not among them.

use super::bounds::CleanSweep;
use super::slab::{Slot, State};
use super::stats::Class;
use super::{FlowTable, TableLimits};
use crate::id::NetnsInode;
use crate::reading::Reading;
use crate::record::RecordFlags;
use crate::units::BootNanos;

/// How a sweep ended. A namespace in none of the lists is not watched any more; its entries are
/// treated like those of one that has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepEnd<'a> {
    /// After the last entry was read.
    pub end: BootNanos,
    /// Namespaces that were read from end to end.
    pub complete: &'a [NetnsInode],
    /// Namespaces that could not be read to the end.
    pub failed: &'a [NetnsInode],
    /// Namespaces that have gone, with all their entries.
    pub gone: &'a [NetnsInode],
}

impl FlowTable {
    /// A sweep starts: nothing has been read yet at `begin`. One that was not ended counts as
    /// given up.
    pub fn sweep_begin(&mut self, begin: BootNanos) {
        if self.sweep.replace(begin).is_some() {
            self.tallies.stats.sweeps_incomplete += 1;
        }
        self.generation += 1;
        self.order.begin();
        self.tallies.live = Class::default();
        self.tallies.untracked = 0;
    }

    /// Live entries that had all been read by `at`, in the order in which they were read.
    ///
    /// The same as [`FlowTable::swept`] for each, and faster: entries lie in memory in another
    /// order than that of the kernel's table, so the next few likely ones are fetched together.
    pub fn swept_all(&mut self, readings: &[Reading], at: BootNanos) {
        for group in readings.chunks(FETCHED_TOGETHER) {
            self.slots.fetch(self.order.guesses(group.len()));
            for reading in group {
                self.swept(reading, at);
            }
        }
    }

    /// A live entry that had been read by `at`.
    pub fn swept(&mut self, reading: &Reading, at: BootNanos) {
        let Some(begin) = self.sweep else {
            self.tallies.stats.stray_readings += 1;
            return;
        };
        self.generation += 1;
        let (key, birth) = (reading.key(), reading.birth());
        let live =
            |slot: &Slot| slot.birth == birth && slot.state == State::Live && slot.key == key;
        if let Some(place) = self.order.guess()
            && self.slots.try_get(place).is_some_and(live)
        {
            self.read_again(place, reading, begin, at);
            return;
        }
        let hash = self.slots.hash(&key);
        if let Some(place) = self.slots.find(hash, &key, live) {
            self.read_again(place, reading, begin, at);
            return;
        }
        let same = |slot: &Slot| slot.birth == birth;
        if let Some(place) = self.slots.find(hash, &key, same) {
            let slot = self.slots.get(place);
            if slot.flags.has(RecordFlags::UNSEEN) && slot.read <= begin {
                self.revive(place);
                self.read_again(place, reading, begin, at);
                return;
            }
            // A start stamp is never given again; a kernel id may be, after the end was read.
            if birth.start().is_some() || slot.read > begin {
                self.tallies.stats.stale_readings += 1;
                return;
            }
        }
        if self.tallies.stats.live >= self.limits.live as u64 {
            self.tallies.untracked += 1;
            self.tallies.live.add(reading.counters.unwrap_or_default(), reading.counters.is_some());
            return;
        }
        if self.slots.find(hash, &key, |slot| slot.state == State::Live).is_some() {
            self.tallies.stats.changed_births += 1;
        }
        let lower = self.namespaces.get(&key.netns).and_then(|netns| netns.last());
        let since = lower.map(|lower| self.wall.birth(reading.start, lower, at));
        let mut slot = self.first_sight(reading, since, at);
        slot.read = begin;
        if slot.cum.is_zero() && reading.counters.is_some() {
            slot.since = begin;
        }
        self.tallies.live.add(slot.cum, reading.counters.is_some());
        if let Some(place) = self.slots.insert(hash, slot) {
            self.tallies.stats.live += 1;
            self.slots.get_mut(place).turn = self.order.read(place, u32::MAX);
        }
    }

    /// The sweep is over: entries of completely read namespaces that were not in it are missing,
    /// and those missing for too long are closed.
    pub fn sweep_end(&mut self, report: &SweepEnd<'_>) {
        let Some(begin) = self.sweep.take() else { return };
        self.last_sweep = begin;
        self.generation += 1;
        self.tallies.stats.untracked_live = self.tallies.untracked;
        let unwatched = self.miss(begin, report);
        let whole = report.failed.is_empty() && !unwatched;
        self.tallies.stats.sweeps_complete += u64::from(whole);
        self.tallies.stats.sweeps_incomplete += u64::from(!whole);
        self.namespaces
            .retain(|netns, _| report.complete.contains(netns) || report.failed.contains(netns));
        if self.tallies.untracked > 0 {
            return;
        }
        // Bounds are asked for up to the grace back; twice that leaves one before.
        let keep = self.limits.grace.saturating_mul(2);
        for netns in report.complete {
            let sweep = CleanSweep { begin, end: report.end };
            self.namespaces.entry(*netns).or_default().push(sweep, keep);
        }
        if whole {
            self.watermark = begin;
            self.rebasing = false;
        }
    }

    /// The sweep failed as a whole: what it read was read, nothing is known of the rest.
    pub fn sweep_failed(&mut self) {
        if let Some(begin) = self.sweep.take() {
            self.last_sweep = begin;
            self.generation += 1;
            self.tallies.stats.sweeps_incomplete += 1;
        }
    }

    fn read_again(&mut self, place: u32, reading: &Reading, begin: BootNanos, at: BootNanos) {
        let slot = self.slots.get_mut(place);
        let (before, repeated) = (slot.cum, slot.read == begin && !slot.restored);
        if !repeated {
            slot.turn = self.order.read(place, slot.turn);
        }
        if slot.restored {
            slot.restored = false;
            // It is alive now, so it was in that sweep, and has told all that it had then.
            if let Some(durable) = self.durable {
                slot.since = slot.since.max(durable.begin);
            }
        }
        if slot.missed > 0 {
            slot.missed = 0;
            self.tallies.stats.reappeared += 1;
        }
        let counted = !slot.flags.has(RecordFlags::UNCOUNTED) || reading.counters.is_some();
        if let Some(counters) = reading.counters {
            slot.flags = slot.flags.without(RecordFlags::UNCOUNTED);
            let absorbed = slot.absorb(counters);
            self.tallies.stats.resets += u64::from(absorbed.reset);
            if absorbed.grew {
                slot.grown = at;
            }
            if slot.cum == slot.spooled {
                slot.since = begin;
            }
        }
        slot.read = begin;
        // The reply tuple is settled before an entry is confirmed.
        slot.mark = reading.mark;
        slot.status = reading.status;
        slot.tcp = reading.tcp;
        let cum = slot.cum;
        if repeated {
            self.tallies.live.take(before, counted);
        }
        self.tallies.live.add(cum, counted);
    }

    /// An entry closed for want of an end is alive after all.
    fn revive(&mut self, place: u32) {
        let slot = self.slots.get_mut(place);
        if slot.state == State::Remembered {
            // The baseline went with the end record; what was counted has not.
            slot.has_baseline = false;
            self.tallies.stats.remembered -= 1;
        } else {
            self.ended.retain(|other| *other != place);
            self.tallies.ended_unseen = self.tallies.ended_unseen.saturating_sub(1);
        }
        slot.state = State::Live;
        slot.flags = slot.flags.without(RecordFlags::UNSEEN);
        slot.missed = 0;
        slot.read = BootNanos::BOOT;
        self.tallies.stats.live += 1;
        self.tallies.stats.reappeared += 1;
    }

    /// Counts the sweep against every entry that it should have found; closes those that missed
    /// too many. Says whether live entries are left in a namespace that nobody watches.
    fn miss(&mut self, begin: BootNanos, report: &SweepEnd<'_>) -> bool {
        let mut unwatched = false;
        for place in 0..self.slots.places() {
            let slot = self.slots.get_mut(place);
            match slot.state {
                State::Remembered if slot.read <= begin => {
                    self.tallies.stats.remembered -= 1;
                    self.slots.remove(place);
                }
                State::Live if slot.read != begin || slot.restored => {
                    let netns = slot.key.netns;
                    if report.failed.contains(&netns) {
                        continue;
                    }
                    slot.missed = slot.missed.saturating_add(1);
                    let closed = is_overdue(slot, report.end, &self.limits)
                        && self.ended.len() < self.limits.ended;
                    if closed {
                        self.close_unseen(place, report.end);
                    } else if !report.complete.contains(&netns) && !report.gone.contains(&netns) {
                        unwatched = true;
                    }
                }
                _ => {}
            }
        }
        unwatched
    }
}

/// Entries fetched together: enough to keep the memory busy, few enough for the first-level cache.
const FETCHED_TOGETHER: usize = 16;

/// Whether an entry has been missing for longer than its end may take.
fn is_overdue(slot: &Slot, now: BootNanos, limits: &TableLimits) -> bool {
    slot.missed > limits.grace_sweeps && now.since(slot.read) >= limits.grace
}
