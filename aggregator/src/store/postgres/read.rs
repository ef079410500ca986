//! Questions to the database.

use flow::{Birth, Counters, Epoch, NodeName, UnixNanos};
use futures_util::TryStreamExt;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Postgres, Row, query};

use super::error::store_error;
use super::value::{Address, Name, Time};
use crate::store::columns::{
    EPOCH_COLUMNS, FLOW_COLUMNS, GAP_FIELDS, INDEX_VIEWS, LOADED_ENTRIES, OBSERVER_COLUMNS,
};
use crate::store::decode::{self, Cells};
use crate::store::row::{
    EntryNo, FlowRow, GapRow, Identity, LastIds, Loaded, NetnsNo, NodeNo, ObserverRow, PathNo,
    view_hash,
};
use crate::store::{Progress, StoreError};

type Query<'q> = query::Query<'q, Postgres, PgArguments>;

/// Runs `query` and decodes every row.
async fn all<T>(
    connection: &mut PgConnection,
    query: Query<'_>,
    decode: impl Fn(&PgRow) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut rows = query.fetch(connection);
    let mut out = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(|error| store_error(&error))? {
        out.push(decode(&row)?);
    }
    Ok(out)
}

/// A query put together of constants; values are bound.
fn put(text: String) -> Query<'static> {
    query(AssertSqlSafe(text)).persistent(false)
}

/// One moment of everything. It reads long tables, so it may take longer than other statements.
pub(super) async fn load(
    connection: &mut PgConnection,
    ended_from: UnixNanos,
    most: u32,
) -> Result<Loaded, StoreError> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0";
    simple(connection, begin).await?;
    let nodes = query("SELECT id, name, epoch, epoch_since FROM node ORDER BY id");
    let nodes = all(connection, nodes, decode::node_row).await?;
    let epochs = put(format!("SELECT {EPOCH_COLUMNS} FROM node_epoch ORDER BY node, epoch"));
    let epochs = all(connection, epochs, decode::epoch_row).await?;
    let netns = query("SELECT id, node, inode, boot FROM netns ORDER BY id");
    let netns = all(connection, netns, decode::netns_row).await?;
    let observers = put(format!(
        "SELECT {OBSERVER_COLUMNS} FROM {LOADED_ENTRIES} ORDER BY o.entry DESC LIMIT $2"
    ));
    let observers = observers.bind(Time(ended_from)).bind(i64::from(most));
    let mut observers = all(connection, observers, decode::observer_row).await?;
    observers.reverse();
    resolve(connection, &mut observers).await?;
    let heard = all(connection, query(HEARD), decode::heard_row).await?;
    let older = query("SELECT 1 FROM flow_end WHERE ended < $1 LIMIT 1").bind(Time(ended_from));
    let older = all(connection, older, |row| row.int_or_null(0)).await?;
    let mut forgotten = older.first().map(|_row| ended_from);
    let full = u32::try_from(observers.len()).is_ok_and(|loaded| loaded >= most);
    if let Some(first) = observers.first().filter(|_| full) {
        // When the last entry before the first one loaded was seen first: both only grow.
        let seen = "SELECT seen FROM flow_observer WHERE entry < $1 ORDER BY entry DESC LIMIT 1";
        let seen = query(seen).bind(first.entry.0);
        let seen = all(connection, seen, |row| row.time_or_null(0)).await?;
        forgotten = forgotten.max(seen.into_iter().next().flatten());
    }
    let ids = query("SELECT last_node, last_netns, last_entry, last_path FROM writer");
    let ids = all(connection, ids, last_ids).await?.into_iter().next().unwrap_or_default();
    simple(connection, "COMMIT").await?;
    Ok(Loaded { nodes, epochs, netns, observers, heard, forgotten, ids })
}

/// The last batch of each epoch, by its key; a later gap says nothing of entries.
const HEARD: &str = "SELECT node, max(received) FROM (SELECT e.node, \
    (SELECT b.received FROM ingest_batch b WHERE b.node = e.node AND b.epoch = e.epoch \
     ORDER BY b.seq DESC LIMIT 1) AS received FROM node_epoch e) AS last \
    WHERE received IS NOT NULL GROUP BY node ORDER BY node";

