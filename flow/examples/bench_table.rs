//! `cargo run --release -p conntracct-flow --example bench_table -- [--json FILE]`
//!
//! Flows a second through a sweep in which every one of a million known flows has grown: diff,
//! records into a cheap sink, commit. Beside it the same diff over a plain
//! `HashMap<EntryId, Counters>`, which knows neither ends nor bounds nor baselines. Both take the
//! same readings, in an order that is not that in which they were first seen and is the same in
//! every sweep, as the kernel's buckets give it; medians of interleaved runs.
//! Then the resident memory of tables of 100,000 and 1,048,576 flows.

extern crate conntracct_flow as flow;

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use flow::entry::{EntryId, Zone};
use flow::table::{EmitMode, FlowTable, SweepEnd, TableLimits};
use flow::{
    BootId, BootNanos, Counters, NetnsId, NetnsInode, Proto, Reading, Record, Status, TcpState,
    Tuple,
};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Interleaved runs, of which the median is told.
const RUNS: usize = 5;
const FLOWS: u32 = 1_000_000;
const NETNS: NetnsInode = NetnsInode(1);
const SEED: u64 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let json = match (args.next().as_deref(), args.next()) {
        (None, _) => None,
        (Some("--json"), Some(file)) => Some(file),
        _ => return Err("usage: bench_table [--json FILE]".into()),
    };
    // First, while the process has touched nothing else; both stay, so that nothing is reused.
    let (small, small_rss) = resident(100_000)?;
    let (large, large_rss) = resident(1 << 20)?;
    black_box((small.stats(), large.stats()));
    drop((small, large));

    let (ours, plain) = rates()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "table        {ours:>12.0} flows/s")?;
    writeln!(out, "std_hashmap  {plain:>12.0} flows/s, ratio {:.2}", ours / plain)?;
    writeln!(out, "resident     {small_rss} B at 100,000 flows, {large_rss} B at 1,048,576")?;
    if let Some(file) = json {
        let memory = |name: &str, bytes: u64| {
            json!({ "name": name, "value": bytes, "unit": "B", "baseline": null,
                "baseline_value": null, "ratio": null })
        };
        let figures = [
            json!({ "name": "flows_per_s", "value": ours, "unit": "1/s",
                "baseline": "std_hashmap", "baseline_value": plain, "ratio": ours / plain }),
            memory("rss_bytes_100k", small_rss),
            memory("rss_bytes_1m", large_rss),
        ];
        let report = json!({ "bench": "table", "machine": machine(), "figures": figures });
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// Medians of both rates, in flows a second.
fn rates() -> Result<(f64, f64), Box<dyn Error>> {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(SEED);
    let mut readings: Vec<Reading> = (0..FLOWS).map(reading).collect();
    let mut table = FlowTable::new(TableLimits::default(), BootId([1; 16]), SEED);
    let mut plain = HashMap::new();
    let mut now = BootNanos::BOOT.plus(INTERVAL);
    assert_eq!(run_table(&mut table, &readings, now)?.1, readings.len());
    run_plain(&mut plain, &readings);
    readings.shuffle(&mut rng);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        now = now.plus(INTERVAL);
        for reading in &mut readings {
            let packets = rng.random_range(1..100);
            let more = Counters::new(packets, packets * 900, packets / 2, packets * 60);
            reading.counters = reading.counters.map(|before| before.plus(more));
        }
        let (took, records) = run_table(&mut table, &readings, now)?;
        ours.push(took);
        let (took, grown) = run_plain(&mut plain, &readings);
        theirs.push(took);
        assert_eq!((records, grown), (readings.len(), readings.len()), "all have grown");
    }
    let rate = |took: &mut Vec<Duration>| {
        took.sort();
        f64::from(FLOWS) / took[took.len() / 2].as_secs_f64()
    };
    Ok((rate(&mut ours), rate(&mut theirs)))
}

/// A sweep, an emission, a commit: how long they took and how many records came.
fn run_table(
    table: &mut FlowTable,
    readings: &[Reading],
    begin: BootNanos,
) -> Result<(Duration, usize), Box<dyn Error>> {
    let clock = Instant::now();
    sweep(table, readings.iter().copied(), begin);
    let emission = table.emit(EmitMode::All, &mut |record: &Record| {
        black_box(record);
    });
    let records = emission.records;
    table.commit(emission)?;
    Ok((clock.elapsed(), records))
}

/// The same diff over a map of absolute counters.
fn run_plain(map: &mut HashMap<EntryId, Counters>, readings: &[Reading]) -> (Duration, usize) {
    let clock = Instant::now();
    let mut grown = 0;
    for reading in readings {
        let Some(cum) = reading.counters else { continue };
        let netns = NetnsId { inode: reading.netns, boot: BootId([1; 16]) };
        let birth = reading.birth();
        let entry = EntryId { netns, zone: reading.zone, orig: reading.orig, birth };
        let before = map.entry(entry).or_default();
        let delta = cum.above(*before);
        *before = cum;
        if !delta.is_zero() {
            grown += 1;
            black_box((entry, cum, delta));
        }
    }
    (clock.elapsed(), grown)
}

/// A table of `flows` live flows that all have been reported, and what it made resident.
fn resident(flows: u32) -> Result<(FlowTable, u64), Box<dyn Error>> {
    let before = rss()?;
    let mut table = FlowTable::new(TableLimits::default(), BootId([1; 16]), SEED);
    for round in 1..=2 {
        let begin = BootNanos::BOOT.plus(INTERVAL * round);
        let grown = (0..flows).map(reading).map(|reading| {
            let more = Counters::new(u64::from(round), 1_000, 0, 0);
            Reading { counters: reading.counters.map(|before| before.plus(more)), ..reading }
        });
        sweep(&mut table, grown, begin);
        let emission = table.emit(EmitMode::All, &mut |record: &Record| {
            black_box(record);
        });
        table.commit(emission)?;
    }
    assert_eq!(table.stats().live, u64::from(flows));
    Ok((table, rss()?.saturating_sub(before)))
}

fn sweep(table: &mut FlowTable, readings: impl Iterator<Item = Reading>, begin: BootNanos) {
    let end = begin.plus(Duration::from_secs(1));
    table.sweep_begin(begin);
    for reading in readings {
        table.swept(&reading, end);
    }
    table.sweep_end(&SweepEnd { end, complete: &[NETNS], failed: &[], gone: &[] });
}

/// Flow `n` of many: clients behind one gateway.
fn reading(n: u32) -> Reading {
    let client = Ipv4Addr::from_bits(0x0a00_0000 | n >> 4);
    let server = Ipv4Addr::from_bits(0xc000_0200 + n % 251);
    let port = 32_768 + u16::try_from(n % 16).unwrap_or_default() * 1_021;
    let orig =
        Tuple::ports(Proto::TCP, SocketAddr::from((client, port)), SocketAddr::from((server, 443)));
    Reading {
        netns: NETNS,
        zone: Zone(0),
        orig,
        reply: orig.inverse(),
        start: 1_700_000_000_000_000_000 + u64::from(n) * 1_003,
        stop: 0,
        kernel_id: n,
        mark: 0,
        status: Status(Status::CONFIRMED | Status::SEEN_REPLY | Status::ASSURED),
        tcp: TcpState(3),
        fresh: true,
        counters: Some(Counters::new(10, 9_000, 5, 600)),
    }
}

fn rss() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1_024)
}

fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().ok().map(std::num::NonZero::get);
    json!({ "arch": std::env::consts::ARCH, "os": std::env::consts::OS, "cpu": cpu, "cores": cores })
}

const INTERVAL: Duration = Duration::from_secs(10);
