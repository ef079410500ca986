//! Adoption and proof: what the kernel lists over netlink beside what the programs read of the
//! same entries at the same time. Pure.
//!
//! An entry's address is told right before its message is made, so by the time a datagram is in
//! our hands all of its entries' addresses are, too.

use std::collections::HashMap;

use flow::Reading;
use flow::entry::EntryKey;

/// Joins the two views of one dump.
#[derive(Debug, Default)]
pub(super) struct Join {
    /// Told by the programs, not yet seen in a message.
    told: HashMap<EntryKey, (u64, Reading)>,
    joined: Joined,
}

/// What a dump showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Joined {
    /// Entries that both views agree on.
    pub(super) matched: u64,
    /// Of these, how many differed in what may change between two looks: status, mark, TCP state.
    pub(super) unlike: u64,
    /// Entries that netlink listed and the programs did not tell of.
    pub(super) untold: u64,
    /// The first entry of which the two views cannot both be true.
    pub(super) contradiction: Option<Contradiction>,
    /// Some that matched, with what netlink said.
    pub(super) sample: Vec<(u64, Reading)>,
}

/// Two views of one entry that cannot both be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// In what.
    pub what: &'static str,
    /// What the programs read.
    pub ours: String,
    /// What netlink said.
    pub netlink: String,
}

impl Join {
    /// The programs told of an entry.
    pub(super) fn tell(&mut self, ct: u64, reading: Reading) {
        if self.told.len() >= WINDOW {
            // Entries of messages that were never received: a dump that was broken off.
            self.told.clear();
        }
        self.told.insert(reading.key(), (ct, reading));
    }

    /// Netlink has listed an entry. Gives its address, where it is known.
    pub(super) fn list(&mut self, listed: &Reading) -> Option<u64> {
        let Some((ct, told)) = self.told.get(&listed.key()).copied() else {
            self.joined.untold += 1;
            return None;
        };
        let joined = &mut self.joined;
        if let Some(contradiction) = contradiction(&told, listed) {
            joined.contradiction.get_or_insert(contradiction);
            return None;
        }
        joined.matched += 1;
        let changing = |r: &Reading| (r.status, r.mark, r.tcp, r.fresh);
        joined.unlike += u64::from(changing(&told) != changing(listed));
        if joined.sample.len() < SAMPLE {
            joined.sample.push((ct, *listed));
        }
        Some(ct)
    }

    /// A datagram has been read to its end. What was told and not listed may be in the next one,
    /// which the kernel fills ahead.
    pub(super) fn datagram(&mut self, listed: &[Reading]) {
        for reading in listed {
            self.told.remove(&reading.key());
        }
    }

    /// The dump is over.
    pub(super) fn finish(self) -> Joined {
        self.joined
    }
}

/// In what a later reading cannot be of the entry that an earlier one was of.
pub(super) fn contradiction(earlier: &Reading, later: &Reading) -> Option<Contradiction> {
    let say = |what, ours: &dyn std::fmt::Debug, netlink: &dyn std::fmt::Debug| {
        Some(Contradiction { what, ours: format!("{ours:?}"), netlink: format!("{netlink:?}") })
    };
    if earlier.orig != later.orig {
        return say("the original tuple", &earlier.orig, &later.orig);
    }
    if earlier.reply != later.reply {
        return say("the reply tuple", &earlier.reply, &later.reply);
    }
    if earlier.zone != later.zone {
        return say("the zone", &earlier.zone, &later.zone);
    }
    if earlier.start != later.start {
        return say("the start", &earlier.start, &later.start);
    }
    match (earlier.counters, later.counters) {
        (Some(before), Some(after)) if !after.any_below(before) => None,
        (None, None) => None,
        (before, after) => say("the counters", &before, &after),
    }
}

/// Entries that wait for their message: those of a few datagrams of 32 KiB.
const WINDOW: usize = 16_384;

/// Entries that the sweep is proved on.
pub(super) const SAMPLE: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::entry::reading;
    use super::super::entry::tests::tcp;
    use super::super::layout::tests::linux_6_12;
    use super::*;

    fn read(port: u16, counters: [u64; 4]) -> Reading {
        reading(&linux_6_12(), &tcp(port, 5, counters), flow::NetnsInode(1)).unwrap()
    }

    #[test]
    fn entries_that_agree_are_joined() {
        let mut join = Join::default();
        join.tell(10, read(1, [1, 40, 0, 0]));
        join.tell(20, read(2, [1, 40, 0, 0]));
        assert_eq!(join.list(&read(2, [2, 80, 0, 0])), Some(20));
        assert_eq!(join.list(&read(1, [1, 40, 0, 0])), Some(10));
        assert_eq!(join.list(&read(3, [1, 40, 0, 0])), None);
        let joined = join.finish();
        assert_eq!((joined.matched, joined.unlike, joined.untold), (2, 0, 1));
        assert_eq!(joined.contradiction, None);
        assert_eq!(joined.sample.len(), 2);
    }

    #[test]
    fn an_entry_listed_twice_is_told_twice() {
        let mut join = Join::default();
        for _ in 0..2 {
            join.tell(10, read(1, [0; 4]));
            assert_eq!(join.list(&read(1, [0; 4])), Some(10));
            join.datagram(&[read(1, [0; 4])]);
        }
        assert_eq!(join.list(&read(1, [0; 4])), None);
    }

    #[test]
    fn every_contradiction_is_found() {
        let ours = read(1, [2, 80, 0, 0]);
        assert_eq!(contradiction(&ours, &ours), None);
        let what = |change: fn(&mut Reading)| {
            let mut netlink = ours;
            change(&mut netlink);
            contradiction(&ours, &netlink).map(|found| found.what)
        };
        assert_eq!(what(|r| r.reply.dport = 9), Some("the reply tuple"));
        assert_eq!(what(|r| r.orig.sport = 9), Some("the original tuple"));
        assert_eq!(what(|r| r.zone.0 = 9), Some("the zone"));
        assert_eq!(what(|r| r.start = 9), Some("the start"));
        assert_eq!(what(|r| r.counters = None), Some("the counters"));
        assert_eq!(
            what(|r| r.counters = Some(flow::Counters::new(1, 80, 0, 0))),
            Some("the counters")
        );
        assert_eq!(what(|r| r.mark = 9), None, "it may have changed");
    }
}
