//! Conversion of a node's times to the aggregator's clock, with their uncertainty.
//!
//! A batch says its times by its host's boottime. What ties that clock to the aggregator's is, in
//! this order ([`Basis`]): the live session's measured offset, where it is of the same boot; the
//! last offset the node had measured in that boot, from the batch's header; the host's wall clock,
//! where the kernel calls it synchronised and nobody stepped it; else nothing: the batch's times
//! are *unknown*.
//!
//! Wall-clock times never order the readings of one host among themselves, and a raw kernel start
//! stamp becomes a time only where the batch's own clocks confirm it ([`kernel_start`]).

use std::time::Duration;

use crate::id::BootId;
use crate::record::{ClockPair, Interval};
use crate::units::{BootNanos, ClockOffset, UnixNanos};

/// A live session's measured clock offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionClock {
    /// Aggregator's wall clock less the node's boottime.
    pub offset: ClockOffset,
    /// The boot of the node that it was measured in.
    pub boot: BootId,
    /// When it was measured, by that boot's boottime.
    pub at: BootNanos,
}

/// Uncertainty of a measured offset at the moment it is measured.
pub const MEASURED_SLACK: Duration = Duration::from_millis(250);

/// Drift assumed between a measurement and the moment converted by it, parts per million.
pub const DRIFT_PPM: u64 = 100;

/// Uncertainty of a host's synchronised wall clock.
pub const WALL_SLACK: Duration = Duration::from_secs(2);

/// How far ahead of its receipt a time may lie before it is called stray.
pub const AHEAD_MAX: Duration = Duration::from_secs(3600);

/// What a batch's times are converted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// An offset measured at `at` in the batch's boot.
    Measured {
        /// Aggregator's wall clock less the host's boottime.
        offset: ClockOffset,
        /// When it was measured.
        at: BootNanos,
    },
    /// The host's own wall clock.
    Wall {
        /// Host's wall clock less its boottime.
        offset: ClockOffset,
    },
    /// Nothing: the times are unknown.
    Unknown,
}

/// A closed interval of time by the aggregator's clock, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Lower bound, `None` where there is none.
    pub since: Option<UnixNanos>,
    /// Upper bound.
    pub until: UnixNanos,
    /// By how much either bound may be wrong.
    pub slack: Duration,
}

impl Basis {
    /// The best basis for a batch that arrived while the session's clock was `live`.
    #[must_use]
    pub fn of(interval: &Interval, live: Option<&SessionClock>) -> Self {
        if let Some(session) = live.filter(|session| session.boot == interval.boot) {
            return Self::Measured { offset: session.offset, at: session.at };
        }
        if let Some(last) = interval.offset.filter(|last| last.boot == interval.boot) {
            return Self::Measured { offset: last.offset, at: last.at };
        }
        let ClockPair { boot, wall, synchronised, stepped } = interval.clock;
        if synchronised && !stepped {
            return Self::Wall { offset: ClockOffset::between(boot, wall) };
        }
        Self::Unknown
    }

    /// `moment` by the aggregator's clock, where that is known.
    #[must_use]
    pub fn convert(&self, moment: BootNanos) -> Option<UnixNanos> {
        match self {
            Self::Measured { offset, .. } | Self::Wall { offset } => Some(offset.apply(moment)),
            Self::Unknown => None,
        }
    }

    /// By how much the conversion of `moment` may be wrong; `None` where nothing is known.
    #[must_use]
    pub fn slack(&self, moment: BootNanos) -> Option<Duration> {
        match self {
            Self::Measured { at, .. } => {
                let distance = moment.0.abs_diff(at.0);
                let drift = Duration::from_nanos(distance / 1_000_000 * DRIFT_PPM);
                Some(MEASURED_SLACK.saturating_add(drift))
            }
            Self::Wall { .. } => Some(WALL_SLACK),
            Self::Unknown => None,
        }
    }

    /// The interval from `since` ([`BootNanos::BOOT`] = unknown) to `until`, with the larger
    /// uncertainty of its known ends; `None` where the times are unknown. A `since` after `until`
    /// is taken as `until`.
    #[must_use]
    pub fn span(&self, since: BootNanos, until: BootNanos) -> Option<Span> {
        let slack = self.slack(until)?;
        let end = self.convert(until)?;
        if since == BootNanos::BOOT {
            return Some(Span { since: None, until: end, slack });
        }
        let since = since.min(until);
        Some(Span { since: self.convert(since), until: end, slack: slack.max(self.slack(since)?) })
    }
}

