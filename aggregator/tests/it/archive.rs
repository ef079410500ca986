//! `export` and `import`: from either kind of store to files, and into either kind.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;

use aggregator::archive::{ExportError, Format, ImportError, LedgerError, export, import};
use aggregator::cli::ExportArgs;
use aggregator::config::StoreChoice;
use aggregator::count::{CounterConfig, Frame};
use aggregator::pipeline::commit::{Committer, Work};
use aggregator::store::postgres::{PostgresAddress, PostgresStore};
use aggregator::store::row::WriterToken;
use aggregator::store::sqlite::{SqliteConfig, SqliteStore};
use aggregator::store::{Backend, Store};
use flow::{Epoch, NodeName, Record, RecordFlags, UnixNanos};
use jiff::Timestamp;
use testdb::Server;

use crate::frames::{batch, ended, record, unix};

const EPOCH: Epoch = Epoch([9; 16]);

/// Flows of each interval: more in all than a transaction takes.
const PORTS: u16 = 6_000;

/// Seconds of a day after the tests' first one, in which flows go on.
const TOMORROW: u64 = 86_400;

fn port(n: u16) -> u16 {
    1_000 + n
}

/// Two gateways, two days, ends, and a time far ahead of its receipt.
fn frames() -> Vec<Frame> {
    let first = (0..PORTS).map(|n| record(port(n), 5, 19, 0, 10)).collect();
    let second = (0..PORTS).map(|n| record(port(n), 5, 29, 10, 25)).collect();
    let mut third: Vec<_> =
        (0..PORTS / 2).map(|n| ended(record(port(n), 5, TOMORROW + 9, 25, 30))).collect();
    third.push(record(port(PORTS), 5, 900_000, 0, 7));
    let mut other = batch(EPOCH, 1, 20, vec![record(1, 5, 19, 0, 3)]);
    other.node = NodeName::new("gw-2").unwrap();
    vec![
        batch(EPOCH, 1, 20, first),
        batch(EPOCH, 2, 30, second),
        other,
        batch(EPOCH, 3, TOMORROW + 10, third),
    ]
}

/// Rows in all, and those of the first day.
const ROWS: u64 = 2 * PORTS as u64 + 1 + PORTS as u64 / 2 + 1;
const FIRST_DAY: u64 = 2 * PORTS as u64 + 1;

async fn fill<S: Backend>(store: S, frames: Vec<Frame>) {
    let (token, config) = (WriterToken([1; 16]), CounterConfig::default());
    let mut committer = Committer::start(store.clone(), token, config, unix(100)).await.unwrap();
    let mut work = Work { todo: frames, ..Work::default() };
    committer.run(&mut work).await.unwrap();
    store.close().await;
}

async fn open_and_fill(store: &StoreChoice, frames: Vec<Frame>) {
    match store {
        StoreChoice::Sqlite(path) => {
            fill(SqliteStore::open(&SqliteConfig::new(path)).await.unwrap(), frames).await;
        }
        StoreChoice::Postgres(address) => {
            fill(PostgresStore::open(address).await.unwrap(), frames).await;
        }
    }
}

fn sqlite(folder: &Path, name: &str) -> StoreChoice {
    StoreChoice::Sqlite(folder.join(name))
}

fn postgres(server: &Server) -> StoreChoice {
    StoreChoice::Postgres(PostgresAddress::parse(&server.url()).unwrap())
}

fn args(output: &Path, format: Option<Format>) -> ExportArgs {
    ExportArgs { from: None, to: None, format, output: output.to_owned() }
}

fn now() -> Timestamp {
    Timestamp::from_nanosecond(unix(3 * 86_400).0.into()).unwrap()
}

async fn exported(store: &StoreChoice, args: &ExportArgs) -> Result<String, ExportError> {
    let mut told = Vec::new();
    export(args, store, now(), &mut told).await?;
    Ok(String::from_utf8(told).unwrap())
}

async fn imported(path: &Path, store: &StoreChoice) -> Result<String, ImportError> {
    let mut told = Vec::new();
    import(path, store, unix(4 * 86_400), &mut told).await?;
    Ok(String::from_utf8(told).unwrap())
}

