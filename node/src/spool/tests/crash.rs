//! Crashes at every step of the disk, and a disk that runs full at every byte.

use std::collections::BTreeMap;

use flow::FlowNo;

use super::kit::*;
use crate::spool::*;

/// What has been confirmed so far.
#[derive(Default)]
struct Confirmed {
    /// By epoch: the last number whose append returned.
    appended: BTreeMap<Epoch, u64>,
    /// By epoch: the last number that was acknowledged, whether that call returned or not.
    acked: BTreeMap<Epoch, u64>,
    rejected: bool,
}

/// A life with everything in it; stops at the first error.
fn live(disk: &MemDisk, done: &mut Confirmed) -> Result<(), SpoolError> {
    let (mut spool, _) = Spool::open(disk.clone(), context(1), config())?;
    let mut append = |spool: &mut Spool<MemDisk>, numbers: std::ops::RangeInclusive<u64>| {
        let frames: Vec<Frame> = numbers.clone().map(history).collect();
        spool.append(spool.epoch(), &frames)?;
        done.appended.insert(spool.epoch(), *numbers.end());
        Ok::<_, SpoolError>(())
    };
    append(&mut spool, 1..=2)?;
    spool.remember_store(StoreId([3; 16]))?;
    append(&mut spool, 3..=5)?;
    done.acked.insert(epoch(1), 4);
    spool.ack(epoch(1), Seq(4))?;
    spool.checkpoint(spool.epoch(), &baselines_after(5), FlowNo(7), BootNanos(0))?;
    append(&mut spool, 6..=6)?;
    append(&mut spool, 7..=9)?;
    spool.reject(epoch(1), Seq(7), "no", WALL)?;
    done.rejected = true;
    done.acked.insert(epoch(1), 5);
    spool.ack(epoch(1), Seq(5))?;
    spool.checkpoint(spool.epoch(), &baselines_after(9), FlowNo(11), BootNanos(0))?;
    spool.new_epoch(epoch(2), BootNanos(0))?;
    append(&mut spool, 1..=2)?;
    done.acked.insert(epoch(1), 9);
    spool.ack(epoch(1), Seq(9))?;
    append(&mut spool, 3..=3)
}

fn check(disk: &MemDisk, done: &Confirmed, what: &str) {
    let (mut spool, restored) = Spool::open(disk.clone(), context(8), config()).unwrap();
    let sent = sendable(&mut spool);
    for (of, last) in &done.appended {
        let acked = done.acked.get(of).copied().unwrap_or(0);
        for n in acked + 1..=*last {
            let stored = spool.frame(*of, Seq(n), WALL).unwrap();
            let stored = stored.unwrap_or_else(|| panic!("{what}: frame {n} of {of} lost"));
            if is_gap(&stored) {
                assert!(n == 7 && *of == epoch(1), "{what}: a gap for {n} of {of}");
            } else {
                assert_eq!(stored.frame, history(n), "{what}");
                let was_rejected = n == 7 && *of == epoch(1) && done.rejected;
                assert!(
                    !was_rejected,
                    "{what}: a rejected frame is back; {:?} {:?}",
                    restored.report,
                    disk.list()
                );
            }
        }
    }
    for ((of, first), stored) in &sent {
        assert!(is_gap(stored) || stored.frame == history(*first), "{what}: {first} of {of}");
    }
    if restored.report.new_epoch.is_none() {
        let last = spool.next_seq().0 - 1;
        assert_eq!(sorted(&restored.baselines), baselines_after(last), "{what}");
        assert!(last >= done.appended.get(&spool.epoch()).copied().unwrap_or(0), "{what}");
    } else {
        assert!(restored.baselines.is_empty(), "{what}");
    }
    let n = spool.next_seq().0;
    spool.append(spool.epoch(), &[history(n)]).unwrap_or_else(|error| panic!("{what}: {error}"));
    drop(spool);
    let (mut spool, _) = Spool::open(disk.clone(), context(9), config()).unwrap();
    let of = spool.epoch();
    assert_eq!(spool.frame(of, Seq(n), WALL).unwrap().unwrap().frame, history(n), "{what}");
}

