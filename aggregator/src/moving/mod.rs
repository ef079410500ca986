//! `migrate-store`: moves a store from SQLite to PostgreSQL, with everything that makes it the
//! same store to its nodes: its name, and what of each epoch is committed.
//!
//! Rows go over in the order they lie in, in transactions of the usual size, so what is in the new
//! database is always the beginning of what is in the old one: counting it says where to go on
//! after an interruption. Until the move is finished the new database is marked, and no aggregator
//! works on it. At the end both are added up and compared; then the new one takes the old one's
//! name. The old one is not changed.

mod source;
mod target;
mod totals;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use flow::UnixNanos;
use thiserror::Error;

use crate::progress::Progress;
use crate::store::postgres::PostgresAddress;
use crate::store::row::ChangeSet;
use crate::store::sqlite::{SqliteConfig, SqliteStore};
use crate::store::{CommitError, OpenError, StoreError};
use source::{Part, Source};
use target::Target;
use totals::Totals;

/// Rows in a transaction.
const ROWS: usize = 10_000;

/// Why a store was not moved, or not to the end.
#[derive(Debug, Error)]
pub enum MoveError {
    /// There is nothing to move.
    #[error("there is no store at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// One of the two cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new database holds something else already.
    #[error("the database {to} {what}; give migrate-store an empty database")]
    Occupied {
        /// The new database.
        to: String,
        /// What it holds.
        what: String,
    },
    /// The old store cannot be read.
    #[error("the old store cannot be read, and the move can be gone on with later")]
    Read(#[source] StoreError),
    /// The new database cannot be asked.
    #[error("the new store cannot be asked; run the same command again to go on")]
    Ask(#[source] StoreError),
    /// The new database did not take rows.
    #[error("the new store did not take {part}; run the same command again to go on")]
    Write {
        /// Which rows.
        part: &'static str,
        /// What it said.
        #[source]
        error: CommitError,
    },
    /// Both hold something else in the end.
    #[error("the two stores differ in {what}: {from} in the old one, {to} in the new one")]
    Differs {
        /// In what.
        what: String,
        /// In the old one.
        from: String,
        /// In the new one.
        to: String,
    },
    /// What was done cannot be told.
    #[error("the outcome cannot be written")]
    Tell(#[from] std::io::Error),
}

/// Moves the store at `from` into the database at `to`, and tells `out` how it went. `now` is the
/// first day that partitions are made ahead for.
///
/// # Errors
/// See [`MoveError`]. What was moved stays; the same call goes on with it.
pub async fn move_store(
    from: &Path,
    to: &PostgresAddress,
    now: UnixNanos,
    out: &mut impl Write,
) -> Result<(), MoveError> {
    if !from.exists() {
        return Err(MoveError::Missing { path: from.to_owned() });
    }
    // Opened as by an aggregator: no other one can be at work on it meanwhile.
    let old = SqliteStore::open(&SqliteConfig::new(from)).await?;
    let source = Source::new(&old).await.map_err(MoveError::Read)?;
    let mut target = Target::open(to, source.store(), now).await?;
    let begun = Instant::now();
    for part in Part::ALL {
        copy(&source, &mut target, part).await?;
    }
    let totals = Totals::of_sqlite(old.reader()).await.map_err(MoveError::Read)?;
    totals.compare(&target.totals().await?)?;
    target.finish(source.store()).await?;
    old.close().await;
    writeln!(
        out,
        "{totals}; both stores agree. Moved in {:.0?}. {to} is store {} now: start the aggregator \
         with it, and keep {} until you have seen it work",
        begun.elapsed(),
        source.store(),
        from.display()
    )?;
    Ok(())
}

/// Copies what is missing of one part.
async fn copy(source: &Source<'_>, target: &mut Target, part: Part) -> Result<(), MoveError> {
    let rows = source.count(part).await.map_err(MoveError::Read)?;
    let mut done = target.count(part).await?;
    let mut progress = Progress::new(part.name(), rows, done);
    let mut cursor = source.after(part, done).await.map_err(MoveError::Read)?;
    loop {
        let set = source.next(part, &mut cursor, ROWS).await.map_err(MoveError::Read)?;
        let size = size(&set);
        if size == 0 {
            break;
        }
        target.write(&set).await.map_err(|error| MoveError::Write { part: part.name(), error })?;
        done += size;
        progress.at(done);
    }
    Ok(())
}

const fn size(set: &ChangeSet) -> u64 {
    let rows = set.advances.len()
        + set.new_nodes.len()
        + set.netns.len()
        + set.observers.len()
        + set.flows.len()
        + set.batches.len()
        + set.gaps.len()
        + set.aliases.len();
    rows as u64
}
