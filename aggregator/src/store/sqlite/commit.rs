//! The one transaction that writes.

use std::time::Instant;

use flow::{Seq, UnixNanos};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};
use wire::frame::Digest;

use super::insert::{Binds, DoesNotFit, InsertError, Table};
use super::{Inner, Meaning, meaning, store_error};
use crate::store::row::{
    BatchRow, ChangeSet, EndedEntry, EpochAdvance, FlowRow, FrameName, GapRow, NetnsRow, NodeRow,
    ObserverRow, WriterToken, view_hash,
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
        sqlx::query("INSERT OR REPLACE INTO writer (id, token, taken) VALUES (1, ?, ?)")
            .bind(token.0.to_vec())
            .bind(now.micros_floor())
            .execute(&mut connection)
            .await
            .map_err(|error| store_error(&error))?;
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
    check_writer(connection, token).await?;
    insert_nodes(connection, set).await?;
    for advance in &set.advances {
        move_on(connection, advance).await?;
    }
    insert_rows(connection, set).await?;
    execute(connection, "COMMIT").await.map_err(|error| match meaning(&error) {
        Meaning::Away(text) | Meaning::Data(text) => CommitError::Unknown(text),
    })
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await.map(|_done| ())
}

async fn check_writer(
    connection: &mut SqliteConnection,
    token: WriterToken,
) -> Result<(), CommitError> {
    let found: Option<Vec<u8>> = sqlx::query_scalar("SELECT token FROM writer WHERE id = 1")
        .fetch_optional(connection)
        .await
        .map_err(|error| unavailable(&error))?;
    if found.as_deref() == Some(token.0.as_slice()) {
        Ok(())
    } else {
        Err(CommitError::OtherWriter)
    }
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
    set: &ChangeSet,
) -> Result<(), CommitError> {
    let frame = |index: u32| usize::try_from(index).ok().and_then(|at| set.frames.get(at)).copied();
    insert(connection, &NETNS, &set.netns, bind_netns, |_| None).await?;
    insert(connection, &OBSERVER, &set.observers, bind_observer, |row| frame(row.frame)).await?;
    for EndedEntry { entry, at } in &set.ended {
        sqlx::query("UPDATE flow_observer SET ended = ? WHERE entry = ?")
            .bind(at.micros_floor())
            .bind(entry.0)
            .execute(&mut *connection)
            .await
            .map_err(|error| unavailable(&error))?;
    }
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
    insert(connection, &GAP, &set.gaps, bind_gap, |row| Some(row.name)).await
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

const SEQ_RANGE: &str = "a sequence number exceeds 2^63 - 1";
const COUNTER_RANGE: &str = "a counter exceeds 2^63 - 1";
const START_RANGE: &str = "a start stamp exceeds 2^63 - 1";

static NODE: Table = Table::new("node", &["id", "name", "epoch", "epoch_since"]);

fn bind_node(binds: &mut Binds, row: &NodeRow) -> Result<(), DoesNotFit> {
    binds.int(row.node.0);
    binds.text(row.name.as_str());
    binds.blob(&row.epoch.0);
    binds.time(row.epoch_since);
    Ok(())
}

static NETNS: Table = Table::new("netns", &["id", "node", "inode", "boot"]);

fn bind_netns(binds: &mut Binds, row: &NetnsRow) -> Result<(), DoesNotFit> {
    binds.int(row.netns.0);
    binds.int(row.node.0);
    binds.int(row.inode().0);
    binds.blob(&row.id.boot.0);
    Ok(())
}

static OBSERVER: Table = Table::new(
    "flow_observer",
    &[
        "entry",
        "path",
        "node",
        "netns",
        "zone",
        "family",
        "proto",
        "sport",
        "dport",
        "src",
        "dst",
        "nat_sport",
        "nat_dport",
        "nat_src",
        "nat_dst",
        "view_inside",
        "view_outside",
        "raw_start",
        "kernel_id",
        "start",
        "fresh",
        "seen",
        "ended",
    ],
);

fn bind_observer(binds: &mut Binds, row: &ObserverRow) -> Result<(), DoesNotFit> {
    let (inside, outside) = (&row.inside, &row.outside);
    binds.int(row.entry.0);
    binds.int(row.path.0);
    binds.int(row.node.0);
    binds.int(row.netns.0);
    binds.int(row.zone.0);
    binds.int(inside.family() as u8);
    binds.int(inside.proto.0);
    binds.ports(inside);
    binds.addresses(inside);
    binds.nat_ports(inside, outside);
    binds.nat_addresses(inside, outside);
    binds.int(view_hash(inside));
    binds.int_or_null(row.is_translated().then(|| view_hash(outside)));
    let (start, id) = match row.birth {
        flow::Birth::Start(start) => (start, 0),
        flow::Birth::Id(id) => (0, id),
    };
    binds.checked(start, START_RANGE)?;
    binds.int(id);
    binds.time_or_null(row.start);
    binds.int(row.fresh);
    binds.time(row.seen);
    binds.time_or_null(row.ended);
    Ok(())
}

static FLOW: Table = Table::new("flow", super::decode::FLOW_FIELDS);

fn bind_flow(binds: &mut Binds, row: &FlowRow) -> Result<(), DoesNotFit> {
    let (inside, outside) = (&row.inside, &row.outside);
    binds.time(row.time);
    binds.time_or_null(row.since);
    binds.time_or_null(row.entry_start);
    binds.int(row.path.0);
    binds.int(row.entry.0);
    let [packets, bytes, reply_packets, reply_bytes] = row.counted.components();
    for counted in [bytes, reply_bytes, packets, reply_packets] {
        binds.checked(counted, COUNTER_RANGE)?;
    }
    let [raw_packets, raw_bytes, raw_reply_packets, raw_reply_bytes] = row.raw.components();
    for (raw, counted) in [
        (raw_bytes, bytes),
        (raw_reply_bytes, reply_bytes),
        (raw_packets, packets),
        (raw_reply_packets, reply_packets),
    ] {
        if raw == counted {
            binds.int_or_null(None);
        } else {
            binds.checked(raw, COUNTER_RANGE)?;
        }
    }
    binds.checked(row.seq.get(), SEQ_RANGE)?;
    binds.int(row.mark);
    binds.int_or_null(row.slack.map(|slack| {
        // Rounded up: it is a bound.
        i64::try_from(slack.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
    }));
    binds.int(row.node.0);
    binds.int(row.netns.0);
    binds.int(row.zone.0);
    binds.ports(inside);
    binds.nat_ports(inside, outside);
    binds.int(row.flags);
    binds.int(inside.family() as u8);
    binds.int(inside.proto.0);
    binds.int(row.tcp.0);
    binds.addresses(inside);
    binds.nat_addresses(inside, outside);
    Ok(())
}

static STRAY: Table = Table::new("flow_stray", super::decode::STRAY_FIELDS);

fn bind_stray(binds: &mut Binds, row: &FlowRow) -> Result<(), DoesNotFit> {
    bind_flow(binds, row)?;
    binds.time(row.stray.unwrap_or(row.time));
    Ok(())
}

static BATCH: Table = Table::new(
    "ingest_batch",
    &[
        "node",
        "epoch",
        "seq",
        "received",
        "digest",
        "records",
        "interval",
        "interval_ms",
        "part",
        "parts",
        "wall",
        "paused",
        "live_flows",
        "live_packets_orig",
        "live_bytes_orig",
        "live_packets_reply",
        "live_bytes_reply",
        "ended_flows",
        "ended_packets_orig",
        "ended_bytes_orig",
        "ended_packets_reply",
        "ended_bytes_reply",
        "uncounted",
        "ended_unseen",
    ],
);

fn bind_batch(binds: &mut Binds, row: &BatchRow) -> Result<(), DoesNotFit> {
    let interval = &row.interval;
    let totals = &interval.totals;
    binds.int(row.name.node.0);
    binds.blob(&row.name.epoch.0);
    binds.checked(row.name.seq.get(), SEQ_RANGE)?;
    binds.time(row.received);
    binds.blob(&row.digest.0);
    binds.int(row.records);
    binds.clamped(interval.number);
    binds.int(interval.length_ms);
    binds.int(interval.part);
    binds.int(interval.parts);
    binds.time(interval.clock.wall);
    binds.int(interval.paused);
    binds.clamped(totals.live_flows);
    binds.clamped_counters(&totals.live);
    binds.clamped(totals.ended_flows);
    binds.clamped_counters(&totals.ended);
    binds.clamped(totals.uncounted);
    binds.clamped(totals.ended_unseen);
    Ok(())
}

static GAP: Table = Table::new("gap", super::decode::GAP_FIELDS);

fn bind_gap(binds: &mut Binds, row: &GapRow) -> Result<(), DoesNotFit> {
    binds.int(row.name.node.0);
    binds.blob(&row.name.epoch.0);
    binds.checked(row.name.seq.get(), SEQ_RANGE)?;
    binds.checked(row.last.get(), SEQ_RANGE)?;
    binds.int(row.reason as u16);
    binds.blob(&row.boot.0);
    binds.time(row.at);
    binds.time(row.received);
    binds.clamped(row.flows);
    binds.clamped_counters(&row.lost);
    binds.text(&row.note);
    Ok(())
}
