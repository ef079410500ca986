//! What a store holds, added up without any of the dashboards' SQL: every row is read once, and
//! what a range and a choice of variables must show is computed here.
//!
//! The definition that the panels follow: a row's growth G came after t0 (`since`) and no later
//! than t1 (`time`). By x, F(x) of it had come: all from t1 on, nothing up to t0, in between
//! (x - t0) / (t1 - t0). Between x0 and x1 came floor(G F(x1)) - floor(G F(x0)): whole bytes, which
//! add up over neighbouring pieces whatever their number. Times are seconds as a 64-bit float, as
//! PostgreSQL's `date_part('epoch', ...)` gives them, so that both come to the same last byte.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::expand::Range;
use super::psql::Psql;

/// All rows of `flow`.
pub(super) struct Stored {
    rows: Vec<Row>,
}

/// Which rows a dashboard is to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// These nodes; none means all.
    pub(super) nodes: Option<Vec<String>>,
    /// These protocols; none means all.
    pub(super) protocols: Option<Vec<i64>>,
    /// Flows with an end in this network.
    pub(super) prefix: Option<IpNet>,
}

/// What a range holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Rows that reach into it.
    pub(super) rows: usize,
    /// Counted, or of one node what it saw: bytes and packets, from and to the openers.
    pub(super) sent: i64,
    pub(super) received: i64,
    pub(super) packets_sent: i64,
    pub(super) packets_received: i64,
    /// Counted and seen bytes of both directions.
    pub(super) counted: i64,
    pub(super) seen: i64,
    /// Different flows.
    pub(super) flows: usize,
    /// Flows in each step, added up.
    pub(super) active: usize,
    /// Nodes that saw something.
    pub(super) nodes: usize,
}

/// Growth that reaches further than this beyond a range's end is not looked for.
pub(super) const REACH: f64 = 8.0 * 86_400.0;

struct Row {
    t0: f64,
    t1: f64,
    /// Bytes there and back, packets there and back.
    counted: [i64; 4],
    seen: [i64; 4],
    path: i64,
    node: String,
    proto: i64,
    ends: Vec<IpAddr>,
}

impl Stored {
    /// Reads every row.
    ///
    /// # Errors
    /// The database cannot be asked, or holds no flow.
    pub(super) fn read(psql: &Psql) -> Result<Self> {
        let mut nodes = BTreeMap::new();
        for mut row in psql.answer("SELECT id, name FROM node")?.rows {
            let name = row.pop().context("a node without a name")?;
            nodes.insert(row.pop().context("a node without an id")?, name);
        }
        let mut rows = Vec::new();
        psql.each(ALL_ROWS, |fields| {
            rows.push(Row::parse(fields, &nodes)?);
            Ok(())
        })?;
        ensure!(!rows.is_empty(), "the store holds no flow: there is nothing to check against");
        Ok(Self { rows })
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The earliest and the latest time of any growth, in seconds.
    pub(super) fn span(&self) -> (f64, f64) {
        let first = self.rows.iter().map(|row| row.t0).fold(f64::INFINITY, f64::min);
        let last = self.rows.iter().map(|row| row.t1).fold(f64::NEG_INFINITY, f64::max);
        (first, last)
    }

    /// All bytes, counted and seen, without any range.
    pub(super) fn bytes(&self) -> (i64, i64) {
        let both = |four: &[i64; 4]| four[0] + four[1];
        self.rows.iter().fold((0, 0), |(c, s), row| (c + both(&row.counted), s + both(&row.seen)))
    }

    /// Networks worth asking for: one of each family around an address that is there, and an
    /// address that NAT put in another's place.
    pub(super) fn prefixes(&self) -> Vec<IpNet> {
        let around = |v4: bool, length: u8| {
            let end = self.rows.iter().flat_map(|row| &row.ends).find(|end| end.is_ipv4() == v4)?;
            IpNet::new(*end, length).ok().map(|net| net.trunc())
        };
        let behind = self.rows.iter().filter_map(|row| row.ends.get(2)).next().copied();
        let behind = behind.map(IpNet::from);
        around(true, 16).into_iter().chain(around(false, 32)).chain(behind).collect()
    }

    /// What `range` holds of what is chosen.
    pub(super) fn sums(&self, range: Range, chosen: &Chosen) -> Sums {
        let edges = Edges::new(range);
        let alone = chosen.nodes.as_ref().is_some_and(|nodes| nodes.len() == 1);
        let (mut flows, mut active) = (HashSet::new(), HashSet::new());
        let mut nodes = HashSet::new();
        let mut sums = Sums::default();
        for row in self.rows.iter().filter(|row| chosen.has(row) && row.reaches(&edges)) {
            let (from, to) = (row.come_by(edges.from), row.come_by(edges.to));
            let part = |growth: &i64| whole(*growth, to) - whole(*growth, from);
            let [counted, seen] = [&row.counted, &row.seen].map(|four| four.each_ref().map(part));
            let [sent, received, packets_sent, packets_received] =
                if alone { seen } else { counted };
            sums.rows += 1;
            sums.sent += sent;
            sums.received += received;
            sums.packets_sent += packets_sent;
            sums.packets_received += packets_received;
            sums.counted += counted[0] + counted[1];
            sums.seen += seen[0] + seen[1];
            flows.insert(row.path);
            nodes.insert(&row.node);
            active.extend(edges.steps_of(row).map(|step| (step, row.path)));
        }
        Sums { flows: flows.len(), active: active.len(), nodes: nodes.len(), ..sums }
    }
}

/// A range and its steps, in seconds.
pub(super) struct Edges {
    pub(super) from: f64,
    pub(super) to: f64,
    step: f64,
}

impl Edges {
    pub(super) fn new(range: Range) -> Self {
        // As PostgreSQL makes a float of a time: microseconds divided.
        let seconds = |ms: i64| (ms * 1000) as f64 / 1e6;
        let step = range.step as f64 / 1000.0;
        Self { from: seconds(range.from), to: seconds(range.to), step }
    }

