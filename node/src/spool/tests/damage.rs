//! Damage at every byte of every file.

use std::collections::BTreeMap;

use flow::FlowNo;

use super::kit::*;
use crate::spool::*;

const LAST: u64 = 7;
const CHECKPOINT: u64 = 3;
const ACKED: u64 = 2;

/// Several segments, a checkpoint, a rejected frame, frames acknowledged and not.
fn small_spool() -> MemDisk {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    for n in 1..=LAST {
        spool.append(spool.epoch(), &[history(n)]).unwrap();
        if n == CHECKPOINT {
            spool.ack(epoch(1), Seq(ACKED)).unwrap();
            spool
                .checkpoint(spool.epoch(), &baselines_after(n), FlowNo(n + 2), BootNanos(0))
                .unwrap();
        }
    }
    spool.reject(epoch(1), Seq(5), "no", WALL).unwrap();
    disk
}

/// Opens a damaged spool and checks what must be true whatever the damage was. Returns the
/// numbers of the first epoch that come back as they were.
fn check(disk: &MemDisk, what: &str) -> Vec<u64> {
    let (mut spool, restored) = Spool::open(disk.clone(), context(2), config()).unwrap();
    let mut intact = Vec::new();
    let sent = sendable(&mut spool);
    for ((of, first), stored) in &sent {
        assert_eq!(*of, epoch(1), "{what}: nothing else was ever written");
        if !is_gap(stored) {
            assert_eq!(stored.frame, history(*first), "{what}: wrong bytes for {first}");
            intact.push(*first);
        }
    }
    match &restored.report.new_epoch {
        Some(reason) => {
            assert!(restored.baselines.is_empty(), "{what}: baselines after {reason}");
            assert_eq!((spool.epoch(), spool.next_seq()), (epoch(2), Seq(1)), "{what}");
        }
        None => {
            let last = spool.next_seq().0 - 1;
            assert!(last >= CHECKPOINT, "{what}");
            assert_eq!(sorted(&restored.baselines), baselines_after(last), "{what}");
        }
    }
    // What was found once is found again, with the same bytes.
    drop(spool);
    let (mut spool, again) = Spool::open(disk.clone(), context(3), config()).unwrap();
    assert_eq!(again.report.new_epoch, None, "{what}: damaged twice");
    assert_eq!(sendable(&mut spool), sent, "{what}");
    intact
}

fn files(disk: &MemDisk) -> Vec<disk::Entry> {
    disk.list().unwrap()
}

#[test]
fn the_undamaged_spool_is_what_the_other_tests_think() {
    let disk = small_spool();
    let segments = files(&disk).iter().filter(|e| e.name.ends_with(".seg")).count();
    assert!(segments >= 2, "{segments} segments");
    assert_eq!(check(&disk, "undamaged"), [3, 4, 6, 7]);
}

#[test]
fn a_flipped_bit_costs_at_most_its_own_frame() {
    let whole = small_spool().snapshot();
    let mut epochs = BTreeMap::<&str, u32>::new();
    for entry in files(&small_spool()) {
        for at in 0..entry.len {
            let disk = MemDisk::new();
            disk.restore(&whole);
            assert!(disk.flip(&entry.name, at, 1 << (at % 8)));
            let what = format!("bit flipped in byte {at} of {}", entry.name);
            let intact = check(&disk, &what);
            let lost = [3, 4, 6, 7].iter().filter(|n| !intact.contains(n)).count();
            let is_segment = entry.name.ends_with(".seg");
            assert!(lost <= usize::from(is_segment), "{what}: {lost} frames lost");
            let kind = if is_segment { "segment" } else { "other" };
            *epochs.entry(kind).or_default() += 1;
        }
    }
    assert!(epochs["segment"] > 1_000 && epochs["other"] > 500, "{epochs:?}");
}

#[test]
fn a_cut_costs_what_was_cut_off() {
    let whole = small_spool().snapshot();
    for entry in files(&small_spool()) {
        let segment = entry.name.ends_with(".seg");
        for len in 0..entry.len {
            let disk = MemDisk::new();
            disk.restore(&whole);
            assert!(disk.cut(&entry.name, len));
            let what = format!("{} cut to {len}", entry.name);
            let intact = check(&disk, &what);
            // Whole frames before the cut, and all in other files, are still there.
            let (mut clean, _) = {
                let disk = MemDisk::new();
                disk.restore(&whole);
                open(&disk, 9)
            };
            for n in [3, 4, 6, 7] {
                let (name, end) = place(&mut clean, n);
                if name != entry.name || end <= len {
                    assert!(intact.contains(&n), "{what}: frame {n} lost");
                }
            }
            let all = [3, 4, 6, 7].iter().all(|n| intact.contains(n));
            assert!(segment || all, "{what}");
        }
    }
}

