//! A spool's ordinary life, and the extraordinary ones an aggregator tells it of.

use flow::{Counters, FlowNo};
use wire::frame::Frame;
use wire::gap::{Gap, GapReason};

use super::kit::*;
use crate::spool::*;
use crate::uplink::{Means, Order, obey};

#[test]
fn frames_come_back_until_they_are_acknowledged() {
    let disk = MemDisk::new();
    let (mut spool, restored) = open(&disk, 1);
    assert_eq!(restored.report.new_epoch, Some(NewEpochReason::Fresh));
    assert_eq!((spool.epoch(), spool.next_seq()), (epoch(1), Seq(1)));
    let frames: Vec<Frame> = (1..=5).map(history).collect();
    spool.append(spool.epoch(), &frames[..2]).unwrap();
    spool.append(spool.epoch(), &frames[2..]).unwrap();
    spool.ack(epoch(1), Seq(2)).unwrap();
    spool.ack(epoch(1), Seq(9)).unwrap();
    spool.ack(epoch(8), Seq(4)).unwrap();
    assert_eq!(spool.view().sending.acked, Seq(2), "neither unknown numbers nor epochs count");
    drop(spool);

    let (mut spool, restored) = open(&disk, 2);
    assert_eq!(restored.report, OpenReport::default());
    assert_eq!(spool.epoch(), epoch(1));
    assert_eq!(sorted(&restored.baselines), baselines_after(5));
    assert_eq!(restored.baselines.next_flow(), FlowNo(7));
    let all = sendable(&mut spool);
    let sent: Vec<&Frame> = all.values().map(|stored| &stored.frame).collect();
    assert_eq!(sent, frames.iter().collect::<Vec<_>>(), "acks that were not written: sent again");
}

#[test]
fn a_wrong_number_is_refused_and_changes_nothing() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    let error = spool.append(spool.epoch(), &[history(1), history(3)]).unwrap_err();
    assert!(matches!(error, SpoolError::Order { expected: Seq(2), found: Seq(3) }), "{error}");
    assert_eq!((spool.next_seq(), spool.bytes()), (Seq(1), 0));
}

#[test]
fn a_checkpoint_frees_what_is_acknowledged_and_keeps_the_baselines() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    (1..=8).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
    let before = spool.bytes();
    spool.ack(epoch(1), Seq(8)).unwrap();
    assert_eq!(spool.bytes(), before, "without a checkpoint they are the baselines");
    let later = BootNanos(1_000_000_000).plus(std::time::Duration::from_secs(300));
    assert!(!spool.checkpoint_due(context(1).now) && spool.checkpoint_due(later));
    spool.checkpoint(spool.epoch(), &baselines_after(8), FlowNo(10), later).unwrap();
    assert!(!spool.checkpoint_due(later.plus(std::time::Duration::from_secs(600))), "nothing new");
    assert_eq!(spool.view().frames, 0);
    spool.append(spool.epoch(), &[history(9)]).unwrap();
    drop(spool);

    let (mut spool, restored) = open(&disk, 2);
    assert_eq!(restored.report, OpenReport::default());
    assert_eq!(sorted(&restored.baselines), baselines_after(9));
    assert_eq!(restored.baselines.next_flow(), FlowNo(11));
    assert_eq!(restored.baselines.durable().unwrap().begin, BootNanos(90));
    assert_eq!(sendable(&mut spool).len(), 1);
    assert_eq!(disk.list().unwrap().len(), 3, "identity, one segment, one checkpoint");
}

#[test]
fn numbers_go_on_where_everything_was_acknowledged_and_forgotten() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    spool.append(spool.epoch(), &[history(1), history(2)]).unwrap();
    spool.ack(epoch(1), Seq(2)).unwrap();
    spool.checkpoint(spool.epoch(), &baselines_after(2), FlowNo(4), BootNanos(0)).unwrap();
    drop(spool);
    let (mut spool, restored) = open(&disk, 2);
    assert_eq!(restored.report.new_epoch, None);
    assert_eq!((spool.next_seq(), spool.view().sending.acked), (Seq(3), Seq(2)));
    assert_eq!(restored.baselines.durable().unwrap().begin, BootNanos(20));
    spool.append(spool.epoch(), &[history(3)]).unwrap();
    assert_eq!(sendable(&mut spool).len(), 1);
}

