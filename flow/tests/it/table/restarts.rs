//! Restarts from durable baselines, reboots, new epochs.

use flow::record::RecordFlags;
use flow::table::{BaselineSet, EmitMode, FlowTable, SweepEnd, TableLimits};
use flow::{BootId, BootNanos, FlowNo, NetnsInode, Reading};

use super::kit::{
    BOOT, counted, end, interval, ms, peek, reading, restart, spool, stamp, sweep, table,
};

const UNSEEN: RecordFlags = RecordFlags::END.with(RecordFlags::UNSEEN);

#[test]
fn the_next_delta_starts_where_the_last_durable_one_ended() {
    let mut before = table();
    let start = stamp(500);
    sweep(&mut before, 1_000, 1_001, &[reading(1, start, 5), reading(2, start, 5)]);
    spool(&mut before, EmitMode::All);
    sweep(&mut before, 11_000, 11_001, &[reading(1, start, 7), reading(2, start, 5)]);
    // Lost with the process: it was read, not made durable.
    let mut after = restart(&before, 11_500, BOOT);
    sweep(
        &mut after,
        21_000,
        21_001,
        &[reading(1, start, 9), reading(2, start, 6), reading(3, stamp(12_000), 1)],
    );
    let mut records = spool(&mut after, EmitMode::All);
    records.sort_by_key(|record| record.orig);
    assert_eq!(
        records.iter().map(|r| r.delta).collect::<Vec<_>>(),
        [counted(4), counted(1), counted(1)]
    );
    assert!(records.iter().all(|record| record.since == ms(11_000) && record.flags.0 == 0));
    assert_eq!(records[2].flow, before.next_flow(), "numbers go on");
}

#[test]
fn offsets_survive() {
    let mut before = table();
    let start = stamp(500);
    sweep(&mut before, 1_000, 1_001, &[reading(1, start, 5)]);
    sweep(&mut before, 2_000, 2_001, &[reading(1, start, 1)]);
    spool(&mut before, EmitMode::All);
    let mut after = restart(&before, 2_500, BOOT);
    sweep(&mut after, 3_000, 3_001, &[reading(1, start, 2)]);
    let record = spool(&mut after, EmitMode::All)[0];
    assert_eq!((record.cum, record.delta, record.offset), (counted(7), counted(1), counted(5)));
}

#[test]
fn what_died_meanwhile_is_closed_after_its_grace() {
    let mut before = table();
    sweep(&mut before, 1_000, 1_001, &[reading(1, stamp(500), 5)]);
    spool(&mut before, EmitMode::All);
    let mut after = restart(&before, 60_000, BOOT);
    for begin in [60_000, 70_000, 80_000] {
        sweep(&mut after, begin, begin + 1, &[]);
        assert_eq!(after.ends_waiting(), 0);
    }
    sweep(&mut after, 90_000, 90_001, &[]);
    let record = spool(&mut after, EmitMode::All)[0];
    assert!(record.flags.has(UNSEEN));
    assert_eq!((record.delta, record.cum), (counted(0), counted(5)));
    assert_eq!(after.baselines().count(), 0);
}

#[test]
fn an_end_from_before_the_restart_keeps_its_older_bound() {
    let mut before = table();
    let start = stamp(500);
    sweep(&mut before, 1_000, 1_001, &[reading(1, start, 5)]);
    spool(&mut before, EmitMode::All);
    // Dead before the second sweep; its end is held by the kernel over the restart.
    sweep(&mut before, 11_000, 11_001, &[]);
    spool(&mut before, EmitMode::All);
    let mut after = restart(&before, 11_500, BOOT);
    after.set_clock(super::kit::clock(11_600));
    end(&mut after, &reading(1, start, 9), stamp(5_000), 12_000);
    let record = spool(&mut after, EmitMode::All)[0];
    assert_eq!((record.delta, record.since), (counted(4), ms(1_000)));
}

#[test]
fn after_a_reboot_everything_is_closed_at_once() {
    let mut before = table();
    sweep(&mut before, 1_000, 1_001, &[reading(1, stamp(500), 5)]);
    spool(&mut before, EmitMode::All);
    let reborn = BootId([8; 16]);
    let mut after = restart(&before, 100, reborn);
    assert_eq!(after.ends_waiting(), 1);
    assert_eq!(after.baselines().count(), 1, "until the end is durable");
    assert_eq!(after.totals().ended_unseen, 1);
    // The same key and stamp in the new boot is another entry.
    sweep(&mut after, 200, 201, &[reading(1, stamp(500), 2)]);
    let records = spool(&mut after, EmitMode::All);
    assert_eq!((records[0].netns.boot, records[0].delta), (reborn, counted(2)));
    assert_eq!((records[1].netns.boot, records[1].delta), (BOOT, counted(0)));
    assert!(records[1].flags.has(UNSEEN));
    assert_eq!((records[1].since, records[1].until), (BootNanos::BOOT, BootNanos::BOOT));
    assert_eq!((after.ends_waiting(), after.baselines().count()), (0, 1));
}

