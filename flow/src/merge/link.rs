//! Linking: which entries are counted together. Memory only; nothing stored is ever changed here.

use hashbrown::hash_map::Entry;

use super::group::{Era, Group, Member};
use super::packed::Packed;
use super::sharers::Sharers;
use super::vantage::Vantage;
use super::{EntryRef, GroupNo, Label, Merger, Room, Sighting, ViewId, packed_mut};
use crate::units::UnixNanos;

impl Merger {
    /// An entry's first record: the nearest group that it may belong to, or a new one. Others that
    /// it belongs to as well become one with that.
    pub(super) fn link_first(&mut self, sighting: &Sighting, ids: &[ViewId; 2]) -> GroupNo {
        self.stats.first_sights += 1;
        let vantage = vantage(sighting, ids);
        let mut candidates = self.candidates(sighting, ids, None);
        if candidates.len() > 1 {
            candidates.sort_by_cached_key(|no| {
                let group = self.group(*no);
                let distance = group.and_then(|group| group.distance(sighting.life.start));
                (distance.unwrap_or(u64::MAX), *no)
            });
        }
        let home = match candidates.iter().copied().find(|no| self.makes_room(*no, 1)) {
            Some(no) => no,
            None => {
                self.stats.crowded += u64::from(!candidates.is_empty());
                for no in candidates.iter().filter(|_| !sighting.told) {
                    self.change(*no, |group| group.partial = true);
                }
                self.begin()
            }
        };
        let (mut last, given) = (self.label, sighting.label);
        self.change(home, |group| {
            let Sighting { observer, life, fresh, .. } = sighting;
            let label = given.or_else(|| group.label_for(*observer, life, *fresh));
            let label = label.unwrap_or_else(|| {
                last = Label(last.0.saturating_add(1));
                last
            });
            group.join(sighting, vantage, label, ids);
        });
        self.label = last;
        self.by_entry.insert(sighting.entry, home);
        self.index(home, ids);
        self.join_all(home, candidates)
    }

    /// A later record: groups that the entry has begun to overlap with become one with its own.
    pub(super) fn link_again(
        &mut self,
        home: GroupNo,
        sighting: &Sighting,
        ids: &[ViewId; 2],
    ) -> GroupNo {
        let Room { group, bytes, .. } = self.room.as_mut();
        if let Some(packed) = packed_mut(&mut self.groups, home) {
            packed.extend((group, bytes), sighting.entry, &sighting.life);
        }
        let candidates = self.candidates(sighting, ids, Some(home));
        self.join_all(home, candidates)
    }

    /// Groups that share a view with the entry, overlap in life, and do not contradict it.
    fn candidates(
        &mut self,
        sighting: &Sighting,
        ids: &[ViewId; 2],
        home: Option<GroupNo>,
    ) -> Vec<GroupNo> {
        let vantage = vantage(sighting, ids);
        let mut life = None;
        let mut found: Vec<GroupNo> = Vec::new();
        let (mut conflicts, mut crowded) = (0, false);
        let different = if ids[0] == ids[1] { 1 } else { 2 };
        let sharers = ids.iter().take(different).filter_map(|id| self.by_view.get(id));
        for no in sharers.flat_map(Sharers::all) {
            if Some(*no) == home || found.contains(no) {
                continue;
            }
            let Some(group) = self.group(*no) else { continue };
            // Nobody can join it, so it is passed over; but not by an entry that the store has rows
            // of, which leaves a note in the groups that have no room for it.
            if sighting.told && group.is_crowded(self.config.members) {
                crowded = true;
                continue;
            }
            let known = || home.and_then(|no| self.group(no)?.member(sighting.entry));
            let life = life.get_or_insert_with(|| known().map_or(sighting.life, |own| own.life));
            let (mut era, mut contradicts) = (Era::NONE, false);
            for member in group.members() {
                era = era.with(&member.life);
                contradicts |= member.vantage.contradicts(&vantage);
            }
            if !era.overlaps(life) {
                continue;
            }
            if contradicts {
                conflicts += 1;
            } else {
                found.push(*no);
            }
        }
        self.stats.conflicts += conflicts;
        self.stats.crowded += u64::from(crowded && home.is_none() && found.is_empty());
        found
    }

    /// Makes the groups one with `home`, as far as none contradicts another. The smaller number
    /// stays.
    fn join_all(&mut self, mut home: GroupNo, others: Vec<GroupNo>) -> GroupNo {
        for other in others {
            if other == home {
                continue;
            }
            let (Some(one), Some(two)) = (self.group(home), self.group(other)) else { continue };
            let (one, two) = (one.open(), two.open());
            if one.contradicts_group(&two) {
                self.stats.conflicts += 1;
                continue;
            }
            let (large, small) = match (one.members.len(), two.members.len()) {
                (one, two) if one < two => (other, one),
                (_, two) => (home, two),
            };
            if !self.makes_room(large, small) {
                self.stats.crowded += 1;
                continue;
            }
            home = self.join(home.min(other), home.max(other));
        }
        home
    }

    /// Whether so many entries more fit into a group, once those that ended long ago have left it.
    fn makes_room(&mut self, no: GroupNo, more: usize) -> bool {
        let most = self.config.members;
        let fits = |group: &Packed| group.len() + more <= most;
        let Some(group) = self.group(no) else { return false };
        if fits(group) {
            return true;
        }
        // Some more, so that this is rare.
        let left = (most / 2).min(most.saturating_sub(more));
        for entry in self.change(no, |group| group.retire(left)).unwrap_or_default() {
            self.by_entry.remove(&entry);
        }
        self.group(no).is_some_and(fits)
    }

