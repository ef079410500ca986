//! What a source must say of a flow, and whether it does. Pure.

use std::fmt;

use flow::entry::Zone;
use flow::{Counters, NetnsInode, Reading, Tuple};
use serde::Serialize;

/// A flow that was sent, as it must be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where.
    pub netns: NetnsInode,
    /// As the opener sent it.
    pub orig: Tuple,
    /// As answers arrive: the inverse, but for translation.
    pub reply: Tuple,
    /// Its zone.
    pub zone: Zone,
    /// Its mark.
    pub mark: u32,
    /// What went over the wire; `None` where the kernel was told not to count.
    pub counters: Option<Counters>,
}

impl Sent {
    /// An ordinary flow: neither translated nor marked, in no zone.
    #[must_use]
    pub const fn plain(netns: NetnsInode, orig: Tuple, counters: Counters) -> Self {
        let (zone, mark) = (Zone(0), 0);
        Self { netns, orig, reply: orig.inverse(), zone, mark, counters: Some(counters) }
    }

    /// Compares it with all that was reported: there must be one entry of its tuple, and all of it
    /// be as sent.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn compare(&self, reported: &[Reading]) -> Result<(), Difference> {
        let mut same = reported.iter().filter(|reading| reading.orig == self.orig);
        let Some(reading) = same.next() else {
            return Err(Difference::Absent { orig: self.orig, of: reported.len() });
        };
        if let Some(other) = same.next()
            && other.key() != reading.key()
        {
            return Err(Difference::Twice { orig: self.orig });
        }
        let differs = |what, sent: &dyn fmt::Debug, found: &dyn fmt::Debug| Difference::Other {
            what,
            sent: format!("{sent:?}"),
            reported: format!("{found:?}"),
        };
        if reading.netns != self.netns {
            return Err(differs("namespace", &self.netns.0, &reading.netns.0));
        }
        if reading.reply != self.reply {
            let (sent, found) = (Arrow(&self.reply), Arrow(&reading.reply));
            return Err(differs("reply tuple", &sent, &found));
        }
        if reading.zone != self.zone {
            return Err(differs("zone", &self.zone.0, &reading.zone.0));
        }
        if reading.mark != self.mark {
            return Err(differs("mark", &self.mark, &reading.mark));
        }
        if reading.counters != self.counters {
            let (sent, found) = (Count(self.counters), Count(reading.counters));
            return Err(differs("counters", &sent, &found));
        }
        Ok(())
    }
}

/// How a report differs from what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// It is not among the entries.
    #[error("{} is not among the {of} entries reported", Arrow(.orig))]
    Absent {
        /// The flow.
        orig: Tuple,
        /// Entries reported.
        of: usize,
    },
    /// It is there twice, as different entries.
    #[error("{} is reported as two entries", Arrow(.orig))]
    Twice {
        /// The flow.
        orig: Tuple,
    },
    /// Something of it is not as it was sent.
    #[error("the {what}: sent {sent}, reported {reported}")]
    Other {
        /// What.
        what: &'static str,
        /// As sent.
        sent: String,
        /// As reported.
        reported: String,
    },
}

/// A tuple as people write it.
struct Arrow<'t>(&'t Tuple);

impl fmt::Display for Arrow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tuple { src, dst, sport, dport, proto } = self.0;
        write!(f, "{proto} {src} {sport} -> {dst} {dport}")
    }
}

impl fmt::Debug for Arrow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Counters as people read them.
pub struct Count(pub Option<Counters>);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(|counters| counters.components()) {
            None => f.write_str("none"),
            Some([op, ob, rp, rb]) => {
                write!(f, "{op} packets {ob} B there, {rp} packets {rb} B back")
            }
        }
    }
}

impl fmt::Debug for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it must be.
    Pass,
    /// Otherwise.
    Fail,
    /// Not made, for a reason that is not the source's.
    Skipped,
}

/// A check that was made, or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How it went.
    pub result: Verdict,
    /// What was seen, the difference, or why it was not made. One line.
    pub detail: String,
}

impl Check {
    /// From what was seen or what differs.
    #[must_use]
    pub fn of(name: &str, outcome: Result<String, String>) -> Self {
        let (result, detail) = match outcome {
            Ok(seen) => (Verdict::Pass, seen),
            Err(difference) => (Verdict::Fail, difference),
        };
        Self { name: name.to_owned(), result, detail: one_line(&detail) }
    }

    /// One that was not made.
    #[must_use]
    pub fn skipped(name: &str, why: &str) -> Self {
        Self { name: name.to_owned(), result: Verdict::Skipped, detail: one_line(why) }
    }
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use flow::{Proto, Status, TcpState};

    use super::*;

    fn sent() -> Sent {
        let (from, to) = ("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:53".parse().unwrap());
        let orig = Tuple::ports(Proto::UDP, from, to);
        Sent::plain(NetnsInode(7), orig, Counters::new(2, 100, 1, 50))
    }

    fn reading() -> Reading {
        let Sent { netns, orig, reply, zone, mark, counters } = sent();
        Reading {
            netns,
            zone,
            orig,
            reply,
            start: 5,
            stop: 0,
            kernel_id: 1,
            mark,
            status: Status(0),
            tcp: TcpState(0),
            fresh: false,
            counters,
        }
    }

    #[test]
    fn what_is_as_sent_passes() {
        let mut other = reading();
        other.orig.sport = 9;
        assert_eq!(sent().compare(&[other, reading()]), Ok(()));
    }

    #[test]
    fn every_difference_is_found_and_told() {
        type Change = fn(&mut Reading);
        let cases: [(&str, Change); 7] = [
            ("the namespace: sent 7, reported 8", |r| r.netns = NetnsInode(8)),
            ("the reply tuple: sent udp 192.0.2.2 53 -> 192.0.2.1 1000", |r| r.reply.dport = 9),
            ("the zone: sent 0, reported 3", |r| r.zone = Zone(3)),
            ("the mark: sent 0, reported 42", |r| r.mark = 42),
            ("reported 3 packets 100 B there, 1 packets 50 B back", |r| {
                r.counters = Some(Counters::new(3, 100, 1, 50));
            }),
            ("reported none", |r| r.counters = None),
            ("is not among the 1 entries reported", |r| r.orig.dport = 54),
        ];
        for (words, change) in cases {
            let mut reported = reading();
            change(&mut reported);
            let difference = sent().compare(&[reported]).unwrap_err().to_string();
            assert!(difference.contains(words), "{words:?} not in {difference:?}");
        }
        let uncounted = Sent { counters: None, ..sent() };
        assert!(uncounted.compare(&[reading()]).is_err(), "zero is not none");
        let twice = [reading(), Reading { zone: Zone(9), ..reading() }];
        assert_eq!(sent().compare(&twice), Err(Difference::Twice { orig: sent().orig }));
    }

    #[test]
    fn a_check_is_one_line() {
        let check = Check::of("x", Err("a\nb".to_owned()));
        assert_eq!((check.result, check.detail.as_str()), (Verdict::Fail, "a b"));
        assert_eq!(Check::skipped("x", "no veth").result, Verdict::Skipped);
    }
}
