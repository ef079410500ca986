//! What the database says, read with `psql`, against what the kernels counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::kernel::{Counters, Kernel, Name};
use crate::up::stack::Node;

/// Sums of the rows of each flow of each node, and in how many entries they stand.
#[derive(Debug, Default)]
pub(super) struct Stored {
    flows: BTreeMap<(String, Name), (u64, Counters)>,
    open: u64,
}

const SUMS: &str = "
    SELECT n.name, host(o.src), o.sport, host(o.dst), o.dport, count(DISTINCT o.entry),
           sum(coalesce(f.raw_packets_orig, f.packets_orig)),
           sum(coalesce(f.raw_bytes_orig, f.bytes_orig)),
           sum(coalesce(f.raw_packets_reply, f.packets_reply)),
           sum(coalesce(f.raw_bytes_reply, f.bytes_reply))
    FROM flow_observer o JOIN node n ON n.id = o.node JOIN flow_all f ON f.entry = o.entry
    GROUP BY 1, 2, 3, 4, 5";

const OPEN: &str = "SELECT count(*) FROM flow_entry WHERE ended IS NULL";

impl Stored {
    pub(super) fn read(database: &testdb::Server) -> Result<Self> {
        let answer = database.sql(testdb::DATABASE, SUMS)?;
        let flows = answer.lines().filter(|line| !line.is_empty()).map(parse);
        let open = database.sql(testdb::DATABASE, OPEN)?.trim().parse()?;
        Ok(Self { flows: flows.collect::<Result<_>>()?, open })
    }

    /// What is not as the kernels counted, the first of it.
    pub(super) fn differences(&self, nodes: &[Node<'_>], kernels: &[Kernel]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expected = 0;
        for (node, kernel) in nodes.iter().zip(kernels) {
            for (name, truth) in kernel.truth() {
                expected += 1;
                let found = self.flows.get(&(node.name().to_owned(), name));
                if found != Some(&(1, truth)) {
                    let (client, sport, ..) = name;
                    let node = node.name();
                    wrong.push(format!("{node} {client}:{sport}: {truth:?}, stored {found:?}"));
                }
            }
        }
        if self.flows.len() != expected {
            wrong.push(format!("{} flows stored of {expected}", self.flows.len()));
        }
        if self.open > 0 {
            wrong.push(format!("{} flows have no end", self.open));
        }
        let more = wrong.len().saturating_sub(10);
        wrong.truncate(10);
        if more > 0 {
            wrong.push(format!("and {more} more"));
        }
        wrong
    }

    /// What was compared, in a line.
    pub(super) fn summary(&self) -> String {
        let mut total = [0; 4];
        for (_, counters) in self.flows.values() {
            total.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += counter);
        }
        let [packets, bytes, reply_packets, reply_bytes] = total;
        let mut text = format!("{} flows, ", self.flows.len());
        let _infallible = write!(
            text,
            "{packets} packets and {bytes} bytes there, {reply_packets} and {reply_bytes} back: \
             stored as the kernels counted, difference 0"
        );
        text
    }
}

fn parse(line: &str) -> Result<((String, Name), (u64, Counters))> {
    let fields: Vec<&str> = line.split('|').collect();
    let [node, src, sport, dst, dport, entries, a, b, c, d] = fields.as_slice() else {
        anyhow::bail!("psql said {line:?}");
    };
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{text:?} in {line:?}"));
    let name = (src.parse()?, sport.parse()?, dst.parse()?, dport.parse()?);
    let counters = [number(a)?, number(b)?, number(c)?, number(d)?];
    Ok((((*node).to_owned(), name), (number(entries)?, counters)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_psql_are_understood() {
        let ((node, name), (entries, counters)) =
            parse("gw|10.0.0.1|20000|192.0.2.1|443|1|5|6|7|8").unwrap();
        assert_eq!((node.as_str(), name.1, entries, counters), ("gw", 20_000, 1, [5, 6, 7, 8]));
        assert!(parse("gw|10.0.0.1").is_err());
        assert!(parse("gw|10.0.0.1|20000|192.0.2.1|443|1|x|6|7|8").is_err());
    }
}
