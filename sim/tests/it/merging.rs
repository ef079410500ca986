//! A thousand worlds in which several hosts see one flow, and those that once found a fault.

use std::collections::BTreeMap;
use std::thread;

use sim::merging::{Broken, Outcome, Recipe, Scenario, live, live_stored, shrink};

/// One world, counted by `flow::merge` alone.
const MERGED: Way = Way { setting: "merging", live };
/// The same, also through the aggregator's counting and commits.
const STORED: Way = Way { setting: "merging-stored", live: live_stored };

#[derive(Clone, Copy)]
struct Way {
    setting: &'static str,
    live: fn(&Recipe) -> Result<Outcome, Broken>,
}

fn lived(way: Way, recipe: &Recipe) -> Outcome {
    (way.live)(recipe).unwrap_or_else(|broken| {
        let Way { setting, live } = way;
        let least = shrink(broken.clone(), live);
        panic!(
            "{}\nrepeat it: cargo xtask sim --setting {setting} {recipe}\n\
             smaller: cargo xtask sim --setting {setting} {} --explain\n{}",
            broken.what, least.recipe, least.what
        )
    })
}

/// All worlds of these seeds, on all cores, by scenario.
fn live_all(way: Way, seeds: std::ops::Range<u64>) -> BTreeMap<Scenario, Outcome> {
    let threads = u64::try_from(thread::available_parallelism().map_or(1, usize::from)).unwrap();
    let add = |mut totals: BTreeMap<Scenario, Outcome>, (scenario, outcome): (_, Outcome)| {
        let total = totals.entry(scenario).or_default();
        *total = total.plus(&outcome);
        totals
    };
    thread::scope(|scope| {
        let share = |n| {
            let seeds = seeds.clone().filter(move |seed| seed % threads == n);
            let worlds =
                seeds.flat_map(|seed| Scenario::ALL.map(|(named, _)| Recipe::new(named, seed)));
            let lived = worlds.map(|recipe| (recipe.scenario, lived(way, &recipe)));
            scope.spawn(move || lived.fold(BTreeMap::new(), add))
        };
        let shares: Vec<_> = (0..threads).map(share).collect();
        let done = shares.into_iter().map(|share| share.join().expect("a world went wrong"));
        done.flatten().fold(BTreeMap::new(), add)
    })
}

#[test]
fn each_flow_is_counted_once_in_1008_worlds() {
    let totals = live_all(MERGED, 1..64);
    let all = totals.values().fold(Outcome::default(), |sum, total| sum.plus(total));
    assert_eq!(all.worlds, 1_008);
    // The aggregator's own happen in the worlds that are stored.
    let stored = ["commits gone wrong", "aggregator crashes"];
    let never = all.happened.all().into_iter().filter(|(_, times)| *times == 0);
    let never: Vec<&str> =
        never.map(|(name, _)| name).filter(|name| !stored.contains(name)).collect();
    assert!(never.is_empty(), "in no world: {never:?}");
    assert_eq!(all.amounts.over, 0);
    assert!(all.undecidable * 20 < all.flows, "too few could be judged: {all:?}");
    for (scenario, total) in totals {
        let Outcome { worlds, exact, amounts, .. } = total;
        assert!(amounts.passed > 1_000_000, "next to nothing passed: {scenario:?} {total:?}");
        if matches!(scenario, Scenario::Single | Scenario::Translated) {
            assert_eq!(exact, worlds, "{scenario:?} {total:?}");
        }
        // What handovers may cost, and what hosts that were away leave to others to tell.
        let most =
            if scenario.has_a_best_observer() { amounts.passed / 50 } else { amounts.passed / 5 };
        assert!(amounts.under <= most, "{scenario:?} {total:?}");
    }
}

