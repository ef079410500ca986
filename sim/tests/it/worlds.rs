//! Three hundred hostile worlds, and the seeds that once found a fault.

use sim::{Outcome, TROUBLE_SECONDS, World};

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

/// `count` worlds from `first` on hold, and they are no easy ones.
fn hold(first: u64, count: u64) {
    let (mut entries, mut exact, mut commits) = (0, 0, 0);
    for seed in first..first + count {
        let outcome = live(seed);
        entries += outcome.entries;
        exact += outcome.exact;
        commits += outcome.commits;
    }
    assert!(commits > count, "the worlds committed next to nothing: {commits}");
    assert!(exact * 2 > entries, "of {entries} entries only {exact} had to be exact");
}

#[test]
fn stored_is_what_the_kernel_counted_in_worlds_1_to_100() {
    hold(1, 100);
}

#[test]
fn stored_is_what_the_kernel_counted_in_worlds_101_to_200() {
    hold(101, 100);
}

#[test]
fn stored_is_what_the_kernel_counted_in_worlds_201_to_300() {
    hold(201, 100);
}
