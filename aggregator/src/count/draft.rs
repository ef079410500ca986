//! One change set in the making: reads memory, writes only itself.

use flow::clock::{self, Basis, Placement, Span};
use flow::count::{EntryCount, Growth, Observed};
use flow::record::Interval;
use flow::{Birth, BootNanos, NetnsId, Record, RecordFlags, Seq, UnixNanos, view};
use hashbrown::{HashMap, HashSet};

use super::entries::Place;
use super::frame::{Body, Frame};
use super::known::{Found, Known};
use super::memory::{Change, Counted, Entry, EpochState, Node};
use super::merged::Back;
use super::metrics::CountStats;
use super::{Asked, CountError, CounterConfig, next_id};
use crate::store::row::{
    BatchRow, ChangeSet, EndedEntry, EntryNo, EpochAdvance, EpochRow, FlowRow, FrameName, GapRow,
    Identity, NetnsNo, NetnsRow, NodeNo, NodeRow, ObserverRow,
};

/// The start of an entry as a time, where the batch that brings its first record confirms it;
/// both ends of the span are that moment.
pub(super) fn start_of(
    record: &Record,
    interval: &Interval,
    basis: &Basis,
    before: Option<BootNanos>,
) -> Option<Span> {
    let start = record.birth.start()?;
    let born = clock::kernel_start(&interval.clock, start, before, record.until)?;
    basis.span(born, born)
}

/// A change set and what memory becomes once it is committed.
#[derive(Debug)]
pub struct Draft {
    set: ChangeSet,
    stats: CountStats,
    change: Change,
}

impl Draft {
    /// The set to be committed.
    #[must_use]
    pub const fn set(&self) -> &ChangeSet {
        &self.set
    }

    pub(super) fn change_mut(&mut self) -> &mut Change {
        &mut self.change
    }

    pub(super) const fn change(&self) -> &Change {
        &self.change
    }

    pub(super) fn into_parts(self) -> (ChangeSet, CountStats, Change) {
        (self.set, self.stats, self.change)
    }
}

/// What all records of one frame share.
pub(super) struct Context<'f> {
    frame: &'f Frame,
    pub(super) index: u32,
    node: NodeNo,
    /// Receipt, raised so that marks strictly grow.
    pub(super) mark: UnixNanos,
    interval: &'f Interval,
    basis: Basis,
    before: Option<BootNanos>,
    /// The last record's namespace, mostly the next one's too: its row, and whether the store may
    /// know entries of it that are not here.
    netns: Option<(NetnsId, NetnsNo, bool)>,
}

/// What must be known before frames can be counted.
pub(super) struct Missing<'f> {
    pub(super) frames: &'f [Frame],
    asked: &'f Asked,
    /// Entries that memory does not have and the store may.
    pub(super) find: HashSet<Identity, foldhash::fast::RandomState>,
    /// Nodes whose entries' counts must come from their rows.
    pub(super) nodes: HashSet<NodeNo, foldhash::fast::RandomState>,
    /// Entries of groups whose growths must be told.
    pub(super) history: HashSet<EntryNo, foldhash::fast::RandomState>,
    /// Entries are in no group.
    pub(super) link: bool,
}

impl<'f> Missing<'f> {
    /// Nothing missing yet.
    pub(super) fn new(frames: &'f [Frame], asked: &'f Asked) -> Self {
        let (find, nodes, history) = (HashSet::default(), HashSet::default(), HashSet::default());
        Self { frames, asked, find, nodes, history, link: false }
    }

    /// Whether nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.find.is_empty() && self.nodes.is_empty() && self.history.is_empty() && !self.link
    }
}

/// See [`Draft`].
pub(super) struct Drafting<'m> {
    config: &'m CounterConfig,
    pub(super) known: Known<'m>,
    pub(super) set: ChangeSet,
    pub(super) stats: CountStats,
    pub(super) change: Change,
    /// Index into the set's advances.
    advances: HashMap<(NodeNo, flow::Epoch), usize, foldhash::fast::RandomState>,
    /// Index into the set's observers, of entries seen first in it.
    fresh_rows: HashMap<EntryNo, usize, foldhash::fast::RandomState>,
    /// What becomes of other entries: ended, or open again.
    ends: HashMap<EntryNo, Option<UnixNanos>, foldhash::fast::RandomState>,
    /// Growth to be taken back.
    pub(super) back: Vec<Back>,
}

impl<'m> Drafting<'m> {
    /// An empty draft over what is known, with room for `rows` records.
    pub(super) fn new(config: &'m CounterConfig, known: Known<'m>, rows: usize) -> Self {
        Self {
            config,
            known,
            set: ChangeSet { flows: Vec::with_capacity(rows), ..ChangeSet::default() },
            stats: CountStats::default(),
            change: Change::new(known.ids(), known.latest(), rows),
            advances: HashMap::default(),
            fresh_rows: HashMap::default(),
            ends: HashMap::default(),
            back: Vec::new(),
        }
    }

