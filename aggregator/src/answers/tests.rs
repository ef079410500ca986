//! Answers over real databases, made by the migrations and written as an aggregator writes them.
//! Every question is asked of each kind of store.

use std::net::IpAddr;

use clap::Parser;
use flow::entry::Zone;
use flow::{Counters, Epoch, NodeName, Proto, Seq, TcpState, Tuple, UnixNanos};
use sqlx::AssertSqlSafe;
use testdb::Server;

use super::*;
use crate::cli::{Cli, Command};
use crate::store::postgres::{PostgresAddress, PostgresStore};
use crate::store::row::{
    AliasRow, ChangeSet, EntryNo, FlowRow, NetnsNo, NodeNo, NodeRow, PathNo, WriterToken,
};
use crate::store::sqlite::{SqliteConfig, SqliteStore};
use crate::store::{CommitError, Store};

/// 2023-11-14T22:13:20Z.
const NOW: i64 = 1_700_000_000_000_000;

/// A kind of store.
#[derive(Clone, Copy)]
enum Kind {
    Sqlite,
    Postgres,
}

/// A store as the aggregator makes it. It stays open, as beside a running one.
enum Lab {
    Sqlite { store: SqliteStore, _folder: tempfile::TempDir },
    Postgres { store: PostgresStore, server: Server },
}

const TOKEN: WriterToken = WriterToken([1; 16]);

async fn lab(kind: Kind) -> Lab {
    let lab = match kind {
        Kind::Sqlite => {
            let folder = tempfile::tempdir().unwrap();
            let config = SqliteConfig::new(folder.path().join("flows.db"));
            let store = SqliteStore::open(&config).await.unwrap();
            store.take_writer(TOKEN, UnixNanos(NOW * 1_000)).await.unwrap();
            Lab::Sqlite { store, _folder: folder }
        }
        Kind::Postgres => {
            let server = Server::start().unwrap();
            let address = PostgresAddress::parse(&server.url()).unwrap();
            let store = PostgresStore::open(&address).await.unwrap();
            store.take_writer(TOKEN, UnixNanos(NOW * 1_000)).await.unwrap();
            Lab::Postgres { store, server }
        }
    };
    let node = |number, name| NodeRow {
        node: NodeNo(number),
        name: NodeName::new(name).unwrap(),
        epoch: Epoch([7; 16]),
        epoch_since: UnixNanos(0),
    };
    let new_nodes = vec![node(1, "gw1"), node(2, "gw2")];
    lab.commit(ChangeSet { new_nodes, ..ChangeSet::default() }).await.unwrap();
    lab
}

/// A row of `flow`; what is not said is zero or unknown.
struct Row {
    ago_s: i64,
    path: i64,
    node: i32,
    tuple: (u8, &'static str, u16, &'static str, u16),
    bytes: (u64, u64),
    raw: Option<u64>,
    flags: u32,
    nat_src: Option<&'static str>,
    stray: bool,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            ago_s: 60,
            path: 1,
            node: 1,
            tuple: (6, "10.0.0.1", 40_000, "192.0.2.1", 443),
            bytes: (0, 0),
            raw: None,
            flags: 0,
            nat_src: None,
            stray: false,
        }
    }
}

impl Row {
    fn flow_row(&self) -> FlowRow {
        let (proto, src, sport, dst, dport) = self.tuple;
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let inside =
            Tuple { src: address(src), dst: address(dst), sport, dport, proto: Proto(proto) };
        let time = UnixNanos((NOW - self.ago_s * 1_000_000) * 1_000);
        let raw = self.raw.unwrap_or(self.bytes.0);
        FlowRow {
            time,
            since: None,
            slack: None,
            entry_start: None,
            path: PathNo(self.path),
            entry: EntryNo(self.path),
            counted: Counters::new(2, self.bytes.0, 1, self.bytes.1),
            raw: Counters::new(2, raw, 1, self.bytes.1),
            seq: Seq(1),
            mark: 0,
            node: NodeNo(self.node),
            netns: NetnsNo(1),
            zone: Zone(0),
            inside,
            outside: Tuple { src: self.nat_src.map_or(inside.src, address), ..inside },
            flags: self.flags,
            tcp: TcpState(3),
            stray: self.stray.then_some(time),
            frame: 0,
        }
    }
}

impl Lab {
    async fn commit(&self, set: ChangeSet) -> Result<(), CommitError> {
        match self {
            Self::Sqlite { store, .. } => store.commit(TOKEN, &set).await,
            Self::Postgres { store, .. } => store.commit(TOKEN, &set).await,
        }
    }

    async fn put(&self, row: Row) {
        let flows = vec![row.flow_row()];
        self.commit(ChangeSet { flows, ..ChangeSet::default() }).await.unwrap();
    }

