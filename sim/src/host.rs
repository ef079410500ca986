//! A gateway of the simulation: a kernel model, a disk, and at times a node process on them.
//!
//! The process is made of the node's own cores: aggregation with its flow table, spool, uplink.
//! What a life of it read but had not made durable when it died is noted, because nobody can
//! know it any more.

use std::collections::BTreeMap;

use flow::record::ClockPair;
use flow::{BootNanos, EntryId, Epoch, NetnsId, NodeName, RecordFlags, Seq, UnixNanos};
use node::aggregation::feed::IntervalEnd;
use node::aggregation::{Aggregation, AggregationConfig, CloseError, Closing, Room};
use node::source::{Event, SourceHealth, SweepChunk, SweepReport, Timed};
use node::spool::{
    FreshNames, MachineId, MemDisk, OpenContext, Restored, Spool, SpoolConfig, SpoolError,
};
use node::uplink::{Means, Order, Uplink, UplinkConfig};
use rand::Rng;
use rand::rngs::SmallRng;
use wire::control::Hello;
use wire::frame::{Frame, Kind};

use crate::kernel::{Kernel, NETNS};

/// The node process's state: all of it is gone when it dies.
pub(crate) struct Life {
    pub(crate) aggregation: Aggregation,
    pub(crate) spool: Spool<MemDisk>,
    pub(crate) uplink: Uplink,
    /// The connection it has or is trying to get.
    pub(crate) connection: Option<u64>,
    intervals: u64,
    /// Ends that were read and are not in a durable frame.
    undurable: Vec<EntryId>,
}

/// A gateway.
pub(crate) struct Host {
    pub(crate) name: NodeName,
    pub(crate) kernel: Kernel,
    pub(crate) disk: MemDisk,
    pub(crate) machine: MachineId,
    pub(crate) life: Option<Life>,
    spool_config: SpoolConfig,
    /// Entries whose end is in a frame that is durable here and not known to be committed.
    ends: BTreeMap<(Epoch, Seq), Vec<EntryId>>,
}

/// The process cannot go on: its disk stopped answering in the middle of something.
#[derive(Debug)]
pub(crate) struct Died;

impl Host {
    pub(crate) fn new(
        name: NodeName,
        kernel: Kernel,
        spool_config: SpoolConfig,
        rng: &mut SmallRng,
    ) -> Self {
        let (disk, machine) = (MemDisk::new(), MachineId(rng.random()));
        Self { name, kernel, disk, machine, life: None, spool_config, ends: BTreeMap::new() }
    }

    /// Starts the node, if its disk lets it.
    pub(crate) fn start(&mut self, now: UnixNanos, rng: &mut SmallRng) -> Result<(), Died> {
        let boot = self.kernel.boot();
        let context = OpenContext {
            machine: self.machine,
            boot,
            now: self.kernel.boottime(now),
            wall: self.kernel.wall(now),
            fresh: Epoch(rng.random()),
            seed: rng.random(),
        };
        let opened = Spool::open(self.disk.clone(), context, self.spool_config);
        let (spool, Restored { baselines, report }) = opened.map_err(|_stopped| Died)?;
        let goes_on = report.new_epoch.is_none();
        let restored = goes_on.then(|| (spool.epoch(), baselines, context.now));
        let config = AggregationConfig::default();
        let aggregation = Aggregation::new(config, boot, restored, rng.random());
        let uplink = Uplink::new(UplinkConfig::default(), boot);
        self.kernel.listen();
        let undurable = Vec::new();
        let life = Life { aggregation, spool, uplink, connection: None, intervals: 0, undurable };
        self.life = Some(life);
        Ok(())
    }

    /// The node dies, now: what it had not made durable is gone.
    pub(crate) fn kill(&mut self, rng: &mut SmallRng) {
        self.kernel.deaf();
        if let Some(life) = self.life.take() {
            for entry in life.undurable {
                self.kernel.forget_end(&entry);
            }
        }
        self.disk.crash(rng.random());
    }

    /// What is on the disk and not committed is lost: a wiped or rolled-back state folder.
    pub(crate) fn lose_uncommitted(&mut self) {
        for entry in std::mem::take(&mut self.ends).into_values().flatten() {
            self.kernel.forget_end(&entry);
        }
    }

    /// A frame of this node was committed.
    pub(crate) fn committed(&mut self, epoch: Epoch, through: Seq) {
        self.ends.retain(|(of, seq), _| *of != epoch || *seq > through);
    }

    /// The node reads its events.
    pub(crate) fn drain(&mut self, now: UnixNanos, most: usize) -> Result<(), Died> {
        let events = self.kernel.read_events(now, most);
        let (boot, clock) = (self.kernel.boot(), self.clock(now));
        let Some(life) = &mut self.life else { return Ok(()) };
        for Timed { event, .. } in &events {
            if let Event::End(reading) = event {
                let netns = NetnsId { inode: reading.netns, boot };
                let (zone, orig) = (reading.zone, reading.orig);
                life.undurable.push(EntryId { netns, zone, orig, birth: reading.birth() });
            }
        }
        life.aggregation.events(clock, &events);
        if life.aggregation.ends_are_due() {
            return self.close(Aggregation::close_ends);
        }
        Ok(())
    }

    /// A sweep begins: the rest of it are calls of [`Host::sweep_some`].
    pub(crate) fn sweep_begin(&mut self, now: UnixNanos) {
        let begin = self.kernel.boottime(now);
        if let Some(life) = &mut self.life {
            life.aggregation.sweep_begin(begin);
        }
    }

