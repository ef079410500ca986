//! Growth in time: what one lane of readings grew by in one direction, and the heaviest chain of
//! growths that cannot overlap.
//!
//! A [`Segment`] says that some packets passed one observer in a closed interval of time. Packets
//! of two observers may be the same ones, unless their intervals cannot overlap; those of one
//! lane (one entry after the other of the same tuple on the same host) never are. So what is
//! certain to have passed is the heaviest chain of segments of which each two are of one lane or
//! cannot overlap. [`heaviest`] finds it in one pass, and leaves in each segment the weight of
//! the best chain that ends there: a floor for every later pass, so that segments may be joined
//! ([`Lane::thin`]) without what was counted ever falling.

use super::EntryRef;
use crate::clock::Span;
use crate::counters::Tally;
use crate::units::UnixNanos;

/// Growth of one lane in one direction in one interval of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Whose growth; `None` where it joins that of several entries.
    pub entry: Option<EntryRef>,
    /// When; `None` where no clock could be trusted: it then adds to its own lane only.
    pub span: Option<Span>,
    /// By how much, each component apart.
    pub growth: Tally,
    /// The heaviest chain that ends with it, as far as found yet.
    pub reach: Tally,
}

impl Segment {
    /// A segment that no chain has been found for yet.
    #[must_use]
    pub const fn new(entry: EntryRef, span: Option<Span>, growth: Tally) -> Self {
        Self { entry: Some(entry), span, growth, reach: Tally::new(0, 0) }
    }

    /// Growth of which nothing is known but that it was in its lane.
    #[must_use]
    pub(super) const fn anywhere(growth: Tally) -> Self {
        Self { entry: None, span: None, growth, reach: Tally::new(0, 0) }
    }

    /// Latest moment it may have ended: an interval that begins no earlier cannot overlap it.
    fn latest(&self) -> Option<i64> {
        self.span.map(|span| span.until.plus(span.slack).0)
    }

    /// Earliest moment it may have begun.
    fn earliest(&self) -> Option<i64> {
        let span = self.span?;
        span.since.map(|since| since.minus(span.slack).0)
    }

    /// This segment and the next one of its lane as one.
    fn join(&self, next: &Self) -> Self {
        let span = self.span.zip(next.span).map(|(first, last)| Span {
            since: first.since.min(last.since),
            until: first.until.max(last.until),
            slack: first.slack.max(last.slack),
        });
        let growth = plus(self.growth, next.growth);
        let entry = if self.entry == next.entry { self.entry } else { None };
        Self { entry, span, growth, reach: max(self.reach, next.reach) }
    }

    /// The silence between this segment and the next one of its lane, in nanoseconds.
    fn gap_to(&self, next: &Self) -> i64 {
        match (self.span, next.span.and_then(|span| span.since)) {
            (Some(span), Some(since)) => since.diff(span.until).max(0),
            _ => 0,
        }
    }
}

/// Readings that never show one packet twice: entries of one observer with the same tuple, one
/// after the other. Segments in the order in which they grew: those of one entry as its readings
/// were taken, those of several by time, whichever of them is told of first. Growth without a time
/// stands behind all others, at most one segment an entry: it adds to its own lane's sum only,
/// until the entry's next reading with a time tells by when it had happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    segments: Vec<Segment>,
}

impl Lane {
    /// Segments kept, unless told otherwise: more gain nothing measurable.
    pub const SEGMENTS: usize = 3;

    /// Entries whose growth without a time is kept apart; that of more is one.
    const FLOATING: usize = 4;

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Segments that were a lane's, in the place of what is here.
    pub(super) fn refill(&mut self, segments: impl Iterator<Item = Segment>) {
        self.segments.clear();
        self.segments.extend(segments);
    }

