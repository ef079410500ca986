//! `cargo run --release -p conntracct-aggregator --example bench_move -- [--rows N] [--json FILE]`
//!
//! A SQLite store of five million rows, a tenth as many entries, over three days:
//! - `migrate-store` to PostgreSQL, beside bare `COPY ... (FORMAT binary)` of as many of its rows
//!   as memory has room for into the same table of the same server;
//! - `export` as CSV and as Parquet, and `import` of both into PostgreSQL, beside the same.
//!
//! Each adds up both sides and fails where they differ. Once each: a run takes minutes. Everything
//! lies in the temporary folder (`TMPDIR`): put that on the disk that is meant.

extern crate conntracct_aggregator as aggregator;

#[path = "../bench_ingest_postgres/bare_copy.rs"]
mod bare_copy;
#[path = "../ingest_load/report.rs"]
#[expect(dead_code, reason = "medians and the usual flags are for the others")]
mod report;
mod store;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aggregator::archive::{Format, export, import};
use aggregator::cli::ExportArgs;
use aggregator::config::StoreChoice;
use aggregator::moving::move_store;
use aggregator::store::postgres::{PostgresAddress, PostgresStore};
use flow::UnixNanos;
use jiff::Timestamp;
use report::{Figure, rate};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Rows unless told otherwise.
const ROWS: usize = 5_000_000;

/// Rows of the baseline at most: they are in memory.
const BARE_ROWS: usize = 1_000_000;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let (rows, json) = arguments()?;
    let folder = tempfile::tempdir()?;
    let server = testdb::Server::start()?;
    let mut out = std::io::stdout().lock();
    let path = folder.path().join("flows.db");
    let begun = Instant::now();
    store::make(&path, rows).await?;
    let size = std::fs::metadata(&path)?.len();
    writeln!(out, "{rows} rows in SQLite, {size} bytes, made in {:.0?}", begun.elapsed())?;

    let first: Vec<_> = store::rows(rows).take(BARE_ROWS).collect();
    fresh(&server).await?;
    let mut connection = PgConnection::connect(&server.url()).await?;
    bare_copy::make_partitions(&mut connection, &first).await?;
    let bare = rate(first.len(), bare_copy::run(&mut connection, &first).await?);
    connection.close().await?;
    drop(first);
    writeln!(out, "  bare_copy           {bare:>9.0} rows/s")?;

    let mut figures = Vec::new();
    let mut tell = |out: &mut std::io::StdoutLock<'_>, name: &str, took: Duration| {
        let value = rate(rows, took);
        let name = name.to_owned();
        let figure = Figure { name, value, baseline: "bare_copy", baseline_value: bare };
        let (name, ratio) = (&figure.name, figure.ratio());
        writeln!(out, "  {name:<19} {value:>9.0} rows/s, ratio {ratio:.2}, {took:.0?}")?;
        figures.push(figure);
        Ok::<(), Failed>(())
    };
    let to = fresh(&server).await?;
    let mut said = Vec::new();
    let begun = Instant::now();
    move_store(&path, &to, now(), &mut said).await?;
    tell(&mut out, "migrate_rows_per_s", begun.elapsed())?;

    for (format, name) in [(Format::Csv, "csv"), (Format::Parquet, "parquet")] {
        let output = folder.path().join(name);
        let begun = Instant::now();
        let args = ExportArgs { from: None, to: None, format: Some(format), output };
        let from = StoreChoice::Sqlite(path.clone());
        export(&args, &from, Timestamp::now(), &mut said).await?;
        tell(&mut out, &format!("export_{name}_rows_per_s"), begun.elapsed())?;
        writeln!(out, "    {} bytes", size_of(&args.output)?)?;
        let to = StoreChoice::Postgres(fresh(&server).await?);
        let begun = Instant::now();
        import(&args.output, &to, now(), &mut said).await?;
        tell(&mut out, &format!("import_{name}_rows_per_s"), begun.elapsed())?;
        std::fs::remove_dir_all(&args.output)?;
    }
    match json {
        Some(file) => report::write(&file, "move", &figures),
        None => Ok(()),
    }
}

/// How many rows, and where the figures go.
fn arguments() -> Result<(usize, Option<PathBuf>), Failed> {
    let (mut rows, mut json) = (ROWS, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} wants a value"))?;
        match flag.as_str() {
            "--rows" => rows = value.parse()?,
            "--json" => json = Some(value.into()),
            _ => return Err(format!("there is no flag {flag}").into()),
        }
    }
    Ok((rows, json))
}

/// A new database; what was in the one before it is gone.
async fn fresh(server: &testdb::Server) -> Result<PostgresAddress, Failed> {
    let (database, role) = (testdb::DATABASE, testdb::ROLE);
    server.sql("postgres", &format!("DROP DATABASE IF EXISTS {database}"))?;
    server.sql("postgres", &format!("CREATE DATABASE {database} OWNER {role}"))?;
    // What the run before it wrote is not this one's to flush.
    server.sql("postgres", "CHECKPOINT")?;
    let address = PostgresAddress::parse(&server.url())?;
    PostgresStore::open(&address).await?.close().await;
    Ok(address)
}

fn size_of(folder: &Path) -> Result<u64, Failed> {
    let mut size = 0;
    for file in std::fs::read_dir(folder)? {
        size += file?.metadata()?.len();
    }
    Ok(size)
}

fn now() -> UnixNanos {
    UnixNanos(i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX))
}
