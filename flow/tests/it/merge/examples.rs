//! The cases that wrong rules fail, one test each.

use super::kit::{Centre, Entry, grew, plain, tcp};
use flow::merge::EntryRef;

#[test]
fn a_late_joiner_adds_nothing_while_the_first_sees_all() {
    // A sees 4 packets; B, born in between, sees 2 of the same.
    let (a, b) = (Entry::new(1, 1, 55.6), Entry::new(2, 2, 63.2));
    let tells = [(a, grew(55.6, 66.5, 1, 3)), (b, grew(63.2, 70.0, 1, 1))];
    for order in [[0, 1], [1, 0]] {
        let mut centre = Centre::new();
        for at in order {
            centre.tell(&tells[at].0, tells[at].1);
        }
        assert_eq!(centre.total, 4);
        assert!(centre.merger.together(EntryRef(1), EntryRef(2)));
    }
}

#[test]
fn an_entry_made_again_does_not_add_to_one_that_lived_on() {
    // A's entry expires and is made again; B's lives through both generations.
    let (a, a2, b) = (Entry::new(1, 1, 0.0), Entry::new(2, 1, 100.9), Entry::new(3, 2, 0.0));
    let mut centre = Centre::new();
    centre.tell(&a, grew(0.0, 10.0, 9, 11).end());
    centre.tell(&b, grew(0.0, 12.0, 9, 11));
    centre.tell(&b, grew(100.0, 112.0, 2, 2));
    centre.tell(&a2, grew(100.9, 110.0, 2, 2));
    assert_eq!(centre.total, 24);
}

#[test]
fn a_spool_hours_late_is_counted_as_if_it_had_come_in_time() {
    let (a, b) = (Entry::new(1, 1, 0.0), Entry::new(2, 2, 30.0));
    let mut centre = Centre::new();
    centre.tell(&b, grew(30.0, 40.0, 5, 0));
    centre.tell(&b, grew(40.0, 50.0, 5, 0));
    for tens in 0..5 {
        let since = f64::from(tens) * 10.0;
        centre.tell(&a, grew(since, since + 10.0, 5, 0));
    }
    assert_eq!(centre.total, 25);
}

#[test]
fn a_takeover_counts_in_full_whatever_the_entry_start_says() {
    // B's entry was synchronised from A: same start, no growth until it takes over.
    let (a, b) = (Entry::new(1, 1, 26.0), Entry::new(2, 2, 26.0));
    let mut centre = Centre::new();
    centre.tell(&a, grew(26.0, 75.0, 40, 0));
    centre.tell(&b, grew(76.3, 86.4, 22, 0));
    assert_eq!(centre.total, 62);
    assert_eq!(centre.stored.len(), 1, "one generation");
}

#[test]
fn there_and_back_on_the_old_entry() {
    let (a, b) = (Entry::new(1, 1, 0.0), Entry::new(2, 2, 12.0));
    let mut centre = Centre::new();
    centre.tell(&a, grew(0.0, 10.0, 6, 0));
    centre.tell(&b, grew(12.0, 20.0, 5, 0));
    centre.tell(&a, grew(22.0, 30.0, 5, 0));
    assert_eq!(centre.total, 16);
    assert_eq!(centre.labels(&[&a]), centre.labels(&[&b]));
}

#[test]
fn directions_are_apart_and_a_pickup_may_be_the_wrong_way_round() {
    // A sees there only; B picked the answers up and has them as its original direction.
    let a = Entry::new(1, 1, 0.0);
    let b = Entry::new(2, 2, 0.3).seen_as(&plain().inverse(), &plain().inverse());
    let c = Entry::new(3, 3, 5.0);
    let mut centre = Centre::new();
    centre.tell(&a, grew(0.0, 10.0, 2, 0));
    let counted = centre.tell(&b, grew(0.3, 10.0, 1, 0));
    assert_eq!(counted.counted.orig.packets.get(), 1, "in the entry's own direction");
    assert_eq!(centre.total, 3);
    // One that sees both, late: nothing new.
    centre.tell(&c, grew(5.0, 10.0, 1, 1));
    assert_eq!(centre.total, 3);
}

