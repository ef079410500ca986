//! What is counted together: the entries that may be one flow, their growth in time, and what of
//! it is stored already.

use std::time::Duration;

use super::segment::{Lane, Pass, Segment, heaviest};
use super::vantage::Vantage;
use super::view::Observer;
use super::{EntryRef, Label, ViewId};
use crate::clock::Span;
use crate::counters::{Counters, Tally};
use crate::units::UnixNanos;

/// When an entry lived, by the aggregator's clock, as far as its records tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its start, where that is known as a moment.
    pub start: Option<UnixNanos>,
    /// It started no earlier than this; `None` where nothing is known.
    pub after: Option<UnixNanos>,
    /// No reading of it was taken after this; `None` where its times are unknown: it may have
    /// lived at any time.
    pub until: Option<UnixNanos>,
    /// By how much these may be wrong.
    pub slack: Duration,
    /// It has ended, at `until`.
    pub ended: bool,
}

impl Life {
    /// The earliest moment it may have started; `None` is the beginning of time.
    fn earliest(&self) -> Option<UnixNanos> {
        self.until?;
        self.start.or(self.after)
    }

    /// The latest moment it may have lived; `None` is the end of time.
    fn latest(&self) -> Option<UnixNanos> {
        if self.ended { self.until } else { None }
    }

    /// This life, as `later` word of the same entry has it.
    pub(super) fn extend(&mut self, later: &Self) {
        self.start = self.start.or(later.start);
        self.after = self.after.max(later.after);
        self.ended |= later.ended;
        self.until = match (self.until, later.until) {
            (Some(this), Some(later)) => Some(this.max(later)),
            _ => None,
        };
        self.slack = self.slack.max(later.slack);
    }
}

/// The time in which the entries of a group lived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Era {
    /// The earliest moment; `None` is the beginning of time.
    earliest: Option<UnixNanos>,
    /// The latest one; `None` is the end of time.
    latest: Option<UnixNanos>,
    /// By how much these may be wrong.
    slack: Duration,
}

impl Era {
    /// That of nobody.
    pub(super) const NONE: Self = Self {
        earliest: Some(UnixNanos(i64::MAX)),
        latest: Some(UnixNanos(i64::MIN)),
        slack: Duration::ZERO,
    };

    /// This era with one life more.
    pub(super) fn with(self, life: &Life) -> Self {
        let (earliest, latest) = (life.earliest(), life.latest());
        Self {
            earliest: self.earliest.zip(earliest).map(|(one, other)| one.min(other)),
            latest: self.latest.zip(latest).map(|(one, other)| one.max(other)),
            slack: self.slack.max(life.slack),
        }
    }

    /// Whether an entry with this `life` may have lived in it.
    pub(super) fn overlaps(&self, life: &Life) -> bool {
        let margin = self.slack.saturating_add(life.slack);
        let begins_in_time = match (life.earliest(), self.latest) {
            (Some(start), Some(latest)) => start <= latest.plus(margin),
            _ => true,
        };
        // Alive as long as its end is not known, whichever of the two is told of first.
        let lasts_long_enough = match (life.latest(), self.earliest) {
            (Some(until), Some(earliest)) => until >= earliest.minus(margin),
            _ => true,
        };
        begins_in_time && lasts_long_enough
    }
}

/// An entry in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) entry: EntryRef,
    pub(super) vantage: Vantage,
    pub(super) label: Label,
    /// Its lane in the group.
    pub(super) lane: usize,
    /// Its directions are the group's the other way round.
    pub(super) flip: bool,
    pub(super) life: Life,
    /// End of its last growth.
    pub(super) grown: Option<UnixNanos>,
    /// All its growth is in its lane; else the store knows of more.
    pub(super) told: bool,
    /// It is linked by a record that has not been counted yet.
    pub(super) waits: bool,
}

/// Readings of one observer, of entries that took turns, in both of the group's directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Track {
    pub(super) orig: Lane,
    pub(super) reply: Lane,
}

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) members: Vec<Member>,
    pub(super) tracks: Vec<Track>,
    /// Views of the members, and whether the group's direction runs backward along them.
    pub(super) views: Vec<(ViewId, bool)>,
    /// C: what is stored of it, in the group's directions.
    pub(super) counted: Counters,
    /// It is the union of groups that were counted apart, and has not been counted since.
    pub(super) apart: bool,
    /// Entries of groups that were taken in while apart: what is too much is taken from these.
    pub(super) absorbed: Vec<EntryRef>,
    /// Labels that became others and are not written yet.
    pub(super) aliases: Vec<Alias>,
    /// The store knows entries of it that left it or did not fit in.
    pub(super) partial: bool,
}

