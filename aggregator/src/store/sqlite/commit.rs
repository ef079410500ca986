//! The one transaction that writes.

use std::time::Instant;

use flow::{Seq, UnixNanos};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};
use wire::frame::Digest;

use super::insert::{Binds, DoesNotFit, InsertError, Table, json};
use super::tables::{
    BATCH, END, FLOW, GAP, NETNS, NODE, OBSERVER, SEQ_RANGE, STRAY, bind_batch, bind_end,
    bind_flow, bind_gap, bind_netns, bind_node, bind_observer, bind_stray,
};
use super::{Inner, Meaning, meaning, store_error};
use crate::store::columns::{
    ADD_ALIAS, INDEX_VIEWS, MOVE_ALIASES, NOTE_OPEN, OPEN_EVERY, OPEN_YOUNG,
};
use crate::store::row::{
    AliasRow, ChangeSet, EndedEntry, EntryNo, EpochAdvance, FlowRow, FrameName, WriterToken,
};
use crate::store::{CommitError, Progress, StoreError};

impl Inner {
    pub(super) async fn take_writer(
        &self,
        token: WriterToken,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let mut slot = self.writer.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|error| store_error(&error))?,
        };
        sqlx::query(
            "INSERT INTO writer (id, token, taken) VALUES (1, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET token = excluded.token, taken = excluded.taken",
        )
        .bind(token.0.to_vec())
        .bind(now.micros_floor())
        .execute(&mut connection)
        .await
        .map_err(|error| store_error(&error))?;
        *slot = Some(connection);
        Ok(())
    }

    pub(super) async fn index_views(&self) -> Result<(), StoreError> {
        let mut slot = self.writer.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|error| store_error(&error))?,
        };
        for sql in INDEX_VIEWS {
            execute(&mut connection, sql).await.map_err(|error| store_error(&error))?;
        }
        *slot = Some(connection);
        Ok(())
    }

    /// Commits `set`. The connection is put back only after a transaction that ended cleanly, so a
    /// failed or abandoned one is rolled back by closing it.
    pub(super) async fn commit(
        &self,
        token: WriterToken,
        set: &ChangeSet,
    ) -> Result<(), CommitError> {
        let begun = Instant::now();
        let mut slot = self.writer.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|error| unavailable(&error))?,
        };
        let result = transaction(&mut connection, token, set).await;
        self.metrics.transaction(&result, set.flows.len(), begun.elapsed());
        match &result {
            Ok(()) => *slot = Some(connection),
            Err(CommitError::Unavailable(_) | CommitError::Unknown(_)) => {
                let _rolled_back = connection.close().await;
            }
            Err(_refused) => {
                if sqlx::query("ROLLBACK").execute(&mut connection).await.is_ok() {
                    *slot = Some(connection);
                }
            }
        }
        result
    }
}

fn unavailable(error: &sqlx::Error) -> CommitError {
    refused(None, error)
}

fn refused(frame: Option<FrameName>, error: &sqlx::Error) -> CommitError {
    match meaning(error) {
        Meaning::Away(text) => CommitError::Unavailable(text),
        Meaning::Data(reason) => CommitError::Data { frame, reason },
    }
}

async fn transaction(
    connection: &mut SqliteConnection,
    token: WriterToken,
    set: &ChangeSet,
) -> Result<(), CommitError> {
    execute(connection, "BEGIN IMMEDIATE").await.map_err(|error| unavailable(&error))?;
    let open_upto = check_writer(connection, token).await?;
    insert_nodes(connection, set).await?;
    for advance in &set.advances {
        move_on(connection, advance).await?;
    }
    insert_rows(connection, open_upto, set).await?;
    execute(connection, "COMMIT").await.map_err(|error| match meaning(&error) {
        Meaning::Away(text) | Meaning::Data(text) => CommitError::Unknown(text),
    })
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await.map(|_done| ())
}

/// Up to which entry those that are open are noted, if `token` may write.
async fn check_writer(
    connection: &mut SqliteConnection,
    token: WriterToken,
) -> Result<EntryNo, CommitError> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT open_upto FROM writer WHERE id = 1 AND token = ?")
            .bind(token.0.to_vec())
            .fetch_optional(connection)
            .await
            .map_err(|error| unavailable(&error))?;
    found.map(EntryNo).ok_or(CommitError::OtherWriter)
}

