//! When to sweep: at multiples of the interval by the wall clock, so that all nodes of a fleet
//! read at the same moments and their intervals can be compared.
//!
//! Missed ticks are skipped, never made up for. The wall clock is read anew for every tick: a
//! step moves the next tick, it never causes a burst.

use std::time::Duration;

use flow::UnixNanos;

/// The next tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Number of the interval that ends at this tick: the tick's wall time divided by the length.
    pub number: u64,
    /// How long to wait for it.
    pub wait: Duration,
}

/// Aligned ticks of one length.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    length: Duration,
}

impl Schedule {
    /// Ticks every `length`, which is at least a millisecond.
    #[must_use]
    pub fn every(length: Duration) -> Self {
        Self { length: length.max(Duration::from_millis(1)) }
    }

    /// The length of an interval.
    #[must_use]
    pub const fn length(&self) -> Duration {
        self.length
    }

    /// The first tick after `wall`. One that is nearer than a tenth of the length is left out:
    /// a timer that fired a little early must not sweep twice.
    #[must_use]
    pub fn next(&self, wall: UnixNanos) -> Tick {
        let length = self.length.as_nanos();
        let wall = u128::try_from(wall.get()).unwrap_or(0);
        let mut number = wall / length + 1;
        if number * length - wall < length / 10 {
            number += 1;
        }
        let wait = u64::try_from(number * length - wall).unwrap_or(u64::MAX);
        Tick { number: u64::try_from(number).unwrap_or(u64::MAX), wait: Duration::from_nanos(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn ticks_are_aligned_and_early_timers_do_not_sweep_twice() {
        let schedule = Schedule::every(Duration::from_secs(10));
        let tick = schedule.next(UnixNanos(103 * SECOND));
        assert_eq!(tick, Tick { number: 11, wait: Duration::from_secs(7) });
        let exactly = schedule.next(UnixNanos(110 * SECOND));
        assert_eq!(exactly, Tick { number: 12, wait: Duration::from_secs(10) });
        let early = schedule.next(UnixNanos(110 * SECOND - 1_000));
        assert_eq!(early.number, 12);
    }

    #[test]
    fn a_wall_clock_before_1970_does_not_stop_the_node() {
        assert_eq!(Schedule::every(Duration::from_secs(1)).next(UnixNanos(-5)).number, 1);
    }
}
