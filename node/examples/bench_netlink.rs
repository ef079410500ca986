//! What a netlink sweep costs, against the kernel's own dump with its bytes thrown away.
//!
//! Makes a network namespace with many live UDP flows, then sweeps and dumps by turns. Also
//! gives the cost of parsing alone, over the dump's bytes in memory. All times are CPU time of
//! the one thread that does the work, the kernel's part included, so that a busy machine does
//! not blur them. Needs root; removes what it made. `bench_netlink [--flows N] [--rounds N] [--json FILE]`.

#[path = "live_table/mod.rs"]
mod live_table;

use anyhow::ensure;
use conntracct_node::netns::NetnsChoice;
use conntracct_node::source::Source;
use conntracct_node::source::netlink::dump::{DumpSocket, Part};
use conntracct_node::source::netlink::{NetlinkConfig, NetlinkSource, parse};
use live_table::{Figure, Lab, Options, dump_only, median, report, timed};

fn main() -> anyhow::Result<()> {
    let options = Options::read(1)?;
    let lab = Lab::new()?;
    lab.fill(options.flows, || {})?;

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
    let figure =
        |name, what, value, of_dump| Figure { name, what, value, unit: "ns a flow", of_dump };
    let figures = [
        figure("ns_per_flow", "sweep", median(&mut swept), true),
        figure("parse_ns_per_flow", "parsing", median(&mut parsed), false),
    ];
    report("netlink", &options, median(&mut dumped), &figures)
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
