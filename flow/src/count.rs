//! Counting: the part of an absolute reading above the highest one counted already.
//!
//! This is the count of one observer's entry. Each reading adds `max(0, cum - W)` per component,
//! where W is the highest reading counted so far, so a lost, repeated, late or cloned reading
//! never counts twice and the next one heals what was missing. Pure: [`EntryCount::count`] gives
//! the next state and what was counted, and changes nothing.
//!
//! Merging the growths of several observers of one flow starts from the [`Growth`]s made here;
//! with one observer in its domain a growth is what is counted, as it stands.

use std::time::Duration;

use crate::clock::Span;
use crate::counters::Counters;
use crate::units::UnixNanos;

/// Where the last timed reading of an entry ended, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its upper bound.
    pub until: UnixNanos,
    /// By how much it may be wrong.
    pub slack: Duration,
}

/// What has been counted of one entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCount {
    /// W: the highest absolute reading counted, per component.
    pub counted: Counters,
    /// The end of the last reading whose time is known.
    pub reached: Option<Reached>,
    /// The entry's start by the aggregator's clock, where known.
    pub start: Option<UnixNanos>,
}

/// One reading, its times converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Absolute counters.
    pub cum: Counters,
    /// What the node believes was reported before.
    pub base: Counters,
    /// When the growth over `base` happened; `None` where the times are unknown.
    pub span: Option<Span>,
}

/// What one reading adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The part of the reading above W.
    pub growth: Counters,
    /// When it happened; `None` where the times are unknown or contradict earlier ones.
    pub span: Option<Span>,
    /// The node reported more before than was counted: earlier readings are missing, and this
    /// growth contains theirs.
    pub missing: bool,
    /// A component lies below what was counted; it adds nothing until it passes W.
    pub went_back: bool,
    /// The reading claims to be older than the one before it; its times are not believed.
    pub contradicts: bool,
}

impl EntryCount {
    /// Counts one reading: the state after it, and what it adds.
    #[must_use]
    pub fn count(&self, observed: &Observed) -> (Self, Growth) {
        let missing = self.counted.any_below(observed.base);
        let (span, contradicts) = match observed.span {
            None => (None, false),
            Some(span) => match self.clamp(span, missing) {
                Some(span) => (Some(span), false),
                None => (None, true),
            },
        };
        let growth = Growth {
            growth: observed.cum.above(self.counted),
            span,
            missing,
            went_back: observed.cum.any_below(self.counted),
            contradicts,
        };
        let reached = span.map(|span| Reached { until: span.until, slack: span.slack });
        let next = Self {
            counted: self.counted.max(observed.cum),
            reached: reached.or(self.reached),
            start: self.start,
        };
        (next, growth)
    }