#[test]
fn a_checkpoint_in_pieces_may_be_overtaken_by_frames() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    (1..=4).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
    spool.ack(epoch(1), Seq(4)).unwrap();
    spool.checkpoint_begin(spool.epoch()).unwrap();
    let (early, late) = (baselines_after(4), baselines_after(5));
    spool.checkpoint_add(&early[..1]).unwrap();
    spool.append(spool.epoch(), &[history(5)]).unwrap();
    spool.checkpoint_add(&late[1..]).unwrap();
    spool.checkpoint_finish(FlowNo(7), BootNanos(0)).unwrap();
    drop(spool);
    let (_, restored) = open(&disk, 2);
    assert_eq!(sorted(&restored.baselines), baselines_after(5));
    assert!(matches!(
        open(&disk, 2).0.checkpoint_finish(FlowNo(1), BootNanos(0)),
        Err(SpoolError::NoCheckpoint)
    ));
}

#[test]
fn another_boot_keeps_epoch_and_baselines_and_says_so() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    spool.append(spool.epoch(), &[history(1)]).unwrap();
    drop(spool);
    let context = OpenContext { boot: BootId([8; 16]), ..context(2) };
    let (spool, restored) = Spool::open(disk, context, config()).unwrap();
    assert!(restored.report.boot_changed);
    assert_eq!((spool.epoch(), restored.report.new_epoch), (epoch(1), None));
    assert_eq!(sorted(&restored.baselines), baselines_after(1));
    assert_eq!(restored.baselines.durable().unwrap().boot, BOOT);
}

#[test]
fn a_clone_drains_under_the_old_name_and_goes_on_under_a_new_one() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    (1..=3).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
    drop(spool);
    let machine = OpenContext { machine: MachineId([1; 16]), ..context(2) };
    let cases = [
        (disk.copy(), context(2), NewEpochReason::Copied),
        (disk, machine, NewEpochReason::OtherMachine),
    ];
    for (disk, context, reason) in cases {
        let (mut spool, restored) = Spool::open(disk.clone(), context, config()).unwrap();
        assert_eq!(restored.report.new_epoch, Some(reason));
        assert!(restored.baselines.is_empty());
        assert_eq!((spool.epoch(), spool.next_seq()), (epoch(2), Seq(1)));
        spool.append(spool.epoch(), &[history(1)]).unwrap();
        let sending = spool.view().sending;
        assert_eq!((sending.epoch, sending.current), (epoch(1), false));
        let frames: Vec<Frame> = sendable(&mut spool).into_values().map(|s| s.frame).collect();
        assert_eq!(frames, [history(1), history(2), history(3), history(1)]);
        // Opened again it is at home.
        drop(spool);
        let (mut spool, restored) = Spool::open(disk, context, config()).unwrap();
        assert_eq!((restored.report.new_epoch, restored.report.drains), (None, 1));
        spool.ack(epoch(1), Seq(3)).unwrap();
        let view = spool.view();
        assert_eq!((view.sending.epoch, view.drains, view.waiting), (epoch(2), 0, 1));
    }
}

fn names(n: u8) -> FreshNames {
    FreshNames { current: epoch(n), drain: epoch(n + 1) }
}

/// What waits, as (epoch, first number, what it is).
fn told(spool: &mut Spool<MemDisk>) -> Vec<(Epoch, u64, Frame)> {
    sendable(spool).into_iter().map(|((of, first), stored)| (of, first, stored.frame)).collect()
}

