//! Merging: a flow that several hosts see is counted once.
//!
//! Two hosts on a path report the same packets. Which of their readings are the same packets
//! cannot be seen; what can be known is when each reading grew. So:
//!
//! - *Link* ([`Merger::link`]): entries that share a view of a flow and overlap in life form a
//!   *group*, what is counted together. It happens when a record arrives, and in memory only.
//! - *Count* ([`Merger::count`]): a group's total is the heaviest chain of growths that cannot be
//!   the same packets ([`segment::heaviest`]). A record counts for what it raises the total by.
//!   Counting drafts; [`Merger::apply`] takes the draft once it is committed.
//!
//! The total never exceeds what passed, is never less than what the best single host saw, and does
//! not depend on the order in which hosts deliver, nor on repetition, delay or crashes. What it
//! costs: where a flow moves from one host to another in the middle of a reading interval, at most
//! the smaller one of the two growths that overlap.
//!
//! A *label* names one generation of a flow, for people: a group may contain several.

mod group;
mod history;
mod link;
mod packed;
pub mod segment;
mod sharers;
mod vantage;
pub mod view;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::clock::Span;
use crate::counters::Counters;

use group::Group;
pub use group::{Alias, Counted, Life, TakenBack};
pub use history::Told;
pub use link::Evicted;
use packed::Packed;
use segment::Pass;
pub use segment::{Lane, Segment};
use sharers::Sharers;
pub use view::{Domain, Observer, Scope, View, ViewKey, Views};

type State = foldhash::fast::RandomState;

/// An entry, by a number of the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryRef(pub i64);

/// One generation of a flow on the network, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(pub i64);

/// A group's number in one merger; given again to others once it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNo(u32);

/// A view key in 128 bits, keyed by the merger's seed, so that nobody outside can make two meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ViewId(u128);

/// Bounds of merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeConfig {
    /// Segments kept of an entry and direction.
    pub segments: usize,
    /// Groups that may share a view. Over it the one that was silent for longest is found by this
    /// view no more.
    pub groups_a_view: usize,
    /// Entries of a group. Those that ended longest ago make room for others; where all live, one
    /// that would be more is counted by itself.
    pub members: usize,
}

impl Default for MergeConfig {
    fn default() -> Self {
        Self { segments: Lane::SEGMENTS, groups_a_view: 64, members: 64 }
    }
}

/// A record, as far as linking looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its entry.
    pub entry: EntryRef,
    /// Who saw it.
    pub observer: Observer,
    /// In which conntrack zone.
    pub zone: u16,
    /// How the flow looks there.
    pub views: Views,
    /// When the entry lived, by this record.
    pub life: Life,
    /// A TCP entry born by a SYN.
    pub fresh: bool,
    /// Its label, where it has one already.
    pub label: Option<Label>,
    /// Nothing of it has been counted before; else its history must be told
    /// ([`Merger::rebuild`]) before it can be counted together with others.
    pub told: bool,
}

/// What linking did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Entries seen first.
    pub first_sights: u64,
    /// Groups that turned out to be one with another.
    pub merged: u64,
    /// Groups kept apart because translations contradict each other.
    pub conflicts: u64,
    /// Entries counted by themselves, or groups not found by a view any more, because of bounds.
    pub crowded: u64,
}

/// Groups, and how entries find them. See the module's text.
#[derive(Debug)]
pub struct Merger {
    config: MergeConfig,
    seed: [foldhash::quality::FixedState; 2],
    groups: Vec<Option<Packed>>,
    free: Vec<GroupNo>,
    /// Which groups have a view.
    by_view: HashMap<ViewId, Sharers, State>,
    by_entry: HashMap<EntryRef, GroupNo, State>,
    /// The last label given out.
    label: Label,
    stats: LinkStats,
    room: Box<Room>,
}

/// Room to unpack, change and pack one group.
#[derive(Debug, Default)]
struct Room {
    group: Group,
    bytes: Vec<u8>,
    pass: Pass,
}

/// What counting changed, not committed yet.
#[derive(Debug, Default)]
pub struct MergeDraft {
    groups: HashMap<GroupNo, Packed, State>,
    aliases: Vec<Alias>,
    room: Box<Room>,
}

impl MergeDraft {
    /// Labels that are others from now on, to be written with what was counted.
    #[must_use]
    pub fn take_aliases(&mut self) -> Vec<Alias> {
        std::mem::take(&mut self.aliases)
    }
}

impl Merger {
    /// An empty merger. `seed` is drawn at random where hosts may be hostile; `label` is the last
    /// label in use.
    #[must_use]
    pub fn new(config: MergeConfig, seed: [u64; 2], label: Label) -> Self {
        Self {
            config,
            seed: seed.map(foldhash::quality::FixedState::with_seed),
            groups: Vec::new(),
            free: Vec::new(),
            by_view: HashMap::default(),
            by_entry: HashMap::default(),
            label,
            stats: LinkStats::default(),
            room: Box::default(),
        }
    }

