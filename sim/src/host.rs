//! A gateway of the simulation: a kernel model, a disk, and at times a node process on them.
//!
//! The process is made of the node's own cores: aggregation with its flow table, spool, uplink.
//! Beside it stand the books that a world is judged by: which ends are in frames that became
//! durable and were not lost with a disk, and why others are not.

use std::collections::{BTreeMap, BTreeSet};

use flow::record::ClockPair;
use flow::{BootNanos, Counters, EntryId, Epoch, NetnsId, NodeName, RecordFlags, Seq, UnixNanos};
use node::aggregation::feed::IntervalEnd;
use node::aggregation::{Aggregation, AggregationConfig, CloseError, Closing, Room};
use node::source::{Event, SourceHealth, SweepChunk, SweepReport, Timed};
use node::spool::memdisk::Snapshot;
use node::spool::{
    FreshNames, MachineId, MemDisk, NewEpochReason, OpenContext, Restored, Spool, SpoolConfig,
    SpoolError,
};
use node::uplink::{Means, Order, Uplink, UplinkConfig};
use rand::Rng;
use rand::rngs::SmallRng;
use wire::control::Hello;
use wire::frame::{Digest, Frame, Kind as FrameKind};
use wire::gap::{Gap, GapReason};

use crate::kernel::{Kernel, NETNS, Truth};
use crate::outcome::{Happened, Kind};

/// The node process's state: all of it is gone when it dies.
pub(crate) struct Life {
    pub(crate) aggregation: Aggregation,
    pub(crate) spool: Spool<MemDisk>,
    pub(crate) uplink: Uplink,
    /// The connection it has or is trying to get.
    pub(crate) connection: Option<u64>,
    intervals: u64,
    /// When the sweep began that is under way.
    sweep: Option<UnixNanos>,
    /// Ends that were read and are not in a durable frame.
    undurable: Vec<EntryId>,
}

/// What a gap tells of dropped ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DropsTold {
    pub(crate) seq: Seq,
    pub(crate) at: UnixNanos,
    pub(crate) flows: u64,
    pub(crate) lost: [u64; 4],
}

impl DropsTold {
    /// Times as databases keep them, in microseconds.
    pub(crate) fn of(seq: Seq, at: UnixNanos, flows: u64, lost: &Counters) -> Self {
        let at = UnixNanos(at.micros_floor().saturating_mul(1_000));
        Self { seq, at, flows, lost: lost.components() }
    }
}

/// What matters of a durable frame.
#[derive(Clone, Debug, Default)]
struct Kept {
    /// Entries whose end, seen, it carries.
    ends: Vec<EntryId>,
    drops: Option<DropsTold>,
}

/// Durable frames by digest.
type Frames = BTreeMap<[u8; 32], Kept>;

/// A gateway.
pub(crate) struct Host {
    pub(crate) name: NodeName,
    pub(crate) kernel: Kernel,
    pub(crate) disk: MemDisk,
    pub(crate) machine: MachineId,
    pub(crate) life: Option<Life>,
    /// It died for good, with its disk.
    pub(crate) gone: bool,
    /// Its disk is full until then.
    pub(crate) full_until: Option<UnixNanos>,
    /// It reaches nobody until then.
    pub(crate) cut_off_until: Option<UnixNanos>,
    pub(crate) happened: Happened,
    spool_config: SpoolConfig,
    aggregation_config: AggregationConfig,
    snapshot: Option<(Snapshot, Frames)>,
    /// Frames that became durable on this disk, or were on it when it was copied, committed or
    /// not.
    kept: Frames,
    /// Frames that were committed, and gone with their store; where they are sent again they are
    /// kept again.
    forgone: Frames,
    /// It takes another store, and when somebody will tell it to.
    pub(crate) accepts_new_store: bool,
    pub(crate) told_to_accept: Option<UnixNanos>,
    /// Ends that need not be in any frame.
    excused: BTreeSet<EntryId>,
    /// The ends in `kept`, once the books are closed.
    kept_ends: BTreeSet<EntryId>,
    /// Flows that tables dropped and took for told, and flows that durable gaps told of.
    told: u64,
    told_by_gaps: u64,
    /// Ends that the last life read and that are neither durable nor dropped.
    unaccounted: u64,
}

/// The process cannot go on: its disk stopped answering in the middle of something.
#[derive(Debug)]
pub(crate) struct Died;

impl Host {
    pub(crate) fn new(
        name: NodeName,
        kernel: Kernel,
        spool_config: SpoolConfig,
        aggregation_config: AggregationConfig,
        rng: &mut SmallRng,
    ) -> Self {
        Self {
            name,
            kernel,
            disk: MemDisk::new(),
            machine: MachineId(rng.random()),
            life: None,
            gone: false,
            full_until: None,
            cut_off_until: None,
            happened: Happened::default(),
            spool_config,
            aggregation_config,
            snapshot: None,
            kept: Frames::new(),
            forgone: Frames::new(),
            accepts_new_store: false,
            told_to_accept: None,
            excused: BTreeSet::new(),
            kept_ends: BTreeSet::new(),
            told: 0,
            told_by_gaps: 0,
            unaccounted: 0,
        }
    }

