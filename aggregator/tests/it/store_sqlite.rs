//! What only a database in a file does: locks, newer schemas, full disks, what is in the columns.

use aggregator::store::row::FlowRow;
use aggregator::store::sqlite::{FLOW_COLUMNS, SqliteConfig, SqliteStore, flow_row as decode};
use aggregator::store::{CommitError, OpenError, Store};
use flow::{Counters, Seq};
use sqlx::{AssertSqlSafe, Connection, Row};

use crate::rows::{EPOCH, TOKEN, at, counters, first_set, flow_row, name, next_set, observer};

async fn open(config: &SqliteConfig) -> SqliteStore {
    let store = SqliteStore::open(config).await.unwrap();
    store.take_writer(TOKEN, at(0)).await.unwrap();
    store
}

fn config(folder: &tempfile::TempDir) -> SqliteConfig {
    SqliteConfig::new(folder.path().join("new/folder/flows.db"))
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&config(&folder)).await;
    let second = SqliteStore::open(&config(&folder)).await;
    assert!(matches!(second, Err(OpenError::Locked { .. })), "{second:?}");
    drop(first);
    open(&config(&folder)).await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&config(&folder)).await;
    store.close().await;
    drop(store);
    let url = format!("sqlite:{}", config(&folder).path.display());
    let mut raw = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (999, 'from the future', 1, x'00', 0)",
    )
    .execute(&mut raw)
    .await
    .unwrap();
    raw.close().await.unwrap();
    let refused = SqliteStore::open(&config(&folder)).await;
    assert!(matches!(refused, Err(OpenError::Newer { found: 999, .. })), "{refused:?}");
}

#[tokio::test]
async fn what_is_loaded_is_bounded_and_memory_is_told_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&SqliteConfig { most_loaded: 2, ..config(&folder) }).await;
    store.commit(TOKEN, &first_set(1..=4)).await.unwrap();
    let loaded = store.load(at(0)).await.unwrap();
    assert_eq!(loaded.observers, [observer(3), observer(4)], "the latest");
    assert_eq!(loaded.forgotten, Some(observer(2).seen));
    drop(store);
    let store = open(&SqliteConfig { most_loaded: 4, ..config(&folder) }).await;
    let loaded = store.load(at(0)).await.unwrap();
    assert_eq!((loaded.observers.len(), loaded.forgotten), (4, None), "nothing is missing");
}

#[tokio::test]
async fn files_of_others_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    std::fs::write(&path, "this is no database, and it is long enough to show it. ".repeat(100))
        .unwrap();
    let refused = SqliteStore::open(&SqliteConfig::new(&path)).await;
    assert!(matches!(refused, Err(OpenError::Unavailable { .. })), "{refused:?}");

    let path = folder.path().join("cats.db");
    let url = format!("sqlite:{}?mode=rwc", path.display());
    let mut raw = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("CREATE TABLE cats (name TEXT)").execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let refused = SqliteStore::open(&SqliteConfig::new(&path)).await;
    assert!(matches!(refused, Err(OpenError::Unusable { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let mut limited = config(&folder);
    limited.max_pages = Some(100);
    let store = open(&limited).await;
    store.commit(TOKEN, &first_set(1..=10)).await.unwrap();
    let entries: Vec<i64> = (1..=10).collect();
    let mut seq = 1;
    let full = loop {
        seq += 1;
        assert!(seq < 10_000, "the limit never bites");
        let set = next_set(seq, &entries.repeat(100), counters(1));
        if let Err(error) = store.commit(TOKEN, &set).await {
            break error;
        }
    };
    let CommitError::Unavailable(text) = &full else { panic!("{full:?}") };
    assert!(text.contains("full") && text.contains("nothing is lost"), "{text}");
    let progress = store.progress(&name(), EPOCH).await.unwrap().unwrap();
    assert_eq!(progress.committed, Seq(seq - 1));

    // There is room again: the same set goes in.
    drop(store);
    let store = open(&config(&folder)).await;
    let set = next_set(seq, &entries.repeat(100), counters(1));
    store.commit(TOKEN, &set).await.unwrap();
    let sums = store.counted(&[aggregator::store::row::EntryNo(1)], at(0)).await.unwrap();
    let times = (seq - 1) * 100;
    assert_eq!(
        sums[0].1,
        Counters::from_components(counters(1).components().map(|n| n * times)).plus(counters(10))
    );
}

#[tokio::test]
async fn a_store_whose_folder_is_gone_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file/flows.db");
    std::fs::write(folder.path().join("file"), "").unwrap();
    let refused = SqliteStore::open(&SqliteConfig::new(path)).await;
    assert!(matches!(refused, Err(OpenError::Unavailable { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_lock_that_is_held_is_waited_out_by_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&config(&folder)).await;
    store.commit(TOKEN, &first_set(1..=1)).await.unwrap();
    let url = format!("sqlite:{}", config(&folder).path.display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let set = next_set(2, &[1], counters(1));
    let refused = store.commit(TOKEN, &set).await;
    let Err(CommitError::Unavailable(text)) = &refused else { panic!("{refused:?}") };
    assert!(text.contains("another process"), "{text}");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.commit(TOKEN, &set).await.unwrap();
}

#[tokio::test]
async fn rows_come_back_as_they_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&config(&folder)).await;
    let rows: Vec<FlowRow> = (1..=12).map(|entry| flow_row(entry, 1, counters(10))).collect();
    let mut set = first_set(1..=12);
    let stray = FlowRow { stray: Some(at(99)), counted: Counters::ZERO, ..rows[0] };
    set.flows.push(stray);
    store.commit(TOKEN, &set).await.unwrap();
    let sql = format!("SELECT {FLOW_COLUMNS} FROM flow ORDER BY entry");
    let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(store.reader()).await.unwrap();
    assert_eq!(found.iter().map(|row| decode(row).unwrap()).collect::<Vec<_>>(), rows);
    let sql = format!("SELECT {FLOW_COLUMNS}, receipt FROM flow_all WHERE receipt IS NOT NULL");
    let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(store.reader()).await.unwrap();
    assert_eq!(found.iter().map(|row| decode(row).unwrap()).collect::<Vec<_>>(), vec![stray]);

    // The columns as dashboards read them.
    let row = sqlx::query(
        "SELECT time, hex(src), raw_bytes_orig, hex(nat_src), nat_dst, flags, sport, since_slack \
         FROM flow WHERE entry = 1",
    )
    .fetch_one(store.reader())
    .await
    .unwrap();
    assert_eq!(row.get::<i64, _>(0), 1_700_000_010_000_000);
    assert_eq!(row.get::<String, _>(1), "0A000001");
    assert_eq!(row.get::<Option<i64>, _>(2), None, "raw is NULL where it equals counted");
    assert_eq!(row.get::<String, _>(3), "C6336401");
    assert_eq!(row.get::<Option<Vec<u8>>, _>(4), None, "so is what NAT leaves alone");
    assert_eq!(row.get::<i64, _>(5), 0x41_018e);
    assert_eq!((row.get::<i64, _>(6), row.get::<Option<i64>, _>(7)), (1, Some(250)));
}

#[tokio::test]
async fn readers_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&config(&folder)).await;
    let refused = sqlx::query("DELETE FROM node").execute(store.reader()).await;
    assert!(refused.is_err());
}
