//! Connections: how they are made, and how one is lent so that a failed or abandoned use ends it.

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::MutexGuard;

use super::error::{Meaning, meaning, store_error};
use super::partition::Days;
use super::{Inner, PostgresAddress};
use crate::store::StoreError;

/// What one connection's user leaves to the next.
#[derive(Debug)]
pub(super) struct Slot {
    /// The connection, unless somebody has it or it was ended.
    pub(super) connection: Option<PgConnection>,
    /// A transaction whose COMMIT was sent and not answered.
    pub(super) doubt: Option<Transaction>,
    /// Partitions known to be there; `None` where TimescaleDB makes them.
    pub(super) days: Option<Days>,
    /// How many transactions the store counts, as far as this process knows.
    pub(super) commits: Option<i64>,
}

/// A transaction by the server's number for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction(pub(super) String);

/// The connection, for one use. Unless it is given back it is closed, and what it was doing is
/// rolled back by the server.
#[derive(Debug)]
pub(super) struct Lease<'s> {
    pub(super) slot: MutexGuard<'s, Slot>,
    pub(super) connection: PgConnection,
}

impl Lease<'_> {
    /// Gives the connection back: nothing is under way on it.
    pub(super) fn give_back(mut self) {
        self.slot.connection = Some(self.connection);
    }

    /// Gives the connection back where `result` says that its use ended well.
    pub(super) fn done<T>(self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_ok() {
            self.give_back();
        }
        result
    }
}

impl Inner {
    /// Waits for the connection, or makes a new one. Where a COMMIT is in doubt its outcome is
    /// settled first, so that no answer can be overtaken by it.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, StoreError> {
        let mut slot = self.slot.lock().await;
        let mut connection = match slot.connection.take() {
            Some(connection) => connection,
            None => within(CONNECT, connect(&self.address)).await.map_err(away)?,
        };
        if let Some(doubt) = &slot.doubt {
            let outcome =
                within(STATEMENT, settle(&mut connection, doubt)).await.map_err(away)??;
            slot.commits = match outcome {
                Outcome::Committed => slot.commits.map(|commits| commits.saturating_add(1)),
                Outcome::Undone => slot.commits,
                Outcome::Forgotten => None,
            };
            slot.doubt = None;
        }
        Ok(Lease { slot, connection })
    }
}

/// Why something did not happen in its time.
pub(super) enum Failed {
    /// The database said so, or the connection did.
    Database(sqlx::Error),
    /// There was no answer for so long.
    Silent(Duration),
}

impl Failed {
    pub(super) fn meaning(self) -> Meaning {
        match self {
            Self::Database(error) => meaning(&error),
            Self::Silent(limit) => Meaning::Away(format!(
                "the database has not answered for {} s; look at its load, its disk and the \
                 network",
                limit.as_secs()
            )),
        }
    }
}

/// Why a question has no answer.
pub(super) fn away(failed: Failed) -> StoreError {
    match failed {
        Failed::Database(error) => store_error(&error),
        silent @ Failed::Silent(_) => StoreError::Unavailable(silent.meaning().into_text()),
    }
}

/// Waits for `work`, but not for ever: a connection whose other end is gone says nothing.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Failed> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(Failed::Database),
        Err(_elapsed) => Err(Failed::Silent(limit)),
    }
}

/// [`within`] for work that has told already what its errors mean.
pub(super) async fn within_store<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_elapsed) => Err(away(Failed::Silent(limit))),
    }
}

/// How long making a connection may take.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// How long a statement may take, by our clock: more than [`SESSION`] gives it.
pub(super) const STATEMENT: Duration = Duration::from_secs(75);

/// How long one that reads much may take.
pub(super) const SCAN: Duration = Duration::from_secs(3_600);

/// A new connection with our settings.
pub(super) async fn connect(address: &PostgresAddress) -> Result<PgConnection, sqlx::Error> {
    let options = address.options().map_err(|error| sqlx::Error::Configuration(error.into()))?;
    let mut connection = options.connect().await?;
    sqlx::raw_sql(SESSION).execute(&mut connection).await?;
    // Only on systems that can tell; others find out when they answer.
    let _unknown = sqlx::raw_sql("SET client_connection_check_interval = '10s'")
        .execute(&mut connection)
        .await;
    Ok(connection)
}

/// A transaction that is left alone ends, so that a process that hangs does not keep the next one
/// out; the server notices when we are gone. What is acknowledged is on the server's disk: a
/// server told to be quick instead is told otherwise for this session.
const SESSION: &str = "\
    SET statement_timeout = '60s'; \
    SET lock_timeout = '15s'; \
    SET idle_in_transaction_session_timeout = '60s'; \
    SET tcp_keepalives_idle = 30; \
    SET tcp_keepalives_interval = 10; \
    SET tcp_keepalives_count = 3; \
    SET tcp_user_timeout = '60s'; \
    SET client_min_messages = warning; \
    SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') = 'off'";

/// What became of a transaction.
enum Outcome {
    Committed,
    /// It was rolled back, or this server never heard of it.
    Undone,
    /// So long ago that the server does not know any more.
    Forgotten,
}

/// What became of a transaction; an error while it is still in progress. The next try of a set
/// must not find it half-way.
async fn settle(
    connection: &mut PgConnection,
    Transaction(id): &Transaction,
) -> Result<Result<Outcome, StoreError>, sqlx::Error> {
    let status = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)");
    let status: Option<String> = match status.bind(id).fetch_one(&mut *connection).await {
        // A number this server has not reached: it was set back, and knows nothing of it.
        Err(error)
            if error.as_database_error().is_some_and(|e| e.code().as_deref() == Some(FUTURE)) =>
        {
            return Ok(Ok(Outcome::Undone));
        }
        answer => answer?,
    };
    match status.as_deref() {
        Some("committed") => return Ok(Ok(Outcome::Committed)),
        Some("aborted") => return Ok(Ok(Outcome::Undone)),
        Some(_in_progress) => {}
        None => return Ok(Ok(Outcome::Forgotten)),
    }
    // Its connection is gone; whether COMMIT reached the server or not, it ends now.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE backend_xid = $1::text::xid8::xid AND pid <> pg_backend_pid()";
    sqlx::query(end).bind(id).execute(&mut *connection).await?;
    Ok(Err(StoreError::Unavailable(
        "the database has not finished a transaction whose connection was lost".to_owned(),
    )))
}

/// `invalid_parameter_value`, which `pg_xact_status` says of a number not given out yet.
const FUTURE: &str = "22023";

/// Ends a connection in order; it does not matter whether that works.
pub(super) async fn end(connection: PgConnection) {
    let _ended = tokio::time::timeout(CONNECT, connection.close()).await;
}
