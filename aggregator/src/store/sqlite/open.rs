//! Opening a database: lock, schema, connections.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flow::StoreId;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqliteExecutor};
use tokio::sync::Mutex;

use super::{Inner, Meaning, SqliteConfig, SqliteStore, meaning, store_error};
use crate::store::metrics::StoreMetrics;
use crate::store::{OpenError, SCHEMA_VERSION, StoreError, migrations};

/// How long a connection waits for another one's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a question waits for a free connection.
const READER_WAIT: Duration = Duration::from_secs(10);

pub(super) async fn open(config: &SqliteConfig) -> Result<SqliteStore, OpenError> {
    let path = config.path.display().to_string();
    let lock = lock(&config.path)?;
    let mut options = SqliteConnectOptions::new()
        .filename(&config.path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("cache_size", "-65536")
        .pragma("journal_size_limit", "67108864")
        .disable_statement_logging();
    if let Some(pages) = config.max_pages {
        options = options.pragma("max_page_count", pages.to_string());
    }
    let failed = |error: &sqlx::Error| open_error(&path, error);
    let mut writer = options.connect().await.map_err(|error| failed(&error))?;
    migrate(&mut writer, &path).await?;
    let store = store_id(&mut writer, &path).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(config.readers)
        .acquire_timeout(READER_WAIT)
        .test_before_acquire(false)
        .connect_lazy_with(options.clone().create_if_missing(false).read_only(true));
    let inner = Inner {
        path: config.path.clone(),
        most_loaded: config.most_loaded,
        store,
        options: options.create_if_missing(false),
        writer: Mutex::new(Some(writer)),
        readers,
        metrics: StoreMetrics::default(),
        _lock: lock,
    };
    Ok(SqliteStore { inner: Arc::new(inner) })
}

/// Takes the lock file beside the database; the lock goes when the file is dropped, whatever
/// becomes of the process.
fn lock(path: &Path) -> Result<File, OpenError> {
    let unavailable =
        |why: String| OpenError::Unavailable { path: path.display().to_string(), why };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| {
            unavailable(format!("its folder {} cannot be made: {error}", folder.display()))
        })?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|error| unavailable(format!("its lock file {}: {error}", name.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(OpenError::Locked { path: path.display().to_string() })
        }
        Err(TryLockError::Error(error)) => {
            Err(unavailable(format!("its lock file {}: {error}", name.display())))
        }
    }
}

async fn migrate(writer: &mut SqliteConnection, path: &str) -> Result<(), OpenError> {
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master")
        .fetch_one(&mut *writer)
        .await
        .map_err(|error| open_error(path, &error))?;
    if tables > 0 {
        let found = schema_version(&mut *writer).await.map_err(|error| OpenError::Unusable {
            path: path.to_owned(),
            why: format!("it is no database of conntracct ({error}); give another --store"),
        })?;
        if found > SCHEMA_VERSION {
            let path = path.to_owned();
            return Err(OpenError::Newer { path, found, known: SCHEMA_VERSION });
        }
    }
    migrations::migrator(migrations::SQLITE).run(writer).await.map_err(|error| {
        OpenError::Unusable {
            path: path.to_owned(),
            why: format!("its schema cannot be brought up to date ({error})"),
        }
    })
}

/// The schema of the database at `path`, `None` where there is none; nothing is changed.
///
/// # Errors
/// When it cannot be read, or is none of ours.
pub async fn pending(path: &Path) -> Result<Option<i64>, OpenError> {
    if !path.exists() {
        return Ok(None);
    }
    let shown = path.display().to_string();
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .connect()
        .await
        .map_err(|error| open_error(&shown, &error))?;
    let found = schema_version(&mut connection).await.map_err(|error| OpenError::Unusable {
        path: shown,
        why: format!("it is no database of conntracct ({error}); give another --store"),
    })?;
    Ok(Some(found))
}

/// The last migration applied.
pub(super) async fn schema_version(connection: impl SqliteExecutor<'_>) -> Result<i64, StoreError> {
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
        .fetch_one(connection)
        .await
        .map_err(|error| store_error(&error))
}

async fn store_id(writer: &mut SqliteConnection, path: &str) -> Result<StoreId, OpenError> {
    let unusable = |why: String| OpenError::Unusable { path: path.to_owned(), why };
    let text: Option<String> =
        sqlx::query_scalar("SELECT value FROM store_meta WHERE key = 'store_id'")
            .fetch_optional(writer)
            .await
            .map_err(|error| open_error(path, &error))?;
    let text = text.ok_or_else(|| unusable("it has no store id; restore a backup".to_owned()))?;
    text.parse().map_err(|error| unusable(format!("its store id is damaged: {error}")))
}

fn open_error(path: &str, error: &sqlx::Error) -> OpenError {
    let (Meaning::Away(why) | Meaning::Data(why)) = meaning(error);
    OpenError::Unavailable { path: path.to_owned(), why }
}

impl Inner {
    /// A new connection that writes, after the last one failed.
    pub(super) async fn connect(&self) -> Result<SqliteConnection, sqlx::Error> {
        self.options.connect().await
    }
}

/// Only what is in the files counts: the constant must say the same.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_version_is_the_last_migration() {
        let last = migrations::SQLITE.iter().map(|(number, ..)| *number).max();
        assert_eq!(last, Some(SCHEMA_VERSION));
    }
}
