//! The one transaction that writes.
//!
//! Its first statement is the writer's: it checks the token, keeps the row locked so that who
//! takes the store over waits for this transaction, notes the last numbers given out, and says
//! the transaction's own number. Progress is moved by one statement for all epochs, rows go in by
//! COPY, and with COMMIT begins the time in which nobody knows: the number is kept until the
//! server has told what became of it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use flow::{Epoch, UnixNanos};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Row, query};

use super::Inner;
use super::connect::{self, Failed, Lease, STATEMENT, Transaction, away, within};
use super::copy::{DoesNotFit, Encoder};
use super::error::{Meaning, meaning, refused};
use super::partition::Day;
use super::tables::{self, SEQ_RANGE, Table};
use super::value::{Name, Time};
use crate::store::columns::{ADD_ALIAS, MOVE_ALIASES, NOTE_OPEN, OPEN_EVERY, OPEN_YOUNG};
use crate::store::decode::{self, Cells};
use crate::store::row::{
    AliasRow, ChangeSet, EndedEntry, EntryNo, EpochAdvance, FlowRow, FrameName, NodeNo, WriterToken,
};

use crate::store::{CommitError, StoreError};

impl Inner {
    pub(super) async fn take_writer(
        &self,
        token: WriterToken,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let mut lease = self.lease().await?;
        let result = within(STATEMENT, take(&mut lease.connection, token, now)).await;
        let mut result = result.map_err(away);
        if let (Ok(_), Some(days)) = (&result, &mut lease.slot.days) {
            let missing = days.missing_from(now);
            let made = within(STATEMENT, days.make(&mut lease.connection, &missing)).await;
            result = made.map_err(away).and(result);
        }
        lease.slot.commits = result.as_ref().ok().copied();
        lease.done(result).map(|_commits| ())
    }

    /// Commits `set`. The connection is put back only after a transaction that ended cleanly, so a
    /// failed or abandoned one is rolled back by closing it.
    pub(super) async fn commit(
        &self,
        token: WriterToken,
        set: &ChangeSet,
    ) -> Result<(), CommitError> {
        let begun = Instant::now();
        let result = match self.lease().await {
            Ok(lease) => commit(lease, token, set).await,
            Err(error) => Err(CommitError::Unavailable(error.to_string())),
        };
        self.metrics.transaction(&result, set.flows.len(), begun.elapsed());
        result
    }
}

/// Takes the writer's row; gives the number of transactions it has counted.
async fn take(
    connection: &mut PgConnection,
    token: WriterToken,
    now: UnixNanos,
) -> Result<i64, sqlx::Error> {
    query(
        "INSERT INTO writer (id, token, taken) VALUES (1, $1, $2) \
         ON CONFLICT (id) DO UPDATE SET token = excluded.token, taken = excluded.taken \
         RETURNING commits",
    )
    .bind(Name(token.0))
    .bind(Time(now))
    .fetch_one(connection)
    .await?
    .try_get(0)
}

async fn commit(
    mut lease: Lease<'_>,
    token: WriterToken,
    set: &ChangeSet,
) -> Result<(), CommitError> {
    let Lease { slot, connection } = &mut lease;
    if let Some(days) = &mut slot.days {
        let missing: Vec<Day> = days.missing(set)?;
        if !missing.is_empty() {
            within(STATEMENT, days.make(connection, &missing)).await.map_err(unavailable)?;
        }
    }
    let expected = slot.commits.map(|commits| commits.saturating_add(1));
    let written = tokio::time::timeout(TRANSACTION, write(connection, token, expected, set)).await;
    let written = written.unwrap_or_else(|_elapsed| Err(silent()));
    match written {
        Ok(Written { transaction, commits, .. }) => {
            // From here on the outcome is unknown until the server answers, also to whoever
            // comes after a caller that gave up.
            slot.doubt = Some(transaction);
            let committed = within(STATEMENT, execute(connection, "COMMIT")).await;
            if let Err(failed) = committed {
                return Err(CommitError::Unknown(failed.meaning().into_text()));
            }
            slot.doubt = None;
            slot.commits = Some(commits);
            lease.give_back();
            Ok(())
        }
        Err(Refusal::Partition(text)) => {
            if let Some(days) = &mut slot.days {
                days.forget();
            }
            Err(CommitError::Unavailable(text))
        }
        Err(Refusal::Commit(error)) => {
            let clean = !matches!(error, CommitError::Unavailable(_));
            if clean && within(STATEMENT, execute(connection, "ROLLBACK")).await.is_ok() {
                lease.give_back();
            } else {
                connect::end(lease.connection).await;
            }
            Err(error)
        }
    }
}

