//! Runs worlds by seed: `cargo xtask sim --worlds N --seed S`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use conntracct_sim::{Kind, Outcome, TROUBLE_SECONDS, World};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut worlds, mut seed) = (100u64, 1u64);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (flag.as_str(), value) {
            ("--worlds", Some(value)) => worlds = value,
            ("--seed", Some(value)) => seed = value,
            _ => {
                say("usage: sim [--worlds N] [--seed S]");
                return ExitCode::from(2);
            }
        }
    }
    run(seed, worlds)
}

fn run(first: u64, worlds: u64) -> ExitCode {
    let begun = Instant::now();
    let (mut total, mut failed) = (Outcome::default(), 0u64);
    let mut told = begun;
    for seed in first..first.saturating_add(worlds) {
        match World::new(seed).run(TROUBLE_SECONDS) {
            Ok(outcome) => total = total.plus(&outcome),
            Err(violation) => {
                failed += 1;
                say(&format!("seed {}: {}", violation.seed, violation.what));
            }
        }
        if std::io::stderr().is_terminal() && told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
            let _gone = write!(std::io::stderr(), "\r{} of {worlds} worlds", seed - first + 1);
        }
    }
    let seconds = begun.elapsed().as_secs_f64().max(0.001);
    if std::io::stderr().is_terminal() {
        let _gone = write!(std::io::stderr(), "\r\x1b[K");
    }
    let Outcome { entries, exact, bounded, commits, rows, happened } = &total;
    for kind in Kind::ALL {
        say(&format!("{:>9} {kind:?}", happened.times(kind)));
    }
    say(&format!(
        "{worlds} worlds from seed {first} in {seconds:.1} s: {entries} entries, {exact} exact, \
         {bounded} bounded, {commits} commits, {rows} rows; {failed} violations"
    ));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(text: &str) {
    let _gone = writeln!(std::io::stdout(), "{text}");
}
