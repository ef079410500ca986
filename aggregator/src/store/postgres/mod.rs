//! The store in a PostgreSQL database, with or without TimescaleDB.
//!
//! One connection does everything: the pipeline commits or asks, never both at once, and a server
//! with few connections has one for us. It is lent to one use at a time. A use that fails, or
//! whose caller gives up, closes it, so no half-done transaction is ever built on; the next use
//! makes a new one.
//!
//! Rows go in by `COPY ... (FORMAT binary)` into day partitions that are made ahead. Exactly once
//! rests on two rows, as in [every store](super); here the writer's row is locked by each
//! transaction as well, so that a process that takes over waits for the one it replaces. Where the
//! answer to COMMIT is lost, nothing is asked or written until the server says that the
//! transaction has ended.

mod address;
mod commit;
mod connect;
mod copy;
mod error;
mod layout;
mod open;
mod partition;
mod read;
mod tables;
mod value;

use std::sync::Arc;

use flow::{Counters, Epoch, NodeName, StoreId, UnixNanos};
use tokio::sync::Mutex;

use super::metrics::StoreMetrics;
use super::row::{ChangeSet, EntryNo, FlowRow, GapRow, Identity, Loaded, ObserverRow, WriterToken};
use super::{Backend, CommitError, Meta, OpenError, Progress, Store, StoreError};
use connect::{SCAN, STATEMENT, Slot, within_store};

pub use address::{AddressError, PostgresAddress, Secret};
pub use layout::Layout;
pub(crate) use open::{MOVING, session};
pub use open::{Pending, pending};
pub(crate) use value::Time;

/// Entries that [`Store::load`] gives at most: as many as counting keeps in memory.
const MOST_LOADED: u32 = 8_000_000;

/// A store in a PostgreSQL database; clones share it.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: PostgresAddress,
    store: StoreId,
    layout: Layout,
    slot: Mutex<Slot>,
    metrics: StoreMetrics,
}

impl PostgresStore {
    /// Connects to the database and brings its schema up to date.
    ///
    /// # Errors
    /// When it cannot be reached, a newer program made it, or it cannot be used; the message says
    /// what to do.
    pub async fn open(address: &PostgresAddress) -> Result<Self, OpenError> {
        open::open(address).await
    }

    /// Connects to a database that another store is to be moved to: brings its schema up to date,
    /// and does not mind that it is half filled.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub(crate) async fn open_to_fill(address: &PostgresAddress) -> Result<Self, OpenError> {
        open::open_to_fill(address).await
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &PostgresAddress {
        &self.inner.address
    }

    /// How its flows are laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.inner.layout
    }

    /// Its metrics, to be registered once.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.inner.metrics
    }

    /// Ends the connection in order. The next question would make a new one.
    pub async fn close(&self) {
        if let Some(connection) = self.inner.slot.lock().await.connection.take() {
            connect::end(connection).await;
        }
    }
}

impl Backend for PostgresStore {
    fn metrics(&self) -> &StoreMetrics {
        &self.inner.metrics
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}

impl Store for PostgresStore {
    async fn meta(&self) -> Result<Meta, StoreError> {
        let mut lease = self.inner.lease().await?;
        let schema = connect::within(STATEMENT, read::schema_version(&mut lease.connection)).await;
        let schema = lease.done(schema.map_err(connect::away))?;
        Ok(Meta { store: self.inner.store, schema })
    }

    async fn take_writer(&self, token: WriterToken, now: UnixNanos) -> Result<(), StoreError> {
        self.inner.take_writer(token, now).await
    }

    async fn load(&self, ended_from: UnixNanos) -> Result<Loaded, StoreError> {
        let mut lease = self.inner.lease().await?;
        let loaded =
            within_store(SCAN, read::load(&mut lease.connection, ended_from, MOST_LOADED)).await;
        lease.done(loaded)
    }

    async fn commit(&self, token: WriterToken, set: &ChangeSet) -> Result<(), CommitError> {
        self.inner.commit(token, set).await
    }

    async fn progress(
        &self,
        node: &NodeName,
        epoch: Epoch,
    ) -> Result<Option<Progress>, StoreError> {
        let mut lease = self.inner.lease().await?;
        let asked = read::progress(&mut lease.connection, node, epoch);
        let progress = within_store(STATEMENT, asked).await;
        lease.done(progress)
    }

    async fn find(&self, identities: &[Identity]) -> Result<Vec<ObserverRow>, StoreError> {
        let mut lease = self.inner.lease().await?;
        let found = within_store(SCAN, read::find(&mut lease.connection, identities)).await;
        lease.done(found)
    }

    async fn index_views(&self) -> Result<(), StoreError> {
        let mut lease = self.inner.lease().await?;
        let made = within_store(SCAN, read::index_views(&mut lease.connection)).await;
        lease.done(made)
    }

    async fn find_views(&self, hashes: &[i64]) -> Result<Vec<ObserverRow>, StoreError> {
        let mut lease = self.inner.lease().await?;
        let found = within_store(SCAN, read::find_views(&mut lease.connection, hashes)).await;
        lease.done(found)
    }

    async fn history(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> Result<Vec<FlowRow>, StoreError> {
        let mut lease = self.inner.lease().await?;
        let asked = read::history(&mut lease.connection, entries, from);
        let rows = within_store(SCAN, asked).await;
        lease.done(rows)
    }

    async fn counted(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> Result<Vec<(EntryNo, Counters)>, StoreError> {
        let mut lease = self.inner.lease().await?;
        let asked = read::counted(&mut lease.connection, entries, from);
        let counted = within_store(SCAN, asked).await;
        lease.done(counted)
    }

    async fn gaps(&self, from: UnixNanos, limit: u32) -> Result<Vec<GapRow>, StoreError> {
        let mut lease = self.inner.lease().await?;
        let gaps = within_store(STATEMENT, read::gaps(&mut lease.connection, from, limit)).await;
        lease.done(gaps)
    }
}
