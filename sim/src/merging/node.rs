//! A node of a merging world: the real flow table, restored from the real baselines, and frames
//! that are durable at once. Spool and uplink are the first part's; here frames only have to come
//! at all, some time, in the order of their epoch.

use std::time::Duration;

use flow::record::{ClockPair, MeasuredOffset};
use flow::table::{BaselineSet, EmitMode, FlowTable, SweepEnd, TableLimits};
use flow::{BootId, BootNanos, ClockOffset, Interval, NetnsInode, Reading, Record, UnixNanos};

/// A frame.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) node: usize,
    pub(crate) epoch: u32,
    pub(crate) seq: u64,
    /// When it became durable.
    pub(crate) at: UnixNanos,
    pub(crate) interval: Interval,
    pub(crate) records: Vec<Record>,
}

/// A host's boot, and what its clocks are off by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot {
    pub(crate) from: UnixNanos,
    pub(crate) id: BootId,
    booted: UnixNanos,
    /// Error of the offset measured in it, in nanoseconds.
    measured_error: i64,
}

impl Boot {
    pub(crate) fn new(node: usize, number: u8, from: UnixNanos, up: Duration, error: i64) -> Self {
        let mut id = [0; 16];
        id[0] = u8::try_from(node).unwrap_or(u8::MAX);
        id[1] = number + 1;
        Self { from, id: BootId(id), booted: from.minus(up), measured_error: error }
    }

    pub(crate) fn time(&self, now: UnixNanos) -> BootNanos {
        BootNanos(u64::try_from(now.diff(self.booted)).unwrap_or(0))
    }

    /// The true moment of a boottime.
    pub(crate) fn moment(&self, at: BootNanos) -> UnixNanos {
        self.booted.plus(Duration::from_nanos(at.0))
    }

    pub(crate) fn offset(&self) -> ClockOffset {
        ClockOffset(self.booted.0 + self.measured_error)
    }
}

/// How an interval is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    Sweep,
    EndsBetween,
}

/// See the module's text.
pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) boots: Vec<Boot>,
    /// What the wall clock is ahead, in nanoseconds.
    pub(crate) wall_error: i64,
    pub(crate) synchronised: bool,
    stepped: bool,
    pub(crate) stamps: bool,
    /// Offsets to the aggregator are measured.
    pub(crate) measures: bool,
    pub(crate) length: Duration,
    pub(crate) paused: bool,
    pub(crate) epoch: u32,
    seq: u64,
    intervals: u64,
    baselines: BaselineSet,
    table: Option<FlowTable>,
    sweep: Option<BootNanos>,
    /// The host is gone for good.
    pub(crate) gone: bool,
}

impl Node {
    pub(crate) fn new(number: usize, boot: Boot, length: Duration) -> Self {
        Self {
            number,
            boots: Vec::from([boot]),
            wall_error: 0,
            synchronised: true,
            stepped: false,
            stamps: true,
            measures: true,
            length,
            paused: false,
            epoch: 0,
            seq: 0,
            intervals: 1,
            baselines: BaselineSet::new(1),
            table: None,
            sweep: None,
            gone: false,
        }
    }

    pub(crate) fn boot(&self) -> &Boot {
        &self.boots[self.boots.len() - 1]
    }

    /// The wall clock as the kernel stamps with it; 0 where it does not.
    pub(crate) fn stamp(&self, now: UnixNanos) -> u64 {
        let wall = u64::try_from(now.0 + self.wall_error).unwrap_or(0);
        if self.stamps { wall } else { 0 }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.table.is_some()
    }

    /// The process starts; with a new epoch where baselines are lost.
    pub(crate) fn start(&mut self, now: UnixNanos, new_epoch: Option<u32>) {
        if self.gone || self.is_up() {
            return;
        }
        let (boot, seed) = (self.boot().id, u64::from(self.epoch));
        let limits = TableLimits::default();
        let table = match new_epoch {
            Some(epoch) => {
                (self.epoch, self.seq) = (epoch, 0);
                self.baselines = BaselineSet::new(1);
                FlowTable::new(limits, boot, seed)
            }
            None => {
                let at = self.boot().time(now);
                FlowTable::restore(limits, boot, seed, self.kept(), at)
            }
        };
        self.table = Some(table);
        self.set_clock(now);
    }

