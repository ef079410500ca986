//! `cargo run --release -p conntracct-node --example bench_table -- [--json FILE]`
//!
//! What a node does with the readings of a sweep, and what it needs for that:
//!
//! - flows a second through the flow table, beside the same diff over a plain hash map;
//! - seconds of one core for an interval of a million changed flows, from readings to frames;
//! - resident memory of the table, and of the whole program with 100,000 live flows: it plays a
//!   generated recording, spools, and delivers to an aggregator. Both programs are those that lie
//!   beside this one, built by `cargo build --release -p conntracct-node -p conntracct-aggregator`.
//!
//! Traffic is generated from a fixed seed ([`gateway`]); rates and times are medians, of
//! interleaved runs where there is a baseline.

extern crate conntracct_node;

mod diff;
mod gateway;
mod interval;
mod replay;
mod whole;

use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;

use serde_json::{Value, json};

/// Why the benchmark did not come to its end.
type Failed = Box<dyn Error>;

/// Runs, of which the median is told.
const RUNS: usize = 5;
const FLOWS: u32 = 1_000_000;

fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let json = match (args.next().as_deref(), args.next()) {
        (None, _) => None,
        (Some("--json"), Some(file)) => Some(file),
        _ => return Err("usage: bench_table [--json FILE]".into()),
    };
    // First, while the process has touched nothing else; both stay, so that nothing is reused.
    let (small, table_100k) = diff::resident(100_000)?;
    let (large, table_1m) = diff::resident(1 << 20)?;
    black_box((small.stats(), large.stats()));
    drop((small, large));

    let rates = diff::rates(FLOWS, RUNS)?;
    let cost = interval::cost(FLOWS, RUNS)?;
    let node = whole::peak_memory()?;
    let mut out = std::io::stdout().lock();
    let ratio = rates.table / rates.plain;
    writeln!(out, "table          {:>10.0} flows/s", rates.table)?;
    writeln!(out, "std_hashmap    {:>10.0} flows/s, ratio {ratio:.2}", rates.plain)?;
    writeln!(
        out,
        "1 M changed    {:.3} s of one core: sweep {:.3}, encode {:.3}, commit {:.3}; {:.1} B a record",
        cost.whole,
        cost.sweep,
        cost.encode,
        cost.commit,
        cost.bytes as f64 / f64::from(FLOWS)
    )?;
    writeln!(out, "table resident {table_100k} B at 100,000 flows, {table_1m} B at 1,048,576")?;
    writeln!(out, "node resident  {node} B at its peak, 100,000 flows")?;
    if let Some(file) = json {
        let figures = [
            json!({ "name": "flows_per_s", "value": rates.table, "unit": "1/s",
                "baseline": "std_hashmap", "baseline_value": rates.plain, "ratio": ratio }),
            alone("sweep_encode_1m_s", cost.whole, "s"),
            alone("rss_bytes_100k", node as f64, "B"),
            alone("table_bytes_100k", table_100k as f64, "B"),
            alone("table_bytes_1m", table_1m as f64, "B"),
        ];
        let report = json!({ "bench": "table", "machine": machine(), "figures": figures });
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// A figure without a baseline.
fn alone(name: &str, value: f64, unit: &str) -> Value {
    json!({ "name": name, "value": value, "unit": unit, "baseline": null,
        "baseline_value": null, "ratio": null })
}

fn median(mut values: Vec<f64>) -> f64 {
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
