//! The aggregation: readings in, frames out. A plain struct; [`actor`] drives it.
//!
//! It owns the flow table and decides what an interval's frames are: which records, under which
//! numbers, with which header. It does not write them: the caller makes a [`Closing`] durable and
//! then says [`Aggregation::durable`]; a closing that is dropped comes again, grown.

pub mod actor;
pub mod feed;
pub mod listing;
pub mod metrics;

use std::time::Duration;

use flow::record::{ClockPair, KernelTotals, MeasuredOffset};
use flow::table::{BaselineSet, DroppedEnds, Emission, EmitMode, FlowTable, SweepEnd, TableLimits};
use flow::{BootId, BootNanos, Epoch, Interval, NetnsInode, Record, Seq, UnixNanos};
use wire::batch::{BatchError, Builder, Compression, MAX_RECORDS};
use wire::frame::Frame;
use wire::gap::{Gap, GapReason};

use crate::source::{Event, SourceHealth, SweepChunk, SweepReport, Timed};
use crate::spool::Level;
use feed::IntervalEnd;

/// How an aggregation works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AggregationConfig {
    /// The flow table's limits.
    pub limits: TableLimits,
    /// The interval.
    pub interval: Duration,
    /// An end waits at most this long for its frame: what a killed node can lose of it.
    pub ends_within: Duration,
    /// How frames are compressed.
    pub compression: Compression,
}

impl Default for AggregationConfig {
    fn default() -> Self {
        Self {
            limits: TableLimits::default(),
            interval: Duration::from_secs(10),
            ends_within: Duration::from_secs(1),
            compression: Compression::Zstd,
        }
    }
}

/// What the spool can take, asked for before every closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The spool's epoch.
    pub epoch: Epoch,
    /// The number of the next frame.
    pub next: Seq,
    /// How full it is.
    pub level: Level,
    /// The last measured clock offset to the aggregator.
    pub offset: Option<MeasuredOffset>,
}

/// Frames to be made durable, all of them or none.
#[derive(Debug)]
#[must_use = "baselines move when the closing has been made durable"]
pub struct Closing {
    /// The epoch the frames are numbered in.
    pub epoch: Epoch,
    /// The frames, in order from [`Room::next`].
    pub frames: Vec<Frame>,
    /// Records that no kernel can have made and no frame can carry; they are left out.
    pub unencodable: u64,
    emission: Emission,
    told: DroppedEnds,
    parts: u32,
    /// The watermark these frames establish, where they close an interval.
    reported: Option<BootNanos>,
    closes_interval: bool,
}

impl Closing {
    /// Records in the frames.
    #[must_use]
    pub const fn records(&self) -> usize {
        self.emission.records
    }
}

