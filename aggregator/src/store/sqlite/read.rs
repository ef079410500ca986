//! Questions to the database.

use flow::{Birth, Counters, Epoch, NodeName, UnixNanos};
use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::insert::{Binds, chunks, json, placeholders};
use super::store_error;
use crate::store::columns::{
    EPOCH_COLUMNS, FLOW_COLUMNS, GAP_FIELDS, LOADED_ENTRIES, OBSERVER_COLUMNS,
};
use crate::store::decode;
use crate::store::row::{
    EntryNo, FlowRow, GapRow, Identity, LastIds, Loaded, NetnsNo, NodeNo, ObserverRow, PathNo,
    view_hash,
};
use crate::store::{Progress, StoreError};

/// Runs `sql` and decodes every row.
async fn all<T>(
    pool: &SqlitePool,
    sql: AssertSqlSafe<String>,
    arguments: SqliteArguments,
    decode: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut rows = sqlx::query_with(sql, arguments).persistent(false).fetch(pool);
    let mut out = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(|error| store_error(&error))? {
        out.push(decode(&row)?);
    }
    Ok(out)
}

fn binds(fill: impl FnOnce(&mut Binds)) -> Result<SqliteArguments, StoreError> {
    let mut binds = Binds::with_capacity(8);
    fill(&mut binds);
    binds.finish().map_err(|error| store_error(&error))
}

fn sql(text: &str) -> AssertSqlSafe<String> {
    // Every text below is put together of constants; values are bound.
    AssertSqlSafe(text.to_owned())
}

/// Everything is read in one go before anything writes, so no transaction is needed around it.
pub(super) async fn load(
    pool: &SqlitePool,
    ended_from: UnixNanos,
    most: u32,
) -> Result<Loaded, StoreError> {
    let none = SqliteArguments::default;
    let nodes = all(
        pool,
        sql("SELECT id, name, epoch, epoch_since FROM node ORDER BY id"),
        none(),
        decode::node_row,
    );
    let epochs = all(
        pool,
        sql(&format!("SELECT {EPOCH_COLUMNS} FROM node_epoch ORDER BY node, epoch")),
        none(),
        decode::epoch_row,
    );
    let netns = all(
        pool,
        sql("SELECT id, node, inode, boot FROM netns ORDER BY id"),
        none(),
        decode::netns_row,
    );
    let (nodes, epochs, netns) = (nodes.await?, epochs.await?, netns.await?);
    let observers = all(
        pool,
        sql(&format!(
            "SELECT {OBSERVER_COLUMNS} FROM {LOADED_ENTRIES} ORDER BY o.entry DESC LIMIT $2"
        )),
        binds(|b| {
            b.time(ended_from);
            b.int(most);
        })?,
        decode::observer_row,
    );
    let mut observers = observers.await?;
    observers.reverse();
    resolve(pool, &mut observers).await?;
    let heard = all(pool, sql(HEARD), none(), decode::heard_row).await?;
    let mut forgotten = forgotten(pool, ended_from).await?;
    let full = u32::try_from(observers.len()).is_ok_and(|loaded| loaded >= most);
    if let Some(first) = observers.first().filter(|_| full) {
        forgotten = forgotten.max(seen_before(pool, first.entry).await?);
    }
    let ids = last_ids(pool).await?;
    Ok(Loaded { nodes, epochs, netns, observers, heard, forgotten, ids })
}

/// The last batch of each epoch, by its key; a later gap says nothing of entries.
const HEARD: &str = "SELECT node, max(received) FROM (SELECT e.node, \
    (SELECT b.received FROM ingest_batch b WHERE b.node = e.node AND b.epoch = e.epoch \
     ORDER BY b.seq DESC LIMIT 1) AS received FROM node_epoch e) \
    WHERE received IS NOT NULL GROUP BY node";

/// What [`Loaded::forgotten`] is for entries that ended before this moment.
async fn forgotten(
    pool: &SqlitePool,
    ended_from: UnixNanos,
) -> Result<Option<UnixNanos>, StoreError> {
    let older: Option<i64> = sqlx::query_scalar("SELECT 1 FROM flow_end WHERE ended < ? LIMIT 1")
        .bind(ended_from.micros_floor())
        .fetch_optional(pool)
        .await
        .map_err(|error| store_error(&error))?;
    Ok(older.map(|_row| ended_from))
}

