//! A node's flow table: its conntrack entries, what each had reached in the last durable record,
//! and what has grown since. It turns readings into records.
//!
//! Pure: no I/O, no clock, no randomness. The node drives it like this:
//!
//! ```text
//! set_clock, born/ended (any time)             events, as they are read
//! set_clock, sweep_begin, swept.., sweep_end   once an interval
//! emit(mode, sink) -> frames made durable -> commit(emission) -> totals, close_interval
//! ```
//!
//! Rules it keeps:
//! - An entry is what [`EntryId`] says; a known key with another birth is another entry.
//! - Baselines move in [`FlowTable::commit`] only, which is called when the records are durable;
//!   an emission that is dropped comes again, grown.
//! - Counters zeroed under a living entry become an offset: readings stay monotone.
//! - An entry that a complete sweep did not find has probably ended, but its end may still be on
//!   its way (the kernel holds ends that could not be delivered). It is kept with its baseline
//!   for [`TableLimits::grace_sweeps`] further sweeps and [`TableLimits::grace`]; then the table
//!   closes it with a record marked [`RecordFlags::UNSEEN`].
//! - `since` and `until` of a record are true bounds. One assumption stands behind them: an end
//!   whose stop stamp is unknown comes within [`TableLimits::grace`] of the entry's death.
//!
//! NEW events only count: they carry neither counters nor a birth, so a lost one never matters
//! and nothing is kept for them.

mod baseline;
mod bounds;
mod emit;
mod ends;
mod order;
mod restore;
mod slab;
mod stats;
mod sweep;

use std::collections::BTreeMap;
use std::time::Duration;

pub use baseline::{Baseline, BaselineSet, DurableSweep};
pub use emit::{Emission, EmitMode, StaleEmission};
pub use stats::{DroppedEnds, TableStats};
pub use sweep::SweepEnd;

use crate::counters::Counters;
use crate::entry::{EntryId, EntryKey, Status, TcpState};
use crate::id::{BootId, FlowNo, NetnsInode};
use crate::reading::Reading;
use crate::record::{ClockPair, KernelTotals, RecordFlags};
use crate::tuple::Tuple;
use crate::units::BootNanos;
use bounds::{Namespace, Wall};
use order::Order;
use slab::{Slab, Slot, State};
use stats::Tallies;

/// How much a table holds and how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// Entries tracked while they live. Further ones are accounted by their end alone
    /// ([`TableStats::untracked_live`]).
    pub live: usize,
    /// Ended entries whose last record is not durable. The ends of further ones are dropped and
    /// summed up in [`FlowTable::dropped_ends`]. As many are remembered after that.
    pub ended: usize,
    /// Complete sweeps after the first that missed an entry before it is closed.
    pub grace_sweeps: u8,
    /// How long after it was last seen alive a missing entry is closed at the earliest, and how
    /// late an end may come.
    pub grace: Duration,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self { live: 1 << 20, ended: 100_000, grace_sweeps: 2, grace: Duration::from_secs(30) }
    }
}

/// A node's flow table. See the module.
pub struct FlowTable {
    limits: TableLimits,
    boot: BootId,
    slots: Slab,
    namespaces: BTreeMap<NetnsInode, Namespace>,
    wall: Wall,
    /// Ended slots whose record is not durable, in the order of their ends.
    ended: Vec<u32>,
    /// Entries of earlier boots, to be closed.
    bygone: Vec<Baseline>,
    next_flow: FlowNo,
    /// Baselines were given up: what was there before the first whole sweep is marked.
    rebasing: bool,
    /// The sweep that the restored baselines are complete for.
    durable: Option<DurableSweep>,
    sweep: Option<BootNanos>,
    order: Order,
    /// Begin of the sweep before.
    last_sweep: BootNanos,
    watermark: BootNanos,
    /// Moves with every change, so that an emission can tell that it is out of date.
    generation: u64,
    tallies: Tallies,
}

/// A live entry, for displays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveFlow {
    /// Its number.
    pub flow: FlowNo,
    /// Its identity.
    pub entry: EntryId,
    /// Tuple as answers arrive.
    pub reply: Tuple,
    /// Absolute counters.
    pub cum: Counters,
    /// Connection mark.
    pub mark: u32,
    /// Status bits.
    pub status: Status,
    /// TCP state.
    pub tcp: TcpState,
    /// Whether the kernel counts it.
    pub counted: bool,
    /// When the last reading that had grown was taken.
    pub grown: BootNanos,
}

impl FlowTable {
    /// An empty table of a new epoch: there are no baselines, so entries that exist already are
    /// reported whole, from an unknown `since`, marked [`RecordFlags::REBASE`].
    ///
    /// `seed` is a random number: outsiders choose the tuples that are hashed with it.
    #[must_use]
    pub fn new(limits: TableLimits, boot: BootId, seed: u64) -> Self {
        Self {
            limits,
            boot,
            slots: Slab::new(seed),
            namespaces: BTreeMap::new(),
            wall: Wall::default(),
            ended: Vec::new(),
            bygone: Vec::new(),
            next_flow: FlowNo(1),
            rebasing: true,
            durable: None,
            sweep: None,
            order: Order::default(),
            last_sweep: BootNanos::BOOT,
            watermark: BootNanos::BOOT,
            generation: 0,
            tallies: Tallies::default(),
        }
    }