    /// Takes a reading's growth; one that grew by nothing tells nothing.
    ///
    /// It comes after all of its own entry: where its time says that it ended before the one
    /// before it, which was read earlier, it is taken to have ended no earlier, as bounds may be
    /// wider than they need be. It comes before what other entries grew by later: a spool that is
    /// late tells of an entry after its successor has been told of.
    pub fn push(&mut self, mut segment: Segment) {
        if segment.growth == Tally::default() {
            return;
        }
        let timed = self.timed();
        let Some(span) = &mut segment.span else {
            self.float(segment);
            return;
        };
        let own = |known: &Segment| known.entry == segment.entry;
        let (known, floating) = self.segments.split_at(timed);
        let after = known.iter().rposition(own).map_or(0, |last| last + 1);
        if let Some(over) = known.iter().filter(|known| own(known)).filter_map(Self::over).max() {
            span.until = span.until.max(over.minus(span.slack));
        }
        if let Some(at) = floating.iter().position(own) {
            // It happened since the entry's last reading with a time.
            let last = after.checked_sub(1).and_then(|last| known.get(last)?.span);
            let since = last.map(|last| last.until.minus(last.slack).plus(span.slack));
            span.since = since.min(span.since);
            segment.growth = plus(segment.growth, self.segments.remove(timed + at).growth);
        }
        let until = span.until;
        let later = |known: &Segment| known.span.is_some_and(|span| span.until > until);
        let known = self.segments.get(after..timed).unwrap_or_default();
        let place = known.iter().position(later).map_or(timed, |at| after + at);
        // One that joins several entries may contain what this entry grew by before: it and all
        // before it become one with what is to come before them.
        let known = self.segments.get(..timed).unwrap_or_default();
        let joined = known.iter().rposition(|known| known.entry.is_none());
        if let Some(joined) = joined.filter(|joined| *joined >= place) {
            let later = self.segments.drain(place..=joined);
            segment = later.fold(segment, |segment, next| segment.join(&next));
        }
        self.segments.insert(place, segment);
    }

    /// How many segments have a time: those in front.
    fn timed(&self) -> usize {
        self.segments.partition_point(|segment| segment.span.is_some())
    }

    fn over(segment: &Segment) -> Option<UnixNanos> {
        segment.latest().map(UnixNanos)
    }

    /// Keeps growth without a time.
    fn float(&mut self, segment: Segment) {
        let timed = self.timed();
        let floating = self.segments.get_mut(timed..).unwrap_or_default();
        if let Some(own) = floating.iter_mut().find(|known| known.entry == segment.entry) {
            *own = own.join(&segment);
        } else if floating.len() < Self::FLOATING {
            self.segments.push(segment);
        } else if let Some(last) = floating.last_mut() {
            *last = last.join(&segment);
        }
    }

    /// All that grew in it.
    fn sum(&self) -> Tally {
        self.segments.iter().fold(Tally::default(), |sum, next| plus(sum, next.growth))
    }

    /// Takes the segments of another lane of the same observer and tuple, which stood elsewhere
    /// because nobody knew that they belong together. Order by time, where times are known.
    pub fn absorb(&mut self, other: Self) {
        if self.segments.is_empty() {
            *self = other;
            return;
        }
        let timed = |lane: &Self| -> Vec<(Key, Segment)> {
            let segments = lane.segments.get(..lane.timed()).unwrap_or_default();
            keys(segments).zip(segments.iter().copied()).collect()
        };
        let mut all = timed(self);
        all.extend(timed(&other));
        all.sort_by_key(|(key, _)| *key);
        let floating = [self.timed(), other.timed()];
        let floating: Vec<Segment> = [&*self, &other]
            .into_iter()
            .zip(floating)
            .flat_map(|(lane, timed)| lane.segments.get(timed..).unwrap_or_default())
            .copied()
            .collect();
        self.segments = all.into_iter().map(|(_, segment)| segment).collect();
        floating.into_iter().for_each(|segment| self.float(segment));
    }

    /// Joins neighbours until `most` segments are left: those of one entry first, of these those
    /// with the smallest silence between them, the oldest of these first, never the newest segment, and what begins a run of
    /// growth without silence last of all.
    pub fn thin(&mut self, most: usize) {
        while self.timed() > most.max(2) {
            let at = self.least();
            let next = self.segments.remove(at + 1);
            if let Some(this) = self.segments.get_mut(at) {
                *this = this.join(&next);
            }
        }
    }

    /// Which segment is joined to its next one first. There are three at least.
    fn least(&self) -> usize {
        let mut least = (true, i64::MAX, true, 0);
        let mut begins_run = true;
        let timed = self.timed();
        for (at, pair) in self.segments.windows(2).enumerate() {
            let [this, next] = pair else { continue };
            if at + 2 >= timed {
                break;
            }
            let gap = this.gap_to(next);
            least = least.min((this.entry != next.entry, gap, begins_run, at));
            begins_run = gap > 0;
        }
        least.3
    }
}

