//! Bounds of time: which complete sweeps an entry was not in, and what the kernel's wall-clock
//! stamps say by the clock that does not step.

use std::collections::VecDeque;
use std::time::Duration;

use crate::record::ClockPair;
use crate::units::BootNanos;

/// A sweep that read a namespace from end to end and left no entry untracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CleanSweep {
    /// Before the first entry was asked for.
    pub(super) begin: BootNanos,
    /// After the last one was read.
    pub(super) end: BootNanos,
}

/// A namespace's clean sweeps, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespace {
    clean: VecDeque<CleanSweep>,
}

impl Namespace {
    /// Notes a clean sweep; forgets those that ended more than `keep` before, but one.
    pub(super) fn push(&mut self, sweep: CleanSweep, keep: Duration) {
        let old = sweep.end.minus(keep);
        while self.clean.get(1).is_some_and(|second| second.end < old) {
            self.clean.pop_front();
        }
        if self.clean.len() >= CLEAN_SWEEPS_MAX {
            // Half of them do as well: a bound taken from an older sweep is still a bound.
            let mut odd = false;
            self.clean.retain(|_| {
                odd = !odd;
                odd
            });
        }
        self.clean.push_back(sweep);
    }

    /// Begin of the last clean sweep: an entry first seen now was born after it.
    pub(super) fn last(&self) -> Option<BootNanos> {
        self.clean.back().map(|sweep| sweep.begin)
    }

    /// Begin of the last clean sweep that was over before `alive`: an entry that lived at that
    /// moment and was not in the sweep was born after it.
    pub(super) fn before(&self, alive: BootNanos) -> Option<BootNanos> {
        self.clean.iter().rev().find(|sweep| sweep.end < alive).map(|sweep| sweep.begin)
    }
}

/// Converts the kernel's stamps while the wall clock can be trusted to have been steady.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wall {
    pair: Option<ClockPair>,
    /// The first pair's time: earlier stamps may be of a wall clock that was stepped since.
    first: BootNanos,
    /// A step was last noticed here.
    step: BootNanos,
    /// The kernel may still hold ends for an earlier life of the node, from before a step that
    /// nobody noticed.
    later_life: bool,
}

impl Wall {
    /// The clocks of a node that goes on: a step while it was down is thought of. (A node that
    /// begins has new sockets, which nothing is held for.)
    pub(super) fn of_a_later_life() -> Self {
        Self { later_life: true, ..Self::default() }
    }

    /// Takes a new pair; a changed distance between the clocks is a step, whoever says so.
    pub(super) fn set(&mut self, pair: ClockPair) {
        match self.pair {
            None => {
                self.first = pair.boot;
                if self.later_life {
                    self.step = pair.boot;
                }
            }
            Some(old) => {
                let offset = |p: ClockPair| i128::from(p.wall.0) - i128::from(p.boot.0);
                let moved = (offset(pair) - offset(old)).unsigned_abs() > STEP_TOLERANCE_NANOS;
                if pair.stepped || moved {
                    self.step = pair.boot;
                }
            }
        }
        self.pair = Some(pair);
    }

    /// Lower bound of the birth of an entry that was born after `lower` and read by `at`: its
    /// start where that can be converted, else `lower`. A start before `lower` says that the
    /// entry was there all the time and had been forgotten: then the start itself, or unknown.
    pub(super) fn birth(&self, start: u64, lower: BootNanos, at: BootNanos) -> BootNanos {
        let steady = self.first.max(self.step);
        if lower < steady {
            return lower;
        }
        match self.convert(start) {
            Some(start) if start > at => lower,
            Some(start) if start < steady => BootNanos::BOOT,
            Some(start) => start,
            None => lower,
        }
    }

    /// When an entry whose end was read at `at` stopped, where its stamp can be converted.
    /// Ends come at most `late` after.
    pub(super) fn stop(&self, stop: u64, at: BootNanos, late: Duration) -> Option<BootNanos> {
        if self.step != BootNanos::BOOT && at.minus(late) < self.step {
            return None;
        }
        self.convert(stop).filter(|stop| *stop > self.first && *stop <= at)
    }