    /// The span fitted to what this entry's earlier readings said; `None` where it cannot be.
    ///
    /// One host reads its entries in order, so a growth cannot begin before the end of the reading
    /// before it: `since` is raised to that end where it is earlier, and never lowered, so that a
    /// silence stays visible as one. Where readings are missing their growth lies in this one, so
    /// `since` becomes that end, or the entry's start. Nothing grew before that.
    fn clamp(&self, span: Span, missing: bool) -> Option<Span> {
        let since = match self.reached {
            Some(last) => {
                let margin = last.slack.saturating_add(span.slack);
                if span.until < last.until.minus(margin) {
                    return None;
                }
                let floor = last.until.minus(last.slack).plus(span.slack);
                Some(if missing { floor } else { span.since.map_or(floor, |s| s.max(floor)) })
            }
            None if missing => self.start,
            None => span.since.max(self.start),
        };
        Some(Span { since: since.map(|since| since.min(span.until)), ..span })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(n: i64) -> UnixNanos {
        UnixNanos(n * 1_000_000_000)
    }

    const SLACK: Duration = Duration::from_millis(500);

    fn span(since: Option<i64>, until: i64) -> Option<Span> {
        Some(Span { since: since.map(seconds), until: seconds(until), slack: SLACK })
    }

    fn reading(base: u64, cum: u64, span: Option<Span>) -> Observed {
        let counters = |n| Counters::new(n, n * 100, n / 2, n * 50);
        Observed { cum: counters(cum), base: counters(base), span }
    }

    #[test]
    fn growth_lies_above_what_was_counted() {
        let start = EntryCount::default();
        let (one, first) = start.count(&reading(0, 10, span(Some(1), 10)));
        assert_eq!(first.growth, Counters::new(10, 1_000, 5, 500));
        assert_eq!(first.span, span(Some(1), 10));
        assert!(!first.missing && !first.went_back);

        // The same reading again, and an older one: nothing.
        let (same, again) = one.count(&reading(0, 10, span(Some(1), 10)));
        assert!(again.growth.is_zero() && !again.went_back);
        assert_eq!(same.counted, one.counted);
        let (_, old) = one.count(&reading(0, 4, span(Some(1), 10)));
        assert!(old.growth.is_zero() && old.went_back);

        let (_, next) = one.count(&reading(10, 14, span(Some(12), 20)));
        assert_eq!(next.growth, Counters::new(4, 400, 2, 200));
        assert_eq!(next.span, span(Some(12), 20), "a silence stays visible");
    }

    #[test]
    fn components_are_counted_apart() {
        let w = EntryCount { counted: Counters::new(10, 1_000, 3, 30), ..EntryCount::default() };
        let cum = Counters::new(12, 900, 3, 31);
        let (next, growth) = w.count(&Observed { cum, base: Counters::ZERO, span: None });
        assert_eq!(growth.growth, Counters::new(2, 0, 0, 1));
        assert!(growth.went_back);
        assert_eq!(next.counted, Counters::new(12, 1_000, 3, 31));
    }

    #[test]
    fn since_is_raised_and_never_lowered() {
        let (one, _) = EntryCount::default().count(&reading(0, 10, span(Some(1), 10)));
        let (_, early) = one.count(&reading(10, 11, span(Some(5), 20)));
        assert_eq!(early.span, span(Some(10), 20));
        let (_, unknown) = one.count(&reading(10, 11, span(None, 20)));
        assert_eq!(unknown.span, span(Some(10), 20));
        // A predecessor less sure of its end than this one: it may have ended earlier.
        let vague = EntryCount {
            reached: Some(Reached { until: seconds(10), slack: Duration::from_secs(2) }),
            ..one
        };
        let (_, sure) = vague.count(&reading(10, 11, span(Some(1), 20)));
        assert_eq!(sure.span.unwrap().since, Some(UnixNanos(8_500_000_000)));
    }

    #[test]
    fn missing_readings_widen_the_interval() {
        let (one, _) = EntryCount::default().count(&reading(0, 10, span(Some(1), 10)));
        let (_, healed) = one.count(&reading(50, 60, span(Some(90), 100)));
        assert!(healed.missing);
        assert_eq!(healed.growth.orig.packets.get(), 50);
        assert_eq!(healed.span, span(Some(10), 100));

        let fresh = EntryCount::default();
        let (_, unknown) = fresh.count(&reading(50, 60, span(Some(90), 100)));
        assert_eq!(unknown.span, span(None, 100));
        let born = EntryCount { start: Some(seconds(42)), ..fresh };
        let (_, started) = born.count(&reading(50, 60, span(Some(90), 100)));
        assert_eq!(started.span, span(Some(42), 100));
        // The node does not know since when; the start is a bound all the same.
        let (_, rebased) = born.count(&reading(0, 60, span(None, 100)));
        assert_eq!(rebased.span, span(Some(42), 100));
    }

    #[test]
    fn an_end_before_the_last_one_is_not_believed() {
        let (one, _) = EntryCount::default().count(&reading(0, 10, span(Some(1), 10)));
        // Within both uncertainties: clamped, believed.
        let (_, near) = one.count(&reading(10, 11, span(Some(5), 9)));
        assert_eq!(near.span, span(Some(9), 9));
        let (next, far) = one.count(&reading(10, 12, span(Some(5), 8)));
        assert!(far.contradicts);
        assert_eq!((far.span, far.growth.orig.packets.get()), (None, 2));
        assert_eq!(next.reached, one.reached, "what is not believed moves nothing");
        let (next, unknown) = one.count(&reading(10, 12, None));
        assert!(!unknown.contradicts);
        assert_eq!(next.reached, one.reached);
    }

    proptest! {
        /// Under any order, repetition and loss the sum of growths is the largest reading seen.
        #[test]
        fn the_sum_is_the_maximum(
            readings in prop::collection::vec(
                (any::<[u64; 4]>(), any::<[u64; 4]>(), any::<Option<(Option<i64>, i64, u32)>>()),
                0..40,
            ),
        ) {
            let mut state = EntryCount::default();
            let (mut sum, mut most) = (Counters::ZERO, Counters::ZERO);
            for (cum, base, times) in readings {
                let cum = Counters::from_components(cum);
                let span = times.map(|(since, until, slack)| Span {
                    since: since.map(UnixNanos),
                    until: UnixNanos(until),
                    slack: Duration::from_millis(u64::from(slack)),
                });
                let observed = Observed { cum, base: Counters::from_components(base), span };
                let (next, growth) = state.count(&observed);
                sum = sum.plus(growth.growth);
                most = most.max(cum);
                state = next;
                if let Some(span) = growth.span {
                    prop_assert!(span.since.is_none_or(|since| since <= span.until));
                }
            }
            prop_assert_eq!(sum, most);
            prop_assert_eq!(state.counted, most);
        }
    }
}
