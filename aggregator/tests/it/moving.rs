//! `migrate-store`: from SQLite to a real PostgreSQL.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;

use aggregator::count::{CounterConfig, Frame};
use aggregator::moving::{MoveError, move_store};
use aggregator::pipeline::commit::{Committer, Work};
use aggregator::store::postgres::{PostgresAddress, PostgresStore};
use aggregator::store::row::WriterToken;
use aggregator::store::sqlite::{SqliteConfig, SqliteStore};
use aggregator::store::{OpenError, Store};
use flow::{Epoch, Seq, UnixNanos};
use testdb::{DATABASE, Server};

use crate::frames::{batch, ended, gap, node, record, unix};

const EPOCH: Epoch = Epoch([9; 16]);

/// Flows of each interval: more in all than a transaction takes.
const PORTS: u16 = 6_000;

fn frames() -> Vec<Frame> {
    let port = |n: u16| 1_000 + n;
    let first = (0..PORTS).map(|n| record(port(n), 5, 19, 0, 10)).collect();
    let second = (0..PORTS).map(|n| record(port(n), 5, 29, 10, 25)).collect();
    let mut third: Vec<_> = (0..PORTS / 2).map(|n| ended(record(port(n), 5, 39, 25, 30))).collect();
    // A time far ahead of its receipt: stray.
    third.push(record(port(PORTS), 5, 90_000, 0, 7));
    vec![
        batch(EPOCH, 1, 20, first),
        batch(EPOCH, 2, 30, second),
        gap(EPOCH, 3, 4, 35),
        batch(EPOCH, 5, 40, third),
    ]
}

/// A SQLite store with all of it.
async fn old(folder: &Path) -> PathBuf {
    let path = folder.join("flows.db");
    let store = SqliteStore::open(&SqliteConfig::new(&path)).await.unwrap();
    let mut committer = start(store.clone()).await;
    let mut work = Work { todo: frames(), ..Work::default() };
    committer.run(&mut work).await.unwrap();
    store.close().await;
    path
}

async fn start<S: Store>(store: S) -> Committer<S> {
    let (token, config) = (WriterToken([1; 16]), CounterConfig::default());
    Committer::start(store, token, config, unix(100)).await.unwrap()
}

fn address(server: &Server) -> PostgresAddress {
    PostgresAddress::parse(&server.url()).unwrap()
}

async fn moved(from: &Path, to: &PostgresAddress) -> Result<String, MoveError> {
    let mut told = Vec::new();
    move_store(from, to, unix(100), &mut told).await?;
    Ok(String::from_utf8(told).unwrap())
}

#[tokio::test]
async fn nodes_go_on_with_the_moved_store_as_if_nothing_had_happened() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start().unwrap());
    let path = old(folder.path()).await;
    let sqlite = SqliteStore::open(&SqliteConfig::new(&path)).await.unwrap();
    let (meta, loaded) =
        (sqlite.meta().await.unwrap(), sqlite.load(UnixNanos::default()).await.unwrap());
    sqlite.close().await;
    drop(sqlite);

    let told = moved(&path, &address(&server)).await.unwrap();
    assert!(told.contains("6001 entries") && told.contains("both stores agree"), "{told}");

    let days = "SELECT count(*) FROM pg_class WHERE relname LIKE 'flow_p1970%'";
    assert_eq!(server.sql(DATABASE, days).unwrap().trim(), "0", "days that nobody lives in");

    let store = PostgresStore::open(&address(&server)).await.unwrap();
    assert_eq!(store.meta().await.unwrap().store, meta.store, "nodes know it by its name");
    assert_eq!(store.load(UnixNanos::default()).await.unwrap(), loaded);
    let progress = store.progress(&node(), EPOCH).await.unwrap().unwrap();
    assert_eq!(progress.committed, Seq(5));

    // The next frame: counted above what was moved, and only that.
    let mut committer = start(store.clone()).await;
    let records = vec![record(1_000 + PORTS - 1, 5, 49, 25, 31)];
    let mut work = Work { todo: vec![batch(EPOCH, 6, 50, records)], ..Work::default() };
    committer.run(&mut work).await.unwrap();
    store.close().await;
    let sums = "SELECT count(*), sum(packets_orig) FROM flow_all";
    let rows = 2 * u64::from(PORTS) + u64::from(PORTS / 2) + 2;
    let packets = 30 * u64::from(PORTS / 2) + 25 * (u64::from(PORTS / 2) - 1) + 31 + 7;
    assert_eq!(server.sql(DATABASE, sums).unwrap().trim(), format!("{rows}|{packets}"));
}

#[tokio::test]
async fn an_interrupted_move_goes_on_and_nothing_works_on_half_a_store() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start().unwrap());
    let path = old(folder.path()).await;
    let address = address(&server);
    let rows = || server.sql(DATABASE, "SELECT count(*) FROM flow").unwrap_or_default();
    {
        let mut told = Vec::new();
        let mut moving = pin!(move_store(&path, &address, unix(100), &mut told));
        // Polled until some rows are over, and then never again.
        std::future::poll_fn(|cx| match moving.as_mut().poll(cx) {
            Poll::Ready(done) => panic!("moved before it could be interrupted: {done:?}"),
            Poll::Pending if rows().trim().parse::<u64>().is_ok_and(|rows| rows > 0) => {
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        })
        .await;
    }
    let half = PostgresStore::open(&address).await;
    assert!(
        matches!(&half, Err(OpenError::Unusable { why, .. }) if why.contains("migrate-store")),
        "{half:?}"
    );
    let told = moved(&path, &address).await.unwrap();
    assert!(told.contains("both stores agree"), "{told}");
    PostgresStore::open(&address).await.unwrap().close().await;
}

#[tokio::test]
async fn a_database_in_use_and_a_store_that_is_not_there_are_refused() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start().unwrap());
    let address = address(&server);
    let missing = moved(&folder.path().join("none.db"), &address).await;
    assert!(matches!(missing, Err(MoveError::Missing { .. })), "{missing:?}");

    let store = PostgresStore::open(&address).await.unwrap();
    let mut committer = start(store.clone()).await;
    let mut work = Work { todo: frames(), ..Work::default() };
    committer.run(&mut work).await.unwrap();
    store.close().await;
    let path = old(folder.path()).await;
    let occupied = moved(&path, &address).await.unwrap_err();
    assert!(occupied.to_string().contains("holds a store of 1 nodes already"), "{occupied}");

    // An aggregator at work on the old one.
    let held = SqliteStore::open(&SqliteConfig::new(&path)).await.unwrap();
    let locked = moved(&path, &address).await;
    assert!(matches!(locked, Err(MoveError::Open(OpenError::Locked { .. }))), "{locked:?}");
    held.close().await;
}