/// The boottime of an entry's birth, if the batch that brings its first record confirms it.
///
/// `start` is the raw kernel stamp (wall clock), `after` the begin of the previous complete
/// sweep, `read` the moment the entry was read. By the clock pair of the batch the stamp must lie
/// in `(after, read]`; otherwise somebody moved the wall clock, or the entry is older than the
/// node's sweeps, and its start is known by those bounds only.
#[must_use]
pub fn kernel_start(
    clock: &ClockPair,
    start: u64,
    after: Option<BootNanos>,
    read: BootNanos,
) -> Option<BootNanos> {
    let after = after?;
    if clock.stepped {
        return None;
    }
    let behind = clock.wall.0.checked_sub(i64::try_from(start).ok()?)?;
    let born = i64::try_from(clock.boot.0).ok()?.checked_sub(behind)?;
    let born = BootNanos(u64::try_from(born).ok()?);
    (born > after && born <= read).then_some(born)
}

/// Where a row goes by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A time that is believed.
    Normal(UnixNanos),
    /// Too far ahead of its receipt, or older than the horizon: kept apart.
    Stray(UnixNanos),
}

/// The time of a row whose reading ended at `until`, received at `receipt`.
///
/// Where the time is unknown (`None`) the host's wall clock `wall` stands in if it lies between
/// the horizon and the receipt, else the receipt: such a row is never stray.
#[must_use]
pub fn place(
    until: Option<UnixNanos>,
    wall: UnixNanos,
    receipt: UnixNanos,
    horizon: Duration,
) -> Placement {
    let oldest = receipt.minus(horizon);
    match until {
        Some(time) if time > receipt.plus(AHEAD_MAX) || time < oldest => Placement::Stray(time),
        Some(time) => Placement::Normal(time),
        None if wall >= oldest && wall <= receipt => Placement::Normal(wall),
        None => Placement::Normal(receipt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{KernelTotals, MeasuredOffset};

    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;
    const BOOT: BootId = BootId([1; 16]);
    const OTHER: BootId = BootId([2; 16]);
    /// True aggregator time of the host's boot.
    const EPOCH: i64 = 1_700_000_000 * 1_000_000_000;

    fn at(seconds: u64) -> BootNanos {
        BootNanos(seconds * SECOND)
    }

    fn unix(seconds: i64) -> UnixNanos {
        UnixNanos(EPOCH + seconds * 1_000_000_000)
    }

    /// An interval that ends 100 s after boot, on a host whose wall clock is `wrong` ns ahead.
    fn interval(wrong: i64) -> Interval {
        Interval {
            number: 1,
            length_ms: 10_000,
            part: 1,
            parts: 1,
            sweep_begin: at(99),
            sweep_end: at(100),
            boot: BOOT,
            clock: ClockPair {
                boot: at(100),
                wall: UnixNanos(EPOCH + 100 * 1_000_000_000 + wrong),
                synchronised: true,
                stepped: false,
            },
            offset: None,
            totals: KernelTotals::default(),
            paused: false,
        }
    }

    #[test]
    fn a_live_session_of_the_same_boot_comes_first() {
        let mut batch = interval(DAY as i64);
        batch.offset = Some(MeasuredOffset { offset: ClockOffset(7), boot: BOOT, at: at(1) });
        let live = SessionClock { offset: ClockOffset(EPOCH), boot: BOOT, at: at(10_100) };
        let basis = Basis::of(&batch, Some(&live));
        // A wall clock a day off changes nothing.
        assert_eq!(basis.convert(at(100)), Some(unix(100)));
        // 100 ppm of the 10,000 s between the reading and the measurement are a second.
        assert_eq!(basis.slack(at(100)), Some(Duration::from_millis(1_250)));
        assert_eq!(basis.slack(at(20_100)), Some(Duration::from_millis(1_250)));
        assert_eq!(basis.slack(at(10_100)), Some(MEASURED_SLACK));
    }

    #[test]
    fn a_spooled_batch_of_an_earlier_boot_uses_its_own_measurement() {
        let mut batch = interval(-(DAY as i64));
        batch.offset = Some(MeasuredOffset { offset: ClockOffset(EPOCH), boot: BOOT, at: at(90) });
        let live = SessionClock { offset: ClockOffset(5), boot: OTHER, at: at(1) };
        let basis = Basis::of(&batch, Some(&live));
        assert_eq!(basis, Basis::Measured { offset: ClockOffset(EPOCH), at: at(90) });
        assert_eq!(basis.slack(at(100)), Some(Duration::from_millis(251)));
    }

    #[test]
    fn a_boot_without_a_session_has_its_wall_clock_or_nothing() {
        let mut batch = interval(3 * SECOND as i64);
        // The header's measurement is of an earlier boot: worthless for this one.
        batch.offset = Some(MeasuredOffset { offset: ClockOffset(9), boot: OTHER, at: at(5) });
        let basis = Basis::of(&batch, None);
        assert_eq!(basis.convert(at(90)), Some(unix(93)));
        assert_eq!(basis.slack(at(90)), Some(WALL_SLACK));

        batch.clock.stepped = true;
        assert_eq!(Basis::of(&batch, None), Basis::Unknown);
        batch.clock = ClockPair { synchronised: false, stepped: false, ..batch.clock };
        let basis = Basis::of(&batch, None);
        assert_eq!((basis.convert(at(1)), basis.slack(at(1))), (None, None));
        assert_eq!(basis.span(at(1), at(2)), None);
    }

    #[test]
    fn spans_carry_the_larger_uncertainty_and_never_turn_round() {
        let basis = Basis::Measured { offset: ClockOffset(EPOCH), at: at(20_000) };
        let span = basis.span(at(10_000), at(20_000)).unwrap();
        assert_eq!(span.since, Some(unix(10_000)));
        assert_eq!(span.slack, Duration::from_millis(1_250));
        let unknown = basis.span(BootNanos::BOOT, at(20_000)).unwrap();
        assert_eq!((unknown.since, unknown.slack), (None, MEASURED_SLACK));
        let turned = basis.span(at(30), at(20)).unwrap();
        assert_eq!((turned.since, turned.until), (Some(unix(20)), unix(20)));
    }

    #[test]
    fn hostile_times_saturate() {
        let basis = Basis::Measured { offset: ClockOffset(i64::MAX), at: BootNanos(0) };
        let span = basis.span(BootNanos(1), BootNanos(u64::MAX)).unwrap();
        assert_eq!(span.until, UnixNanos(i64::MAX));
        assert!(span.slack >= Duration::from_secs(1_000_000));
        let mut clock = interval(0).clock;
        for (wall, boot, start) in
            [(i64::MIN, 0, u64::MAX), (i64::MAX, u64::MAX, 1), (i64::MIN, u64::MAX, 1)]
        {
            clock.wall = UnixNanos(wall);
            clock.boot = BootNanos(boot);
            assert_eq!(kernel_start(&clock, start, Some(at(0)), at(100)), None);
        }
    }

    #[test]
    fn starts_are_believed_only_inside_the_interval() {
        let start = |wrong: i64, seconds: i64| u64::try_from(unix(seconds).0 + wrong).unwrap();
        // A wall clock a day off is no matter: its start stamps are off by the same day.
        for wrong in [0, DAY as i64, -(DAY as i64)] {
            let clock = interval(wrong).clock;
            let born = |seconds| kernel_start(&clock, start(wrong, seconds), Some(at(90)), at(99));
            assert_eq!(born(95), Some(at(95)));
            assert_eq!(born(99), Some(at(99)));
            assert_eq!(born(90), None, "the previous sweep would have shown it");
            assert_eq!(born(100), None, "not born when it was read");
        }
        // Stamped before the clock went back an hour: in the future by the new clock.
        let clock = interval(-3600 * SECOND as i64).clock;
        assert_eq!(kernel_start(&clock, start(0, 95), Some(at(90)), at(99)), None);
        let clock = ClockPair { stepped: true, ..interval(0).clock };
        assert_eq!(kernel_start(&clock, start(0, 95), Some(at(90)), at(99)), None);
        // No earlier sweep is known: an old entry could have any start.
        assert_eq!(kernel_start(&interval(0).clock, start(0, 95), None, at(99)), None);
    }

    #[test]
    fn impossible_times_are_stray_and_unknown_ones_are_not() {
        let horizon = Duration::from_secs(8 * 86_400);
        let receipt = unix(1_000_000);
        let put = |until, wall| place(until, wall, receipt, horizon);
        let wall = unix(999_000);
        assert_eq!(put(Some(unix(999_999)), wall), Placement::Normal(unix(999_999)));
        assert_eq!(put(Some(unix(1_003_600)), wall), Placement::Normal(unix(1_003_600)));
        assert_eq!(put(Some(unix(1_003_601)), wall), Placement::Stray(unix(1_003_601)));
        assert_eq!(put(Some(unix(308_800)), wall), Placement::Normal(unix(308_800)));
        assert_eq!(put(Some(unix(308_799)), wall), Placement::Stray(unix(308_799)));
        assert_eq!(put(None, wall), Placement::Normal(wall));
        assert_eq!(put(None, unix(1_000_001)), Placement::Normal(receipt));
        assert_eq!(put(None, unix(0)), Placement::Normal(receipt));
    }
}
