//! Merging as the counter runs it: who observes what, and the groups of entries that several
//! observers see.
//!
//! It begins when a domain has a second observer: until then growth is what is counted, and
//! nothing of this is in memory.

use std::sync::Arc;
use std::time::Duration;

use flow::clock::{Span, WALL_SLACK};
use flow::entry::Zone;
use flow::merge::{EntryRef, Label, Life, MergeConfig, Merger, Observer, Sighting};
use flow::{NetnsId, NodeName, Tuple, UnixNanos};
use hashbrown::{HashMap, HashSet};

use super::domains::{Domains, Sides};
use crate::store::row::{EntryNo, NetnsNo, ObserverRow, PathNo};

type State = foldhash::fast::RandomState;

/// How flows that several observers see are counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeSettings {
    /// In which networks hosts see.
    pub domains: Arc<Domains>,
    /// Bounds.
    pub limits: MergeConfig,
    /// Drawn at random where hosts may be hostile: by it views are found.
    pub seed: [u64; 2],
}

/// An entry as linking sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'t> {
    pub(super) entry: EntryNo,
    pub(super) netns: NetnsNo,
    pub(super) zone: Zone,
    pub(super) inside: &'t Tuple,
    pub(super) outside: &'t Tuple,
    pub(super) life: Life,
    pub(super) fresh: bool,
    /// Its path, where it has one.
    pub(super) path: Option<PathNo>,
    /// The store may have rows of it that the group has not been told of.
    pub(super) untold: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Merging {
    domains: Arc<Domains>,
    sides: HashMap<NetnsNo, Sides, State>,
    pub(super) merger: Merger,
}

impl Merging {
    pub(super) fn new(settings: &MergeSettings, last: PathNo) -> Self {
        let MergeSettings { domains, limits, seed } = settings;
        let merger = Merger::new(*limits, *seed, Label(last.0));
        Self { domains: Arc::clone(domains), sides: HashMap::default(), merger }
    }

    /// Notes an observer.
    pub(super) fn observe(&mut self, netns: NetnsNo, node: &NodeName) {
        if !self.sides.contains_key(&netns) {
            self.sides.insert(netns, self.domains.of(node));
        }
    }

    /// The domains of a node.
    pub(super) fn sides(&self, node: &NodeName) -> Sides {
        self.domains.of(node)
    }

    /// Links an entry.
    pub(super) fn link(&mut self, seen: &Seen<'_>) {
        let observer = observer(seen.netns);
        let sides = self.sides.get(&seen.netns).copied().unwrap_or_default();
        let entry = entry_ref(seen.entry);
        self.merger.link(&Sighting {
            entry,
            observer,
            zone: seen.zone.0,
            views: self.domains.views(sides, observer, seen.inside, seen.outside),
            life: seen.life,
            fresh: seen.fresh,
            label: seen.path.map(|path| Label(path.0)),
            told: !seen.untold,
        });
    }

    /// Links an entry that the store has, last heard of at `touched` or before.
    pub(super) fn recall(&mut self, row: &ObserverRow, touched: UnixNanos) {
        let life = Life {
            start: row.start,
            after: None,
            until: Some(row.ended.unwrap_or(touched)),
            slack: WALL_SLACK,
            ended: row.ended.is_some(),
        };
        self.link(&Seen {
            entry: row.entry,
            netns: row.netns,
            zone: row.zone,
            inside: &row.inside,
            outside: &row.outside,
            life,
            fresh: row.fresh,
            path: Some(row.path),
            untold: true,
        });
    }

    /// The entries of a group that must be told of before this one can be counted.
    pub(super) fn untold(&self, entry: EntryNo) -> Option<impl Iterator<Item = EntryNo>> {
        let group = self.merger.untold(entry_ref(entry))?;
        Some(group.map(|entry| EntryNo(entry.0)))
    }

    /// Whether an entry is in a group. Those that ended may have left theirs to make room.
    pub(super) fn has(&self, entry: EntryNo) -> bool {
        self.merger.group_of(entry_ref(entry)).is_some()
    }

    /// An entry's path now.
    pub(super) fn path(&self, entry: EntryNo) -> Option<PathNo> {
        self.merger.label(entry_ref(entry)).map(|label| PathNo(label.0))
    }

    /// Forgets the groups all of whose entries are in `old`: which entries those were, and which
    /// stay without them.
    pub(super) fn evict(&mut self, old: &HashSet<EntryNo, State>) -> [HashSet<EntryNo, State>; 2] {
        let gone = self.merger.evict(|entry| !old.contains(&EntryNo(entry.0)));
        [gone.entries, gone.bereft]
            .map(|entries| entries.into_iter().map(|entry| EntryNo(entry.0)).collect())
    }
}

/// When an entry lived, by one record of it.
pub(super) fn life(
    start: Option<Span>,
    after: Option<UnixNanos>,
    read: Option<Span>,
    ended: bool,
) -> Life {
    Life {
        start: start.map(|start| start.until),
        after,
        until: read.map(|read| read.until),
        slack: read.map_or(Duration::ZERO, |read| read.slack),
        ended,
    }
}

pub(super) const fn entry_ref(entry: EntryNo) -> EntryRef {
    EntryRef(entry.0)
}

const fn observer(netns: NetnsNo) -> Observer {
    Observer(netns.0.cast_unsigned())
}

/// Whether two of these observers share a domain: two nodes, or two namespaces of one boot.
pub(super) fn is_shared<'n>(
    domains: &Domains,
    observers: impl Iterator<Item = (&'n NodeName, NetnsId)>,
) -> bool {
    let mut seen = HashMap::<_, (&NodeName, HashMap<_, NetnsId, State>), State>::default();
    for (node, netns) in observers {
        let Sides { inside, outside } = domains.of(node);
        for domain in [inside, outside] {
            let (first, boots) = seen.entry(domain).or_insert_with(|| (node, HashMap::default()));
            let other = *boots.entry(netns.boot).or_insert(netns);
            if *first != node || other != netns {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use flow::{BootId, NetnsInode};

    use super::*;

    #[test]
    fn a_reboot_is_no_second_observer() {
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let netns = |inode, boot| NetnsId { inode: NetnsInode(inode), boot: BootId([boot; 16]) };
        let shared = |observers: &[(&NodeName, NetnsId)]| {
            is_shared(&Domains::default(), observers.iter().copied())
        };
        assert!(!shared(&[]));
        assert!(!shared(&[(&a, netns(1, 1)), (&a, netns(9, 2))]));
        assert!(shared(&[(&a, netns(1, 1)), (&a, netns(2, 1))]));
        assert!(shared(&[(&a, netns(1, 1)), (&b, netns(1, 1))]));
    }
}
