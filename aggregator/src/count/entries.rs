//! Entries in memory: found by identity once a record, then known by their place.

use flow::UnixNanos;
use hashbrown::HashTable;
use std::hash::BuildHasher as _;

use super::memory::Entry;
use crate::store::row::Identity;

/// Where an entry stands, for as long as nothing is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(u32);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Places by the hash of their identity.
    index: HashTable<u32>,
    entries: Vec<(Identity, Entry)>,
    state: foldhash::fast::RandomState,
}

impl Entries {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn reserve(&mut self, more: usize) {
        let Self { index, entries, state } = self;
        entries.reserve(more);
        index.reserve(more, |at| rehash(state, entries, *at));
    }

    pub(super) fn find(&self, identity: &Identity) -> Option<Place> {
        let same = |at: &u32| self.at(*at).is_some_and(|(other, _)| other == identity);
        self.index.find(self.state.hash_one(identity), same).copied().map(Place)
    }

    /// The entry at a place.
    pub(super) fn get(&self, place: Place) -> Option<&Entry> {
        self.at(place.0).map(|(_, entry)| entry)
    }

    pub(super) fn set(&mut self, place: Place, to: Entry) {
        if let Some((_, entry)) = index(place.0).and_then(|at| self.entries.get_mut(at)) {
            *entry = to;
        }
    }

    /// The entry of this identity, to be changed.
    pub(super) fn find_mut(&mut self, identity: &Identity) -> Option<&mut Entry> {
        let Place(at) = self.find(identity)?;
        self.entries.get_mut(index(at)?).map(|(_, entry)| entry)
    }

    /// Adds an entry that is not here. There is room for 2^32 - 1; what is beyond is not kept, as
    /// if it had been forgotten at once.
    pub(super) fn add(&mut self, identity: Identity, entry: Entry) {
        let Ok(at) = u32::try_from(self.entries.len()) else { return };
        let Self { index, entries, state } = self;
        entries.push((identity, entry));
        index.insert_unique(state.hash_one(identity), at, |at| rehash(state, entries, *at));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, &Identity, &Entry)> {
        (0..)
            .map(Place)
            .zip(&self.entries)
            .map(|(place, (identity, entry))| (place, identity, entry))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().map(|(_, entry)| entry)
    }

    /// Forgets those that `keep` refuses; places may be others then. Gives the latest first sight
    /// among the forgotten, and the latest word.
    pub(super) fn retain(
        &mut self,
        keep: impl Fn(&Entry) -> bool,
    ) -> Option<(UnixNanos, UnixNanos)> {
        let mut forgotten = None;
        let mut at = 0;
        while let Some((_, entry)) = self.entries.get(at) {
            if keep(entry) {
                at += 1;
            } else {
                let (seen, heard) = forgotten.unwrap_or((entry.seen, entry.touched));
                forgotten = Some((seen.max(entry.seen), heard.max(entry.touched)));
                self.remove(at);
            }
        }
        forgotten
    }

    /// Removes the entry at `at`; the last one takes its place.
    fn remove(&mut self, at: usize) {
        let last = self.entries.len().saturating_sub(1);
        let (removed, _) = self.entries.swap_remove(at);
        self.place_of(&removed, at, None);
        if let Some((moved, _)) = self.entries.get(at).copied() {
            self.place_of(&moved, last, Some(at));
        }
    }

    /// Says where the entry stands that stood at `from`, or that it is gone.
    fn place_of(&mut self, identity: &Identity, from: usize, to: Option<usize>) {
        let hash = self.state.hash_one(identity);
        let Ok(mut found) = self.index.find_entry(hash, |at| index(*at) == Some(from)) else {
            return;
        };
        match to.and_then(|to| u32::try_from(to).ok()) {
            Some(to) => *found.get_mut() = to,
            None => drop(found.remove()),
        }
    }

    fn at(&self, at: u32) -> Option<&(Identity, Entry)> {
        self.entries.get(index(at)?)
    }
}

fn index(at: u32) -> Option<usize> {
    usize::try_from(at).ok()
}

fn rehash(state: &foldhash::fast::RandomState, entries: &[(Identity, Entry)], at: u32) -> u64 {
    index(at).and_then(|at| entries.get(at)).map_or(0, |(identity, _)| state.hash_one(identity))
}

#[cfg(test)]
mod tests {
    use flow::count::EntryCount;
    use flow::entry::Zone;
    use flow::{Birth, Proto, Tuple};

    use super::super::memory::Counted;
    use super::*;
    use crate::store::row::{EntryNo, NetnsNo, PathNo};

    fn identity(n: u16) -> Identity {
        let addr = |port| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let orig = Tuple::ports(Proto::UDP, addr(n), addr(53));
        Identity { netns: NetnsNo(1), zone: Zone(0), birth: Birth::Start(7), orig }
    }

    fn entry(n: u16) -> Entry {
        Entry {
            entry: EntryNo(n.into()),
            path: PathNo(1),
            count: EntryCount::default(),
            counted: Counted::Known,
            stored: true,
            accompanied: true,
            seen: UnixNanos(n.into()),
            touched: UnixNanos(n.into()),
            ended: None,
        }
    }

    #[test]
    fn entries_are_found_after_others_were_forgotten() {
        let mut all = Entries::default();
        for n in 0..1_000 {
            assert_eq!(all.find(&identity(n)), None);
            all.add(identity(n), entry(n));
        }
        let place = all.find(&identity(500)).unwrap();
        all.set(place, Entry { touched: UnixNanos(5_000), ..entry(500) });
        let odd = |entry: &Entry| entry.entry.0 % 2 == 1 || entry.touched.0 == 5_000;
        assert_eq!(all.retain(odd), Some((UnixNanos(998), UnixNanos(998))));
        assert_eq!(all.len(), 501);
        for n in 0..1_000 {
            let found = all.find(&identity(n)).and_then(|place| all.get(place));
            let expected = (n % 2 == 1 || n == 500).then_some(i64::from(n));
            assert_eq!(found.map(|entry| entry.entry.0), expected);
        }
        assert_eq!(all.retain(|_| true), None);
        assert_eq!(all.iter().count(), 501);
    }
}