/// A label that is another one's from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The label that is given up.
    pub from: Label,
    /// What it is now.
    pub to: Label,
}

/// What a reading counts for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// In the directions of the entry that was read.
    pub counted: Counters,
    /// What is stored too much since groups that were counted apart turned out to be one: to be
    /// taken back in the same change set.
    pub back: Vec<TakenBack>,
    /// More is stored than can be, though no groups were merged: counted as nothing, and a reason
    /// to look.
    pub fell: bool,
    /// The entry's label; `None` where it is not linked.
    pub label: Option<Label>,
}

/// Growth that was counted, and turned out to be others' packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenBack {
    /// The entry whose growth it was.
    pub entry: EntryRef,
    /// When it grew.
    pub span: Option<Span>,
    /// How much of it is taken back, in the entry's directions.
    pub counters: Counters,
}

impl Group {
    fn contradicts(&self, vantage: &Vantage) -> bool {
        self.members.iter().any(|member| member.vantage.contradicts(vantage))
    }

    pub(super) fn contradicts_group(&self, other: &Self) -> bool {
        other.members.iter().any(|member| self.contradicts(&member.vantage))
    }

    fn has_observer(&self, observer: Observer) -> bool {
        self.members.iter().any(|member| member.vantage.observer == observer)
    }

    pub(super) fn member(&self, entry: EntryRef) -> Option<&Member> {
        self.members.iter().find(|member| member.entry == entry)
    }

    /// The lane of entries that take turns with one seen from here.
    fn lane_of(&self, vantage: &Vantage) -> Option<usize> {
        let turns = |member: &&Member| member.vantage.takes_turns_with(vantage);
        self.members.iter().find(turns).map(|member| member.lane)
    }

    /// The same, made if there is none.
    pub(super) fn lane(&mut self, vantage: &Vantage) -> usize {
        self.lane_of(vantage).unwrap_or_else(|| {
            self.tracks.push(Track::default());
            self.tracks.len() - 1
        })
    }

    /// Takes all of `other`, whose directions run against this one's where `turn`.
    pub(super) fn absorb(&mut self, other: Self, turn: bool) {
        let may_be_counted =
            |group: &Self| !group.counted.is_zero() || group.members.iter().any(|m| !m.told);
        let apart = may_be_counted(self) && may_be_counted(&other);
        self.apart |= other.apart || apart;
        if apart {
            self.absorbed.extend(other.members.iter().map(|member| member.entry));
        }
        let counted = if turn { turned(other.counted) } else { other.counted };
        self.counted = self.counted.plus(counted);
        let mut places = Vec::with_capacity(other.tracks.len());
        for (from, Track { orig, reply }) in other.tracks.into_iter().enumerate() {
            let (orig, reply) = if turn { (reply, orig) } else { (orig, reply) };
            let mut theirs = other.members.iter().filter(|member| member.lane == from);
            let at = theirs.find_map(|member| self.lane_of(&member.vantage)).unwrap_or_else(|| {
                self.tracks.push(Track::default());
                self.tracks.len() - 1
            });
            places.push(at);
            if let Some(track) = self.tracks.get_mut(at) {
                track.orig.absorb(orig);
                track.reply.absorb(reply);
            }
        }
        for mut member in other.members {
            member.flip ^= turn;
            member.lane = places.get(member.lane).copied().unwrap_or_default();
            self.members.push(member);
        }
        for (view, backward) in other.views {
            if !self.views.iter().any(|(known, _)| *known == view) {
                self.views.push((view, backward ^ turn));
            }
        }
        self.partial |= other.partial;
        self.absorbed.extend(other.absorbed);
        self.aliases.extend(other.aliases);
        self.alias_alike();
    }

    /// Lets entries that have ended go, those longest ago first, until `most` are left: what they
    /// grew by stays in their lanes, and each lane keeps one entry. Gives who went.
    pub(super) fn retire(&mut self, most: usize) -> Vec<EntryRef> {
        let mut gone = Vec::new();
        while self.members.len() > most {
            let may_go = |member: &&Member| {
                let others = self.members.iter().filter(|other| other.lane == member.lane);
                member.life.ended && !member.waits && others.count() > 1
            };
            let oldest = self.members.iter().filter(may_go).min_by_key(|member| member.life.until);
            let Some(entry) = oldest.map(|member| member.entry) else { break };
            self.members.retain(|member| member.entry != entry);
            gone.push(entry);
        }
        self.partial |= !gone.is_empty();
        gone
    }

