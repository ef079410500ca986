//! The least that puts the same rows into the same table, as durably: statements of 500 rows,
//! prepared once, transactions of 10,000.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use aggregator::store::row::FlowRow;
use aggregator::store::sqlite::{FLOW_COLUMNS, SqliteConfig, SqliteStore};
use flow::UnixNanos;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Connection};

use super::Failed;
use super::ingest_load::report::rate;

const ROWS_A_STATEMENT: usize = 500;
const ROWS_A_TRANSACTION: usize = 10_000;

/// Rows a second of a bare insert loop.
pub(crate) async fn bare_insert(rows: &[FlowRow]) -> Result<f64, Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("flows.db");
    // The product's schema, indexes and settings.
    SqliteStore::open(&SqliteConfig::new(&path)).await?.close().await;
    let mut connection = SqliteConnectOptions::new()
        .filename(&path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-65536")
        .disable_statement_logging()
        .connect()
        .await?;
    let row = format!("({})", vec!["?"; FLOW_COLUMNS.split(',').count()].join(","));
    let begun = Instant::now();
    for transaction in rows.chunks(ROWS_A_TRANSACTION) {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await?;
        for chunk in transaction.chunks(ROWS_A_STATEMENT) {
            let values = vec![row.as_str(); chunk.len()].join(",");
            let sql: Arc<str> = format!("INSERT INTO flow ({FLOW_COLUMNS}) VALUES {values}").into();
            sqlx::query_with(AssertSqlSafe(sql), arguments(chunk)?)
                .persistent(true)
                .execute(&mut connection)
                .await?;
        }
        sqlx::query("COMMIT").execute(&mut connection).await?;
    }
    let took = begun.elapsed();
    connection.close().await?;
    Ok(rate(rows.len(), took))
}

fn arguments(rows: &[FlowRow]) -> Result<SqliteArguments, Failed> {
    let mut arguments = SqliteArguments::default();
    for row in rows {
        bind(&mut arguments, row)?;
    }
    Ok(arguments)
}

fn bind(to: &mut SqliteArguments, row: &FlowRow) -> Result<(), Failed> {
    let [packets, bytes, reply_packets, reply_bytes] = row.counted.components();
    to.add(row.time.micros_floor())?;
    to.add(row.since.map(UnixNanos::micros_floor))?;
    to.add(row.entry_start.map(UnixNanos::micros_floor))?;
    to.add(row.path.0)?;
    to.add(row.entry.0)?;
    for counted in [bytes, reply_bytes, packets, reply_packets] {
        to.add(i64::try_from(counted)?)?;
    }
    for _raw in 0..4 {
        to.add(None::<i64>)?;
    }
    to.add(i64::try_from(row.seq.get())?)?;
    to.add(i64::from(row.mark))?;
    to.add(row.slack.map(|slack| i64::try_from(slack.as_millis()).unwrap_or(i64::MAX)))?;
    to.add(row.node.0)?;
    to.add(row.netns.0)?;
    to.add(i64::from(row.zone.0))?;
    let (inside, outside) = (&row.inside, &row.outside);
    to.add(i64::from(inside.sport))?;
    to.add(i64::from(inside.dport))?;
    to.add((inside.sport != outside.sport).then_some(i64::from(outside.sport)))?;
    to.add((inside.dport != outside.dport).then_some(i64::from(outside.dport)))?;
    to.add(i64::from(row.flags))?;
    to.add(i64::from(inside.family() as u8))?;
    to.add(i64::from(inside.proto.0))?;
    to.add(i64::from(row.tcp.0))?;
    to.add(blob(&inside.src))?;
    to.add(blob(&inside.dst))?;
    to.add((inside.src != outside.src).then(|| blob(&outside.src)))?;
    to.add((inside.dst != outside.dst).then(|| blob(&outside.dst)))?;
    Ok(())
}

fn blob(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
