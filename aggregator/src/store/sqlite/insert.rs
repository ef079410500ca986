//! Rows into tables: multi-row statements, prepared once for each of a few sizes.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use flow::{Counters, Tuple, UnixNanos};
use futures_util::future::join;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments, AssertSqlSafe};

use crate::store::row::EntryNo;

/// Rows a statement, the most first. What does not fill one goes into the next smaller, so that
/// every statement is one of a few that stay prepared. 500 rows of the widest table stay below
/// SQLite's 32,766 parameters (<https://www.sqlite.org/limits.html>).
const SIZES: [usize; 4] = [500, 60, 8, 1];

/// A table as rows are inserted into it.
pub(super) struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    sql: OnceLock<[Arc<str>; SIZES.len()]>,
}

/// Why rows were not inserted.
pub(super) enum InsertError {
    /// A value does not fit: the row at this index, and what is wrong.
    Value(usize, &'static str),
    /// The database refused.
    Database(sqlx::Error),
}

/// A value that no column can take.
pub(super) struct DoesNotFit(pub(super) &'static str);

impl Table {
    pub(super) const fn new(name: &'static str, columns: &'static [&'static str]) -> Self {
        assert!(columns.len() * SIZES[0] < 32_766, "too many parameters in a statement");
        Self { name, columns, sql: OnceLock::new() }
    }

    fn sql(&self) -> &[Arc<str>; SIZES.len()] {
        self.sql.get_or_init(|| {
            let head = format!("INSERT INTO {} ({}) VALUES ", self.name, self.columns.join(","));
            SIZES.map(|rows| (head.clone() + &placeholders(self.columns.len(), rows)).into())
        })
    }

    /// Inserts `rows`, each bound by `bind`. SQLite works on a thread of the connection's: while
    /// it executes one statement, the next one's values are bound here.
    pub(super) async fn insert<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut Binds, &T) -> Result<(), DoesNotFit>,
    ) -> Result<(), InsertError> {
        let mut done = 0;
        let mut statements = chunks(rows.len()).map(|(at, size)| {
            let first = done;
            done += size;
            let chunk = rows.get(first..done).unwrap_or_default();
            let arguments = self.bind(chunk, &bind).map_err(|error| error.after(first))?;
            Ok((Arc::clone(&self.sql()[at]), arguments))
        });
        let mut next = statements.next().transpose()?;
        while let Some((sql, arguments)) = next {
            let query = sqlx::query_with(AssertSqlSafe(sql), arguments).persistent(true);
            // `join` polls in order: the statement is on its way before the next one is bound.
            let running = query.execute(&mut *connection);
            let (ran, bound) = join(running, async { statements.next().transpose() }).await;
            ran.map_err(InsertError::Database)?;
            next = bound?;
        }
        Ok(())
    }

    fn bind<T>(
        &self,
        rows: &[T],
        bind: impl Fn(&mut Binds, &T) -> Result<(), DoesNotFit>,
    ) -> Result<SqliteArguments, InsertError> {
        let mut binds = Binds::with_capacity(rows.len() * self.columns.len());
        for (index, row) in rows.iter().enumerate() {
            bind(&mut binds, row).map_err(|DoesNotFit(what)| InsertError::Value(index, what))?;
        }
        binds.finish().map_err(InsertError::Database)
    }
}

impl InsertError {
    /// The same of rows that stand after `rows` others.
    fn after(self, rows: usize) -> Self {
        match self {
            Self::Value(index, what) => Self::Value(rows + index, what),
            database @ Self::Database(_) => database,
        }
    }
}

/// `rows` times `columns` parameters as the body of VALUES.
pub(super) fn placeholders(columns: usize, rows: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    vec![row.as_str(); rows].join(",")
}

/// Entries as one parameter: a JSON array, for `json_each`.
pub(super) fn json(entries: impl Iterator<Item = EntryNo>) -> String {
    let mut text = String::from("[");
    for (at, EntryNo(entry)) in entries.enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // Writing into a String cannot fail.
        let _written = write!(text, "{comma}{entry}");
    }
    text.push(']');
    text
}

/// How many rows each statement takes: index into [`SIZES`] and its size.
pub(super) fn chunks(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut left = rows;
    std::iter::from_fn(move || {
        let (at, size) = SIZES.iter().enumerate().find(|(_, size)| **size <= left)?;
        left -= size;
        Some((at, *size))
    })
}

/// The parameters of one statement, in order.
pub(super) struct Binds {
    arguments: SqliteArguments,
    failed: Option<BoxDynError>,
}

