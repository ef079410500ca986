//! What a sweep by eBPF costs, against the kernel's own dump of the same table in the same run.
//!
//! Makes a network namespace with many live UDP flows, finds their entries by their packets (so
//! that it runs on kernels without kprobes, too) and reads them in ascending and in random order,
//! by turns with a dump whose bytes are thrown away. All times are CPU time of the one thread that
//! does the work, the kernel's part included. Needs root; removes what it made.
//! `bench_sweep [--flows N] [--rounds N] [--json FILE]`.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use conntracct_node::clock;
use conntracct_node::netns::Netns;
use conntracct_node::source::ebpf::collect::Collector;
use conntracct_node::source::ebpf::layout::Layout;
use conntracct_node::source::netlink::dump::{DumpSocket, Part};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rustix::time::{ClockId, clock_gettime};

struct Options {
    flows: u32,
    rounds: usize,
    json: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    ensure!(rustix::process::geteuid().is_root(), "it needs root, for a network namespace");
    let lab = Lab::new()?;
    let layout = Layout::of_kernel()?;
    let mut collector = Collector::open(layout, &lab.netns, options.flows as usize)?;
    lab.fill(&mut collector, options.flows)?;
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
    report(&options, &mut figures)
}

/// Samples of each figure.
#[derive(Default)]
struct Figures {
    dump: Vec<f64>,
    sorted: Vec<f64>,
    random: Vec<f64>,
    chunk_us: Vec<f64>,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options { flows: 100_000, rounds: 5, json: None };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--flows" => options.flows = value.parse().context("--flows")?,
            "--rounds" => options.rounds = value.parse().context("--rounds")?,
            "--json" => options.json = Some(value),
            _ => anyhow::bail!("unknown flag {flag}"),
        }
    }
    ensure!(options.rounds > 0, "at least one round");
    ensure!(options.flows >= CHUNK, "at least {CHUNK} flows, a whole chunk");
    Ok(options)
}

/// A namespace with connection tracking; removed when dropped.
struct Lab {
    name: String,
    netns: Netns,
}

impl Lab {
    fn new() -> anyhow::Result<Self> {
        let name = format!("ct-bench-{}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        let lab = Self { netns: Netns::named(&name)?, name };
        let inside = |args: &[&str]| {
            let all: Vec<_> = ["netns", "exec", &lab.name].iter().chain(args).copied().collect();
            run("ip", &all)
        };
        inside(&["ip", "link", "set", "lo", "up"])?;
        inside(&[
            "nft",
            "table inet t {
                chain out { type filter hook output priority 0; ct state new accept; }
            }",
        ])?;
        for (key, value) in [("acct", "1"), ("timestamp", "1"), ("udp_timeout", "3600")] {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_{key}");
            lab.netns.enter(|| std::fs::write(&path, value)).with_context(|| path.clone())?;
        }
        Ok(lab)
    }

    /// One datagram to each of `flows` destinations, the entries being collected on the way.
    fn fill(&self, collector: &mut Collector, flows: u32) -> anyhow::Result<()> {
        let send = || {
            let _sink = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9_999))?;
            let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            for number in 0..flows {
                let to = Ipv4Addr::from(0x7f01_0000 + number);
                sender.send_to(&[0; 20], SocketAddrV4::new(to, 9_999))?;
                if number % 10_000 == 0 {
                    collector.found();
                }
            }
            Ok(())
        };
        self.netns.enter(send).context("making the flows; is nf_conntrack_max large enough?")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(run("ip", &["netns", "del", &self.name]));
    }
}

fn run(command: &str, args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(command).args(args).status().context(command.to_owned())?;
    ensure!(status.success(), "{command} {args:?} failed");
    Ok(())
}

/// Nanoseconds a flow of something that must see all of them.
fn timed(flows: u32, work: impl FnOnce() -> anyhow::Result<usize>) -> anyhow::Result<f64> {
    let start = cpu_time();
    let seen = work()?;
    let time = cpu_time().saturating_sub(start);
    ensure!(seen >= flows as usize, "only {seen} of {flows} flows were seen");
    Ok(time.as_secs_f64() * 1e9 / seen as f64)
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn dump_only(dump: &mut DumpSocket) -> anyhow::Result<usize> {
    let mut seen = 0;
    dump.entries(|part| seen += usize::from(matches!(part, Part::Entry(_))))?;
    Ok(seen)
}

/// Reads entries; counts those with their one packet.
fn read(collector: &mut Collector, addresses: &[u64]) -> anyhow::Result<usize> {
    let mut seen = 0;
    collector.read(addresses, |packets| seen += usize::from(packets == 1))?;
    Ok(seen)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let kernel = clock::kernel_release()?;
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let (dump, sorted) = (median(&mut figures.dump), median(&mut figures.sorted));
    let (random, chunk) = (median(&mut figures.random), median(&mut figures.chunk_us));
    eprintln!("{} flows, median of {} rounds, Linux {kernel}", options.flows, options.rounds);
    eprintln!("sweep, ascending {sorted:8.0} ns a flow");
    eprintln!("sweep, random    {random:8.0} ns a flow");
    eprintln!("kernel dump      {dump:8.0} ns a flow");
    eprintln!("one chunk        {chunk:8.0} us");
    let figure = |name: &str, value: f64, unit: &str, baseline: Option<f64>| {
        serde_json::json!({
            "name": name,
            "value": value,
            "unit": unit,
            "baseline": baseline.map(|_| "kernel_dump"),
            "baseline_value": baseline,
            "ratio": baseline.map(|baseline| value / baseline),
        })
    };
    let json = serde_json::json!({
        "bench": "sweep",
        "machine": { "kernel": kernel, "cpus": cpus, "arch": std::env::consts::ARCH },
        "figures": [
            figure("ns_per_flow", sorted, "ns", Some(dump)),
            figure("random_ns_per_flow", random, "ns", Some(dump)),
            figure("chunk_us", chunk, "us", None),
        ],
    });
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&json)? + "\n")
            .with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}

/// Entries of one call.
const CHUNK: u32 = 512;
