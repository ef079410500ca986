//! Whatever a group is, it is the same once it was packed.

use std::time::Duration;

use proptest::prelude::*;

use super::super::group::{Alias, Track};
use super::super::segment::Segment;
use super::super::vantage::Vantage;
use super::super::view::Observer;
use super::super::{Label, Lane};
use super::*;
use crate::clock::Span;
use crate::counters::{Counters, Tally};
use crate::units::UnixNanos;

fn time() -> impl Strategy<Value = UnixNanos> {
    let near = 1_700_000_000_000_000_000..1_700_000_100_000_000_000i64;
    prop_oneof![9 => near, 1 => any::<i64>()].prop_map(UnixNanos)
}

fn maybe() -> impl Strategy<Value = Option<UnixNanos>> {
    prop::option::of(time())
}

fn tally() -> impl Strategy<Value = Tally> {
    let number = || prop_oneof![9 => 0..100_000u64, 1 => any::<u64>()];
    (number(), number()).prop_map(|(packets, bytes)| Tally::new(packets, bytes))
}

fn slack() -> impl Strategy<Value = Duration> {
    let millis = (0..5_000u64).prop_map(Duration::from_millis);
    prop_oneof![3 => Just(Duration::from_millis(250)), 1 => millis, 1 => Just(Duration::MAX)]
}

prop_compose! {
    fn segment()(
        entry in prop::option::of(0..5i64),
        span in prop::option::of((maybe(), time(), slack())),
        (growth, reach) in (tally(), tally()),
    ) -> Segment {
        let span = span.map(|(since, until, slack)| Span { since, until, slack });
        Segment { entry: entry.map(EntryRef), span, growth, reach }
    }
}

fn packed(group: &Group) -> Packed {
    let mut packed = Packed::default();
    packed.replace(group, &mut Vec::new());
    packed
}

fn lane(segments: Vec<Segment>) -> Lane {
    let mut lane = Lane::default();
    lane.refill(segments.into_iter());
    lane
}

prop_compose! {
    /// Some replies grew in one reading with the other direction.
    fn track()(
        orig in prop::collection::vec(segment(), 0..5),
        reply in prop::collection::vec((segment(), any::<bool>()), 0..5),
    ) -> Track {
        let mut reply = reply;
        for (orig, (reply, alike)) in orig.iter().zip(&mut reply) {
            if *alike {
                (reply.entry, reply.span) = (orig.entry, orig.span);
            }
        }
        let reply = reply.into_iter().map(|(reply, _)| reply).collect();
        Track { orig: lane(orig), reply: lane(reply) }
    }
}

prop_compose! {
    fn member(views: usize)(
        (entry, label) in (any::<i64>(), any::<i64>()),
        (observer, zone, lane) in (any::<u32>(), any::<u16>(), 0..9usize),
        seen in (0..views, 0..views),
        (start, after, until, slack) in (maybe(), maybe(), maybe(), slack()),
        (grown, grown_last) in (maybe(), any::<bool>()),
        flags in any::<[bool; 4]>(),
    ) -> (Member, (usize, usize)) {
        let [flip, told, waits, ended] = flags;
        let vantage = Vantage {
            observer: Observer(observer), zone, inside: ViewId(0), outside: ViewId(0),
        };
        let life = Life { start, after, until, slack, ended };
        let grown = if grown_last { until } else { grown };
        let (entry, label) = (EntryRef(entry), Label(label));
        (Member { entry, vantage, label, lane, flip, life, grown, told, waits }, seen)
    }
}

prop_compose! {
    fn group()(views in prop::collection::vec(any::<(u128, bool)>(), 1..4))(
        members in prop::collection::vec(member(views.len()), 0..5),
        views in Just(views),
        tracks in prop::collection::vec(track(), 0..4),
        (orig, reply) in (tally(), tally()),
        flags in any::<(bool, bool)>(),
        absorbed in prop::collection::vec(any::<i64>().prop_map(EntryRef), 0..3),
        aliases in prop::collection::vec(any::<(i64, i64)>(), 0..3),
    ) -> Group {
        let members = members.into_iter().map(|(member, (inside, outside))| {
            let [inside, outside] = [inside, outside].map(|at| ViewId(views[at].0));
            let vantage = Vantage { inside, outside, ..member.vantage };
            Member { vantage, ..member }
        });
        let alias = |(from, to)| Alias { from: Label(from), to: Label(to) };
        Group {
            members: members.collect(),
            tracks,
            views: views.into_iter().map(|(view, backward)| (ViewId(view), backward)).collect(),
            counted: Counters { orig, reply },
            apart: flags.0,
            absorbed,
            aliases: aliases.into_iter().map(alias).collect(),
            partial: flags.1,
        }
    }
}

proptest! {
    /// Into room that has been used, too.
    #[test]
    fn a_group_is_what_it_was_packed_from(one in group(), other in group()) {
        let (mut bytes, mut room) = (Vec::new(), Group::default());
        let mut packed = packed(&one);
        packed.open_into(&mut room);
        prop_assert_eq!(&room, &one);
        prop_assert!(packed.members().eq(one.members));
        packed.replace(&other, &mut bytes);
        packed.open_into(&mut room);
        prop_assert_eq!(&room, &other);
        prop_assert!(packed.views().eq(other.views.iter().map(|(view, _)| *view)));
        prop_assert_eq!(packed, self::packed(&other));
    }
}

proptest! {
    /// Whether it is written in place or anew.
    #[test]
    fn what_counting_changes_is_packed(
        one in group(),
        (grown, waits, apart, at) in (maybe(), any::<bool>(), any::<bool>(), 0..6usize),
        tracks in prop::collection::vec(track(), 0..4),
    ) {
        let mut bytes = Vec::new();
        let mut packed = packed(&one);
        let entry = one.members.get(at).map_or(EntryRef(-7), |member| member.entry);
        let mut now = Group { apart, tracks, ..one };
        if let Some(member) = now.members.iter_mut().find(|member| member.entry == entry) {
            (member.grown, member.waits) = (grown, waits);
        }
        prop_assert_eq!(packed.counted(&now, entry, &mut bytes).open(), now.clone());
        packed.count(&now, entry, &mut bytes);
        prop_assert_eq!(packed.open(), now);
    }

    /// The same.
    #[test]
    fn a_life_is_extended_as_a_members(
        one in group(),
        (start, after, until, slack) in (maybe(), maybe(), maybe(), slack()),
        (ended, little, at) in (any::<bool>(), any::<bool>(), 0..6usize),
    ) {
        let (mut bytes, mut room) = (Vec::new(), Group::default());
        let mut packed = packed(&one);
        let life = match little {
            true => Life { start: None, after: None, until, slack: Duration::ZERO, ended: false },
            false => Life { start, after, until, slack, ended },
        };
        let entry = one.members.get(at).map_or(EntryRef(-7), |member| member.entry);
        packed.extend((&mut room, &mut bytes), entry, &life);
        let mut expected = one;
        if let Some(member) = expected.members.iter_mut().find(|member| member.entry == entry) {
            member.life.extend(&life);
            member.waits = true;
        }
        prop_assert_eq!(packed.open(), expected);
    }
}

#[test]
fn nothing_is_a_group_of_nobody() {
    assert_eq!(Packed::default().open(), Group::default());
    assert_eq!(Packed::default().members().count(), 0);
}
