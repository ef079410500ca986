//! `since` and `until` of entries that are seen for the first, or the only, time.

use flow::record::RecordFlags;
use flow::table::EmitMode;
use flow::{BootNanos, Reading};

use super::kit::{end, ms, reading, spool, stamp, sweep, table};

#[test]
fn a_new_entry_starts_at_its_start_or_after_the_sweep_it_was_not_in() {
    let mut table = table();
    sweep(&mut table, 1_000, 1_001, &[]);
    let stamped = reading(1, stamp(1_500), 5);
    sweep(&mut table, 2_000, 2_001, &[stamped, reading(2, 0, 5)]);
    let mut records = spool(&mut table, EmitMode::All);
    records.sort_by_key(|record| record.orig);
    assert_eq!((records[0].since, records[0].until), (ms(1_500), ms(2_001)));
    assert_eq!((records[1].since, records[1].until), (ms(1_000), ms(2_001)));
    assert!(!records[0].flags.has(RecordFlags::REBASE));
}

#[test]
fn a_flow_between_two_sweeps_has_both_bounds_from_its_stamps() {
    let mut table = table();
    sweep(&mut table, 1_000, 1_001, &[]);
    end(&mut table, &reading(1, stamp(1_500), 5), stamp(1_700), 1_900);
    let records = spool(&mut table, EmitMode::All);
    assert_eq!((records[0].since, records[0].until), (ms(1_500), ms(1_700)));
    assert_eq!(records[0].delta, records[0].cum);
}

#[test]
fn a_late_end_is_not_held_against_a_sweep_after_its_death() {
    let mut table = table();
    for begin in [1_000, 11_000, 21_000, 31_000, 41_000] {
        sweep(&mut table, begin, begin + 100, &[]);
    }
    // Died during the third sweep, perhaps before its turn.
    let dead = reading(1, stamp(10_900), 5);
    end(&mut table, &dead, stamp(21_050), 41_500);
    assert_eq!(spool(&mut table, EmitMode::All)[0].since, ms(10_900));

    // Stamps are off: it died at most the grace ago, so it was not in the sweep before that.
    let dead = Reading { start: 0, ..reading(2, 0, 5) };
    end(&mut table, &dead, 0, 41_500);
    let record = spool(&mut table, EmitMode::All)[0];
    assert_eq!((record.since, record.until), (ms(11_000), ms(41_500)));
}

#[test]
fn an_end_before_any_sweep_has_no_lower_bound() {
    let mut table = table();
    end(&mut table, &reading(1, stamp(1_500), 5), stamp(1_700), 1_900);
    let record = spool(&mut table, EmitMode::All)[0];
    assert_eq!(record.since, BootNanos::BOOT);
    assert!(record.flags.has(RecordFlags::REBASE));
}

#[test]
fn a_failed_sweep_bounds_nothing() {
    let mut table = table();
    sweep(&mut table, 1_000, 1_001, &[]);
    table.sweep_begin(ms(2_000));
    table.sweep_failed();
    sweep(&mut table, 3_000, 3_001, &[reading(1, 0, 5)]);
    assert_eq!(spool(&mut table, EmitMode::All)[0].since, ms(1_000));
}

#[test]
fn an_empty_entry_that_wakes_grew_after_its_last_reading() {
    let mut table = table();
    let start = stamp(500);
    sweep(&mut table, 1_000, 1_001, &[reading(1, start, 0)]);
    sweep(&mut table, 2_000, 2_001, &[reading(1, start, 0)]);
    sweep(&mut table, 3_000, 3_001, &[reading(1, start, 4)]);
    let record = spool(&mut table, EmitMode::All)[0];
    assert_eq!((record.since, record.until), (ms(2_000), ms(3_001)));
}
