//! Runs worlds by seed: `cargo xtask sim --worlds N --seed S --setting changing`.

mod flags;
mod merging_worlds;
mod progress;

use std::process::ExitCode;
use std::time::Instant;

use conntracct_sim::{Kind, Outcome, Setting, TROUBLE_SECONDS, World};
use flags::{Flags, Which};
use progress::{Progress, say};

fn main() -> ExitCode {
    let flags = match Flags::of(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(usage) => {
            say(&usage);
            return ExitCode::from(2);
        }
    };
    match flags.which {
        Which::Whole(setting) => run(flags.seed, flags.worlds, setting),
        Which::Merging | Which::Stored => merging_worlds::run(&flags),
    }
}

fn run(first: u64, worlds: u64, setting: Setting) -> ExitCode {
    let begun = Instant::now();
    let (mut total, mut failed) = (Outcome::default(), 0u64);
    let mut progress = Progress::new(worlds);
    for seed in first..first.saturating_add(worlds) {
        match World::new(seed, setting).run(TROUBLE_SECONDS) {
            Ok(outcome) => total = total.plus(&outcome),
            Err(violation) => {
                failed += 1;
                say(&format!("seed {seed} ({setting:?}): {}", violation.what));
            }
        }
        progress.show(seed - first + 1);
    }
    progress.clear();
    let seconds = begun.elapsed().as_secs_f64().max(0.001);
    let Outcome { entries, exact, bounded, commits, rows, happened } = &total;
    Kind::ALL.iter().for_each(|kind| say(&format!("{:>9} {kind:?}", happened.times(*kind))));
    say(&format!(
        "{worlds} worlds from seed {first} in {seconds:.1} s: {entries} entries, {exact} exact, \
         {bounded} bounded, {commits} commits, {rows} rows; {failed} violations"
    ));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
