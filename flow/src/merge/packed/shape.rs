//! How a group is told in bytes. Growths: what was counted, lanes with their segments, labels to be
//! written. Who: views, members.

use std::time::Duration;

use super::super::group::{Alias, Group, Life, Member, Track};
use super::super::segment::Segment;
use super::super::vantage::Vantage;
use super::super::view::Observer;
use super::super::{EntryRef, ViewId};
use super::bytes::{Reader, Writer};
use crate::clock::Span;
use crate::counters::{Counters, Tally};

pub(super) fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

pub(super) fn write<'b>(group: &Group, bytes: &'b mut Vec<u8>) -> &'b [u8] {
    let mut writer = Writer::new(bytes);
    write_first(&mut writer, group);
    write_who(&mut writer, group);
    writer.finish()
}

/// The growths and their length; gives where the rest begins.
pub(super) fn write_first(writer: &mut Writer<'_>, group: &Group) -> usize {
    writer.slice(&length(0));
    write_growths(writer, group);
    let begin = writer.written();
    writer.put_first(&length(begin.saturating_sub(size_of::<u32>())));
    writer.begin();
    begin
}

/// Where a member stands, and what it is.
pub(super) fn find(who: &[u8], entry: EntryRef) -> Option<(usize, Member)> {
    let mut members = Members::read(who);
    loop {
        let at = who.len() - members.reader.left();
        let member = members.next()?;
        if member.entry == entry {
            return Some((at, member));
        }
    }
}

pub(super) fn write_who(writer: &mut Writer<'_>, group: &Group) {
    let members = &group.members;
    let untold = members.len() > 1 && members.iter().any(|member| !member.told);
    let ended = members.iter().any(|member| member.life.ended);
    writer.byte(
        flag(group.apart, APART)
            | flag(group.partial, PARTIAL)
            | flag(untold, UNTOLD)
            | flag(ended, SOME_ENDED),
    );
    writer.count(group.views.len());
    for (ViewId(view), backward) in &group.views {
        writer.slice(&view.to_le_bytes());
        writer.byte(u8::from(*backward));
    }
    writer.count(members.len());
    writer.base(members.iter().find_map(|member| member.life.start).unwrap_or_default());
    let mut slack = Duration::ZERO;
    for member in members {
        write_member(writer, group, member, &mut slack);
    }
}

pub(super) fn read_who(reader: &mut Reader<'_>, group: &mut Group) {
    let flags = reader.byte();
    (group.apart, group.partial) = (flags & APART > 0, flags & PARTIAL > 0);
    let views = Ids::read(reader);
    group.views.clear();
    group.views.extend(views.iter());
    group.members.clear();
    group.members.extend(Members::after_views(reader.clone(), views));
}

fn write_growths(writer: &mut Writer<'_>, group: &Group) {
    let Counters { orig, reply } = group.counted;
    for tally in [orig, reply] {
        writer.number(tally.packets.get());
        writer.number(tally.bytes.get());
    }
    writer.count(group.tracks.len());
    let segments = group.tracks.iter().flat_map(|track| track.orig.segments());
    let until = segments.filter_map(|segment| segment.span).map(|span| span.until).next();
    writer.base(until.unwrap_or_default());
    let mut slack = Duration::ZERO;
    for Track { orig, reply } in &group.tracks {
        write_lane(writer, &mut slack, orig.segments(), &[]);
        write_lane(writer, &mut slack, reply.segments(), orig.segments());
    }
    writer.count(group.absorbed.len());
    group.absorbed.iter().for_each(|entry| writer.entry(*entry));
    writer.count(group.aliases.len());
    for Alias { from, to } in &group.aliases {
        writer.label(*from);
        writer.label(*to);
    }
}

pub(super) fn read_growths(reader: &mut Reader<'_>, group: &mut Group) {
    let [a, b, c, d] = std::array::from_fn(|_| reader.number());
    group.counted = Counters { orig: Tally::new(a, b), reply: Tally::new(c, d) };
    group.tracks.resize_with(reader.count(), Track::default);
    reader.base();
    let mut slack = Duration::ZERO;
    for Track { orig, reply } in &mut group.tracks {
        orig.refill(read_lane(reader, &mut slack, &[]));
        reply.refill(read_lane(reader, &mut slack, orig.segments()));
    }
    let absorbed = reader.count();
    group.absorbed.clear();
    group.absorbed.extend((0..absorbed).map(|_| reader.entry()));
    let aliases = reader.count();
    group.aliases.clear();
    let alias = |_| Alias { from: reader.label(), to: reader.label() };
    group.aliases.extend((0..aliases).map(alias));
}

