//! The offset from this node's boottime to the aggregator's wall clock, from pings with four
//! time stamps (the arithmetic of NTP, RFC 5905 section 8).

use std::collections::VecDeque;
use std::time::Duration;

use flow::record::MeasuredOffset;
use flow::{BootId, BootNanos, ClockOffset};
use wire::control::Pong;

/// Measures the offset: of the last [`SAMPLES`] it believes the one with the smallest error.
#[derive(Clone, Debug)]
pub struct OffsetClock {
    boot: BootId,
    samples: VecDeque<Sample>,
    best: Option<Sample>,
}

/// One ping's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Aggregator's wall clock less the node's boottime.
    pub offset: ClockOffset,
    /// Time on the way, there and back.
    pub round_trip: Duration,
    /// When the answer came.
    pub at: BootNanos,
}

impl Sample {
    /// How wrong the offset may be at `now`: half the round trip, and what clocks drift.
    #[must_use]
    pub fn error(&self, now: BootNanos) -> Duration {
        self.round_trip / 2 + now.since(self.at).mul_f64(DRIFT)
    }
}

impl OffsetClock {
    /// Nothing measured yet.
    #[must_use]
    pub const fn new(boot: BootId) -> Self {
        Self { boot, samples: VecDeque::new(), best: None }
    }

    /// A session begins, perhaps with another host: older samples do not count against its own,
    /// but the last offset stands until there is one.
    pub fn begin_session(&mut self) {
        self.samples.clear();
    }

    /// Takes the answer to a ping sent at its `sent` and answered at `now`. One with impossible
    /// times is ignored.
    pub fn pong(&mut self, pong: &Pong, now: BootNanos) -> Option<Sample> {
        let answering = u64::try_from(pong.answered.diff(pong.received)).ok()?;
        let away = now.0.checked_sub(pong.sent.0)?;
        let round_trip = Duration::from_nanos(away.checked_sub(answering)?);
        let there = i128::from(pong.received.0) - i128::from(pong.sent.0);
        let back = i128::from(pong.answered.0) - i128::from(now.0);
        let offset = ClockOffset(i64::try_from((there + back).div_euclid(2)).ok()?);
        let sample = Sample { offset, round_trip, at: now };
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.best = self.samples.iter().min_by_key(|sample| sample.error(now)).copied();
        Some(sample)
    }

    /// The sample believed in.
    #[must_use]
    pub const fn best(&self) -> Option<Sample> {
        self.best
    }

    /// The offset, as batches carry it.
    #[must_use]
    pub fn measured(&self) -> Option<MeasuredOffset> {
        let Sample { offset, at, .. } = self.best?;
        Some(MeasuredOffset { offset, boot: self.boot, at })
    }
}

/// Samples remembered; the oldest goes.
pub const SAMPLES: usize = 16;

/// What two quartz clocks may drift apart, as a fraction: 100 ppm.
const DRIFT: f64 = 100e-6;

#[cfg(test)]
mod tests {
    use flow::UnixNanos;

    use super::*;

    const TRUE_OFFSET: i64 = 1_700_000_000_000_000_000;

    /// A pong as it would come over ways that take `there` and `back` ns.
    fn pong(sent: u64, there: u64, answering: u64, back: u64) -> (Pong, BootNanos) {
        let at = |boot: u64| UnixNanos(TRUE_OFFSET + i64::try_from(boot).unwrap());
        let (received, answered) = (sent + there, sent + there + answering);
        let pong = Pong {
            sent: BootNanos(sent),
            received: at(received),
            answered: at(answered),
            extensions: Vec::new(),
        };
        (pong, BootNanos(answered + back))
    }

    #[test]
    fn the_error_is_within_half_the_round_trip() {
        for (there, back) in [(0, 0), (5_000, 5_000), (0, 900_000), (900_000, 0), (7, 8)] {
            let mut clock = OffsetClock::new(BootId([1; 16]));
            let (pong, now) = pong(1_000_000, there, 333, back);
            let sample = clock.pong(&pong, now).unwrap();
            assert_eq!(sample.round_trip, Duration::from_nanos(there + back));
            let error = (sample.offset.0 - TRUE_OFFSET).unsigned_abs();
            assert!(error <= (there + back) / 2 + 1, "{error} ns");
            assert_eq!(clock.measured().unwrap().offset, sample.offset);
        }
    }

    #[test]
    fn the_quickest_answer_is_believed_until_it_is_old() {
        let mut clock = OffsetClock::new(BootId([1; 16]));
        let second = 1_000_000_000;
        for n in 1..=3u64 {
            let there = if n == 1 { 0 } else { 40_000_000 };
            let (pong, now) = pong(n * second, there, 0, 0);
            clock.pong(&pong, now);
        }
        assert_eq!(clock.best().unwrap().at, BootNanos(second));
        // After a thousand seconds 100 ms may have come together: worse than 20 ms.
        let (pong, now) = pong(1_000 * second, 40_000_000, 0, 0);
        clock.pong(&pong, now);
        assert_eq!(clock.best().unwrap().at, now);
    }

    #[test]
    fn impossible_times_are_ignored_and_nothing_overflows() {
        let mut clock = OffsetClock::new(BootId([1; 16]));
        let (good, now) = pong(1_000, 10, 10, 10);
        let before = Pong { sent: BootNanos(now.0 + 1), ..good.clone() };
        assert_eq!(clock.pong(&before, now), None);
        let backwards = Pong { answered: UnixNanos(good.received.0 - 1), ..good.clone() };
        assert_eq!(clock.pong(&backwards, now), None);
        let long = Pong { answered: UnixNanos(i64::MAX), ..good.clone() };
        assert_eq!(clock.pong(&long, now), None);
        let far = Pong { received: UnixNanos(i64::MIN), answered: UnixNanos(i64::MIN), ..good };
        assert_eq!(clock.pong(&far, BootNanos(u64::MAX)), None);
        assert_eq!(clock.best(), None);
    }
}
