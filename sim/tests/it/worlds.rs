//! Hundreds of hostile worlds, and the seeds that once found a fault.

use std::ops::RangeInclusive;
use std::thread;

use sim::{Kind, Outcome, Setting, TROUBLE_SECONDS, World};

fn live_in(seed: u64, setting: Setting) -> Outcome {
    match World::new(seed, setting).run(TROUBLE_SECONDS) {
        Ok(outcome) => outcome,
        Err(violation) => {
            let (seed, what) = (violation.seed, violation.what);
            let (_, name) = Setting::ALL.into_iter().find(|(known, _)| *known == setting).unwrap();
            panic!(
                "seed {seed}: {what}\nrepeat it: cargo xtask sim --worlds 1 --seed {seed} \
                 --setting {name}"
            )
        }
    }
}

fn live(seed: u64) -> Outcome {
    live_in(seed, Setting::Usual)
}

/// All worlds of these seeds together, on all cores.
fn live_all(seeds: RangeInclusive<u64>, setting: Setting) -> Outcome {
    let threads = u64::try_from(thread::available_parallelism().map_or(1, usize::from)).unwrap();
    thread::scope(|scope| {
        let share = |n| {
            let seeds = seeds.clone().filter(move |seed| seed % threads == n);
            let live = move |total: Outcome, seed| total.plus(&live_in(seed, setting));
            scope.spawn(move || seeds.fold(Outcome::default(), live))
        };
        let shares: Vec<_> = (0..threads).map(share).collect();
        let done = shares.into_iter().map(|share| share.join().expect("a world went wrong"));
        done.fold(Outcome::default(), |total, share| total.plus(&share))
    })
}

/// They were no easy ones: each kind of trouble has happened, and much was held to be exact.
fn were_hard(total: &Outcome, must_happen: impl Fn(&Kind) -> bool) {
    let never: Vec<Kind> = total.happened.never().filter(must_happen).collect();
    assert!(never.is_empty(), "in no world: {never:?}");
    let Outcome { entries, exact, .. } = total;
    assert!(exact * 3 > *entries, "of {entries} entries only {exact} had to be exact");
}

#[test]
fn stored_is_what_the_kernel_counted_in_worlds_301_to_600() {
    let total = live_all(301..=600, Setting::Usual);
    were_hard(&total, |kind| !kind.is_change());
    assert!(total.commits > 300, "the worlds committed next to nothing: {}", total.commits);
    assert!(total.exact * 2 > total.entries, "too little had to be exact: {total:?}");
}

#[test]
fn stored_is_what_the_kernel_counted_where_stores_and_stamps_change() {
    were_hard(&live_all(1..=150, Setting::Changing), |kind| kind.is_change());
}

#[test]
fn sqlite_stores_what_the_kernel_counted() {
    let total = live_all(1..=10, Setting::Sqlite);
    were_hard(&total, |kind| {
        matches!(kind, Kind::CentreKilled | Kind::CommitFault | Kind::SilentClosed | Kind::Reopened)
    });
}

// Each of these seeds found a fault of the product, and finds it again when the repair is undone.

#[test]
fn what_a_rolled_back_node_wrote_under_taken_numbers_is_told_again() {
    assert!(live(7).happened.times(Kind::Retold) > 0);
}

#[test]
fn a_rollback_whose_numbers_look_right_is_seen_by_the_committed_digest() {
    assert!(live(11).happened.times(Kind::FoundOtherBytes) > 0);
}

#[test]
fn nothing_is_sent_of_an_overtaken_epoch_that_a_full_disk_could_not_rename() {
    assert!(live(103).happened.times(Kind::DiskFull) > 0);
}