#[test]
fn a_translator_between_makes_one_flow_of_two() {
    let inner = Entry::new(1, 1, 0.0);
    let public = tcp("198.51.100.1:7000", "192.0.2.1:443");
    let outer = Entry::new(2, 2, 0.0).seen_as(&public, &public);
    let gateway = Entry::new(3, 3, 0.0).seen_as(&plain(), &public);
    let grown = grew(0.0, 10.0, 10, 10);

    // In time: linked before anything is counted, nothing is taken back.
    let mut centre = Centre::new();
    for entry in [inner, outer, gateway] {
        centre.link(&entry, &grown);
    }
    for entry in [inner, outer, gateway] {
        centre.count(&entry, &grown);
    }
    assert_eq!((centre.total, centre.taken_back), (20, 0));
    let labels = centre.labels(&[&inner, &outer, &gateway]);
    assert!(labels.windows(2).all(|pair| pair[0] == pair[1]), "{labels:?}");

    // An hour late: what was stored twice is taken back.
    let mut centre = Centre::new();
    centre.tell(&inner, grown);
    centre.tell(&outer, grown);
    assert_eq!(centre.total, 40);
    centre.tell(&gateway, grown);
    assert_eq!((centre.total, centre.taken_back), (20, 20));
    centre.tell(&inner, grew(10.0, 20.0, 3, 0));
    assert_eq!(centre.total, 23);
}

#[test]
fn equal_private_addresses_behind_different_public_ones_stay_apart() {
    let here = tcp("198.51.100.1:4000", "192.0.2.1:443");
    let there = tcp("198.51.100.2:4000", "192.0.2.1:443");
    let one = Entry::new(1, 1, 0.0).seen_as(&plain(), &here);
    let other = Entry::new(2, 2, 0.0).seen_as(&plain(), &there);
    let mut centre = Centre::new();
    centre.tell(&one, grew(0.0, 10.0, 5, 5));
    centre.tell(&other, grew(0.0, 10.0, 7, 7));
    assert_eq!(centre.total, 24);
    assert!(!centre.merger.together(EntryRef(1), EntryRef(2)));
    assert_eq!(centre.merger.take_stats().conflicts, 1);
}

#[test]
fn a_tuple_used_again_is_another_generation() {
    let entries = [
        Entry::new(1, 1, 0.0).fresh(),
        Entry::new(2, 2, 0.1).fresh(),
        Entry::new(3, 1, 20.0).fresh(),
        Entry::new(4, 2, 20.1).fresh(),
    ];
    let mut centre = Centre::new();
    for entry in &entries[..2] {
        centre.tell(entry, grew(0.0, 5.0, 10, 0).end());
    }
    for entry in &entries[2..] {
        centre.tell(entry, grew(20.0, 25.0, 30, 0).end());
    }
    assert_eq!(centre.total, 40);
    let labels = centre.labels(&entries.iter().collect::<Vec<_>>());
    assert_eq!(labels[0], labels[1]);
    assert_eq!(labels[2], labels[3]);
    assert_ne!(labels[0], labels[2]);
    assert_eq!(centre.stored.values().copied().collect::<Vec<_>>(), [10, 30]);
}

#[test]
fn a_closed_entry_that_grows_again_runs_in_no_circle() {
    // A's entry ended, then more of it comes with times that contradict B's.
    let (a, b) = (Entry::new(1, 1, 0.0), Entry::new(2, 2, 11.0).fresh());
    let mut centre = Centre::new();
    centre.tell(&a, grew(0.0, 10.0, 5, 0).end());
    centre.tell(&b, grew(11.0, 20.0, 5, 0));
    for _again in 0..10 {
        centre.tell(&a, grew(10.0, 20.0, 1, 0).end());
        centre.tell(&b, grew(11.0, 20.0, 1, 0));
    }
    assert!(centre.total <= 5 + 5 + 20);
    assert!(centre.total >= 15);
}

#[test]
fn unknown_times_add_to_nobody_else() {
    let a = Entry { start: None, ..Entry::new(1, 1, 0.0) };
    let b = Entry::new(2, 2, 0.0);
    let mut centre = Centre::new();
    centre.tell(&b, grew(0.0, 10.0, 10, 0));
    centre.tell(&a, grew(0.0, 50.0, 12, 0));
    assert_eq!(centre.total, 12);
}

#[test]
fn an_entry_without_an_end_is_alive_whichever_is_told_of_first() {
    // A's host dies at 50, so its end never comes; B's entry, of the same flow, begins at 140, and
    // what it grew by may be older than that as far as its node knows.
    let (a, b) = (Entry::new(1, 1, 20.0), Entry::new(2, 2, 140.0));
    let tells = [(a, grew(20.0, 50.0, 5, 0)), (b, grew(0.0, 150.0, 3, 0).end())];
    for order in [[0, 1], [1, 0]] {
        let mut centre = Centre::new();
        for at in order {
            centre.tell(&tells[at].0, tells[at].1);
        }
        assert_eq!(centre.total, 5, "{order:?}");
        assert!(centre.merger.together(EntryRef(1), EntryRef(2)), "{order:?}");
    }
}
