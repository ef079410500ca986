//! Ends: an entry's last counters, whether it was known or not, once or again, or never.

use super::FlowTable;
use super::slab::{Slot, State};
use crate::entry::EntryKey;
use crate::reading::Reading;
use crate::record::RecordFlags;
use crate::units::BootNanos;

impl FlowTable {
    /// An entry was destroyed; its end was read at `at`.
    pub fn ended(&mut self, reading: &Reading, at: BootNanos) {
        self.generation += 1;
        let key = reading.key();
        let birth = reading.birth();
        let hash = self.slots.hash(&key);
        let live = |slot: &Slot| slot.birth == birth && slot.state == State::Live;
        if let Some(place) = self.slots.find(hash, &key, live) {
            self.end_live(place, reading, at);
            return;
        }
        let again = |slot: &Slot| slot.birth == birth && is_same_end(slot, reading);
        if let Some(place) = self.slots.find(hash, &key, again) {
            self.end_again(place, reading, at);
            return;
        }
        self.end_unknown(hash, &key, reading, at);
    }

    /// Closes an entry whose end never came.
    pub(super) fn close_unseen(&mut self, place: u32, now: BootNanos) {
        let slot = self.slots.get_mut(place);
        slot.state = State::Ended;
        slot.flags = slot.flags.with(RecordFlags::UNSEEN);
        slot.read = now;
        self.ended.push(place);
        self.tallies.stats.live -= 1;
        self.tallies.stats.ended_unseen += 1;
        self.tallies.ended_unseen += 1;
    }

    fn end_live(&mut self, place: u32, reading: &Reading, at: BootNanos) {
        let swept = self.sweep.unwrap_or(self.last_sweep);
        let stop = self.wall.stop(reading.stop, at, self.limits.grace);
        let slot = self.slots.get_mut(place);
        if slot.read == swept && !slot.restored {
            // It was among the living of this interval, and is among its dead now.
            let counted = !slot.flags.has(RecordFlags::UNCOUNTED);
            self.tallies.live.take(slot.cum, counted);
        }
        if slot.restored
            && let Some(durable) = self.durable
            && stop.unwrap_or_else(|| at.minus(self.limits.grace)) > durable.end
        {
            // It outlived that sweep, so it was in it, and has told all that it had then.
            slot.since = slot.since.max(durable.begin);
        }
        slot.restored = false;
        self.tallies.stats.live -= 1;
        self.finish(place, reading, stop, at);
    }

    /// The end of an entry that has ended already: it was closed for want of this, or has this.
    fn end_again(&mut self, place: u32, reading: &Reading, at: BootNanos) {
        let stop = self.wall.stop(reading.stop, at, self.limits.grace);
        let slot = self.slots.get_mut(place);
        if !slot.flags.has(RecordFlags::UNSEEN) {
            self.tallies.stats.ends_repeated += 1;
            return;
        }
        slot.flags = slot.flags.without(RecordFlags::UNSEEN);
        self.tallies.stats.ends_late += 1;
        if slot.state == State::Remembered {
            // The closing record is durable: a second one tells what that one could not.
            self.tallies.stats.remembered -= 1;
        } else {
            self.ended.retain(|other| *other != place);
            self.tallies.ended_unseen = self.tallies.ended_unseen.saturating_sub(1);
        }
        self.finish(place, reading, stop, at);
    }

    fn end_unknown(&mut self, hash: u64, key: &EntryKey, reading: &Reading, at: BootNanos) {
        self.tallies.stats.ends_unknown += 1;
        // It may be late: what it was not in is a sweep that was over when it still lived.
        let stop = self.wall.stop(reading.stop, at, self.limits.grace);
        let alive = stop.unwrap_or_else(|| at.minus(self.limits.grace));
        let lower = self.namespaces.get(&key.netns).and_then(|netns| netns.before(alive));
        let since = lower.map(|lower| self.wall.birth(reading.start, lower, at));
        if self.ended.len() >= self.limits.ended {
            let counters = reading.counters.unwrap_or_default();
            self.tallies.stats.ends += 1;
            self.tallies.ended.add(counters, reading.counters.is_some());
            self.tallies.dropped(counters);
            return;
        }
        let mut slot = self.first_sight(reading, since, at);
        slot.grown = slot.since;
        if let Some(place) = self.slots.insert(hash, slot) {
            self.finish(place, reading, stop, at);
        }
    }

    /// Takes the last counters in and lets the entry wait for its last record.
    fn finish(&mut self, place: u32, reading: &Reading, stop: Option<BootNanos>, at: BootNanos) {
        let slot = self.slots.get_mut(place);
        if let Some(counters) = reading.counters {
            slot.flags = slot.flags.without(RecordFlags::UNCOUNTED);
            let absorbed = slot.absorb_last(counters);
            self.tallies.stats.resets += u64::from(absorbed.reset);
        }
        // Not before the last reading: what it grew by since may have come right after that.
        slot.grown = match stop {
            Some(stop) if stop > slot.since => stop.max(slot.grown),
            _ => at,
        };
        slot.stop = reading.stop;
        slot.read = at;
        slot.mark = reading.mark;
        slot.status = reading.status;
        if reading.tcp.0 != 0 {
            slot.tcp = reading.tcp;
        }
        slot.state = State::Ended;
        let counted = !slot.flags.has(RecordFlags::UNCOUNTED);
        let (cum, growth) = (slot.cum, slot.growth());
        self.tallies.stats.ends += 1;
        self.tallies.ended.add(cum, counted);
        if self.ended.len() < self.limits.ended {
            self.ended.push(place);
        } else {
            self.tallies.dropped(growth);
            self.slots.remove(place);
        }
    }
}

/// Whether an end of the same name as an ended entry is that entry's. Without a start stamp
/// another life may have the same name.
fn is_same_end(ended: &Slot, reading: &Reading) -> bool {
    ended.flags.has(RecordFlags::UNSEEN)
        || ended.birth.start().is_some()
        || ended.stop == reading.stop && reading.counters.is_none_or(|last| last == ended.cum)
}
