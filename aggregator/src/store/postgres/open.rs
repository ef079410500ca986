//! Opening a database: schema, layout, what the server is.

use std::sync::Arc;

use flow::StoreId;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnection;
use sqlx::{Row, query};
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::connect::{self, CONNECT, Failed, SCAN, STATEMENT, Slot, within};
use super::error::{Meaning, meaning};
use super::layout::{Decision, Layout, Timescale, decide};
use super::partition::Days;
use super::read::schema_version;
use super::{Inner, PostgresAddress, PostgresStore};
use crate::store::metrics::StoreMetrics;
use crate::store::{OpenError, SCHEMA_VERSION, migrations};

/// The oldest server whose statements all of this is made of.
const OLDEST_SERVER: u32 = 140_000;

/// What [`pending`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The schema that is there, `None` where there is none.
    pub found: Option<i64>,
    /// What the layout of the tables is, or would be, and why.
    pub layout: String,
}

/// The key of `store_meta` that holds the name of the store that is being moved here.
pub(crate) const MOVING: &str = "moving_from";

pub(super) async fn open(address: &PostgresAddress) -> Result<PostgresStore, OpenError> {
    let name = address.url();
    let mut connection = session(address).await?;
    migrate(&mut connection, name).await?;
    let moving = query("SELECT 1 FROM store_meta WHERE key = $1").bind(MOVING);
    let moving = moving.fetch_optional(&mut connection).await.map_err(|e| failed(name, &e))?;
    if moving.is_some() {
        let why = "another store is being moved here and not all of it has arrived; run \
                   conntracct-aggregator migrate-store again, it goes on where it was";
        return Err(unusable(name, why));
    }
    store(connection, address).await
}

/// Opens a database that a store is being moved to, or is to be.
pub(super) async fn open_to_fill(address: &PostgresAddress) -> Result<PostgresStore, OpenError> {
    let mut connection = session(address).await?;
    migrate(&mut connection, address.url()).await?;
    store(connection, address).await
}

async fn store(
    mut connection: PgConnection,
    address: &PostgresAddress,
) -> Result<PostgresStore, OpenError> {
    let name = address.url();
    let (store, layout) = read_meta(&mut connection, name).await?;
    warn_of_risks(&mut connection, name).await?;
    let inner = Inner {
        address: address.clone(),
        store,
        layout,
        slot: Mutex::new(Slot {
            connection: Some(connection),
            doubt: None,
            days: (layout == Layout::Native).then(Days::default),
            commits: None,
        }),
        metrics: StoreMetrics::default(),
    };
    Ok(PostgresStore { inner: Arc::new(inner) })
}

/// What opening the database would do to its schema; nothing is changed.
///
/// # Errors
/// When it cannot be reached, or is none of ours.
pub async fn pending(address: &PostgresAddress) -> Result<Pending, OpenError> {
    let name = address.url();
    let mut connection = session(address).await?;
    let found = schema(&mut connection, name).await?;
    let layout = if found.is_some() {
        read_meta(&mut connection, name).await?.1.to_string()
    } else {
        let Decision { layout, why } = decision(&mut connection, name).await?;
        format!("{layout} ({why})")
    };
    connect::end(connection).await;
    Ok(Pending { found, layout })
}

/// A new connection of somebody's own, with our settings.
///
/// # Errors
/// When the server cannot be reached, does not let us in, or is too old.
pub(crate) async fn session(address: &PostgresAddress) -> Result<PgConnection, OpenError> {
    let name = address.url();
    let connection = within(CONNECT, connect::connect(address)).await;
    let connection = connection.map_err(|failed| unavailable(name, failed))?;
    match connection.server_version_num() {
        Some(version) if version < OLDEST_SERVER => Err(OpenError::Unusable {
            path: name.to_owned(),
            why: format!(
                "its server is PostgreSQL {}, and {} is the oldest that will do",
                version / 10_000,
                OLDEST_SERVER / 10_000
            ),
        }),
        _ => Ok(connection),
    }
}

fn unavailable(name: &str, failed: Failed) -> OpenError {
    OpenError::Unavailable { path: name.to_owned(), why: failed.meaning().into_text() }
}

fn failed(name: &str, error: &sqlx::Error) -> OpenError {
    OpenError::Unavailable { path: name.to_owned(), why: meaning(error).into_text() }
}

fn unusable(name: &str, why: impl Into<String>) -> OpenError {
    OpenError::Unusable { path: name.to_owned(), why: why.into() }
}

/// The schema that is there: `None` where there are no tables of ours.
async fn schema(connection: &mut PgConnection, name: &str) -> Result<Option<i64>, OpenError> {
    let tables = query(
        "SELECT to_regclass('_sqlx_migrations') IS NOT NULL, to_regclass('store_meta') IS NOT NULL",
    );
    let tables = tables.fetch_one(&mut *connection).await.map_err(|e| failed(name, &e))?;
    let there = |at: usize| tables.try_get::<bool, _>(at).map_err(|e| failed(name, &e));
    match (there(0)?, there(1)?) {
        (false, _) => Ok(None),
        (true, true) => {
            let found = schema_version(connection).await.map_err(|e| failed(name, &e))?;
            Ok((found > 0).then_some(found))
        }
        (true, false) => {
            let found = schema_version(connection).await.map_err(|e| failed(name, &e))?;
            if found == 0 {
                // Somebody was stopped between making the list and the first migration.
                return Ok(None);
            }
            Err(unusable(
                name,
                "it holds the tables of another program; give conntracct a database of its own",
            ))
        }
    }
}