#[test]
fn a_new_epoch_tells_everything_again() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 3), reading(2, start, 5)]);
    spool(&mut table, EmitMode::All);
    sweep(&mut table, 2_000, 2_001, &[reading(1, start, 1), reading(2, start, 5)]);
    end(&mut table, &reading(2, start, 6), 0, 2_500);
    spool(&mut table, EmitMode::Nothing);
    table.forget_baselines();
    assert_eq!(table.baselines().count(), 0);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|r| r.flags.has(RecordFlags::REBASE)));
    assert!(records.iter().all(|r| r.delta == r.cum && r.since == BootNanos::BOOT));
    assert_eq!(records[0].cum, counted(4), "offsets are the entry's, not the epoch's");
    assert!(records.iter().any(|r| r.flow == FlowNo(1)));
    sweep(&mut table, 3_000, 3_001, &[reading(1, start, 2)]);
    assert_eq!(spool(&mut table, EmitMode::All)[0].flags, RecordFlags::default());
}

#[test]
fn a_new_epoch_right_after_a_restart_knows_nothing_of_the_old_one() {
    let mut before = table();
    sweep(&mut before, 1_000, 1_001, &[reading(1, 0, 3)]);
    spool(&mut before, EmitMode::All);
    let mut after = restart(&before, 2_000, BOOT);
    after.forget_baselines();
    let mut early = restart(&before, 2_000, BOOT);
    early.forget_baselines();
    // Told before any sweep has seen it: true bounds, and the next growth has them too.
    let record = spool(&mut early, EmitMode::All)[0];
    assert_eq!((record.since, record.until), (BootNanos::BOOT, ms(2_000)));
    sweep(&mut early, 3_000, 3_001, &[reading(1, 0, 4)]);
    assert!(spool(&mut early, EmitMode::All)[0].since <= ms(1_000));
    // Told after the sweep: that sweep's bound is for what is above the old baseline.
    sweep(&mut after, 3_000, 3_001, &[reading(1, 0, 4)]);
    let record = spool(&mut after, EmitMode::All)[0];
    assert_eq!((record.delta, record.since), (counted(4), BootNanos::BOOT));
}

#[test]
fn folding_frames_is_the_same_as_a_checkpoint() {
    let mut table = table();
    let start = stamp(500);
    let mut folded = BaselineSet::new(9);
    for (n, packets) in [(0, 1), (1, 4), (2, 4), (3, 9)] {
        let begin = 1_000 + n as u64 * 10_000;
        let all: Vec<Reading> =
            (0..20).map(|n| reading(n, start, packets + u64::from(n))).collect();
        sweep(&mut table, begin, begin + 1, &all[n * 4..]);
        for gone in &all[..n * 4] {
            end(&mut table, gone, 0, begin + 500);
        }
        let header = interval(&table, ms(begin + 600), 1, false);
        for record in spool(&mut table, EmitMode::All) {
            folded.fold(&record, &header);
        }
        folded.fold_interval(&header);
        let mut checkpoint: Vec<_> = table.baselines().collect();
        let mut frames: Vec<_> = folded.iter().copied().collect();
        checkpoint.sort_by_key(|b| b.entry);
        frames.sort_by_key(|b| b.entry);
        for (a, b) in checkpoint.iter().zip(&frames) {
            assert!(b.since <= a.since, "a folded bound may be wider, never narrower");
            assert_eq!(folded.get(&b.entry), Some(b));
        }
        let bare = |all: &[flow::table::Baseline]| {
            all.iter().map(|b| (b.entry, b.flow, b.cum, b.offset)).collect::<Vec<_>>()
        };
        assert_eq!(bare(&checkpoint), bare(&frames));
        assert_eq!(folded.next_flow(), table.next_flow());
        assert_eq!(folded.durable().map(|d| d.begin), Some(ms(begin)));
    }
    let paused = interval(&table, ms(90_000), 1, true);
    folded.fold_interval(&paused);
    folded.fold_interval(&interval(&table, ms(90_000), 0, false));
    assert_eq!(folded.durable().map(|d| d.end), Some(ms(31_600)), "neither was complete");
}

#[test]
fn a_namespace_that_was_not_watched_has_no_bound() {
    let mut before = table();
    sweep(&mut before, 1_000, 1_001, &[reading(1, stamp(500), 5)]);
    spool(&mut before, EmitMode::All);
    let mut after = restart(&before, 2_000, BOOT);
    let other = NetnsInode(2);
    after.sweep_begin(ms(3_000));
    after.swept(&Reading { netns: other, ..reading(1, stamp(500), 5) }, ms(3_001));
    let report = SweepEnd { end: ms(3_001), complete: &[other], failed: &[], gone: &[] };
    after.sweep_end(&report);
    assert_eq!(peek(&after)[0].since, BootNanos::BOOT);
    assert!(!peek(&after)[0].flags.has(RecordFlags::REBASE));
    assert_eq!(after.watermark(), ms(1_000), "restored entries of a namespace nobody reads");
}

#[test]
fn a_lowered_limit_forgets_and_says_so_with_its_bounds() {
    let mut before = table();
    let start = stamp(500);
    sweep(&mut before, 1_000, 1_001, &[reading(1, start, 5), reading(2, start, 5)]);
    spool(&mut before, EmitMode::All);
    let mut set = BaselineSet::new(2);
    before.baselines().for_each(|baseline| set.insert(baseline));
    set.fold_interval(&interval(&before, ms(2_000), 1, false));
    let limits = TableLimits { live: 1, ..TableLimits::default() };
    let mut after = FlowTable::restore(limits, BOOT, 3, set, ms(2_000));
    end(&mut after, &reading(2, start, 9), 0, 50_000);
    let record = spool(&mut after, EmitMode::All)[0];
    assert_eq!((record.delta, record.since), (counted(9), BootNanos::BOOT));
}