/// When the last entry before `entry` was seen first: both only grow.
async fn seen_before(pool: &SqlitePool, entry: EntryNo) -> Result<Option<UnixNanos>, StoreError> {
    let seen: Option<i64> = sqlx::query_scalar(
        "SELECT seen FROM flow_observer WHERE entry < ? ORDER BY entry DESC LIMIT 1",
    )
    .bind(entry.0)
    .fetch_optional(pool)
    .await
    .map_err(|error| store_error(&error))?;
    Ok(seen.map(decode::from_micros))
}

async fn last_ids(pool: &SqlitePool) -> Result<LastIds, StoreError> {
    let row = sqlx::query(
        "SELECT (SELECT coalesce(max(id), 0) FROM node), \
                (SELECT coalesce(max(id), 0) FROM netns), \
                (SELECT coalesce(max(entry), 0) FROM flow_observer), \
                (SELECT coalesce(max(path), 0) FROM (SELECT max(path) AS path FROM flow_observer \
                 UNION ALL SELECT max(path) FROM path_alias \
                 UNION ALL SELECT max(into_path) FROM path_alias))",
    )
    .fetch_one(pool)
    .await
    .map_err(|error| store_error(&error))?;
    let get = |at: usize| row.try_get::<i64, _>(at).map_err(|error| store_error(&error));
    let small = |value: i64| {
        i32::try_from(value).map_err(|_over| StoreError::Corrupt(format!("a row id of {value}")))
    };
    Ok(LastIds {
        node: NodeNo(small(get(0)?)?),
        netns: NetnsNo(small(get(1)?)?),
        entry: EntryNo(get(2)?),
        path: PathNo(get(3)?),
    })
}

pub(super) async fn progress(
    pool: &SqlitePool,
    node: &NodeName,
    epoch: Epoch,
) -> Result<Option<Progress>, StoreError> {
    let row = sqlx::query(
        "SELECT committed_seq, last_digest FROM node_epoch \
         WHERE node = (SELECT id FROM node WHERE name = ?) AND epoch = ?",
    )
    .bind(node.as_str().to_owned())
    .bind(epoch.0.to_vec())
    .fetch_optional(pool)
    .await
    .map_err(|error| store_error(&error))?;
    row.as_ref().map(decode::progress).transpose()
}

pub(super) async fn find(
    pool: &SqlitePool,
    identities: &[Identity],
) -> Result<Vec<ObserverRow>, StoreError> {
    let mut found = Vec::new();
    let mut done = 0;
    for (_, size) in chunks(identities.len()) {
        let chunk = identities.get(done..done + size).unwrap_or_default();
        done += size;
        let mut binds = Binds::with_capacity(size * IDENTITY_COLUMNS);
        for identity in chunk {
            bind_identity(&mut binds, identity);
        }
        let text = format!(
            "WITH want (netns, raw_start, kernel_id, view_inside, zone, proto, sport, dport, src, \
             dst) AS (VALUES {}) SELECT {} FROM want CROSS JOIN flow_entry o USING \
             (netns, raw_start, kernel_id, view_inside, zone, proto, sport, dport, src, dst)",
            placeholders(IDENTITY_COLUMNS, size),
            OBSERVER_COLUMNS
        );
        let arguments = binds.finish().map_err(|error| store_error(&error))?;
        found.extend(all(pool, AssertSqlSafe(text), arguments, decode::observer_row).await?);
    }
    resolve(pool, &mut found).await?;
    Ok(found)
}

pub(super) async fn find_views(
    pool: &SqlitePool,
    hashes: &[i64],
) -> Result<Vec<ObserverRow>, StoreError> {
    // Two questions: OR over both columns would read the whole table.
    let text = format!(
        "WITH want AS (SELECT value FROM json_each(?1)) \
         SELECT {OBSERVER_COLUMNS} FROM want \
         JOIN flow_entry o ON o.view_inside = want.value \
         UNION SELECT {OBSERVER_COLUMNS} FROM want \
         JOIN flow_entry o ON o.view_outside = want.value"
    );
    let arguments = binds(|b| b.text(&json(hashes.iter().copied().map(EntryNo))))?;
    let mut found = all(pool, AssertSqlSafe(text), arguments, decode::observer_row).await?;
    resolve(pool, &mut found).await?;
    Ok(found)
}