/// Brings the schema up to date. One that is so already is not touched: a role that may not
/// create tables can go on with it.
async fn migrate(connection: &mut PgConnection, name: &str) -> Result<(), OpenError> {
    let found = schema(connection, name).await?;
    if let Some(found) = found.filter(|found| *found > SCHEMA_VERSION) {
        return Err(OpenError::Newer { path: name.to_owned(), found, known: SCHEMA_VERSION });
    }
    if found == Some(SCHEMA_VERSION) {
        return Ok(());
    }
    if found.is_none() {
        let Decision { layout, why } = decision(connection, name).await?;
        info!(%layout, why, "making the tables");
        query("SELECT set_config('conntracct.layout', $1, false)")
            .bind(layout.word())
            .execute(&mut *connection)
            .await
            .map_err(|e| failed(name, &e))?;
    }
    // Whoever else migrates is waited for, and what a migration does may take its time.
    let patient = "SET statement_timeout = 0; SET lock_timeout = '10min'";
    let hasty = "SET statement_timeout = '60s'; SET lock_timeout = '15s'";
    raw(connection, patient).await.map_err(|e| failed(name, &e))?;
    let migrator = migrations::migrator(migrations::POSTGRES);
    let run = tokio::time::timeout(SCAN, migrator.run(&mut *connection)).await;
    match run {
        Err(_elapsed) => Err(unavailable(name, Failed::Silent(SCAN))),
        Ok(Err(error)) => Err(unmigrated(connection, name, &error).await),
        Ok(Ok(())) => raw(connection, hasty).await.map_err(|e| failed(name, &e)),
    }
}

async fn raw(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await.map(|_done| ())
}

/// Why a migration failed. A missing privilege is named with the statement that grants it.
async fn unmigrated(connection: &mut PgConnection, name: &str, error: &MigrateError) -> OpenError {
    let inner = match error {
        MigrateError::Execute(inner) | MigrateError::ExecuteMigration(inner, _) => inner,
        other => {
            return unusable(name, format!("its schema cannot be brought up to date ({other})"));
        }
    };
    let code = inner.as_database_error().and_then(|e| e.code().map(std::borrow::Cow::into_owned));
    if code.as_deref() == Some(NO_PRIVILEGE) {
        let who = query("SELECT current_user::text, coalesce(current_schema(), 'public')::text");
        if let Ok(row) = who.fetch_one(connection).await
            && let (Ok(user), Ok(schema)) =
                (row.try_get::<String, _>(0), row.try_get::<String, _>(1))
        {
            return unusable(
                name,
                format!(
                    "the role {user} may not make tables in the schema {schema}; as the \
                     database's owner run: GRANT USAGE, CREATE ON SCHEMA \"{schema}\" TO \
                     \"{user}\"  ({inner})"
                ),
            );
        }
    }
    match meaning(inner) {
        Meaning::Data(why) | Meaning::NoPartition(why) => unusable(name, why),
        Meaning::Away(why) => OpenError::Unavailable { path: name.to_owned(), why },
    }
}

/// `insufficient_privilege`
const NO_PRIVILEGE: &str = "42501";

async fn decision(connection: &mut PgConnection, name: &str) -> Result<Decision, OpenError> {
    let row = query(
        "SELECT (SELECT extversion::text FROM pg_extension WHERE extname = 'timescaledb'), \
         (SELECT default_version::text FROM pg_available_extensions WHERE name = 'timescaledb')",
    );
    let row = row.fetch_one(connection).await.map_err(|e| failed(name, &e))?;
    let get = |at: usize| row.try_get(at).map_err(|e| failed(name, &e));
    Ok(decide(&Timescale { created: get(0)?, offered: get(1)? }))
}

async fn read_meta(
    connection: &mut PgConnection,
    name: &str,
) -> Result<(StoreId, Layout), OpenError> {
    let get = async |connection: &mut PgConnection, key: &str| -> Result<String, OpenError> {
        let value = query("SELECT value FROM store_meta WHERE key = $1").bind(key.to_owned());
        let row = value.fetch_optional(connection).await.map_err(|e| failed(name, &e))?;
        let row = row.ok_or_else(|| {
            unusable(name, format!("it has no {key} in store_meta; restore a backup"))
        })?;
        row.try_get(0).map_err(|e| failed(name, &e))
    };
    let store = get(connection, "store_id").await?;
    let store = store
        .parse()
        .map_err(|error| unusable(name, format!("its store id is damaged: {error}")))?;
    let word = get(connection, "layout").await?;
    let layout = Layout::of_word(&word)
        .ok_or_else(|| unusable(name, format!("its layout {word:?} is not known")))?;
    Ok((store, layout))
}

/// Says what of the server's settings can lose what was acknowledged.
async fn warn_of_risks(connection: &mut PgConnection, name: &str) -> Result<(), OpenError> {
    let settings = query(
        "SELECT name::text FROM pg_settings \
         WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'",
    );
    let rows = within(STATEMENT, settings.fetch_all(connection)).await;
    for row in rows.map_err(|error| unavailable(name, error))? {
        let setting: String = row.try_get(0).map_err(|e| failed(name, &e))?;
        warn!(
            setting,
            "the database server has this turned off: a crash of its machine can damage the \
             database or lose what was acknowledged"
        );
    }
    Ok(())
}

/// Only what is in the files counts: the constant must say the same.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_version_is_the_last_migration() {
        let last = migrations::POSTGRES.iter().map(|(version, ..)| *version).max();
        assert_eq!(last, Some(SCHEMA_VERSION));
    }
}
