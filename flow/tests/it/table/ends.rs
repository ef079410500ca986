//! Ends: late, repeated, missing, too many, of entries never seen.

use flow::record::RecordFlags;
use flow::table::{DroppedEnds, EmitMode, FlowTable, SweepEnd, TableLimits};
use flow::{BootNanos, Reading};

use super::kit::{BOOT, NETNS, counted, end, ms, peek, reading, spool, stamp, sweep, table};

const UNSEEN: RecordFlags = RecordFlags::END.with(RecordFlags::UNSEEN);

#[test]
fn a_missing_entry_is_closed_after_its_grace() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 5)]);
    spool(&mut table, EmitMode::All);
    sweep(&mut table, 11_000, 11_001, &[reading(1, start, 6)]);
    // Growth that was seen and is not durable: the closing record carries it.
    for begin in [21_000, 31_000] {
        sweep(&mut table, begin, begin + 1, &[]);
        assert_eq!(table.ends_waiting(), 0, "at {begin}");
    }
    sweep(&mut table, 41_000, 41_001, &[]);
    assert_eq!((table.stats().ended_unseen, table.totals().ended_unseen), (1, 1));
    let records = spool(&mut table, EmitMode::All);
    assert!(records[0].flags.has(UNSEEN));
    assert_eq!((records[0].delta, records[0].cum), (counted(1), counted(6)));
    assert_eq!((records[0].since, records[0].until), (ms(1_000), ms(11_001)));
    assert_eq!(table.stats().live, 0);
}

#[test]
fn short_intervals_wait_for_the_time_long_ones_for_the_sweeps() {
    let mut table = table();
    sweep(&mut table, 1_000, 1_001, &[reading(1, stamp(500), 5)]);
    for second in 2..=30 {
        sweep(&mut table, second * 1_000, second * 1_000 + 1, &[]);
    }
    assert_eq!(table.stats().ended_unseen, 0);
    sweep(&mut table, 31_000, 31_001, &[reading(2, stamp(30_500), 1)]);
    assert_eq!(table.stats().ended_unseen, 1);
    for (minute, unseen) in [(2, 1), (3, 1), (4, 2)] {
        sweep(&mut table, minute * 60_000, minute * 60_000 + 1, &[]);
        assert_eq!(table.stats().ended_unseen, unseen, "after {minute} minutes");
    }
}

#[test]
fn an_end_that_was_held_finds_its_baseline() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 5)]);
    spool(&mut table, EmitMode::All);
    sweep(&mut table, 11_000, 11_001, &[]);
    spool(&mut table, EmitMode::All);
    sweep(&mut table, 21_000, 21_001, &[]);
    end(&mut table, &reading(1, start, 9), stamp(3_000), 25_000);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!((records[0].delta, records[0].flags), (counted(4), RecordFlags::END));
    assert_eq!((records[0].since, records[0].until), (ms(1_000), ms(3_000)));
    assert_eq!(records[0].stop, stamp(3_000));
}

#[test]
fn an_end_after_the_closing_record_tells_the_rest() {
    for durable in [false, true] {
        let mut table = table();
        let start = stamp(500);
        sweep(&mut table, 1_000, 1_001, &[reading(1, start, 5)]);
        spool(&mut table, EmitMode::All);
        for begin in [11_000, 21_000, 31_000] {
            sweep(&mut table, begin, begin + 1, &[]);
        }
        assert_eq!(table.ends_waiting(), 1);
        if durable {
            assert!(spool(&mut table, EmitMode::All)[0].flags.has(UNSEEN));
        }
        end(&mut table, &reading(1, start, 9), stamp(3_000), 31_500);
        let records = spool(&mut table, EmitMode::All);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].delta, records[0].flags), (counted(4), RecordFlags::END));
        assert_eq!(records[0].since, ms(1_000));
        assert_eq!(table.stats().ends_late, 1);
    }
}

#[test]
fn a_closed_entry_that_reappears_is_alive() {
    for durable in [false, true] {
        let mut table = table();
        let start = stamp(500);
        sweep(&mut table, 1_000, 1_001, &[reading(1, start, 5)]);
        spool(&mut table, EmitMode::All);
        for begin in [11_000, 21_000, 31_000] {
            sweep(&mut table, begin, begin + 1, &[]);
        }
        if durable {
            spool(&mut table, EmitMode::All);
        }
        sweep(&mut table, 41_000, 41_001, &[reading(1, start, 9)]);
        let records = spool(&mut table, EmitMode::All);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].delta, records[0].flags), (counted(4), RecordFlags::default()));
        assert_eq!(records[0].since, ms(1_000));
        assert_eq!((table.stats().live, table.stats().reappeared), (1, 1));
    }
}