#[test]
fn the_aggregator_counts_each_flow_once_in_1008_worlds() {
    let totals = live_all(STORED, 1..64);
    let all = totals.values().fold(Outcome::default(), |sum, total| sum.plus(total));
    assert_eq!(all.worlds, 1_008);
    let never = all.happened.all().into_iter().filter(|(_, times)| *times == 0);
    let never: Vec<&str> = never.map(|(name, _)| name).collect();
    assert!(never.is_empty(), "in no world: {never:?}");
}

/// 14: flows with equal addresses at other sites count for what they count where they are alone.
#[test]
fn flows_that_only_look_alike_count_as_if_they_were_alone() {
    let (mut several, mut judged) = (0, 0);
    for seed in 1..200 {
        let whole = Recipe::new(Scenario::Overlap, seed);
        let together = lived(MERGED, &whole);
        let apart: Vec<Outcome> =
            (0..8).map(|flow| lived(MERGED, &Recipe { flows: 1 << flow, ..whole })).collect();
        let alone = apart.iter().fold(Outcome::default(), |sum, one| sum.plus(one));
        if together.undecidable + alone.undecidable > 0 {
            continue;
        }
        judged += 1;
        several += u64::from(apart.iter().filter(|one| one.amounts.passed > 0).count() > 1);
        assert_eq!(together.amounts, alone.amounts, "{whole}");
    }
    assert!(several > judged / 2, "{several} of {judged} worlds have flows that look alike");
}

// Each of these found a fault of the product, and finds it again when the repair is undone.

#[test]
fn an_entry_told_of_late_comes_before_its_successors() {
    lived(MERGED, &Recipe::new(Scenario::OneWay, 108));
    lived(MERGED, &Recipe::new(Scenario::Replay, 20));
}

#[test]
fn growth_without_a_time_adds_to_its_own_lane_only() {
    lived(MERGED, &Recipe::new(Scenario::LateGateway, 104));
}

#[test]
fn growth_before_a_join_of_entries_does_not_count_twice() {
    lived(MERGED, &Recipe::new(Scenario::Partial, 77));
}

#[test]
fn an_entry_without_an_end_is_alive_in_any_order() {
    lived(MERGED, &Recipe::new(Scenario::TakeoverDies, 1_520));
    lived(MERGED, &Recipe::new(Scenario::Reuse, 1_916));
    lived(MERGED, &Recipe::new(Scenario::ThereAndBack, 124));
}

#[test]
fn the_second_observer_of_a_domain_is_seen_while_a_commit_is_in_doubt() {
    lived(STORED, &Recipe::new(Scenario::Partial, 17));
    lived(STORED, &Recipe::new(Scenario::Chain, 35));
}

#[test]
fn growth_without_a_time_that_is_read_back_stays_without_one() {
    for (scenario, seed) in [
        (Scenario::Overlap, 9),
        (Scenario::Replay, 14),
        (Scenario::Partial, 16),
        (Scenario::Chain, 21),
        (Scenario::Full, 44),
    ] {
        lived(STORED, &Recipe::new(scenario, seed));
    }
}

#[test]
fn what_is_forgotten_between_linking_and_counting_comes_back_with_its_company() {
    lived(STORED, &Recipe::new(Scenario::LateJoin, 451));
    lived(STORED, &Recipe::new(Scenario::Chain, 472));
}

#[test]
fn a_group_is_whole_though_some_of_it_ended_before_the_restart() {
    lived(STORED, &Recipe::new(Scenario::Partial, 358));
}

#[test]
fn merging_begins_though_the_store_was_away_when_it_should() {
    lived(STORED, &Recipe::new(Scenario::Replay, 101_394));
    lived(STORED, &Recipe::new(Scenario::Full, 100_331));
}

#[test]
fn what_was_counted_apart_before_a_restart_is_taken_back_after_it() {
    lived(STORED, &Recipe::new(Scenario::Partial, 100_958));
    lived(STORED, &Recipe::new(Scenario::LateGateway, 101_570));
}

#[test]
fn whoever_was_forgotten_is_asked_for_when_an_old_entry_grows_on() {
    lived(STORED, &Recipe::new(Scenario::LateJoin, 303_420));
}
