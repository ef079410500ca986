//! The old store, read part by part in the order its rows lie in.

use flow::{Seq, StoreId};
use futures_util::TryStreamExt;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use crate::store::columns::{EPOCH_COLUMNS, FLOW_COLUMNS, GAP_FIELDS, OBSERVER_COLUMNS};
use crate::store::row::{ChangeSet, EpochAdvance};
use crate::store::sqlite::{SqliteStore, store_error};
use crate::store::{Store, StoreError, decode};

/// What is moved, in this order: what others name comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Nodes,
    Namespaces,
    Entries,
    Flows,
    Strays,
    Batches,
    Gaps,
    Aliases,
    /// Last: what is committed is what nodes will be told.
    Epochs,
}

impl Part {
    pub(super) const ALL: [Self; 9] = [
        Self::Nodes,
        Self::Namespaces,
        Self::Entries,
        Self::Flows,
        Self::Strays,
        Self::Batches,
        Self::Gaps,
        Self::Aliases,
        Self::Epochs,
    ];

    /// Its rows, for persons.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Namespaces => "network namespaces",
            Self::Entries => "entries",
            Self::Flows => "flow rows",
            Self::Strays => "stray rows",
            Self::Batches => "frames' history",
            Self::Gaps => "gaps",
            Self::Aliases => "aliases of paths",
            Self::Epochs => "epochs",
        }
    }

    /// Its table (of entries, a view with their ends), in both stores.
    pub(super) const fn table(self) -> &'static str {
        match self {
            Self::Nodes => "node",
            Self::Namespaces => "netns",
            Self::Entries => "flow_entry",
            Self::Flows => "flow",
            Self::Strays => "flow_stray",
            Self::Batches => "ingest_batch",
            Self::Gaps => "gap",
            Self::Aliases => "path_alias",
            Self::Epochs => "node_epoch",
        }
    }

    /// What tells its rows' order: a row number, or a key.
    const fn key(self) -> Key {
        match self {
            Self::Nodes | Self::Namespaces => Key::Number("id"),
            Self::Entries => Key::Number("entry"),
            Self::Flows | Self::Strays => Key::Number("rowid"),
            Self::Batches => Key::Frame("seq"),
            Self::Gaps => Key::Frame("first_seq"),
            Self::Aliases => Key::Number("path"),
            Self::Epochs => Key::Frame("committed_seq"),
        }
    }
}

#[derive(Clone, Copy)]
enum Key {
    Number(&'static str),
    /// Node, epoch, and a number within them.
    Frame(&'static str),
}

/// Where reading goes on: after the row with this key.
#[derive(Clone, Debug)]
pub(super) enum Cursor {
    Number(i64),
    Frame(i64, Vec<u8>, i64),
}

/// The old store.
pub(super) struct Source<'s> {
    pool: &'s SqlitePool,
    store: StoreId,
}

impl<'s> Source<'s> {
    pub(super) async fn new(store: &'s SqliteStore) -> Result<Self, StoreError> {
        Ok(Self { pool: store.reader(), store: store.meta().await?.store })
    }

    /// Its name.
    pub(super) const fn store(&self) -> StoreId {
        self.store
    }

    /// How many rows a part has.
    pub(super) async fn count(&self, part: Part) -> Result<u64, StoreError> {
        let text = format!("SELECT count(*) FROM {}", part.table());
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(text))
            .fetch_one(self.pool)
            .await
            .map_err(|error| store_error(&error))?;
        decode::narrow(count)
    }

    /// Where to go on after the first `done` rows of a part.
    pub(super) async fn after(&self, part: Part, done: u64) -> Result<Cursor, StoreError> {
        let (columns, start) = match part.key() {
            Key::Number(key) => (key.to_owned(), Cursor::Number(i64::MIN)),
            Key::Frame(seq) => {
                (format!("node, epoch, {seq}"), Cursor::Frame(i64::MIN, Vec::new(), i64::MIN))
            }
        };
        let Some(before) = done.checked_sub(1) else { return Ok(start) };
        let order = order(part);
        let text =
            format!("SELECT {columns} FROM {} ORDER BY {order} LIMIT 1 OFFSET ?", part.table());
        let row = sqlx::query(AssertSqlSafe(text))
            .bind(i64::try_from(before).unwrap_or(i64::MAX))
            .fetch_optional(self.pool)
            .await
            .map_err(|error| store_error(&error))?;
        let row = row.ok_or_else(|| {
            let name = part.name();
            StoreError::Corrupt(format!("it has fewer {name} than were moved: is it another one?"))
        })?;
        cursor(part, &row, 0)
    }