/// How long everything before COMMIT may take, by our clock.
const TRANSACTION: Duration = Duration::from_secs(120);

/// Why a transaction got no further than COMMIT.
enum Refusal {
    /// There is no partition for a row.
    Partition(String),
    /// Anything else.
    Commit(CommitError),
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        match meaning(&error) {
            Meaning::NoPartition(text) => Self::Partition(text),
            _ => Self::Commit(refused(None, &error)),
        }
    }
}

fn unavailable(failed: Failed) -> CommitError {
    CommitError::Unavailable(failed.meaning().into_text())
}

fn silent() -> Refusal {
    Refusal::Commit(unavailable(Failed::Silent(TRANSACTION)))
}

/// A transaction up to its COMMIT.
struct Written {
    transaction: Transaction,
    /// The store's number for it, counted by the writer's row.
    commits: i64,
    /// The last entry there is, those of this transaction among them.
    last_entry: EntryNo,
    /// Entries up to this one are noted, where they are open.
    open_upto: EntryNo,
}

/// Everything but COMMIT. Where the row of the writer has not counted as many transactions as it
/// must have (`expected` with this one), the database is not the one this process has written.
async fn write(
    connection: &mut PgConnection,
    token: WriterToken,
    expected: Option<i64>,
    set: &ChangeSet,
) -> Result<Written, Refusal> {
    execute(connection, "BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let written = hold_writer(connection, token, set).await?;
    if expected.is_some_and(|expected| expected != written.commits) {
        return Err(CommitError::SetBack.into());
    }
    copy(connection, tables::NODE, &set.new_nodes, tables::node, |_| None).await?;
    switch_nodes(connection, set).await?;
    move_on(connection, &set.advances).await?;
    insert_rows(connection, &written, set).await?;
    Ok(written)
}

async fn execute(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await.map(|_done| ())
}

async fn hold_writer(
    connection: &mut PgConnection,
    token: WriterToken,
    set: &ChangeSet,
) -> Result<Written, Refusal> {
    let held = query(
        "UPDATE writer SET commits = commits + 1, last_entry = greatest(last_entry, $2), \
         last_path = greatest(last_path, $3), last_node = greatest(last_node, $4), \
         last_netns = greatest(last_netns, $5) WHERE id = 1 AND token = $1 \
         RETURNING pg_current_xact_id()::text, commits, last_entry, open_upto",
    )
    .bind(Name(token.0))
    .bind(set.observers.iter().map(|row| row.entry.0).max().unwrap_or_default())
    .bind(set.last_path().0)
    .bind(set.new_nodes.iter().map(|row| row.node.0).max().unwrap_or_default())
    .bind(set.netns.iter().map(|row| row.netns.0).max().unwrap_or_default())
    .fetch_optional(connection)
    .await?;
    match held {
        Some(row) => Ok(Written {
            transaction: Transaction(row.try_get(0)?),
            commits: row.try_get(1)?,
            last_entry: EntryNo(row.try_get(2)?),
            open_upto: EntryNo(row.try_get(3)?),
        }),
        None => Err(CommitError::OtherWriter.into()),
    }
}

async fn switch_nodes(connection: &mut PgConnection, set: &ChangeSet) -> Result<(), sqlx::Error> {
    for node in &set.switched {
        query("UPDATE node SET epoch = $1, epoch_since = $2 WHERE id = $3")
            .bind(Name(node.epoch.0))
            .bind(Time(node.epoch_since))
            .bind(node.node.0)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The heart of exactly once: progress moves only from the number before the set's first.
async fn move_on(connection: &mut PgConnection, advances: &[EpochAdvance]) -> Result<(), Refusal> {
    let (begin, go_on): (Vec<&EpochAdvance>, Vec<&EpochAdvance>) =
        advances.iter().partition(|advance| advance.first.get() <= 1);
    let mut moved = HashSet::new();
    for (sql, advances) in [(BEGIN_EPOCHS, begin), (MOVE_EPOCHS, go_on)] {
        if !advances.is_empty() {
            let rows = statement(sql, &advances)?.fetch_all(&mut *connection).await?;
            moved.extend(rows.iter().map(epoch_key).collect::<Result<Vec<_>, _>>()?);
        }
    }
    for EpochAdvance { first, row } in advances {
        if !moved.contains(&(row.node, row.epoch)) {
            let found = query(
                "SELECT committed_seq, last_digest FROM node_epoch WHERE node = $1 AND epoch = $2",
            )
            .bind(row.node.0)
            .bind(Name(row.epoch.0))
            .fetch_optional(connection)
            .await?;
            let committed = found.as_ref().map(decode::progress).transpose().map_err(damaged)?;
            let (node, epoch, first) = (row.node, row.epoch, *first);
            return Err(CommitError::Conflict { node, epoch, first, committed }.into());
        }
    }
    Ok(())
}

fn epoch_key(row: &PgRow) -> Result<(NodeNo, Epoch), Refusal> {
    let node = row.try_get(0)?;
    let epoch = row.name_or_null(1).map_err(damaged)?;
    Ok((NodeNo(node), Epoch(epoch.unwrap_or_default())))
}

/// What cannot be read back is the store's damage, not the frame's.
fn damaged(error: StoreError) -> Refusal {
    Refusal::Commit(CommitError::Unavailable(error.to_string()))
}

const BEGIN_EPOCHS: &str = "INSERT INTO node_epoch \
    (node, epoch, committed_seq, last_digest, begun, last_gap, sweep_boot, sweep_begin) \
    SELECT node, epoch, last, digest, begun, last_gap, boot, begin FROM \
    unnest($1::int4[], $2::uuid[], $3::int8[], $4::int8[], $5::bytea[], $6::timestamptz[], \
    $7::timestamptz[], $8::uuid[], $9::int8[]) AS new \
    (node, epoch, before, last, digest, begun, last_gap, boot, begin) \
    ON CONFLICT DO NOTHING RETURNING node, epoch";

const MOVE_EPOCHS: &str = "UPDATE node_epoch AS e SET committed_seq = new.last, \
    last_digest = new.digest, begun = new.begun, last_gap = new.last_gap, \
    sweep_boot = new.boot, sweep_begin = new.begin FROM \
    unnest($1::int4[], $2::uuid[], $3::int8[], $4::int8[], $5::bytea[], $6::timestamptz[], \
    $7::timestamptz[], $8::uuid[], $9::int8[]) AS new \
    (node, epoch, before, last, digest, begun, last_gap, boot, begin) \
    WHERE e.node = new.node AND e.epoch = new.epoch AND e.committed_seq = new.before \
    RETURNING e.node, e.epoch";

type Query<'q> = query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// One of the two above with its arguments: a column each.
fn statement(sql: &'static str, advances: &[&EpochAdvance]) -> Result<Query<'static>, CommitError> {
    let seq = |value: u64| {
        i64::try_from(value)
            .map_err(|_over| CommitError::Data { frame: None, reason: SEQ_RANGE.to_owned() })
    };
    let before = advances.iter().map(|a| seq(a.first.get().saturating_sub(1)));
    let last = advances.iter().map(|a| seq(a.row.committed.get()));
    let rows = || advances.iter().map(|advance| &advance.row);
    Ok(query(sql)
        .bind(rows().map(|row| row.node.0).collect::<Vec<_>>())
        .bind(rows().map(|row| Name(row.epoch.0)).collect::<Vec<_>>())
        .bind(before.collect::<Result<Vec<_>, _>>()?)
        .bind(last.collect::<Result<Vec<_>, _>>()?)
        .bind(rows().map(|row| row.digest.0.to_vec()).collect::<Vec<_>>())
        .bind(rows().map(|row| Time(row.begun)).collect::<Vec<_>>())
        .bind(rows().map(|row| row.last_gap.map(Time)).collect::<Vec<_>>())
        .bind(rows().map(|row| row.sweep.map(|sweep| Name(sweep.boot.0))).collect::<Vec<_>>())
        .bind(
            rows()
                .map(|row| row.sweep.map(|sweep| sweep.begin.0.cast_signed()))
                .collect::<Vec<_>>(),
        ))
}

async fn insert_rows(
    connection: &mut PgConnection,
    written: &Written,
    set: &ChangeSet,
) -> Result<(), Refusal> {
    let frame = |index: u32| usize::try_from(index).ok().and_then(|at| set.frames.get(at)).copied();
    copy(connection, tables::NETNS, &set.netns, tables::netns, |_| None).await?;
    let of = |row: &crate::store::row::ObserverRow| frame(row.frame);
    copy(connection, tables::OBSERVER, &set.observers, tables::observer, of).await?;
    let late = set.late_entries(written.open_upto).into_iter();
    with_entries(connection, NOTE_LATE, late).await?;
    end_entries(connection, written.open_upto, &set.all_ends()).await?;
    reopen_entries(connection, written.open_upto, &set.reopened).await?;
    note_open(connection, written).await?;
    let of = |row: &FlowRow| frame(row.frame);
    if set.flows.iter().any(|row| row.stray.is_some()) {
        let (strays, normal): (Vec<FlowRow>, Vec<FlowRow>) =
            set.flows.iter().copied().partition(|row| row.stray.is_some());
        copy(connection, tables::STRAY, &strays, tables::stray, of).await?;
        copy(connection, tables::FLOW, &normal, tables::flow, of).await?;
    } else {
        copy(connection, tables::FLOW, &set.flows, tables::flow, of).await?;
    }
    copy(connection, tables::BATCH, &set.batches, tables::batch, |row| Some(row.name)).await?;
    alias_paths(connection, &set.aliases).await?;
    copy(connection, tables::GAP, &set.gaps, tables::gap, |row| Some(row.name)).await
}

/// Writes ends. Entries that are noted as open are so no longer.
async fn end_entries(
    connection: &mut PgConnection,
    open_upto: EntryNo,
    ended: &[EndedEntry],
) -> Result<(), Refusal> {
    copy(connection, tables::END, ended, tables::end, |_| None).await?;
    let noted = ended.iter().map(|ended| ended.entry).filter(|entry| *entry <= open_upto);
    with_entries(connection, "DELETE FROM flow_open WHERE entry = ANY ($1)", noted).await
}

async fn reopen_entries(
    connection: &mut PgConnection,
    open_upto: EntryNo,
    reopened: &[EntryNo],
) -> Result<(), Refusal> {
    let all = || reopened.iter().copied();
    with_entries(connection, "DELETE FROM flow_end WHERE entry = ANY ($1)", all()).await?;
    with_entries(connection, NOTE_LATE, all().filter(|entry| *entry <= open_upto)).await
}

/// Notes entries that are open, and whose numbers were passed over when open ones were noted last.
const NOTE_LATE: &str = "INSERT INTO flow_open SELECT unnest($1::int8[]) ON CONFLICT DO NOTHING";

async fn alias_paths(connection: &mut PgConnection, aliases: &[AliasRow]) -> Result<(), Refusal> {
    for AliasRow { path, into } in aliases {
        for sql in [MOVE_ALIASES, ADD_ALIAS] {
            query(sql).bind(into.0).bind(path.0).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

async fn with_entries(
    connection: &mut PgConnection,
    sql: &'static str,
    entries: impl Iterator<Item = EntryNo>,
) -> Result<(), Refusal> {
    let entries: Vec<i64> = entries.map(|entry| entry.0).collect();
    if !entries.is_empty() {
        query(sql).bind(entries).execute(connection).await?;
    }
    Ok(())
}

/// Notes which of the older entries are open, once there are many that were not looked at.
async fn note_open(connection: &mut PgConnection, written: &Written) -> Result<(), Refusal> {
    let Written { last_entry, open_upto, .. } = written;
    if last_entry.0 - open_upto.0 < OPEN_EVERY {
        return Ok(());
    }
    let upto = last_entry.0 - OPEN_YOUNG;
    query(NOTE_OPEN).bind(open_upto.0).bind(upto).execute(&mut *connection).await?;
    query("UPDATE writer SET open_upto = $1 WHERE id = 1").bind(upto).execute(connection).await?;
    Ok(())
}

/// Bytes of rows that are sent in one go, while the server takes in those before them.
const CHUNK: usize = 128 << 10;

/// Copies `rows` into `table`, each written by `write`.
async fn copy<T>(
    connection: &mut PgConnection,
    table: Table,
    rows: &[T],
    write: impl Fn(&mut Encoder, &T) -> Result<(), DoesNotFit>,
    frame: impl Fn(&T) -> Option<FrameName>,
) -> Result<(), Refusal> {
    if rows.is_empty() {
        return Ok(());
    }
    let columns = u16::try_from(table.columns.len()).unwrap_or(u16::MAX);
    let sql =
        format!("COPY {} ({}) FROM STDIN (FORMAT binary)", table.name, table.columns.join(", "));
    let mut out = Encoder::new(columns, CHUNK + (CHUNK >> 3));
    let mut copy = connection.copy_in_raw(&sql).await?;
    for row in rows {
        out.row();
        if let Err(DoesNotFit(what)) = write(&mut out, row) {
            copy.abort(what).await?;
            let refused = CommitError::Data { frame: frame(row), reason: what.to_owned() };
            return Err(refused.into());
        }
        if out.bytes().len() >= CHUNK {
            copy.send(out.bytes()).await?;
            out.clear();
        }
    }
    out.end();
    copy.send(out.bytes()).await?;
    copy.finish().await?;
    Ok(())
}