/// The lines of an export's files without what numbers rows in one store only, sorted.
fn rows(folder: &Path) -> Vec<String> {
    let mut rows = Vec::new();
    for file in files(folder, "csv") {
        let text = std::fs::read_to_string(file).unwrap();
        let (header, lines) = text.split_once('\n').unwrap();
        let at = |name: &str| header.split(',').position(|column| column == name).unwrap();
        let own = [at("path"), at("entry")];
        for line in lines.lines() {
            let cells = line.split(',').enumerate().filter(|(at, _)| !own.contains(at));
            rows.push(cells.map(|(_, cell)| cell).collect::<Vec<_>>().join(","));
        }
    }
    rows.sort_unstable();
    rows
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

#[tokio::test]
async fn what_went_from_sqlite_to_postgresql_and_back_is_the_same() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start().unwrap());
    let at = |name: &str| folder.path().join(name);
    let (first, middle) = (sqlite(folder.path(), "first.db"), postgres(&server));
    open_and_fill(&first, frames()).await;
    let told = exported(&first, &args(&at("one"), None)).await.unwrap();
    assert!(told.starts_with(&format!("{ROWS} rows of 2 nodes, ")), "{told}");
    assert!(told.contains("adds up to the same. 3 files"), "{told}");
    let names: Vec<_> =
        files(&at("one"), "csv").iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["flow-2023-11-14.csv", "flow-2023-11-15.csv", "stray.csv"]);

    let told = imported(&at("one"), &middle).await.unwrap();
    assert!(told.starts_with(&format!("{ROWS} rows of 2 nodes, ")), "{told}");
    let parquet = Some(Format::Parquet);
    exported(&middle, &args(&at("two"), parquet)).await.unwrap();
    assert_eq!(files(&at("two"), "parquet").len(), 3);
    let last = sqlite(folder.path(), "last.db");
    imported(&at("two"), &last).await.unwrap();
    exported(&last, &args(&at("three"), None)).await.unwrap();
    assert_eq!(rows(&at("three")).len(), usize::try_from(ROWS).unwrap());
    assert_eq!(rows(&at("three")), rows(&at("one")));

    // As one file, and from one PostgreSQL to another.
    let file = at("all.parquet");
    exported(&middle, &args(&file, None)).await.unwrap();
    let other = Server::start().unwrap();
    imported(&file, &postgres(&other)).await.unwrap();
    exported(&postgres(&other), &args(&at("four"), None)).await.unwrap();
    assert_eq!(rows(&at("four")), rows(&at("one")));
}

/// What each of a store's sums is, from its export.
async fn packets(store: &StoreChoice, folder: &Path) -> u64 {
    exported(store, &args(folder, None)).await.unwrap();
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    manifest["sums"]["packets_orig"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_node_that_comes_after_its_import_is_counted_above_it() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start().unwrap());
    let first = sqlite(folder.path(), "first.db");
    open_and_fill(&first, frames()).await;
    let one = folder.path().join("one");
    let before = packets(&first, &one).await;
    for (at, store) in [postgres(&server), sqlite(folder.path(), "second.db")].iter().enumerate() {
        imported(&one, store).await.unwrap();
        // The store is another one to the node: it begins an epoch and tells everything from zero.
        // One flow has grown from 25 to 31, one from 30 (it had ended) to 32, one has not grown.
        let rebased = |record: Record| Record { flags: RecordFlags::REBASE, ..record };
        let now = TOMORROW + 50;
        let records = vec![
            rebased(record(port(PORTS - 1), 5, now, 0, 31)),
            rebased(record(port(0), 5, now, 0, 32)),
            rebased(record(port(PORTS - 2), 5, now, 0, 25)),
        ];
        open_and_fill(store, vec![batch(Epoch([8; 16]), 1, now + 1, records)]).await;
        let after = packets(store, &folder.path().join(format!("after-{at}"))).await;
        assert_eq!(after, before + 6 + 2, "{store}");

        // Now the node is this store's: what it told elsewhere may be among it.
        let late = imported(&one, store).await;
        assert!(matches!(late, Err(ImportError::Ledger(LedgerError::Again { .. }))), "{late:?}");
        let again = folder.path().join(format!("again-{at}"));
        let day = ExportArgs { to: Some("2023-11-15".into()), ..args(&again, None) };
        exported(&first, &day).await.unwrap();
        let late = imported(&again, store).await.unwrap_err();
        assert!(late.to_string().contains("has counted the node gw-1 itself"), "{late}");
    }
}