/// Gives entries the paths that theirs have become.
async fn resolve(pool: &SqlitePool, rows: &mut [ObserverRow]) -> Result<(), StoreError> {
    let none = SqliteArguments::default();
    let any = all(pool, sql("SELECT path, into_path FROM path_alias LIMIT 1"), none, decode::alias);
    if any.await?.is_empty() {
        return Ok(());
    }
    let paths = json(rows.iter().map(|row| EntryNo(row.path.0)));
    let text = "SELECT path, into_path FROM path_alias \
                WHERE path IN (SELECT value FROM json_each(?1))";
    let aliases = all(pool, sql(text), binds(|b| b.text(&paths))?, decode::alias).await?;
    decode::resolve(rows, &aliases);
    Ok(())
}

pub(super) async fn history(
    pool: &SqlitePool,
    entries: &[EntryNo],
    from: UnixNanos,
) -> Result<Vec<FlowRow>, StoreError> {
    let wanted = "(SELECT value FROM json_each(?1))";
    let text = format!(
        "SELECT {FLOW_COLUMNS}, NULL AS receipt FROM flow WHERE time >= ?2 AND entry IN {wanted} \
         UNION ALL SELECT {FLOW_COLUMNS}, receipt FROM flow_stray WHERE entry IN {wanted}"
    );
    let arguments = binds(|b| {
        b.text(&json(entries.iter().copied()));
        b.time(from);
    })?;
    all(pool, AssertSqlSafe(text), arguments, decode::flow_row).await
}

const IDENTITY_COLUMNS: usize = 10;

fn bind_identity(binds: &mut Binds, identity: &Identity) {
    let (start, id) = match identity.birth {
        Birth::Start(start) => (start, 0),
        Birth::Id(id) => (0, id),
    };
    binds.int(identity.netns.0);
    // Stamps beyond the column's range are never stored, and a negative one finds nothing.
    binds.int(i64::try_from(start).unwrap_or(-1));
    binds.int(id);
    binds.int(view_hash(&identity.orig));
    binds.int(identity.zone.0);
    binds.int(identity.orig.proto.0);
    binds.ports(&identity.orig);
    binds.addresses(&identity.orig);
}

pub(super) async fn counted(
    pool: &SqlitePool,
    entries: &[EntryNo],
    from: UnixNanos,
) -> Result<Vec<(EntryNo, Counters)>, StoreError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = "(SELECT value FROM json_each(?1))";
    let raw = "entry, coalesce(raw_packets_orig, packets_orig) AS op, \
               coalesce(raw_bytes_orig, bytes_orig) AS ob, \
               coalesce(raw_packets_reply, packets_reply) AS rp, \
               coalesce(raw_bytes_reply, bytes_reply) AS rb";
    let text = format!(
        "SELECT entry, sum(op), sum(ob), sum(rp), sum(rb) FROM (\
         SELECT {raw} FROM flow WHERE time >= ?2 AND entry IN {wanted} \
         UNION ALL SELECT {raw} FROM flow_stray WHERE entry IN {wanted} \
         UNION ALL SELECT entry, base_packets_orig, base_bytes_orig, base_packets_reply, \
         base_bytes_reply FROM flow_observer WHERE entry IN {wanted}) GROUP BY entry"
    );
    let arguments = binds(|b| {
        b.text(&json(entries.iter().copied()));
        b.time(from);
    })?;
    all(pool, AssertSqlSafe(text), arguments, decode::sum_row).await
}

pub(super) async fn gaps(
    pool: &SqlitePool,
    from: UnixNanos,
    limit: u32,
) -> Result<Vec<GapRow>, StoreError> {
    let text = format!(
        "SELECT {} FROM gap WHERE received >= ?1 ORDER BY received, node, first_seq LIMIT ?2",
        GAP_FIELDS.join(", ")
    );
    let arguments = binds(|b| {
        b.time(from);
        b.int(limit);
    })?;
    all(pool, AssertSqlSafe(text), arguments, decode::gap_row).await
}