    /// The next rows of a part, at most `most`, as a change set that writes them.
    pub(super) async fn next(
        &self,
        part: Part,
        cursor: &mut Cursor,
        most: usize,
    ) -> Result<ChangeSet, StoreError> {
        let (columns, key) = columns(part);
        let condition = match part.key() {
            Key::Number(key) => format!("{key} > ?1"),
            Key::Frame(seq) => format!("(node, epoch, {seq}) > (?1, ?2, ?3)"),
        };
        let table = part.table();
        let alias = if part == Part::Entries { " AS o" } else { "" };
        let text = format!(
            "SELECT {columns}, {key} FROM {table}{alias} WHERE {condition} ORDER BY {} LIMIT {most}",
            order(part)
        );
        let query = sqlx::query(AssertSqlSafe(text));
        let query = match cursor {
            Cursor::Number(after) => query.bind(*after),
            Cursor::Frame(node, epoch, seq) => query.bind(*node).bind(epoch.clone()).bind(*seq),
        };
        let mut rows = query.fetch(self.pool);
        let mut set = ChangeSet::default();
        while let Some(row) = rows.try_next().await.map_err(|error| store_error(&error))? {
            add(part, &mut set, &row)?;
            *cursor = self::cursor(part, &row, columns_of(part))?;
        }
        Ok(set)
    }
}

fn order(part: Part) -> String {
    match part.key() {
        Key::Number(key) => key.to_owned(),
        Key::Frame(seq) => format!("node, epoch, {seq}"),
    }
}

/// What is selected of a part, and the key after it.
fn columns(part: Part) -> (String, String) {
    let columns = match part {
        Part::Nodes => "id, name, epoch, epoch_since".to_owned(),
        Part::Namespaces => "id, node, inode, boot".to_owned(),
        Part::Entries => OBSERVER_COLUMNS.to_owned(),
        Part::Flows => FLOW_COLUMNS.to_owned(),
        Part::Strays => format!("{FLOW_COLUMNS}, receipt"),
        Part::Batches => decode::BATCH_COLUMNS.to_owned(),
        Part::Gaps => GAP_FIELDS.join(", "),
        Part::Aliases => "path, into_path".to_owned(),
        Part::Epochs => EPOCH_COLUMNS.to_owned(),
    };
    (columns, order(part))
}

fn columns_of(part: Part) -> usize {
    columns(part).0.split(',').count()
}

fn cursor(part: Part, row: &SqliteRow, at: usize) -> Result<Cursor, StoreError> {
    let get = |at: usize| row.try_get(at).map_err(|error| store_error(&error));
    Ok(match part.key() {
        Key::Number(_) => Cursor::Number(get(at)?),
        Key::Frame(_) => {
            let epoch = row.try_get(at + 1).map_err(|error| store_error(&error))?;
            Cursor::Frame(get(at)?, epoch, get(at + 2)?)
        }
    })
}

fn add(part: Part, set: &mut ChangeSet, row: &SqliteRow) -> Result<(), StoreError> {
    match part {
        Part::Nodes => set.new_nodes.push(decode::node_row(row)?),
        Part::Namespaces => set.netns.push(decode::netns_row(row)?),
        Part::Entries => set.observers.push(decode::observer_row(row)?),
        Part::Flows | Part::Strays => set.flows.push(decode::flow_row(row)?),
        Part::Batches => set.batches.push(decode::batch_row(row)?),
        Part::Gaps => set.gaps.push(decode::gap_row(row)?),
        Part::Aliases => set.aliases.push(decode::alias(row)?),
        Part::Epochs => {
            // A store takes the first frames of an epoch as an epoch's beginning.
            let row = decode::epoch_row(row)?;
            set.advances.push(EpochAdvance { first: Seq(1), row });
        }
    }
    Ok(())
}
