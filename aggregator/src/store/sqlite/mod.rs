//! The store in an embedded SQLite database.
//!
//! One file in write-ahead mode with `synchronous = FULL`: a commit that returned is on disk. One
//! connection writes; a small pool of read-only ones answers questions and reports
//! ([`SqliteStore::reader`]). A lock file beside the database keeps a second process out, and the
//! `writer` row stops one that got past it.
//!
//! A transaction that fails leaves nothing behind: its connection is closed and the next one
//! opens a new one, so no half-done transaction is ever built on.

mod commit;
mod decode;
mod insert;
mod open;
mod read;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flow::{Counters, Epoch, NodeName, StoreId, UnixNanos};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;

use super::metrics::StoreMetrics;
use super::row::{ChangeSet, EntryNo, FlowRow, GapRow, Identity, Loaded, ObserverRow, WriterToken};
use super::{Backend, CommitError, Meta, OpenError, Progress, Store, StoreError};

pub use super::columns::{FLOW_COLUMNS, OBSERVER_COLUMNS};
pub use super::decode::{flow_row, observer_row};
pub use open::pending;

/// How a database is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The database file; made, with its folder, where it does not exist.
    pub path: PathBuf,
    /// Connections that answer questions.
    pub readers: u32,
    /// The most entries that [`Store::load`] gives: the latest; the others are asked for when they
    /// come back.
    pub most_loaded: u32,
    /// The most pages the file may have, for tests of a full disk; `None` = no limit of ours.
    pub max_pages: Option<u32>,
}

impl SqliteConfig {
    /// Connections that answer questions, unless configured.
    pub const READERS: u32 = 4;

    /// Entries loaded at most, unless configured: as many as counting keeps in memory.
    pub const MOST_LOADED: u32 = 8_000_000;

    /// The usual configuration for this file.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (readers, most_loaded) = (Self::READERS, Self::MOST_LOADED);
        Self { path: path.into(), readers, most_loaded, max_pages: None }
    }
}

/// A store in an SQLite database; clones share it.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    most_loaded: u32,
    store: StoreId,
    options: SqliteConnectOptions,
    writer: Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
    metrics: StoreMetrics,
    /// Held, and with it the lock, until the store is dropped.
    _lock: std::fs::File,
}

impl SqliteStore {
    /// Opens the database, makes it where it does not exist, and brings its schema up to date.
    ///
    /// # Errors
    /// When another process holds it, a newer program made it, or it cannot be used; the message
    /// says what to do.
    pub async fn open(config: &SqliteConfig) -> Result<Self, OpenError> {
        open::open(config).await
    }

    /// Read-only connections for reports. [`flow_row`] and [`observer_row`] decode what
    /// [`FLOW_COLUMNS`] and [`OBSERVER_COLUMNS`] select.
    #[must_use]
    pub fn reader(&self) -> &SqlitePool {
        &self.inner.readers
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Its metrics, to be registered once.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.inner.metrics
    }

    /// Closes all connections: the log is folded into the file. Questions fail from now on.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        if let Some(writer) = self.inner.writer.lock().await.take() {
            let _closed = sqlx::Connection::close(writer).await;
        }
    }
}

impl Backend for SqliteStore {
    fn metrics(&self) -> &StoreMetrics {
        &self.inner.metrics
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}

impl Store for SqliteStore {
    async fn meta(&self) -> Result<Meta, StoreError> {
        Ok(Meta { store: self.inner.store, schema: open::schema_version(self.reader()).await? })
    }

    async fn take_writer(&self, token: WriterToken, now: UnixNanos) -> Result<(), StoreError> {
        self.inner.take_writer(token, now).await
    }

    async fn load(&self, ended_from: UnixNanos) -> Result<Loaded, StoreError> {
        read::load(self.reader(), ended_from, self.inner.most_loaded).await
    }

    async fn commit(&self, token: WriterToken, set: &ChangeSet) -> Result<(), CommitError> {
        self.inner.commit(token, set).await
    }

    async fn progress(
        &self,
        node: &NodeName,
        epoch: Epoch,
    ) -> Result<Option<Progress>, StoreError> {
        read::progress(self.reader(), node, epoch).await
    }

    async fn find(&self, identities: &[Identity]) -> Result<Vec<ObserverRow>, StoreError> {
        read::find(self.reader(), identities).await
    }

    async fn index_views(&self) -> Result<(), StoreError> {
        self.inner.index_views().await
    }

    async fn find_views(&self, hashes: &[i64]) -> Result<Vec<ObserverRow>, StoreError> {
        read::find_views(self.reader(), hashes).await
    }

    async fn history(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> Result<Vec<FlowRow>, StoreError> {
        read::history(self.reader(), entries, from).await
    }

    async fn counted(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> Result<Vec<(EntryNo, Counters)>, StoreError> {
        read::counted(self.reader(), entries, from).await
    }

    async fn gaps(&self, from: UnixNanos, limit: u32) -> Result<Vec<GapRow>, StoreError> {
        read::gaps(self.reader(), from, limit).await
    }
}

/// What an SQLite error means for the one who asked.
enum Meaning {
    /// Waiting helps, or the operator does.
    Away(String),
    /// A value was refused.
    Data(String),
}

/// Sorts an error by what can be done about it, in words for a person.
fn meaning(error: &sqlx::Error) -> Meaning {
    let Some(database) = error.as_database_error() else {
        return match error {
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => {
                Meaning::Data(error.to_string())
            }
            _ => Meaning::Away(format!("the database does not answer: {error}")),
        };
    };
    let code: i32 = database.code().and_then(|code| code.parse().ok()).unwrap_or_default();
    let message = database.message();
    let what = match code & 0xff {
        CONSTRAINT | MISMATCH | TOO_BIG | RANGE => return Meaning::Data(message.to_owned()),
        FULL => "the disk (or the database's size limit) is full; free space, nothing is lost",
        IO_ERROR => "reading or writing the disk failed; look at the kernel log and the disk",
        BUSY | LOCKED => "another process holds the database; stop it",
        READ_ONLY => "the database is read-only; check the file's owner and the mount",
        CANNOT_OPEN => "the database file cannot be opened; check the folder and its owner",
        NO_MEMORY => "SQLite got no memory",
        CORRUPT | NOT_A_DATABASE => "the database is damaged; restore it from a backup",
        _ => "the database refused",
    };
    Meaning::Away(format!("{what} ({message})"))
}

pub(crate) fn store_error(error: &sqlx::Error) -> StoreError {
    match meaning(error) {
        Meaning::Away(text) => StoreError::Unavailable(text),
        Meaning::Data(text) => StoreError::Corrupt(text),
    }
}

// Primary result codes: https://www.sqlite.org/rescode.html
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NO_MEMORY: i32 = 7;
const READ_ONLY: i32 = 8;
const IO_ERROR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANNOT_OPEN: i32 = 14;
const TOO_BIG: i32 = 18;
const CONSTRAINT: i32 = 19;
const MISMATCH: i32 = 20;
const RANGE: i32 = 25;
const NOT_A_DATABASE: i32 = 26;