    /// Takes both clocks, read together after the readings that are handed over next were taken.
    /// Kernel stamps are converted by it; a step since the last call makes the table do without
    /// for a while.
    pub fn set_clock(&mut self, clock: ClockPair) {
        self.wall.set(clock);
    }

    /// A NEW event was read. See the module: it is counted.
    pub fn born(&mut self, _reading: &Reading) {
        self.tallies.stats.births += 1;
    }

    /// Everything that happened before this moment has been put into records by the time all that
    /// waits is committed in [`EmitMode::All`]: begin of the last sweep that read every
    /// namespace to its end and left no entry untracked. A batch's
    /// [`sweep_begin`](crate::Interval::sweep_begin).
    #[must_use]
    pub fn watermark(&self) -> BootNanos {
        self.watermark
    }

    /// The number that the next new entry gets. For the spool's checkpoints.
    #[must_use]
    pub fn next_flow(&self) -> FlowNo {
        self.next_flow
    }

    /// Ended entries whose last record waits to become durable, those of earlier boots included.
    /// Never more than [`TableLimits::ended`] plus what was restored.
    #[must_use]
    pub fn ends_waiting(&self) -> usize {
        self.ended.len() + self.bygone.len()
    }

    /// Gauges and counters for metrics.
    #[must_use]
    pub fn stats(&self) -> TableStats {
        TableStats { ended_waiting: self.ends_waiting() as u64, ..self.tallies.stats }
    }

    /// The kernel's totals of the interval so far.
    #[must_use]
    pub fn totals(&self) -> KernelTotals {
        self.tallies.totals()
    }

    /// The batch that carries [`FlowTable::totals`] is durable: the next interval begins.
    pub fn close_interval(&mut self) {
        self.tallies.close_interval();
    }

    /// Ends dropped because [`TableLimits::ended`] waited already, not yet told by a gap.
    #[must_use]
    pub fn dropped_ends(&self) -> DroppedEnds {
        self.tallies.untold
    }

    /// A durable gap has told `told` of them.
    pub fn dropped_ends_told(&mut self, told: DroppedEnds) {
        let untold = &mut self.tallies.untold;
        untold.flows = untold.flows.saturating_sub(told.flows);
        untold.counters = untold.counters.above(told.counters);
    }

    /// The live entry of that identity.
    #[must_use]
    pub fn get(&self, entry: &EntryId) -> Option<LiveFlow> {
        let key = EntryKey { orig: entry.orig, netns: entry.netns.inode, zone: entry.zone };
        let hash = self.slots.hash(&key);
        let live = |slot: &Slot| slot.birth == entry.birth && slot.state == State::Live;
        let at = self.slots.find(hash, &key, live)?;
        (entry.netns.boot == self.boot).then(|| self.show(self.slots.get(at)))
    }

    /// All live entries, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = LiveFlow> {
        self.slots.iter().filter(|slot| slot.state == State::Live).map(|slot| self.show(slot))
    }

    fn show(&self, slot: &Slot) -> LiveFlow {
        LiveFlow {
            flow: slot.flow,
            entry: slot.entry(self.boot),
            reply: slot.reply,
            cum: slot.cum,
            mark: slot.mark,
            status: slot.status,
            tcp: slot.tcp,
            counted: !slot.flags.has(RecordFlags::UNCOUNTED),
            grown: slot.grown,
        }
    }

    /// A slot for an entry first seen in `reading`, not in the table yet.
    fn first_sight(&mut self, reading: &Reading, since: Option<BootNanos>, at: BootNanos) -> Slot {
        let flow = self.next_flow;
        self.next_flow = FlowNo(flow.0.saturating_add(1));
        let rebase = since.is_none() && self.rebasing;
        Slot {
            key: reading.key(),
            reply: reading.reply,
            birth: reading.birth(),
            cum: reading.counters.unwrap_or_default(),
            spooled: Counters::ZERO,
            since: since.unwrap_or(BootNanos::BOOT),
            read: at,
            grown: at,
            stop: 0,
            flow,
            offset: None,
            mark: reading.mark,
            status: reading.status,
            flags: RecordFlags::default()
                .with_if(RecordFlags::FRESH, reading.fresh)
                .with_if(RecordFlags::UNCOUNTED, reading.counters.is_none())
                .with_if(RecordFlags::REBASE, rebase),
            tcp: reading.tcp,
            turn: 0,
            missed: 0,
            state: State::Live,
            has_baseline: false,
            restored: false,
        }
    }
}
