//! When the kernel may keep undelivered ends for us, and when that would harm the gateway.
//!
//! With `NETLINK_BROADCAST_ERROR` on, the kernel keeps every entry whose DESTROY could not be
//! queued and tries again later. Such entries are still counted in `nf_conntrack_count`, and at
//! `nf_conntrack_max` the kernel refuses new connections. So the option is on only while this
//! side reads regularly and both tables have room; losing ends, counted, is the lesser harm.
//!
//! What the guard cannot do: act while the whole process is stopped. At the moment it stops, the
//! table has at least the room above [`TRIP_PERCENT`] (with the option on); what is held from
//! then on eats that room at the rate at which entries end. The service manager's watchdog (10 s)
//! bounds the time, and closing the socket frees everything at once. So connections are refused
//! only where more than 20 % of the table ends within the watchdog's time.
//!
//! Pure: the times and counts are arguments.

use std::time::Duration;

use flow::BootNanos;

/// Entries in a namespace, and the kernel's limit (0 = none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// `nf_conntrack_count`: of the namespace, undelivered ends included.
    pub count: u64,
    /// `nf_conntrack_max`: of the whole host.
    pub max: u64,
}

/// What the guard looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// The kernel's table; `None` where it cannot be read.
    pub fill: Option<Fill>,
    /// Ends in our own table.
    pub ended: usize,
    /// The most it takes.
    pub ended_limit: usize,
}

/// Why reliable ends were switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trip {
    /// Our table of ended entries is full.
    EndedFull,
    /// The kernel's table is too full to keep entries for us.
    KernelFull,
    /// This thread was held up: two reads lie too far apart.
    HeldUp,
    /// Count and limit of the kernel's table cannot be read.
    Blind,
}

/// What to do with the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave it.
    Keep,
    /// Switch it on.
    SwitchOn,
    /// Switch it off.
    SwitchOff(Trip),
}

/// The guard of one socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guard {
    on: bool,
    trips: u64,
    last_read: Option<BootNanos>,
    /// The last time that there was a reason to be off, once it has tripped.
    trouble: Option<BootNanos>,
}

impl Guard {
    /// A guard whose option is off, as that of a new socket.
    #[must_use]
    pub const fn new() -> Self {
        Self { on: false, trips: 0, last_read: None, trouble: None }
    }

    /// Whether the option is on.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.on
    }

    /// How often it was switched off.
    #[must_use]
    pub const fn trips(&self) -> u64 {
        self.trips
    }

    /// To be called before each read at least every [`LONGEST_GAP`], and obeyed.
    pub fn decide(&mut self, now: BootNanos, pressure: Pressure) -> Decision {
        let gap = self.last_read.map_or(Duration::ZERO, |last| now.since(last));
        self.last_read = Some(now);
        match reason(gap, pressure) {
            Some(trip) => {
                if self.on || self.trouble.is_some() {
                    self.trouble = Some(now);
                }
                if !self.on {
                    return Decision::Keep;
                }
                self.on = false;
                self.trips += 1;
                Decision::SwitchOff(trip)
            }
            None if self.on || !self.recovered(now, pressure) => Decision::Keep,
            None => {
                self.on = true;
                self.trouble = None;
                Decision::SwitchOn
            }
        }
    }

    /// The kernel refused what [`Guard::decide`] said: the option is off.
    pub fn refused(&mut self, now: BootNanos) {
        self.on = false;
        self.trouble = Some(now);
    }

    /// After a trip: both tables are well below their limits, and were not in trouble for a
    /// while. (Before the first one, not being in trouble is enough.)
    fn recovered(&self, now: BootNanos, pressure: Pressure) -> bool {
        let Some(trouble) = self.trouble else { return true };
        let kernel = pressure.fill.is_some_and(|fill| !above(fill.count, fill.max, BACK_PERCENT));
        now.since(trouble) >= QUIET_TIME
            && kernel
            && !above(wide(pressure.ended), wide(pressure.ended_limit), BACK_PERCENT)
    }
}

fn reason(gap: Duration, pressure: Pressure) -> Option<Trip> {
    let Some(fill) = pressure.fill else { return Some(Trip::Blind) };
    if gap > LONGEST_GAP {
        Some(Trip::HeldUp)
    } else if pressure.ended >= pressure.ended_limit {
        Some(Trip::EndedFull)
    } else if above(fill.count, fill.max, TRIP_PERCENT) {
        Some(Trip::KernelFull)
    } else {
        None
    }
}

