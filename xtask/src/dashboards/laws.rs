//! What each panel must add up to. A panel without a law is an error: a picture nobody checks
//! is worth nothing.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

use super::expand::Range;
use super::psql::Answer;
use super::stored::{Edges, Sums};

/// A panel's law.
#[derive(Debug)]
pub(super) struct Law {
    panel: &'static str,
    shape: Shape,
    /// Columns and what their values must come to.
    columns: Columns,
}

type Columns = &'static [(&'static str, fn(&Sums) -> i64)];

/// How a panel's answer is to be read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    /// Rates a second, times this number; one row a step, or one a step and `metric`.
    Rates(f64),
    /// Numbers; one row a step.
    Steps,
    /// One row for everything.
    One,
    /// Rows by rank, the last one with the rest; a column `Share` that comes to 1.
    Ranks,
}

/// Every panel's law.
const LAWS: &[Law] = &[
    Law {
        panel: "Totals",
        shape: Shape::One,
        columns: &[
            ("Sent", |sums| sums.sent),
            ("Received", |sums| sums.received),
            ("Packets", packets),
            ("Flows", |sums| count(sums.flows)),
            ("Nodes", |sums| count(sums.nodes)),
        ],
    },
    Law {
        panel: "Throughput",
        shape: Shape::Rates(8.0),
        columns: &[("sent", |sums| sums.sent), ("received", |sums| sums.received)],
    },
    Law {
        panel: "Packets",
        shape: Shape::Rates(1.0),
        columns: &[("sent", |sums| sums.packets_sent), ("received", |sums| sums.packets_received)],
    },
    Law {
        panel: "By node, as each gateway saw it",
        shape: Shape::Rates(8.0),
        columns: &[("bps", |sums| sums.seen)],
    },
    Law {
        panel: "Active flows",
        shape: Shape::Steps,
        columns: &[("flows", |sums| count(sums.active))],
    },
    Law { panel: "Top sources", shape: Shape::Ranks, columns: RANKED },
    Law { panel: "Top destinations", shape: Shape::Ranks, columns: RANKED },
    Law { panel: "Top ports", shape: Shape::Ranks, columns: RANKED },
    Law { panel: "Protocols", shape: Shape::Ranks, columns: RANKED },
    Law {
        panel: "Nodes",
        shape: Shape::Ranks,
        columns: &[("Seen", |sums| sums.seen), ("Counted", |sums| sums.counted)],
    },
];

const RANKED: Columns = &[
    ("Sent", |sums| sums.sent),
    ("Received", |sums| sums.received),
    ("Total", |sums| sums.sent + sums.received),
    ("Packets", packets),
];

fn packets(sums: &Sums) -> i64 {
    sums.packets_sent + sums.packets_received
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The law of a panel.
///
/// # Errors
/// It has none.
pub(super) fn of(panel: &str) -> Result<&'static Law> {
    LAWS.iter().find(|law| law.panel == panel).with_context(|| {
        format!("the panel {panel:?} has no law: write in xtask/src/dashboards/laws.rs what it must add up to")
    })
}

impl Law {
    /// Holds an answer against what is stored.
    ///
    /// # Errors
    /// It is empty though something is stored, has too many or too few rows, or does not add up.
    pub(super) fn check(&self, answer: &Answer, range: Range, sums: &Sums) -> Result<()> {
        let edges = Edges::new(range);
        let rows = count(answer.rows.len());
        match self.shape {
            Shape::One => ensure!(rows == 1, "{rows} rows instead of one"),
            Shape::Ranks => ensure!(
                (rows > 0) == (sums.rows > 0),
                "{rows} rows, though {} stored ones reach into the range",
                sums.rows
            ),
            Shape::Steps | Shape::Rates(_) if edges.count() == 0 => {
                ensure!(rows == 0, "{rows} rows for no step");
                return Ok(());
            }
            Shape::Steps | Shape::Rates(_) => {
                let lines = lines(answer)?;
                ensure!(
                    rows == edges.count() * lines && (lines > 0 || sums.rows == 0),
                    "{rows} rows for {} steps of {lines} lines",
                    edges.count()
                );
            }
        }
        for (name, right) in self.columns {
            let shown = self.sum(answer, name, &edges).with_context(|| format!("column {name}"))?;
            let right = right(sums);
            let off = shown - right as f64;
            ensure!(off == 0.0, "{name} comes to {shown}, stored is {right} (off by {off})");
        }
        if self.shape == Shape::Ranks && sums.counted != 0 && sums.seen != 0 {
            let shares: f64 = numbers(answer, "Share")?.iter().sum();
            ensure!((shares - 1.0).abs() < 1e-9, "the shares come to {shares}");
        }
        Ok(())
    }

