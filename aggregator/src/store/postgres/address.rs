//! Where a PostgreSQL database is: a URL, with its password kept apart.

use std::fmt;
use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use thiserror::Error;

/// A text that nobody may see.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Where a database is and who asks for it. Showing it shows no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresAddress {
    /// Without a password.
    url: String,
    password: Option<Secret>,
}

/// Why a URL is none of a PostgreSQL database. No message repeats the URL: what is wrong with it
/// may be that its password is where none is expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// It begins with another scheme.
    #[error("must begin with postgres://")]
    Scheme,
    /// A parameter that is not known.
    #[error(
        "has a parameter after the ? that is not known; known are {}",
        PARAMETERS.join(", ")
    )]
    Parameter,
    /// Something else, in the words of the parser.
    #[error("is no URL of a PostgreSQL database: {0}")]
    Malformed(String),
}

impl PostgresAddress {
    /// Takes a URL apart: `postgres://user@host:port/database?sslmode=verify-full`, or
    /// `postgres:///database?host=/var/run/postgresql` for a local socket. What it leaves open is
    /// taken from libpq's variables (`PGHOST`, `PGPASSWORD`, ...) and `~/.pgpass` when a
    /// connection is made.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or(AddressError::Scheme)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, mut password) = match user.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (user, None),
        };
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        if path.contains('#') || query.contains('#') {
            return Err(AddressError::Malformed("a # must be written as %23".to_owned()));
        }
        let mut kept = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if name == "password" {
                password = Some(decoded(value)?);
            } else if PARAMETERS.contains(&name) {
                kept.push(parameter);
            } else {
                return Err(AddressError::Parameter);
            }
        }
        let at = if user.is_empty() { "" } else { "@" };
        let mark = if kept.is_empty() { "" } else { "?" };
        let url = format!("postgres://{user}{at}{host}{path}{mark}{}", kept.join("&"));
        let address = Self { url, password: password.map(Secret) };
        address.options()?;
        Ok(address)
    }

    /// The URL without a password, for persons.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the URL carried a password.
    #[must_use]
    pub const fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The same with this password.
    #[must_use]
    pub fn with_password(self, password: Secret) -> Self {
        Self { password: Some(password), ..self }
    }

    /// How to connect.
    pub(super) fn options(&self) -> Result<PgConnectOptions, AddressError> {
        let parsed = PgConnectOptions::from_str(&self.url);
        let mut options = parsed.map_err(|error| AddressError::Malformed(why(&error)))?;
        if let Some(Secret(password)) = &self.password {
            options = options.password(password);
        }
        if options.get_application_name().is_none() {
            options = options.application_name(APPLICATION);
        }
        Ok(options.disable_statement_logging())
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// What `pg_stat_activity` shows, unless the URL or `PGAPPNAME` says otherwise.
const APPLICATION: &str = "conntracct-aggregator";

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// Parameters of libpq that sqlx knows too. Others are refused, since it would only warn.
const PARAMETERS: [&str; 11] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "application_name",
    "options",
];

fn why(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(inner) => inner.to_string(),
        other => other.to_string(),
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, AddressError> {
    let wrong = |what: &str| AddressError::Malformed(format!("its password {what}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit().zip(digit()).and_then(|(a, b)| u8::try_from(a << 4 | b).ok());
        bytes.push(value.ok_or_else(|| wrong("has a % that must be written as %25"))?);
    }
    String::from_utf8(bytes).map_err(|_bytes| wrong("is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_kept_apart() {
        for (text, url, password) in [
            ("postgres://me@db/flows", "postgres://me@db/flows", None),
            ("postgres://me:pw@db/flows", "postgres://me@db/flows", Some("pw")),
            ("postgresql://me:p%40w%25@db:1/f", "postgres://me@db:1/f", Some("p@w%")),
            ("postgres://me:a@b@db/f", "postgres://me@db/f", Some("a@b")),
            ("postgres://db?password=x%20y", "postgres://db", Some("x y")),
            (
                "postgres:///f?host=/run/pg&password=x&user=me",
                "postgres:///f?host=/run/pg&user=me",
                Some("x"),
            ),
        ] {
            let address = PostgresAddress::parse(text).unwrap();
            assert_eq!((address.url(), address.to_string().as_str()), (url, url));
            assert_eq!(address.password, password.map(Secret::new), "{text}");
            assert!(!format!("{address:?}").contains("pw"), "{address:?}");
        }
    }

    #[test]
    fn the_rest_arrives() {
        let text = "postgres://me@db:5433/flows?sslmode=verify-full&sslrootcert=/ca.pem";
        let options = PostgresAddress::parse(text).unwrap().options().unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("db", 5433));
        assert_eq!((options.get_username(), options.get_database()), ("me", Some("flows")));
        assert!(matches!(options.get_ssl_mode(), sqlx::postgres::PgSslMode::VerifyFull));
        assert_eq!(options.get_application_name(), Some("conntracct-aggregator"));
        let socket = PostgresAddress::parse("postgres:///flows?host=/run/pg").unwrap();
        let socket = socket.options().unwrap();
        assert_eq!(socket.get_socket().unwrap(), std::path::Path::new("/run/pg"));
    }

    #[test]
    fn nothing_that_is_refused_is_repeated() {
        for (text, complaint) in [
            ("mysql://me:hunter2@db/flows", "must begin with postgres://"),
            ("postgres://me:hunter2%@db/flows", "its password has a %"),
            ("postgres://me:x@db/flows?passwort=hunter2", "has a parameter after the ?"),
            ("postgres://me:x@db/flows?pass%77ord=hunter2", "has a parameter after the ?"),
            ("postgres://me:x@db/flows#hunter2", "a # must be written as %23"),
            ("postgres://me:hunter2@db:port/flows", "is no URL of a PostgreSQL database"),
            ("postgres://me:x@db/flows?sslmode=hunter2x", "is no URL of a PostgreSQL database"),
        ] {
            let error = PostgresAddress::parse(text).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
            assert!(!error.contains("hunter2@"), "{error}");
        }
    }
}
