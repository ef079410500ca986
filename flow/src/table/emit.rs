//! Emission: what has grown becomes records; when they are durable, baselines move.

use thiserror::Error;

use super::FlowTable;
use super::slab::{Slot, State};
use crate::record::{Record, RecordFlags};

/// What an emission gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitMode {
    /// Everything that has grown and everything that has ended.
    All,
    /// Ended entries only: between sweeps, or while the spool pauses updates. What grew keeps
    /// its baseline and its `since`.
    EndsOnly,
    /// Nothing: the spool is full.
    Nothing,
}

/// Records that were given out and are not durable yet. [`FlowTable::commit`] it when they are;
/// dropped, everything comes again.
#[derive(Debug)]
#[must_use = "baselines move when the emission is committed"]
pub struct Emission {
    mode: EmitMode,
    generation: u64,
    /// Records given out.
    pub records: usize,
    /// How many of them are ends.
    pub ends: usize,
}

/// An emission that the table has moved on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the flow table took readings between emission and commit; the records come again")]
pub struct StaleEmission;

impl FlowTable {
    /// Gives every record that `mode` asks for to `sink`: live entries with growth since their
    /// baseline, then ends in the order they were read. Nothing moves before
    /// [`FlowTable::commit`].
    pub fn emit(&self, mode: EmitMode, sink: &mut impl FnMut(&Record)) -> Emission {
        let mut emission = Emission { mode, generation: self.generation, records: 0, ends: 0 };
        if mode == EmitMode::All {
            for slot in self.slots.iter().filter(|slot| is_live_and_due(slot)) {
                sink(&slot.record(self.boot));
                emission.records += 1;
            }
        }
        if mode != EmitMode::Nothing {
            for baseline in &self.bygone {
                sink(&baseline.unseen_end());
            }
            for place in &self.ended {
                sink(&self.slots.get(*place).record(self.boot));
            }
            emission.ends = self.ends_waiting();
            emission.records += emission.ends;
        }
        emission
    }

    /// The records of `emission` are durable: baselines move to them.
    ///
    /// # Errors
    /// When the table was changed since the emission. Nothing moves then; what was given out
    /// comes again, which costs space and counts nothing twice.
    pub fn commit(&mut self, emission: Emission) -> Result<(), StaleEmission> {
        if emission.generation != self.generation {
            return Err(StaleEmission);
        }
        self.generation += 1;
        if emission.mode == EmitMode::All {
            for slot in self.slots.iter_mut().filter(|slot| is_live_and_due(slot)) {
                slot.spooled = slot.cum;
                // What comes next is above the last reading, so it came after that sweep began.
                if !slot.restored && !slot.flags.has(RecordFlags::UNCOUNTED) {
                    slot.since = slot.read;
                }
                slot.has_baseline = true;
                slot.flags = slot.flags.without(RecordFlags::RESET.with(RecordFlags::REBASE));
            }
        }
        if emission.mode != EmitMode::Nothing {
            self.bygone = Vec::new();
            for place in std::mem::take(&mut self.ended) {
                if self.tallies.stats.remembered >= self.limits.ended as u64 {
                    self.slots.remove(place);
                    continue;
                }
                self.tallies.stats.remembered += 1;
                let slot = self.slots.get_mut(place);
                slot.state = State::Remembered;
                slot.spooled = slot.cum;
                slot.has_baseline = false;
                slot.flags = slot.flags.without(RecordFlags::RESET.with(RecordFlags::REBASE));
            }
        }
        Ok(())
    }
}

fn is_live_and_due(slot: &Slot) -> bool {
    slot.state == State::Live && slot.is_due()
}