/// The views of a group, to which members refer by place.
pub(super) struct Ids<'b>(&'b [[u8; VIEW]]);

impl<'b> Ids<'b> {
    pub(super) fn read(reader: &mut Reader<'b>) -> Self {
        let length = reader.count().saturating_mul(VIEW);
        Self(reader.slice(length).as_chunks().0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ViewId, bool)> + use<'b> {
        self.0.iter().map(|view| {
            let [id @ .., backward] = *view;
            (ViewId(u128::from_le_bytes(id)), backward > 0)
        })
    }

    fn get(&self, at: usize) -> ViewId {
        self.0.get(at).map_or(ViewId(0), |[id @ .., _]| ViewId(u128::from_le_bytes(*id)))
    }
}

/// The members of a group, one after the other.
pub(super) struct Members<'b> {
    reader: Reader<'b>,
    views: Ids<'b>,
    left: usize,
    slack: Duration,
}

impl<'b> Members<'b> {
    pub(super) fn read(who: &'b [u8]) -> Self {
        let mut reader = Reader::new(who);
        reader.byte();
        let views = Ids::read(&mut reader);
        Self::after_views(reader, views)
    }

    fn after_views(mut reader: Reader<'b>, views: Ids<'b>) -> Self {
        let left = reader.count();
        reader.base();
        Self { reader, views, left, slack: Duration::ZERO }
    }
}

impl Iterator for Members<'_> {
    type Item = Member;

    fn next(&mut self) -> Option<Member> {
        self.left = self.left.checked_sub(1)?;
        let Self { reader, views, slack, .. } = self;
        let (flags, timed) = (reader.byte(), reader.byte());
        let until = (timed & UNTIL > 0).then(|| reader.place());
        let grown = (timed & GROWN > 0).then(|| reader.place());
        let entry = reader.entry();
        let observer = Observer(u32::try_from(reader.number()).unwrap_or_default());
        let zone = u16::try_from(reader.number()).unwrap_or_default();
        let (inside, outside) = (views.get(reader.count()), views.get(reader.count()));
        let (label, lane) = (reader.label(), reader.count());
        let start = (timed & START > 0).then(|| reader.time());
        let after = (timed & AFTER > 0).then(|| reader.time());
        if flags & SLACK_AS_BEFORE == 0 {
            *slack = reader.duration();
        }
        let life = Life { start, after, until, slack: *slack, ended: flags & ENDED > 0 };
        Some(Member {
            entry,
            vantage: Vantage { observer, zone, inside, outside },
            label,
            lane,
            flip: flags & FLIP > 0,
            life,
            grown,
            told: flags & TOLD > 0,
            waits: flags & WAITS > 0,
        })
    }
}

/// A member's views are among its group's.
fn write_member(writer: &mut Writer<'_>, group: &Group, member: &Member, slack: &mut Duration) {
    let Member { entry, vantage, label, lane, flip, life, grown, told, waits } = member;
    writer.byte(
        flag(*flip, FLIP)
            | flag(*told, TOLD)
            | flag(*waits, WAITS)
            | flag(life.ended, ENDED)
            | flag(life.slack == *slack, SLACK_AS_BEFORE),
    );
    writer.byte(
        flag(life.start.is_some(), START)
            | flag(life.after.is_some(), AFTER)
            | flag(life.until.is_some(), UNTIL)
            | flag(grown.is_some(), GROWN),
    );
    // Where a later reading finds them: see `Packed::extend`.
    [life.until, *grown].into_iter().flatten().for_each(|time| writer.place(time));
    writer.entry(*entry);
    writer.number(vantage.observer.0.into());
    writer.number(vantage.zone.into());
    for view in [vantage.inside, vantage.outside] {
        writer.count(group.views.iter().position(|(id, _)| *id == view).unwrap_or_default());
    }
    writer.label(*label);
    writer.count(*lane);
    [life.start, life.after].into_iter().flatten().for_each(|time| writer.time(time));
    if life.slack != *slack {
        writer.duration(life.slack);
        *slack = life.slack;
    }
}

