//! `cargo run --release -p conntracct-aggregator --example bench_ingest_sqlite -- [--json FILE]`
//!
//! Rows a second through the whole aggregator: QUIC, TLS with the gateway's certificate, session,
//! order, decoding, counting, COMMIT in SQLite (rows, epoch progress, entries, frames' history),
//! acknowledgement back at the gateway. Beside it a bare loop of multi-row inserts of the same
//! rows into the same table with the same durability.
//!
//! Medians of interleaved runs, each on a new database in the temporary folder (`TMPDIR`): put
//! that on the disk that is meant. The gateway's frames are encoded beforehand; its thread runs on
//! the same machine.

extern crate conntracct_aggregator as aggregator;

mod baseline;
#[path = "../ingest_load/mod.rs"]
mod ingest_load;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use aggregator::store::sqlite::{SqliteConfig, SqliteStore};
use ingest_load::report::{self, Figure, median, rate};
use ingest_load::server::{Keys, Server};
use ingest_load::traffic::{Load, Mix};
use ingest_load::{Failed, gateway};

/// Interleaved runs, of which the median is told.
const RUNS: usize = 5;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let json = report::json_file()?;
    let folder = tempfile::tempdir()?;
    let keys = Keys::make(folder.path())?;
    let mut figures = Vec::new();
    let mut out = std::io::stdout().lock();
    for (mix, name) in
        [(Mix::Usual, "end_to_end_rows_per_s"), (Mix::Short, "end_to_end_rows_per_s_short_flows")]
    {
        let load = Arc::new(Load::make(mix, 1).await?);
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ours.push(end_to_end(&keys, &load).await?);
            bare.push(baseline::bare_insert(&load.rows).await?);
        }
        let (value, baseline_value) = (median(ours), median(bare));
        let figure =
            Figure { name: name.to_owned(), value, baseline: "bare_insert", baseline_value };
        let [births, ends] = load.per_mille();
        writeln!(
            out,
            "{mix:?}: {} rows in {} frames; of 1,000 records {births} are the first of their flow, \
             {ends} the last",
            load.rows.len(),
            load.last()
        )?;
        writeln!(out, "  end_to_end   {value:>9.0} rows/s")?;
        writeln!(out, "  bare_insert  {baseline_value:>9.0} rows/s, ratio {:.2}", figure.ratio())?;
        figures.push(figure);
    }
    match json {
        Some(file) => report::write(Path::new(&file), "ingest-sqlite", &figures),
        None => Ok(()),
    }
}

/// Rows a second from the gateway's first byte to the acknowledgement of its last frame.
async fn end_to_end(keys: &Keys, load: &Arc<Load>) -> Result<f64, Failed> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("flows.db"))).await?;
    let server = Server::start(store.clone(), keys).await?;
    let took = gateway::deliver(server.address, keys, load).await?;
    server.stop().await?;
    check(&store, load).await?;
    store.close().await;
    Ok(rate(load.rows.len(), took))
}

/// Whether what is stored is what was sent.
async fn check(store: &SqliteStore, load: &Load) -> Result<(), Failed> {
    let stored: (i64, i64) = sqlx::query_as("SELECT count(*), sum(bytes_orig) FROM flow")
        .fetch_one(store.reader())
        .await?;
    let bytes = load.rows.iter().map(|row| row.counted.orig.bytes.0).sum::<u64>();
    let expected = (i64::try_from(load.rows.len())?, i64::try_from(bytes)?);
    let entries: (i64, i64) = sqlx::query_as("SELECT count(*), count(ended) FROM flow_entry")
        .fetch_one(store.reader())
        .await?;
    let flows = (i64::try_from(load.births)?, i64::try_from(load.ends)?);
    if (stored, entries) == (expected, flows) {
        return Ok(());
    }
    Err(format!("stored {stored:?} {entries:?}, sent {expected:?} {flows:?}").into())
}