    /// Runs a statement behind the aggregator's back.
    async fn run(&self, text: &str) {
        match self {
            Self::Sqlite { store, .. } => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(store.path());
                let mut sql = sqlx::ConnectOptions::connect(&options).await.unwrap();
                sqlx::query(AssertSqlSafe(text.to_owned())).execute(&mut sql).await.unwrap();
            }
            Self::Postgres { server, .. } => {
                server.sql(testdb::DATABASE, text).unwrap();
            }
        }
    }

    fn store(&self) -> StoreChoice {
        match self {
            Self::Sqlite { store, .. } => StoreChoice::Sqlite(store.path().to_owned()),
            Self::Postgres { store, .. } => StoreChoice::Postgres(store.address().clone()),
        }
    }

    /// The answer to a command line.
    async fn ask(&self, line: &str) -> String {
        ask(line, &self.store()).await.unwrap()
    }
}

macro_rules! on_each {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::Kind::Sqlite).await })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::Kind::Postgres).await })*
        }
    };
}

on_each!(
    a_flow_that_two_gateways_saw_is_reported_once,
    services_and_the_rest_are_named,
    flows_are_found_by_what_they_are,
    observers_of_a_flow_stand_below_it,
    flows_are_shown_in_their_protocols_terms,
    following_shows_what_is_stored_from_now_on,
    impossible_times_are_counted_apart,
    a_newer_store_is_explained,
    an_empty_store_has_an_empty_answer,
);

async fn ask(line: &str, store: &StoreChoice) -> Result<String, String> {
    let words = std::iter::once("conntracct-aggregator").chain(line.split(' '));
    let now = Timestamp::from_microsecond(NOW).unwrap();
    let mut out = Vec::new();
    match Cli::try_parse_from(words).unwrap().command.unwrap() {
        Command::Report(args) => report(&args, store, now, Screen::PLAIN, &mut out).await,
        Command::Flows(args) => flows(&args, store, now, Screen::PLAIN, &mut out).await,
        other => panic!("{other:?} is no question"),
    }
    .map_err(|error| daemon::config::chain(&error))?;
    Ok(String::from_utf8(out).unwrap())
}

/// Two gateways saw flow 1; the second's growth was counted already and is raw only.
async fn two_gateways(kind: Kind) -> Lab {
    let lab = lab(kind).await;
    lab.put(Row { bytes: (1000, 500), ..Row::default() }).await;
    lab.put(Row { node: 2, raw: Some(1000), ..Row::default() }).await;
    lab.put(Row {
        path: 2,
        ago_s: 10,
        tuple: (17, "10.0.0.2", 5353, "192.0.2.1", 53),
        bytes: (70, 30),
        flags: 1 << 16,
        nat_src: Some("198.51.100.7"),
        ..Row::default()
    })
    .await;
    lab.put(Row {
        path: 3,
        ago_s: 30,
        tuple: (58, "fd00::1", 77, "fd00::2", 128 << 8),
        bytes: (64, 64),
        ..Row::default()
    })
    .await;
    // Outside the last hour.
    lab.put(Row { ago_s: 7200, path: 4, bytes: (9_999_999, 0), ..Row::default() }).await;
    lab
}

async fn a_flow_that_two_gateways_saw_is_reported_once(kind: Kind) {
    let lab = two_gateways(kind).await;
    let expected = "\
SOURCE      FLOWS   SENT  RECEIVED  PACKETS   BYTES    SHARE
10.0.0.1        1  1000 B     500 B        6  1.5 KiB   86.8 %
fd00::1         1    64 B      64 B        3    128 B    7.4 %
10.0.0.2        1    70 B      30 B        3    100 B    5.7 %
--------  -----  ------  --------  -------  -------  -------
total           3  1.1 KiB     594 B       12  1.7 KiB  100.0 %
";
    let squeezed = |text: &str| -> Vec<Vec<String>> {
        let lines = text.lines().filter(|line| !line.starts_with('-'));
        lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    assert_eq!(squeezed(&lab.ask("report").await), squeezed(expected));

    let csv = lab.ask("report --by node --format csv").await;
    let expected = "\
node,flows,bytes_orig,bytes_reply,packets_orig,packets_reply,raw_bytes_orig,raw_bytes_reply,raw_packets_orig,raw_packets_reply
gw1,3,1134,594,6,3,1134,594,6,3
gw2,1,0,0,2,1,1000,0,2,1
";
    assert_eq!(csv, expected);
    let last = lab.ask("report --by node --format json").await;
    let total: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert_eq!(total["row"], "total");
    assert_eq!((&total["flows"], &total["bytes_orig"]), (&3.into(), &1134.into()));
}

async fn services_and_the_rest_are_named(kind: Kind) {
    let lab = two_gateways(kind).await;
    let text = lab.ask("report --by port --top 1 --format json").await;
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[0]["proto"], &lines[0]["port"]), (&"tcp".into(), &443.into()));
    assert_eq!((&lines[1]["row"], &lines[1]["keys"]), (&"other".into(), &2.into()));
    let csv = lab.ask("report --by port --format csv").await;
    let keys: Vec<&str> = csv.lines().filter_map(|line| line.split(',').next()).collect();
    assert_eq!(keys, ["port", "443/tcp", "icmpv6 type 128 code 0", "53/udp"]);
    let csv = lab.ask("report --by proto --top 1 --format csv").await;
    assert!(csv.lines().last().unwrap().starts_with("other,2,134,94,"), "{csv}");
    let csv = lab.ask("report --by dst --last 3h --format csv").await;
    assert!(csv.contains("\n192.0.2.1,3,10001069,530,"), "{csv}");
}