async fn insert_nodes(
    connection: &mut SqliteConnection,
    set: &ChangeSet,
) -> Result<(), CommitError> {
    insert(connection, &NODE, &set.new_nodes, bind_node, |_| None).await?;
    for node in &set.switched {
        sqlx::query("UPDATE node SET epoch = ?, epoch_since = ? WHERE id = ?")
            .bind(node.epoch.0.to_vec())
            .bind(node.epoch_since.micros_floor())
            .bind(node.node.0)
            .execute(&mut *connection)
            .await
            .map_err(|error| unavailable(&error))?;
    }
    Ok(())
}

/// The heart of exactly once: progress moves only from the number before the set's first.
async fn move_on(
    connection: &mut SqliteConnection,
    advance: &EpochAdvance,
) -> Result<(), CommitError> {
    let EpochAdvance { first, row } = advance;
    let before = i64::try_from(first.get().saturating_sub(1))
        .map_err(|_over| CommitError::Data { frame: None, reason: SEQ_RANGE.to_owned() })?;
    let last = i64::try_from(row.committed.get())
        .map_err(|_over| CommitError::Data { frame: None, reason: SEQ_RANGE.to_owned() })?;
    let sql = if before == 0 {
        "INSERT INTO node_epoch (committed_seq, last_digest, begun, last_gap, sweep_boot, \
         sweep_begin, node, epoch) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    } else {
        "UPDATE node_epoch SET committed_seq = ?, last_digest = ?, begun = ?, last_gap = ?, \
         sweep_boot = ?, sweep_begin = ? WHERE node = ? AND epoch = ? AND committed_seq = ?"
    };
    let query = sqlx::query(sql)
        .bind(last)
        .bind(row.digest.0.to_vec())
        .bind(row.begun.micros_floor())
        .bind(row.last_gap.map(UnixNanos::micros_floor))
        .bind(row.sweep.map(|sweep| sweep.boot.0.to_vec()))
        .bind(row.sweep.map(|sweep| sweep.begin.0.cast_signed()))
        .bind(row.node.0)
        .bind(row.epoch.0.to_vec());
    let query = if before == 0 { query } else { query.bind(before) };
    let done = query.execute(&mut *connection).await.map_err(|error| unavailable(&error))?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    let committed = committed(connection, row).await.map_err(|error| unavailable(&error))?;
    Err(CommitError::Conflict { node: row.node, epoch: row.epoch, first: *first, committed })
}

async fn committed(
    connection: &mut SqliteConnection,
    row: &crate::store::row::EpochRow,
) -> Result<Option<Progress>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT committed_seq, last_digest FROM node_epoch WHERE node = ? AND epoch = ?",
    )
    .bind(row.node.0)
    .bind(row.epoch.0.to_vec())
    .fetch_optional(connection)
    .await?;
    found
        .map(|found| {
            let digest: Vec<u8> = found.try_get(1)?;
            let mut bytes = [0; 32];
            bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
            let committed: i64 = found.try_get(0)?;
            Ok(Progress { committed: Seq(committed.cast_unsigned()), digest: Digest(bytes) })
        })
        .transpose()
}

async fn insert_rows(
    connection: &mut SqliteConnection,
    open_upto: EntryNo,
    set: &ChangeSet,
) -> Result<(), CommitError> {
    let frame = |index: u32| usize::try_from(index).ok().and_then(|at| set.frames.get(at)).copied();
    insert(connection, &NETNS, &set.netns, bind_netns, |_| None).await?;
    insert(connection, &OBSERVER, &set.observers, bind_observer, |row| frame(row.frame)).await?;
    note_late(connection, open_upto, set).await?;
    end_entries(connection, open_upto, &set.all_ends()).await?;
    reopen_entries(connection, open_upto, &set.reopened).await?;
    note_open(connection, open_upto, set).await?;
    if set.flows.iter().any(|row| row.stray.is_some()) {
        let is_stray = |row: &FlowRow| row.stray.is_some();
        let (strays, normal): (Vec<FlowRow>, Vec<FlowRow>) =
            set.flows.iter().copied().partition(is_stray);
        insert(connection, &STRAY, &strays, bind_stray, |row| frame(row.frame)).await?;
        insert(connection, &FLOW, &normal, bind_flow, |row| frame(row.frame)).await?;
    } else {
        insert(connection, &FLOW, &set.flows, bind_flow, |row| frame(row.frame)).await?;
    }
    insert(connection, &BATCH, &set.batches, bind_batch, |row| Some(row.name)).await?;
    alias_paths(connection, &set.aliases).await?;
    insert(connection, &GAP, &set.gaps, bind_gap, |row| Some(row.name)).await
}