    fn join(&mut self, into: GroupNo, from: GroupNo) -> GroupNo {
        let Some(gone) = self.slot(from).and_then(Option::take) else { return into };
        let gone = gone.open();
        self.stats.merged += 1;
        self.free.push(from);
        for member in &gone.members {
            self.by_entry.insert(member.entry, into);
        }
        let views: Vec<ViewId> = gone.views.iter().map(|(view, _)| *view).collect();
        self.forget_views(from, &views);
        self.change(into, |group| {
            let turn = group.flip_of(&gone.views);
            group.absorb(gone, turn);
        });
        self.index(into, &views);
        into
    }

    fn begin(&mut self) -> GroupNo {
        if let Some(no) = self.free.pop() {
            if let Some(slot) = self.slot(no) {
                *slot = Some(Packed::default());
            }
            return no;
        }
        let no = GroupNo(u32::try_from(self.groups.len()).unwrap_or(u32::MAX));
        self.groups.push(Some(Packed::default()));
        no
    }

    /// Lets `no` be found by these views.
    fn index(&mut self, no: GroupNo, views: &[ViewId]) {
        for view in views {
            match self.by_view.entry(*view) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Sharers::One(no));
                }
                Entry::Occupied(sharers) if sharers.get().all().contains(&no) => {}
                Entry::Occupied(mut sharers) => {
                    let sharers = sharers.get_mut();
                    sharers.add(no);
                    if let [first, ..] = *sharers.all()
                        && sharers.all().len() > self.config.groups_a_view
                        && let Some(left) = sharers.without(first)
                    {
                        *sharers = left;
                        self.stats.crowded += 1;
                    }
                }
            }
        }
    }

    fn forget_views(&mut self, no: GroupNo, views: &[ViewId]) {
        for view in views {
            if let Entry::Occupied(mut sharers) = self.by_view.entry(*view) {
                match sharers.get().without(no) {
                    Some(left) => *sharers.get_mut() = left,
                    None => drop(sharers.remove()),
                }
            }
        }
    }

    /// Forgets groups of which `keep` says so for no entry.
    pub fn evict(&mut self, mut keep: impl FnMut(EntryRef) -> bool) -> Evicted {
        let mut evicted = Evicted::default();
        let mut views = Vec::new();
        for at in 0..self.groups.len() {
            let Ok(no) = u32::try_from(at).map(GroupNo) else { break };
            let Some(group) = self.group(no) else { continue };
            if group.members().any(|member| keep(member.entry)) {
                continue;
            }
            let Some(gone) = self.slot(no).and_then(Option::take) else { continue };
            let begin = views.len();
            views.extend(gone.views());
            self.forget_views(no, views.get(begin..).unwrap_or_default());
            for member in gone.members() {
                self.by_entry.remove(&member.entry);
                evicted.entries.push(member.entry);
            }
            self.free.push(no);
        }
        let left = views.iter().filter_map(|view| self.by_view.get(view)).flat_map(Sharers::all);
        let left = left.filter_map(|no| self.group(*no)).flat_map(Packed::members);
        evicted.bereft.extend(left.map(|member| member.entry));
        evicted
    }
}

/// What eviction forgot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// The entries forgotten.
    pub entries: Vec<EntryRef>,
    /// Entries that stay, and share a view with some of them: should these turn out to overlap
    /// them in life, nobody here would know.
    pub bereft: Vec<EntryRef>,
}

impl Packed {
    /// How far the start of the nearest entry is from `start`, where both are known.
    fn distance(&self, start: Option<UnixNanos>) -> Option<u64> {
        let start = start?;
        let starts = self.members().filter_map(|member| member.life.start);
        starts.map(|other| other.0.abs_diff(start.0)).min()
    }

    fn member(&self, entry: EntryRef) -> Option<Member> {
        self.members().find(|member| member.entry == entry)
    }
}

impl Group {
    /// Takes an entry in.
    fn join(&mut self, sighting: &Sighting, vantage: Vantage, label: Label, ids: &[ViewId; 2]) {
        let views = sighting.views.iter().zip(ids.iter().copied());
        let views: Vec<(ViewId, bool)> = views.map(|(view, id)| (id, view.backward)).collect();
        let flip = self.flip_of(&views);
        let lane = self.lane(&vantage);
        self.members.push(Member {
            entry: sighting.entry,
            vantage,
            label,
            lane,
            flip,
            life: sighting.life,
            grown: None,
            told: sighting.told,
            waits: sighting.told,
        });
        for (view, backward) in views {
            if !self.views.iter().any(|(known, _)| *known == view) {
                self.views.push((view, backward ^ flip));
            }
        }
    }

    /// Whether something with these views runs against the group's direction.
    pub(super) fn flip_of(&self, views: &[(ViewId, bool)]) -> bool {
        let shared = views.iter().find_map(|(view, backward)| {
            let (_, ours) = self.views.iter().find(|(known, _)| known == view)?;
            Some(*ours != *backward)
        });
        shared.unwrap_or(false)
    }
}

fn vantage(sighting: &Sighting, ids: &[ViewId; 2]) -> Vantage {
    let Sighting { observer, zone, .. } = *sighting;
    Vantage { observer, zone, inside: ids[0], outside: ids[1] }
}