#[test]
fn what_a_rolled_back_node_has_is_told_under_another_name() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    (1..=6).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
    spool.ack(epoch(1), Seq(4)).unwrap();
    assert!(spool.agrees(epoch(1), Seq(6), Some(history(6).header.digest)).unwrap());
    assert!(!spool.agrees(epoch(1), Seq(6), Some(history(9).header.digest)).unwrap());
    assert!(spool.agrees(epoch(1), Seq(4), Some(history(9).header.digest)).unwrap(), "settled");
    spool.overtaken(epoch(1), names(2), BootNanos(0), WALL).unwrap();
    assert_eq!((spool.epoch(), spool.view().totals.retold), (epoch(2), 2));
    spool.append(epoch(2), &[history(1)]).unwrap();
    for mut spool in [spool, open(&disk, 5).0] {
        let sending = spool.view().sending;
        assert_eq!((sending.epoch, sending.acked, sending.next), (epoch(3), Seq(0), Seq(7)));
        let (gaps, frames): (Vec<_>, Vec<_>) =
            told(&mut spool).into_iter().partition(|(_, _, frame)| Gap::decode(frame).is_ok());
        let [(of, 1, gap)] = gaps.as_slice() else { panic!("{gaps:?}") };
        let gap = Gap::decode(gap).unwrap();
        assert_eq!((*of, gap.last, gap.reason), (epoch(3), Seq(4), GapReason::Renamed));
        let expected = [(epoch(2), 1), (epoch(3), 5), (epoch(3), 6)];
        assert_eq!(frames, expected.map(|(of, n)| (of, n, history(n))));
    }
    let (mut spool, _) = open(&disk, 7);
    spool.ack(epoch(3), Seq(6)).unwrap();
    assert_eq!((spool.view().drains, spool.view().waiting), (0, 1));
}

#[test]
fn a_rollback_noticed_on_a_full_disk_loses_nothing_to_later_acknowledgements() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    (1..=3).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
    disk.set_capacity(Some(0));
    let means = Means { fresh: names(2), now: BootNanos(0), wall: WALL };
    let reason = NewEpochReason::OtherBytes { seq: Seq(2) };
    let overtaken = Order::Overtaken { epoch: epoch(1), reason };
    assert!(obey(&mut spool, overtaken, &means).unwrap_err().is_full());
    let ack = || Order::Ack { epoch: epoch(1), seq: Seq(3), digest: None };
    assert!(obey(&mut spool, ack(), &means).unwrap_err().is_full());
    assert_eq!((spool.view().waiting, spool.view().sending.disputed), (3, true));
    assert_eq!(spool.frame(epoch(1), Seq(1), WALL).unwrap(), None, "others would build on it");
    disk.set_capacity(None);
    let begun = obey(&mut spool, ack(), &means).unwrap();
    assert_eq!(begun, Some(NewEpochReason::OtherBytes { seq: Seq(3) }));
    assert_eq!(told(&mut spool), [1, 2, 3].map(|n| (epoch(3), n, history(n))));
}

#[test]
fn a_crash_while_an_epoch_is_renamed_loses_nothing() {
    let (mut old_name, mut new_name) = (0, 0);
    for step in 0..40 {
        let disk = MemDisk::new();
        let (mut spool, _) = open(&disk, 1);
        (1..=6).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
        spool.ack(epoch(1), Seq(4)).unwrap();
        drop(spool);
        let (mut spool, _) = open(&disk, 1);
        let acked = spool.view().sending.acked;
        disk.stop_after(step);
        let done = spool.overtaken(epoch(1), names(2), BootNanos(0), WALL);
        disk.crash(step);
        let (mut spool, _) = open(&disk, 7);
        let frames = told(&mut spool);
        for n in acked.0 + 1..=6 {
            let found = frames.iter().find(|(_, of, _)| *of == n);
            let (of, _, frame) = found.unwrap_or_else(|| panic!("step {step}: frame {n}"));
            assert_eq!(*frame, history(n), "step {step}");
            assert!(done.is_err() || *of == epoch(3), "step {step}");
            old_name += u32::from(*of == epoch(1));
            new_name += u32::from(*of == epoch(3));
        }
    }
    assert!(old_name > 0 && new_name > 0, "{old_name} {new_name}");
}