#[test]
fn repeated_ends_are_told_once() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 5)]);
    end(&mut table, &reading(1, start, 6), stamp(1_500), 1_600);
    end(&mut table, &reading(1, start, 6), stamp(1_500), 1_700);
    assert_eq!(spool(&mut table, EmitMode::All).len(), 1);
    end(&mut table, &reading(1, start, 6), stamp(1_500), 1_800);
    assert_eq!(peek(&table), []);
    assert_eq!(table.stats().ends_repeated, 2);
    // Long after it is another absolute reading: it cannot count anything.
    sweep(&mut table, 11_000, 11_001, &[]);
    sweep(&mut table, 21_000, 21_001, &[]);
    end(&mut table, &reading(1, start, 6), stamp(1_500), 21_500);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!((records[0].cum, records[0].delta), (counted(6), counted(6)));
    assert!(records[0].since <= ms(500));
}

#[test]
fn a_kernel_id_given_again_is_another_life_and_never_over() {
    let mut table = table();
    sweep(&mut table, 1_000, 1_001, &[reading(1, 0, 5)]);
    end(&mut table, &reading(1, 0, 7), 0, 2_000);
    // The same key and id with other counters: it lived and died between sweeps.
    end(&mut table, &reading(1, 0, 3), 0, 3_000);
    end(&mut table, &reading(1, 0, 3), 0, 3_001);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!(records.iter().map(|r| r.cum).collect::<Vec<_>>(), [counted(7), counted(3)]);

    // Alive again in the next sweep, its end late: no offset is guessed from it.
    sweep(&mut table, 11_000, 11_001, &[reading(1, 0, 8)]);
    spool(&mut table, EmitMode::All);
    sweep(&mut table, 21_000, 21_001, &[reading(1, 0, 2)]);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!(records[0].cum, counted(10), "zeroed or born again: 8 + 2 either way");
    end(&mut table, &reading(1, 0, 9), 0, 22_000);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!(records[0].cum, counted(10), "9 may be the earlier life's");
}

#[test]
fn readings_older_than_the_end_do_not_raise_the_dead() {
    for start in [0, stamp(500)] {
        let mut table = table();
        table.sweep_begin(ms(1_000));
        end(&mut table, &reading(1, start, 6), 0, 1_100);
        spool(&mut table, EmitMode::EndsOnly);
        table.swept(&reading(1, start, 5), ms(1_200));
        let report = SweepEnd { end: ms(1_300), complete: &[NETNS], failed: &[], gone: &[] };
        table.sweep_end(&report);
        assert_eq!((table.stats().live, table.stats().stale_readings), (0, 1));
        assert_eq!(peek(&table), []);
    }
}

#[test]
fn too_many_ends_are_dropped_with_their_sums() {
    let limits = TableLimits { ended: 2, ..TableLimits::default() };
    let mut table = FlowTable::new(limits, BOOT, 1);
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(3, start, 5)]);
    spool(&mut table, EmitMode::All);
    for n in [1, 2, 4] {
        end(&mut table, &reading(n, start, 10), 0, 2_000);
    }
    end(&mut table, &reading(3, start, 7), 0, 2_000);
    assert_eq!(table.ends_waiting(), 2);
    let dropped = table.dropped_ends();
    assert_eq!(dropped, DroppedEnds { flows: 2, counters: counted(12) });
    assert_eq!(table.totals().ended_flows, 4, "the kernel's totals know of them");
    end(&mut table, &reading(5, start, 1), 0, 2_000);
    table.dropped_ends_told(dropped);
    assert_eq!(table.dropped_ends(), DroppedEnds { flows: 1, counters: counted(1) });
    assert_eq!(spool(&mut table, EmitMode::All).len(), 2);
}

#[test]
fn what_is_remembered_is_bounded_and_forgotten() {
    let limits = TableLimits { ended: 2, ..TableLimits::default() };
    let mut table = FlowTable::new(limits, BOOT, 1);
    for n in 0..10 {
        end(&mut table, &reading(n, stamp(500), 1), 0, 2_000);
        spool(&mut table, EmitMode::EndsOnly);
    }
    assert_eq!(table.stats().remembered, 2);
    sweep(&mut table, 3_000, 3_001, &[]);
    assert_eq!(table.stats().remembered, 0);
}

#[test]
fn a_namespace_that_has_gone_takes_its_entries_along() {
    for gone in [&[NETNS][..], &[]] {
        let mut table = table();
        sweep(&mut table, 1_000, 1_001, &[reading(1, stamp(500), 5)]);
        spool(&mut table, EmitMode::All);
        for begin in [11_000, 21_000, 31_000] {
            table.sweep_begin(ms(begin));
            table.sweep_end(&SweepEnd { end: ms(begin), complete: &[], failed: &[], gone });
        }
        assert_eq!(table.stats().ended_unseen, 1);
        // Its inode may be another's now: nothing is known of that one.
        table.set_clock(super::kit::clock(40_000));
        end(&mut table, &Reading { start: 0, ..reading(9, 0, 1) }, 0, 90_000);
        let records = spool(&mut table, EmitMode::All);
        assert_eq!(records[1].since, BootNanos::BOOT);
    }
}