#[tokio::test]
async fn what_may_be_there_already_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (sqlite(folder.path(), "first.db"), sqlite(folder.path(), "second.db"));
    open_and_fill(&first, frames()).await;
    let at = |name: &str| folder.path().join(name);
    let midnight = Some("2023-11-15T00:00:00Z".to_owned());
    let day_one = ExportArgs { to: midnight.clone(), ..args(&at("day-1"), None) };
    let day_two = ExportArgs { from: midnight, ..args(&at("day-2"), None) };
    let all = args(&at("all"), None);
    for args in [&day_one, &day_two, &all] {
        exported(&first, args).await.unwrap();
    }
    assert_eq!(rows(&at("day-1")).len(), usize::try_from(FIRST_DAY).unwrap());
    let refused = |path: PathBuf, store: StoreChoice| async move {
        match imported(&path, &store).await {
            Err(ImportError::Ledger(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let own = refused(at("day-1"), first.clone()).await;
    assert!(matches!(own, LedgerError::Own { .. }), "{own}");
    imported(&at("day-2"), &second).await.unwrap();
    let again = refused(at("day-2"), second.clone()).await;
    assert!(matches!(again, LedgerError::Again { .. }), "{again}");
    let overlap = refused(at("all"), second.clone()).await;
    assert!(matches!(overlap, LedgerError::Overlap { .. }), "{overlap}");
    // Days may come in any order, and an entry that goes on over midnight is one.
    imported(&at("day-1"), &second).await.unwrap();
    exported(&second, &args(&at("both"), None)).await.unwrap();
    assert_eq!(rows(&at("both")), rows(&at("all")));
    let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("second.db"))).await;
    let entries = "SELECT count(*) FROM flow_observer";
    let entries: i64 =
        sqlx::query_scalar(entries).fetch_one(store.unwrap().reader()).await.unwrap();
    assert_eq!(entries, i64::from(PORTS) + 2);
    // The same rows by way of another store.
    let elsewhere = refused(at("both"), {
        let third = sqlite(folder.path(), "third.db");
        imported(&at("all"), &third).await.unwrap();
        third
    });
    let elsewhere = elsewhere.await;
    assert!(matches!(elsewhere, LedgerError::Elsewhere { .. }), "{elsewhere}");
}

#[tokio::test]
async fn what_is_not_as_it_was_exported_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let first = sqlite(folder.path(), "first.db");
    open_and_fill(&first, frames()).await;
    let good = folder.path().join("good");
    exported(&first, &args(&good, None)).await.unwrap();
    let target = sqlite(folder.path(), "target.db");
    let path = folder.path().join("bad");
    let part = path.join("flow-2023-11-15.csv");
    let changed = |change: &dyn Fn()| {
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        for file in files(&good, "csv").into_iter().chain(files(&good, "json")) {
            std::fs::copy(&file, path.join(file.file_name().unwrap())).unwrap();
        }
        change();
    };
    let text = std::fs::read(good.join("flow-2023-11-15.csv")).unwrap();
    let flip = |at: usize| {
        let mut bytes = text.clone();
        bytes[at] ^= 1;
        std::fs::write(&part, bytes).unwrap();
    };
    let manifest = path.join("manifest.json");
    let changes: [(&dyn Fn(), &str); 6] = [
        (&|| flip(text.len() / 2), "flow-2023-11-15.csv is not as it was exported: its digest"),
        (&|| std::fs::write(&part, &text[..text.len() - 40]).unwrap(), "bytes of"),
        (&|| std::fs::remove_file(&part).unwrap(), "it cannot be read"),
        (&|| std::fs::write(&manifest, "{").unwrap(), "manifest.json cannot be used"),
        (&|| std::fs::remove_file(&manifest).unwrap(), "there is no export at"),
        (
            &|| std::fs::rename(&manifest, path.join("manifest.partial.json")).unwrap(),
            "but half an export; run the export again",
        ),
    ];
    for (change, said) in changes {
        changed(change);
        let error = imported(&path, &target).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(!folder.path().join("target.db").exists(), "nothing was even opened");
}

#[tokio::test]
async fn an_interrupted_export_goes_on_behind_the_days_that_are_done() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start().unwrap());
    let store = postgres(&server);
    open_and_fill(&store, frames()).await;
    let whole = folder.path().join("whole");
    exported(&store, &args(&whole, None)).await.unwrap();

    // The second day's file cannot be made: something else has its name.
    let output = folder.path().join("one");
    std::fs::create_dir_all(output.join("flow-2023-11-15.csv.half")).unwrap();
    let stopped = exported(&store, &args(&output, None)).await.unwrap_err().to_string();
    assert!(stopped.contains("an export into a folder goes on where it was"), "{stopped}");
    assert!(output.join("manifest.partial.json").exists());
    let done = std::fs::metadata(output.join("flow-2023-11-14.csv")).unwrap().modified().unwrap();

    // Not with other flags.
    let other = ExportArgs { format: Some(Format::Parquet), ..args(&output, None) };
    let refused = exported(&store, &other).await.unwrap_err().to_string();
    assert!(refused.contains("holds another export, half done, with --format csv"), "{refused}");
    let other = ExportArgs { from: Some("2023-01-01".into()), ..args(&output, None) };
    let refused = exported(&store, &other).await.unwrap_err().to_string();
    assert!(refused.contains("half done, with --from 2023-11-14T"), "{refused}");

    std::fs::remove_dir(output.join("flow-2023-11-15.csv.half")).unwrap();
    let told = exported(&store, &args(&output, None)).await.unwrap();
    assert!(told.starts_with(&format!("{ROWS} rows of 2 nodes, ")), "{told}");
    assert!(!output.join("manifest.partial.json").exists());
    let still = std::fs::metadata(output.join("flow-2023-11-14.csv")).unwrap().modified().unwrap();
    assert_eq!(done, still, "written once");
    assert_eq!(rows(&output), rows(&whole));
    let again = exported(&store, &args(&output, None)).await.unwrap_err().to_string();
    assert!(again.contains("holds a finished export"), "{again}");
}

