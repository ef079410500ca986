//! Worlds in which several hosts see one flow: real packets through a virtual network of conntrack
//! tables, and the real flow tables, clocks, linking and counting on what they tell.
//!
//! What must hold, by number:
//!
//!  1. One observer: what is stored is its highest readings.
//!  2. Where the best observer has told all that passed, that is what is stored, for any number of
//!     observers, with translation, namespaces, and entries picked up the wrong way round.
//!  3. Never over: no more than the packets that readings which arrived have counted, each once.
//!  4. Never under the best: no less than what the best observer of each component told.
//!  5. What is stored of a flow never falls but in the first count after groups were joined.
//!  6. A frame that arrives again adds no row, a reading that is told again counts for nothing.
//!  7. Any order that keeps each host's own gives the same totals where all segments are kept, and
//!     totals within 3 and 4 where they are thinned.
//!  8. Whenever the aggregator dies, what is stored in the end is within 3 and 4; 9: also where it
//!     was forgotten and read again.
//! 10. A handover costs at most the smaller of the two growths that overlap.
//! 13. A gateway between two routers: exact, however late; nothing is taken back where it is
//!     prompt.
//! 14. Flows that only look alike are counted apart.
//! 15. Each use of a tuple is one path where all hosts make new entries for it and start stamps
//!     are good.
//! 17. Thinning never raises a total.
//! 18. The bounds of every record are true (24: also where the spool pauses).
//! 21. What each observer told is stored once, whatever of it is counted.
//! 22. Packets and bytes are maxima of their own: some hosts join packets before they count them.
//! 26. A draft that is thrown away and made again comes out the same; COMMITs may be refused,
//!     lost, or kept without an answer.
//! 28. No total exceeds the sum of all growth.
//!
//! 11, 12, 16, 19 and 23 follow from 2, 3 and 4 in the scenarios that are about them.

mod conntrack;
#[cfg(test)]
mod counterexamples;
mod counting;
mod explain;
mod judge;
mod node;
mod outcome;
mod post;
mod recipe;
mod shrink;
mod site;
mod stored;
mod traffic;
mod world;

use std::time::Duration;

use flow::merge::MergeConfig;
use rand::Rng;

pub use outcome::{Amounts, Broken, Outcome};
pub use recipe::{Fault, Faults, Recipe, Scenario};
pub use shrink::shrink;
pub use world::Happened;

use counting::Way;
use judge::Judge;
use recipe::Part;
use stored::Trouble;
use world::Told;

/// Lives through one world and looks at everything.
///
/// # Errors
/// The first property that does not hold.
pub fn live(recipe: &Recipe) -> Result<Outcome, Broken> {
    let broken = |what| Broken { recipe: *recipe, what };
    let mut told = Told::live(*recipe);
    let arrivals = post::deliver(&mut told);
    let way = way(recipe);
    let judge = Judge::new(&told, &arrivals);
    judge.bounds().map_err(broken)?;
    let (book, mut pure) = judge.count(&arrivals, way).map_err(broken)?;
    let mut outcome = judge.judge(&book, &pure).map_err(broken)?;
    let (merged, dropped) = (pure.merged(), pure.drafts_dropped);
    if recipe.seed.is_multiple_of(RECOUNTED) {
        judge.recount(&book, &arrivals, way).map_err(broken)?;
        judge.again(&mut pure, &arrivals).map_err(broken)?;
    }
    outcome.happened = Happened { merged, drafts_dropped: dropped, ..told.happened };
    outcome.happened.retractions = book.retractions();
    Ok(outcome)
}

/// Lives through one world as [`live`] does, and takes what it tells through the aggregator's own
/// counting and commits as well.
///
/// # Errors
/// The first property that does not hold.
pub fn live_stored(recipe: &Recipe) -> Result<Outcome, Broken> {
    let mut outcome = live(recipe)?;
    let broken = |what| Broken { recipe: *recipe, what };
    let mut told = Told::live(*recipe);
    let arrivals = post::deliver(&mut told);
    let (sums, Trouble { commits, crashes }) = stored::store(&told, &arrivals).map_err(broken)?;
    Judge::new(&told, &arrivals).stored_within(&sums).map_err(broken)?;
    outcome.happened = Happened { commit_faults: commits, crashes, ..outcome.happened };
    Ok(outcome)
}

/// What a world tells, record by record, and what each counts for.
#[must_use]
pub fn explain(recipe: &Recipe) -> String {
    let mut told = Told::live(*recipe);
    let arrivals = post::deliver(&mut told);
    explain::explain(&told, &arrivals, way(recipe))
}

fn way(recipe: &Recipe) -> Way {
    let mut rng = recipe.stream(Part::Centre, 0);
    let faults = recipe.faults();
    let hold = if faults.has(Fault::NoHold) { 0 } else { HOLD_SECONDS };
    let dropped = if faults.has(Fault::Commits) { rng.random_range(2..6) } else { 0 };
    Way { merge: MergeConfig::default(), hold: Duration::from_secs(hold), dropped }
}

/// Of so many worlds one is counted again in other ways.
const RECOUNTED: u64 = 4;

/// The longest interval of any node here, and 5 s.
const HOLD_SECONDS: u64 = 20;