/// What chains weigh is told where it is not what this lane alone comes to. Segments of the replies
/// grew mostly in one reading with their `twin`, that of the other direction.
fn write_lane(
    writer: &mut Writer<'_>,
    slack: &mut Duration,
    segments: &[Segment],
    twins: &[Segment],
) {
    writer.count(segments.len());
    let (mut reached, mut over, mut whose) = (Tally::default(), None, None);
    let twins = twins.iter().map(Some).chain(std::iter::repeat(None));
    for (Segment { entry, span, growth, reach }, twin) in segments.iter().zip(twins) {
        let Tally { packets, bytes } = *growth;
        let alone = reached.packets.get().wrapping_add(packets.get());
        let alone = Tally::new(alone, reached.bytes.get().wrapping_add(bytes.get()));
        let beyond = flag(*reach != alone, BEYOND);
        if twin.is_some_and(|twin| (twin.entry, twin.span) == (*entry, *span)) {
            writer.byte(AS_TWIN | beyond);
        } else {
            let since = span.and_then(|span| span.since);
            let follows = since.is_some() && since == over;
            let as_before = span.is_some_and(|span| span.slack == *slack);
            let same = entry.is_some() && *entry == whose;
            writer.byte(
                flag(entry.is_some(), OF_ENTRY)
                    | flag(same, OF_SAME)
                    | flag(span.is_some(), TIMED)
                    | flag(since.is_some(), BEGINS)
                    | flag(follows, FOLLOWS)
                    | flag(as_before, SLACK_AS_BEFORE)
                    | beyond,
            );
            if let Some(entry) = entry.filter(|_| !same) {
                writer.entry(entry);
            }
            if let Some(since) = since.filter(|_| !follows) {
                writer.time(since);
            }
            if let Some(span) = span {
                writer.time(span.until);
                if !as_before {
                    writer.duration(span.slack);
                }
                *slack = span.slack;
            }
        }
        (over, whose) = (span.map(|span| span.until), *entry);
        writer.number(packets.get());
        writer.number(bytes.get());
        if *reach != alone {
            writer.beyond(reach.packets.get(), alone.packets.get());
            writer.beyond(reach.bytes.get(), alone.bytes.get());
        }
        reached = *reach;
    }
}

fn read_lane(
    reader: &mut Reader<'_>,
    slack: &mut Duration,
    twins: &[Segment],
) -> impl Iterator<Item = Segment> {
    let (mut reached, mut over, mut whose) = (Tally::default(), None, None);
    let mut twins = twins.iter();
    (0..reader.count()).map(move |_| {
        let (flags, twin) = (reader.byte(), twins.next());
        let (entry, span) = match twin.filter(|_| flags & AS_TWIN > 0) {
            Some(twin) => (twin.entry, twin.span),
            None => {
                let entry = match (flags & OF_ENTRY > 0, flags & OF_SAME > 0) {
                    (false, _) => None,
                    (true, true) => whose,
                    (true, false) => Some(reader.entry()),
                };
                let since = match (flags & BEGINS > 0, flags & FOLLOWS > 0) {
                    (false, _) => None,
                    (true, true) => over,
                    (true, false) => Some(reader.time()),
                };
                let span = (flags & TIMED > 0).then(|| {
                    let until = reader.time();
                    if flags & SLACK_AS_BEFORE == 0 {
                        *slack = reader.duration();
                    }
                    Span { since, until, slack: *slack }
                });
                (entry, span)
            }
        };
        (over, whose) = (span.map(|span| span.until), entry);
        let (packets, bytes) = (reader.number(), reader.number());
        let all = reached.packets.get().wrapping_add(packets);
        let mut reach = Tally::new(all, reached.bytes.get().wrapping_add(bytes));
        if flags & BEYOND > 0 {
            let packets = reader.beyond(reach.packets.get());
            reach = Tally::new(packets, reader.beyond(reach.bytes.get()));
        }
        reached = reach;
        Segment { entry, span, growth: Tally::new(packets, bytes), reach }
    })
}

pub(super) const fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// Bytes of a view: its id, and whether the group runs backward along it.
const VIEW: usize = size_of::<u128>() + 1;

// Of a group.
pub(super) const APART: u8 = 1;
const PARTIAL: u8 = 2;
pub(super) const UNTOLD: u8 = 4;
pub(super) const SOME_ENDED: u8 = 8;

// Of a member.
const FLIP: u8 = 1;
const TOLD: u8 = 2;
pub(super) const WAITS: u8 = 4;
const ENDED: u8 = 8;

// Which times a member has.
const START: u8 = 1;
const AFTER: u8 = 2;
const UNTIL: u8 = 4;
const GROWN: u8 = 8;

// Of a segment.
const OF_ENTRY: u8 = 1;
const OF_SAME: u8 = 2;
const TIMED: u8 = 4;
const BEGINS: u8 = 8;
const FOLLOWS: u8 = 16;
const AS_TWIN: u8 = 64;
const BEYOND: u8 = 128;

// Of both members and segments.
const SLACK_AS_BEFORE: u8 = 32;