/// Writes ends. Entries that are noted as open are so no longer.
async fn end_entries(
    connection: &mut SqliteConnection,
    open_upto: EntryNo,
    ended: &[EndedEntry],
) -> Result<(), CommitError> {
    insert(connection, &END, ended, bind_end, |_| None).await?;
    let noted = ended.iter().map(|ended| ended.entry).filter(|entry| *entry <= open_upto).collect();
    let forget = "DELETE FROM flow_open WHERE entry IN (SELECT value FROM json_each(?))";
    with_entries(connection, forget, noted).await
}

async fn reopen_entries(
    connection: &mut SqliteConnection,
    open_upto: EntryNo,
    reopened: &[EntryNo],
) -> Result<(), CommitError> {
    let open = "DELETE FROM flow_end WHERE entry IN (SELECT value FROM json_each(?))";
    with_entries(connection, open, reopened.to_vec()).await?;
    let note = "INSERT OR IGNORE INTO flow_open SELECT value FROM json_each(?)";
    let noted = reopened.iter().copied().filter(|entry| *entry <= open_upto).collect();
    with_entries(connection, note, noted).await
}

async fn alias_paths(
    connection: &mut SqliteConnection,
    aliases: &[AliasRow],
) -> Result<(), CommitError> {
    for AliasRow { path, into } in aliases {
        for sql in [MOVE_ALIASES, ADD_ALIAS] {
            let done = sqlx::query(sql).bind(into.0).bind(path.0).execute(&mut *connection).await;
            done.map_err(|error| unavailable(&error))?;
        }
    }
    Ok(())
}

async fn with_entries(
    connection: &mut SqliteConnection,
    sql: &'static str,
    entries: Vec<EntryNo>,
) -> Result<(), CommitError> {
    if entries.is_empty() {
        return Ok(());
    }
    let done = sqlx::query(sql).bind(json(entries.into_iter())).execute(connection).await;
    done.map(|_done| ()).map_err(|error| unavailable(&error))
}

/// Notes new entries whose numbers were given before open ones were noted last.
async fn note_late(
    connection: &mut SqliteConnection,
    open_upto: EntryNo,
    set: &ChangeSet,
) -> Result<(), CommitError> {
    let note = "INSERT OR IGNORE INTO flow_open SELECT value FROM json_each(?)";
    with_entries(connection, note, set.late_entries(open_upto)).await
}

/// Notes which of the older entries are open, once there are many that were not looked at.
async fn note_open(
    connection: &mut SqliteConnection,
    open_upto: EntryNo,
    set: &ChangeSet,
) -> Result<(), CommitError> {
    let last = set.observers.iter().map(|row| row.entry.0).max().unwrap_or_default();
    if last - open_upto.0 < OPEN_EVERY {
        return Ok(());
    }
    let upto = last - OPEN_YOUNG;
    for query in [
        sqlx::query(NOTE_OPEN).bind(open_upto.0).bind(upto),
        sqlx::query("UPDATE writer SET open_upto = ? WHERE id = 1").bind(upto),
    ] {
        query.execute(&mut *connection).await.map_err(|error| unavailable(&error))?;
    }
    Ok(())
}

async fn insert<T>(
    connection: &mut SqliteConnection,
    table: &Table,
    rows: &[T],
    bind: impl Fn(&mut Binds, &T) -> Result<(), DoesNotFit>,
    frame: impl Fn(&T) -> Option<FrameName>,
) -> Result<(), CommitError> {
    table.insert(connection, rows, bind).await.map_err(|error| match error {
        InsertError::Database(error) => unavailable(&error),
        InsertError::Value(at, what) => {
            CommitError::Data { frame: rows.get(at).and_then(frame), reason: what.to_owned() }
        }
    })
}
