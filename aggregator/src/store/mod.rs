//! The store: what was counted, each change set exactly once.
//!
//! [`Store`] is the contract; [`sqlite::SqliteStore`] keeps it in an embedded database,
//! [`postgres::PostgresStore`] in a server's, [`model::ModelStore`] in memory, for simulation and
//! as the oracle of the conformance suite, which is written once against the trait.
//!
//! Exactly once rests on two rows. `node_epoch` holds the last committed number of each (node,
//! epoch) and is moved on by the transaction that writes a set's rows: a set that was committed
//! before, or out of order, changes nothing ([`CommitError::Conflict`]). `writer` holds the token
//! of the one process that may write: another process finds itself replaced and stops
//! ([`CommitError::OtherWriter`]).

pub mod columns;
pub mod decode;
pub mod metrics;
mod migrations;
pub mod model;
pub mod postgres;
pub mod row;
pub mod sqlite;

use std::future::Future;

use flow::{Counters, Epoch, NodeName, Seq, StoreId, UnixNanos};
use thiserror::Error;
use wire::frame::Digest;

use metrics::StoreMetrics;
use row::{
    ChangeSet, EntryNo, FlowRow, FrameName, GapRow, Identity, Loaded, NodeNo, ObserverRow,
    WriterToken,
};

/// The newest schema this program knows: the number of its last migration.
pub const SCHEMA_VERSION: i64 = 1;

/// What a store says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its name, drawn by its first migration.
    pub store: StoreId,
    /// The migration it is at.
    pub schema: i64,
}

/// Progress of one (node, epoch), as committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last committed number.
    pub committed: Seq,
    /// The digest of that frame.
    pub digest: Digest,
}

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error(
        "another process has the database {path} open for writing; stop it, or give this one \
         another --store"
    )]
    Locked {
        /// The database.
        path: String,
    },
    /// Made by a newer program.
    #[error(
        "the database {path} has schema {found}, this program knows {known} at most; start the \
         newer conntracct-aggregator that made it, or give this one another --store"
    )]
    Newer {
        /// The database.
        path: String,
        /// Its schema.
        found: i64,
        /// [`SCHEMA_VERSION`].
        known: i64,
    },
    /// It is there, but it is not ours or is damaged.
    #[error("the database {path} cannot be used: {why}")]
    Unusable {
        /// The database.
        path: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// It cannot be reached or written.
    #[error("the database {path} cannot be opened: {why}")]
    Unavailable {
        /// The database.
        path: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// Why a question was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The store cannot be asked now; waiting helps, or the operator does.
    #[error("{0}")]
    Unavailable(String),
    /// The store answers with something that cannot be: damage, or a defect.
    #[error("the store holds something impossible: {0}")]
    Corrupt(String),
}

/// What became of a change set that is not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// Another process took over: this one must stop.
    #[error(
        "another aggregator has taken this store over; stop one of the two (this one stops \
         writing now)"
    )]
    OtherWriter,
    /// The database is another than it was left: this process must stop. Nothing was written.
    #[error(
        "the database is not as this process left it (a backup was restored?); what is in it must \
         be read again"
    )]
    SetBack,
    /// A (node, epoch) is not where the set begins. Nothing was written.
    #[error("frames from number {first} of epoch {epoch} do not follow what is committed")]
    Conflict {
        /// The node.
        node: NodeNo,
        /// The epoch.
        epoch: Epoch,
        /// First number of the set.
        first: Seq,
        /// What is committed, if anything.
        committed: Option<Progress>,
    },
    /// The store could not do it now. Nothing was written.
    #[error("{0}")]
    Unavailable(String),
    /// COMMIT was sent and its outcome is not known: ask [`Store::progress`].
    #[error("the outcome of a commit is unknown: {0}")]
    Unknown(String),
    /// A value cannot be stored. Nothing was written.
    #[error("data that cannot be stored: {reason}")]
    Data {
        /// The frame it came in, where the store can tell.
        frame: Option<FrameName>,
        /// What is wrong with it.
        reason: String,
    },
}

/// A store that a process opens, and closes when it ends.
pub trait Backend: Store + Clone {
    /// Its metrics, to be registered once.
    fn metrics(&self) -> &StoreMetrics;

    /// Closes its connections in order. Nothing may be asked afterwards.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// A store of counted flows.
pub trait Store: Send + Sync + 'static {
    /// Its name and schema.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn meta(&self) -> impl Future<Output = Result<Meta, StoreError>> + Send;

    /// Makes `token` the one that may write; every earlier one stops at its next commit.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn take_writer(
        &self,
        token: WriterToken,
        now: UnixNanos,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Everything needed to start counting: nodes, namespaces, progress, and the entries that are
    /// open or ended at or after `ended_from`, as many as memory has room for, the latest ones.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn load(
        &self,
        ended_from: UnixNanos,
    ) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Writes a change set in one transaction, if `token` still may write and every (node, epoch)
    /// is where the set begins.
    ///
    /// # Errors
    /// See [`CommitError`]; but for [`CommitError::Unknown`], nothing was written.
    fn commit(
        &self,
        token: WriterToken,
        set: &ChangeSet,
    ) -> impl Future<Output = Result<(), CommitError>> + Send;

    /// What is committed of a (node, epoch), `None` where nothing is.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn progress(
        &self,
        node: &NodeName,
        epoch: Epoch,
    ) -> impl Future<Output = Result<Option<Progress>, StoreError>> + Send;

    /// The entries of these identities, as far as they exist. Order and absences are up to the
    /// store.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn find(
        &self,
        identities: &[Identity],
    ) -> impl Future<Output = Result<Vec<ObserverRow>, StoreError>> + Send;

    /// Makes entries quick to find by their views ([`Store::find_views`]), which nobody needs
    /// while every flow has one observer. Done once for a store; it may take a while then.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn index_views(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The entries with a view of one of these hashes ([`row::view_hash`]), ended or not.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn find_views(
        &self,
        hashes: &[i64],
    ) -> impl Future<Output = Result<Vec<ObserverRow>, StoreError>> + Send;

    /// All rows of these entries with a time at or after `from`, strays included. One scan,
    /// whatever their number.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn history(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> impl Future<Output = Result<Vec<FlowRow>, StoreError>> + Send;

    /// W of these entries: what folded rows had counted plus the raw growth of all rows with a
    /// time at or after `from`, strays included. One scan, whatever their number.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn counted(
        &self,
        entries: &[EntryNo],
        from: UnixNanos,
    ) -> impl Future<Output = Result<Vec<(EntryNo, Counters)>, StoreError>> + Send;

    /// Gaps received at or after `from`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn gaps(
        &self,
        from: UnixNanos,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<GapRow>, StoreError>> + Send;
}
