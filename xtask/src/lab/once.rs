//! Whether each flow was counted once: the sum of `counted` over all observers of a lab against
//! what its ends sent and received.

use std::fmt;
use std::time::Duration;

use super::tally::{Both, Difference};
use super::topology::{Exactness, Topology};
use super::truth::{Samples, Truth};
use crate::up::stored::{Merged, Stored};

/// All that is known of it.
#[derive(Debug)]
pub(crate) struct Once {
    pub(crate) name: &'static str,
    /// Namespaces that were read.
    pub(crate) observers: usize,
    /// Conntrack entries of all of them.
    pub(crate) entries: usize,
    /// What they reported, and what was counted of it: from clients to servers, then back.
    pub(crate) raw: Both,
    pub(crate) counted: Difference,
    pub(crate) truth: Truth,
    pub(crate) merged: Merged,
    /// How much may be missing; nothing may ever be too much.
    pub(crate) slack: Option<Slack>,
}

/// What a takeover may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slack {
    pub(crate) takeovers: u32,
    /// The most that was sent in an interval.
    pub(crate) interval: Difference,
    /// What is sent in a second, on average.
    pub(crate) rate: Difference,
}

/// Clocks of two observers are told apart no better than this: growths that are closer together
/// may be the same packets.
const MARGIN: Duration = Duration::from_millis(500);

/// One packet in so many may get lost between the ends; with more a lab proves nothing.
const MAY_BE_LOST: u64 = 1_000;

impl Slack {
    /// What the takeovers of a lab may cost whose nodes read every `interval`.
    pub(crate) fn of(
        topology: &Topology,
        samples: &Samples,
        interval: Duration,
        lasted: Duration,
    ) -> Option<Self> {
        if topology.exactness == Exactness::Exact {
            return None;
        }
        let all = samples.busiest(Duration::MAX);
        let seconds = i128::from(lasted.as_secs().max(1));
        Some(Self {
            takeovers: u32::try_from(topology.steps.len()).unwrap_or(u32::MAX),
            interval: samples.busiest(interval + MARGIN),
            rate: all.map(|sent| sent / seconds),
        })
    }
}

impl Once {
    /// Adds up what is stored of each observer.
    pub(crate) fn of<'s>(
        topology: &Topology,
        stored: impl IntoIterator<Item = &'s Stored>,
        truth: Truth,
        merged: Merged,
        slack: Option<Slack>,
    ) -> Self {
        let mut once = Self {
            name: topology.name,
            observers: 0,
            entries: 0,
            raw: Both::default(),
            counted: [0; 4],
            truth,
            merged,
            slack,
        };
        for observer in stored {
            once.observers += 1;
            once.entries += observer.raw.len();
            for (key, raw) in &observer.raw {
                let back = topology.is_from_server(key.src);
                once.raw += if back { raw.turned() } else { *raw };
            }
            for (key, [a, b, c, d]) in &observer.counted {
                let back = topology.is_from_server(key.src);
                let counted = if back { [c, d, a, b] } else { [a, b, c, d] };
                once.counted.iter_mut().zip(counted).for_each(|(sum, n)| *sum += n);
            }
        }
        once
    }

    /// Counted, less what was sent: nothing may be above 0.
    fn above_sent(&self) -> Difference {
        difference(self.counted, self.truth.sent)
    }

    /// Counted, less what arrived: nothing may be below 0 without slack.
    fn above_received(&self) -> Difference {
        difference(self.counted, self.truth.received)
    }

    /// What is not as it must be.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let over = self.above_sent();
        if over.iter().any(|n| *n > 0) {
            wrong.push(format!("{}: counted less sent is {over:?}", self.name));
        }
        let allowed = self.slack.map_or([0; 4], |slack| {
            slack.interval.map(|bytes| bytes * i128::from(slack.takeovers))
        });
        let under = self.above_received();
        if under.iter().zip(allowed).any(|(n, allowed)| -n > allowed) {
            let less = "counted less received is";
            wrong.push(format!("{}: {less} {under:?}, at most {allowed:?} may miss", self.name));
        }
        let (sent, received) = (self.truth.sent.numbers(), self.truth.received.numbers());
        for (sent, received) in [(sent[0], received[0]), (sent[2], received[2])] {
            if sent == 0 || received > sent || sent - received > sent / MAY_BE_LOST {
                let what = format!("{sent} packets were sent and {received} received");
                wrong.push(format!("{}: {what}: this run proves nothing", self.name));
            }
        }
        wrong
    }
}

fn difference(counted: Difference, truth: Both) -> Difference {
    let truth = truth.numbers();
    std::array::from_fn(|i| counted[i] - i128::from(truth[i]))
}