    /// Gives entries of different observers that began together one label.
    fn alias_alike(&mut self) {
        let mut found = Vec::new();
        for (at, one) in self.members.iter().enumerate() {
            for other in self.members.iter().skip(at + 1) {
                if one.label != other.label
                    && one.vantage.observer != other.vantage.observer
                    && began_together(&one.life, &other.life)
                {
                    found.push((one.label.min(other.label), one.label.max(other.label)));
                }
            }
        }
        for (to, from) in found {
            self.alias(from, to);
        }
    }

    fn alias(&mut self, from: Label, to: Label) {
        let of = |label| self.members.iter().filter(move |member| member.label == label);
        // Two entries of one observer are two generations.
        let generations =
            of(from).any(|one| of(to).any(|other| one.vantage.observer == other.vantage.observer));
        if generations || of(from).next().is_none() || of(to).next().is_none() {
            return;
        }
        for member in &mut self.members {
            if member.label == from {
                member.label = to;
            }
        }
        self.aliases.push(Alias { from, to });
    }

    /// The label of an entry that joins the group; `None` where it is a generation of its own.
    pub(super) fn label_for(&self, observer: Observer, life: &Life, fresh: bool) -> Option<Label> {
        let nearest = self
            .members
            .iter()
            .filter(|member| {
                member.vantage.observer != observer && began_together(&member.life, life)
            })
            .min_by_key(|member| {
                let starts = member.life.start.zip(life.start);
                starts.map_or(u64::MAX, |(one, other)| one.0.abs_diff(other.0))
            });
        if let Some(nearest) = nearest {
            let has_it = |member: &Member| {
                member.vantage.observer == observer && member.label == nearest.label
            };
            if !self.members.iter().any(has_it) {
                return Some(nearest.label);
            }
        }
        if fresh || self.has_observer(observer) {
            return None;
        }
        let live = self.members.iter().filter(|member| !member.life.ended);
        let latest = live.filter_map(|member| Some((member.grown?, member.label))).max()?;
        let (grown, label) = latest;
        let recent = life.earliest().is_none_or(|start| grown >= start.minus(TAKEOVER));
        recent.then_some(label)
    }

    /// Counts a reading's growth, in the directions of `entry`.
    pub(super) fn count(
        &mut self,
        entry: EntryRef,
        growth: Counters,
        span: Option<Span>,
        (segments, pass): (usize, &mut Pass),
    ) -> Counted {
        let own = self.members.iter_mut().find(|member| member.entry == entry);
        let label = own.map(|member| {
            member.waits = false;
            member.label
        });
        if growth.is_zero() && !self.apart {
            return Counted { label, ..Counted::default() };
        }
        let Some((flip, total)) = self.grow(entry, growth, span, (segments, pass)) else {
            // Not linked: nobody else's, so all of it counts.
            return Counted { counted: growth, ..Counted::default() };
        };
        let fell = self.counted.above(total);
        let new = total.above(self.counted);
        let counted = if flip { turned(new) } else { new };
        let apart = std::mem::take(&mut self.apart);
        let back = if apart { self.take_back(fell) } else { Vec::new() };
        self.counted = if apart { total } else { self.counted.max(total) };
        self.absorbed.clear();
        Counted { counted, back, fell: !apart && !fell.is_zero(), label }
    }

    /// Adds a growth to its entry's lane: whether the entry runs against the group, and the
    /// group's total with it. `None` where the entry is not in the group.
    pub(super) fn grow(
        &mut self,
        entry: EntryRef,
        growth: Counters,
        span: Option<Span>,
        (segments, pass): (usize, &mut Pass),
    ) -> Option<(bool, Counters)> {
        let member = self.members.iter_mut().find(|member| member.entry == entry)?;
        let (flip, lane) = (member.flip, member.lane);
        if !growth.is_zero() {
            member.grown = member.grown.max(span.map(|span| span.until));
        }
        let entries = self.members.iter().filter(|member| member.lane == lane).count();
        let most = segments.saturating_mul(entries.clamp(1, GENERATIONS));
        let growth = if flip { turned(growth) } else { growth };
        if let Some(track) = self.tracks.get_mut(lane) {
            track.orig.push(Segment::new(entry, span, growth.orig));
            track.reply.push(Segment::new(entry, span, growth.reply));
        }
        let total = self.total(pass);
        if let Some(track) = self.tracks.get_mut(lane) {
            track.orig.thin(most);
            track.reply.thin(most);
        }
        Some((flip, total))
    }

