//! How a benchmark tells what it measured.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Failed;

/// A figure beside its baseline.
pub(crate) struct Figure {
    /// Its name, as other benchmarks and the documentation use it.
    pub(crate) name: String,
    /// Rows a second.
    pub(crate) value: f64,
    /// What it is compared with.
    pub(crate) baseline: &'static str,
    /// Rows a second of that.
    pub(crate) baseline_value: f64,
}

impl Figure {
    pub(crate) fn ratio(&self) -> f64 {
        self.value / self.baseline_value
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "value": self.value, "unit": "1/s",
            "baseline": self.baseline, "baseline_value": self.baseline_value,
            "ratio": self.ratio() })
    }
}

/// The file of `--json FILE`, where that was said.
pub(crate) fn json_file() -> Result<Option<String>, Failed> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next(), args.next()) {
        (None, ..) => Ok(None),
        (Some("--json"), Some(file), None) => Ok(Some(file)),
        _ => Err("the only flag is --json FILE".into()),
    }
}

/// Writes the figures of the benchmark `bench` as JSON.
pub(crate) fn write(file: &Path, bench: &str, figures: &[Figure]) -> Result<(), Failed> {
    let figures: Vec<_> = figures.iter().map(Figure::json).collect();
    let report = json!({ "bench": bench, "machine": machine(), "figures": figures });
    Ok(std::fs::write(file, serde_json::to_vec_pretty(&report)?)?)
}

/// Rows a second.
pub(crate) fn rate(rows: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(rows).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
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
