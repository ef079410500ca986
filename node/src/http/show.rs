//! `conntracct-node flows`: asks the running node for its live table and prints it.

use std::io::{self, Write};

use daemon::http::{ClientError, Listener, get};
use daemon::table::{Column, Screen, Table, bytes, number};
use flow::{Proto, Tuple};
use jiff::Timestamp;

use super::flows::{Page, Row};
use crate::cli::{FlowsArgs, Format, Order};

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The node has no listener.
    #[error(
        "the HTTP listener is off (api_enabled), and the live table is read through it; \
         turn it on, or name another with --http"
    )]
    Off,
    /// It does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It refuses.
    #[error("the node answers {status}: {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it says.
        text: String,
    },
    /// Something else answers there, or another version of the node.
    #[error("what answers there is no conntracct-node of this version")]
    Foreign(#[source] serde_json::Error),
    /// The answer cannot be written.
    #[error("the answer cannot be written")]
    Write(#[from] io::Error),
}

/// Prints the live flows of the node that serves `listener` (`http` of its configuration).
///
/// # Errors
/// See [`ShowError`].
pub fn show(
    listener: Option<&Listener>,
    args: &FlowsArgs,
    screen: Screen,
    out: &mut dyn Write,
) -> Result<(), ShowError> {
    let listener = listener.ok_or(ShowError::Off)?;
    let answer = get(listener, &target(args))?;
    if answer.status != 200 {
        let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
        return Err(ShowError::Refused { status: answer.status, text });
    }
    let page: Page = serde_json::from_slice(&answer.body).map_err(ShowError::Foreign)?;
    match args.format {
        Format::Table => {
            out.write_all(table(&page).render(screen).as_bytes())?;
            let shown = page.flows.len();
            if page.matching == page.total {
                writeln!(out, "{shown} of {} live flows", page.total)?;
            } else {
                let (matching, total) = (page.matching, page.total);
                writeln!(out, "{shown} of {matching} that match, {total} live flows")?;
            }
        }
        Format::Json => {
            for row in &page.flows {
                serde_json::to_writer(&mut *out, row).map_err(io::Error::from)?;
                out.write_all(b"\n")?;
            }
        }
    }
    Ok(())
}

/// Path and query of a question.
fn target(args: &FlowsArgs) -> String {
    let sort = match args.sort {
        Order::Bytes => "bytes",
        Order::Packets => "packets",
        Order::Newest => "newest",
    };
    let mut target = format!("/flows?limit={}&sort={sort}", args.limit);
    let port = args.port.map(|port| port.to_string());
    for (name, value) in
        [("src", &args.src), ("dst", &args.dst), ("port", &port), ("proto", &args.proto)]
    {
        if let Some(value) = value {
            target.push_str(&format!("&{name}={}", percent(value)));
        }
    }
    target
}

/// A value as a query string carries it (RFC 3986 section 2.1).
fn percent(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

fn table(page: &Page) -> Table {
    let columns = vec![
        Column::text("PROTO", 0),
        Column::text("SOURCE", 0),
        Column::text("DESTINATION", 0),
        Column::text("NAT", 2),
        Column::number("SENT", 0),
        Column::number("RECEIVED", 0),
        Column::number("PACKETS", 3),
        Column::text("STATE", 1),
        Column::number("AGE", 4),
    ];
    let rows = page.flows.iter().map(|row| {
        let proto = Proto(row.proto_number);
        let orig = Tuple { src: row.src, dst: row.dst, sport: row.sport, dport: row.dport, proto };
        let (sent, received) = if row.counted {
            (bytes(signed(row.bytes_orig)), bytes(signed(row.bytes_reply)))
        } else {
            ("uncounted".to_owned(), "uncounted".to_owned())
        };
        vec![
            row.proto.clone(),
            end(proto, row.src, row.sport),
            destination(&orig),
            translation(row, proto),
            sent,
            received,
            number(signed(row.packets_orig.saturating_add(row.packets_reply))),
            row.tcp_state.as_deref().unwrap_or_default().to_ascii_lowercase(),
            row.start.as_deref().and_then(|start| age(start, &page.time)).unwrap_or_default(),
        ]
    });
    Table { columns, rows: rows.collect(), sums: 0 }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn end(proto: Proto, address: std::net::IpAddr, port: u16) -> String {
    if proto.has_ports() {
        std::net::SocketAddr::new(address, port).to_string()
    } else {
        address.to_string()
    }
}

fn destination(orig: &Tuple) -> String {
    let end = end(orig.proto, orig.dst, orig.dport);
    match orig.icmp_parts() {
        Some((kind, code, _)) => format!("{end} type {kind} code {code}"),
        None => end,
    }
}

/// What changes at this gateway.
fn translation(row: &Row, proto: Proto) -> String {
    let mut changes = Vec::new();
    if row.nat_src.is_some() || row.nat_sport.is_some() {
        let (address, port) = (row.nat_src.unwrap_or(row.src), row.nat_sport.unwrap_or(row.sport));
        changes.push(format!("from {}", end(proto, address, port)));
    }
    if row.nat_dst.is_some() || row.nat_dport.is_some() {
        let (address, port) = (row.nat_dst.unwrap_or(row.dst), row.nat_dport.unwrap_or(row.dport));
        changes.push(format!("to {}", end(proto, address, port)));
    }
    changes.join(" ")
}

/// How long ago, to the second.
fn age(start: &str, now: &str) -> Option<String> {
    let (start, now): (Timestamp, Timestamp) = (start.parse().ok()?, now.parse().ok()?);
    let seconds = now.duration_since(start).as_secs().max(0).unsigned_abs();
    Some(daemon::config::Span::secs(seconds).to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use daemon::http::{AppState, HttpMetrics, bind};
    use daemon::ready::Readiness;
    use flow::{BootNanos, ClockOffset, UnixNanos};
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::aggregation::listing::Listing;
    use crate::aggregation::listing::tests::live;
    use crate::cli::{Cli, Command};
    use crate::http::{Lister, pages};

    /// What `conntracct-node flows` prints when the node serves these many flows.
    fn ask(words: &[&str], flows: u64) -> Result<String, ShowError> {
        let lister: Lister = Arc::new(move |choice| {
            let clock = ClockOffset::between(BootNanos(0), UnixNanos(1_700_000_100_000_000_000));
            let flows = (0..flows).map(|n| live(n, if n == 3 { 22 } else { 443 }, n * 1024));
            let listing = Listing::of(flows, &choice, clock, BootNanos(0));
            Box::pin(async move { Some(listing) })
        });
        let mut listener = Listener {
            addresses: vec!["127.0.0.1:0".parse().unwrap()],
            hosts: Vec::new(),
            token: None,
            tls: None,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bound = runtime.block_on(bind(&listener, HttpMetrics::default())).unwrap();
        listener.addresses = bound.addresses();
        let state = AppState {
            registry: Arc::new(Registry::default()),
            readiness: Readiness::default(),
            stats: Arc::new(|| serde_json::Value::Null),
        };
        runtime.spawn(bound.serve(state, pages(lister), std::future::pending()));
        let words = [&["conntracct-node", "flows"], words].concat();
        let Some(Command::Flows(args)) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not the command");
        };
        let mut out = Vec::new();
        show(Some(&listener), &args, Screen::PLAIN, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_live_table_is_shown_largest_first() {
        let expected = "\
PROTO  SOURCE         DESTINATION    NAT     SENT  RECEIVED  PACKETS  STATE         AGE
tcp    10.0.0.4:4000  192.0.2.1:443       4.0 KiB       0 B        2  established  1m40s
tcp    10.0.0.3:4000  192.0.2.1:22        3.0 KiB       0 B        2  established  1m40s
2 of 5 live flows
";
        let squeezed = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(squeezed(&ask(&["--limit", "2"], 5).unwrap()), squeezed(expected));
        let text = ask(&["--port", "22", "--src", "10.0.0.0/24", "--proto", "tcp"], 5).unwrap();
        assert!(text.ends_with("\n1 of 1 that match, 5 live flows\n"), "{text}");
        let json = ask(&["--format", "json", "--sort", "newest", "--limit", "1"], 5).unwrap();
        let row: Row = serde_json::from_str(&json).unwrap();
        assert_eq!((row.flow, row.bytes_orig), (4, 4096));
    }

    #[test]
    fn questions_that_make_no_sense_are_refused_with_a_reason() {
        let refused = |words: &[&str]| ask(words, 1).unwrap_err().to_string();
        let text = refused(&["--src", "10.0.0.0/64 &limit=5"]);
        assert!(
            text.starts_with("the node answers 400: src is \"10.0.0.0/64 &limit=5\""),
            "{text}"
        );
        let text = refused(&["--proto", "tpc"]);
        assert!(text.contains("\"tpc\" is no protocol"), "{text}");
        assert!(matches!(show(None, &args(), Screen::PLAIN, &mut Vec::new()), Err(ShowError::Off)));
    }

    fn args() -> FlowsArgs {
        match Cli::try_parse_from(["conntracct-node", "flows"]).unwrap().command {
            Some(Command::Flows(args)) => args,
            _ => panic!("not the command"),
        }
    }
}
