//! The eBPF source in a real kernel. Needs root, kprobes and the kernel's type information: `cargo
//! xtask vm` runs these in kernels that have them; elsewhere they say that they are skipped.

mod adoption;
mod doctor;
mod fallback;
mod gateway;
mod life;
mod losses;
mod privileges;
mod refusals;
mod restart;
mod same;
mod selftest;

use std::time::Duration;

use conntracct_node::netns::NetnsChoice;
use conntracct_node::source::ebpf::{EbpfConfig, EbpfSource};
use conntracct_node::source::{Event, Source, SweepReport, Timed};
use flow::Reading;

use crate::lab::{Lab, wait};

/// A lab in a kernel that the source can work in; `None`, with a printed reason, elsewhere.
fn lab(test: &str) -> Option<Lab> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap();
    if !symbols.contains(" register_kprobe") {
        println!("{test}: skipped, this kernel has no kprobes");
        return None;
    }
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        println!("{test}: skipped, this kernel has no type information");
        return None;
    }
    let lab = Lab::new(test)?;
    // Emulated kernels are slow: no entry expires under a test.
    lab.set("udp_timeout", "3600");
    Some(lab)
}

fn config(labs: &[&Lab]) -> EbpfConfig {
    let names = labs.iter().map(|lab| lab.name().to_owned()).collect();
    EbpfConfig { netns: NetnsChoice::Listed(names), ..EbpfConfig::default() }
}

/// Opens the source; there must be an entry to prove it on, so one is made: datagram 0.
fn open(lab: &Lab) -> EbpfSource {
    open_with(lab, config(&[lab]))
}

fn open_with(lab: &Lab, config: EbpfConfig) -> EbpfSource {
    lab.udp().send(0).unwrap();
    EbpfSource::open(config).unwrap()
}

fn sweep(source: &mut EbpfSource) -> (Vec<Reading>, SweepReport) {
    let mut all = Vec::new();
    let report = source.sweep(&mut |chunk| all.extend(chunk.readings)).unwrap();
    (all, report)
}

/// Events until as many ends have come.
fn until_ends(source: &mut dyn Source, ends: usize) -> Vec<Timed> {
    let mut all = Vec::new();
    wait("the ends", Duration::from_secs(60), || {
        source.events(&mut all).unwrap();
        self::ends(&all).len() >= ends
    });
    all
}

fn ends(events: &[Timed]) -> Vec<Reading> {
    let ends = events.iter().filter_map(|timed| match timed.event {
        Event::End(reading) => Some(reading),
        Event::New(_) => None,
    });
    ends.collect()
}

fn births(events: &[Timed]) -> Vec<Reading> {
    let births = events.iter().filter_map(|timed| match timed.event {
        Event::New(reading) => Some(reading),
        Event::End(_) => None,
    });
    births.collect()
}