/// A segment's place in the order of a pass: its end, raised so that it never falls in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    until: i64,
    since: i64,
}

impl Key {
    const FIRST: Self = Self { until: i64::MIN, since: i64::MIN };

    /// The key of a segment after one of its lane with this key.
    fn next(self, segment: &Segment) -> Self {
        let Some(span) = segment.span else { return self };
        let since = span.since.map_or(i64::MIN, |since| since.0);
        self.max(Self { until: span.until.0, since })
    }
}

/// The order of one lane's segments among all.
fn keys(segments: &[Segment]) -> impl Iterator<Item = Key> {
    segments.iter().scan(Key::FIRST, |last, segment| {
        *last = last.next(segment);
        Some(*last)
    })
}

/// Room to work in for [`heaviest`].
#[derive(Debug, Default)]
pub(super) struct Pass {
    heads: Vec<Head>,
    /// Of segments passed: their lane, when they were over, and what ends there.
    passed: Vec<(usize, i64, Tally)>,
}

/// How far a pass has come in one lane.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// The next segment, and its key.
    at: usize,
    key: Key,
    /// How many have a time.
    timed: usize,
    /// What ends with the last one.
    reached: Tally,
}

impl Head {
    fn advance(&mut self, lane: &Lane) {
        self.at += 1;
        if let Some(next) = lane.segments.get(self.at) {
            self.key = self.key.next(next);
        }
    }
}

/// The weight of the heaviest chain through all lanes, each component apart.
///
/// One pass in the order of [`Key`]: a segment follows only segments that come before it in this
/// order, so no chain can bite its own tail, whatever times a host sends. O(n) for one lane, O(n^2)
/// in the segments of all otherwise; the caller bounds how many there are.
pub(super) fn heaviest<L>(
    lanes: &mut [L],
    lane_of: impl Fn(&mut L) -> &mut Lane,
    pass: &mut Pass,
) -> Tally {
    if let [lane] = lanes {
        return alone(lane_of(lane));
    }
    let Pass { heads, passed } = pass;
    heads.clear();
    passed.clear();
    // No less than what one lane grew by, whenever that was.
    let mut most = Tally::default();
    for lane in lanes.iter_mut() {
        let lane = lane_of(lane);
        most = max(most, lane.sum());
        let key = lane.segments.first().map_or(Key::FIRST, |first| Key::FIRST.next(first));
        heads.push(Head { at: 0, key, timed: lane.timed(), reached: Tally::default() });
    }
    loop {
        let left = heads.iter_mut().enumerate().filter(|(_, head)| head.at < head.timed);
        let Some((number, head)) = left.min_by_key(|(_, head)| head.key) else { return most };
        let Some(lane) = lanes.get_mut(number).map(&lane_of) else { return most };
        if let Some(segment) = lane.segments.get_mut(head.at) {
            let mut before = head.reached;
            if let Some(earliest) = segment.earliest() {
                let apart =
                    passed.iter().filter(|(of, over, _)| *of != number && *over <= earliest);
                before = apart.fold(before, |before, (_, _, reach)| max(before, *reach));
            }
            segment.reach = max(segment.reach, plus(before, segment.growth));
            head.reached = segment.reach;
            most = max(most, segment.reach);
            if let Some(over) = segment.latest() {
                passed.push((number, over, segment.reach));
            }
        }
        head.advance(lane);
    }
}

/// The pass over a lane that has no other beside it.
fn alone(lane: &mut Lane) -> Tally {
    let mut reached = Tally::default();
    let timed = lane.timed();
    for segment in lane.segments.iter_mut().take(timed) {
        segment.reach = max(segment.reach, plus(reached, segment.growth));
        reached = segment.reach;
    }
    max(reached, lane.sum())
}

const fn plus(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets.plus(b.packets), bytes: a.bytes.plus(b.bytes) }
}

