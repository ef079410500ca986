//! Flows one by one, and records as they arrive.

use std::io::{self, Write};
use std::time::Duration;

use daemon::table::{Column, Screen, Table, bytes, number};
use flow::{RecordFlags, TcpState, Tuple};
use serde_json::{Map, Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::AnswerError;
use super::ask::Which;
use super::print;
use super::reader::Reader;
use super::report::Sums;
use crate::cli::{FlowsArgs, Format};
use crate::store::row::FlowRow;

/// A flow in an answer: sums over the time asked for, the rest as its latest row has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlowLine {
    pub(super) path: i64,
    /// When its last growth in that time had ended.
    pub(super) last: i64,
    /// When the entry began, where known.
    pub(super) start: Option<i64>,
    pub(super) orig: Tuple,
    pub(super) outside: Tuple,
    pub(super) mark: u32,
    pub(super) zone: u16,
    pub(super) tcp: TcpState,
    pub(super) flags: RecordFlags,
    /// The nodes that saw it.
    pub(super) nodes: Vec<String>,
    pub(super) sums: Sums,
    /// It is what one observer saw of a flow.
    pub(super) observer: bool,
    /// The same as each of its observers saw it, where that was asked for.
    pub(super) observers: Vec<Self>,
}

impl Chosen {
    /// Gives each flow those of `observers` that are of its path.
    pub(super) fn with_observers(mut self, observers: Vec<FlowLine>) -> Self {
        for seen in observers {
            if let Some(line) = self.lines.iter_mut().find(|line| line.path == seen.path) {
                line.observers.push(seen);
            }
        }
        self
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) lines: Vec<FlowLine>,
    /// There are more than were asked for.
    pub(super) more: bool,
}

/// Rows that came since the last look.
#[derive(Clone, Debug)]
pub(super) struct News {
    /// There may be more at once.
    pub(super) more: bool,
    pub(super) rows: Vec<FlowRow>,
}

/// Our marks, from the column that carries the kernel's status below them.
pub(super) fn flags(column: u32) -> RecordFlags {
    RecordFlags(u16::try_from(column >> 16).unwrap_or_default())
}

/// Prints flows as it was asked for.
pub(super) fn print(
    chosen: &Chosen,
    args: &FlowsArgs,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    match args.format {
        Format::Table => {
            let raw = args.which.node.is_some();
            // Observers stand below their flow.
            out.write_all(table(&chosen.lines, raw).render(screen).as_bytes())?;
            if chosen.more {
                writeln!(out, "(there are more; --limit shows them)")?;
            }
            Ok(())
        }
        Format::Json => chosen
            .lines
            .iter()
            .try_for_each(|line| writeln!(out, "{}", Value::Object(object(line)))),
        Format::Csv if args.observers => {
            let seen = chosen.lines.iter().flat_map(|line| &line.observers).map(FlowLine::as_seen);
            csv(&seen.collect::<Vec<_>>(), out)
        }
        Format::Csv => csv(&chosen.lines, out),
    }
}

/// Prints rows of `which` as they are stored, until interrupted or nobody reads any more.
pub(super) async fn follow(
    reader: &Reader,
    which: &Which,
    format: Format,
    out: &mut (dyn Write + Send),
) -> Result<(), AnswerError> {
    let mut mark = reader.mark().await?;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    if format == Format::Csv {
        writeln!(out, "{}", CSV.join(","))?;
    }
    loop {
        looks.tick().await;
        loop {
            let News { more, rows } = reader.news(which, &mut mark).await?;
            for row in &rows {
                news_line(row, &reader.nodes().name(row.node.0.into()), format, out)?;
            }
            out.flush()?;
            if !more {
                break;
            }
        }
    }
}

/// Time between two looks for new rows.
const LOOK: Duration = Duration::from_millis(500);