    /// How many steps there are.
    pub(super) fn count(&self) -> i64 {
        (integer((self.to / self.step).ceil()) - integer((self.from / self.step).floor())).max(0)
    }

    /// How long the step that is labelled `begin` (seconds) lies in the range.
    pub(super) fn length(&self, begin: f64) -> f64 {
        let step = (begin / self.step).round();
        ((step + 1.0) * self.step).min(self.to) - (step * self.step).max(self.from)
    }

    /// The steps that a row's growth may lie in, as numbers.
    fn steps_of(&self, row: &Row) -> impl Iterator<Item = i64> + use<> {
        let last = integer((row.t1.min(self.to) / self.step).ceil()) - 1;
        let first = integer((row.t0.max(self.from) / self.step).floor()).min(last);
        first..=last
    }
}

impl Chosen {
    fn has(&self, row: &Row) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.contains(&row.node))
            && self.protocols.as_ref().is_none_or(|protocols| protocols.contains(&row.proto))
            && self.prefix.is_none_or(|prefix| row.ends.iter().any(|end| prefix.contains(end)))
    }
}

impl Row {
    fn parse(fields: &[&str], nodes: &BTreeMap<String, String>) -> Result<Self> {
        let [time, since, numbers @ .., node, proto, src, dst, nat_src, nat_dst] = fields else {
            anyhow::bail!("{} columns", fields.len());
        };
        let seconds = |text: &str| -> Result<f64> { Ok(text.parse::<i64>()? as f64 / 1e6) };
        let t1 = seconds(time)?;
        let numbers = numbers.iter().map(|text| text.parse::<i64>());
        let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
        let &[a, b, c, d, e, f, g, h, path] = numbers.as_slice() else {
            anyhow::bail!("{} numbers", numbers.len());
        };
        let ends = [src, dst, nat_src, nat_dst].into_iter().filter(|end| !end.is_empty());
        Ok(Self {
            t0: if since.is_empty() { t1 } else { seconds(since)? },
            t1,
            counted: [a, b, c, d],
            seen: [e, f, g, h],
            path,
            node: nodes.get(*node).context("its node has no name")?.clone(),
            proto: proto.parse()?,
            ends: ends.map(|end| end.parse()).collect::<Result<_, _>>()?,
        })
    }

    fn reaches(&self, edges: &Edges) -> bool {
        self.t1 > edges.from
            && (self.t1 <= edges.to || self.t0 < edges.to)
            && self.t1 <= edges.to + REACH
    }