/// The gateway's path turned out to be the router's, after both were stored.
async fn observers_of_a_flow_stand_below_it(kind: Kind) {
    let lab = lab(kind).await;
    lab.put(Row { bytes: (1000, 500), ..Row::default() }).await;
    let nat_src = Some("198.51.100.7");
    lab.put(Row { path: 9, node: 2, raw: Some(1000), nat_src, ago_s: 50, ..Row::default() }).await;
    let two = lab.ask("flows --format json").await;
    assert_eq!(two.lines().count(), 2);
    let aliases = vec![AliasRow { path: PathNo(9), into: PathNo(5) }];
    lab.commit(ChangeSet { aliases, ..ChangeSet::default() }).await.unwrap();
    let aliases = vec![AliasRow { path: PathNo(5), into: PathNo(1) }];
    lab.commit(ChangeSet { aliases, ..ChangeSet::default() }).await.unwrap();

    let flows = lab.ask("flows --observers --format json").await;
    let flow: serde_json::Value = serde_json::from_str(flows.trim()).unwrap();
    assert_eq!((&flow["bytes_orig"], &flow["raw_bytes_orig"]), (&1000.into(), &2000.into()));
    assert_eq!(flow["nodes"], serde_json::json!(["gw1", "gw2"]));
    let seen = flow["observers"].as_array().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0]["nodes"], serde_json::json!(["gw1"]));
    assert_eq!((&seen[0]["raw_bytes_orig"], &seen[0]["bytes_orig"]), (&1000.into(), &1000.into()));
    assert_eq!(seen[1]["nodes"], serde_json::json!(["gw2"]));
    assert_eq!((&seen[1]["raw_bytes_orig"], &seen[1]["bytes_orig"]), (&1000.into(), &0.into()));
    assert_eq!(seen[1]["nat_src"], "198.51.100.7");

    let table = lab.ask("flows --observers").await;
    let below: Vec<&str> = table.lines().filter(|line| line.starts_with("  seen")).collect();
    assert!(below.len() == 2 && below[1].contains("from 198.51.100.7:40000"), "{table}");
    let csv = lab.ask("flows --observers --format csv").await;
    assert_eq!(csv.lines().filter(|line| line.contains(",1000,")).count(), 2, "{csv}");
    let report = lab.ask("report --format csv").await;
    assert!(report.contains("10.0.0.1,1,1000,500,"), "{report}");
}

async fn flows_are_found_by_what_they_are(kind: Kind) {
    let lab = two_gateways(kind).await;
    let paths = async |flags: &str| -> Vec<i64> {
        let text = lab.ask(&format!("flows --format json{flags}")).await;
        let path = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].as_i64();
        text.lines().map(|line| path(line).unwrap()).collect()
    };
    assert_eq!(paths("").await, [2, 3, 1], "the latest first");
    assert_eq!(paths(" --src 10.0.0.0/31").await, [1]);
    assert_eq!(paths(" --src 10.0.0.0/8").await, [2, 1]);
    assert_eq!(paths(" --dst fd00::/8").await, [3]);
    assert_eq!(paths(" --src 0.0.0.0/0").await, [2, 1], "all of one family");
    assert_eq!(paths(" --port 53").await, [2]);
    assert_eq!(paths(" --proto icmpv6").await, [3]);
    assert_eq!(paths(" --node gw2").await, [1]);
    assert_eq!(paths(" --last 3h --limit 1").await, [2]);
    assert_eq!(paths(" --from 2023-11-14T20:00:00Z --to 2023-11-14T21:00:00Z").await, [4]);
    let error = ask("flows --node gw9", &lab.store()).await.unwrap_err();
    assert_eq!(error, "--node \"gw9\" is not in this store; it knows gw1, gw2");
}