    fn convert(&self, stamp: u64) -> Option<BootNanos> {
        let pair = self.pair?;
        if stamp == 0 {
            return None;
        }
        let nanos = i128::from(stamp) - i128::from(pair.wall.0) + i128::from(pair.boot.0);
        Some(BootNanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)))
    }
}

/// Clean sweeps remembered a namespace. When full, every second one is forgotten: bounds widen.
const CLEAN_SWEEPS_MAX: usize = 64;

/// The distance of boottime and wall clock is constant but for steps (both are slewed alike);
/// reading one after the other takes less than this.
const STEP_TOLERANCE_NANOS: u128 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::UnixNanos;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> BootNanos {
        BootNanos(seconds * SECOND)
    }

    fn pair(boot: u64, wall: i64) -> ClockPair {
        ClockPair {
            boot: at(boot),
            wall: UnixNanos(wall * 1_000_000_000),
            synchronised: true,
            stepped: false,
        }
    }

    #[test]
    fn clean_sweeps_bound_births() {
        let mut netns = Namespace::default();
        assert_eq!(netns.last(), None);
        for n in 1..=10 {
            let sweep = CleanSweep { begin: at(n * 10), end: at(n * 10 + 1) };
            netns.push(sweep, Duration::from_secs(60));
        }
        assert_eq!(netns.last(), Some(at(100)));
        assert_eq!(netns.before(at(102)), Some(at(100)));
        // It may have died while the sweep ran, before its turn.
        assert_eq!(netns.before(at(101)), Some(at(90)));
        assert_eq!(netns.before(at(100)), Some(at(90)));
        assert_eq!(netns.before(at(41)), Some(at(30)));
        assert_eq!(netns.before(at(31)), None, "forgotten, so unknown");
    }

    #[test]
    fn many_sweeps_are_thinned_not_lost() {
        let mut netns = Namespace::default();
        for n in 1..=1_000 {
            let sweep = CleanSweep { begin: at(n * 2), end: at(n * 2 + 1) };
            netns.push(sweep, Duration::from_secs(10_000));
        }
        assert!(netns.clean.len() <= CLEAN_SWEEPS_MAX);
        assert_eq!(netns.last(), Some(at(2_000)));
        let bound = netns.before(at(1_000)).unwrap();
        assert!(bound < at(1_000) && bound > at(1));
    }

    #[test]
    fn stamps_convert_within_their_window_only() {
        let mut wall = Wall::default();
        let stamp = |wall: u64| wall * SECOND;
        assert_eq!(wall.birth(stamp(5_005), at(4), at(6)), at(4), "no clock yet");
        wall.set(pair(1, 5_001));
        wall.set(pair(6, 5_006));
        assert_eq!(wall.birth(stamp(5_005), at(4), at(6)), at(5));
        assert_eq!(wall.birth(0, at(4), at(6)), at(4), "no stamp");
        assert_eq!(wall.birth(stamp(5_007), at(4), at(6)), at(4), "from the future");
        assert_eq!(wall.birth(stamp(5_003), at(4), at(6)), at(3), "older than it can be");
        assert_eq!(wall.birth(stamp(4_000), at(4), at(6)), BootNanos::BOOT, "no telling");
        assert_eq!(wall.stop(stamp(5_005), at(6), Duration::from_secs(3)), Some(at(5)));
        assert_eq!(wall.stop(stamp(5_007), at(6), Duration::from_secs(3)), None);
    }

    #[test]
    fn a_step_stops_conversion_until_windows_lie_behind_it() {
        let mut wall = Wall::default();
        let late = Duration::from_secs(3);
        wall.set(pair(1, 5_001));
        wall.set(pair(10, 8_010));
        let stamp = |wall: u64| wall * SECOND;
        assert_eq!(wall.birth(stamp(8_009), at(8), at(10)), at(8), "the step lies in the window");
        assert_eq!(wall.stop(stamp(8_009), at(10), late), None);
        assert_eq!(wall.birth(stamp(8_012), at(11), at(14)), at(12));
        assert_eq!(wall.stop(stamp(8_012), at(14), late), Some(at(12)));
    }
}
