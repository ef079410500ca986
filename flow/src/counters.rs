//! Counters of both directions of a flow.

use crate::units::{Bytes, Packets};

/// Packets and bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tally {
    /// Packets.
    pub packets: Packets,
    /// Bytes.
    pub bytes: Bytes,
}

impl Tally {
    /// A tally of `packets` and `bytes`.
    #[must_use]
    pub const fn new(packets: u64, bytes: u64) -> Self {
        Self { packets: Packets(packets), bytes: Bytes(bytes) }
    }
}

/// Packets and bytes of both directions. Each of the four numbers is a component of its own:
/// growth, maxima and offsets never mix them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// The opener's direction.
    pub orig: Tally,
    /// The answers.
    pub reply: Tally,
}

impl Counters {
    /// All zero.
    pub const ZERO: Self = Self { orig: Tally::new(0, 0), reply: Tally::new(0, 0) };

    /// Counters from packets and bytes of the original, then of the reply direction.
    #[must_use]
    pub const fn new(
        orig_packets: u64,
        orig_bytes: u64,
        reply_packets: u64,
        reply_bytes: u64,
    ) -> Self {
        Self {
            orig: Tally::new(orig_packets, orig_bytes),
            reply: Tally::new(reply_packets, reply_bytes),
        }
    }

    /// The four components: packets and bytes of the original, then of the reply direction.
    #[must_use]
    pub const fn components(&self) -> [u64; 4] {
        [self.orig.packets.0, self.orig.bytes.0, self.reply.packets.0, self.reply.bytes.0]
    }

    /// The inverse of [`Counters::components`].
    #[must_use]
    pub const fn from_components([op, ob, rp, rb]: [u64; 4]) -> Self {
        Self::new(op, ob, rp, rb)
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let (a, b) = (self.components(), other.components());
        Self::from_components([f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])])
    }

    /// What lies above `floor`, per component: the growth of an absolute reading over what was
    /// counted already. Never negative.
    #[must_use]
    pub fn above(self, floor: Self) -> Self {
        self.zip(floor, u64::saturating_sub)
    }

    /// The sum per component; stays at the largest number instead of wrapping.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// The larger number of each component.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.zip(other, Ord::max)
    }

    /// Whether any component is smaller than that of `other`.
    #[must_use]
    pub fn any_below(self, other: Self) -> bool {
        self.components().iter().zip(other.components()).any(|(a, b)| *a < b)
    }

    /// Whether all components are zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl std::iter::Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::plus)
    }
}
