//! The new database while it is filled.

use flow::{StoreId, UnixNanos};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row, query};

use super::MoveError;
use super::source::Part;
use super::totals::Totals;
use crate::store::postgres::{MOVING, PostgresAddress, PostgresStore, session};
use crate::store::row::{ChangeSet, WriterToken};
use crate::store::{CommitError, Store, StoreError};

/// See the module's text.
pub(super) struct Target {
    store: PostgresStore,
    /// For what is no change set.
    side: PgConnection,
    token: WriterToken,
}

impl Target {
    /// Makes the tables where there are none, and marks the database as being filled from the
    /// store `from`.
    pub(super) async fn open(
        to: &PostgresAddress,
        from: StoreId,
        now: UnixNanos,
    ) -> Result<Self, MoveError> {
        let store = PostgresStore::open_to_fill(to).await?;
        let mut side = session(to).await?;
        let occupied = |what: String| MoveError::Occupied { to: to.to_string(), what };
        let marked: Option<String> = query("SELECT value FROM store_meta WHERE key = $1")
            .bind(MOVING)
            .fetch_optional(&mut side)
            .await
            .and_then(|row| row.map(|row| row.try_get(0)).transpose())
            .map_err(asked)?;
        match marked {
            Some(marked) if marked == from.to_string() => {}
            Some(other) => {
                return Err(occupied(format!("is being filled from another store, {other}")));
            }
            None => {
                let nodes = count(&mut side, "node").await.map_err(asked)?;
                if nodes > 0 {
                    return Err(occupied(format!("holds a store of {nodes} nodes already")));
                }
                query("INSERT INTO store_meta (key, value) VALUES ($1, $2)")
                    .bind(MOVING)
                    .bind(from.to_string())
                    .execute(&mut side)
                    .await
                    .map_err(asked)?;
            }
        }
        let token = WriterToken(rand::random());
        store.take_writer(token, now).await.map_err(MoveError::Ask)?;
        Ok(Self { store, side, token })
    }

    /// How many rows of a part are there.
    pub(super) async fn count(&mut self, part: Part) -> Result<u64, MoveError> {
        let count = count(&mut self.side, part.table()).await.map_err(asked)?;
        u64::try_from(count).map_err(|_range| {
            MoveError::Ask(StoreError::Corrupt(format!("{count} rows of {}", part.table())))
        })
    }

    /// Writes rows. Where it is not known whether that happened, the next move counts.
    pub(super) async fn write(&self, set: &ChangeSet) -> Result<(), CommitError> {
        self.store.commit(self.token, set).await
    }

    /// What is in it, added up.
    pub(super) async fn totals(&mut self) -> Result<Totals, MoveError> {
        Totals::of_postgres(&mut self.side).await.map_err(MoveError::Ask)
    }

    /// Gives it the old store's name and takes the mark away: from now on nodes take it for the
    /// old one.
    pub(super) async fn finish(mut self, name: StoreId) -> Result<(), MoveError> {
        let mut transaction = self.side.begin().await.map_err(asked)?;
        for (sql, value) in [
            ("UPDATE store_meta SET value = $1 WHERE key = 'store_id'", name.to_string()),
            ("DELETE FROM store_meta WHERE key = $1", MOVING.to_owned()),
        ] {
            query(sql).bind(value).execute(&mut *transaction).await.map_err(asked)?;
        }
        transaction.commit().await.map_err(asked)?;
        self.store.close().await;
        let _closed = self.side.close().await;
        Ok(())
    }
}

fn asked(error: sqlx::Error) -> MoveError {
    MoveError::Ask(StoreError::Unavailable(error.to_string()))
}

/// Rows of a table of ours.
async fn count(side: &mut PgConnection, table: &'static str) -> Result<i64, sqlx::Error> {
    query(AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
        .persistent(false)
        .fetch_one(side)
        .await?
        .try_get(0)
}
