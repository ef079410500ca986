//! Reports: the largest, the rest in one line, the total.

use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::net::IpAddr;

use daemon::table::{Column, Screen, Table, bytes, number};
use flow::Proto;
use serde_json::{Map, Value, json};

use super::print;
use crate::cli::{By, Format, ReportArgs};

/// What a line of a report is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// An address.
    Address(IpAddr),
    /// A protocol and, where it has such a thing, port or ICMP type and code.
    Service(Proto, u16),
    /// A protocol.
    Proto(Proto),
    /// A node.
    Node(String),
}

impl Key {
    fn text(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Service(proto, dport) => print::service(*proto, *dport),
            Self::Proto(proto) => print::proto_name(*proto),
            Self::Node(name) => name.clone(),
        }
    }
}

/// Sums over rows. Counted ones may be negative where a later finding took something back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sums {
    pub(super) flows: i64,
    pub(super) bytes_orig: i64,
    pub(super) bytes_reply: i64,
    pub(super) packets_orig: i64,
    pub(super) packets_reply: i64,
    pub(super) raw_bytes_orig: i64,
    pub(super) raw_bytes_reply: i64,
    pub(super) raw_packets_orig: i64,
    pub(super) raw_packets_reply: i64,
}

impl Sums {
    /// Bytes of both directions, counted.
    pub(super) const fn bytes(&self) -> i64 {
        self.bytes_orig.saturating_add(self.bytes_reply)
    }

    /// Bytes of both directions as seen.
    pub(super) const fn raw_bytes(&self) -> i64 {
        self.raw_bytes_orig.saturating_add(self.raw_bytes_reply)
    }

    fn add(&mut self, other: &Self) {
        let sum = |a: &mut i64, b: i64| *a = a.saturating_add(b);
        sum(&mut self.flows, other.flows);
        sum(&mut self.bytes_orig, other.bytes_orig);
        sum(&mut self.bytes_reply, other.bytes_reply);
        sum(&mut self.packets_orig, other.packets_orig);
        sum(&mut self.packets_reply, other.packets_reply);
        sum(&mut self.raw_bytes_orig, other.raw_bytes_orig);
        sum(&mut self.raw_bytes_reply, other.raw_bytes_reply);
        sum(&mut self.raw_packets_orig, other.raw_packets_orig);
        sum(&mut self.raw_packets_reply, other.raw_packets_reply);
    }