#[test]
fn a_restored_store_gets_what_is_here_and_gaps_for_what_is_not() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    (1..=6).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
    spool.ack(epoch(1), Seq(5)).unwrap();
    spool.checkpoint(spool.epoch(), &baselines_after(4), FlowNo(8), BootNanos(0)).unwrap();
    spool.new_epoch(epoch(2), BootNanos(0)).unwrap();
    spool.forgotten(epoch(1), Seq(1), WALL).unwrap();
    for mut spool in [spool, open(&disk, 3).0] {
        let sending = spool.view().sending;
        assert_eq!((sending.epoch, sending.acked, sending.next), (epoch(1), Seq(1), Seq(7)));
        let mut covered = 1;
        for stored in sendable(&mut spool).values() {
            assert_eq!(stored.span.first.0, covered + 1);
            if is_gap(stored) {
                assert_eq!(Gap::decode(&stored.frame).unwrap().reason, GapReason::Forgotten);
                assert!(stored.span.last < Seq(6), "frame 6 is still here");
            } else {
                assert_eq!(stored.frame, history(stored.span.first.0));
            }
            covered = stored.span.last.0;
        }
        assert_eq!(covered, 6);
    }
}

#[test]
fn a_rejected_frame_is_kept_aside_and_passed_by_a_gap() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    (1..=3).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
    spool.reject(epoch(1), Seq(2), "no such column", WALL).unwrap();
    let totals = spool.view().totals;
    assert_eq!((totals.rejected, totals.rejected_not_kept, totals.gaps), (1, 0, 1));
    drop(spool);
    let (mut spool, restored) = open(&disk, 2);
    assert_eq!(restored.report.new_epoch, None);
    assert_eq!(sorted(&restored.baselines), baselines_after(3), "its records stay reported");
    let stored = spool.frame(epoch(1), Seq(2), WALL).unwrap().unwrap();
    let gap = Gap::decode(&stored.frame).unwrap();
    assert_eq!((gap.first, gap.last, gap.reason), (Seq(2), Seq(2), GapReason::Rejected));
    assert_eq!(gap.note, "no such column");
    let copy = disk.read(&file(&disk, ".rejected"), 0, history(2).bytes.len()).unwrap();
    assert_eq!(copy, history(2).bytes);
    spool.ack(epoch(1), Seq(3)).unwrap();
    spool.checkpoint(spool.epoch(), &baselines_after(3), FlowNo(5), BootNanos(0)).unwrap();
    assert!(disk.list().unwrap().iter().all(|entry| !entry.name.ends_with(".gap")));
}

#[test]
fn copies_of_rejected_frames_are_bounded() {
    let disk = MemDisk::new();
    let limit = (4..=8).map(|n| history(n).bytes.len() as u64).max().unwrap() * 2;
    let config = SpoolConfig { rejected_bytes: limit, ..config() };
    let (mut spool, _) = Spool::open(disk.clone(), context(1), config).unwrap();
    (1..=8).for_each(|n| spool.append(spool.epoch(), &[history(n)]).unwrap());
    (1..=8).for_each(|n| spool.reject(epoch(1), Seq(n), "no", WALL).unwrap());
    let copies: Vec<String> = disk.list().unwrap().into_iter().map(|entry| entry.name).collect();
    let copies: Vec<&String> = copies.iter().filter(|n| n.ends_with(".rejected")).collect();
    assert_eq!(copies.len(), 2);
    assert!(copies.iter().any(|name| name.contains("0000000000000008")), "{copies:?}");
    assert!(sendable(&mut spool).values().all(is_gap));
}

#[test]
fn dropped_ends_are_told_by_a_gap_of_their_own_even_when_full() {
    let disk = MemDisk::new();
    let config = SpoolConfig { budget_bytes: 1_000, ..config() };
    let (mut spool, _) = Spool::open(disk, context(1), config).unwrap();
    let mut n = 1;
    while spool.append(spool.epoch(), &[history(n)]).is_ok() {
        n += 1;
    }
    let lost = Counters::new(1, 2, 3, 4);
    let seq = spool.dropped_ends(7, lost, WALL).unwrap();
    assert_eq!(seq, Seq(n));
    let stored = spool.frame(epoch(1), seq, WALL).unwrap().unwrap();
    let gap = Gap::decode(&stored.frame).unwrap();
    assert_eq!((gap.reason, gap.flows, gap.lost), (GapReason::DroppedEnds, 7, lost));
}

