//! What is known of one gateway's traffic, side by side, and where it differs.

use std::fmt;

use super::capture::Witness;
use super::rules::Counted;
use super::tally::{Both, Differing, compare, total};
use super::traffic::Done;
use crate::up::metric;
use crate::up::stored::Stored;

/// Differing flows that are listed one by one.
const LISTED: usize = 20;

/// What a node says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct NodeSaid {
    /// Records it has put into its spool.
    records: Option<f64>,
    /// Frames it has put there.
    frames: Option<f64>,
}

impl NodeSaid {
    /// Takes them from its metrics; one it does not have is left out.
    pub(crate) fn read(metrics: &str) -> Self {
        Self {
            records: metric(metrics, "conntracct_aggregation_records_total"),
            frames: metric(metrics, "conntracct_aggregation_frames_total"),
        }
    }
}

/// All counts of one gateway.
pub(crate) struct GatewayCounts {
    pub(crate) name: &'static str,
    /// conntrack's own events; `None` where nobody captured them.
    pub(crate) witness: Option<Witness>,
    /// nftables.
    pub(crate) counted: Counted,
    pub(crate) said: NodeSaid,
    pub(crate) stored: Stored,
    /// Whether every flow passes it.
    pub(crate) sees_all: bool,
    /// Whether somebody deletes entries while packets hold them.
    pub(crate) torn: bool,
}

/// A packet that holds an entry while that is deleted is counted in it after its last word. Where
/// that happens, so many of a thousand packets may be missing.
const MAY_BE_TORN: i128 = 1;

/// Whether `stored` is what nftables `counted`, as far as conntrack could know.
pub(crate) fn is_whole(stored: Both, counted: Both, torn: bool) -> bool {
    let difference = stored - counted;
    if !torn {
        return difference == [0; 4];
    }
    let all = counted.numbers().map(i128::from);
    difference.iter().all(|n| *n <= 0)
        && difference.iter().zip(all).all(|(n, all)| -n * 1_000 <= all * MAY_BE_TORN)
}

impl GatewayCounts {
    /// Flows stored with other numbers than the kernel's.
    pub(crate) fn differing(&self) -> Vec<Differing> {
        let compare = |witness: &Witness| compare(&witness.flows, &self.stored.raw);
        self.witness.as_ref().map(compare).unwrap_or_default()
    }

    /// Where the counts differ though they must not.
    pub(crate) fn differences(&self) -> Vec<String> {
        let mut wrong = self.witnesses_differ();
        let all = total(&self.stored.raw);
        if !is_whole(all, self.counted.tracked, self.torn) {
            let stored = all - self.counted.tracked;
            wrong.push(format!("{}: stored less nftables is {stored:?}", self.name));
        }
        let differing = self.differing();
        if !differing.is_empty() {
            wrong.push(format!("{}: {} flows differ", self.name, differing.len()));
        }
        if self.stored.open > 0 {
            wrong.push(format!("{}: {} flows have no end", self.name, self.stored.open));
        }
        wrong
    }

    /// Whether the two witnesses contradict each other: then they judge nobody.
    pub(crate) fn witnesses_differ(&self) -> Vec<String> {
        let Some(witness) = &self.witness else {
            return Vec::new();
        };
        let difference = total(&witness.flows) - self.counted.tracked;
        if difference == [0; 4] {
            return Vec::new();
        }
        vec![format!("{}: conntrack less nftables is {difference:?}", self.name)]
    }

    /// Whether less was counted than the programs themselves say they sent: then zero
    /// differences would mean nothing.
    pub(crate) fn vacuous(&self, done: Done) -> Vec<String> {
        let counted = self.counted.tracked;
        let mut wrong = Vec::new();
        if !self.sees_all {
            if counted.original.packets == 0 {
                wrong.push(format!("{}: saw nothing", self.name));
            }
            return wrong;
        }
        if counted.original.bytes < done.sent || counted.reply.bytes < done.received {
            wrong.push(format!("{}: fewer bytes counted than the programs sent", self.name));
        }
        // Ports are used again, so two sockets may be one flow; but not many. What the kernel is
        // known to have seen is compared with what is stored, flow by flow: a node that was down
        // may lack some. Without a witness the store must have them.
        let stored = self.stored.raw.len();
        let seen = self.witness.as_ref().map_or(stored, |witness| witness.flows.len());
        if (seen as u64) < done.flows * 9 / 10 {
            wrong.push(format!("{}: {seen} flows seen of {} opened", self.name, done.flows));
        }
        wrong
    }
}