    /// Another host of this name, with a copy of the disk, that boots now.
    pub(crate) fn twin(
        &self,
        number: u8,
        machine: MachineId,
        disk: MemDisk,
        now: UnixNanos,
        rng: &mut SmallRng,
    ) -> Self {
        let kernel = Kernel::new(number, now, 0, rng.random(), rng);
        let (spool, aggregation) = (self.spool_config, self.aggregation_config);
        let twin = Self::new(self.name.clone(), kernel, spool, aggregation, rng);
        let (kept, forgone) = (self.kept.clone(), self.forgone.clone());
        Self { machine, disk, kept, forgone, ..twin }
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
        let (spool, Restored { baselines, report }) = match opened {
            Ok(opened) => opened,
            // It starts when there is room again.
            Err(error) if error.is_full() => {
                self.happened.note(Kind::DiskFull);
                return Ok(());
            }
            Err(_stopped) => return Err(Died),
        };
        let baselines = report.new_epoch.is_none().then_some(baselines);
        let restored = baselines.map(|baselines| (spool.epoch(), baselines, context.now));
        let config = self.aggregation_config;
        let aggregation = Aggregation::new(config, boot, restored, rng.random());
        let accept_new_store = std::mem::take(&mut self.accepts_new_store);
        let uplink =
            Uplink::new(UplinkConfig { accept_new_store, ..UplinkConfig::default() }, boot);
        self.kernel.listen();
        let (connection, intervals, sweep, undurable) = (None, 0, None, Vec::new());
        self.life =
            Some(Life { aggregation, spool, uplink, connection, intervals, sweep, undurable });
        Ok(())
    }

    /// The node dies, now: what it had not made durable is gone.
    pub(crate) fn kill(&mut self, rng: &mut SmallRng) {
        self.kernel.deaf();
        if let Some(life) = self.life.take() {
            self.settle_drops(&life);
            self.excused.extend(life.undurable);
        }
        self.disk.crash(rng.random());
    }

    fn settle_drops(&mut self, life: &Life) {
        let table = life.aggregation.table();
        let (dropped, untold) = (table.stats().ends_dropped, table.dropped_ends().flows);
        self.happened.add(Kind::EndsDropped, dropped);
        self.happened.add(Kind::Retold, life.spool.view().totals.retold);
        self.told += dropped - untold;
    }

    /// Nothing happens any more: the last life's books are added to the others.
    pub(crate) fn close_books(&mut self) {
        self.kept_ends = self.kept.values().flat_map(|kept| kept.ends.iter().copied()).collect();
        let Some(life) = self.life.take() else { return };
        self.settle_drops(&life);
        let dropped = life.aggregation.table().stats().ends_dropped;
        self.unaccounted = (life.undurable.len() as u64).abs_diff(dropped);
        self.excused.extend(life.undurable);
    }

    /// Whether a frame with this entry's end became durable here and was not lost.
    pub(crate) fn keeps_end(&self, entry: &EntryId) -> bool {
        self.kept_ends.contains(entry)
    }

    /// Whether this entry's end need not be in a frame.
    pub(crate) fn is_excused(&self, entry: &EntryId, truth: &Truth) -> bool {
        truth.unheard || self.excused.contains(entry)
    }

    /// Dropped ends: what the tables took for told, and what durable gaps said; and how many ends
    /// the last life can account for by neither frames nor drops.
    pub(crate) const fn drops(&self) -> (u64, u64, u64) {
        (self.told, self.told_by_gaps, self.unaccounted)
    }

    /// What gaps told that were not lost with a disk.
    pub(crate) fn kept_drops(&self) -> impl Iterator<Item = &DropsTold> {
        self.kept.values().filter_map(|kept| kept.drops.as_ref())
    }

    /// Somebody makes a backup of the state folder.
    pub(crate) fn take_snapshot(&mut self) {
        self.snapshot = Some((self.disk.snapshot(), self.kept.clone()));
    }

    pub(crate) const fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// The state folder is put back to the last backup.
    pub(crate) fn roll_back(&mut self) {
        if let Some((snapshot, kept)) = self.snapshot.clone() {
            self.disk.restore(&snapshot);
            let had = |(digest, _): &([u8; 32], Kept)| !self.forgone.contains_key(digest);
            let kept = kept.into_iter().filter(had).collect();
            self.lose_all_but(kept);
        }
    }

    /// The state folder is wiped.
    pub(crate) fn wipe(&mut self) {
        self.disk = MemDisk::new();
        self.snapshot = None;
        self.lose_all_but(Frames::new());
    }

    /// The host dies for good, with its disk.
    pub(crate) fn go(&mut self) {
        self.gone = true;
        self.wipe();
    }