    /// Names and values, for programs.
    pub(super) fn fields(&self) -> [(&'static str, i64); 9] {
        [
            ("flows", self.flows),
            ("bytes_orig", self.bytes_orig),
            ("bytes_reply", self.bytes_reply),
            ("packets_orig", self.packets_orig),
            ("packets_reply", self.packets_reply),
            ("raw_bytes_orig", self.raw_bytes_orig),
            ("raw_bytes_reply", self.raw_bytes_reply),
            ("raw_packets_orig", self.raw_packets_orig),
            ("raw_packets_reply", self.raw_packets_reply),
        ]
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The largest, largest first.
    pub(super) lines: Vec<(Key, Sums)>,
    /// How many keys there are besides, and their sum.
    pub(super) other: (u64, Sums),
    /// Everything; its flows are counted once each.
    pub(super) total: Sums,
}

/// Collects the largest lines of a stream of any length in bounded memory.
#[derive(Debug)]
pub(super) struct Top {
    by: By,
    most: usize,
    /// The smallest kept is on top.
    kept: BinaryHeap<std::cmp::Reverse<(i64, Key, Sums)>>,
    other: (u64, Sums),
    total: Sums,
}

impl Top {
    /// Keeps `most` lines.
    pub(super) fn new(by: By, most: usize) -> Self {
        let (other, total) = ((0, Sums::default()), Sums::default());
        Self { by, most, kept: BinaryHeap::new(), other, total }
    }

    /// Takes a line.
    pub(super) fn add(&mut self, key: Key, sums: Sums) {
        self.total.add(&sums);
        // Of a gateway one wants to know what it saw.
        let size = if self.by == By::Node { sums.raw_bytes() } else { sums.bytes() };
        self.kept.push(std::cmp::Reverse((size, key, sums)));
        if self.kept.len() > self.most
            && let Some(std::cmp::Reverse((_, _, sums))) = self.kept.pop()
        {
            self.other.0 += 1;
            self.other.1.add(&sums);
        }
    }

    /// The report; `flows` is the number of all flows, each counted once.
    pub(super) fn finish(mut self, flows: i64) -> Report {
        self.total.flows = flows;
        let lines = self.kept.into_sorted_vec();
        let lines = lines.into_iter().map(|std::cmp::Reverse((_, key, sums))| (key, sums));
        Report { lines: lines.collect(), other: self.other, total: self.total }
    }
}

/// Prints a report as it was asked for.
pub(super) fn print(
    report: &Report,
    args: &ReportArgs,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    match args.format {
        Format::Table => out.write_all(table(report, args.by).render(screen).as_bytes()),
        Format::Json => json_lines(report, args.by, out),
        Format::Csv => csv(report, args.by, out),
    }
}

fn table(report: &Report, by: By) -> Table {
    let title = match by {
        By::Src => "SOURCE",
        By::Dst => "DESTINATION",
        By::Port => "PORT",
        By::Proto => "PROTOCOL",
        By::Node => "NODE",
    };
    let mut columns = vec![
        Column::text(title, 0),
        Column::number("FLOWS", 3),
        Column::number("SENT", 1),
        Column::number("RECEIVED", 1),
        Column::number("PACKETS", 4),
        Column::number("BYTES", 0),
        Column::number("SHARE", 2),
    ];
    if by == By::Node {
        columns.push(Column::number("SEEN", 0));
    }
    let row = |name: String, sums: &Sums| {
        let packets = sums.packets_orig.saturating_add(sums.packets_reply);
        let mut cells = vec![
            name,
            number(sums.flows),
            bytes(sums.bytes_orig),
            bytes(sums.bytes_reply),
            number(packets),
            bytes(sums.bytes()),
            share(sums.bytes(), report.total.bytes()),
        ];
        if by == By::Node {
            cells.push(bytes(sums.raw_bytes()));
        }
        cells
    };
    let mut rows: Vec<_> = report.lines.iter().map(|(key, sums)| row(key.text(), sums)).collect();
    let (others, other) = &report.other;
    if *others > 0 {
        rows.push(row(format!("({others} others)"), other));
    }
    rows.push(row("total".to_owned(), &report.total));
    Table { columns, rows, sums: 1 }
}

/// A part in percent.
fn share(part: i64, whole: i64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    // Exact in integers, to a tenth.
    let tenths = i128::from(part) * 1000 / i128::from(whole);
    let sign = if tenths < 0 { "-" } else { "" };
    let tenths = tenths.unsigned_abs();
    format!("{sign}{}.{} %", tenths / 10, tenths % 10)
}

/// One object a line: `"row"` is `key`, `other` (the rest, where there is one) or `total`.
fn json_lines(report: &Report, by: By, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |row: &str, mut object: Map<String, Value>, sums: &Sums| {
        object.insert("row".to_owned(), row.into());
        for (name, value) in sums.fields() {
            object.insert(name.to_owned(), value.into());
        }
        writeln!(out, "{}", Value::Object(object))
    };
    for (key, sums) in &report.lines {
        line("key", json_key(key, by), sums)?;
    }
    let (others, other) = &report.other;
    if *others > 0 {
        line("other", Map::from_iter([("keys".to_owned(), json!(others))]), other)?;
    }
    line("total", Map::new(), &report.total)
}

fn json_key(key: &Key, by: By) -> Map<String, Value> {
    let name = |by| if by == By::Src { "src" } else { "dst" };
    let fields = match key {
        Key::Address(address) => vec![(name(by), json!(address))],
        Key::Service(proto, dport) if proto.has_ports() => {
            vec![("proto", json!(proto.to_string())), ("port", json!(dport))]
        }
        Key::Service(proto, dport) if proto.is_icmp() => {
            let [kind, code] = dport.to_be_bytes();
            let proto = json!(proto.to_string());
            vec![("proto", proto), ("icmp_type", json!(kind)), ("icmp_code", json!(code))]
        }
        Key::Service(proto, _) | Key::Proto(proto) => vec![("proto", json!(proto.to_string()))],
        Key::Node(node) => vec![("node", json!(node))],
    };
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A header and a line a key; the rest is a line called `other`. No total: programs add up.
fn csv(report: &Report, by: By, out: &mut dyn Write) -> io::Result<()> {
    let key = match by {
        By::Src => "src",
        By::Dst => "dst",
        By::Port => "port",
        By::Proto => "proto",
        By::Node => "node",
    };
    let names: Vec<&str> = Sums::default().fields().map(|(name, _)| name).to_vec();
    writeln!(out, "{key},{}", names.join(","))?;
    // No key holds a comma, a quote or a line's end.
    let mut line = |key: &str, sums: &Sums| {
        let values: Vec<String> = sums.fields().map(|(_, value)| value.to_string()).to_vec();
        writeln!(out, "{key},{}", values.join(","))
    };
    for (key, sums) in &report.lines {
        line(&key.text(), sums)?;
    }
    let (others, other) = &report.other;
    if *others > 0 { line("other", other) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(bytes: i64) -> Sums {
        Sums { flows: 1, bytes_orig: bytes, raw_bytes_orig: bytes, ..Sums::default() }
    }

    #[test]
    fn the_largest_are_kept_and_nothing_is_lost() {
        let mut top = Top::new(By::Proto, 2);
        for (proto, bytes) in [(6, 10), (17, 500), (1, 0), (47, 70), (58, -3)] {
            top.add(Key::Proto(Proto(proto)), sums(bytes));
        }
        let report = top.finish(4);
        let kept: Vec<i64> = report.lines.iter().map(|(_, sums)| sums.bytes()).collect();
        assert_eq!(kept, [500, 70]);
        assert_eq!(report.other, (3, Sums { flows: 3, ..sums(7) }));
        assert_eq!((report.total.bytes(), report.total.flows), (577, 4));
    }

    #[test]
    fn shares_are_exact() {
        for (part, whole, text) in
            [(1, 3, "33.3 %"), (-1, 1000, "-0.1 %"), (5, 5, "100.0 %"), (0, 0, "-")]
        {
            assert_eq!(share(part, whole), text);
        }
        assert_eq!(share(i64::MAX, i64::MAX), "100.0 %");
    }
}
