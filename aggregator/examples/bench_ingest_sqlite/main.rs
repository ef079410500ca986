//! `cargo run --release -p conntracct-aggregator --example bench_ingest_sqlite -- [--json FILE]`
//!
//! Rows a second from encoded frames to COMMIT: order, decode, count, insert into SQLite, epoch
//! progress, entries, frames' history. Beside it a bare loop of multi-row inserts of the same rows
//! into the same table with the same durability. Medians of interleaved runs, each on a new
//! database in the temporary folder (`TMPDIR`): put that on the disk that is meant.
//!
//! Frames enter where sessions hand them over ([`pipeline::Handle`]): what QUIC and TLS cost before
//! it is not in the figure.

extern crate conntracct_aggregator as aggregator;

mod baseline;
mod traffic;

use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

use aggregator::count::CounterConfig;
use aggregator::pipeline::commit::{Committer, Work};
use aggregator::pipeline::task::{self, PipelineConfig, StoreState};
use aggregator::pipeline::{Answer, Arrived, Handle, PipelineMetrics};
use aggregator::store::model::ModelStore;
use aggregator::store::row::{FlowRow, WriterToken};
use aggregator::store::sqlite::{SqliteConfig, SqliteStore};
use flow::{Seq, StoreId, UnixNanos};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use traffic::Encoded;

/// Interleaved runs, of which the median is told.
const RUNS: usize = 5;

const TOKEN: WriterToken = WriterToken([1; 16]);

type Failed = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let json = match (args.next().as_deref(), args.next()) {
        (None, _) => None,
        (Some("--json"), Some(file)) => Some(file),
        _ => return Err("usage: bench_ingest_sqlite [--json FILE]".into()),
    };
    let frames = traffic::frames()?;
    let rows = rows_of(&frames).await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(end_to_end(&frames, rows.len()).await?);
        bare.push(baseline::bare_insert(&rows).await?);
    }
    let (ours, bare) = (median(ours), median(bare));
    let ratio = ours / bare;
    let mut out = std::io::stdout().lock();
    writeln!(out, "rows         {:>9} in {} frames", rows.len(), frames.len())?;
    writeln!(out, "end_to_end   {ours:>9.0} rows/s")?;
    writeln!(out, "bare_insert  {bare:>9.0} rows/s, ratio {ratio:.2}")?;
    if let Some(file) = json {
        let figure = json!({ "name": "end_to_end_rows_per_s", "value": ours, "unit": "1/s",
            "baseline": "bare_insert", "baseline_value": bare, "ratio": ratio });
        let report = json!({ "bench": "ingest-sqlite", "machine": machine(), "figures": [figure] });
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// The rows that counting makes of the frames, for the baseline.
async fn rows_of(frames: &[Encoded]) -> Result<Vec<FlowRow>, Failed> {
    let store = ModelStore::new(StoreId([1; 16]));
    let config = CounterConfig::default();
    let mut committer = Committer::start(store.clone(), TOKEN, config, traffic::begin()).await?;
    for encoded in frames {
        let mut work = Work { todo: vec![encoded.decoded()?], done: Vec::new() };
        committer.run(&mut work).await?;
    }
    Ok(store.contents().flows)
}

/// Rows a second from the pipeline's queue to the acknowledgement of the last frame.
async fn end_to_end(frames: &[Encoded], rows: usize) -> Result<f64, Failed> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("flows.db"))).await?;
    let committer =
        Committer::start(store.clone(), TOKEN, CounterConfig::default(), UnixNanos::default())
            .await?;
    let (pipeline, queue) = Handle::channel();
    let (state, _shown) = watch::channel(StoreState::Up);
    let (config, metrics) = (PipelineConfig::default(), PipelineMetrics::default());
    let running = tokio::spawn(task::run(committer, queue, config, metrics, state));
    let (answer, mut answers) = mpsc::channel(frames.len());

    let begun = Instant::now();
    for encoded in frames {
        let arrived = Arrived {
            node: traffic::node()?,
            epoch: traffic::EPOCH,
            first: encoded.seq,
            last: encoded.seq,
            digest: encoded.frame.header.digest,
            frame: encoded.frame.bytes.clone(),
            clock: Some(encoded.clock),
            answer: answer.clone(),
        };
        pipeline.submit(arrived).await?;
    }
    drop(pipeline);
    let last = frames.last().map_or(Seq::NONE, |encoded| encoded.seq);
    loop {
        match answers.recv().await {
            Some(Answer::Ack(seq, _)) if seq == last => break,
            Some(Answer::Ack(..)) => {}
            other => return Err(format!("unexpected answer: {other:?}").into()),
        }
    }
    let took = begun.elapsed();
    running.await??;
    let stored: i64 =
        sqlx::query_scalar("SELECT count(*) FROM flow").fetch_one(store.reader()).await?;
    if usize::try_from(stored) != Ok(rows) {
        return Err(format!("{stored} rows stored of {rows}").into());
    }
    store.close().await;
    Ok(rate(rows, took))
}

fn rate(rows: usize, took: std::time::Duration) -> f64 {
    f64::from(u32::try_from(rows).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().ok().map(std::num::NonZero::get);
    json!({ "arch": std::env::consts::ARCH, "os": std::env::consts::OS, "cpu": cpu, "cores": cores })
}
