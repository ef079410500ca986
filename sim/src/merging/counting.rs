//! Linking and counting what arrives: the seam between worlds and what counts them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use flow::clock::{self, Basis, SessionClock, Span};
use flow::count::{EntryCount, Growth, Observed};
use flow::merge::{
    EntryRef, Label, Life, MergeConfig, MergeDraft, Merger, Observer, Scope, Sighting, View, Views,
};
use flow::{
    BootId, BootNanos, Counters, EntryId, NetnsInode, Record, RecordFlags, UnixNanos, view,
};

use super::node::Sent;
use super::site::Spot;

/// An entry of a node.
pub(crate) type Named = (usize, EntryId);

/// What a record counted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) entry: Named,
    /// What its observer grew by.
    pub(crate) raw: Counters,
    /// When.
    pub(crate) span: Option<Span>,
    /// What the flow grew by, in the record's directions.
    pub(crate) counted: Counters,
    /// What is taken back of which entry, in its directions.
    pub(crate) back: Vec<(Named, Counters)>,
    /// Stored was more than can be, and nothing had been merged.
    pub(crate) fell: bool,
}

/// What links and counts. Frames of an epoch come in its order, some of them again.
pub(crate) trait Counting {
    /// A frame arrives. What is counted by that, of this frame or of earlier ones that waited.
    fn arrive(&mut self, sent: &Sent, session: Option<SessionClock>, now: UnixNanos) -> Vec<Row>;

    /// Nothing more arrives: what waited is counted.
    fn finish(&mut self) -> Vec<Row>;

    /// The path of an entry.
    fn label(&self, entry: &Named) -> Option<Label>;

    /// Whether two entries are counted together.
    fn together(&self, one: &Named, other: &Named) -> bool;
}

/// How [`Pure`] counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) merge: MergeConfig,
    /// How long linked frames wait.
    pub(crate) hold: Duration,
    /// Of how many drafts one is thrown away and made again; 0 for none.
    pub(crate) dropped: u64,
}

/// Linking and counting alone: memory is all there is.
pub(crate) struct Pure {
    way: Way,
    spots: Vec<Spot>,
    merger: Merger,
    entries: HashMap<Named, State>,
    /// By number, from 1.
    names: Vec<Named>,
    /// One for a namespace in all boots of its host: those never see the same packet.
    observers: HashMap<(usize, NetnsInode), Observer>,
    epochs: HashMap<u32, Epoch>,
    held: VecDeque<(UnixNanos, Linked)>,
    drafts: u64,
    pub(crate) drafts_dropped: u64,
    /// A draft that was made again came out different.
    pub(crate) differed: bool,
}

#[derive(Clone, Copy, Debug)]
struct State {
    entry: EntryRef,
    count: EntryCount,
}

/// How far an epoch has come.
#[derive(Clone, Copy, Debug, Default)]
struct Epoch {
    seq: u64,
    interval: Option<u64>,
    /// The last complete sweep of this and of earlier intervals.
    sweep: Option<(BootId, BootNanos)>,
    before: Option<(BootId, BootNanos)>,
}

/// A linked frame that waits to be counted.
struct Linked {
    records: Vec<(Record, Option<Span>)>,
    node: usize,
}

impl Pure {
    pub(crate) fn new(way: Way, spots: &[Spot]) -> Self {
        Self {
            way,
            spots: spots.to_vec(),
            merger: Merger::new(way.merge, [3, 4], Label(0)),
            entries: HashMap::new(),
            names: Vec::new(),
            observers: HashMap::new(),
            epochs: HashMap::new(),
            held: VecDeque::new(),
            drafts: 0,
            drafts_dropped: 0,
            differed: false,
        }
    }

    /// Groups that turned out to be one since this was asked last.
    pub(crate) fn merged(&mut self) -> u64 {
        self.merger.take_stats().merged
    }

    fn link(&mut self, sent: &Sent, session: Option<SessionClock>) -> Linked {
        let interval = &sent.interval;
        let basis = Basis::of(interval, session.as_ref());
        let before = self.epochs.entry(sent.epoch).or_default().before(sent);
        let mut records = Vec::with_capacity(sent.records.len());
        for record in &sent.records {
            let named = (sent.node, record.entry());
            let next = EntryRef(1 + self.entries.len() as i64);
            let first = !self.entries.contains_key(&named);
            let start = start_of(record, sent, &basis, before);
            let state = self.entries.entry(named).or_insert_with(|| {
                let start = start.map(|span| span.until);
                let count = EntryCount { start, ..EntryCount::default() };
                State { entry: next, count }
            });
            if first {
                self.names.push(named);
            }
            let entry = state.entry;
            let span = basis.span(record.since, record.until);
            let slack = span.map(|span| span.slack).max(start.map(|span| span.slack));
            let life = Life {
                start: start.filter(|_| first).map(|span| span.until),
                // Where the node had told of it before, in this epoch or another, it is older.
                after: span.filter(|_| first && record.base().is_zero()).and_then(|s| s.since),
                until: span.map(|span| span.until),
                slack: slack.unwrap_or_default(),
                ended: record.flags.has(RecordFlags::END),
            };
            let sighting = Sighting {
                entry,
                observer: self.observer(sent.node, record.netns.inode),
                zone: record.zone.0,
                views: self.views(sent.node, record),
                life,
                fresh: record.flags.has(RecordFlags::FRESH),
                label: None,
                told: true,
            };
            self.merger.link(&sighting);
            records.push((*record, span));
        }
        Linked { records, node: sent.node }
    }

