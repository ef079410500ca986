//! Linking: before frames are counted their entries find those of other observers that may see the
//! same flows. Memory only: nothing is stored by it, so linking again changes nothing.

use flow::clock::{self, Basis, Placement, Span, WALL_SLACK};
use flow::count::EntryCount;
use flow::{Record, RecordFlags, UnixNanos, view};
use hashbrown::HashSet;

use super::draft::start_of;
use super::frame::{Body, Frame};
use super::memory::{Counted, Entry};
use super::merging::{self, Seen};
use super::{Asked, CountError, Counter, Needs};
use crate::store::row::{EntryNo, Identity, NodeNo, PathNo, view_hash};

type State = foldhash::fast::RandomState;

/// What linking frames gives.
#[derive(Debug)]
pub enum Linked {
    /// They can be counted.
    Done,
    /// The store must be asked first.
    Needs(Needs),
    /// A domain has a second observer now: all that is known must be read from the store once more,
    /// into [`Counter::merging`].
    Reload,
}

/// What the records of one frame share.
struct Shared<'f> {
    frame: &'f Frame,
    node: NodeNo,
    basis: Basis,
    interval: &'f flow::Interval,
    before: Option<flow::BootNanos>,
}

/// What the store is asked for.
#[derive(Default)]
struct Wanted {
    find: HashSet<Identity, State>,
    views: HashSet<i64, State>,
    /// Entries of groups that count together and must be whole for that.
    whole: HashSet<EntryNo, State>,
}

impl Counter {
    /// Links the entries of `frames`. Never call it between [`Counter::begin`] and
    /// [`Counter::apply`].
    ///
    /// Where the store must be asked first it says what: ask, [`Counter::learn`], and link again.
    ///
    /// # Errors
    /// When numbers are used up.
    pub fn link(&mut self, frames: &[Frame], asked: &Asked) -> Result<Linked, CountError> {
        if self.config.merge.is_none() {
            return Ok(Linked::Done);
        }
        if !self.is_merging() {
            let shared = self.becomes_shared(frames);
            return Ok(if shared { Linked::Reload } else { Linked::Done });
        }
        let mut wanted = Wanted::default();
        // Those found may have company that shares another view with them.
        wanted.views.extend(asked.follow.difference(&asked.views));
        for frame in frames {
            let Body::Batch { interval, records } = &frame.body else { continue };
            let node = self.memory.number_node(&frame.node)?;
            let state = self.memory.linked_epoch(frame, node);
            let before = state.sweep_before(interval);
            state.swept(interval);
            let basis = Basis::of(interval, frame.clock.as_ref());
            let shared = Shared { frame, node, basis, interval, before };
            for record in records {
                self.link_record(&shared, record, asked, &mut wanted)?;
            }
        }
        self.find_unaccompanied(asked, &mut wanted);
        if wanted.find.is_empty() && wanted.views.is_empty() {
            for identity in &asked.answered {
                if let Some(entry) = self.memory.entries.find_mut(identity) {
                    entry.accompanied = true;
                }
            }
            return Ok(Linked::Done);
        }
        let find = wanted.find.into_iter().collect();
        let views = wanted.views.into_iter().collect();
        Ok(Linked::Needs(Needs { find, views, ..Needs::default() }))
    }

    fn link_record(
        &mut self,
        shared: &Shared<'_>,
        record: &Record,
        asked: &Asked,
        wanted: &mut Wanted,
    ) -> Result<(), CountError> {
        let Shared { frame, node, basis, interval, before } = shared;
        let (netns, stored) = self.memory.number_netns((*node, &frame.node), record.netns)?;
        let identity = Identity::of(netns, &record.entry());
        let found = self.memory.entries.find(&identity).and_then(|at| self.memory.entries.get(at));
        let path = found.map(|entry| entry.path);
        let known = found.map(|entry| entry.entry);
        let start = match known {
            Some(_) => None,
            None => start_of(record, interval, basis, *before),
        };
        let missing = match known {
            Some(_) => self.lacks_company(&identity, record, asked, wanted),
            None => self.is_missing(&identity, stored, start, record, asked, wanted),
        };
        if missing {
            return Ok(());
        }
        let entry = match known {
            Some(entry) => entry,
            None => {
                let ids = &mut self.memory.ids;
                ids.entry = super::next_id(ids.entry, EntryNo::next, "entry")?;
                ids.entry
            }
        };
        let read = basis.span(record.since, record.until);
        let (wall, horizon) = (interval.clock.wall, self.config.horizon);
        let placed = clock::place(read.map(|read| read.until), wall, frame.received, horizon);
        // An impossible time tells nothing about others.
        let read = read.filter(|_| matches!(placed, Placement::Normal(_)));
        // What its first growth began after; where its node had told of it before, it is older.
        let first = known.is_none() && record.base().is_zero();
        let after = read.filter(|_| first).and_then(|read| read.since);
        let life = merging::life(start, after, read, record.flags.has(RecordFlags::END));
        let seen = Seen {
            entry,
            netns,
            zone: record.zone,
            inside: &view::inside(&record.orig),
            outside: &view::outside(&record.reply),
            life,
            fresh: record.flags.has(RecordFlags::FRESH),
            path,
            untold: false,
        };
        let Some(merging) = &mut self.memory.merging else { return Ok(()) };
        merging.link(&seen);
        if let Some(group) = merging.untold(entry) {
            wanted.whole.extend(group);
        }
        if known.is_none() {
            let path = merging.path(entry).unwrap_or_default();
            let start = start.map(|start| start.until);
            self.remember(identity, entry, path, start, frame.received);
        }
        Ok(())
    }