impl fmt::Display for GatewayCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<16} {:>8} {:>14} {:>16} {:>14} {:>16}",
            self.name, "flows", "packets there", "bytes there", "packets back", "bytes back"
        )?;
        let raw = total(&self.stored.raw);
        if let Some(witness) = &self.witness {
            row(f, "conntrack", Some(witness.flows.len()), total(&witness.flows))?;
        }
        row(f, "nftables", None, self.counted.tracked)?;
        row(f, "the node's total", None, self.stored.said)?;
        row(f, "stored, reported", Some(self.stored.raw.len()), raw)?;
        let [a, b, c, d] = self.stored.counted();
        writeln!(f, "{:<16} {:>8} {a:>14} {b:>16} {c:>14} {d:>16}", "stored, counted", "")?;
        let [a, b, c, d] = raw - self.counted.tracked;
        let differing = self.differing();
        writeln!(f, "{:<16} {:>8} {a:>14} {b:>16} {c:>14} {d:>16}", "difference", differing.len())?;
        write!(f, "  packets on no flow:")?;
        for (why, amount) in &self.counted.untracked {
            write!(f, " {why} {}", amount.packets)?;
        }
        writeln!(f)?;
        if let NodeSaid { records: Some(records), frames: Some(frames) } = self.said {
            writeln!(f, "  spooled in the node's last life: {records} records, {frames} frames")?;
        }
        for difference in differing.iter().take(LISTED) {
            writeln!(f, "  {difference}")?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, flows: Option<usize>, both: Both) -> fmt::Result {
    let flows = flows.map_or_else(String::new, |flows| flows.to_string());
    let [a, b, c, d] = both.numbers();
    writeln!(f, "{name:<16} {flows:>8} {a:>14} {b:>16} {c:>14} {d:>16}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::tally::{Amount, Flows, Key};
    use std::net::IpAddr;

    fn gateway(kernel: u64, stored: u64, nft: u64) -> GatewayCounts {
        let address = IpAddr::from([10, 0, 0, 1]);
        let key =
            Key { proto: 17, src: address, dst: address, sport: 1, dport: 2, zone: 0, start: 3 };
        let both = |packets| Both {
            original: Amount { packets, bytes: packets * 100 },
            reply: Amount { packets, bytes: packets * 100 },
        };
        let witness = Witness { flows: Flows::from([(key, both(kernel))]), ..Witness::default() };
        let counted = Counted { tracked: both(nft), ..Counted::default() };
        let stored = Stored { raw: Flows::from([(key, both(stored))]), ..Stored::default() };
        let said = NodeSaid::default();
        GatewayCounts {
            name: "gw",
            witness: Some(witness),
            counted,
            said,
            stored,
            sees_all: true,
            torn: false,
        }
    }

    #[test]
    fn any_two_counts_that_differ_are_told() {
        assert!(gateway(5, 5, 5).differences().is_empty());
        assert_eq!(gateway(5, 4, 5).differences().len(), 2);
        assert_eq!(gateway(4, 4, 5).differences().len(), 2);
        assert_eq!(gateway(5, 5, 4).differences().len(), 2);
        assert!(gateway(5, 4, 5).to_string().contains("-100"));
        let open = Stored { open: 1, ..gateway(5, 5, 5).stored };
        assert_eq!(GatewayCounts { stored: open, ..gateway(5, 5, 5) }.differences().len(), 1);
    }

    #[test]
    fn where_entries_are_torn_a_packet_of_a_thousand_may_miss() {
        let torn = |stored, nft| {
            let counts = GatewayCounts { torn: true, witness: None, ..gateway(0, stored, nft) };
            counts.differences().len()
        };
        assert_eq!((torn(1_000, 1_000), torn(999, 1_000)), (0, 0));
        assert_eq!((torn(998, 1_000), torn(1_001, 1_000)), (1, 1));
    }

    #[test]
    fn nothing_counted_proves_nothing() {
        let done = Done { flows: 1, sent: 400, received: 400, unanswered: 0 };
        assert!(gateway(5, 5, 5).vacuous(done).is_empty());
        assert!(!gateway(3, 3, 3).vacuous(done).is_empty());
        assert!(!gateway(5, 5, 5).vacuous(Done { flows: 100, ..done }).is_empty());
    }
}
