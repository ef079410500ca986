//! A ring buffer that is much too small: every loss is counted, every living entry found again.

use std::time::Instant;

use conntracct_node::source::Source;
use conntracct_node::source::ebpf::EbpfConfig;

use super::{births, config, ends, lab, open_with, sweep};

#[test]
fn losses_are_counted_and_living_entries_found_again() {
    let Some(lab) = lab("losses") else { return };
    let small = EbpfConfig { ring_bytes: 4096, ..config(&[&lab]) };
    let mut source = open_with(&lab, small);
    let udp = lab.udp();
    udp.send_all(1..4_000);
    let (live, report) = sweep(&mut source);
    assert_eq!(live.len(), 4_000, "{report:?}");
    assert_eq!(report.complete, [lab.netns().inode()]);
    let mut events = Vec::new();
    source.events(&mut events).unwrap();
    let health = source.health();
    let born = births(&events).len() as u64;
    assert!(health.lost_births > 0, "the ring was large enough, which tests nothing");
    assert_eq!(born + health.lost_births, 3_999, "every loss is counted");
    assert_eq!(source.missed_births(), health.lost_births);

    lab.flush();
    // Entries whose end was lost are missed by two sweeps.
    let mut last = 1;
    for _ in 0..3 {
        last = sweep(&mut source).0.len();
        source.events(&mut events).unwrap();
    }
    assert_eq!(last, 0);
    let health = source.health();
    assert!(health.lost_ends > 0, "the ring was large enough, which tests nothing");
    assert_eq!(ends(&events).len() as u64 + health.lost_ends, 4_000);

    udp.send_all(5_000..5_010);
    assert_eq!(sweep(&mut source).0.len(), 10, "it goes on");
    sweep(&mut source);
    assert!(source.health().reliable_ends, "nothing was lost lately");
}

#[test]
fn under_churn_every_loss_is_counted() {
    let Some(lab) = lab("churn") else { return };
    let small = EbpfConfig { ring_bytes: 4096, ..config(&[&lab]) };
    let mut source = open_with(&lab, small);
    let udp = lab.udp();
    let (rounds, each) = (8, 2_000);
    let begun = Instant::now();
    for round in 0..rounds {
        udp.send_all(round * each + 1..(round + 1) * each + 1);
        lab.flush();
    }
    let rate = f64::from(rounds * each) / begun.elapsed().as_secs_f64();
    udp.send_all(50_000..50_500);
    // The entry that was there before has ended, too.
    let (born, ended) = (u64::from(rounds * each) + 500, u64::from(rounds * each) + 1);
    let mut events = Vec::new();
    let mut live = 0;
    for _ in 0..3 {
        live = sweep(&mut source).0.len();
        source.events(&mut events).unwrap();
    }
    let health = source.health();
    println!(
        "churn: {rate:.0} flows a second through 4 KiB, of {born} births {} lost, of {ended} ends {}",
        health.lost_births, health.lost_ends
    );
    assert_eq!(live, 500, "every living entry is known");
    assert!(health.lost_births > 0 && health.lost_ends > 0, "nothing was tested");
    assert_eq!(births(&events).len() as u64 + health.lost_births, born);
    assert_eq!(ends(&events).len() as u64 + health.lost_ends, ended);
}