async fn flows_are_shown_in_their_protocols_terms(kind: Kind) {
    let lab = two_gateways(kind).await;
    let text = lab.ask("flows --limit 2").await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].contains("10.0.0.2:5353  192.0.2.1:53"), "{text}");
    assert!(lines[1].contains("from 198.51.100.7:5353"), "{text}");
    assert!(lines[1].contains("ended"), "{text}");
    assert!(lines[2].contains("fd00::2 type 128 code 0"), "{text}");
    assert_eq!(lines[3], "(there are more; --limit shows them)");
    let text = lab.ask("flows --node gw2").await;
    assert!(text.lines().nth(1).unwrap().contains("1000 B"), "what it saw: {text}");
    let json = lab.ask("flows --port 443 --format json").await;
    let flow: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(flow["nodes"], serde_json::json!(["gw1", "gw2"]));
    assert_eq!((&flow["bytes_orig"], &flow["raw_bytes_orig"]), (&1000.into(), &2000.into()));
    assert_eq!(flow["last"], "2023-11-14T22:12:20.000000Z");
    let csv = lab.ask("flows --port 443 --format csv").await;
    let widths: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(widths, [18, 18]);
}

/// A reader's end that says when a line has arrived.
struct Lines(tokio::sync::mpsc::Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let closed = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.0.try_send(bytes.to_vec()).map_err(closed)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn following_shows_what_is_stored_from_now_on(kind: Kind) {
    let lab = two_gateways(kind).await;
    let reader = Reader::open(&lab.store()).await.unwrap();
    let which = ask::Which { port: Some(22), ..ask::Which::default() };
    let (lines, mut arrived) = tokio::sync::mpsc::channel(64);
    let following = tokio::spawn(async move {
        let mut lines = Lines(lines);
        flows::follow(&reader, &which, crate::cli::Format::Csv, &mut lines).await
    });
    let mut text = String::new();
    while !text.contains("path\n") {
        text.push_str(std::str::from_utf8(&arrived.recv().await.unwrap()).unwrap());
    }
    let mut ssh = Row { path: 9, bytes: (5, 6), ..Row::default() };
    ssh.tuple.4 = 22;
    lab.put(Row { path: 8, ..Row::default() }).await;
    lab.put(ssh).await;
    text.clear();
    while !text.ends_with('\n') {
        text.push_str(std::str::from_utf8(&arrived.recv().await.unwrap()).unwrap());
    }
    assert!(
        text.ends_with(",22,10.0.0.1,40000,192.0.2.1,22,5,6,2,1,established,gw1,9\n"),
        "{text}"
    );
    following.abort();
}

async fn impossible_times_are_counted_apart(kind: Kind) {
    let lab = two_gateways(kind).await;
    lab.put(Row { stray: true, path: 5, bytes: (1, 1), ..Row::default() }).await;
    let reader = Reader::open(&lab.store()).await.unwrap();
    let span = ask::Span { from: NOW - 3_600_000_000, to: NOW };
    assert_eq!(reader.strays(span).await.unwrap(), 1);
    let before = ask::Span { from: NOW - 7_200_000_000, to: span.from };
    assert_eq!(reader.strays(before).await.unwrap(), 0);
    let csv = lab.ask("report --by node --format csv").await;
    assert!(csv.contains("\ngw1,3,1134,594,"), "{csv}");
}

async fn a_newer_store_is_explained(kind: Kind) {
    let lab = lab(kind).await;
    lab.run("UPDATE _sqlx_migrations SET version = 99").await;
    let error = ask("report", &lab.store()).await.unwrap_err();
    assert!(error.contains("has schema 99, this program reads"), "{error}");
    assert!(error.ends_with("use the newer program that made it"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_explained() {
    let missing = StoreChoice::Sqlite("/nowhere/flows.db".into());
    let error = ask("report", &missing).await.unwrap_err();
    assert!(error.starts_with("there is no store at /nowhere/flows.db: start"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let strange = folder.path().join("strange.db");
    std::fs::write(&strange, "this is not a database, and it is long enough to be one").unwrap();
    let error = ask("report", &StoreChoice::Sqlite(strange)).await.unwrap_err();
    assert!(error.contains("strange.db cannot be read: "), "{error}");
}

#[tokio::test]
async fn a_database_that_cannot_be_read_is_explained() {
    let server = Server::start().unwrap();
    let url = server.url();
    let store = StoreChoice::Postgres(PostgresAddress::parse(&url).unwrap());
    let error = ask("report", &store).await.unwrap_err();
    assert!(error.starts_with(&format!("there is no store at {url}: start")), "{error}");
    drop(server);
    let error = ask("report", &store).await.unwrap_err();
    assert!(error.contains("cannot be opened: the connection to the database failed"), "{error}");
}

async fn an_empty_store_has_an_empty_answer(kind: Kind) {
    let lab = lab(kind).await;
    let text = lab.ask("report").await;
    let total = text.lines().last().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(total, "total 0 0 B 0 B 0 0 B -");
    assert_eq!(lab.ask("flows --format json").await, "");
}
