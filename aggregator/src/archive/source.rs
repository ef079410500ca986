//! The store that is exported, read in slices: each in a snapshot of its own, together with its
//! sums as the store itself adds them up.

use std::collections::HashMap;

use flow::{Birth, NetnsId, NodeName, StoreId};
use futures_util::{Stream, TryStreamExt};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::manifest::Sums;
use super::record::Record;
use crate::answers::Reader;
use crate::store::StoreError;
use crate::store::columns::FLOW_COLUMNS;
use crate::store::decode::{Cells, flow_row, from_micros, narrow, netns_row};
use crate::store::postgres::Time;
use crate::store::row::{NetnsNo, NodeNo};

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// Those with a time, by it.
    Flow,
    /// Those with an impossible time, by their receipt.
    Stray,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Stray => "flow_stray",
        }
    }

    const fn by(self) -> &'static str {
        match self {
            Self::Flow => "time",
            Self::Stray => "receipt",
        }
    }
}

/// Rows of `table` after one moment and up to another, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) table: Table,
    pub(super) after: i64,
    pub(super) until: i64,
}

/// What a slice holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) rows: u64,
    /// The first and the last moment.
    pub(super) moments: Option<(i64, i64)>,
}

/// Why reading ended.
#[derive(Debug)]
pub(super) enum ReadError<E> {
    /// The store's fault.
    Store(StoreError),
    /// Whoever took the rows had enough.
    Taken(E),
}

