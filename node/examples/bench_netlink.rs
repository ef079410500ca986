//! What a netlink sweep costs, against the kernel's own dump with its bytes thrown away.
//!
//! Makes a network namespace with many live UDP flows, then sweeps and dumps by turns. Also
//! gives the cost of parsing alone, over the dump's bytes in memory. All times are CPU time of
//! the one thread that does the work, the kernel's part included, so that a busy machine does
//! not blur them. Needs root; removes what it made. `bench_netlink [--flows N] [--rounds N] [--json FILE]`.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use conntracct_node::clock;
use conntracct_node::netns::{Netns, NetnsChoice};
use conntracct_node::source::Source;
use conntracct_node::source::netlink::dump::{DumpSocket, Part};
use conntracct_node::source::netlink::{NetlinkConfig, NetlinkSource, parse};
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
    lab.fill(options.flows)?;

    let config = NetlinkConfig {
        netns: NetnsChoice::Listed(vec![lab.name.clone()]),
        ..NetlinkConfig::default()
    };
    let mut source = NetlinkSource::open(config)?;
    let mut dump = lab.netns.enter(DumpSocket::open)?;
    let (mut swept, mut dumped) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        dumped.push(timed(options.flows, || dump_only(&mut dump))?);
        swept.push(timed(options.flows, || sweep(&mut source))?);
    }
    let captured = capture(&mut dump)?;
    let mut parsed = Vec::new();
    for _ in 0..options.rounds {
        parsed.push(timed(options.flows, || parse_all(&captured, lab.netns.inode()))?);
    }
    report(&options, median(&mut swept), median(&mut dumped), median(&mut parsed))
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
    ensure!(options.rounds > 0 && options.flows > 0, "at least one flow and one round");
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

    /// One datagram to each of `flows` destinations.
    fn fill(&self, flows: u32) -> anyhow::Result<()> {
        let send = || {
            let _sink = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9_999))?;
            let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            for number in 0..flows {
                let to = Ipv4Addr::from(0x7f01_0000 + number);
                sender.send_to(&[0; 20], SocketAddrV4::new(to, 9_999))?;
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
    Ok(per_flow(time, seen))
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn per_flow(time: Duration, flows: usize) -> f64 {
    time.as_secs_f64() * 1e9 / flows as f64
}

fn dump_only(dump: &mut DumpSocket) -> anyhow::Result<usize> {
    let mut seen = 0;
    dump.entries(|part| seen += usize::from(matches!(part, Part::Entry(_))))?;
    Ok(seen)
}

fn sweep(source: &mut NetlinkSource) -> anyhow::Result<usize> {
    let mut seen = 0;
    let report = source.sweep(&mut |chunk| seen += chunk.readings.len())?;
    ensure!(report.failed.is_empty(), "the sweep failed: {:?}", report.failed);
    Ok(seen)
}

/// Messages back to back, and where each ends.
#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

fn capture(dump: &mut DumpSocket) -> anyhow::Result<Captured> {
    let mut captured = Captured::default();
    dump.entries(|part| {
        if let Part::Entry(message) = part {
            captured.bytes.extend_from_slice(message.body);
            captured.ends.push(captured.bytes.len());
        }
    })?;
    Ok(captured)
}

fn parse_all(captured: &Captured, netns: flow::NetnsInode) -> anyhow::Result<usize> {
    let mut begin = 0;
    for end in &captured.ends {
        let body = std::hint::black_box(&captured.bytes[begin..*end]);
        std::hint::black_box(parse::reading(body, netns)?);
        begin = *end;
    }
    Ok(captured.ends.len())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(options: &Options, sweep: f64, dump: f64, parse: f64) -> anyhow::Result<()> {
    let kernel = clock::kernel_release()?;
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    eprintln!("{} flows, median of {} rounds, Linux {kernel}", options.flows, options.rounds);
    eprintln!("sweep       {sweep:8.0} ns a flow");
    eprintln!("kernel dump {dump:8.0} ns a flow");
    eprintln!("parsing     {parse:8.0} ns a flow");
    let figure = |name: &str, value: f64, baseline: Option<f64>| {
        serde_json::json!({
            "name": name,
            "value": value,
            "unit": "ns",
            "baseline": baseline.map(|_| "kernel_dump"),
            "baseline_value": baseline,
            "ratio": baseline.map(|baseline| value / baseline),
        })
    };
    let json = serde_json::json!({
        "bench": "netlink",
        "machine": { "kernel": kernel, "cpus": cpus, "arch": std::env::consts::ARCH },
        "figures": [
            figure("ns_per_flow", sweep, Some(dump)),
            figure("parse_ns_per_flow", parse, None),
        ],
    });
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&json)? + "\n")
            .with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}
