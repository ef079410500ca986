//! One rule each: growth, births, resets, counters that are not kept, emission and commit.

use flow::record::RecordFlags;
use flow::table::{EmitMode, FlowTable, StaleEmission, SweepEnd, TableLimits};
use flow::{BootNanos, Counters, NetnsInode, Reading};

use super::kit::{BOOT, NETNS, counted, end, ms, peek, reading, spool, stamp, sweep, table};

#[test]
fn growth_is_what_no_durable_record_has_said() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 5)]);
    let first = spool(&mut table, EmitMode::All);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].cum, first[0].delta), (counted(5), counted(5)));
    assert!(first[0].flags.has(RecordFlags::REBASE));
    assert_eq!(first[0].since, BootNanos::BOOT, "it was there before the table was");

    sweep(&mut table, 2_000, 2_001, &[reading(1, start, 5)]);
    assert_eq!(spool(&mut table, EmitMode::All), [], "nothing grew");

    sweep(&mut table, 3_000, 3_001, &[reading(1, start, 8)]);
    let next = spool(&mut table, EmitMode::All);
    assert_eq!((next[0].cum, next[0].delta), (counted(8), counted(3)));
    assert_eq!((next[0].since, next[0].until), (ms(2_000), ms(3_001)), "silence is visible");
    assert_eq!(next[0].flags, RecordFlags::default());
    assert_eq!(next[0].flow, first[0].flow);
}

#[test]
fn nothing_moves_before_the_commit() {
    let mut table = table();
    sweep(&mut table, 1_000, 1_001, &[reading(1, stamp(500), 5)]);
    end(&mut table, &reading(2, stamp(1_100), 1), 0, 1_200);
    let first = peek(&table);
    assert_eq!(first.len(), 2);
    assert_eq!(peek(&table), first, "an emission that is dropped comes again");

    let stale = table.emit(EmitMode::All, &mut |_| {});
    sweep(&mut table, 2_000, 2_001, &[reading(1, stamp(500), 7)]);
    assert_eq!(table.commit(stale), Err(StaleEmission));
    let grown = spool(&mut table, EmitMode::All);
    assert_eq!(grown[0].delta, counted(7));
    assert_eq!(grown[0].until, ms(2_001));
    assert_eq!(peek(&table), []);
}

#[test]
fn another_birth_is_another_entry() {
    let mut table = table();
    sweep(&mut table, 1_000, 1_001, &[reading(1, stamp(500), 5)]);
    spool(&mut table, EmitMode::All);
    sweep(&mut table, 2_000, 2_001, &[reading(1, stamp(1_500), 3)]);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].delta, records[0].since), (counted(3), ms(1_500)));
    assert_eq!(table.stats().changed_births, 1);
    assert_eq!(table.stats().live, 2, "the old one waits for its end");

    end(&mut table, &reading(1, stamp(500), 6), stamp(1_400), 2_100);
    let last = spool(&mut table, EmitMode::All);
    assert_eq!((last[0].cum, last[0].delta), (counted(6), counted(1)));
    assert!(last[0].flags.has(RecordFlags::END) && !last[0].flags.has(RecordFlags::UNSEEN));
    assert_eq!((last[0].since, last[0].until), (ms(1_000), ms(1_400)));
}

#[test]
fn zeroed_counters_become_an_offset() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 10)]);
    spool(&mut table, EmitMode::All);
    // One component below is enough; all four had been zeroed.
    let zeroed = Counters::new(11, 1_099, 0, 0);
    let odd = Reading { counters: Some(Counters::new(11, 50, 0, 0)), ..reading(1, start, 0) };
    sweep(&mut table, 2_000, 2_001, &[odd]);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!(records[0].cum, Counters::new(21, 1_050, 0, 0));
    assert_eq!(records[0].delta, Counters::new(11, 50, 0, 0));
    assert_eq!(records[0].offset, counted(10));
    assert!(records[0].flags.has(RecordFlags::RESET));
    assert_eq!(table.stats().resets, 1);
    assert!(zeroed.any_below(records[0].cum));

    sweep(&mut table, 3_000, 3_001, &[reading(1, start, 12)]);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!(records[0].cum, Counters::new(22, 2_200, 0, 0));
    assert!(!records[0].flags.has(RecordFlags::RESET), "said once");

    // Zeroed again, and the end is what shows it.
    end(&mut table, &reading(1, start, 1), 0, 3_500);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!(records[0].cum, Counters::new(23, 2_300, 0, 0));
    assert_eq!(table.stats().resets, 2);
}

#[test]
fn what_the_kernel_does_not_count_is_said_once_and_at_the_end() {
    let mut table = table();
    let blind = Reading { counters: None, ..reading(1, stamp(500), 0) };
    sweep(&mut table, 1_000, 1_001, &[blind, reading(2, stamp(500), 0)]);
    let totals = table.totals();
    assert_eq!((totals.live_flows, totals.uncounted), (2, 1));
    let records = spool(&mut table, EmitMode::All);
    assert_eq!(records.len(), 1, "an empty entry has nothing to say, an uncounted one has");
    assert!(records[0].flags.has(RecordFlags::UNCOUNTED));
    assert_eq!(records[0].delta, Counters::ZERO);
    sweep(&mut table, 2_000, 2_001, &[blind]);
    assert_eq!(spool(&mut table, EmitMode::All), []);
    end(&mut table, &blind, 0, 2_500);
    let records = spool(&mut table, EmitMode::All);
    assert!(records[0].flags.has(RecordFlags::UNCOUNTED.with(RecordFlags::END)));
}