    fn sum(&self, answer: &Answer, name: &str, edges: &Edges) -> Result<f64> {
        let values = numbers(answer, name)?;
        let Shape::Rates(factor) = self.shape else { return Ok(values.iter().sum()) };
        let mut sum = 0.0;
        for (value, begin) in values.iter().zip(times(answer)?) {
            let amount = value * edges.length(begin) / factor;
            ensure!(
                (amount - amount.round()).abs() < 0.01,
                "the step at {begin} has {amount}, which is not whole"
            );
            sum += amount.round();
        }
        Ok(sum)
    }
}

/// How many lines a panel has: different values of `metric`, else one.
fn lines(answer: &Answer) -> Result<i64> {
    let Ok(at) = column(answer, "metric") else { return Ok(1) };
    let names: std::collections::BTreeSet<_> = answer.rows.iter().map(|row| row.get(at)).collect();
    Ok(count(names.len()))
}

fn numbers(answer: &Answer, name: &str) -> Result<Vec<f64>> {
    let at = column(answer, name)?;
    let number = |row: &Vec<String>| -> Result<f64> {
        let text = row.get(at).map_or("", String::as_str);
        text.parse().with_context(|| format!("{text:?} is no number"))
    };
    answer.rows.iter().map(number).collect()
}

fn times(answer: &Answer) -> Result<Vec<f64>> {
    let at = column(answer, "time")?;
    let time = |row: &Vec<String>| -> Result<f64> {
        let time: Timestamp = row.get(at).context("no time")?.parse()?;
        Ok(time.as_microsecond() as f64 / 1e6)
    };
    answer.rows.iter().map(time).collect()
}

fn column(answer: &Answer, name: &str) -> Result<usize> {
    let found = answer.columns.iter().position(|column| column == name);
    found.with_context(|| format!("no column {name} among {:?}", answer.columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range { from: 5_000, to: 20_000, step: 10_000 };
    const SUMS: Sums = Sums {
        rows: 1,
        sent: 30,
        received: 10,
        packets_sent: 3,
        packets_received: 1,
        counted: 40,
        seen: 40,
        flows: 1,
        active: 2,
        nodes: 1,
    };

    fn complaint(panel: &str, columns: &[&str], rows: &[&[&str]]) -> String {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let rows = rows.iter().map(|row| texts(row)).collect();
        let answer = Answer { columns: texts(columns), rows };
        let outcome = of(panel).unwrap().check(&answer, RANGE, &SUMS);
        outcome.err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    const T0: &str = "1970-01-01 00:00:00+00";
    const T1: &str = "1970-01-01 00:00:10+00";

    #[test]
    fn rates_are_held_against_bytes_by_the_length_of_their_step() {
        let head = ["time", "sent", "received"];
        let check = |rows: &[&[&str]]| complaint("Throughput", &head, rows);
        // The first step is cut to five seconds.
        assert_eq!(check(&[&[T0, "16", "0"], &[T1, "16", "8"]]), "");
        assert!(check(&[&[T0, "16", "0"], &[T1, "8", "8"]]).contains("comes to 20, stored is 30"));
        assert!(check(&[&[T0, "16.5", "0"], &[T1, "16", "8"]]).contains("not whole"));
        assert!(check(&[&[T1, "16", "8"]]).contains("1 rows for 2 steps"));
        assert!(check(&[]).contains("0 rows for 2 steps"));
        assert!(
            complaint("Throughput", &["time", "sent"], &[&[T0, "16"], &[T1, "16"]])
                .contains("no column")
        );
    }

    #[test]
    fn ranks_come_to_the_whole() {
        let head = ["Source", "Sent", "Received", "Total", "Share", "Packets"];
        let check = |rows: &[&[&str]]| complaint("Top sources", &head, rows);
        assert_eq!(
            check(&[&["a", "30", "5", "35", "0.875", "3"], &["b", "0", "5", "5", "0.125", "1"]]),
            ""
        );
        assert!(check(&[]).contains("0 rows"));
        assert!(check(&[&["a", "30", "10", "40", "0.9", "4"]]).contains("shares come to 0.9"));
        assert!(check(&[&["a", "30", "10", "41", "1", "4"]]).contains("Total comes to 41"));
    }

    #[test]
    fn a_panel_without_a_law_is_an_error() {
        assert!(of("Weather").unwrap_err().to_string().contains("has no law"));
    }
}