#[tokio::test]
async fn an_interrupted_import_goes_on_and_takes_each_row_once() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start().unwrap());
    let first = sqlite(folder.path(), "first.db");
    open_and_fill(&first, frames()).await;
    let one = folder.path().join("one");
    exported(&first, &args(&one, None)).await.unwrap();
    let target = postgres(&server);
    let there = || {
        let rows = server.sql(testdb::DATABASE, "SELECT count(*) FROM flow").unwrap_or_default();
        rows.trim().parse::<u64>().unwrap_or_default()
    };
    {
        let mut told = Vec::new();
        let mut importing = pin!(import(&one, &target, UnixNanos(0), &mut told));
        // Polled until some rows are there, and then never again.
        std::future::poll_fn(|cx| match importing.as_mut().poll(cx) {
            Poll::Ready(done) => panic!("imported before it could be interrupted: {done:?}"),
            Poll::Pending if there() > 0 => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        })
        .await;
    }
    assert!(there() < ROWS, "half of it");
    let told = imported(&one, &target).await.unwrap();
    assert!(told.starts_with(&format!("{ROWS} rows of 2 nodes, ")), "{told}");
    let two = folder.path().join("two");
    exported(&target, &args(&two, None)).await.unwrap();
    assert_eq!(rows(&two), rows(&one));
    let address = PostgresAddress::parse(&server.url()).unwrap();
    let store = PostgresStore::open(&address).await.unwrap();
    let loaded = store.load(UnixNanos(0)).await.unwrap();
    assert_eq!(loaded.observers.len(), usize::from(PORTS) + 2, "an entry each, closed");
    assert!(loaded.observers.iter().all(|entry| entry.ended.is_some()));
}

#[tokio::test]
async fn an_empty_range_is_an_empty_export_and_a_backward_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = sqlite(folder.path(), "first.db");
    open_and_fill(&first, frames()).await;
    let output = folder.path().join("none");
    let of = |from: &str, to: &str| ExportArgs {
        from: Some(from.to_owned()),
        to: Some(to.to_owned()),
        ..args(&output, None)
    };
    for (from, to, said) in [
        ("2023-11-15", "2023-11-15", "must be after --from"),
        ("2023-11-15", "2023-11-14", "must be after --from"),
        ("then", "2023-11-14", "--from is \"then\", but must be a time"),
    ] {
        let error = exported(&first, &of(from, to)).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(!output.exists());
    }
    let told = exported(&first, &of("2020-01-01", "2020-01-02")).await.unwrap();
    assert!(told.starts_with("0 rows of 0 nodes, "), "{told}");
    let told = imported(&output, &sqlite(folder.path(), "second.db")).await.unwrap();
    assert!(told.starts_with("0 rows of 0 nodes, "), "{told}");
    let missing = exported(&sqlite(folder.path(), "none.db"), &args(&output, None)).await;
    assert!(matches!(missing, Err(ExportError::Occupied { .. } | ExportError::Open(_))));
}