fn last_ids(row: &PgRow) -> Result<LastIds, StoreError> {
    let get = |at: usize| row.int_or_null(at).map(Option::unwrap_or_default);
    Ok(LastIds {
        node: NodeNo(decode::narrow(get(0)?)?),
        netns: NetnsNo(decode::narrow(get(1)?)?),
        entry: EntryNo(get(2)?),
        path: PathNo(get(3)?),
    })
}

async fn simple(connection: &mut PgConnection, sql: &'static str) -> Result<(), StoreError> {
    let done = sqlx::raw_sql(sql).execute(connection).await;
    done.map(|_done| ()).map_err(|error| store_error(&error))
}

pub(super) async fn schema_version(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    query("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
        .fetch_one(connection)
        .await?
        .try_get(0)
}

pub(super) async fn progress(
    connection: &mut PgConnection,
    node: &NodeName,
    epoch: Epoch,
) -> Result<Option<Progress>, StoreError> {
    let progress = query(
        "SELECT committed_seq, last_digest FROM node_epoch \
         WHERE node = (SELECT id FROM node WHERE name = $1) AND epoch = $2",
    );
    let progress = progress.bind(node.as_str()).bind(Name(epoch.0));
    Ok(all(connection, progress, decode::progress).await?.into_iter().next())
}

/// Identities asked for in one statement.
const FIND: usize = 5_000;

pub(super) async fn find(
    connection: &mut PgConnection,
    identities: &[Identity],
) -> Result<Vec<ObserverRow>, StoreError> {
    let mut found = Vec::new();
    for chunk in identities.chunks(FIND) {
        // One look into the index for each.
        let text = format!(
            "SELECT {OBSERVER_COLUMNS} FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::int8[], \
             $5::int4[], $6::int2[], $7::int4[], $8::int4[], $9::inet[], $10::inet[]) AS w \
             (netns, raw_start, kernel_id, view, zone, proto, sport, dport, src, dst) \
             CROSS JOIN LATERAL (SELECT * FROM flow_entry f WHERE f.netns = w.netns \
             AND f.raw_start = w.raw_start AND f.kernel_id = w.kernel_id \
             AND f.view_inside = w.view AND f.zone = w.zone AND f.proto = w.proto \
             AND f.sport = w.sport AND f.dport = w.dport AND f.src = w.src AND f.dst = w.dst \
             LIMIT 1) AS o"
        );
        let births = chunk.iter().map(|identity| match identity.birth {
            // Stamps beyond the column's range are never stored, and a negative one finds nothing.
            Birth::Start(start) => (i64::try_from(start).unwrap_or(-1), 0),
            Birth::Id(id) => (0, i64::from(id)),
        });
        let (starts, ids): (Vec<i64>, Vec<i64>) = births.unzip();
        let tuples = || chunk.iter().map(|identity| &identity.orig);
        let wanted = query(AssertSqlSafe(text))
            .bind(chunk.iter().map(|identity| identity.netns.0).collect::<Vec<_>>())
            .bind(starts)
            .bind(ids)
            .bind(tuples().map(view_hash).collect::<Vec<_>>())
            .bind(chunk.iter().map(|identity| i32::from(identity.zone.0)).collect::<Vec<_>>())
            .bind(tuples().map(|tuple| i16::from(tuple.proto.0)).collect::<Vec<_>>())
            .bind(tuples().map(|tuple| i32::from(tuple.sport)).collect::<Vec<_>>())
            .bind(tuples().map(|tuple| i32::from(tuple.dport)).collect::<Vec<_>>())
            .bind(tuples().map(|tuple| Address(tuple.src)).collect::<Vec<_>>())
            .bind(tuples().map(|tuple| Address(tuple.dst)).collect::<Vec<_>>());
        found.extend(all(connection, wanted, decode::observer_row).await?);
    }
    resolve(connection, &mut found).await?;
    Ok(found)
}

pub(super) async fn index_views(connection: &mut PgConnection) -> Result<(), StoreError> {
    simple(connection, "BEGIN; SET LOCAL statement_timeout = 0").await?;
    for sql in INDEX_VIEWS {
        simple(connection, sql).await?;
    }
    simple(connection, "COMMIT").await
}

pub(super) async fn find_views(
    connection: &mut PgConnection,
    hashes: &[i64],
) -> Result<Vec<ObserverRow>, StoreError> {
    let mut found = Vec::new();
    for chunk in hashes.chunks(FIND) {
        // Two questions: OR over both columns would read the whole table.
        let text = format!(
            "SELECT {OBSERVER_COLUMNS} FROM flow_entry o WHERE o.view_inside = ANY ($1) \
             UNION ALL SELECT {OBSERVER_COLUMNS} FROM flow_entry o \
             WHERE o.view_outside = ANY ($1) AND o.view_inside <> ALL ($1)"
        );
        found.extend(all(connection, put(text).bind(chunk.to_vec()), decode::observer_row).await?);
    }
    resolve(connection, &mut found).await?;
    Ok(found)
}

/// Gives entries the paths that theirs have become.
async fn resolve(
    connection: &mut PgConnection,
    rows: &mut [ObserverRow],
) -> Result<(), StoreError> {
    let any = query("SELECT path, into_path FROM path_alias LIMIT 1");
    if rows.is_empty() || all(connection, any, decode::alias).await?.is_empty() {
        return Ok(());
    }
    let paths: Vec<i64> = rows.iter().map(|row| row.path.0).collect();
    let aliases = query("SELECT path, into_path FROM path_alias WHERE path = ANY ($1)").bind(paths);
    let aliases = all(connection, aliases, decode::alias).await?;
    decode::resolve(rows, &aliases);
    Ok(())
}

pub(super) async fn history(
    connection: &mut PgConnection,
    entries: &[EntryNo],
    from: UnixNanos,
) -> Result<Vec<FlowRow>, StoreError> {
    let text = format!(
        "WITH wanted AS MATERIALIZED (SELECT DISTINCT unnest($1::int8[]) AS entry) \
         SELECT {FLOW_COLUMNS}, NULL::timestamptz AS receipt \
         FROM flow JOIN wanted USING (entry) WHERE time >= $2 \
         UNION ALL SELECT {FLOW_COLUMNS}, receipt FROM flow_stray JOIN wanted USING (entry)"
    );
    let entries: Vec<i64> = entries.iter().map(|entry| entry.0).collect();
    simple(connection, "BEGIN READ ONLY; SET LOCAL statement_timeout = 0").await?;
    let rows = put(text).bind(entries).bind(Time(from));
    let rows = all(connection, rows, decode::flow_row).await?;
    simple(connection, "COMMIT").await?;
    Ok(rows)
}

pub(super) async fn counted(
    connection: &mut PgConnection,
    entries: &[EntryNo],
    from: UnixNanos,
) -> Result<Vec<(EntryNo, Counters)>, StoreError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let raw = "entry, coalesce(raw_packets_orig, packets_orig) AS op, \
               coalesce(raw_bytes_orig, bytes_orig) AS ob, \
               coalesce(raw_packets_reply, packets_reply) AS rp, \
               coalesce(raw_bytes_reply, bytes_reply) AS rb";
    let text = format!(
        "WITH wanted AS MATERIALIZED (SELECT DISTINCT unnest($1::int8[]) AS entry) \
         SELECT entry, sum(op)::int8, sum(ob)::int8, sum(rp)::int8, sum(rb)::int8 FROM (\
         SELECT {raw} FROM flow JOIN wanted USING (entry) WHERE time >= $2 \
         UNION ALL SELECT {raw} FROM flow_stray JOIN wanted USING (entry) \
         UNION ALL SELECT entry, base_packets_orig, base_bytes_orig, base_packets_reply, \
         base_bytes_reply FROM flow_observer JOIN wanted USING (entry)) AS parts \
         GROUP BY entry ORDER BY entry"
    );
    let entries: Vec<i64> = entries.iter().map(|entry| entry.0).collect();
    simple(connection, "BEGIN READ ONLY; SET LOCAL statement_timeout = 0").await?;
    let sums = put(text).bind(entries).bind(Time(from));
    let sums = all(connection, sums, decode::sum_row).await?;
    simple(connection, "COMMIT").await?;
    Ok(sums)
}

pub(super) async fn gaps(
    connection: &mut PgConnection,
    from: UnixNanos,
    limit: u32,
) -> Result<Vec<GapRow>, StoreError> {
    let text = format!(
        "SELECT {} FROM gap WHERE received >= $1 ORDER BY received, node, first_seq LIMIT $2",
        GAP_FIELDS.join(", ")
    );
    let gaps = put(text).bind(Time(from)).bind(i64::from(limit));
    all(connection, gaps, decode::gap_row).await
}