impl Binds {
    pub(super) fn with_capacity(values: usize) -> Self {
        let mut arguments = SqliteArguments::default();
        arguments.reserve(values, 0);
        Self { arguments, failed: None }
    }

    fn keep(&mut self, result: Result<(), BoxDynError>) {
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }

    pub(super) fn int(&mut self, value: impl Into<i64>) {
        let result = self.arguments.add(value.into());
        self.keep(result);
    }

    pub(super) fn int_or_null(&mut self, value: Option<i64>) {
        let result = self.arguments.add(value);
        self.keep(result);
    }

    pub(super) fn blob(&mut self, value: &[u8]) {
        let result = self.arguments.add(value.to_vec());
        self.keep(result);
    }

    pub(super) fn blob_or_null(&mut self, value: Option<&[u8]>) {
        let result = self.arguments.add(value.map(<[u8]>::to_vec));
        self.keep(result);
    }

    pub(super) fn text(&mut self, value: &str) {
        let result = self.arguments.add(value.to_owned());
        self.keep(result);
    }

    /// A time in microseconds.
    pub(super) fn time(&mut self, value: UnixNanos) {
        self.int(value.micros_floor());
    }

    /// A time in microseconds, or NULL.
    pub(super) fn time_or_null(&mut self, value: Option<UnixNanos>) {
        self.int_or_null(value.map(UnixNanos::micros_floor));
    }

    /// A number that must fit; the column is signed.
    pub(super) fn checked(&mut self, value: u64, what: &'static str) -> Result<(), DoesNotFit> {
        self.int(i64::try_from(value).map_err(|_over| DoesNotFit(what))?);
        Ok(())
    }

    /// The same, below zero where it is taken back.
    pub(super) fn signed(
        &mut self,
        value: u64,
        back: bool,
        what: &'static str,
    ) -> Result<(), DoesNotFit> {
        let value = i64::try_from(value).map_err(|_over| DoesNotFit(what))?;
        self.int(if back { -value } else { value });
        Ok(())
    }

    /// A number for persons, kept up to the largest the column has.
    pub(super) fn clamped(&mut self, value: u64) {
        self.int(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Packets and bytes of both directions, for persons.
    pub(super) fn clamped_counters(&mut self, counters: &Counters) {
        for component in counters.components() {
            self.clamped(component);
        }
    }

    fn address(&mut self, address: &IpAddr) {
        match address {
            IpAddr::V4(v4) => self.blob(&v4.octets()),
            IpAddr::V6(v6) => self.blob(&v6.octets()),
        }
    }

    fn address_or_null(&mut self, address: Option<&IpAddr>) {
        match address {
            Some(address) => self.address(address),
            None => self.blob_or_null(None),
        }
    }

    /// `sport, dport`
    pub(super) fn ports(&mut self, tuple: &Tuple) {
        self.int(tuple.sport);
        self.int(tuple.dport);
    }

    /// `src, dst`
    pub(super) fn addresses(&mut self, tuple: &Tuple) {
        self.address(&tuple.src);
        self.address(&tuple.dst);
    }

    /// `nat_sport, nat_dport`
    pub(super) fn nat_ports(&mut self, inside: &Tuple, outside: &Tuple) {
        let changed = |a: u16, b: u16| (a != b).then_some(i64::from(b));
        self.int_or_null(changed(inside.sport, outside.sport));
        self.int_or_null(changed(inside.dport, outside.dport));
    }

    /// `nat_src, nat_dst`
    pub(super) fn nat_addresses(&mut self, inside: &Tuple, outside: &Tuple) {
        self.address_or_null((inside.src != outside.src).then_some(&outside.src));
        self.address_or_null((inside.dst != outside.dst).then_some(&outside.dst));
    }

    pub(super) fn finish(self) -> Result<SqliteArguments, sqlx::Error> {
        match self.failed {
            None => Ok(self.arguments),
            Some(error) => Err(sqlx::Error::Encode(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_row_once() {
        for rows in [0, 1, 7, 8, 67, 499, 500, 10_000, 10_001, 12_345] {
            let sizes: Vec<usize> = chunks(rows).map(|(_, size)| size).collect();
            assert_eq!(sizes.iter().sum::<usize>(), rows);
            assert!(sizes.iter().filter(|size| **size < SIZES[0]).count() < 23);
        }
        assert_eq!(placeholders(2, 3), "(?,?),(?,?),(?,?)");
    }
}
