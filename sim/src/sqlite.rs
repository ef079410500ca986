//! The product's own SQLite store in a temporary folder, and faults around it.

use std::collections::VecDeque;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aggregator::store::model::Fault;
use aggregator::store::row::{ChangeSet, FrameName, NodeNo, WriterToken};
use aggregator::store::sqlite::{FLOW_COLUMNS, SqliteConfig, SqliteStore, flow_row};
use aggregator::store::{CommitError, Store as _, StoreError};
use flow::{Epoch, Seq, UnixNanos};
use sqlx::{AssertSqlSafe, Row as _};
use wire::frame::Digest;

use crate::book::{Book, Row};

/// A database file; clones share it.
#[derive(Clone)]
pub(crate) struct File(Arc<Inner>);

struct Inner {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As the one process has it open.
    open: Option<SqliteStore>,
    faults: VecDeque<Fault>,
    away: u32,
    commits: u64,
    copies: u32,
}

/// What cannot fail on a machine that can run the simulation.
#[expect(clippy::expect_used, reason = "no world can be lived without a folder and a runtime")]
fn sure<T, E: std::fmt::Debug>(result: Result<T, E>, what: &str) -> T {
    result.expect(what)
}

impl File {
    /// A folder without a database; it is made when it is opened.
    pub(crate) fn new() -> Self {
        let folder = sure(tempfile::tempdir(), "a temporary folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = sure(runtime, "a runtime");
        Self(Arc::new(Inner { folder, runtime, state: Mutex::default() }))
    }

    /// The result of a future of the store.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.runtime.block_on(future)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self) -> PathBuf {
        self.0.folder.path().join("flows.db")
    }

    /// Opens it, unless its process has it open; makes it where it does not exist.
    pub(crate) async fn open(&self) {
        if self.state().open.is_some() {
            return;
        }
        let store = SqliteStore::open(&SqliteConfig::new(self.path())).await;
        let store = sure(store, "a database in a folder of our own");
        self.state().open = Some(store);
    }

    /// The store, for a question; none where it is told to be away.
    pub(crate) fn asked(&self) -> Result<SqliteStore, StoreError> {
        let mut state = self.state();
        let away = || StoreError::Unavailable("the database is told to be away".to_owned());
        if state.away > 0 {
            state.away -= 1;
            return Err(away());
        }
        state.open.clone().ok_or_else(away)
    }

    /// Commits, or does what the next fault says, as the model store does.
    pub(crate) async fn commit(
        &self,
        token: WriterToken,
        set: &ChangeSet,
    ) -> Result<(), CommitError> {
        let (store, fault) = {
            let mut state = self.state();
            let fault = state.faults.pop_front();
            if matches!(fault, Some(Fault::LostAndSilent | Fault::KeptAndSilent)) {
                state.away = state.away.max(1);
            }
            (state.open.clone(), fault)
        };
        let (Some(store), false) = (store, fault == Some(Fault::Unavailable)) else {
            return Err(CommitError::Unavailable("the database is told to be away".to_owned()));
        };
        if matches!(fault, Some(Fault::LostCommit | Fault::LostAndSilent)) {
            return Err(CommitError::Unknown("the commit was lost".to_owned()));
        }
        store.commit(token, set).await?;
        self.state().commits += 1;
        match fault {
            None => Ok(()),
            Some(_) => Err(CommitError::Unknown("the answer was lost".to_owned())),
        }
    }

    pub(crate) fn inject(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    pub(crate) fn leave_unanswered(&self, questions: u32) {
        self.state().away = questions;
    }

    pub(crate) fn commits(&self) -> u64 {
        self.state().commits
    }

    /// The process that had it open is gone.
    pub(crate) fn let_go(&self) {
        let open = self.state().open.take();
        if let Some(store) = open {
            self.wait(store.close());
        }
    }

    /// Copies the file away. Nobody may have it open.
    pub(crate) fn save(&self) -> PathBuf {
        let copy = {
            let mut state = self.state();
            state.copies += 1;
            self.0.folder.path().join(format!("copy-{}.db", state.copies))
        };
        sure(fs::copy(self.path(), &copy), "a copy of the database");
        copy
    }

    /// Puts a copy back. Nobody may have it open.
    pub(crate) fn restore(&self, copy: &Path) {
        for log in ["flows.db-wal", "flows.db-shm"] {
            let _there_is_none = fs::remove_file(self.0.folder.path().join(log));
        }
        sure(fs::copy(copy, self.path()), "a backup put back");
    }

    /// What it holds.
    pub(crate) fn book(&self) -> Book {
        let open = self.state().open.clone();
        let read = self.wait(async {
            match open {
                Some(store) => read(&store).await,
                None => {
                    let store = SqliteStore::open(&SqliteConfig::new(self.path())).await;
                    let store = sure(store, "a database in a folder of our own");
                    let book = read(&store).await;
                    store.close().await;
                    book
                }
            }
        });
        sure(read, "a database that can be read")
    }
}

async fn read(store: &SqliteStore) -> Result<Book, String> {
    let loaded = store.load(UnixNanos(i64::MIN)).await.map_err(|error| error.to_string())?;
    let gaps = store.gaps(UnixNanos(i64::MIN), u32::MAX).await.map_err(|e| e.to_string())?;
    let mut rows = Vec::new();
    for table in ["flow", "flow_stray"] {
        let text = format!("SELECT {FLOW_COLUMNS} FROM {table} f");
        let found = sqlx::query(AssertSqlSafe(text)).fetch_all(store.reader()).await;
        for row in &found.map_err(|error| error.to_string())? {
            let row = flow_row(row).map_err(|error| error.to_string())?;
            let (entry, node, netns) = (row.entry, row.node, row.netns);
            rows.push(Row { entry, node, netns, raw: row.raw, counted: row.counted });
        }
    }
    let mut frames = Vec::new();
    let found = sqlx::query("SELECT node, epoch, seq, digest FROM ingest_batch")
        .fetch_all(store.reader())
        .await;
    for row in &found.map_err(|error| error.to_string())? {
        let frame = || -> Result<_, sqlx::Error> {
            let (node, seq): (i32, i64) = (row.try_get(0)?, row.try_get(2)?);
            let (epoch, digest): (&[u8], &[u8]) = (row.try_get(1)?, row.try_get(3)?);
            let name = FrameName {
                node: NodeNo(node),
                epoch: Epoch(epoch.try_into().unwrap_or_default()),
                seq: Seq(seq.cast_unsigned()),
            };
            Ok((name, Digest(digest.try_into().unwrap_or([0; 32]))))
        };
        frames.push(frame().map_err(|error| error.to_string())?);
    }
    let tables = (&*loaded.nodes, &*loaded.netns, &*loaded.observers);
    Ok(Book::keep(tables, rows.into_iter(), frames.into_iter(), &gaps))
}