/// The file of a frame, and where it ends.
fn place(spool: &mut Spool<MemDisk>, n: u64) -> (String, u64) {
    let bytes = history(n).bytes;
    for entry in spool.disk.list().unwrap() {
        if entry.name.ends_with(".seg") {
            let all = spool.disk.read(&entry.name, 0, usize::try_from(entry.len).unwrap()).unwrap();
            if let Some(at) = all.windows(bytes.len()).position(|window| window == bytes) {
                return (entry.name, (at + bytes.len()) as u64);
            }
        }
    }
    panic!("frame {n} is not there");
}

#[test]
fn a_lost_file_is_noticed() {
    let whole = small_spool().snapshot();
    for entry in files(&small_spool()) {
        let disk = MemDisk::new();
        disk.restore(&whole);
        disk.lose(&entry.name);
        let intact = check(&disk, &format!("{} lost", entry.name));
        if !entry.name.ends_with(".seg") {
            assert!([3, 4, 6, 7].iter().all(|n| intact.contains(n)), "{} lost", entry.name);
        }
    }
}

#[test]
fn a_torn_append_is_cut_off_without_a_word() {
    let whole = small_spool().snapshot();
    let next = history(LAST + 1).bytes;
    let tails: [Vec<u8>; 4] =
        [next[..1].to_vec(), next[..60].to_vec(), next[..next.len() - 1].to_vec(), vec![0; 300]];
    for tail in tails {
        let mut disk = MemDisk::new();
        disk.restore(&whole);
        let name = file(&disk, ".seg");
        let len = files(&disk).iter().find(|entry| entry.name == name).unwrap().len;
        disk.append(&name, len, &tail).unwrap();
        disk.sync(&name).unwrap();
        let (mut spool, restored) = open(&disk, 2);
        assert_eq!(restored.report.new_epoch, None, "{} bytes", tail.len());
        assert_eq!(restored.report.torn_bytes, tail.len() as u64);
        spool.append(spool.epoch(), &[history(LAST + 1)]).unwrap();
        drop(spool);
        let (_, restored) = open(&disk, 3);
        assert_eq!(restored.report, OpenReport::default());
        assert_eq!(sorted(&restored.baselines), baselines_after(LAST + 1));
    }
}

#[test]
fn a_frame_that_rots_while_the_spool_is_open_becomes_a_gap_for_good() {
    let disk = small_spool();
    let (mut spool, _) = open(&disk, 2);
    let (name, end) = place(&mut spool, 6);
    disk.flip(&name, end - 1, 4);
    let stored = spool.frame(epoch(1), Seq(6), WALL).unwrap().unwrap();
    assert!(is_gap(&stored));
    let later = UnixNanos(WALL.0 + 1);
    assert_eq!(spool.frame(epoch(1), Seq(6), later).unwrap().unwrap(), stored);
    assert_eq!(spool.view().totals.unreadable, 1);
    drop(spool);
    let (mut spool, restored) = open(&disk, 3);
    assert!(matches!(restored.report.new_epoch, Some(NewEpochReason::Damaged { .. })));
    assert_eq!(spool.frame(epoch(1), Seq(6), later).unwrap().unwrap(), stored);
}

#[test]
fn a_folder_of_a_later_version_is_set_aside_whole() {
    let mut disk = small_spool();
    let later = Frame::new(identity::IDENTITY, &99u16.to_le_bytes()).unwrap();
    disk.write_atomic(identity::NAME, &later.bytes).unwrap();
    let before = files(&disk);
    let (spool, restored) = open(&disk, 2);
    assert_eq!(restored.report.new_epoch, Some(NewEpochReason::SetAside));
    let (place, why) = restored.report.set_aside.unwrap();
    assert!(place.contains("broken-1") && why.contains("layout 99"), "{place}: {why}");
    assert_eq!(disk.aside()[0].len(), before.len());
    assert_eq!((spool.epoch(), spool.next_seq()), (epoch(2), Seq(1)));
}

#[test]
fn acknowledged_frames_that_vanished_are_a_lost_tail() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    (1..=2).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
    spool.ack(epoch(1), Seq(2)).unwrap();
    spool.remember_store(StoreId([1; 16])).unwrap();
    drop(spool);
    let first = history(1).bytes.len() as u64;
    assert!(disk.cut(&file(&disk, ".seg"), first));
    let (_, restored) = open(&disk, 2);
    let reason = NewEpochReason::LostTail { found: Seq(1), known: Seq(2) };
    assert_eq!(restored.report.new_epoch, Some(reason));
}
