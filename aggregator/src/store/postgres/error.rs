//! What a PostgreSQL error means for the one who asked.

use sqlx::postgres::PgDatabaseError;

use crate::store::row::FrameName;
use crate::store::{CommitError, StoreError};

/// What can be done about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Waiting helps, or the operator does.
    Away(String),
    /// A value was refused.
    Data(String),
    /// There is no partition for a row. It is made before each transaction, so somebody dropped
    /// it meanwhile; the next try makes it again.
    NoPartition(String),
}

impl Meaning {
    /// It in words, whatever it is.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Away(text) | Self::Data(text) | Self::NoPartition(text) => text,
        }
    }
}

/// Sorts an error by what can be done about it, in words for a person.
pub(super) fn meaning(error: &sqlx::Error) -> Meaning {
    let database = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    let Some(database) = database else {
        return match error {
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => {
                Meaning::Data(error.to_string())
            }
            sqlx::Error::Io(error) => {
                Meaning::Away(format!("the connection to the database failed: {error}"))
            }
            sqlx::Error::Tls(error) => {
                Meaning::Away(format!("TLS with the database failed: {error}"))
            }
            _ => Meaning::Away(format!("the database does not answer: {error}")),
        };
    };
    of_code(database.code(), database.message(), database.constraint())
}

/// See [`meaning`]; by SQLSTATE (appendix A of PostgreSQL's manual).
fn of_code(code: &str, message: &str, constraint: Option<&str>) -> Meaning {
    let what = match code {
        "23514" if constraint.is_none() => return Meaning::NoPartition(message.to_owned()),
        "25006" => "the database is read-only (a standby, or set so); give the primary",
        "53100" => "the disk of the database server is full; free space, nothing is lost",
        "53300" => "the database server has no connection left; raise max_connections",
        "55P03" => "another session holds a lock for too long; look at pg_stat_activity",
        "57014" => "the database server ended a statement that took too long, or was told to",
        "42501" => "a privilege is missing; give the role the tables: see docs/postgres.md",
        _ => match code.get(..2).unwrap_or_default() {
            "22" | "23" => return Meaning::Data(message.to_owned()),
            "08" => "the connection to the database failed",
            "28" => "the database server does not let this role in; check user and password",
            "3D" | "3F" => "the database or schema does not exist; create it",
            "40" => "another session was in the way; it is tried again",
            "42" => "the tables are not as this program made them; restore them",
            "53" => "the database server is short of something",
            "57" => "the database server is stopping or starting",
            "58" => "the database server has trouble with its disk or system",
            "XX" => "the database is damaged; look at the server's log",
            _ => "the database refused",
        },
    };
    Meaning::Away(format!("{what} ({message}, SQLSTATE {code})"))
}

/// Why a question has no answer.
pub(super) fn store_error(error: &sqlx::Error) -> StoreError {
    match meaning(error) {
        Meaning::Away(text) | Meaning::NoPartition(text) => StoreError::Unavailable(text),
        Meaning::Data(text) => StoreError::Corrupt(text),
    }
}

/// Why a statement before COMMIT failed: nothing was written.
pub(super) fn refused(frame: Option<FrameName>, error: &sqlx::Error) -> CommitError {
    match meaning(error) {
        Meaning::Away(text) | Meaning::NoPartition(text) => CommitError::Unavailable(text),
        Meaning::Data(reason) => CommitError::Data { frame, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_are_the_frames_fault() {
        for code in ["22003", "22021", "23505", "23502"] {
            assert!(matches!(of_code(code, "x", Some("c")), Meaning::Data(_)), "{code}");
        }
        assert!(matches!(of_code("23514", "x", None), Meaning::NoPartition(_)));
        assert!(matches!(of_code("23514", "x", Some("c")), Meaning::Data(_)));
        for code in [
            "08006", "25006", "28P01", "3D000", "40001", "40P01", "42501", "42P01", "53100",
            "53300", "54000", "55P03", "57014", "57P01", "57P03", "58030", "P0001", "XX001", "",
        ] {
            let Meaning::Away(text) = of_code(code, "what it said", None) else {
                panic!("{code} is not the frame's fault");
            };
            assert!(text.ends_with(&format!("(what it said, SQLSTATE {code})")), "{text}");
        }
    }
}
