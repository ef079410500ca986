//! `cargo run --release -p conntracct-wire --example bench_wire -- [--json FILE]`
//!
//! Bytes per record and records per second of batches, beside the size of IPFIX data records of
//! the same fields. Traffic is generated from a fixed seed; rates are medians of
//! interleaved runs, by the CPU time of one thread (what a core does, whatever else the machine
//! does). Bytes are those of whole frames: header, digest and batch header included.

extern crate conntracct_wire as wire;

mod ipfix;
mod traffic;

use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;
use std::time::Duration;

use flow::{Record, Seq};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use wire::batch::{self, Builder, Compression};
use wire::frame::Frame;

use self::traffic::{Mix, Traffic};

/// Interleaved runs, of which the median is told.
const RUNS: usize = 5;

/// Full batches of each mix.
const BATCHES: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let json = match (args.next().as_deref(), args.next()) {
        (None, _) => None,
        (Some("--json"), Some(file)) => Some(file),
        _ => return Err("usage: bench_wire [--json FILE]".into()),
    };
    let cells: Vec<Cell> = [Mix::Gateway, Mix::Mixed]
        .into_iter()
        .flat_map(|mix| [(mix, Compression::Zstd), (mix, Compression::Lz4)])
        .map(|(mix, compression)| Cell::new(mix, compression))
        .collect();
    let mut runs = vec![Vec::new(); cells.len()];
    for _ in 0..RUNS {
        for (cell, runs) in cells.iter().zip(&mut runs) {
            runs.push(cell.run()?);
        }
    }
    let results: Vec<_> = cells.iter().zip(&runs).map(|(cell, runs)| cell.result(runs)).collect();
    let mut out = std::io::stdout().lock();
    for result in &results {
        writeln!(out, "{result}")?;
    }
    if let Some(file) = json {
        let figures: Vec<_> = results.iter().flat_map(Outcome::figures).collect();
        let report = json!({ "bench": "wire", "machine": machine(), "figures": figures });
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// One mix of traffic with one compression.
struct Cell {
    mix: Mix,
    compression: Compression,
    traffic: Vec<Traffic>,
}

/// What one run of a cell measured.
#[derive(Clone, Copy)]
struct Run {
    encode_per_s: f64,
    decode_per_s: f64,
    bytes: usize,
}

impl Cell {
    fn new(mix: Mix, compression: Compression) -> Self {
        Self { mix, compression, traffic: traffic::batches(mix, BATCHES) }
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.traffic.iter().flat_map(|traffic| &traffic.records)
    }

    /// Encodes and decodes all batches once; compares what comes out with what went in, outside
    /// the clock.
    fn run(&self) -> Result<Run, Box<dyn Error>> {
        let count = self.records().count() as f64;
        let mut builder = Builder::new(self.compression);
        let start = cpu_time();
        let mut frames = Vec::with_capacity(self.traffic.len());
        for (traffic, seq) in self.traffic.iter().zip(1..) {
            for record in &traffic.records {
                builder.push(record)?;
            }
            frames.push(builder.finish(Seq(seq), &traffic.interval)?);
        }
        let encode = cpu_time().saturating_sub(start);
        let start = cpu_time();
        for frame in &frames {
            let frame = Frame::parse(frame.bytes.clone())?;
            black_box(batch::decode(&frame)?);
        }
        let decode = cpu_time().saturating_sub(start);
        for (frame, traffic) in frames.iter().zip(&self.traffic) {
            if batch::decode(frame)?.1 != traffic.records {
                return Err("a batch decoded to other records".into());
            }
        }
        Ok(Run {
            encode_per_s: count / encode.as_secs_f64(),
            decode_per_s: count / decode.as_secs_f64(),
            bytes: frames.iter().map(|frame| frame.bytes.len()).sum(),
        })
    }

    fn result(&self, runs: &[Run]) -> Outcome {
        let count = self.records().count() as f64;
        let bytes = median(runs, |run| run.bytes as f64);
        let ipfix: usize = self.records().map(ipfix::record_len).sum();
        Outcome {
            mix: self.mix,
            compression: self.compression,
            bytes_per_delta: bytes / count,
            ipfix_per_delta: ipfix as f64 / count,
            encode_per_s: median(runs, |run| run.encode_per_s),
            decode_per_s: median(runs, |run| run.decode_per_s),
        }
    }
}

/// What all runs of a cell say.
struct Outcome {
    mix: Mix,
    compression: Compression,
    bytes_per_delta: f64,
    ipfix_per_delta: f64,
    encode_per_s: f64,
    decode_per_s: f64,
}

impl Outcome {
    fn ratio(&self) -> f64 {
        self.bytes_per_delta / self.ipfix_per_delta
    }

    /// The suffix of its figures' names; none for the main one.
    const fn suffix(&self) -> &'static str {
        match (self.mix, self.compression) {
            (Mix::Gateway, Compression::Zstd) => "",
            (Mix::Gateway, Compression::Lz4) => "_lz4",
            (Mix::Mixed, Compression::Zstd) => "_mixed",
            (Mix::Mixed, Compression::Lz4) => "_mixed_lz4",
        }
    }

    fn figures(&self) -> [Value; 3] {
        let suffix = self.suffix();
        let rate = |name: &str, value: f64| {
            json!({
                "name": format!("{name}{suffix}"), "value": value, "unit": "records/s",
                "baseline": null, "baseline_value": null, "ratio": null,
            })
        };
        [
            json!({
                "name": format!("bytes_per_delta{suffix}"), "value": self.bytes_per_delta,
                "unit": "B", "baseline": "ipfix", "baseline_value": self.ipfix_per_delta,
                "ratio": self.ratio(),
            }),
            rate("encode_records_per_s", self.encode_per_s),
            rate("decode_records_per_s", self.decode_per_s),
        ]
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:<8} {:<5} {:6.2} B/delta  ipfix {:6.2}  ratio {:.3}  encode {:5.2} Mrec/s  decode {:5.2} Mrec/s",
            format!("{:?}", self.mix),
            format!("{:?}", self.compression),
            self.bytes_per_delta,
            self.ipfix_per_delta,
            self.ratio(),
            self.encode_per_s / 1e6,
            self.decode_per_s / 1e6,
        )
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn median(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<_> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().ok().map(std::num::NonZero::get);
    json!({ "arch": std::env::consts::ARCH, "os": std::env::consts::OS, "cpu": cpu, "cores": cores })
}
