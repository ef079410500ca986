//! Units that must not be mixed up: bytes, packets, and the three kinds of time.

use std::fmt;
use std::time::Duration;

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// The number itself.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// What lies above `floor`, zero when nothing does.
            #[must_use]
            pub const fn above(self, floor: Self) -> Self {
                Self(self.0.saturating_sub(floor.0))
            }

            /// The sum, which stays at the largest number instead of wrapping.
            #[must_use]
            pub const fn plus(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

amount! {
    /// Bytes as conntrack counts them: from the network header on, no link layer
    /// (`nf_ct_acct_add` in the kernel's `nf_conntrack_core.c`).
    Bytes
}
amount! {
    /// Packets as conntrack counts them.
    Packets
}

/// Time since a host's boot, suspend included (`CLOCK_BOOTTIME`), in nanoseconds.
///
/// As a lower bound [`BootNanos::BOOT`] means "unknown": nothing of this boot is earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootNanos(pub u64);

impl BootNanos {
    /// The moment of boot; as a lower bound, "unknown".
    pub const BOOT: Self = Self(0);

    /// The number of nanoseconds.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved on by `by`, at most to the end of time.
    #[must_use]
    pub const fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(by)))
    }

    /// This moment moved back by `by`, at most to boot.
    #[must_use]
    pub const fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(saturating_nanos(by)))
    }
}

const fn saturating_nanos(by: Duration) -> u64 {
    by.as_secs().saturating_mul(1_000_000_000).saturating_add(by.subsec_nanos() as u64)
}

/// Wall-clock time, nanoseconds since 1970-01-01T00:00:00Z. Also the unit of the kernel's own
/// start and stop stamps (`nf_conn_tstamp`, `ktime_get_real_ns`). Reaches to the year 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    /// The number of nanoseconds.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Whole microseconds, rounded towards the past; what the stores keep.
    #[must_use]
    pub const fn micros_floor(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// The difference `self - other` in nanoseconds.
    #[must_use]
    pub const fn diff(self, other: Self) -> i64 {
        self.0.saturating_sub(other.0)
    }

    /// This moment moved on by `by`.
    #[must_use]
    pub const fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add_unsigned(saturating_nanos(by)))
    }

    /// This moment moved back by `by`.
    #[must_use]
    pub const fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(saturating_nanos(by)))
    }
}

/// What to add to a host's [`BootNanos`] to get another host's [`UnixNanos`], in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockOffset(pub i64);

impl ClockOffset {
    /// The offset that makes `boot` read as `unix`.
    #[must_use]
    pub const fn between(boot: BootNanos, unix: UnixNanos) -> Self {
        Self(unix.0.saturating_sub_unsigned(boot.0))
    }

    /// `boot` by the other clock.
    #[must_use]
    pub const fn apply(self, boot: BootNanos) -> UnixNanos {
        UnixNanos(self.0.saturating_add_unsigned(boot.0))
    }
}
