//! Runs merging worlds and prints what they showed, scenario by scenario. One that fails is made
//! smaller and printed with the flags that repeat it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use conntracct_sim::merging::{Outcome, Scenario, explain, live, live_stored, shrink};

use crate::flags::{Flags, Which};
use crate::progress::{Progress, say};

pub(crate) fn run(flags: &Flags) -> ExitCode {
    let begun = Instant::now();
    let stored = flags.which == Which::Stored;
    let lived = if stored { live_stored } else { live };
    let setting = if stored { "--setting merging-stored" } else { "--setting merging" };
    let mut totals: BTreeMap<Scenario, Outcome> = BTreeMap::new();
    let mut failed = 0u64;
    let mut progress = Progress::new(flags.worlds);
    for number in 0..flags.worlds {
        let recipe = flags.recipe(number);
        match lived(&recipe) {
            Ok(outcome) => {
                let total = totals.entry(recipe.scenario).or_default();
                *total = total.plus(&outcome);
            }
            Err(broken) => {
                failed += 1;
                progress.clear();
                say(&format!("{setting} {recipe}: {}", broken.what));
                if failed <= SHRUNK {
                    let least = shrink(broken, lived);
                    say(&format!("  smaller: {setting} {}: {}", least.recipe, least.what));
                    if flags.explain {
                        say(&explain(&least.recipe));
                    }
                }
            }
        }
        progress.show(number + 1);
    }
    progress.clear();
    let seconds = begun.elapsed().as_secs_f64().max(0.001);
    show(&totals);
    say(&format!(
        "{} merging worlds from seed {} in {seconds:.1} s ({:.0} a second); {failed} violations",
        flags.worlds,
        flags.seed,
        flags.worlds as f64 / seconds
    ));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(totals: &BTreeMap<Scenario, Outcome>) {
    let all = totals.values().fold(Outcome::default(), |sum, total| sum.plus(total));
    for (name, times) in all.happened.all() {
        say(&format!("{times:>9} {name}"));
    }
    say("scenario         worlds   flows  undecidable     over %    under %  worlds exact %");
    for (scenario, total) in totals {
        let of = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
        say(&format!(
            "{:<16} {:>6} {:>7} {:>12} {:>10.4} {:>10.4} {:>15.1}",
            scenario.name(),
            total.worlds,
            total.flows,
            total.undecidable,
            of(total.amounts.over, total.amounts.passed),
            of(total.amounts.under, total.amounts.passed),
            of(total.exact, total.worlds),
        ));
    }
    for (scenario, total) in totals {
        if let Some([mean, most, worst]) = total.residual() {
            say(&format!(
                "{}: a move costs {:.1} s of a flow's mean traffic, 95 of 100 at most {:.1}, {:.1} \
                 the most",
                scenario.name(),
                mean as f64 / 1e3,
                most as f64 / 1e3,
                worst as f64 / 1e3
            ));
        }
    }
}

/// Of so many failures the smallest world is looked for.
const SHRUNK: u64 = 5;
