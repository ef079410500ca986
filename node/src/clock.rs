//! The host's clocks and names: boottime, the two clocks taken together, boot id, machine id,
//! kernel release. The one place that reads a clock; everything that decides takes `now`.

use std::time::Duration;

use flow::record::ClockPair;
use flow::{BootId, BootNanos, UnixNanos};
use rustix::time::{ClockId, clock_gettime};

use crate::sys;

/// The host's clocks. Remembers how wall clock and boottime stood to each other, so that a step
/// of the wall clock is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock {
    last: Option<ClockPair>,
}

impl HostClock {
    /// The clocks of this host.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: None }
    }

    /// `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn now(&self) -> BootNanos {
        now()
    }

    /// Both clocks, read together (boottime twice around the wall clock; a reading that took
    /// longer than [`PAIR_SPREAD`] is repeated a few times), and whether to trust the wall:
    /// `stepped` compares with the pair before this one.
    pub fn pair(&mut self) -> ClockPair {
        let (boot, wall) = read_pair();
        let synchronised = sys::wall_clock_is_synchronised();
        let mut pair = ClockPair { boot, wall, synchronised, stepped: false };
        pair.stepped = self.last.is_some_and(|last| stepped(&last, &pair));
        self.last = Some(pair);
        pair
    }
}

/// `CLOCK_BOOTTIME`.
#[must_use]
pub fn now() -> BootNanos {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    BootNanos(
        seconds.saturating_mul(NANOS).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0)),
    )
}

/// A time of `CLOCK_MONOTONIC` as one of `CLOCK_BOOTTIME`. Never too early: how long the machine has
/// slept since is not known.
#[must_use]
pub fn of_monotonic(nanos: u64) -> BootNanos {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let monotonic = seconds.saturating_mul(NANOS) + u64::try_from(time.tv_nsec).unwrap_or(0);
    now().minus(Duration::from_nanos(monotonic.saturating_sub(nanos)))
}

/// `CLOCK_REALTIME`.
#[must_use]
pub fn wall() -> UnixNanos {
    let time = clock_gettime(ClockId::Realtime);
    UnixNanos(time.tv_sec.saturating_mul(NANOS.cast_signed()).saturating_add(time.tv_nsec))
}

/// This boot's id (`/proc/sys/kernel/random/boot_id`).
///
/// # Errors
/// When the file cannot be read or does not hold an id.
pub fn boot_id() -> std::io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.parse().map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// This machine's id (`/etc/machine-id`, machine-id(5)), where it has one.
#[must_use]
pub fn machine_id() -> Option<String> {
    let text = std::fs::read_to_string("/etc/machine-id").ok()?;
    let id = text.trim();
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// The kernel's release, as `uname -r` prints it.
///
/// # Errors
/// When `/proc` is not there.
pub fn kernel_release() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

fn read_pair() -> (BootNanos, UnixNanos) {
    let mut best: Option<(Duration, BootNanos, UnixNanos)> = None;
    for _ in 0..PAIR_TRIES {
        let before = now();
        let wall = wall();
        let spread = now().since(before);
        if best.is_none_or(|(least, ..)| spread < least) {
            best = Some((spread, before.plus(spread / 2), wall));
        }
        if spread <= PAIR_SPREAD {
            break;
        }
    }
    best.map_or_else(|| (now(), wall()), |(_, boot, wall)| (boot, wall))
}

/// A wall clock that moved against boottime by more than slewing can (500 ppm, `adjtimex(2)`)
/// plus [`STEP_SLACK`] was stepped.
fn stepped(last: &ClockPair, next: &ClockPair) -> bool {
    let boot = i128::from(next.boot.0) - i128::from(last.boot.0);
    let wall = i128::from(next.wall.0) - i128::from(last.wall.0);
    let slack = i128::try_from(STEP_SLACK.as_nanos()).unwrap_or(i128::MAX);
    (wall - boot).abs() > slack + boot.abs() / 2_000
}

const NANOS: u64 = 1_000_000_000;

/// A pair of readings further apart than this is taken again.
pub const PAIR_SPREAD: Duration = Duration::from_micros(50);

const PAIR_TRIES: usize = 5;

/// Differences below this are no step.
const STEP_SLACK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(boot: u64, wall: i64) -> ClockPair {
        ClockPair { boot: BootNanos(boot), wall: UnixNanos(wall), ..ClockPair::default() }
    }

    #[test]
    fn a_step_is_told_from_slewing() {
        let start = pair(1_000_000_000, 50_000_000_000);
        let slewed = pair(11_000_000_000, 60_005_000_000);
        let forward = pair(11_000_000_000, 61_000_000_000);
        let back = pair(11_000_000_000, 50_000_000_000);
        assert!(!stepped(&start, &slewed));
        assert!(stepped(&start, &forward));
        assert!(stepped(&start, &back));
    }

    #[test]
    fn the_clocks_go_on_together() {
        let mut clock = HostClock::new();
        let first = clock.pair();
        let second = clock.pair();
        assert!(first.boot > BootNanos::BOOT && second.boot >= first.boot);
        assert!(!first.stepped);
        // 2020-01-01: a host whose clock is before that has no wall clock to speak of.
        assert!(first.wall > UnixNanos(1_577_836_800_000_000_000));
    }

    #[test]
    fn the_host_has_names() {
        assert_ne!(boot_id().unwrap(), BootId::default());
        assert!(kernel_release().unwrap().contains('.'));
    }
}
