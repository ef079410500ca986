//! What the benchmarks of both sources share: a network namespace with many live UDP flows, CPU
//! time a flow, the kernel's dump as the baseline, and the report. No benchmark by itself.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use conntracct_node::clock;
use conntracct_node::netns::Netns;
use conntracct_node::source::netlink::dump::{DumpSocket, Part};
use rustix::time::{ClockId, clock_gettime};

/// `[--flows N] [--rounds N] [--json FILE]`.
pub(crate) struct Options {
    pub(crate) flows: u32,
    pub(crate) rounds: usize,
    json: Option<String>,
}

impl Options {
    /// Those of the command line, with at least `least` flows.
    pub(crate) fn read(least: u32) -> anyhow::Result<Self> {
        let mut options = Self { flows: 100_000, rounds: 5, json: None };
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
        ensure!(options.flows >= least, "at least {least} flows");
        ensure!(rustix::process::geteuid().is_root(), "it needs root, for a network namespace");
        Ok(options)
    }
}

/// A namespace with connection tracking; removed when dropped.
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) netns: Netns,
}

impl Lab {
    pub(crate) fn new() -> anyhow::Result<Self> {
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

    /// One datagram to each of `flows` destinations; `pause` is called after every 10,000.
    pub(crate) fn fill(&self, flows: u32, mut pause: impl FnMut() + Send) -> anyhow::Result<()> {
        let send = || {
            let _sink = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9_999))?;
            let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            for number in 0..flows {
                let to = Ipv4Addr::from(0x7f01_0000 + number);
                sender.send_to(&[0; 20], SocketAddrV4::new(to, 9_999))?;
                if number % 10_000 == 0 {
                    pause();
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

/// Nanoseconds a flow of something that must see all of them, in CPU time of this thread.
pub(crate) fn timed(
    flows: u32,
    work: impl FnOnce() -> anyhow::Result<usize>,
) -> anyhow::Result<f64> {
    let start = cpu_time();
    let seen = work()?;
    let time = cpu_time().saturating_sub(start);
    ensure!(seen >= flows as usize, "only {seen} of {flows} flows were seen");
    Ok(time.as_secs_f64() * 1e9 / seen as f64)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The baseline: the kernel's dump, its bytes thrown away.
pub(crate) fn dump_only(dump: &mut DumpSocket) -> anyhow::Result<usize> {
    let mut seen = 0;
    dump.entries(|part| seen += usize::from(matches!(part, Part::Entry(_))))?;
    Ok(seen)
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A figure; one with `of_dump` is told beside the kernel's dump.
pub(crate) struct Figure {
    /// For the JSON.
    pub(crate) name: &'static str,
    /// For a person.
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) of_dump: bool,
}

/// Tells all figures, and writes them where `--json` says.
pub(crate) fn report(
    bench: &str,
    options: &Options,
    dump: f64,
    figures: &[Figure],
) -> anyhow::Result<()> {
    let kernel = clock::kernel_release()?;
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    eprintln!("{} flows, median of {} rounds, Linux {kernel}", options.flows, options.rounds);
    for Figure { what, value, unit, .. } in figures {
        eprintln!("{what:<18}{value:8.0} {unit}");
    }
    eprintln!("{:<18}{dump:8.0} ns a flow", "kernel dump");
    let figures = figures.iter().map(|figure| {
        let Figure { name, value, unit, of_dump, .. } = figure;
        serde_json::json!({
            "name": name,
            "value": value,
            "unit": unit.trim_end_matches(" a flow"),
            "baseline": of_dump.then_some("kernel_dump"),
            "baseline_value": of_dump.then_some(dump),
            "ratio": of_dump.then_some(value / dump),
        })
    });
    let json = serde_json::json!({
        "bench": bench,
        "machine": { "kernel": kernel, "cpus": cpus, "arch": std::env::consts::ARCH },
        "figures": figures.collect::<Vec<_>>(),
    });
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&json)? + "\n")
            .with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}