    /// Links a record's entry: finds its group, or begins one, and joins groups that turn out to
    /// be one through it. Never call it between [`Merger::count`] and [`Merger::apply`].
    pub fn link(&mut self, sighting: &Sighting) -> GroupNo {
        let ids = self.ids(&sighting.views);
        match self.by_entry.get(&sighting.entry).copied() {
            Some(no) => self.link_again(no, sighting, &ids),
            None => self.link_first(sighting, &ids),
        }
    }

    /// The label of an entry.
    #[must_use]
    pub fn label(&self, entry: EntryRef) -> Option<Label> {
        let group = self.group(*self.by_entry.get(&entry)?)?;
        Some(group.members().find(|member| member.entry == entry)?.label)
    }

    /// The last label given out.
    #[must_use]
    pub const fn last_label(&self) -> Label {
        self.label
    }

    /// The group of an entry.
    #[must_use]
    pub fn group_of(&self, entry: EntryRef) -> Option<GroupNo> {
        self.by_entry.get(&entry).copied()
    }

    /// Whether two entries are counted together.
    #[must_use]
    pub fn together(&self, one: EntryRef, other: EntryRef) -> bool {
        self.group_of(one).is_some() && self.group_of(one) == self.group_of(other)
    }

    /// Drafts what a reading of `entry` counts for: `growth` is what it adds to its own entry, in
    /// the time `span`; `before` is a draft that is not committed yet and comes first.
    pub fn count(
        &self,
        draft: &mut MergeDraft,
        before: Option<&MergeDraft>,
        entry: EntryRef,
        growth: Counters,
        span: Option<Span>,
    ) -> Counted {
        let all = || Counted { counted: growth, ..Counted::default() };
        let Some(no) = self.by_entry.get(&entry).copied() else { return all() };
        let MergeDraft { groups, aliases, room } = draft;
        let Room { group, bytes, pass } = room.as_mut();
        let limits = (self.config.segments, pass);
        match groups.entry(no) {
            Entry::Occupied(mut drafted) => {
                drafted.get().open_into(group);
                let counted = group.count(entry, growth, span, limits);
                drafted.get_mut().count(group, entry, bytes);
                counted
            }
            Entry::Vacant(vacant) => {
                let known = before.and_then(|before| before.groups.get(&no));
                let Some(known) = known.or_else(|| self.group(no)) else { return all() };
                known.open_into(group);
                aliases.append(&mut group.aliases);
                let counted = group.count(entry, growth, span, limits);
                vacant.insert(known.counted(group, entry, bytes));
                counted
            }
        }
    }

    /// Takes a committed draft.
    pub fn apply(&mut self, draft: MergeDraft) {
        for (no, group) in draft.groups {
            if let Some(slot) = self.slot(no) {
                *slot = Some(group);
            }
        }
    }

    /// What linking did since it was asked last.
    pub fn take_stats(&mut self) -> LinkStats {
        std::mem::take(&mut self.stats)
    }

    /// Groups, entries and segments in memory.
    #[must_use]
    pub fn size(&self) -> (usize, usize, usize) {
        let live = self.groups.iter().flatten();
        let segments = live.clone().map(|group| group.open().segments()).sum();
        (live.count(), self.by_entry.len(), segments)
    }

    fn group(&self, no: GroupNo) -> Option<&Packed> {
        self.groups.get(usize::try_from(no.0).ok()?)?.as_ref()
    }

    fn slot(&mut self, no: GroupNo) -> Option<&mut Option<Packed>> {
        self.groups.get_mut(usize::try_from(no.0).ok()?)
    }

    /// Changes a group.
    fn change<T>(&mut self, no: GroupNo, change: impl FnOnce(&mut Group) -> T) -> Option<T> {
        let Room { group, bytes, .. } = self.room.as_mut();
        let packed = packed_mut(&mut self.groups, no)?;
        packed.open_into(group);
        let changed = change(group);
        packed.replace(group, bytes);
        Some(changed)
    }

    fn ids(&self, views: &Views) -> [ViewId; 2] {
        let [one, other] = &self.seed;
        let id = |key: &ViewKey| {
            use std::hash::BuildHasher;
            let (high, low) = (one.hash_one(key), other.hash_one(key));
            ViewId(u128::from(high) << 64 | u128::from(low))
        };
        let inside = id(&views.inside.key);
        [inside, if views.differ() { id(&views.outside.key) } else { inside }]
    }
}

/// A group, while the room to work in is in use.
fn packed_mut(groups: &mut [Option<Packed>], no: GroupNo) -> Option<&mut Packed> {
    groups.get_mut(usize::try_from(no.0).ok()?)?.as_mut()
}
