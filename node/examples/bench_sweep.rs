//! What a sweep by eBPF costs, against the kernel's own dump of the same table in the same run.
//!
//! Makes a network namespace with many live UDP flows, finds their entries by their packets (so
//! that it runs on kernels without kprobes, too) and reads them in ascending and in random order,
//! by turns with a dump whose bytes are thrown away. All times are CPU time of the one thread that
//! does the work, the kernel's part included. Needs root; removes what it made.
//! `bench_sweep [--flows N] [--rounds N] [--json FILE]`.

#[path = "live_table/mod.rs"]
mod live_table;

use anyhow::ensure;
use conntracct_node::source::ebpf::collect::Collector;
use conntracct_node::source::ebpf::layout::Layout;
use conntracct_node::source::netlink::dump::DumpSocket;
use live_table::{Figure, Lab, Options, dump_only, median, report, timed};
use rand::SeedableRng;
use rand::seq::SliceRandom;

fn main() -> anyhow::Result<()> {
    let options = Options::read(CHUNK)?;
    let lab = Lab::new()?;
    let layout = Layout::of_kernel()?;
    let mut collector = Collector::open(layout, &lab.netns, options.flows as usize)?;
    lab.fill(options.flows, || {
        collector.found();
    })?;
    let sorted: Vec<u64> = collector.found().keys().copied().collect();
    ensure!(sorted.len() == options.flows as usize, "found {} entries", sorted.len());
    let mut random = sorted.clone();
    random.shuffle(&mut rand::rngs::SmallRng::seed_from_u64(1));
    let mut dump = lab.netns.enter(DumpSocket::open)?;
    let mut figures = Figures::default();
    for _ in 0..options.rounds {
        figures.dump.push(timed(options.flows, || dump_only(&mut dump))?);
        figures.sorted.push(timed(options.flows, || read(&mut collector, &sorted))?);
        figures.random.push(timed(options.flows, || read(&mut collector, &random))?);
        for chunk in sorted.chunks_exact(CHUNK as usize).take(100) {
            let ns = timed(CHUNK, || read(&mut collector, chunk))? * f64::from(CHUNK);
            figures.chunk_us.push(ns / 1e3);
        }
    }
    let Figures { mut dump, mut sorted, mut random, mut chunk_us } = figures;
    let figure = |name, what, value, unit, of_dump| Figure { name, what, value, unit, of_dump };
    let told = [
        figure("ns_per_flow", "sweep, ascending", median(&mut sorted), "ns a flow", true),
        figure("random_ns_per_flow", "sweep, random", median(&mut random), "ns a flow", true),
        figure("chunk_us", "one chunk", median(&mut chunk_us), "us", false),
    ];
    report("sweep", &options, median(&mut dump), &told)
}

/// Samples of each figure.
#[derive(Default)]
struct Figures {
    dump: Vec<f64>,
    sorted: Vec<f64>,
    random: Vec<f64>,
    chunk_us: Vec<f64>,
}

/// Reads entries; counts those with their one packet.
fn read(collector: &mut Collector, addresses: &[u64]) -> anyhow::Result<usize> {
    let mut seen = 0;
    collector.read(addresses, |packets| seen += usize::from(packets == 1))?;
    Ok(seen)
}

/// Entries of one call.
const CHUNK: u32 = 512;
