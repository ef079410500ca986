//! Hosts that report a flow, in seconds and packets, and what comes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use flow::clock::Span;
use flow::merge::{
    Counted, Domain, EntryRef, Label, Life, MergeConfig, MergeDraft, Merger, Observer, Scope,
    Sighting, View, Views,
};
use flow::{Counters, Proto, Tuple, UnixNanos};

/// Aggregator time, by the second.
pub(crate) fn at(seconds: f64) -> UnixNanos {
    UnixNanos::default().plus(Duration::from_secs_f64(seconds))
}

/// A TCP tuple from `src` to `dst`.
pub(crate) fn tcp(src: &str, dst: &str) -> Tuple {
    Tuple::ports(Proto::TCP, src.parse().unwrap(), dst.parse().unwrap())
}

/// The tuple of a flow that nobody translates.
pub(crate) fn plain() -> Tuple {
    tcp("10.0.0.1:4000", "192.0.2.1:443")
}

/// Both views in domain 0.
pub(crate) fn views(inside: &Tuple, outside: &Tuple) -> Views {
    let here = Scope::Domain(Domain(0));
    Views { inside: View::of(here, inside), outside: View::of(here, outside) }
}

/// An entry on a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) number: i64,
    pub(crate) host: u32,
    pub(crate) views: Views,
    pub(crate) start: Option<f64>,
    pub(crate) fresh: bool,
    /// Margin of its host's clock, in seconds.
    pub(crate) slack: f64,
}

impl Entry {
    pub(crate) fn new(number: i64, host: u32, start: f64) -> Self {
        let views = views(&plain(), &plain());
        Self { number, host, views, start: Some(start), fresh: false, slack: 0.25 }
    }

    pub(crate) fn seen_as(self, inside: &Tuple, outside: &Tuple) -> Self {
        Self { views: views(inside, outside), ..self }
    }

    pub(crate) fn fresh(self) -> Self {
        Self { fresh: true, ..self }
    }
}

/// Growth of an entry: packets there and back in (since, until], in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grew {
    pub(crate) since: f64,
    pub(crate) until: f64,
    pub(crate) there: u64,
    pub(crate) back: u64,
    pub(crate) ended: bool,
}

/// A growth in (since, until].
pub(crate) fn grew(since: f64, until: f64, there: u64, back: u64) -> Grew {
    Grew { since, until, there, back, ended: false }
}

impl Grew {
    pub(crate) fn end(self) -> Self {
        Self { ended: true, ..self }
    }
}

/// A merger and what is stored by its word.
pub(crate) struct Centre {
    pub(crate) merger: Merger,
    /// Packets stored by label: there and back.
    pub(crate) stored: BTreeMap<Label, i64>,
    pub(crate) total: i64,
    pub(crate) taken_back: i64,
}

impl Centre {
    pub(crate) fn new() -> Self {
        let merger = Merger::new(MergeConfig::default(), [1, 2], Label(0));
        Self { merger, stored: BTreeMap::new(), total: 0, taken_back: 0 }
    }

    pub(crate) fn link(&mut self, entry: &Entry, grew: &Grew) {
        self.merger.link(&Sighting {
            entry: EntryRef(entry.number),
            observer: Observer(entry.host),
            zone: 0,
            views: entry.views,
            life: Life {
                start: entry.start.map(at),
                after: entry.start.map(at),
                until: Some(at(grew.until)),
                slack: Duration::from_secs_f64(entry.slack),
                ended: grew.ended,
            },
            fresh: entry.fresh,
            label: None,
            told: true,
        });
    }

    /// Counts a growth whose record is linked.
    pub(crate) fn count(&mut self, entry: &Entry, grew: &Grew) -> Counted {
        let growth = Counters::new(grew.there, grew.there * 100, grew.back, grew.back * 100);
        let span = Span {
            since: Some(at(grew.since)),
            until: at(grew.until),
            slack: Duration::from_secs_f64(entry.slack),
        };
        let mut draft = MergeDraft::default();
        let reference = EntryRef(entry.number);
        let counted = self.merger.count(&mut draft, None, reference, growth, Some(span));
        self.merger.apply(draft);
        let label = self.merger.label(reference).unwrap();
        let packets = |c: Counters| (c.orig.packets.get() + c.reply.packets.get()) as i64;
        let [op, ob, rp, rb] = counted.counted.components();
        assert_eq!((ob, rb), (op * 100, rp * 100));
        *self.stored.entry(label).or_default() += packets(counted.counted);
        let back: i64 = counted.back.iter().map(|back| packets(back.counters)).sum();
        self.total += packets(counted.counted) - back;
        self.taken_back += back;
        assert!(!counted.fell, "more was stored than can be");
        counted
    }

    /// A record arrives and is counted at once.
    pub(crate) fn tell(&mut self, entry: &Entry, grew: Grew) -> Counted {
        self.link(entry, &grew);
        self.count(entry, &grew)
    }

    pub(crate) fn labels(&self, entries: &[&Entry]) -> Vec<Label> {
        entries.iter().map(|e| self.merger.label(EntryRef(e.number)).unwrap()).collect()
    }
}