    /// Whether the store may know this entry, or others that lived together with it.
    fn is_missing(
        &self,
        identity: &Identity,
        stored: bool,
        start: Option<Span>,
        record: &Record,
        asked: &Asked,
        wanted: &mut Wanted,
    ) -> bool {
        let (memory, horizon) = (&self.memory, self.config.memory_horizon);
        if memory.forgotten.is_none() {
            return false;
        }
        let mut missing = false;
        let young = start.is_some_and(|start| memory.remembers(start, horizon));
        if stored && !young && !asked.absent.contains(identity) {
            wanted.find.insert(*identity);
            missing = true;
        }
        missing |= self.lacks_others(start, record, asked, wanted);
        missing
    }

    /// Whether the store may know others that lived together with an entry born at `start`.
    fn lacks_others(
        &self,
        start: Option<Span>,
        record: &Record,
        asked: &Asked,
        wanted: &mut Wanted,
    ) -> bool {
        let horizon = self.config.memory_horizon;
        let mut missing = false;
        if !start.is_some_and(|start| self.memory.remembers_others(start, horizon)) {
            for tuple in [view::inside(&record.orig), view::outside(&record.reply)] {
                let hash = view_hash(&tuple);
                if !asked.views.contains(&hash) {
                    wanted.views.insert(hash);
                    missing = true;
                }
            }
        }
        missing
    }

    /// The same of an entry that was read from the store: once.
    fn lacks_company(
        &self,
        identity: &Identity,
        record: &Record,
        asked: &Asked,
        wanted: &mut Wanted,
    ) -> bool {
        let entry = self.memory.entries.find(identity).and_then(|at| self.memory.entries.get(at));
        let alone = entry.filter(|entry| self.may_lack_company(entry, identity, asked));
        alone.is_some_and(|entry| self.lacks_others(begun(entry), record, asked, wanted))
    }

    /// Whether the store may know others that lived together with an entry that was read from it.
    fn may_lack_company(&self, entry: &Entry, identity: &Identity, asked: &Asked) -> bool {
        let (memory, horizon) = (&self.memory, self.config.memory_horizon);
        let old = || !begun(entry).is_some_and(|start| memory.remembers_others(start, horizon));
        !entry.accompanied
            && memory.unheard.is_some()
            && !asked.answered.contains(identity)
            && old()
    }

    /// Entries of groups that count together may be silent: nobody has asked for their company.
    fn find_unaccompanied(&self, asked: &Asked, wanted: &mut Wanted) {
        if wanted.whole.is_empty() {
            return;
        }
        for (_, identity, entry) in self.memory.entries.iter() {
            // One that the store does not have was linked with all its company.
            if entry.stored
                && wanted.whole.contains(&entry.entry)
                && self.may_lack_company(entry, identity, asked)
            {
                wanted.find.insert(*identity);
            }
        }
    }

    /// Takes an entry into memory that the store does not have yet.
    fn remember(
        &mut self,
        identity: Identity,
        entry: EntryNo,
        path: PathNo,
        start: Option<UnixNanos>,
        now: UnixNanos,
    ) {
        let entry = Entry {
            entry,
            path,
            count: EntryCount { start, ..EntryCount::default() },
            counted: Counted::Known,
            stored: false,
            accompanied: true,
            seen: now,
            touched: now,
            ended: None,
        };
        self.memory.entries.add(identity, entry);
    }

    /// Whether these frames bring an observer with which a domain has two; those of frames that
    /// were here before and are not committed yet are not forgotten.
    fn becomes_shared(&mut self, frames: &[Frame]) -> bool {
        let mut others = false;
        for frame in frames {
            let Body::Batch { records, .. } = &frame.body else { continue };
            let mut last = None;
            for record in records {
                if last.replace(record.netns) != Some(record.netns) {
                    others |= self.memory.meet(&frame.node, record.netns);
                }
            }
        }
        if let Some(settings) = self.config.merge.as_ref().filter(|_| others) {
            let shared = merging::is_shared(&settings.domains, self.memory.observers());
            self.memory.shared |= shared;
        }
        self.memory.shared
    }
}

/// When an entry that was read from the store began.
fn begun(entry: &Entry) -> Option<Span> {
    let start = entry.count.start?;
    Some(Span { since: None, until: start, slack: WALL_SLACK })
}
