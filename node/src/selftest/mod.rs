//! `conntracct-node test`: sends real traffic through a small network of its own, and checks what a
//! source reports of it.
//!
//! - [`check`]: what a source must say, and whether it did: pure;
//! - [`report`]: the result for people and programs;
//! - `world`: the network; `rules`: what its gateway does to packets; `traffic`: the packets;
//! - `course`: what happens in which order.
//!
//! The network is made of namespaces without a name: only this process's descriptors hold them, so
//! they are gone with it, however it ends. Nothing outside of them is changed, but for kernel
//! modules that get loaded (veth, nf_tables, nf_conntrack). No other program is needed.

pub mod check;
mod course;
pub mod report;
mod rules;
mod traffic;
mod world;

use std::io::Write;

use anyhow::Context as _;
use daemon::config::chain;

use crate::cli::TestArgs;
use crate::clock;
use crate::config::{Config, SourceChoice};
use crate::netns::NetnsChoice;
use crate::source::Source;
use crate::source::ebpf::{EbpfConfig, EbpfSource};
use crate::source::netlink::{NetlinkConfig, NetlinkSource};

pub use self::report::Report;

/// A source that was opened to be tested, and why it is not the one that was wished for.
pub struct Opened {
    /// The source.
    pub source: Box<dyn Source>,
    /// Why it is not eBPF, where that was tried first; one line.
    pub instead: Option<String>,
}

/// Opens the source that is tested on the namespaces given; an error is one line.
pub type Opener<'o> = dyn FnMut(NetnsChoice) -> Result<Opened, String> + 'o;

/// Runs the self-test and prints its result.
///
/// # Errors
/// When a check failed or none passed: then the program's exit status is 1. Or when nothing can be
/// printed.
pub fn run(config: &Config, args: &TestArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let report = run_with(&mut |netns| open(config, netns));
    if args.json {
        report.print_json(out)?;
    } else {
        report.print(out)?;
    }
    out.flush().context("the result cannot be written")?;
    match (report.failed(), report.passed()) {
        (0, 0) => anyhow::bail!("nothing could be checked"),
        (0, _) => Ok(()),
        (failed, _) => anyhow::bail!("{failed} of the checks failed"),
    }
}

/// Runs the self-test on whichever source `open` opens.
pub fn run_with(open: &mut Opener<'_>) -> Report {
    let kernel = clock::kernel_release().unwrap_or_else(|_no_proc| "unknown".to_owned());
    course::run(kernel, open)
}

fn open(config: &Config, netns: NetnsChoice) -> Result<Opened, String> {
    let netlink = |netns| {
        let settings = NetlinkConfig { netns, ..NetlinkConfig::default() };
        let source = NetlinkSource::open(settings).map_err(|error| chain(&error))?;
        Ok::<Box<dyn Source>, String>(Box::new(source))
    };
    let ebpf = |netns| {
        let layout = config.ebpf.layout.clone();
        let settings = EbpfConfig { netns, layout, ..EbpfConfig::default() };
        let source = EbpfSource::open(settings).map_err(|error| chain(&error))?;
        Ok::<Box<dyn Source>, String>(Box::new(source))
    };
    match config.source {
        SourceChoice::Netlink => Ok(Opened { source: netlink(netns)?, instead: None }),
        SourceChoice::Ebpf => Ok(Opened { source: ebpf(netns)?, instead: None }),
        SourceChoice::Auto => match ebpf(netns.clone()) {
            Ok(source) => Ok(Opened { source, instead: None }),
            Err(reason) => Ok(Opened { source: netlink(netns)?, instead: Some(reason) }),
        },
        SourceChoice::Replay(_) => {
            Err("a recording cannot be tested: give --source auto, ebpf or netlink".to_owned())
        }
    }
}