/// Why an interval could not be put into frames.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// A batch could not be encoded.
    #[error("a batch could not be encoded")]
    Batch(#[from] BatchError),
    /// A gap could not be encoded.
    #[error("a gap could not be encoded")]
    Gap(#[from] wire::gap::GapError),
}

/// Readings in, frames out.
pub struct Aggregation {
    table: FlowTable,
    builder: Builder,
    config: AggregationConfig,
    boot: BootId,
    epoch: Option<Epoch>,
    /// Number of the interval that is running.
    number: u64,
    /// Batches of the running interval that are durable already.
    parts: u32,
    /// Everything before this has been reported by durable frames.
    reported: BootNanos,
    /// When ends were last put into frames, or found to be none.
    ends_closed: BootNanos,
    clock: ClockPair,
    stepped: bool,
    health: SourceHealth,
    /// The source's losses that a gap has told.
    health_told: SourceHealth,
}

impl Aggregation {
    /// An aggregation that goes on from what the spool restored at a time, or from nothing: in a
    /// new epoch, or without a spool.
    ///
    /// `seed` is random: it protects the table's hashing from chosen tuples.
    #[must_use]
    pub fn new(
        config: AggregationConfig,
        boot: BootId,
        restored: Option<(Epoch, BaselineSet, BootNanos)>,
        seed: u64,
    ) -> Self {
        let (epoch, table) = match restored {
            Some((epoch, baselines, now)) => {
                (Some(epoch), FlowTable::restore(config.limits, boot, seed, baselines, now))
            }
            None => (None, FlowTable::new(config.limits, boot, seed)),
        };
        Self {
            table,
            builder: Builder::new(config.compression),
            config,
            boot,
            epoch,
            number: 0,
            parts: 0,
            reported: BootNanos::BOOT,
            ends_closed: BootNanos::BOOT,
            clock: ClockPair::default(),
            stepped: false,
            health: SourceHealth::default(),
            health_told: SourceHealth::default(),
        }
    }

    /// The flow table, for displays and checkpoints.
    #[must_use]
    pub const fn table(&self) -> &FlowTable {
        &self.table
    }

    /// Both clocks as last read.
    #[must_use]
    pub const fn clock(&self) -> ClockPair {
        self.clock
    }

    /// Takes events, in the order they were read; `clock` was read after them.
    pub fn events(&mut self, clock: ClockPair, events: &[Timed]) {
        self.set_clock(clock);
        if self.table.ends_waiting() == 0 {
            self.ends_closed = clock.boot;
        }
        for Timed { at, event } in events {
            match event {
                Event::New(reading) => self.table.born(reading),
                Event::End(reading) => self.table.ended(reading, *at),
            }
        }
    }

    /// A sweep begins.
    pub fn sweep_begin(&mut self, begin: BootNanos) {
        self.table.sweep_begin(begin);
    }

    /// Takes live entries; `clock` was read after them.
    pub fn chunk(&mut self, clock: ClockPair, chunk: &SweepChunk) {
        self.set_clock(clock);
        self.table.swept_all(&chunk.readings, chunk.at);
    }

    /// The sweep is over, and the interval with it.
    pub fn sweep_end(&mut self, report: Option<&SweepReport>, end: &IntervalEnd) {
        self.set_clock(end.clock);
        self.number = end.number;
        self.health = end.health;
        match report {
            None => self.table.sweep_failed(),
            Some(report) => {
                let failed: Vec<NetnsInode> = report.failed.iter().map(|(n, _)| *n).collect();
                self.table.sweep_end(&SweepEnd {
                    end: report.end,
                    complete: &report.complete,
                    failed: &failed,
                    gone: &report.gone,
                });
            }
        }
    }

    /// Whether ends should be put into frames now, before the interval is over: they fill one,
    /// or the oldest has waited long enough.
    #[must_use]
    pub fn ends_are_due(&self) -> bool {
        let waited = self.clock.boot.since(self.ends_closed);
        match self.table.ends_waiting() {
            0 => false,
            waiting => waiting >= MAX_RECORDS || waited >= self.config.ends_within,
        }
    }

    /// Puts what ended into frames, between sweeps. `None` where the spool has no room.
    ///
    /// # Errors
    /// When a frame cannot be encoded.
    pub fn close_ends(&mut self, room: &Room) -> Result<Option<Closing>, CloseError> {
        self.follow_epoch(room.epoch);
        if room.level == Level::Full {
            return Ok(None);
        }
        self.close(room, EmitMode::EndsOnly, false).map(Some)
    }

    /// Puts the interval into frames: what has grown and what has ended; only what has ended
    /// where the spool pauses updates. `None` where the spool has no room at all.
    ///
    /// # Errors
    /// When a frame cannot be encoded.
    pub fn close_interval(&mut self, room: &Room) -> Result<Option<Closing>, CloseError> {
        self.follow_epoch(room.epoch);
        let mode = match room.level {
            Level::Normal => EmitMode::All,
            Level::Paused => EmitMode::EndsOnly,
            Level::Full => return Ok(None),
        };
        self.close(room, mode, true).map(Some)
    }

    /// The closing's frames are durable: baselines move to them.
    pub fn durable(&mut self, closing: Closing) {
        if self.table.commit(closing.emission).is_err() {
            // Nothing moved: the same records come again, and count nothing twice.
            return;
        }
        self.table.dropped_ends_told(closing.told);
        self.health_told = self.health;
        self.parts = closing.parts;
        self.ends_closed = self.clock.boot;
        if let Some(reported) = closing.reported {
            self.reported = reported;
        }
        if closing.closes_interval {
            self.table.close_interval();
            self.parts = 0;
            self.stepped = false;
        }
    }

    /// Gives every record that is due to `take` and moves the baselines at once: for sinks on
    /// the gateway itself, which keep nothing.
    pub fn drain_to(&mut self, take: &mut impl FnMut(&Record)) {
        let emission = self.table.emit(EmitMode::All, take);
        if self.table.commit(emission).is_ok() {
            self.table.close_interval();
            self.table.dropped_ends_told(self.table.dropped_ends());
            self.health_told = self.health;
        }
    }

    fn set_clock(&mut self, clock: ClockPair) {
        self.table.set_clock(clock);
        self.stepped |= clock.stepped;
        self.clock = clock;
    }

    /// The epoch that the table's baselines belong to; `None` before the first interval of a node
    /// without a spool.
    #[must_use]
    pub const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// A new epoch has no baselines: everything is reported anew.
    fn follow_epoch(&mut self, epoch: Epoch) {
        if self.epoch.is_some_and(|old| old != epoch) {
            self.table.forget_baselines();
            self.reported = BootNanos::BOOT;
            self.parts = 0;
        }
        self.epoch = Some(epoch);
    }

    fn close(
        &mut self,
        room: &Room,
        mode: EmitMode,
        closes_interval: bool,
    ) -> Result<Closing, CloseError> {
        let reported = match mode {
            EmitMode::All => self.table.watermark(),
            EmitMode::EndsOnly | EmitMode::Nothing => self.reported,
        };
        let mut header = Interval {
            number: if closes_interval { self.number } else { self.number.saturating_add(1) },
            length_ms: u32::try_from(self.config.interval.as_millis()).unwrap_or(u32::MAX),
            part: self.parts,
            parts: 0,
            sweep_begin: if closes_interval { reported } else { self.reported },
            sweep_end: self.clock.boot,
            boot: self.boot,
            clock: ClockPair { stepped: self.stepped, ..self.clock },
            offset: room.offset,
            totals: KernelTotals::default(),
            paused: room.level != Level::Normal,
        };
        let mut seq = room.next;
        let mut frames = Vec::new();
        let told = self.untold();
        if told.flows > 0 {
            frames.push(self.gap(seq, told)?);
            seq = seq.next();
        }
        let builder = &mut self.builder;
        let mut failed = None;
        let mut unencodable = 0u64;
        let mut finish = |builder: &mut Builder, parts: Option<KernelTotals>| {
            header.part += 1;
            if let Some(totals) = parts {
                header.totals = totals;
                header.parts = header.part;
            }
            match builder.finish(seq, &header) {
                Ok(frame) => frames.push(frame),
                Err(error) => failed = failed.take().or(Some(error)),
            }
            seq = seq.next();
            header.part
        };
        let emission = self.table.emit(mode, &mut |record: &Record| {
            unencodable += u64::from(builder.push(record).is_err());
            if builder.is_full() {
                finish(builder, None);
            }
        });
        let parts = match (closes_interval, builder.is_empty()) {
            (true, _) => finish(builder, Some(self.table.totals())),
            (false, false) => finish(builder, None),
            (false, true) => header.part,
        };
        if let Some(error) = failed {
            return Err(error.into());
        }
        let reported = (mode == EmitMode::All).then_some(reported);
        let epoch = room.epoch;
        Ok(Closing { epoch, frames, unencodable, emission, told, parts, reported, closes_interval })
    }

    /// Ends dropped by the source or the table that no durable gap has told of.
    fn untold(&self) -> DroppedEnds {
        let table = self.table.dropped_ends();
        let flows = self.health.dropped_ends.saturating_sub(self.health_told.dropped_ends);
        let counters = self.health.dropped.above(self.health_told.dropped);
        DroppedEnds { flows: table.flows + flows, counters: table.counters.plus(counters) }
    }

    fn gap(&self, seq: Seq, told: DroppedEnds) -> Result<Frame, CloseError> {
        let at: UnixNanos = self.clock.wall;
        let gap = Gap {
            first: seq,
            last: seq,
            reason: GapReason::DroppedEnds,
            boot: self.boot,
            at,
            flows: told.flows,
            lost: told.counters,
            note: "ended flows were dropped because no room was left for them".to_owned(),
            extensions: Vec::new(),
        };
        Ok(gap.encode()?)
    }
}
