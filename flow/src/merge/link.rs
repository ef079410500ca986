//! Linking: which entries are counted together. Memory only; nothing stored is ever changed here.

use super::group::{Group, Member};
use super::vantage::Vantage;
use super::{EntryRef, GroupNo, Label, Merger, Sighting, ViewId};

impl Merger {
    /// An entry's first record: the nearest group that it may belong to, or a new one. Others that
    /// it belongs to as well become one with that.
    pub(super) fn link_first(&mut self, sighting: &Sighting, ids: &[ViewId; 2]) -> GroupNo {
        self.stats.first_sights += 1;
        let vantage = vantage(sighting, ids);
        let mut candidates = self.candidates(sighting, ids, None);
        candidates.sort_by_key(|no| {
            let group = self.group(*no);
            let distance = group.and_then(|group| group.distance(sighting.life.start));
            (distance.unwrap_or(u64::MAX), *no)
        });
        let home = match candidates.iter().copied().find(|no| self.makes_room(*no, 1)) {
            Some(no) => no,
            None => {
                self.stats.crowded += u64::from(!candidates.is_empty());
                for no in candidates.iter().filter(|_| !sighting.told) {
                    if let Some(group) = self.group_mut(*no) {
                        group.partial = true;
                    }
                }
                self.begin()
            }
        };
        let group = self.group(home);
        let label = sighting
            .label
            .or_else(|| group?.label_for(sighting.observer, &sighting.life, sighting.fresh));
        let label = label.unwrap_or_else(|| {
            self.label = Label(self.label.0.saturating_add(1));
            self.label
        });
        let views: Vec<(ViewId, bool)> = sighting
            .views
            .iter()
            .zip(ids.iter().copied())
            .map(|(view, id)| (id, view.backward))
            .collect();
        if let Some(group) = self.group_mut(home) {
            let flip = group.flip_of(&views);
            let lane = group.lane(&vantage);
            group.members.push(Member {
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
                if !group.views.iter().any(|(known, _)| *known == view) {
                    group.views.push((view, backward ^ flip));
                }
            }
        }
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
        if let Some(group) = self.group_mut(home) {
            let own = |member: &&mut Member| member.entry == sighting.entry;
            if let Some(member) = group.members.iter_mut().find(own) {
                member.life.extend(&sighting.life);
                member.waits = true;
            }
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
        let life = home
            .and_then(|no| self.group(no)?.member(sighting.entry))
            .map_or(sighting.life, |member| member.life);
        let mut found: Vec<GroupNo> = Vec::new();
        let mut conflicts = 0;
        let different = if ids[0] == ids[1] { 1 } else { 2 };
        for no in ids.iter().take(different).filter_map(|id| self.by_view.get(id)).flatten() {
            if Some(*no) == home || found.contains(no) {
                continue;
            }
            let Some(group) = self.group(*no) else { continue };
            if !group.overlaps(&life) {
                continue;
            }
            if group.contradicts(&vantage) {
                conflicts += 1;
            } else {
                found.push(*no);
            }
        }
        self.stats.conflicts += conflicts;
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
            if one.contradicts_group(two) {
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
        let Some(group) = self.group_mut(no) else { return false };
        if group.members.len() + more > most {
            // Some more, so that this is rare.
            for entry in group.retire((most / 2).min(most.saturating_sub(more))) {
                self.by_entry.remove(&entry);
            }
        }
        self.group(no).is_some_and(|group| group.members.len() + more <= most)
    }

    fn join(&mut self, into: GroupNo, from: GroupNo) -> GroupNo {
        let Some(gone) = self.slot(from).and_then(Option::take) else { return into };
        self.stats.merged += 1;
        self.free.push(from);
        for member in &gone.members {
            self.by_entry.insert(member.entry, into);
        }
        let views: Vec<ViewId> = gone.views.iter().map(|(view, _)| *view).collect();
        self.forget_views(from, &views);
        if let Some(group) = self.group_mut(into) {
            let turn = group.flip_of(&gone.views);
            group.absorb(gone, turn);
        }
        self.index(into, &views);
        into
    }

    fn begin(&mut self) -> GroupNo {
        if let Some(no) = self.free.pop() {
            if let Some(slot) = self.slot(no) {
                *slot = Some(Group::default());
            }
            return no;
        }
        let no = GroupNo(u32::try_from(self.groups.len()).unwrap_or(u32::MAX));
        self.groups.push(Some(Group::default()));
        no
    }

    /// Lets `no` be found by these views.
    fn index(&mut self, no: GroupNo, views: &[ViewId]) {
        for view in views {
            let groups = self.by_view.entry(*view).or_default();
            if groups.contains(&no) {
                continue;
            }
            groups.push(no);
            if groups.len() > self.config.groups_a_view {
                // The first is the one that was found by this view for longest.
                groups.remove(0);
                self.stats.crowded += 1;
            }
        }
    }

    fn forget_views(&mut self, no: GroupNo, views: &[ViewId]) {
        for view in views {
            if let Some(groups) = self.by_view.get_mut(view) {
                groups.retain(|known| *known != no);
                if groups.is_empty() {
                    self.by_view.remove(view);
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
            if group.members.iter().any(|member| keep(member.entry)) {
                continue;
            }
            let Some(gone) = self.slot(no).and_then(Option::take) else { continue };
            let begin = views.len();
            views.extend(gone.views.iter().map(|(view, _)| *view));
            self.forget_views(no, views.get(begin..).unwrap_or_default());
            for member in gone.members {
                self.by_entry.remove(&member.entry);
                evicted.entries.push(member.entry);
            }
            self.free.push(no);
        }
        let left = views.iter().filter_map(|view| self.by_view.get(view)).flatten();
        let left = left.filter_map(|no| self.group(*no)).flat_map(|group| &group.members);
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

impl Group {
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