fn table(lines: &[FlowLine], raw: bool) -> Table {
    let columns = vec![
        Column::text("LAST", 0),
        Column::text("PROTO", 0),
        Column::text("SOURCE", 0),
        Column::text("DESTINATION", 0),
        Column::text("NAT", 2),
        Column::number("SENT", 0),
        Column::number("RECEIVED", 0),
        Column::number("PACKETS", 4),
        Column::text("STATE", 3),
        Column::text("START", 5),
        Column::text("NODES", 1),
    ];
    let all = lines.iter().flat_map(|line| {
        let seen = line.observers.iter().map(|seen| (seen, true));
        std::iter::once((line, raw)).chain(seen)
    });
    let rows = all.map(|(line, raw)| {
        let Sums { bytes_orig, bytes_reply, packets_orig, packets_reply, .. } = line.sums;
        let counted = (bytes_orig, bytes_reply, packets_orig.saturating_add(packets_reply));
        let sums = &line.sums;
        let seen = (
            sums.raw_bytes_orig,
            sums.raw_bytes_reply,
            sums.raw_packets_orig.saturating_add(sums.raw_packets_reply),
        );
        let (sent, received, packets) = if raw { seen } else { counted };
        vec![
            if line.observer { "  seen".to_owned() } else { print::local(line.last) },
            print::proto_name(line.orig.proto),
            print::end(line.orig.proto, line.orig.src, line.orig.sport),
            destination(&line.orig),
            translation(&line.orig, &line.outside),
            bytes(sent),
            bytes(received),
            number(packets),
            state(line.tcp, line.flags),
            line.start.map_or_else(|| "unknown".to_owned(), print::local),
            line.nodes.join(" "),
        ]
    });
    Table { columns, rows: rows.collect(), sums: 0 }
}

impl FlowLine {
    /// The same with what was seen in place of what was counted.
    fn as_seen(&self) -> Self {
        let sums = Sums {
            bytes_orig: self.sums.raw_bytes_orig,
            bytes_reply: self.sums.raw_bytes_reply,
            packets_orig: self.sums.raw_packets_orig,
            packets_reply: self.sums.raw_packets_reply,
            ..self.sums
        };
        Self { sums, ..self.clone() }
    }
}

/// Where a flow was opened to; for ICMP with what was asked.
fn destination(orig: &Tuple) -> String {
    let end = print::end(orig.proto, orig.dst, orig.dport);
    match orig.icmp_parts() {
        Some((kind, code, _)) => format!("{end} type {kind} code {code}"),
        None => end,
    }
}

/// What changes at the gateway: the ends as they look outside, where they differ.
fn translation(orig: &Tuple, outside: &Tuple) -> String {
    let mut changes = Vec::new();
    if (orig.src, orig.sport) != (outside.src, outside.sport) {
        changes.push(format!("from {}", print::end(outside.proto, outside.src, outside.sport)));
    }
    if (orig.dst, orig.dport) != (outside.dst, outside.dport) {
        changes.push(format!("to {}", print::end(outside.proto, outside.dst, outside.dport)));
    }
    changes.join(" ")
}

fn state(tcp: TcpState, flags: RecordFlags) -> String {
    if flags.has(RecordFlags::UNSEEN) {
        return "ended unseen".to_owned();
    }
    if flags.has(RecordFlags::END) {
        return "ended".to_owned();
    }
    match tcp.0 {
        0 => "open".to_owned(),
        _ => tcp.name().to_ascii_lowercase(),
    }
}

/// A flow for programs. `last` and `start` are RFC 3339 in UTC.
fn object(line: &FlowLine) -> Map<String, Value> {
    let mut object = ends(&line.orig, &line.outside);
    let mut put = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    put("path", json!(line.path));
    put("last", json!(print::utc(line.last)));
    put("start", json!(line.start.map(print::utc)));
    put("zone", json!(line.zone));
    put("mark", json!(line.mark));
    put("state", json!(state(line.tcp, line.flags)));
    put("nodes", json!(line.nodes));
    for (name, value) in line.sums.fields() {
        if name != "flows" {
            put(name, json!(value));
        }
    }
    if !line.observers.is_empty() {
        let seen = line.observers.iter().map(|seen| Value::Object(self::object(seen)));
        put("observers", Value::Array(seen.collect()));
    }
    object
}