impl fmt::Display for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Merged { paths, retractions, retracted } = self.merged;
        writeln!(
            f,
            "\n{}: {} observers, {} entries, {paths} flows",
            self.name, self.observers, self.entries
        )?;
        writeln!(
            f,
            "{:<20} {:>14} {:>16} {:>14} {:>16}",
            "", "packets up", "bytes up", "packets down", "bytes down"
        )?;
        let raw = self.raw.numbers().map(i128::from);
        let sent = self.truth.sent.numbers().map(i128::from);
        row(f, "reported, all", raw)?;
        row(f, "sent by the ends", sent)?;
        if self.truth.sent != self.truth.received {
            row(f, "received", self.truth.received.numbers().map(i128::from))?;
        }
        row(f, "counted", self.counted)?;
        row(f, "difference", self.above_sent())?;
        row(f, "suppressed", std::array::from_fn(|i| raw[i] - self.counted[i]))?;
        writeln!(f, "  retractions: {retractions} rows, {retracted} bytes")?;
        let Some(Slack { takeovers, interval, rate }) = self.slack else { return Ok(()) };
        row(f, "sent in an interval", interval)?;
        write!(f, "  missing for each of {takeovers} takeovers, in seconds of traffic:")?;
        for (missing, rate) in self.above_received().iter().zip(rate) {
            // Only shown; both are far below what a double holds exactly.
            let tenths = -missing * 10 / (rate.max(1) * i128::from(takeovers.max(1)));
            write!(f, " {}.{}", tenths / 10, (tenths % 10).abs())?;
        }
        writeln!(f)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, [a, b, c, d]: Difference) -> fmt::Result {
    writeln!(f, "{name:<20} {a:>14} {b:>16} {c:>14} {d:>16}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::tally::{Amount, Flows, Key};
    use crate::lab::topology::CHAIN;
    use std::net::IpAddr;

    fn both(packets: u64) -> Both {
        let amount = Amount { packets, bytes: packets * 100 };
        Both { original: amount, reply: Amount { packets, bytes: packets * 200 } }
    }

    /// Two observers of one flow, of which the second sees it the other way round and counts
    /// `second` of it.
    fn once(second: i128, sent: u64, received: u64, slack: Option<Slack>) -> Once {
        let client = IpAddr::from([10, 84, 1, 2]);
        let server = IpAddr::from([10, 84, 4, 2]);
        let key = |src, dst| Key { proto: 6, src, dst, sport: 1, dport: 2, zone: 0, start: 3 };
        let there = Stored {
            raw: Flows::from([(key(client, server), both(1_000))]),
            counted: [(key(client, server), [1_000, 100_000, 1_000, 200_000])].into(),
            ..Stored::default()
        };
        let back = Stored {
            raw: Flows::from([(key(server, client), both(1_000).turned())]),
            counted: [(key(server, client), [second, second * 200, second, second * 100])].into(),
            ..Stored::default()
        };
        let truth = Truth { sent: both(sent), received: both(received) };
        Once::of(&CHAIN, [&there, &back], truth, Merged::default(), slack)
    }

    #[test]
    fn one_count_passes_and_any_other_is_told() {
        let exact = once(0, 1_000, 1_000, None);
        assert_eq!(exact.raw, both(2_000));
        assert_eq!(exact.wrong(), Vec::<String>::new());
        assert!(exact.to_string().contains("2 observers, 2 entries"), "{exact}");
        assert_eq!(once(1, 1_000, 1_000, None).wrong().len(), 1, "over");
        assert_eq!(once(-1, 1_000, 1_000, None).wrong().len(), 1, "under");
        assert_eq!(once(1_000, 1_000, 1_000, None).wrong().len(), 1, "twice");
        assert_eq!(once(0, 1_001, 1_000, None).wrong().len(), 0, "one packet lost on the way");
        assert_eq!(once(0, 1_002, 1_000, None).wrong().len(), 2, "two lost, each way");
        assert_eq!(once(0, 0, 0, None).wrong().len(), 3, "nothing sent");
    }

    #[test]
    fn takeovers_may_cost_an_interval_each_and_never_double() {
        let slack = Slack { takeovers: 2, interval: [5, 500, 5, 1_000], rate: [10; 4] };
        assert_eq!(once(-10, 1_000, 1_000, Some(slack)).wrong().len(), 0);
        assert_eq!(once(-11, 1_000, 1_000, Some(slack)).wrong().len(), 1);
        assert_eq!(once(1, 1_000, 1_000, Some(slack)).wrong().len(), 1);
    }
}