#[test]
fn a_pause_holds_growth_and_its_since() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 5), reading(2, start, 5)]);
    spool(&mut table, EmitMode::All);
    sweep(&mut table, 2_000, 2_001, &[reading(1, start, 6), reading(2, start, 5)]);
    assert_eq!(spool(&mut table, EmitMode::EndsOnly), []);
    sweep(&mut table, 3_000, 3_001, &[reading(1, start, 7), reading(2, start, 5)]);
    assert_eq!(spool(&mut table, EmitMode::Nothing), []);
    sweep(&mut table, 4_000, 4_001, &[reading(1, start, 7), reading(2, start, 6)]);
    let mut records = spool(&mut table, EmitMode::All);
    records.sort_by_key(|record| record.orig);
    assert_eq!((records[0].delta, records[0].since), (counted(2), ms(1_000)));
    assert_eq!(records[0].until, ms(3_001), "the last reading found nothing new");
    assert_eq!((records[1].delta, records[1].since), (counted(1), ms(3_000)));
}

#[test]
fn ends_go_out_early_and_growth_does_not() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 5), reading(2, start, 5)]);
    end(&mut table, &reading(2, start, 6), 0, 1_100);
    assert_eq!(table.ends_waiting(), 1);
    let records = spool(&mut table, EmitMode::EndsOnly);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].delta, counted(6), "an end carries what was never reported too");
    assert_eq!(table.ends_waiting(), 0);
    assert_eq!(peek(&table).len(), 1);
}

#[test]
fn totals_are_the_kernels() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 5), reading(2, start, 6)]);
    // Read twice in one sweep (the kernel's table was resized): counted once.
    table.sweep_begin(ms(2_000));
    for packets in [5, 7] {
        table.swept(&reading(1, start, packets), ms(2_001));
    }
    table.swept(&reading(2, start, 6), ms(2_001));
    let report = SweepEnd { end: ms(2_001), complete: &[NETNS], failed: &[], gone: &[] };
    table.sweep_end(&report);
    assert_eq!((table.totals().live_flows, table.totals().live), (2, counted(13)));
    // It ends before the interval does: not both dead and alive.
    end(&mut table, &reading(2, start, 8), 0, 2_100);
    let totals = table.totals();
    assert_eq!((totals.live_flows, totals.live), (1, counted(7)));
    assert_eq!((totals.ended_flows, totals.ended), (1, counted(8)));
    spool(&mut table, EmitMode::All);
    table.close_interval();
    assert_eq!(table.totals().ended_flows, 0);
    assert_eq!(table.totals().live_flows, 1);
}

#[test]
fn entries_beyond_the_limit_are_accounted_by_their_end() {
    let limits = TableLimits { live: 1, ..TableLimits::default() };
    let mut table = FlowTable::new(limits, BOOT, 1);
    sweep(&mut table, 1_000, 1_001, &[]);
    let (a, b) = (reading(1, stamp(1_500), 5), reading(2, stamp(1_500), 9));
    sweep(&mut table, 2_000, 2_001, &[a, b]);
    assert_eq!((table.stats().live, table.stats().untracked_live), (1, 1));
    assert_eq!(table.totals().live, counted(14), "the audit sees all");
    assert_eq!(table.watermark(), ms(1_000), "not everything has been reported");
    sweep(&mut table, 3_000, 3_001, &[a, b]);
    spool(&mut table, EmitMode::All);
    // Without a stop stamp: it was not in the clean sweep, whatever came after.
    let b = Reading { start: 0, kernel_id: 77, ..b };
    end(&mut table, &b, 0, 40_000);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!((records[0].delta, records[0].since), (counted(9), ms(1_000)));
}

#[test]
fn namespaces_are_apart() {
    let mut table = table();
    let here = reading(1, stamp(500), 5);
    let there = Reading { netns: NetnsInode(2), ..here };
    table.sweep_begin(ms(1_000));
    table.swept(&here, ms(1_001));
    table.swept(&there, ms(1_001));
    let both = [NETNS, NetnsInode(2)];
    table.sweep_end(&SweepEnd { end: ms(1_001), complete: &both, failed: &[], gone: &[] });
    assert_eq!(spool(&mut table, EmitMode::All).len(), 2);
    assert_eq!(table.watermark(), ms(1_000));

    table.sweep_begin(ms(2_000));
    table.swept(&here, ms(2_001));
    let failed = [NetnsInode(2)];
    table.sweep_end(&SweepEnd { end: ms(2_001), complete: &[NETNS], failed: &failed, gone: &[] });
    assert_eq!(table.watermark(), ms(1_000), "one namespace could not be read");
    assert_eq!(table.iter().count(), 2);
}

#[test]
fn displays_see_live_entries() {
    let mut table = table();
    sweep(&mut table, 1_000, 1_001, &[reading(1, stamp(500), 5)]);
    let shown: Vec<_> = table.iter().collect();
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].cum, shown[0].grown, shown[0].counted), (counted(5), ms(1_001), true));
    assert_eq!(table.get(&shown[0].entry), Some(shown[0]));
    end(&mut table, &reading(1, stamp(500), 5), 0, 1_100);
    assert_eq!(table.get(&shown[0].entry), None);
    assert_eq!(table.iter().count(), 0);
}

#[test]
fn readings_outside_a_sweep_are_ignored_and_counted() {
    let mut table = table();
    table.swept(&reading(1, stamp(500), 5), ms(1_000));
    assert_eq!((table.stats().stray_readings, table.stats().live), (1, 0));
    table.sweep_begin(ms(1_000));
    table.sweep_failed();
    table.sweep_failed();
    assert_eq!(table.stats().sweeps_incomplete, 1);
}
