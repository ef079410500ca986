//! Runs worlds by seed: `cargo xtask sim --worlds N --seed S --setting changing`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use conntracct_sim::{Kind, Outcome, Setting, TROUBLE_SECONDS, World};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut worlds, mut seed, mut setting) = (100u64, 1u64, Setting::Usual);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        let named = Setting::ALL.into_iter().find(|(_, name)| *name == value);
        match (flag.as_str(), value.parse(), named) {
            ("--worlds", Ok(value), _) => worlds = value,
            ("--seed", Ok(value), _) => seed = value,
            ("--setting", _, Some((named, _))) => setting = named,
            _ => {
                say("usage: sim [--worlds N] [--seed S] [--setting usual|changing|sqlite]");
                return ExitCode::from(2);
            }
        }
    }
    run(seed, worlds, setting)
}

fn run(first: u64, worlds: u64, setting: Setting) -> ExitCode {
    let begun = Instant::now();
    let (mut total, mut failed) = (Outcome::default(), 0u64);
    let mut told = begun;
    for seed in first..first.saturating_add(worlds) {
        match World::new(seed, setting).run(TROUBLE_SECONDS) {
            Ok(outcome) => total = total.plus(&outcome),
            Err(violation) => {
                failed += 1;
                say(&format!("seed {seed} ({setting:?}): {}", violation.what));
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
    Kind::ALL.iter().for_each(|kind| say(&format!("{:>9} {kind:?}", happened.times(*kind))));
    say(&format!(
        "{worlds} worlds from seed {first} in {seconds:.1} s: {entries} entries, {exact} exact, \
         {bounded} bounded, {commits} commits, {rows} rows; {failed} violations"
    ));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(text: &str) {
    let _gone = writeln!(std::io::stdout(), "{text}");
}
