//! `cargo run --release -p conntracct-aggregator --example bench_merge -- [--json FILE]`
//!
//! Records a second through linking and counting on one core, without decoding and without a
//! store: one, two and three gateways that see the same flows, each beside the same records with
//! merging off. And bytes of memory for each living entry, in a process of its own for each.
//!
//! Every flow lives through all intervals and grows in each. A transaction is one frame of 10,000
//! records. Medians of interleaved runs; the frames are made beforehand.

extern crate conntracct_aggregator as aggregator;

#[path = "../ingest_load/report.rs"]
mod report;
mod traffic;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use aggregator::count::{Asked, Counted, Counter, CounterConfig, Frame, Linked};
use aggregator::store::row::Loaded;
use report::{Figure, median, rate};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Interleaved runs, of which the median is told.
const RUNS: usize = 5;

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, gateways, merging] = arguments.as_slice()
        && flag == "--memory"
    {
        let bytes = memory(gateways.parse()?, merging == "on")?;
        return Ok(writeln!(std::io::stdout(), "{bytes}")?);
    }
    let json = report::json_file()?;
    let mut figures = Vec::new();
    let mut out = std::io::stdout().lock();
    for gateways in 1..=3 {
        let frames = traffic::frames(gateways)?;
        let (mut ours, mut off) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ours.push(records_per_second(&frames, gateways, true)?);
            off.push(records_per_second(&frames, gateways, false)?);
        }
        let (value, baseline_value) = (median(ours), median(off));
        let name = format!("records_per_s_{gateways}_gateways");
        let figure = Figure { name, value, baseline: "merging_off", baseline_value };
        let (on, without) = (of_child(gateways, "on")?, of_child(gateways, "off")?);
        writeln!(
            out,
            "{gateways} gateways: {value:>9.0} records/s, off {baseline_value:>9.0}, ratio {:.2}; \
             {on} B an entry, off {without} B",
            figure.ratio()
        )?;
        figures.push(figure);
    }
    match json {
        Some(file) => report::write(Path::new(&file), "merge", &figures),
        None => Ok(()),
    }
}

fn records_per_second(frames: &[Frame], gateways: u8, merging: bool) -> Result<f64, Failed> {
    let begun = Instant::now();
    count(frames, gateways, merging)?;
    Ok(rate(frames.iter().map(Frame::rows).sum(), begun.elapsed()))
}

/// Links and counts all frames, a transaction each.
fn count(frames: &[Frame], gateways: u8, merging: bool) -> Result<Counter, Failed> {
    let config = CounterConfig::default();
    let merge = config.merge.clone().filter(|_| merging);
    let config = CounterConfig { merge, ..config };
    // As the aggregator has read its empty store anew when the second gateway came.
    let mut counter = match gateways {
        1 => Counter::new(config, Loaded::default()),
        _ => Counter::merging(config, Loaded::default()),
    };
    for frame in frames {
        let frame = std::slice::from_ref(frame);
        let asked = Asked::default();
        let Linked::Done = counter.link(frame, &asked)? else {
            return Err("an empty store was asked".into());
        };
        let Counted::Draft(draft) = counter.count(frame, &asked)? else {
            return Err("an empty store was asked".into());
        };
        counter.apply(*draft);
    }
    Ok(counter)
}

/// Bytes of memory a living entry takes, by what the process grows by.
fn memory(gateways: u8, merging: bool) -> Result<usize, Failed> {
    let frames = traffic::frames(gateways)?;
    let before = resident()?;
    let counter = count(&frames, gateways, merging)?;
    let after = resident()?;
    Ok(after.saturating_sub(before) / counter.entries().max(1))
}

/// The same, measured in a process that has done nothing else.
fn of_child(gateways: u8, merging: &str) -> Result<usize, Failed> {
    let arguments = ["--memory", &gateways.to_string(), merging];
    let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Bytes of this process in memory (proc(5), `VmRSS`).
fn resident() -> Result<usize, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.ok_or("no VmRSS")?.parse::<usize>()? << 10)
}
