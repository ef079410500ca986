//! Amounts, flows and their comparison: what two independent counts of one gateway say, flow by
//! flow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::{AddAssign, Sub};

/// Packets and bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Both directions of a flow, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Both {
    pub(crate) original: Amount,
    pub(crate) reply: Amount,
}

impl AddAssign for Both {
    fn add_assign(&mut self, other: Self) {
        for (to, from) in [(&mut self.original, other.original), (&mut self.reply, other.reply)] {
            to.packets += from.packets;
            to.bytes += from.bytes;
        }
    }
}

/// A difference of [`Both`]: original packets and bytes, reply packets and bytes.
pub(crate) type Difference = [i128; 4];

impl Sub for Both {
    type Output = Difference;

    fn sub(self, other: Self) -> Difference {
        let (ours, theirs) = (self.numbers(), other.numbers());
        std::array::from_fn(|i| i128::from(ours[i]) - i128::from(theirs[i]))
    }
}

impl Both {
    /// Original packets and bytes, reply packets and bytes.
    pub(crate) fn numbers(self) -> [u64; 4] {
        [self.original.packets, self.original.bytes, self.reply.packets, self.reply.bytes]
    }

    /// The same, seen from the other end.
    pub(crate) const fn turned(self) -> Self {
        Self { original: self.reply, reply: self.original }
    }

    /// Whether nothing in it is less than in `other`.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.numbers().iter().zip(other.numbers()).all(|(ours, theirs)| *ours >= theirs)
    }
}

/// One conntrack entry of one gateway: its original tuple, its zone and when the kernel made it.
/// For ICMP, `sport` is the id and `dport` is `type << 8 | code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) proto: u8,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) zone: u16,
    /// Wall-clock nanoseconds as the kernel stores them.
    pub(crate) start: u64,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proto, src, dst, sport, dport, start, .. } = self;
        write!(f, "proto {proto} [{src}]:{sport} -> [{dst}]:{dport} start {start}")
    }
}

/// Flows by key.
pub(crate) type Flows = BTreeMap<Key, Both>;

/// The sum over all flows.
pub(crate) fn total(flows: &Flows) -> Both {
    let mut sum = Both::default();
    flows.values().for_each(|both| sum += *both);
    sum
}

/// A flow on which two counts differ; one that a count does not have is `None` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Differing {
    pub(crate) key: Key,
    pub(crate) kernel: Option<Both>,
    pub(crate) other: Option<Both>,
}

impl fmt::Display for Differing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |both: Option<Both>| {
            both.map_or_else(|| "absent".to_owned(), |both| format!("{:?}", both.numbers()))
        };
        write!(f, "{}: kernel {}, stored {}", self.key, side(self.kernel), side(self.other))
    }
}

/// All flows on which `kernel` and `other` differ.
pub(crate) fn compare(kernel: &Flows, other: &Flows) -> Vec<Differing> {
    let keys: BTreeSet<&Key> = kernel.keys().chain(other.keys()).collect();
    let side = |key: &Key| Differing {
        key: *key,
        kernel: kernel.get(key).copied(),
        other: other.get(key).copied(),
    };
    keys.into_iter().map(side).filter(|found| found.kernel != found.other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sport: u16) -> Key {
        let address = IpAddr::from([10, 0, 0, 1]);
        Key { proto: 17, src: address, dst: address, sport, dport: 53, zone: 0, start: 1 }
    }

    fn both(packets: u64) -> Both {
        let amount = Amount { packets, bytes: packets * 100 };
        Both { original: amount, reply: amount }
    }

    #[test]
    fn flows_of_either_side_alone_differ() {
        let kernel = Flows::from([(key(1), both(1)), (key(2), both(2)), (key(3), both(3))]);
        let other = Flows::from([(key(1), both(1)), (key(2), both(1)), (key(4), both(4))]);
        let found = compare(&kernel, &other);
        assert_eq!(found.iter().map(|d| d.key.sport).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(total(&kernel) - total(&other), [0, 0, 0, 0]);
        assert!(both(2).covers(both(1)) && !both(1).covers(both(2)));
    }
}
