//! Births, sweeps and deaths.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use conntracct_node::source::Source;
use flow::Counters;

use super::{births, ends, lab, open, sweep, until_ends};
use crate::lab::{PAYLOAD, destination, wait};

const DATAGRAM: u64 = 20 + 8 + PAYLOAD as u64;

fn sent(number: u32) -> (IpAddr, Option<Counters>) {
    let packets = u64::from(number % 3 + 1);
    let counters = Counters::new(packets, packets * DATAGRAM, 0, 0);
    (IpAddr::V4(destination(number)), Some(counters))
}

#[test]
fn counters_are_those_of_the_kernel_alive_and_ended() {
    let Some(lab) = lab("life") else { return };
    let mut source = open(&lab);
    let udp = lab.udp();
    for number in 1..1_001 {
        for _ in 0..=number % 3 {
            udp.send(number).unwrap();
        }
    }
    let expected: BTreeMap<_, _> = (1..1_001).map(sent).collect();
    let (live, report) = sweep(&mut source);
    assert_eq!(report.complete, [lab.netns().inode()]);
    assert!(report.failed.is_empty() && report.gone.is_empty());
    let first = IpAddr::V4(destination(0));
    let live: BTreeMap<_, _> =
        live.iter().filter(|r| r.orig.dst != first).map(|r| (r.orig.dst, r.counters)).collect();
    assert_eq!(live, expected);

    lab.flush();
    let events = until_ends(&mut source, 1_001);
    let ended: BTreeMap<_, _> = ends(&events)
        .iter()
        .filter(|r| r.orig.dst != first)
        .map(|r| (r.orig.dst, r.counters))
        .collect();
    assert_eq!(ended, expected);
    assert!(ends(&events).iter().all(|r| r.start != 0 && r.stop >= r.start));
    assert_eq!(births(&events).len(), 1_000, "the first was adopted");
    let (live, _) = sweep(&mut source);
    assert_eq!(live.len(), 0);
    let health = source.health();
    assert_eq!((health.lost_ends, health.lost_births, health.malformed), (0, 0, 0));
    assert!(health.reliable_ends);
}

#[test]
fn flows_shorter_than_the_interval_are_counted_to_the_last_packet() {
    let Some(lab) = lab("short") else { return };
    let mut source = open(&lab);
    lab.flush();
    until_ends(&mut source, 1);
    let udp = lab.udp();
    let mut ended = BTreeMap::new();
    for round in 0..10u32 {
        for number in round * 500..(round + 1) * 500 {
            for _ in 0..=number % 3 {
                udp.send(number).unwrap();
            }
        }
        lab.flush();
        let events = until_ends(&mut source, 500);
        ended.extend(ends(&events).iter().map(|r| (r.orig.dst, r.counters)));
    }
    let expected: BTreeMap<_, _> = (0..5_000).map(sent).collect();
    assert_eq!(ended, expected);
    assert_eq!(source.health().lost_ends, 0);
}

#[test]
fn memory_given_to_another_entry_is_not_taken_for_the_first() {
    let Some(lab) = lab("reuse") else { return };
    let mut source = open(&lab);
    let udp = lab.udp();
    for round in 0..20u32 {
        udp.send_all(round * 200..(round + 1) * 200);
        let (live, _) = sweep(&mut source);
        for reading in &live {
            let packets = reading.counters.map(|counters| counters.orig.packets.get());
            assert_eq!(packets, Some(1), "{reading:?}");
        }
        lab.flush();
    }
    let mut all = Vec::new();
    wait("all ends", Duration::from_secs(60), || {
        source.events(&mut all).unwrap();
        ends(&all).len() >= 4_000
    });
    assert_eq!(source.health().lost_ends, 0);
}

#[test]
fn nothing_runs_for_a_packet_of_a_known_flow() {
    let Some(lab) = lab("runs") else { return };
    std::fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").unwrap();
    let mut source = open(&lab);
    let udp = lab.udp();
    let begin = source.runs().unwrap();
    udp.send(1).unwrap();
    let before = source.runs().unwrap();
    assert!(before > begin, "the kernel does not count runs");
    for _ in 0..100_000 {
        udp.send(1).unwrap();
    }
    let after = source.runs().unwrap();
    let (live, _) = sweep(&mut source);
    let counted = live.iter().find(|r| r.orig.dst == IpAddr::V4(destination(1))).unwrap();
    assert_eq!(counted.counters, Some(Counters::new(100_001, 100_001 * DATAGRAM, 0, 0)));
    assert!(after - before <= 2, "{} runs for 100,000 packets", after - before);
}