fn max(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets.max(b.packets), bytes: a.bytes.max(b.bytes) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// A segment from `since` to `until` seconds, both sure to half a second.
    fn seconds(since: i64, until: i64, packets: u64) -> Segment {
        let at = |seconds: i64| UnixNanos(seconds * 1_000_000_000);
        let slack = Duration::from_millis(250);
        let span = Span { since: Some(at(since)), until: at(until), slack };
        Segment::new(EntryRef(1), Some(span), Tally::new(packets, packets * 100))
    }

    fn lane(segments: &[Segment]) -> Lane {
        let mut lane = Lane::default();
        segments.iter().for_each(|segment| lane.push(*segment));
        lane
    }

    fn weigh(lanes: &mut [Lane]) -> Tally {
        heaviest(lanes, |lane| lane, &mut Pass::default())
    }

    fn weight(lanes: &mut [Lane]) -> u64 {
        let tally = weigh(lanes);
        assert_eq!(tally.bytes.get(), tally.packets.get() * 100);
        tally.packets.get()
    }

    #[test]
    fn what_overlaps_is_not_added_and_what_cannot_is() {
        // A saw all; B, born later, saw a part of the same (X1).
        let a = lane(&[seconds(55, 66, 4)]);
        assert_eq!(weight(&mut [a.clone(), lane(&[seconds(63, 70, 2)])]), 4);
        // A takeover: B's growth begins when A's is over.
        assert_eq!(weight(&mut [a.clone(), lane(&[seconds(67, 70, 2)])]), 6);
        // Too near to be sure.
        assert_eq!(weight(&mut [a, lane(&[seconds(66, 70, 2)])]), 4);
        // There and back on A's old entry (X5).
        let a = lane(&[seconds(0, 10, 6), seconds(30, 40, 5)]);
        assert_eq!(weight(&mut [a, lane(&[seconds(15, 25, 5)])]), 16);
        assert_eq!(weight(&mut []), 0);
    }

    #[test]
    fn one_lane_always_adds_up() {
        let unknown = Segment::new(EntryRef(1), None, Tally::new(5, 500));
        assert_eq!(weight(&mut [lane(&[seconds(5, 9, 1), seconds(1, 3, 2), unknown])]), 8);
        // Without a time it adds to nobody else's.
        let b = lane(&[seconds(100, 110, 3)]);
        assert_eq!(weight(&mut [lane(&[unknown]), b.clone()]), 5);
        assert_eq!(weight(&mut [lane(&[seconds(0, 1, 1), unknown]), b.clone()]), 6);
        // The next reading says by when it had happened, and the one before it since when.
        let known = [seconds(0, 1, 1), unknown, seconds(80, 90, 1)];
        assert_eq!(weight(&mut [lane(&known), b.clone()]), 10);
        // Another entry's does not: whether it was before or after is not known.
        let other = Segment { entry: Some(EntryRef(2)), ..seconds(80, 90, 1) };
        assert_eq!(weight(&mut [lane(&[unknown, other]), b]), 6);
    }

    #[test]
    fn an_entry_told_of_after_its_successor_comes_before_it() {
        let of = |entry, since, until, packets| Segment {
            entry: Some(EntryRef(entry)),
            ..seconds(since, until, packets)
        };
        // B saw three packets; A's second entry saw the last one, its first entry the first, and
        // that is told of hours later, from an older spool.
        let b = lane(&[seconds(0, 10, 1), seconds(20, 30, 1), seconds(80, 90, 1)]);
        let mut a = lane(&[of(3, 81, 92, 1)]);
        assert_eq!(weight(&mut [a.clone(), b.clone()]), 3);
        a.push(of(2, 1, 12, 1));
        assert_eq!(weight(&mut [a.clone(), b.clone()]), 3);
        // More of it, and more of its successor, wherever they come.
        a.push(of(3, 100, 110, 4));
        a.push(of(2, 12, 31, 1));
        let order: Vec<_> = a.segments.iter().map(|segment| segment.entry).collect();
        assert_eq!(order, [2, 2, 3, 3].map(|entry| Some(EntryRef(entry))));
        assert_eq!(weight(&mut [a, b]), 7);
    }

    #[test]
    fn growth_before_a_join_of_several_entries_is_joined_with_it() {
        let of = |entry, since, until, packets| Segment {
            entry: Some(EntryRef(entry)),
            ..seconds(since, until, packets)
        };
        // B saw everything. A tells its last entry first, then the one before it.
        let b = lane(&[seconds(0, 10, 1), seconds(20, 30, 1), seconds(40, 50, 1)]);
        let mut a = lane(&[of(3, 0, 95, 1), of(2, 1, 12, 1)]);
        let run = a.segments[0].join(&a.segments[1]);
        a.segments = vec![run];
        a.push(of(2, 13, 31, 1));
        assert_eq!(a.segments.len(), 1, "it may be in what was joined already");
        assert_eq!(weight(&mut [a, b]), 3);
    }

    #[test]
    fn components_are_chains_of_their_own() {
        let of = |packets, bytes| {
            let span = seconds(0, 10, 0).span;
            Segment::new(EntryRef(1), span, Tally::new(packets, bytes))
        };
        let mut lanes = [lane(&[of(10, 100)]), lane(&[of(5, 900)])];
        assert_eq!(weigh(&mut lanes), Tally::new(10, 900));
    }

    #[test]
    fn thinning_keeps_silences_and_the_newest() {
        let mut run = lane(&[
            seconds(0, 10, 1),
            seconds(10, 20, 1),
            seconds(20, 30, 1),
            seconds(60, 70, 1),
            seconds(70, 80, 1),
        ]);
        run.thin(3);
        let spans: Vec<(i64, i64, u64)> = run
            .segments
            .iter()
            .map(|segment| {
                let span = segment.span.unwrap();
                let since = span.since.unwrap().0 / 1_000_000_000;
                (since, span.until.0 / 1_000_000_000, segment.growth.packets.get())
            })
            .collect();
        assert_eq!(spans, [(0, 30, 3), (60, 70, 1), (70, 80, 1)]);
    }

    fn any_segment() -> impl Strategy<Value = Segment> {
        let span = (0_i64..200, 0_i64..40, 0_u64..4_000).prop_map(|(since, length, slack)| Span {
            since: (since > 5).then_some(UnixNanos(since * 1_000_000_000)),
            until: UnixNanos((since + length) * 1_000_000_000),
            slack: Duration::from_millis(slack),
        });
        (prop::option::weighted(0.95, span), 1_u64..100, 1_u64..100).prop_map(
            |(span, packets, bytes)| Segment::new(EntryRef(1), span, Tally::new(packets, bytes)),
        )
    }

    fn any_lanes() -> impl Strategy<Value = Vec<Lane>> {
        let segments = prop::collection::vec(any_segment(), 0..8);
        prop::collection::vec(segments.prop_map(|segments| lane(&segments)), 0..4)
    }

    proptest! {
        /// Never more than all growth, never less than the best lane, and the same whatever the
        /// order of the lanes.
        #[test]
        fn bounds_and_order(lanes in any_lanes()) {
            let total = |lane: &Lane| {
                lane.segments.iter().fold(Tally::default(), |sum, next| plus(sum, next.growth))
            };
            let all = lanes.iter().map(total).fold(Tally::default(), plus);
            let best = lanes.iter().map(total).fold(Tally::default(), max);
            let mut backward: Vec<Lane> = lanes.iter().rev().cloned().collect();
            let mut lanes = lanes;
            let weight = weigh(&mut lanes);
            prop_assert!(weight.packets <= all.packets && weight.bytes <= all.bytes);
            prop_assert!(weight.packets >= best.packets && weight.bytes >= best.bytes);
            prop_assert_eq!(weigh(&mut backward), weight);
            // Again changes nothing.
            prop_assert_eq!(weigh(&mut lanes), weight);
        }

        /// Joining segments leaves the weight as it is, and never makes a later one heavier.
        #[test]
        fn thinning_keeps_the_weight(lanes in any_lanes(), more in any_segment(), on in 0_usize..4) {
            let mut full = lanes;
            let weight = weigh(&mut full);
            let mut thin = full.clone();
            thin.iter_mut().for_each(|lane| lane.thin(Lane::SEGMENTS));
            prop_assert!(thin.iter().all(|lane| lane.timed() <= Lane::SEGMENTS));
            prop_assert_eq!(weigh(&mut thin), weight);
            if on < full.len() {
                full[on].push(more);
                thin[on].push(more);
                let (full, thin) = (weigh(&mut full), weigh(&mut thin));
                prop_assert!(thin.packets <= full.packets && thin.bytes <= full.bytes);
                prop_assert!(thin.packets >= weight.packets && thin.bytes >= weight.bytes);
            }
        }
    }
}
