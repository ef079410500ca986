//! `cargo run --release -p conntracct-aggregator --example bench_ingest_postgres -- [--json FILE]`
//!
//! Rows a second through the whole aggregator: QUIC, TLS with the gateway's certificate, session,
//! order, decoding, counting, COPY and COMMIT in PostgreSQL (rows, epoch progress, entries,
//! frames' history), acknowledgement back at the gateway. Beside it, on the same server and with
//! its default durability:
//! - bare `COPY ... (FORMAT binary)` of the same rows into the same table, 10,000 a transaction;
//! - what the predecessor did with its twelve columns of them: rows of 500 by
//!   `INSERT ... VALUES ... ON CONFLICT`, into a table with six indexes.
//!
//! One gateway first, then two that see the same flows: each is counted once, and held until both
//! have told of it.
//!
//! Also how many bytes a row and its index take on disk, without and with translation.
//!
//! Medians of interleaved runs, each in a new database of one server in the temporary folder
//! (`TMPDIR`): put that on the disk that is meant. Server and gateway run on the same machine.

extern crate conntracct_aggregator as aggregator;

mod bare_copy;
#[path = "../ingest_load/mod.rs"]
mod ingest_load;
mod predecessor;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use aggregator::store::postgres::{PostgresAddress, PostgresStore};
use aggregator::store::row::FlowRow;
use ingest_load::report::{self, Figure, median, rate};
use ingest_load::server::{Keys, Server};
use ingest_load::traffic::{Load, Mix};
use ingest_load::{Failed, gateway};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

/// Interleaved runs, of which the median is told.
const RUNS: usize = 5;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let json = report::json_file()?;
    let folder = tempfile::tempdir()?;
    let keys = Keys::make(folder.path())?;
    let server = testdb::Server::start()?;
    let mut out = std::io::stdout().lock();
    let mut figures = Vec::new();
    let usual = Arc::new(Load::make(Mix::Usual, 1).await?);
    let short = Arc::new(Load::make(Mix::Short, 1).await?);
    let twice = Arc::new(Load::make(Mix::Usual, 2).await?);
    for (load, name) in [
        (&usual, "end_to_end_rows_per_s"),
        (&short, "end_to_end_rows_per_s_short_flows"),
        (&twice, "end_to_end_rows_per_s_two_observers"),
    ] {
        let [births, ends] = load.per_mille();
        writeln!(
            out,
            "gateways: {}; {} rows, {} frames of each; of 1,000 records {births} are the first of \
             their flow, {ends} the last",
            load.gateways().count(),
            load.rows.len(),
            load.last()
        )?;
        let (mut ours, mut bare, mut old) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ours.push(end_to_end(&server, &keys, load).await?);
            bare.push(bare_copy(&server, &load.rows).await?);
            old.push(predecessor(&server, &load.rows).await?);
        }
        let value = median(ours);
        writeln!(out, "  end_to_end       {value:>9.0} rows/s")?;
        for (baseline, values) in [("bare_copy", bare), ("predecessor_sql", old)] {
            let name = name.to_owned();
            let figure = Figure { name, value, baseline, baseline_value: median(values) };
            let (theirs, ratio) = (figure.baseline_value, figure.ratio());
            writeln!(out, "  {baseline:<16} {theirs:>9.0} rows/s, ratio {ratio:.2}")?;
            figures.push(figure);
        }
    }
    for (what, translated) in [("plain", false), ("translated", true)] {
        let of = |row: &&FlowRow| (row.inside != row.outside) == translated;
        let rows: Vec<FlowRow> = usual.rows.iter().filter(of).copied().collect();
        let (heap, index) = disk(&server, &rows).await?;
        writeln!(out, "  on disk, {what}: {heap:.1} B a row, {index:.2} B of index")?;
    }
    match json {
        Some(file) => report::write(Path::new(&file), "ingest-postgres", &figures),
        None => Ok(()),
    }
}

/// A new database; what was in the one before it is gone.
async fn fresh(server: &testdb::Server) -> Result<PostgresStore, Failed> {
    let database = testdb::DATABASE;
    let role = testdb::ROLE;
    server.sql("postgres", &format!("DROP DATABASE IF EXISTS {database}"))?;
    server.sql("postgres", &format!("CREATE DATABASE {database} OWNER {role}"))?;
    // What the run before it wrote is not this one's to flush.
    server.sql("postgres", "CHECKPOINT")?;
    let address = PostgresAddress::parse(&server.url())?;
    Ok(PostgresStore::open(&address).await?)
}

/// A new database with the product's schema and partitions, for a baseline.
async fn tables(server: &testdb::Server, rows: &[FlowRow]) -> Result<PgConnection, Failed> {
    fresh(server).await?.close().await;
    let mut connection = PgConnection::connect(&server.url()).await?;
    bare_copy::make_partitions(&mut connection, rows).await?;
    Ok(connection)
}

/// Rows a second from the gateway's first byte to the acknowledgement of its last frame.
async fn end_to_end(server: &testdb::Server, keys: &Keys, load: &Arc<Load>) -> Result<f64, Failed> {
    let store = fresh(server).await?;
    let aggregator = Server::start(store.clone(), keys).await?;
    let took = gateway::deliver(aggregator.address, keys, load).await?;
    aggregator.stop().await?;
    store.close().await;
    check(server, load)?;
    Ok(rate(load.rows.len(), took))
}

async fn bare_copy(server: &testdb::Server, rows: &[FlowRow]) -> Result<f64, Failed> {
    let mut connection = tables(server, rows).await?;
    let took = bare_copy::run(&mut connection, rows).await?;
    connection.close().await?;
    Ok(rate(rows.len(), took))
}

async fn predecessor(server: &testdb::Server, rows: &[FlowRow]) -> Result<f64, Failed> {
    let mut connection = tables(server, rows).await?;
    let took = predecessor::run(&mut connection, rows).await?;
    connection.close().await?;
    Ok(rate(rows.len(), took))
}

/// Whether what is stored is what was sent.
fn check(server: &testdb::Server, load: &Load) -> Result<(), Failed> {
    let ask = "SELECT count(*), sum(bytes_orig) FROM flow; \
               SELECT count(*), count(ended) FROM flow_entry";
    let bytes = load.rows.iter().map(|row| row.counted.orig.bytes.0).sum::<u64>();
    let expected = format!("{}|{bytes}\n{}|{}", load.rows.len(), load.births, load.ends);
    let stored = server.sql(testdb::DATABASE, ask)?;
    if stored.trim() == expected {
        return Ok(());
    }
    Err(format!("stored {stored:?}, sent {expected:?}").into())
}

/// Bytes a row in the table, and in its index.
async fn disk(server: &testdb::Server, rows: &[FlowRow]) -> Result<(f64, f64), Failed> {
    let mut connection = tables(server, rows).await?;
    bare_copy::run(&mut connection, rows).await?;
    let ask = "SELECT sum(pg_table_size(relid))::int8, sum(pg_indexes_size(relid))::int8 \
               FROM pg_partition_tree('flow') WHERE isleaf";
    let (heap, index): (i64, i64) =
        sqlx::query_as(AssertSqlSafe(ask)).fetch_one(&mut connection).await?;
    connection.close().await?;
    let each = |bytes: i64| {
        let rows = u32::try_from(rows.len()).map(f64::from)?;
        Ok::<f64, Failed>(f64::from(u32::try_from(bytes)?) / rows)
    };
    Ok((each(heap)?, each(index)?))
}
