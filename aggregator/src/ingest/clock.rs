//! A session's clock offset: the node measures it with our pongs and tells it with its next
//! ping; we check that against what that ping itself shows. A pure core.

use std::time::Duration;

use flow::clock::SessionClock;
use flow::{BootId, BootNanos, ClockOffset, UnixNanos};

/// How far the node's figure may lie beyond what a ping shows: the uncertainty that conversion
/// assumes for a session's offset anyway.
pub const TOLERANCE: Duration = Duration::from_millis(250);

/// After this many figures in a row that do not fit, none is trusted until one fits again.
pub const FORGET_AFTER: u32 = 3;

/// The clock of one session.
#[derive(Debug)]
pub struct ClockWatch {
    boot: BootId,
    clock: Option<SessionClock>,
    misfits: u32,
}

/// What a ping told about the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A figure that fits.
    Fits,
    /// Nothing yet: the node has had no pong.
    Nothing,
    /// A figure that contradicts the ping itself.
    Misfit,
}

impl ClockWatch {
    /// Nothing is known yet of a node in its boot `boot`.
    #[must_use]
    pub const fn new(boot: BootId) -> Self {
        Self { boot, clock: None, misfits: 0 }
    }

    /// A ping sent at `sent` arrived at our `received` over a path with this round-trip time. It
    /// was sent at `received` less some delay between nothing and a round trip, so its true
    /// offset lies between `received - sent - rtt` and `received - sent`.
    pub fn ping(
        &mut self,
        received: UnixNanos,
        sent: BootNanos,
        offset: Option<i64>,
        rtt: Duration,
    ) -> Told {
        let Some(offset) = offset else { return Told::Nothing };
        let latest = ClockOffset::between(sent, received).0;
        let tolerance = nanos(TOLERANCE);
        let (low, high) = (
            latest.saturating_sub(nanos(rtt)).saturating_sub(tolerance),
            latest.saturating_add(tolerance),
        );
        if (low..=high).contains(&offset) {
            self.misfits = 0;
            let offset = ClockOffset(offset);
            self.clock = Some(SessionClock { offset, boot: self.boot, at: sent });
            return Told::Fits;
        }
        self.misfits = self.misfits.saturating_add(1);
        if self.misfits >= FORGET_AFTER {
            self.clock = None;
        }
        Told::Misfit
    }

    /// The offset to use now, if one is trusted.
    #[must_use]
    pub const fn clock(&self) -> Option<SessionClock> {
        self.clock
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_figure_that_fits_is_taken_and_three_misfits_forget_it() {
        let boot = BootId([7; 16]);
        let mut watch = ClockWatch::new(boot);
        let rtt = Duration::from_millis(40);
        let (sent, received) = (BootNanos(100 * S), UnixNanos(5_000 * S as i64));
        assert_eq!(watch.ping(received, sent, None, rtt), Told::Nothing);
        let truth = 4_900 * S as i64 - 20_000_000;
        assert_eq!(watch.ping(received, sent, Some(truth), rtt), Told::Fits);
        let clock = SessionClock { offset: ClockOffset(truth), boot, at: sent };
        assert_eq!(watch.clock(), Some(clock));
        for off in [-300_000_000, 300_000_000, i64::MAX - truth] {
            assert_eq!(watch.clock(), Some(clock));
            assert_eq!(watch.ping(received, sent, Some(truth + off), rtt), Told::Misfit);
        }
        assert_eq!(watch.clock(), None);
        assert_eq!(watch.ping(received, sent, Some(truth), rtt), Told::Fits);
        assert_eq!(watch.clock(), Some(clock));
    }

    #[test]
    fn no_number_panics() {
        let mut watch = ClockWatch::new(BootId::default());
        for received in [i64::MIN, 0, i64::MAX] {
            for sent in [0, u64::MAX] {
                for offset in [i64::MIN, 0, i64::MAX] {
                    watch.ping(UnixNanos(received), BootNanos(sent), Some(offset), Duration::MAX);
                }
            }
        }
    }
}