    /// What the frames of this epoch leave.
    fn kept(&self) -> BaselineSet {
        let mut set = BaselineSet::new(1);
        self.baselines.iter().for_each(|baseline| set.insert(*baseline));
        set.set_next_flow(self.baselines.next_flow());
        if let Some(durable) = self.baselines.durable() {
            set.set_durable(durable);
        }
        set
    }

    /// The process dies.
    pub(crate) fn stop(&mut self) {
        self.table = None;
        self.sweep = None;
    }

    pub(crate) fn step(&mut self, by: i64) {
        self.wall_error += by;
        self.stepped = true;
    }

    fn clock(&self, now: UnixNanos) -> ClockPair {
        ClockPair {
            boot: self.boot().time(now),
            wall: UnixNanos(now.0 + self.wall_error),
            synchronised: self.synchronised,
            stepped: self.stepped,
        }
    }

    fn set_clock(&mut self, now: UnixNanos) {
        let clock = self.clock(now);
        if let Some(table) = &mut self.table {
            table.set_clock(clock);
        }
    }

    /// An end is read.
    pub(crate) fn ended(&mut self, reading: &Reading, now: UnixNanos) {
        self.set_clock(now);
        let at = self.boot().time(now);
        if let Some(table) = &mut self.table {
            table.ended(reading, at);
        }
    }

    pub(crate) fn sweep_begin(&mut self, now: UnixNanos) {
        let at = self.boot().time(now);
        if let Some(table) = &mut self.table {
            table.sweep_begin(at);
            self.sweep = Some(at);
        }
    }

    pub(crate) fn swept(&mut self, readings: &[Reading], now: UnixNanos) {
        let at = self.boot().time(now);
        let Some(table) = self.table.as_mut().filter(|_| self.sweep.is_some()) else { return };
        readings.iter().for_each(|reading| table.swept(reading, at));
    }

    /// The sweep is over. The interval is closed with it.
    pub(crate) fn sweep_end(
        &mut self,
        namespaces: &[NetnsInode],
        torn: bool,
        now: UnixNanos,
    ) -> Option<Sent> {
        self.sweep.take()?;
        self.set_clock(now);
        let end = self.boot().time(now);
        let (complete, failed) = if torn { (&[][..], namespaces) } else { (namespaces, &[][..]) };
        self.table.as_mut()?.sweep_end(&SweepEnd { end, complete, failed, gone: &[] });
        self.close(Close::Sweep, now)
    }

    /// What waits becomes a durable frame.
    pub(crate) fn close(&mut self, close: Close, now: UnixNanos) -> Option<Sent> {
        self.set_clock(now);
        let (clock, boot) = (self.clock(now), *self.boot());
        let table = self.table.as_mut()?;
        let sweep = close == Close::Sweep;
        if !sweep && table.ends_waiting() == 0 {
            return None;
        }
        let mode = if sweep && !self.paused { EmitMode::All } else { EmitMode::EndsOnly };
        let mut records = Vec::new();
        let emission = table.emit(mode, &mut |record| records.push(*record));
        let offset = MeasuredOffset { offset: boot.offset(), boot: boot.id, at: clock.boot };
        let interval = Interval {
            number: self.intervals,
            length_ms: u32::try_from(self.length.as_millis()).unwrap_or(0),
            part: 1,
            parts: u32::from(sweep),
            sweep_begin: table.watermark(),
            sweep_end: clock.boot,
            boot: boot.id,
            clock,
            offset: self.measures.then_some(offset),
            totals: table.totals(),
            paused: sweep && self.paused,
        };
        for record in &records {
            self.baselines.fold(record, &interval);
        }
        self.baselines.fold_interval(&interval);
        table.commit(emission).ok()?;
        if sweep {
            table.close_interval();
            self.stepped = false;
            self.intervals += 1;
        }
        self.seq += 1;
        let (node, epoch, seq) = (self.number, self.epoch, self.seq);
        Some(Sent { node, epoch, seq, at: now, interval, records })
    }
}