fn above(count: u64, max: u64, percent: u64) -> bool {
    max != 0 && u128::from(count) * 100 > u128::from(max) * u128::from(percent)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Off when the kernel's table is fuller than this.
pub const TRIP_PERCENT: u64 = 80;

/// On again only when both tables are at most this full.
pub const BACK_PERCENT: u64 = 60;

/// Off when two reads lie further apart than this.
pub const LONGEST_GAP: Duration = Duration::from_secs(5);

/// On again only when there was no reason to be off for this long: no flapping.
pub const QUIET_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Pressure =
        Pressure { fill: Some(Fill { count: 10, max: 100 }), ended: 0, ended_limit: 100 };

    fn fill(count: u64) -> Pressure {
        Pressure { fill: Some(Fill { count, max: 100 }), ..CALM }
    }

    fn at(seconds: u64) -> BootNanos {
        BootNanos(1_000_000_000 * seconds)
    }

    fn running() -> Guard {
        let mut guard = Guard::new();
        assert_eq!(guard.decide(at(1), CALM), Decision::SwitchOn);
        guard
    }

    #[test]
    fn a_full_kernel_table_switches_off_and_a_calm_one_on_again() {
        let mut guard = running();
        assert_eq!(guard.decide(at(2), fill(80)), Decision::Keep);
        assert_eq!(guard.decide(at(3), fill(81)), Decision::SwitchOff(Trip::KernelFull));
        for second in 4..30 {
            assert_eq!(guard.decide(at(second), fill(61)), Decision::Keep, "not below 60 %");
        }
        assert_eq!(guard.decide(at(30), fill(60)), Decision::SwitchOn);
        assert_eq!(guard.trips(), 1);
    }

    #[test]
    fn a_full_own_table_switches_off() {
        let mut guard = running();
        let full = Pressure { ended: 100, ..CALM };
        assert_eq!(guard.decide(at(2), full), Decision::SwitchOff(Trip::EndedFull));
        let half = Pressure { ended: 61, ..CALM };
        assert_eq!(guard.decide(at(6), half), Decision::Keep);
        assert_eq!(guard.decide(at(11), half), Decision::Keep);
        assert_eq!(guard.decide(at(12), CALM), Decision::SwitchOn);
    }

    #[test]
    fn being_held_up_switches_off_and_needs_quiet_to_come_back() {
        let mut guard = running();
        assert_eq!(guard.decide(at(6), CALM), Decision::Keep, "5 s apart");
        assert_eq!(guard.decide(at(12), CALM), Decision::SwitchOff(Trip::HeldUp));
        for second in 13..22 {
            assert_eq!(guard.decide(at(second), CALM), Decision::Keep);
        }
        assert_eq!(guard.decide(at(22), CALM), Decision::SwitchOn);
        // Held up while off: the quiet time begins anew.
        assert_eq!(guard.decide(at(30), CALM), Decision::SwitchOff(Trip::HeldUp));
        assert_eq!(guard.decide(at(36), CALM), Decision::Keep);
        assert_eq!(guard.decide(at(41), CALM), Decision::Keep);
        assert_eq!(guard.decide(at(46), CALM), Decision::SwitchOn);
    }

    #[test]
    fn a_table_that_cannot_be_seen_is_not_trusted() {
        let mut guard = Guard::new();
        let blind = Pressure { fill: None, ..CALM };
        assert_eq!(guard.decide(at(1), blind), Decision::Keep);
        assert!(!guard.is_on());
        assert_eq!(guard.decide(at(2), CALM), Decision::SwitchOn);
        assert_eq!(guard.decide(at(3), blind), Decision::SwitchOff(Trip::Blind));
    }

    #[test]
    fn a_fresh_guard_starts_below_the_trip_level() {
        assert_eq!(Guard::new().decide(at(1), fill(75)), Decision::SwitchOn);
        assert_eq!(Guard::new().decide(at(1), fill(85)), Decision::Keep);
        let unlimited = Pressure { fill: Some(Fill { count: u64::MAX, max: 0 }), ..CALM };
        assert_eq!(Guard::new().decide(at(1), unlimited), Decision::SwitchOn);
    }
}