/// Both ends in their protocol's terms, and how they look outside where that differs.
fn ends(orig: &Tuple, outside: &Tuple) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    put("proto", json!(orig.proto.to_string()));
    put("src", json!(orig.src));
    put("dst", json!(orig.dst));
    if let Some((kind, code, id)) = orig.icmp_parts() {
        put("icmp_type", json!(kind));
        put("icmp_code", json!(code));
        put("icmp_id", json!(id));
    } else if orig.proto.has_ports() || orig.sport != 0 || orig.dport != 0 {
        put("src_port", json!(orig.sport));
        put("dst_port", json!(orig.dport));
    }
    for (name, inside, outside) in
        [("nat_src", orig.src, outside.src), ("nat_dst", orig.dst, outside.dst)]
    {
        if inside != outside {
            put(name, json!(outside));
        }
    }
    for (name, inside, outside) in
        [("nat_src_port", orig.sport, outside.sport), ("nat_dst_port", orig.dport, outside.dport)]
    {
        if inside != outside {
            put(name, json!(outside));
        }
    }
    object
}

/// Columns of CSV. For ICMP `src_port` is the id and `dst_port` is type times 256 plus code.
const CSV: [&str; 18] = [
    "last",
    "start",
    "proto",
    "src",
    "src_port",
    "dst",
    "dst_port",
    "nat_src",
    "nat_src_port",
    "nat_dst",
    "nat_dst_port",
    "bytes_orig",
    "bytes_reply",
    "packets_orig",
    "packets_reply",
    "state",
    "nodes",
    "path",
];

fn csv(lines: &[FlowLine], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", CSV.join(","))?;
    lines.iter().try_for_each(|line| writeln!(out, "{}", csv_cells(line).join(",")))
}

/// No cell holds a comma, a quote or a line's end.
fn csv_cells(line: &FlowLine) -> [String; 18] {
    let FlowLine { orig, outside, sums, .. } = line;
    [
        print::utc(line.last),
        line.start.map(print::utc).unwrap_or_default(),
        orig.proto.to_string(),
        orig.src.to_string(),
        orig.sport.to_string(),
        orig.dst.to_string(),
        orig.dport.to_string(),
        outside.src.to_string(),
        outside.sport.to_string(),
        outside.dst.to_string(),
        outside.dport.to_string(),
        sums.bytes_orig.to_string(),
        sums.bytes_reply.to_string(),
        sums.packets_orig.to_string(),
        sums.packets_reply.to_string(),
        state(line.tcp, line.flags),
        line.nodes.join(" "),
        line.path.to_string(),
    ]
}

/// A row as a flow's line.
pub(super) fn line_of(row: &FlowRow, node: &str) -> FlowLine {
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let counted = |count| if row.is_retraction() { -signed(count) } else { signed(count) };
    let [packets_orig, bytes_orig, packets_reply, bytes_reply] =
        row.counted.components().map(counted);
    let [raw_packets_orig, raw_bytes_orig, raw_packets_reply, raw_bytes_reply] =
        row.raw.components().map(signed);
    FlowLine {
        path: row.path.0,
        last: row.time.micros_floor(),
        start: row.entry_start.map(flow::UnixNanos::micros_floor),
        orig: row.inside,
        outside: row.outside,
        mark: row.mark,
        zone: row.zone.0,
        tcp: row.tcp,
        flags: flags(row.flags),
        nodes: vec![node.to_owned()],
        sums: Sums {
            flows: 1,
            bytes_orig,
            bytes_reply,
            packets_orig,
            packets_reply,
            raw_bytes_orig,
            raw_bytes_reply,
            raw_packets_orig,
            raw_packets_reply,
        },
        observer: false,
        observers: Vec::new(),
    }
}

fn news_line(
    row: &FlowRow,
    node: &str,
    format: Format,
    out: &mut (dyn Write + Send),
) -> io::Result<()> {
    let line = line_of(row, node);
    match format {
        Format::Table => {
            let Sums { bytes_orig, bytes_reply, .. } = line.sums;
            let (last, tuple) = (print::local(line.last), line.orig);
            let (sent, received) = (bytes(bytes_orig), bytes(bytes_reply));
            let state = state(line.tcp, line.flags);
            writeln!(out, "{last}  {node}  {tuple}  sent {sent}, received {received}  {state}")
        }
        Format::Json => writeln!(out, "{}", Value::Object(object(&line))),
        Format::Csv => writeln!(out, "{}", csv_cells(&line).join(",")),
    }
}
