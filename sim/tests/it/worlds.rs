//! Three hundred hostile worlds, and the seeds that once found a fault.

use std::thread;

use sim::{Kind, Outcome, TROUBLE_SECONDS, World};

fn live(seed: u64) -> Outcome {
    match World::new(seed).run(TROUBLE_SECONDS) {
        Ok(outcome) => outcome,
        Err(violation) => {
            panic!(
                "seed {}: {}\nrepeat it: cargo xtask sim --worlds 1 --seed {}",
                violation.seed, violation.what, violation.seed
            )
        }
    }
}

/// All worlds of these seeds together.
fn live_all(seeds: impl Iterator<Item = u64>) -> Outcome {
    seeds.fold(Outcome::default(), |total, seed| total.plus(&live(seed)))
}

#[test]
fn stored_is_what_the_kernel_counted_in_worlds_1_to_300() {
    let threads = u64::try_from(thread::available_parallelism().map_or(1, usize::from)).unwrap();
    let total = thread::scope(|scope| {
        let share = |n| scope.spawn(move || live_all((1..=300).filter(|seed| seed % threads == n)));
        let shares: Vec<_> = (0..threads).map(share).collect();
        let done = shares.into_iter().map(|share| share.join().expect("a world went wrong"));
        done.fold(Outcome::default(), |total, share| total.plus(&share))
    });
    // They were no easy ones.
    let never: Vec<Kind> = total.happened.never().collect();
    assert!(never.is_empty(), "in no world: {never:?}");
    assert!(total.commits > 300, "the worlds committed next to nothing: {}", total.commits);
    let Outcome { entries, exact, .. } = total;
    assert!(exact * 2 > entries, "of {entries} entries only {exact} had to be exact");
}

// Each of these seeds found a fault of the product, and finds it again when the repair is undone.

#[test]
fn what_a_rolled_back_node_wrote_under_taken_numbers_is_told_again() {
    assert!(live(7).happened.times(Kind::Retold) > 0);
}

#[test]
fn a_rollback_whose_numbers_look_right_is_seen_by_the_committed_digest() {
    assert!(live(18).happened.times(Kind::FoundOtherBytes) > 0);
}

#[test]
fn nothing_is_sent_of_an_overtaken_epoch_that_a_full_disk_could_not_rename() {
    assert!(live(103).happened.times(Kind::DiskFull) > 0);
}