    /// The part that had come by `x`.
    fn come_by(&self, x: f64) -> f64 {
        if x >= self.t1 {
            1.0
        } else if x <= self.t0 {
            0.0
        } else {
            (x - self.t0) / (self.t1 - self.t0)
        }
    }
}

/// Microseconds since 1970, numbers, names of nodes by id; NULL is empty.
const ALL_ROWS: &str = "
    SELECT (extract(epoch FROM time) * 1000000)::int8, (extract(epoch FROM since) * 1000000)::int8,
           bytes_orig, bytes_reply, packets_orig, packets_reply,
           coalesce(raw_bytes_orig, bytes_orig), coalesce(raw_bytes_reply, bytes_reply),
           coalesce(raw_packets_orig, packets_orig), coalesce(raw_packets_reply, packets_reply),
           path, node, proto, host(src), host(dst), host(nat_src), host(nat_dst)
    FROM flow";

fn whole(growth: i64, part: f64) -> i64 {
    integer((growth as f64 * part).floor())
}

#[expect(clippy::cast_possible_truncation, reason = "a whole number far below 2^63")]
fn integer(number: f64) -> i64 {
    number as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(t0: f64, t1: f64, bytes: i64) -> Row {
        let ends = vec!["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let four = [bytes, 0, 1, 0];
        let node = "gw1".to_owned();
        Row { t0, t1, counted: four, seen: four, path: 1, node, proto: 6, ends }
    }

    fn range(from: i64, to: i64, step: i64) -> Range {
        Range { from: from * 1000, to: to * 1000, step: step * 1000 }
    }

    fn sent(stored: &Stored, from: i64, to: i64) -> i64 {
        stored.sums(range(from, to, 10), &Chosen::default()).sent
    }

    #[test]
    fn neighbouring_ranges_add_up_to_the_whole() {
        let stored = Stored { rows: vec![row(3.0, 20.0, 1001), row(20.0, 20.0, 7)] };
        assert_eq!(sent(&stored, 0, 100), 1008);
        assert_eq!(sent(&stored, 0, 3), 0);
        let cut = |at| sent(&stored, 0, at) + sent(&stored, at, 100);
        assert!((1..30).all(|at| cut(at) == 1008));
        // A point belongs to the range that ends with it, not to the one that begins with it.
        assert_eq!(sent(&stored, 20, 30), 0);
        assert_eq!(sent(&stored, 3, 20), 1008);
    }

    #[test]
    fn steps_are_those_that_growth_may_lie_in() {
        let stored =
            Stored { rows: vec![row(3.0, 20.0, 5), row(20.0, 20.0, 5), row(12.0, 31.0, 5)] };
        let edges = Edges::new(range(0, 35, 10));
        let steps = |at: usize| edges.steps_of(&stored.rows[at]).collect::<Vec<_>>();
        assert_eq!((steps(0), steps(1), steps(2)), (vec![0, 1], vec![1], vec![1, 2, 3]));
        assert_eq!(edges.count(), 4);
        assert_eq!((edges.length(0.0), edges.length(30.0)), (10.0, 5.0));
        // All three are one flow.
        assert_eq!(stored.sums(range(0, 35, 10), &Chosen::default()).active, 4);
    }

    #[test]
    fn choices_leave_out_the_rest() {
        let stored = Stored { rows: vec![row(0.0, 1.0, 5)] };
        let rows = |chosen: Chosen| stored.sums(range(0, 10, 10), &chosen).rows;
        let prefix = |text: &str| Chosen { prefix: text.parse().ok(), ..Chosen::default() };
        assert_eq!(rows(prefix("10.0.0.0/8")) + rows(prefix("2001:db8::/32")), 2);
        assert_eq!(rows(prefix("192.0.2.0/24")), 0);
        assert_eq!(rows(Chosen { nodes: Some(vec!["gw2".into()]), ..Chosen::default() }), 0);
        assert_eq!(rows(Chosen { protocols: Some(vec![17]), ..Chosen::default() }), 0);
        assert_eq!(rows(Chosen { protocols: Some(vec![17, 6]), ..Chosen::default() }), 1);
    }
}
