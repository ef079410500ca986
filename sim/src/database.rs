//! The database of a world: a model in memory, or a real SQLite file. Both fail when they are
//! told to, are backed up and put back, and are replaced by another one.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use aggregator::store::model::{Backup, Fault, ModelStore};
use aggregator::store::row::{
    ChangeSet, EntryNo, FlowRow, GapRow, Identity, Loaded, ObserverRow, WriterToken,
};
use aggregator::store::{CommitError, Meta, Progress, Store, StoreError};
use flow::{Counters, Epoch, NodeName, StoreId, UnixNanos};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::book::Book;
use crate::sqlite::File;

/// See the module; clones share it, as processes share a database.
#[derive(Clone)]
pub(crate) enum Database {
    Model(ModelStore),
    Sqlite(File),
}

/// What it was at some moment.
pub(crate) enum Saved {
    Model(Box<Backup>),
    Sqlite(std::path::PathBuf),
}

impl Database {
    /// A new one in memory.
    pub(crate) fn model(rng: &mut SmallRng) -> Self {
        Self::Model(ModelStore::new(StoreId(rng.random())))
    }

    /// Another one of the same kind, empty, with a name of its own.
    pub(crate) fn another(&self, rng: &mut SmallRng) -> Self {
        match self {
            Self::Model(_) => Self::model(rng),
            Self::Sqlite(_) => Self::Sqlite(File::new()),
        }
    }

    /// Its process opens it.
    pub(crate) async fn open(&self) {
        if let Self::Sqlite(file) = self {
            file.open().await;
        }
    }

    /// The result of one of its futures, or of one made of them.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        match self {
            Self::Model(_) => ready(future),
            Self::Sqlite(file) => file.wait(future),
        }
    }

    /// Makes the next commits go wrong.
    pub(crate) fn inject(&self, fault: Fault) {
        match self {
            Self::Model(model) => model.inject([fault]),
            Self::Sqlite(file) => file.inject(fault),
        }
    }

    /// Leaves so many questions without an answer.
    pub(crate) fn leave_unanswered(&self, questions: u32) {
        match self {
            Self::Model(model) => model.leave_unanswered(questions),
            Self::Sqlite(file) => file.leave_unanswered(questions),
        }
    }

    /// Transactions committed.
    pub(crate) fn commits(&self) -> u64 {
        match self {
            Self::Model(model) => model.with_contents(|contents| contents.commits),
            Self::Sqlite(file) => file.commits(),
        }
    }

    /// Its process has died: whatever it held open is gone.
    pub(crate) fn let_go(&self) {
        if let Self::Sqlite(file) = self {
            file.let_go();
        }
    }

    /// A backup. Nobody may have it open.
    pub(crate) fn save(&self) -> Saved {
        match self {
            Self::Model(model) => Saved::Model(Box::new(model.back_up())),
            Self::Sqlite(file) => Saved::Sqlite(file.save()),
        }
    }

    /// Puts a backup of it back. Nobody may have it open.
    pub(crate) fn restore(&self, saved: &Saved) {
        match (self, saved) {
            (Self::Model(model), Saved::Model(backup)) => model.restore(backup),
            (Self::Sqlite(file), Saved::Sqlite(copy)) => file.restore(copy),
            _ => {}
        }
    }

    /// What it holds, as far as a world is judged by it.
    pub(crate) fn book(&self) -> Book {
        match self {
            Self::Model(model) => model.with_contents(Book::of),
            Self::Sqlite(file) => file.book(),
        }
    }
}

/// The result of a future that never waits, as all of the model store are.
#[expect(clippy::panic, reason = "a model store that waits is a defect of the simulation")]
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the model store's futures are always ready"),
    }
}

impl Store for Database {
    async fn meta(&self) -> Result<Meta, StoreError> {
        match self {
            Self::Model(store) => store.meta().await,
            Self::Sqlite(file) => file.asked()?.meta().await,
        }
    }

    async fn take_writer(&self, token: WriterToken, now: UnixNanos) -> Result<(), StoreError> {
        match self {
            Self::Model(store) => store.take_writer(token, now).await,
            Self::Sqlite(file) => file.asked()?.take_writer(token, now).await,
        }
    }

    async fn load(&self, ended_from: UnixNanos) -> Result<Loaded, StoreError> {
        match self {
            Self::Model(store) => store.load(ended_from).await,
            Self::Sqlite(file) => file.asked()?.load(ended_from).await,
        }
    }

    async fn commit(&self, token: WriterToken, set: &ChangeSet) -> Result<(), CommitError> {
        match self {
            Self::Model(store) => store.commit(token, set).await,
            Self::Sqlite(file) => file.commit(token, set).await,
        }
    }

    async fn progress(
        &self,
        node: &NodeName,
        epoch: Epoch,
    ) -> Result<Option<Progress>, StoreError> {
        match self {
            Self::Model(store) => store.progress(node, epoch).await,
            Self::Sqlite(file) => file.asked()?.progress(node, epoch).await,
        }
    }

    async fn find(&self, identities: &[Identity]) -> Result<Vec<ObserverRow>, StoreError> {
        match self {
            Self::Model(store) => store.find(identities).await,
            Self::Sqlite(file) => file.asked()?.find(identities).await,
        }
    }

    async fn index_views(&self) -> Result<(), StoreError> {
        match self {
            Self::Model(store) => store.index_views().await,
            Self::Sqlite(file) => file.asked()?.index_views().await,
        }
    }

    async fn find_views(&self, hashes: &[i64]) -> Result<Vec<ObserverRow>, StoreError> {
        match self {
            Self::Model(store) => store.find_views(hashes).await,
            Self::Sqlite(file) => file.asked()?.find_views(hashes).await,
        }
    }

    async fn history(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> Result<Vec<FlowRow>, StoreError> {
        match self {
            Self::Model(store) => store.history(entries, from).await,
            Self::Sqlite(file) => file.asked()?.history(entries, from).await,
        }
    }

    async fn counted(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> Result<Vec<(EntryNo, Counters)>, StoreError> {
        match self {
            Self::Model(store) => store.counted(entries, from).await,
            Self::Sqlite(file) => file.asked()?.counted(entries, from).await,
        }
    }

    async fn gaps(&self, from: UnixNanos, limit: u32) -> Result<Vec<GapRow>, StoreError> {
        match self {
            Self::Model(store) => store.gaps(from, limit).await,
            Self::Sqlite(file) => file.asked()?.gaps(from, limit).await,
        }
    }
}
