//! Where flows are stored: a URL, and for PostgreSQL a password that no output shows.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use daemon::config::{ConfigError, Origins};

use super::raw::RawConfig;
use crate::store::postgres::{PostgresAddress, Secret};

/// Where flows are stored. Showing it shows no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    Postgres(PostgresAddress),
}

impl StoreChoice {
    /// The URL that says so in a configuration, without a password.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("{SQLITE}{}", path.display()),
            Self::Postgres(address) => address.url().to_owned(),
        }
    }

    /// What the configuration says, or a file in the state folder.
    pub(super) fn parse(
        raw: &RawConfig,
        state_dir: &Path,
        origins: &Origins,
    ) -> Result<Self, ConfigError> {
        let Some(url) = &raw.store else { return Ok(Self::Sqlite(state_dir.join(STORE_FILE))) };
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            return postgres(url, raw.store_password_file.as_deref(), origins).map(Self::Postgres);
        }
        let path = url.strip_prefix(SQLITE).map(|path| path.strip_prefix("//").unwrap_or(path));
        match path {
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            // The text may hold a password: it is not repeated.
            _ => Err(origins.bad("store", FORMS)),
        }
    }
}

impl fmt::Display for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(address) => address.fmt(f),
        }
    }
}

/// The store's file in the state folder, unless configured.
const STORE_FILE: &str = "flows.db";

const SQLITE: &str = "sqlite:";

const FORMS: &str = "must be sqlite:PATH, like \
    \"sqlite:/var/lib/conntracct-aggregator/flows.db\", or a PostgreSQL URL, like \
    \"postgres://conntracct@db.example.net/flows?sslmode=verify-full\"";

fn postgres(
    url: &str,
    password_file: Option<&Path>,
    origins: &Origins,
) -> Result<PostgresAddress, ConfigError> {
    let address =
        PostgresAddress::parse(url).map_err(|error| origins.bad("store", error.to_string()))?;
    // Everybody on the machine can read a command line.
    if address.has_password() && origins.origin("store") == Some("--store") {
        let problem = "holds a password, which everybody on this machine can read on the command \
             line; put it into a file and name that with --store-password-file, or set PGPASSWORD";
        return Err(origins.bad("store", problem));
    }
    let Some(file) = password_file else { return Ok(address) };
    if address.has_password() {
        let problem = "is set, and `store` holds a password too; leave one of them out";
        return Err(origins.bad("store_password_file", problem));
    }
    let password = read_password(file).map_err(|why| {
        origins.bad("store_password_file", format!("names {}, which {why}", file.display()))
    })?;
    Ok(address.with_password(password))
}

/// The longest password file, in bytes.
const MAX_PASSWORD: usize = 4096;

/// The file's first and only line.
fn read_password(file: &Path) -> Result<Secret, String> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(MAX_PASSWORD as u64 + 1).read_to_string(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() || text.len() > MAX_PASSWORD || password.contains(['\n', '\0']) {
        return Err(format!("must hold one line of at most {MAX_PASSWORD} bytes"));
    }
    Ok(Secret::new(password))
}