    /// V: the heaviest chain through all lanes.
    pub(super) fn total(&mut self, pass: &mut Pass) -> Counters {
        Counters {
            orig: heaviest(&mut self.tracks, |track| &mut track.orig, pass),
            reply: heaviest(&mut self.tracks, |track| &mut track.reply, pass),
        }
    }

    /// Adds a growth of which nobody knows any more between which readings of its entry it was, to
    /// its lane only and for ever. Whether the entry runs against the group.
    pub(super) fn grow_once(&mut self, entry: EntryRef, growth: Counters) -> bool {
        let Some(member) = self.member(entry) else { return false };
        let (flip, lane) = (member.flip, member.lane);
        let growth = if flip { turned(growth) } else { growth };
        if let Some(track) = self.tracks.get_mut(lane) {
            track.orig.push(Segment::anywhere(growth.orig));
            track.reply.push(Segment::anywhere(growth.reply));
        }
        flip
    }

    /// Everything stored of it has been told: keeps as many segments as while counting.
    pub(super) fn settle(&mut self, segments: usize) {
        for (at, track) in self.tracks.iter_mut().enumerate() {
            let entries = self.members.iter().filter(|member| member.lane == at).count();
            let most = segments.saturating_mul(entries.clamp(1, GENERATIONS));
            track.orig.thin(most);
            track.reply.thin(most);
        }
        for member in &mut self.members {
            member.told = true;
        }
    }

    /// Which growths to take `excess` back from: those of entries taken in while apart first, the
    /// oldest first. There are always enough: no more was counted than grew.
    fn take_back(&self, mut excess: Counters) -> Vec<TakenBack> {
        let mut back = Vec::new();
        let mut lanes = Vec::new();
        let absorbed = |member: &&Member| self.absorbed.contains(&member.entry);
        let others = self.members.iter().filter(|member| !absorbed(member));
        for member in self.members.iter().filter(absorbed).chain(others) {
            if excess.is_zero() {
                break;
            }
            if lanes.contains(&member.lane) {
                continue;
            }
            lanes.push(member.lane);
            let Some(track) = self.tracks.get(member.lane) else { continue };
            let mut take = |segment: &Segment, of: fn(&mut Counters) -> &mut Tally| {
                let left = of(&mut excess);
                let taken = least(*left, segment.growth);
                *left = above(*left, taken);
                let mut counters = Counters::ZERO;
                *of(&mut counters) = taken;
                let counters = if member.flip { turned(counters) } else { counters };
                if !counters.is_zero() {
                    back.push(TakenBack { entry: member.entry, span: segment.span, counters });
                }
            };
            track.orig.segments().iter().for_each(|segment| take(segment, |c| &mut c.orig));
            track.reply.segments().iter().for_each(|segment| take(segment, |c| &mut c.reply));
        }
        back
    }

    /// Segments kept, of both directions.
    pub(super) fn segments(&self) -> usize {
        let of = |track: &Track| track.orig.segments().len() + track.reply.segments().len();
        self.tracks.iter().map(of).sum()
    }
}

/// Whether two entries of different observers are so near in their starts that they are one
/// generation of a flow.
fn began_together(one: &Life, other: &Life) -> bool {
    let (Some(a), Some(b)) = (one.start, other.start) else { return false };
    let measured = one.slack.saturating_add(other.slack) <= MEASURED;
    let tolerance = if measured { NEAR } else { NEAR_UNMEASURED };
    Duration::from_nanos(a.0.abs_diff(b.0)) <= tolerance
}

/// The smaller one of each component.
fn least(one: Tally, other: Tally) -> Tally {
    Tally { packets: one.packets.min(other.packets), bytes: one.bytes.min(other.bytes) }
}

/// What `tally` has more than `floor`, each component apart.
const fn above(tally: Tally, floor: Tally) -> Tally {
    Tally::new(
        tally.packets.get().saturating_sub(floor.packets.get()),
        tally.bytes.get().saturating_sub(floor.bytes.get()),
    )
}

/// The same counters with the directions exchanged.
pub(super) const fn turned(counters: Counters) -> Counters {
    Counters { orig: counters.reply, reply: counters.orig }
}

/// The margin between two observers up to which both clocks count as measured.
const MEASURED: Duration = Duration::from_secs(1);

/// How far apart starts of one generation may lie, clocks measured.
const NEAR: Duration = Duration::from_secs(1);

/// How far apart they may lie otherwise.
const NEAR_UNMEASURED: Duration = Duration::from_secs(5);

/// How long before an entry's start another one's last growth may lie for it to be a takeover.
const TAKEOVER: Duration = Duration::from_secs(30);

/// Entries of one lane whose segments are kept apart; those of more share their room.
const GENERATIONS: usize = 8;
