//! What a store holds, added up: equal sums on both sides say that a move is complete.

use std::fmt;

use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, ColumnIndex, Decode, Row, Type};

use super::MoveError;
use crate::store::StoreError;

/// Sums by name, as text: they may exceed 64 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Totals(Vec<(&'static str, String)>);

/// What is added up: a name, and an expression over a table.
const SUMS: &[(&str, &str, &str)] = &[
    ("nodes", "node", "count(*)"),
    ("network namespaces", "netns", "count(*)"),
    ("entries", "flow_entry", "count(*)"),
    ("ended entries", "flow_entry", "count(ended)"),
    ("folded bytes", "flow_entry", "sum(base_bytes_orig + base_bytes_reply)"),
    ("flow rows", "flow", "count(*)"),
    ("packets there", "flow", "sum(packets_orig)"),
    ("bytes there", "flow", "sum(bytes_orig)"),
    ("packets back", "flow", "sum(packets_reply)"),
    ("bytes back", "flow", "sum(bytes_reply)"),
    ("reported bytes there", "flow", "sum(coalesce(raw_bytes_orig, bytes_orig))"),
    ("reported bytes back", "flow", "sum(coalesce(raw_bytes_reply, bytes_reply))"),
    ("entries of rows", "flow", "sum(entry)"),
    ("stray rows", "flow_stray", "count(*)"),
    ("stray bytes", "flow_stray", "sum(bytes_orig + bytes_reply)"),
    ("frames", "ingest_batch", "count(*)"),
    ("records of frames", "ingest_batch", "sum(records)"),
    ("gaps", "gap", "count(*)"),
    ("aliases of paths", "path_alias", "count(*)"),
    ("paths they became", "path_alias", "sum(into_path)"),
    ("epochs", "node_epoch", "count(*)"),
    ("committed frames", "node_epoch", "sum(committed_seq)"),
];

impl Totals {
    pub(super) async fn of_sqlite(pool: &SqlitePool) -> Result<Self, StoreError> {
        let mut sums = Vec::with_capacity(SUMS.len());
        for table in tables() {
            let row = sqlx::query(AssertSqlSafe(statement(table)))
                .fetch_one(pool)
                .await
                .map_err(|error| StoreError::Unavailable(error.to_string()))?;
            take(&mut sums, table, &row)?;
        }
        Ok(Self(sums))
    }

    pub(super) async fn of_postgres(connection: &mut PgConnection) -> Result<Self, StoreError> {
        let unavailable = |error: sqlx::Error| StoreError::Unavailable(error.to_string());
        // Adding up everything may take longer than a statement usually may.
        sqlx::raw_sql("SET statement_timeout = 0")
            .execute(&mut *connection)
            .await
            .map_err(unavailable)?;
        let mut sums = Vec::with_capacity(SUMS.len());
        for table in tables() {
            let row = sqlx::query(AssertSqlSafe(statement(table)))
                .fetch_one(&mut *connection)
                .await
                .map_err(unavailable)?;
            take(&mut sums, table, &row)?;
        }
        Ok(Self(sums))
    }

    /// # Errors
    /// The first difference to `other`, the new store's.
    pub(super) fn compare(&self, other: &Self) -> Result<(), MoveError> {
        for ((what, from), (_, to)) in self.0.iter().zip(&other.0) {
            if from != to {
                let (from, to) = (from.clone(), to.clone());
                return Err(MoveError::Differs { what: (*what).to_owned(), from, to });
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(what, _)| *what == name).map_or("0", |(_, sum)| sum)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} entries, {} rows, {} bytes there and {} back",
            self.get("entries"),
            self.get("flow rows"),
            self.get("bytes there"),
            self.get("bytes back")
        )
    }
}

/// The tables of [`SUMS`], each once.
fn tables() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    SUMS.iter().filter_map(move |(_, table, _)| {
        let new = *table != last;
        last = table;
        new.then_some(*table)
    })
}

/// All sums of a table, as text.
fn statement(table: &str) -> String {
    let of = SUMS.iter().filter(|(_, of, _)| *of == table);
    let sums: Vec<String> =
        of.map(|(_, _, sum)| format!("CAST(coalesce({sum}, 0) AS text)")).collect();
    format!("SELECT {} FROM {table}", sums.join(", "))
}

fn take<R>(sums: &mut Vec<(&'static str, String)>, table: &str, row: &R) -> Result<(), StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    String: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    let names = SUMS.iter().filter(|(_, of, _)| *of == table);
    for (at, (name, ..)) in names.enumerate() {
        let sum = row.try_get(at).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        sums.push((name, sum));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stand_together() {
        let mut seen = Vec::new();
        for table in tables() {
            assert!(!seen.contains(&table), "{table}");
            seen.push(table);
        }
        assert_eq!(seen.len(), 9);
    }

    #[test]
    fn the_first_difference_is_told() {
        let of = |bytes: &str| Totals(vec![("nodes", "1".into()), ("bytes there", bytes.into())]);
        assert!(of("5").compare(&of("5")).is_ok());
        let error = of("5").compare(&of("6")).unwrap_err().to_string();
        assert_eq!(
            error,
            "the two stores differ in bytes there: 5 in the old one, 6 in the new one"
        );
    }
}