#[test]
fn a_crash_at_any_step_loses_nothing_confirmed() {
    let disk = MemDisk::new();
    live(&disk, &mut Confirmed::default()).unwrap();
    let steps = disk.steps();
    assert!(steps > 60, "{steps} steps");
    let mut reopened = 0;
    for step in 0..=steps {
        for seed in 0..12 {
            let disk = MemDisk::new();
            disk.stop_after(step);
            let mut done = Confirmed::default();
            let lived = live(&disk, &mut done);
            assert_eq!(lived.is_ok(), step == steps, "step {step}");
            disk.crash(seed * 1_000 + step);
            check(&disk, &done, &format!("crash after step {step}, seed {seed}"));
            reopened += 1;
        }
    }
    assert!(reopened > 700);
}

#[test]
fn a_full_disk_is_an_error_to_be_tried_again() {
    let free = MemDisk::new();
    live(&free, &mut Confirmed::default()).unwrap();
    let total: u64 = free.list().unwrap().iter().map(|entry| entry.len).sum();
    let mut full = 0;
    for capacity in (0..total + 3_000).step_by(17) {
        let disk = MemDisk::new();
        disk.set_capacity(Some(capacity));
        let mut done = Confirmed::default();
        if let Err(error) = live(&disk, &mut done) {
            assert!(error.is_full(), "{capacity}: {error:?}");
            full += 1;
        }
        disk.set_capacity(None);
        check(&disk, &done, &format!("capacity {capacity}"));
    }
    assert!(full > 50, "{full} of the capacities were too small");
}

#[test]
fn an_append_that_found_the_disk_full_leaves_nothing_and_may_be_repeated() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    spool.append(spool.epoch(), &[history(1)]).unwrap();
    let used: u64 = disk.list().unwrap().iter().map(|entry| entry.len).sum();
    let group = [history(2), history(3), history(4)];
    let needed: u64 = group.iter().map(|frame| frame.bytes.len() as u64).sum();
    for short in [needed, needed - 1, needed / 2, 1] {
        disk.set_capacity(Some(used + needed - short));
        let error = spool.append(spool.epoch(), &group).unwrap_err();
        assert!(matches!(error, SpoolError::NoSpace { .. }), "{error:?}");
        assert_eq!((spool.next_seq(), spool.level()), (Seq(2), Level::Full));
        let now: u64 = disk.list().unwrap().iter().map(|entry| entry.len).sum();
        assert_eq!(now, used, "nothing half-written");
    }
    disk.set_capacity(Some(used + needed));
    spool.append(spool.epoch(), &group).unwrap();
    assert_eq!((spool.next_seq(), spool.level()), (Seq(5), Level::Normal));
    assert_eq!(spool.view().totals.full, 4);
}

#[test]
fn a_disk_without_any_room_gets_it_back_from_acknowledged_frames() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    for n in 1..=6 {
        spool.append(epoch(1), &[history(n)]).unwrap();
    }
    spool.checkpoint(epoch(1), &baselines_after(6), FlowNo(8), BootNanos(0)).unwrap();
    disk.set_capacity(Some(0));
    assert!(spool.append(epoch(1), &[history(7)]).unwrap_err().is_full());
    let before = spool.bytes();
    let used: u64 = disk.list().unwrap().iter().map(|entry| entry.len).sum();
    disk.set_capacity(Some(used));
    spool.ack(epoch(1), Seq(6)).unwrap();
    assert!(spool.bytes() < before);
    spool.append(epoch(1), &[history(7)]).unwrap();
    drop(spool);
    let (mut spool, restored) = open(&disk, 2);
    assert_eq!(restored.report, OpenReport::default());
    assert_eq!(sendable(&mut spool).len(), 1);
}