    /// Reads a part of the table.
    pub(crate) fn sweep_some(&mut self, readings: Vec<flow::Reading>, now: UnixNanos) {
        let (at, clock) = (self.kernel.boottime(now), self.clock(now));
        if let Some(life) = &mut self.life {
            life.aggregation.chunk(clock, &SweepChunk { at, readings });
        }
    }

    /// The sweep that began at `begin` is over, and the interval with it. A sweep that is not
    /// `complete` could not read the table to its end.
    pub(crate) fn sweep_end(
        &mut self,
        begin: UnixNanos,
        now: UnixNanos,
        complete: bool,
        rng: &mut SmallRng,
    ) -> Result<(), Died> {
        self.drain(now, usize::MAX)?;
        let clock = self.clock(now);
        let (begin, end) = (self.kernel.boottime(begin), self.kernel.boottime(now));
        let Some(life) = &mut self.life else { return Ok(()) };
        life.intervals += 1;
        let (namespaces, failed) = match complete {
            true => (vec![NETNS], Vec::new()),
            false => (Vec::new(), vec![(NETNS, "interrupted".to_owned())]),
        };
        let report = SweepReport { begin, end, complete: namespaces, failed, gone: Vec::new() };
        let health = SourceHealth { reliable_ends: true, ..SourceHealth::default() };
        let number = u64::try_from(now.get()).unwrap_or(0) / 10_000_000_000;
        life.aggregation.sweep_end(Some(&report), &IntervalEnd { number, clock, health });
        self.close(Aggregation::close_interval)?;
        let due = |life: &Life| life.spool.checkpoint_due(end);
        let due = self.life.as_ref().is_some_and(due);
        if due || rng.random_bool(0.1) { self.checkpoint(now) } else { Ok(()) }
    }

    fn clock(&self, now: UnixNanos) -> ClockPair {
        let (boot, wall) = (self.kernel.boottime(now), self.kernel.wall(now));
        ClockPair { boot, wall, synchronised: true, stepped: false }
    }

    fn close(&mut self, close: Close) -> Result<(), Died> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let room = Room {
            epoch: life.spool.epoch(),
            next: life.spool.next_seq(),
            level: life.spool.level(),
            offset: life.uplink.offset(),
        };
        let Ok(Some(closing)) = close(&mut life.aggregation, &room) else { return Ok(()) };
        match life.spool.append(closing.epoch, &closing.frames) {
            Ok(()) => {}
            Err(SpoolError::Full { .. } | SpoolError::NoSpace { .. }) => return Ok(()),
            Err(_stopped) => return Err(Died),
        }
        for frame in &closing.frames {
            let (seq, ended) = ends_in(frame);
            life.undurable.retain(|entry| !ended.contains(entry));
            self.ends.insert((closing.epoch, seq), ended);
        }
        life.aggregation.durable(closing);
        Ok(())
    }

    fn checkpoint(&mut self, now: UnixNanos) -> Result<(), Died> {
        let now: BootNanos = self.kernel.boottime(now);
        let Some(life) = &mut self.life else { return Ok(()) };
        let baselines: Vec<_> = life.aggregation.table().baselines().collect();
        let next = life.aggregation.table().next_flow();
        let Some(epoch) = life.aggregation.epoch() else { return Ok(()) };
        match life.spool.checkpoint(epoch, &baselines, next, now) {
            Ok(())
            | Err(
                SpoolError::Full { .. }
                | SpoolError::NoSpace { .. }
                | SpoolError::OtherEpoch { .. },
            ) => Ok(()),
            Err(_stopped) => Err(Died),
        }
    }

    /// What the node says first on a connection.
    pub(crate) fn hello(&self) -> Option<Hello> {
        let life = self.life.as_ref()?;
        let sending = life.spool.view().sending;
        Some(Hello {
            node: self.name.to_string(),
            epoch: sending.epoch,
            boot: self.kernel.boot(),
            source: "sim".to_owned(),
            kernel: "sim".to_owned(),
            version: "sim".to_owned(),
            first_unacknowledged: sending.acked.next(),
            next: sending.next,
            store: life.spool.store(),
            extensions: Vec::new(),
        })
    }

    /// Carries out what the uplink wants done to the spool.
    pub(crate) fn obey(
        &mut self,
        orders: Vec<Order>,
        now: UnixNanos,
        rng: &mut SmallRng,
    ) -> Result<(), Died> {
        let (boot, wall) = (self.kernel.boottime(now), self.kernel.wall(now));
        let Some(life) = &mut self.life else { return Ok(()) };
        for order in orders {
            let fresh = FreshNames { current: Epoch(rng.random()), drain: Epoch(rng.random()) };
            let means = Means { fresh, now: boot, wall };
            match node::uplink::obey(&mut life.spool, order, &means) {
                Ok(_) | Err(SpoolError::Full { .. } | SpoolError::NoSpace { .. }) => {}
                Err(_stopped) => return Err(Died),
            }
        }
        Ok(())
    }
}

/// How an aggregation closes.
type Close = fn(&mut Aggregation, &Room) -> Result<Option<Closing>, CloseError>;

/// A frame's number, and the entries whose end it carries.
fn ends_in(frame: &Frame) -> (Seq, Vec<EntryId>) {
    if frame.header.kind != Kind::BATCH {
        return wire::gap::Gap::decode(frame)
            .map_or((Seq::NONE, Vec::new()), |g| (g.last, Vec::new()));
    }
    let Ok((header, records)) = wire::batch::decode(frame) else { return (Seq::NONE, Vec::new()) };
    let end = |flags: RecordFlags| flags.has(RecordFlags::END) && !flags.has(RecordFlags::UNSEEN);
    let ended = records.iter().filter(|record| end(record.flags)).map(flow::Record::entry);
    (header.seq, ended.collect())
}