    /// The disk goes on in another machine, in another folder.
    pub(crate) fn move_to(&mut self, machine: MachineId, disk: MemDisk) {
        (self.machine, self.disk, self.snapshot) = (machine, disk, None);
    }

    fn lose_all_but(&mut self, kept: Frames) {
        let lost = std::mem::replace(&mut self.kept, kept);
        let lost = lost.into_iter().filter(|(digest, _)| !self.kept.contains_key(digest));
        self.excused.extend(lost.flat_map(|(_, frame)| frame.ends));
    }

    /// A store is gone with these frames of this name, and with what these gaps told.
    pub(crate) fn forgo(
        &mut self,
        frames: &BTreeSet<(NodeName, [u8; 32])>,
        drops: &BTreeSet<(NodeName, DropsTold)>,
    ) {
        for (digest, kept) in std::mem::take(&mut self.kept) {
            let told = |drop: &DropsTold| drops.contains(&(self.name.clone(), *drop));
            let gone = frames.contains(&(self.name.clone(), digest))
                || kept.drops.as_ref().is_some_and(told);
            if gone {
                self.excused.extend(kept.ends.iter().copied());
                self.forgone.insert(digest, kept);
            } else {
                self.kept.insert(digest, kept);
            }
        }
    }

    /// A frame is sent: if it was gone with a store, it must be in the one that takes it now.
    pub(crate) fn regain(&mut self, Digest(digest): &Digest) {
        if let Some(kept) = self.forgone.remove(digest) {
            self.kept.insert(*digest, kept);
            self.happened.note(Kind::Regained);
        }
    }

    /// The node reads its events.
    pub(crate) fn drain(&mut self, now: UnixNanos, most: usize) -> Result<(), Died> {
        if self.life.is_none() {
            return Ok(());
        }
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

    /// When the sweep began that is under way, which ends now.
    pub(crate) fn sweep_begun(&mut self) -> Option<UnixNanos> {
        self.life.as_mut()?.sweep.take()
    }

    /// A sweep begins: the rest of it are calls of [`Host::sweep_some`].
    pub(crate) fn sweep_begin(&mut self, now: UnixNanos) {
        let begin = self.kernel.boottime(now);
        if let Some(life) = &mut self.life {
            life.sweep = Some(now);
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
            Err(SpoolError::Full { .. }) => return Ok(()),
            Err(SpoolError::NoSpace { .. }) => {
                self.happened.note(Kind::DiskFull);
                return Ok(());
            }
            Err(_stopped) => return Err(Died),
        }
        for frame in &closing.frames {
            let kept = kept_of(frame);
            life.undurable.retain(|entry| !kept.ends.contains(entry));
            if let Some(drops) = &kept.drops {
                self.told_by_gaps += drops.flows;
                self.happened.note(Kind::DropsTold);
            }
            let Digest(digest) = frame.header.digest;
            self.kept.insert(digest, kept);
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
                Ok(begun) => match begun {
                    Some(NewEpochReason::RolledBack { .. }) => {
                        self.happened.note(Kind::FoundAhead);
                    }
                    Some(NewEpochReason::OtherBytes { .. }) => {
                        self.happened.note(Kind::FoundOtherBytes);
                    }
                    Some(NewEpochReason::StoreRestored { .. }) => {
                        self.happened.note(Kind::FoundRestored);
                    }
                    Some(NewEpochReason::OtherStore) => {
                        self.happened.note(Kind::AcceptedOtherStore);
                    }
                    _ => {}
                },
                Err(error) if error.is_full() => self.happened.note(Kind::DiskFull),
                Err(_stopped) => return Err(Died),
            }
        }
        Ok(())
    }
}

/// How an aggregation closes.
type Close = fn(&mut Aggregation, &Room) -> Result<Option<Closing>, CloseError>;

/// What matters of a frame.
fn kept_of(frame: &Frame) -> Kept {
    if frame.header.kind == FrameKind::GAP {
        let gap = Gap::decode(frame).ok().filter(|gap| gap.reason == GapReason::DroppedEnds);
        let drops = gap.map(|gap| DropsTold::of(gap.first, gap.at, gap.flows, &gap.lost));
        return Kept { ends: Vec::new(), drops };
    }
    let seen = |flags: RecordFlags| flags.has(RecordFlags::END) && !flags.has(RecordFlags::UNSEEN);
    let (_, records) = wire::batch::decode(frame).unwrap_or_else(|error| unreadable(&error));
    let ended = records.iter().filter(|record| seen(record.flags)).map(flow::Record::entry);
    Kept { ends: ended.collect(), drops: None }
}

#[expect(clippy::panic, reason = "a node that spools what cannot be decoded is what is looked for")]
fn unreadable<T>(error: &wire::batch::BatchError) -> T {
    panic!("a node has spooled a batch that cannot be decoded: {error}")
}
