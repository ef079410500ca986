//! What lived before the source, and what its hooks have missed.

use std::time::Duration;

use conntracct_node::netns::NetnsChoice;
use conntracct_node::source::Source;
use conntracct_node::source::ebpf::EbpfConfig;

use super::{config, ends, lab, open, open_with, sweep, until_ends};
use crate::lab::wait;

#[test]
fn what_lived_before_is_adopted_and_its_end_is_told() {
    let Some(lab) = lab("adopt") else { return };
    lab.udp().send_all(1..3_000);
    let mut source = open(&lab);
    let (live, report) = sweep(&mut source);
    assert_eq!(live.len(), 3_000);
    assert_eq!(report.complete, [lab.netns().inode()]);
    let mut none = Vec::new();
    source.events(&mut none).unwrap();
    assert_eq!(none, [], "nothing was born");
    lab.flush();
    assert_eq!(ends(&until_ends(&mut source, 3_000)).len(), 3_000);
    assert_eq!(source.missed_births(), 0);
}

#[test]
fn entries_without_a_start_are_named_by_netlink() {
    let Some(lab) = lab("nameless") else { return };
    lab.set("timestamp", "0");
    lab.udp().send_all(1..50);
    let mut source = open(&lab);
    // Born under our eyes, still without a start.
    lab.udp().send_all(50..80);
    let (live, _) = sweep(&mut source);
    assert_eq!(live.len(), 80);
    assert!(live.iter().all(|reading| reading.start == 0 && reading.kernel_id != 0));
    let mut again = sweep(&mut source).0;
    let mut live = live;
    for list in [&mut live, &mut again] {
        list.sort_unstable_by_key(|reading| reading.orig);
    }
    assert_eq!(live, again, "the names stay");
    lab.flush();
    let ended = ends(&until_ends(&mut source, 80));
    for reading in ended {
        let before = live.iter().find(|r| r.orig == reading.orig).unwrap();
        assert_eq!(before.kernel_id, reading.kernel_id);
    }
}

#[test]
fn namespaces_come_and_go() {
    let (Some(first), Some(second)) = (lab("netns"), lab("netns")) else { return };
    let all = EbpfConfig { netns: NetnsChoice::All, ..EbpfConfig::default() };
    let mut source = open_with(&first, all);
    first.udp().send_all(1..10);
    second.udp().send_all(0..10);
    let Some(third) = lab("netns") else { return };
    third.udp().send_all(0..10);
    let inodes = [&first, &second, &third].map(|lab| lab.netns().inode());
    let (live, report) = sweep(&mut source);
    let count = inodes.map(|inode| live.iter().filter(|r| r.netns == inode).count());
    assert_eq!(count, [10, 10, 10]);
    assert!(inodes.iter().all(|inode| report.complete.contains(inode)));

    drop(second);
    // The next sweep notices and lets go of it; only then its entries end. Namespaces of other
    // tests may end, too.
    let (mut events, mut gone) = (Vec::new(), Vec::new());
    wait("the ends of the namespace", Duration::from_secs(60), || {
        gone.extend(sweep(&mut source).1.gone);
        source.events(&mut events).unwrap();
        let ended = ends(&events).iter().filter(|reading| reading.netns == inodes[1]).count();
        ended == 10 && gone.contains(&inodes[1])
    });
    let (live, report) = sweep(&mut source);
    let count = inodes.map(|inode| live.iter().filter(|r| r.netns == inode).count());
    assert_eq!(count, [10, 0, 10]);
    assert!(!report.complete.contains(&inodes[1]));
}

#[test]
fn only_the_chosen_namespaces_are_told() {
    let (Some(chosen), Some(other)) = (lab("chosen"), lab("chosen")) else { return };
    let mut source = open(&chosen);
    other.udp().send_all(0..10);
    chosen.udp().send_all(1..4);
    let (live, report) = sweep(&mut source);
    assert_eq!((live.len(), report.complete), (4, vec![chosen.netns().inode()]));
    let mut events = Vec::new();
    source.events(&mut events).unwrap();
    assert_eq!(events.len(), 3);
}

#[test]
fn a_reconciliation_changes_nothing_where_nothing_was_missed() {
    let Some(lab) = lab("reconcile") else { return };
    let every = Duration::from_nanos(1);
    let mut source = open_with(&lab, EbpfConfig { reconcile_every: every, ..config(&[&lab]) });
    lab.udp().send_all(1..500);
    for _ in 0..3 {
        let (live, report) = sweep(&mut source);
        assert_eq!((live.len(), report.complete.len()), (500, 1));
    }
    assert_eq!(source.missed_births(), 0);
}