#[test]
fn levels_follow_the_budget() {
    let disk = MemDisk::new();
    let budget = (1..=20).map(|n| history(n).bytes.len() as u64).sum::<u64>();
    let config = SpoolConfig { budget_bytes: budget, ..config() };
    let (mut spool, _) = Spool::open(disk, context(1), config).unwrap();
    let mut paused_at = None;
    for n in 1..=20 {
        let level = spool.level();
        let percent = spool.bytes() * 100 / budget;
        assert_eq!(level == Level::Normal, percent < 80, "{level:?} at {percent} %");
        if level == Level::Paused {
            paused_at.get_or_insert(n);
        }
        spool.append(spool.epoch(), &[history(n)]).unwrap();
    }
    assert!(paused_at.is_some_and(|n| (15..=18).contains(&n)), "{paused_at:?}");
    assert_eq!(spool.level(), Level::Full);
    let error = spool.append(spool.epoch(), &[history(21)]).unwrap_err();
    assert!(error.is_full(), "{error}");
    spool.ack(epoch(1), Seq(20)).unwrap();
    assert!(spool.checkpoint_due(context(1).now), "only a checkpoint frees acknowledged frames");
    spool.checkpoint(spool.epoch(), &baselines_after(20), FlowNo(22), BootNanos(0)).unwrap();
    assert_eq!(spool.level(), Level::Normal);
    spool.append(spool.epoch(), &[history(21)]).unwrap();
}

#[test]
fn another_store_is_remembered_only_when_it_is_written() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    let store = StoreId([3; 16]);
    disk.stop_after(0);
    assert!(spool.remember_store(store).is_err());
    assert_eq!(spool.store(), None);
    disk.crash(0);
    spool.remember_store(store).unwrap();
    assert_eq!(open(&disk, 2).0.store(), Some(store));
}

#[test]
fn a_real_folder_does_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("spool");
    let open = |fresh| {
        let disk = FileDisk::open(&folder).unwrap();
        Spool::open(disk, context(fresh), config()).unwrap()
    };
    let (mut spool, _) = open(1);
    spool.append(spool.epoch(), &[history(1), history(2), history(3)]).unwrap();
    spool.checkpoint(spool.epoch(), &baselines_after(3), FlowNo(5), BootNanos(0)).unwrap();
    spool.append(spool.epoch(), &[history(4)]).unwrap();
    spool.ack(epoch(1), Seq(1)).unwrap();
    drop(spool);
    let (mut spool, restored) = open(2);
    assert_eq!(restored.report, OpenReport::default());
    assert_eq!(sorted(&restored.baselines), baselines_after(4));
    let stored = spool.frame(epoch(1), Seq(4), WALL).unwrap().unwrap();
    assert_eq!(stored.frame, history(4));
    drop(spool);
    std::fs::rename(&folder, dir.path().join("kept")).unwrap();
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(dir.path().join("kept")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let (_, restored) = open(3);
    assert_eq!(restored.report.new_epoch, Some(NewEpochReason::Copied));
}

#[test]
fn frames_and_baselines_of_an_epoch_given_up_are_refused() {
    let disk = MemDisk::new();
    let (mut spool, _) = open(&disk, 1);
    spool.append(epoch(1), &[history(1)]).unwrap();
    spool.checkpoint_begin(epoch(1)).unwrap();
    spool.new_epoch(epoch(2), BootNanos(0)).unwrap();
    let refused = [
        spool.append(epoch(1), &[history(1)]),
        spool.checkpoint_add(&baselines_after(1)),
        spool.checkpoint_begin(epoch(1)),
    ];
    assert!(matches!(
        refused,
        [
            Err(SpoolError::OtherEpoch { .. }),
            Err(SpoolError::NoCheckpoint),
            Err(SpoolError::OtherEpoch { .. })
        ]
    ));
    spool.append(epoch(2), &[history(1)]).unwrap();
}