impl<E> From<StoreError> for ReadError<E> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<E> From<sqlx::Error> for ReadError<E> {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(failed(error))
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// The store's name.
pub(super) async fn store_id(reader: &Reader) -> Result<StoreId, StoreError> {
    const ASKED: &str = "SELECT value FROM store_meta WHERE key = 'store_id'";
    let id: String = match reader {
        Reader::Sqlite(reader) => {
            let row = sqlx::query(ASKED).fetch_one(reader.pool()).await.map_err(failed)?;
            row.try_get(0).map_err(failed)?
        }
        Reader::Postgres(reader) => {
            let mut connection = reader.connection().lock().await;
            let row = sqlx::query(ASKED).fetch_one(&mut *connection).await.map_err(failed)?;
            row.try_get(0).map_err(failed)?
        }
    };
    id.parse().map_err(|_error| StoreError::Corrupt(format!("the store id {id:?}")))
}

/// How much there is of a slice.
pub(super) async fn extent(reader: &Reader, slice: Slice) -> Result<Extent, StoreError> {
    let by = slice.table.by();
    let text = format!("SELECT min({by}), max({by}), count(*) FROM {}", within(slice, ""));
    let extent = |row: &dyn Cells| {
        let (first, last) = (row.time_or_null(0)?, row.time_or_null(1)?);
        let moments = first.zip(last).map(|(a, b)| (a.micros_floor(), b.micros_floor()));
        Ok(Extent { rows: narrow(row.int_or_null(2)?.unwrap_or_default())?, moments })
    };
    match reader {
        Reader::Sqlite(reader) => {
            let row = sqlite_query(&text, slice).fetch_one(reader.pool()).await;
            extent(&row.map_err(failed)?)
        }
        Reader::Postgres(reader) => {
            let mut connection = reader.connection().lock().await;
            let row = postgres_query(&text, slice).fetch_one(&mut *connection).await;
            extent(&row.map_err(failed)?)
        }
    }
}

/// Gives every row of a slice to `take`, and then the store's own sums of it.
pub(super) async fn read<E>(
    reader: &Reader,
    slice: Slice,
    mut take: impl FnMut(Record) -> Result<(), E>,
) -> Result<Sums, ReadError<E>> {
    match reader {
        Reader::Sqlite(reader) => {
            // Its readers see one moment for as long as a transaction lasts.
            let mut snapshot = reader.pool().begin().await?;
            let names = sqlite_names(&mut snapshot).await?;
            let text = rows(slice);
            let found = sqlite_query(&text, slice).fetch(&mut *snapshot);
            drain(found, &names, slice.table, &mut take).await?;
            let text = sums(slice, "");
            Ok(sums_of(&sqlite_query(&text, slice).fetch_one(&mut *snapshot).await?)?)
        }
        Reader::Postgres(reader) => {
            let mut connection = reader.connection().lock().await;
            let connection = &mut *connection;
            execute(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let names = postgres_names(connection).await?;
            let text = rows(slice);
            let found = postgres_query(&text, slice).fetch(&mut *connection);
            drain(found, &names, slice.table, &mut take).await?;
            let text = sums(slice, "");
            let sums = sums_of(&postgres_query(&text, slice).fetch_one(&mut *connection).await?)?;
            execute(connection, "COMMIT").await?;
            Ok(sums)
        }
    }
}

/// What a store holds of `nodes` in both tables, after one moment and up to another.
pub(super) async fn sums_of_nodes(
    reader: &Reader,
    (after, until): (i64, i64),
    nodes: &[i32],
) -> Result<Sums, StoreError> {
    // Numbers of ours, made by this program.
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let of = format!(" AND f.node IN ({})", nodes.join(","));
    let mut total = Sums::default();
    for table in [Table::Flow, Table::Stray] {
        let slice = Slice { table, after, until };
        let text = sums(slice, &of);
        let found = match reader {
            Reader::Sqlite(reader) => {
                let row = sqlite_query(&text, slice).fetch_one(reader.pool()).await;
                sums_of(&row.map_err(failed)?)?
            }
            Reader::Postgres(reader) => {
                let mut connection = reader.connection().lock().await;
                let row = postgres_query(&text, slice).fetch_one(&mut *connection).await;
                sums_of(&row.map_err(failed)?)?
            }
        };
        total.plus(&found);
    }
    Ok(total)
}

/// `FROM` and `WHERE` of a slice.
fn within(slice: Slice, join: &str) -> String {
    let (table, by) = (slice.table.name(), slice.table.by());
    format!("{table} AS f{join} WHERE f.{by} > $1 AND f.{by} <= $2")
}

/// The rows of a slice, each with what names its entry.
fn rows(slice: Slice) -> String {
    let column = |name| match name {
        "path" => "coalesce(a.into_path, f.path) AS path".to_owned(),
        name => format!("f.{name}"),
    };
    let columns: Vec<String> = FLOW_COLUMNS.split(", ").map(column).collect();
    let receipt = if slice.table == Table::Stray { ", f.receipt" } else { "" };
    let from = within(
        slice,
        " LEFT JOIN flow_observer AS o ON o.entry = f.entry LEFT JOIN path_alias AS a ON a.path = f.path",
    );
    format!(
        "SELECT {}{receipt}, o.raw_start, o.kernel_id, o.seen, o.fresh FROM {from}",
        columns.join(", ")
    )
}

/// Sums of a slice, in halves of 32 bits: SQLite adds up to 63 bits only.
fn sums(slice: Slice, and: &str) -> String {
    let halves: Vec<String> = Sums::default()
        .components()
        .iter()
        .map(|(name, _)| {
            let value = match name.strip_prefix("raw_") {
                Some(counted) => format!("coalesce(f.{name}, f.{counted})"),
                None => format!("f.{name}"),
            };
            let half = |part: &str| format!("CAST(coalesce(sum({value} {part}), 0) AS text)");
            format!("{}, {}", half("/ 4294967296"), half("% 4294967296"))
        })
        .collect();
    let from = within(slice, "");
    format!("SELECT CAST(count(*) AS text), {} FROM {from}{and}", halves.join(", "))
}

fn sums_of(row: &impl Cells) -> Result<Sums, StoreError> {
    let number = |at: usize| -> Result<i128, StoreError> {
        let text = row.text(at)?;
        text.parse().map_err(|_error| StoreError::Corrupt(format!("a sum of {text:?}")))
    };
    let mut sums = Sums { rows: number(0)?.try_into().unwrap_or(u64::MAX), ..Sums::default() };
    for (at, sum) in sums.components_mut().into_iter().enumerate() {
        // Division goes towards zero, so the lower half has the sign of the whole.
        *sum = number(1 + 2 * at)? * (1 << 32) + number(2 + 2 * at)?;
    }
    Ok(sums)
}

type SqliteQuery<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;
type PostgresQuery<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn sqlite_query(text: &str, slice: Slice) -> SqliteQuery<'static> {
    let query = sqlx::query(AssertSqlSafe(text.to_owned())).persistent(false);
    query.bind(slice.after).bind(slice.until)
}

fn postgres_query(text: &str, slice: Slice) -> PostgresQuery<'static> {
    let query = sqlx::query(AssertSqlSafe(text.to_owned())).persistent(false);
    query.bind(Time(from_micros(slice.after))).bind(Time(from_micros(slice.until)))
}