    fn observer(&mut self, node: usize, netns: NetnsInode) -> Observer {
        let next = Observer(u32::try_from(self.observers.len()).unwrap_or(u32::MAX));
        *self.observers.entry((node, netns)).or_insert(next)
    }

    fn views(&self, node: usize, record: &Record) -> Views {
        let here = |spot: &&Spot| spot.node == node && spot.netns == record.netns.inode;
        let spot = self.spots.iter().find(here);
        let domains = spot.map_or_else(Default::default, |spot| (spot.inside, spot.outside));
        Views {
            inside: View::of(Scope::Domain(domains.0), &view::inside(&record.orig)),
            outside: View::of(Scope::Domain(domains.1), &view::outside(&record.reply)),
        }
    }

    /// Counts frames that have waited until `now`; all where that is `None`.
    fn release(&mut self, now: Option<UnixNanos>) -> Vec<Row> {
        let mut rows = Vec::new();
        while let Some((_, linked)) =
            self.held.pop_front_if(|(until, _)| now.is_none_or(|now| *until <= now))
        {
            self.drafts += 1;
            let (draft, moved, counted) = self.count(&linked);
            if self.way.dropped > 0 && self.drafts.is_multiple_of(self.way.dropped) {
                // It was not committed: the same is made again.
                drop((draft, moved));
                self.drafts_dropped += 1;
                let (draft, moved, again) = self.count(&linked);
                self.differed |= again != counted;
                self.commit(draft, moved);
                rows.extend(again);
            } else {
                self.commit(draft, moved);
                rows.extend(counted);
            }
        }
        rows
    }

    fn commit(&mut self, draft: MergeDraft, moved: HashMap<Named, EntryCount>) {
        self.merger.apply(draft);
        for (named, count) in moved {
            if let Some(state) = self.entries.get_mut(&named) {
                state.count = count;
            }
        }
    }

    fn count(&self, linked: &Linked) -> (MergeDraft, HashMap<Named, EntryCount>, Vec<Row>) {
        let (mut draft, mut moved) = (MergeDraft::default(), HashMap::new());
        let mut rows = Vec::with_capacity(linked.records.len());
        for (record, span) in &linked.records {
            let named = (linked.node, record.entry());
            let Some(state) = self.entries.get(&named) else { continue };
            let count = moved.entry(named).or_insert(state.count);
            let observed = Observed { cum: record.cum, base: record.base(), span: *span };
            let (next, growth) = count.count(&observed);
            *count = next;
            let Growth { growth, span, .. } = growth;
            let counted = self.merger.count(&mut draft, None, state.entry, growth, span);
            let named_of = |entry: EntryRef| {
                let place = usize::try_from(entry.0 - 1).unwrap_or(usize::MAX);
                self.names.get(place).copied()
            };
            let back = counted.back.iter();
            let back = back.filter_map(|back| Some((named_of(back.entry)?, back.counters)));
            rows.push(Row {
                entry: named,
                raw: growth,
                span,
                counted: counted.counted,
                back: back.collect(),
                fell: counted.fell,
            });
        }
        (draft, moved, rows)
    }
}

impl Counting for Pure {
    fn arrive(&mut self, sent: &Sent, session: Option<SessionClock>, now: UnixNanos) -> Vec<Row> {
        let rows = self.release(Some(now));
        let epoch = self.epochs.entry(sent.epoch).or_default();
        if sent.seq <= epoch.seq {
            return rows;
        }
        epoch.seq = sent.seq;
        let linked = self.link(sent, session);
        self.held.push_back((now.plus(self.way.hold), linked));
        if !self.way.hold.is_zero() {
            return rows;
        }
        [rows, self.release(Some(now))].concat()
    }

    fn finish(&mut self) -> Vec<Row> {
        self.release(None)
    }

    fn label(&self, entry: &Named) -> Option<Label> {
        self.merger.label(self.entries.get(entry)?.entry)
    }

    fn together(&self, one: &Named, other: &Named) -> bool {
        let of = |named| self.entries.get(named).map(|state| state.entry);
        of(one).zip(of(other)).is_some_and(|(one, other)| self.merger.together(one, other))
    }
}

impl Epoch {
    /// The last complete sweep before the interval of `sent`, and moves on over it.
    fn before(&mut self, sent: &Sent) -> Option<BootNanos> {
        let interval = &sent.interval;
        if self.interval != Some(interval.number) {
            self.interval = Some(interval.number);
            self.before = self.sweep;
        }
        // Only an interval's last part has told all that its sweep showed, and none that paused.
        if interval.parts != 0 && !interval.paused {
            let begin = match self.sweep {
                Some((boot, last)) if boot == interval.boot => last.max(interval.sweep_begin),
                _ => interval.sweep_begin,
            };
            self.sweep = Some((interval.boot, begin));
        }
        self.before.filter(|(boot, _)| *boot == interval.boot).map(|(_, before)| before)
    }
}

/// The start of an entry as a time, where the frame that brings a record of it confirms it.
fn start_of(
    record: &Record,
    sent: &Sent,
    basis: &Basis,
    before: Option<BootNanos>,
) -> Option<Span> {
    let start = record.birth.start()?;
    let born = clock::kernel_start(&sent.interval.clock, start, before, record.until)?;
    basis.span(born, born)
}
