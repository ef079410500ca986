//! A ring buffer that is much too small: every loss is counted, every living entry found again.

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