async fn execute(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await.map(|_done| ())
}

/// Nodes and namespaces by their numbers.
#[derive(Default)]
struct Names {
    nodes: HashMap<NodeNo, NodeName>,
    netns: HashMap<NetnsNo, NetnsId>,
}

const NODES: &str = "SELECT id, name FROM node";
const NETNS: &str = "SELECT id, node, inode, boot FROM netns";

impl Names {
    fn node(&mut self, row: &impl Cells) -> Result<(), StoreError> {
        let number = NodeNo(narrow(row.int_or_null(0)?.unwrap_or_default())?);
        let name = NodeName::new(row.text(1)?);
        let name = name.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        self.nodes.insert(number, name);
        Ok(())
    }

    fn netns(&mut self, row: &impl Cells) -> Result<(), StoreError> {
        let row = netns_row(row)?;
        self.netns.insert(row.netns, row.id);
        Ok(())
    }
}

async fn sqlite_names(connection: &mut SqliteConnection) -> Result<Names, StoreError> {
    let mut names = Names::default();
    let rows: Vec<SqliteRow> =
        sqlx::query(NODES).fetch_all(&mut *connection).await.map_err(failed)?;
    rows.iter().try_for_each(|row| names.node(row))?;
    let rows = sqlx::query(NETNS).fetch_all(&mut *connection).await.map_err(failed)?;
    rows.iter().try_for_each(|row| names.netns(row))?;
    Ok(names)
}

async fn postgres_names(connection: &mut PgConnection) -> Result<Names, StoreError> {
    let mut names = Names::default();
    let rows: Vec<PgRow> = sqlx::query(NODES).fetch_all(&mut *connection).await.map_err(failed)?;
    rows.iter().try_for_each(|row| names.node(row))?;
    let rows = sqlx::query(NETNS).fetch_all(&mut *connection).await.map_err(failed)?;
    rows.iter().try_for_each(|row| names.netns(row))?;
    Ok(names)
}

async fn drain<R: Cells, E>(
    mut rows: impl Stream<Item = Result<R, sqlx::Error>> + Unpin,
    names: &Names,
    table: Table,
    take: &mut impl FnMut(Record) -> Result<(), E>,
) -> Result<(), ReadError<E>> {
    let columns = FLOW_COLUMNS.split(", ").count() + usize::from(table == Table::Stray);
    while let Some(row) = rows.try_next().await? {
        take(record(&row, columns, names)?).map_err(ReadError::Taken)?;
    }
    Ok(())
}

/// A row whose entry's columns begin at `at`.
fn record(cells: &impl Cells, at: usize, names: &Names) -> Result<Record, StoreError> {
    let row = flow_row(cells)?;
    let missing = |what: &str| {
        let entry = row.entry.0;
        StoreError::Corrupt(format!("a row of entry {entry}, whose {what} is not there"))
    };
    let start = cells.int_or_null(at)?.ok_or_else(|| missing("row in flow_observer"))?;
    let id = narrow(cells.int_or_null(at + 1)?.unwrap_or_default())?;
    let node = names.nodes.get(&row.node).ok_or_else(|| missing("node"))?.clone();
    let netns = *names.netns.get(&row.netns).ok_or_else(|| missing("namespace"))?;
    let seen = cells.time_or_null(at + 2)?.ok_or_else(|| missing("first receipt"))?;
    let (birth, fresh) = (Birth::of(narrow(start)?, id), cells.flag(at + 3)?);
    Ok(Record { row, node, netns, birth, seen, fresh })
}
