//! Lives of the source one after the other: what ends between two of them waits in the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use conntracct_node::source::Source;
use conntracct_node::source::ebpf::layout::Layout;
use conntracct_node::source::ebpf::{EbpfConfig, EbpfSource, LayoutChoice, keep};
use flow::{Counters, Reading};

use super::{births, config, ends, lab, open_with, sweep};
use crate::lab::{Lab, PAYLOAD, destination};

const DATAGRAM: u64 = 20 + 8 + PAYLOAD as u64;

/// A folder for the lives of one test's source, removed with it.
pub(super) struct Pins(PathBuf);

impl Pins {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ct-test-{}-{number}", std::process::id());
        Self(Path::new("/sys/fs/bpf").join(name))
    }

    fn lives(&self) -> usize {
        std::fs::read_dir(&self.0).map_or(0, Iterator::count)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        drop(keep::release(&self.0));
    }
}

pub(super) fn kept(lab: &Lab, pins: &Pins) -> EbpfConfig {
    EbpfConfig { keep: Some(pins.0.clone()), ..config(&[lab]) }
}

/// Opens a first life; `None`, with the reason printed, where the kernel's hooks end with the
/// process.
fn first_life(lab: &Lab, config: EbpfConfig) -> Option<EbpfSource> {
    let source = open_with(lab, config);
    if !source.is_kept() {
        println!("skipped: hooks of this kernel end with the process");
        return None;
    }
    Some(source)
}

fn all_ends(source: &mut EbpfSource) -> Vec<Reading> {
    let mut events = Vec::new();
    source.events(&mut events).unwrap();
    assert_eq!(births(&events), [], "births do not wait");
    ends(&events)
}

fn by_destination(ended: &[Reading]) -> BTreeMap<IpAddr, Option<Counters>> {
    ended.iter().map(|reading| (reading.orig.dst, reading.counters)).collect()
}

fn expected(numbers: std::ops::Range<u32>) -> BTreeMap<IpAddr, Option<Counters>> {
    let counters = |number: u32| {
        let packets = u64::from(number % 3 + 1);
        Counters::new(packets, packets * DATAGRAM, 0, 0)
    };
    numbers.map(|number| (IpAddr::V4(destination(number)), Some(counters(number)))).collect()
}

/// One to three datagrams to each.
fn send(lab: &Lab, numbers: std::ops::Range<u32>) {
    let udp = lab.udp();
    for number in numbers {
        (0..=number % 3).for_each(|_| udp.send(number).unwrap());
    }
}

#[test]
fn ends_wait_while_no_source_reads() {
    let Some(lab) = lab("restart") else { return };
    let pins = Pins::new();
    let mut source = open_with(&lab, kept(&lab, &pins));
    let is_kept = source.is_kept();
    send(&lab, 3..5_001);
    assert_eq!(sweep(&mut source).0.len(), 4_999);
    drop(source);
    // Grown, ended, and born and ended, while nobody looks.
    send(&lab, 5_001..7_002);
    lab.flush();
    // The table is empty, and the layout was proved before.
    if !is_kept {
        lab.udp().send(0).unwrap();
    }
    let mut source = EbpfSource::open(kept(&lab, &pins)).unwrap();
    let ended = all_ends(&mut source);
    println!("restart: {} of 7000 ends exact, kept: {is_kept}", ended.len());
    if !is_kept {
        assert_eq!(ended, []);
        return;
    }
    let first = IpAddr::V4(destination(0));
    let ended: Vec<_> = ended.into_iter().filter(|reading| reading.orig.dst != first).collect();
    assert_eq!(ended.len(), 6_999, "each once");
    assert_eq!(by_destination(&ended), expected(3..7_002));
    assert!(ended.iter().all(|reading| reading.start != 0 && reading.stop >= reading.start));
    let (live, report) = sweep(&mut source);
    assert_eq!((live.len(), report.complete.len()), (0, 1));
    let health = source.health();
    assert_eq!((health.lost_ends, health.reliable_ends), (0, true));
    assert_eq!(pins.lives(), 1, "the life before is removed");

    // And on: this life tells births and ends as the first one did, and is followed by a third.
    send(&lab, 1..4);
    assert_eq!(sweep(&mut source).0.len(), 3);
    drop(source);
    lab.flush();
    let mut source = EbpfSource::open(kept(&lab, &pins)).unwrap();
    assert_eq!(by_destination(&all_ends(&mut source)), expected(1..4));
}

#[test]
fn without_a_folder_nothing_waits() {
    let Some(lab) = lab("unkept") else { return };
    let source = open_with(&lab, config(&[&lab]));
    assert!(!source.is_kept());
    send(&lab, 3..1_003);
    drop(source);
    lab.flush();
    let mut source = open_with(&lab, config(&[&lab]));
    let ended = all_ends(&mut source);
    println!("restart: {} of 1001 ends exact without pins", ended.len());
    assert_eq!(ended, []);
}

#[test]
fn what_does_not_fit_while_nobody_reads_is_counted() {
    let Some(lab) = lab("overflow") else { return };
    let pins = Pins::new();
    let small = EbpfConfig { ring_bytes: 4096, ..kept(&lab, &pins) };
    let Some(mut source) = first_life(&lab, small.clone()) else { return };
    send(&lab, 3..1_003);
    assert_eq!(sweep(&mut source).0.len(), 1_001);
    drop(source);
    lab.flush();
    let mut source = EbpfSource::open(small).unwrap();
    let ended = all_ends(&mut source);
    let health = source.health();
    println!("restart: {} ends waited in 4 KiB, {} lost", ended.len(), health.lost_ends);
    assert!(!ended.is_empty() && health.lost_ends > 0, "nothing was tested");
    assert_eq!(ended.len() as u64 + health.lost_ends, 1_001);
    assert!(!health.reliable_ends);
}

#[test]
fn what_another_version_left_is_replaced_unread() {
    let Some(lab) = lab("version") else { return };
    let pins = Pins::new();
    let Some(source) = first_life(&lab, kept(&lab, &pins)) else { return };
    drop(source);
    lab.flush();
    // As right as the kernel's own: only a benchmark uses what differs.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layout.toml");
    let mut layout = Layout::of_kernel().unwrap();
    layout.skb_nfct += 8;
    std::fs::write(&file, layout.to_toml().unwrap()).unwrap();
    let other = EbpfConfig { layout: LayoutChoice::File(file), ..kept(&lab, &pins) };
    let error = EbpfSource::open(other.clone()).err().unwrap();
    assert!(error.to_string().contains("no connection is tracked"), "{error}");
    assert_eq!(pins.lives(), 1, "who does not run replaces nothing");
    let mut source = open_with(&lab, other);
    assert_eq!(all_ends(&mut source), []);
    assert!(source.is_kept());
    assert_eq!(pins.lives(), 1);
}

#[test]
fn a_folder_has_one_user_and_can_be_released() {
    let Some(lab) = lab("release") else { return };
    let pins = Pins::new();
    let Some(source) = first_life(&lab, kept(&lab, &pins)) else { return };
    let error = keep::release(&pins.0).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    let second = EbpfSource::open(kept(&lab, &pins)).unwrap();
    assert!(!second.is_kept(), "it runs, and takes nothing from the first");
    assert_eq!(pins.lives(), 1);
    drop((source, second));
    assert!(keep::release(&pins.0).unwrap());
    assert!(!pins.0.exists());
    assert!(!keep::release(&pins.0).unwrap(), "nothing is left");
    lab.flush();
    let mut source = open_with(&lab, kept(&lab, &pins));
    assert_eq!(all_ends(&mut source), [], "nobody was there");
}