    pub(super) fn finish(mut self) -> Draft {
        self.finish_merge();
        for (entry, at) in self.ends {
            match at {
                Some(at) => self.set.ended.push(EndedEntry { entry, at }),
                None => self.set.reopened.push(entry),
            }
        }
        self.set.ended.sort_unstable_by_key(|ended| (ended.at, ended.entry));
        self.set.reopened.sort_unstable();
        Draft { set: self.set, stats: self.stats, change: self.change }
    }

    /// Closes entries that have been silent for longer than they can live, at most `most`.
    pub(super) fn close_silent(mut self, now: UnixNanos, most: usize) -> Option<Draft> {
        let silent = |(_, identity, entry): &(Place, &Identity, &Entry)| {
            let limit = self.config.silence.of(identity.orig.proto);
            entry.ended.is_none() && entry.stored && entry.touched.plus(limit) < now
        };
        for (place, _, entry) in self.known.memory.entries.iter().filter(silent).take(most) {
            self.ends.insert(entry.entry, Some(entry.touched));
            let ended = Some(entry.touched);
            self.change.keep(place, Entry { ended, ..*entry });
        }
        self.stats.closed = self.ends.len() as u64;
        (!self.ends.is_empty()).then(|| self.finish())
    }

    /// Counts a frame but for its records: what they share, where it has some.
    pub(super) fn begin<'f>(
        &mut self,
        frame: &'f Frame,
    ) -> Result<Option<Context<'f>>, CountError> {
        let mark = self.next_mark(frame.received);
        let index = u32::try_from(self.set.frames.len())
            .map_err(|_over| CountError::Exhausted { what: "frame of one set" })?;
        let mut node = self.node(frame, mark)?;
        let (node_no, epoch) = (node.row.node, frame.epoch);
        let before = self.known.epoch(&frame.node, epoch);
        let state = node.epochs.entry(epoch).or_insert_with(|| {
            before.copied().unwrap_or_else(|| EpochState::begun(frame, node_no, mark))
        });
        let committed = state.row.committed;
        if frame.first != committed.next() || frame.last < frame.first {
            let node = frame.node.clone();
            return Err(CountError::Order { node, first: frame.first, committed });
        }
        state.row.committed = frame.last;
        state.row.digest = frame.digest;
        let name = FrameName { node: node_no, epoch, seq: frame.first };
        self.set.frames.push(name);
        self.stats.frames += 1;
        let context = match &frame.body {
            Body::Batch { interval, records } => {
                let before = state.sweep_before(interval);
                state.swept(interval);
                self.set.batches.push(BatchRow {
                    name,
                    digest: frame.digest,
                    received: frame.received,
                    records: u32::try_from(records.len()).unwrap_or(u32::MAX),
                    interval: **interval,
                });
                let basis = Basis::of(interval, frame.clock.as_ref());
                let node = node_no;
                Some(Context { frame, index, node, mark, interval, basis, before, netns: None })
            }
            Body::Gap(gap) => {
                if frame.is_gap_in_place() {
                    state.row.last_gap = Some(mark);
                }
                self.stats.gaps += 1;
                self.set.gaps.push(GapRow {
                    name,
                    last: frame.last,
                    reason: gap.reason,
                    boot: gap.boot,
                    at: gap.at,
                    received: frame.received,
                    flows: gap.flows,
                    lost: gap.lost,
                    note: gap.note.clone(),
                });
                None
            }
        };
        let row = state.row;
        self.advance(frame.first, row);
        self.change.nodes.insert(frame.node.clone(), node);
        Ok(context)
    }

    /// A receipt later than every one before it, by a microsecond at least (what stores keep).
    fn next_mark(&mut self, received: UnixNanos) -> UnixNanos {
        let after = UnixNanos(self.change.latest.0.saturating_add(1_000));
        let mark = UnixNanos(received.max(after).micros_floor().saturating_mul(1_000));
        self.change.latest = mark;
        mark
    }

    /// The frame's node as this set leaves it so far, with the epochs that the set moves; noted as
    /// new or switched where it is.
    fn node(&mut self, frame: &Frame, mark: UnixNanos) -> Result<Node, CountError> {
        let remembered = || {
            let row = self.known.node(&frame.node)?.clone();
            Some(Node { row, epochs: HashMap::default() })
        };
        let Some(mut node) = self.change.nodes.remove(&frame.node).or_else(remembered) else {
            let node = match self.known.memory.numbers.node(&frame.node) {
                Some(node) => node,
                None => {
                    let node = next_id(self.change.ids.node, NodeNo::next, "node")?;
                    self.change.ids.node = node;
                    node
                }
            };
            let name = frame.node.clone();
            let row = NodeRow { node, name, epoch: frame.epoch, epoch_since: mark };
            self.set.new_nodes.push(row.clone());
            return Ok(Node { row, epochs: HashMap::default() });
        };
        if node.row.epoch != frame.epoch {
            node.row.epoch = frame.epoch;
            node.row.epoch_since = mark;
            // One row a node: the last word counts.
            let rows = &mut self.set;
            let same = |row: &&mut NodeRow| row.node == node.row.node;
            match rows.new_nodes.iter_mut().chain(&mut rows.switched).find(same) {
                Some(row) => *row = node.row.clone(),
                None => rows.switched.push(node.row.clone()),
            }
        }
        Ok(node)
    }

    fn advance(&mut self, first: Seq, row: EpochRow) {
        let at = *self.advances.entry((row.node, row.epoch)).or_insert_with(|| {
            self.set.advances.push(EpochAdvance { first, row });
            self.set.advances.len() - 1
        });
        if let Some(advance) = self.set.advances.get_mut(at) {
            advance.row = row;
        }
    }

    /// The row of a record's namespace, and whether the store may know more entries of it.
    fn netns(
        &mut self,
        context: &mut Context<'_>,
        id: NetnsId,
    ) -> Result<(NetnsNo, bool), CountError> {
        match context.netns {
            Some((last, netns, known)) if last == id => return Ok((netns, known)),
            _ => {}
        }
        let key = (context.node, id);
        let ours = || Some((*self.change.netns.get(&key)?, false));
        let (netns, stored) = match self.known.netns(context.node, id).or_else(ours) {
            Some(found) => found,
            None => {
                let netns = match self.known.memory.numbers.netns(context.node, id) {
                    Some(netns) => netns,
                    None => {
                        let last = self.change.ids.netns;
                        let netns = next_id(last, NetnsNo::next, "network namespace")?;
                        self.change.ids.netns = netns;
                        netns
                    }
                };
                self.change.netns.insert(key, netns);
                self.set.netns.push(NetnsRow { netns, node: context.node, id });
                (netns, false)
            }
        };
        context.netns = Some((id, netns, stored));
        Ok((netns, stored))
    }

    /// Counts one record, or notes what must be known first.
    pub(super) fn record(
        &mut self,
        context: &mut Context<'_>,
        record: &Record,
        missing: &mut Missing<'_>,
    ) -> Result<(), CountError> {
        let (netns, stored) = self.netns(context, record.netns)?;
        let identity = Identity::of(netns, &record.entry());
        let (found, mut entry) = match self.entry(&identity) {
            // Linked as new, and the store says otherwise.
            Some((_, entry))
                if !entry.stored
                    && missing.asked.is_thorough()
                    && !missing.asked.absent.contains(&identity) =>
            {
                missing.find.insert(identity);
                return Ok(());
            }
            Some((found, entry)) => (found, Some(entry)),
            None if stored && self.may_be_stored(context, record, &identity, missing.asked) => {
                missing.find.insert(identity);
                return Ok(());
            }
            None => (Found::Fresh, None),
        };
        if let Some(entry) = &mut entry
            && entry.counted == Counted::Unknown
        {
            if !self.known.base_is_counted(missing.frames, context.frame, entry) {
                missing.nodes.insert(context.node);
                return Ok(());
            }
            entry.count.counted = record.base();
            entry.counted = Counted::Known;
        }
        let mut entry = match entry {
            Some(entry) => entry,
            None => self.first_sight(context, record)?,
        };
        if matches!(found, Found::Known(_)) && self.is_apart(entry.entry) {
            missing.link = true;
            return Ok(());
        }
        if let Some(group) = self.untold(entry.entry) {
            missing.history.extend(group);
            return Ok(());
        }
        if !entry.stored {
            self.introduce(context, netns, record, &mut entry);
        }
        let (growth, row) = self.count(context, record, netns, &mut entry);
        self.stats.record(record, &growth, &row);
        self.set.flows.push(row);
        entry.touched = context.mark;
        let ends = record.flags.has(RecordFlags::END);
        // Only growth is news of an entry that is over: an old reading of it may come any time.
        if entry.ended.is_none() && ends || entry.ended.is_some() && !growth.growth.is_zero() {
            self.stats.reopened += u64::from(!ends);
            entry.ended = ends.then_some(context.mark);
            self.end(&entry);
        }
        match found {
            Found::Known(place) => self.change.keep(place, entry),
            Found::Fresh => {
                self.change.fresh.insert(identity, entry);
            }
        }
        Ok(())
    }

    /// An entry as this set leaves it so far.
    fn entry(&self, identity: &Identity) -> Option<(Found, Entry)> {
        match self.known.entry(identity) {
            Some((found @ Found::Known(place), entry)) => {
                Some((found, self.change.known(place).copied().unwrap_or(entry)))
            }
            pending => {
                let ours = self.change.fresh.get(identity).map(|entry| (Found::Fresh, *entry));
                ours.or(pending)
            }
        }
    }

    /// Whether the store may have an entry that memory does not have.
    fn may_be_stored(
        &self,
        context: &Context<'_>,
        record: &Record,
        identity: &Identity,
        asked: &Asked,
    ) -> bool {
        let young = || {
            let start = start_of(record, context.interval, &context.basis, context.before)?;
            Some(self.known.memory.remembers(start, self.config.memory_horizon))
        };
        self.known.memory.forgotten.is_some()
            && !asked.absent.contains(identity)
            && (asked.is_thorough() || young() != Some(true))
    }

    fn end(&mut self, entry: &Entry) {
        let fresh = self.fresh_rows.get(&entry.entry);
        match fresh.and_then(|at| self.set.observers.get_mut(*at)) {
            Some(row) => row.ended = entry.ended,
            None => {
                self.ends.insert(entry.entry, entry.ended);
            }
        }
    }

    /// An entry that nothing is known of: it has no company.
    fn first_sight(&mut self, context: &Context<'_>, record: &Record) -> Result<Entry, CountError> {
        let ids = &mut self.change.ids;
        ids.entry = next_id(ids.entry, EntryNo::next, "entry")?;
        ids.path = next_id(ids.path, crate::store::row::PathNo::next, "path")?;
        let (entry, path) = (ids.entry, ids.path);
        let start = start_of(record, context.interval, &context.basis, context.before)
            .map(|span| span.until);
        Ok(Entry {
            entry,
            path,
            count: EntryCount { start, ..EntryCount::default() },
            counted: Counted::Known,
            stored: false,
            accompanied: true,
            seen: context.mark,
            touched: context.mark,
            ended: None,
        })
    }

    /// Notes an entry that the store does not have.
    fn introduce(
        &mut self,
        context: &Context<'_>,
        netns: NetnsNo,
        record: &Record,
        entry: &mut Entry,
    ) {
        entry.stored = true;
        entry.seen = context.mark;
        entry.path = self.path(entry);
        self.fresh_rows.insert(entry.entry, self.set.observers.len());
        self.set.observers.push(ObserverRow {
            entry: entry.entry,
            path: entry.path,
            node: context.node,
            netns,
            zone: record.zone,
            inside: view::inside(&record.orig),
            outside: view::outside(&record.reply),
            birth: record.birth,
            start: entry.count.start,
            fresh: record.flags.has(RecordFlags::FRESH),
            seen: context.mark,
            ended: None,
            base: flow::Counters::ZERO,
            frame: context.index,
        });
        self.stats.first_sights += 1;
        self.stats.start_unknown += u64::from(matches!(record.birth, Birth::Id(_)));
    }

    /// The growth of `entry` by this record, and the row that says so.
    fn count(
        &mut self,
        context: &Context<'_>,
        record: &Record,
        netns: NetnsNo,
        entry: &mut Entry,
    ) -> (Growth, FlowRow) {
        let span = context.basis.span(record.since, record.until);
        let horizon = self.config.horizon;
        let place = |until| {
            let wall = context.interval.clock.wall;
            clock::place(until, wall, context.frame.received, horizon)
        };
        let stray = matches!(place(span.map(|span| span.until)), Placement::Stray(_));
        let observed = Observed {
            cum: record.cum,
            base: record.base(),
            // An impossible time is kept with its row, and tells nothing about other readings.
            span: if stray { None } else { span },
        };
        let (count, growth) = entry.count.count(&observed);
        entry.count = count;
        let counted = self.merged(context, entry, &growth);
        let span = if stray { span } else { growth.span };
        let (Placement::Normal(time) | Placement::Stray(time)) = place(span.map(|span| span.until));
        let ours = record.flags.with_if(RecordFlags::TIME_UNKNOWN, span.is_none());
        let row = FlowRow {
            time,
            since: span.and_then(|span| span.since),
            slack: span.map(|span| span.slack),
            entry_start: entry.count.start,
            path: entry.path,
            entry: entry.entry,
            counted,
            raw: growth.growth,
            seq: context.frame.first,
            mark: record.mark,
            node: context.node,
            netns,
            zone: record.zone,
            inside: view::inside(&record.orig),
            outside: view::outside(&record.reply),
            flags: (record.status.0 & 0xffff) | u32::from(ours.0) << 16,
            tcp: record.tcp,
            stray: stray.then_some(context.frame.received),
            frame: context.index,
        };
        (growth, row)
    }
}
