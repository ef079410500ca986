//! Entries of which nothing is heard: closed, opened again, and counted exactly all the same.

use aggregator::count::Frame;
use aggregator::pipeline::commit::{Committer, Stop, Work};
use aggregator::store::model::{Fault, ModelStore};
use flow::{Record, RecordFlags};

use crate::counting::{ONE, TWO, commit, ready, start, store, total};
use crate::frames::{batch, counters, ended, gap, record, unix};

/// Lets the committer close what is silent at `now`, and says whether there was anything.
fn close_silent(committer: &mut Committer<ModelStore>, now: u64) -> bool {
    let closes = committer.look_after(unix(now));
    commit(committer, Vec::new());
    closes
}

fn ends(store: &ModelStore) -> Vec<Option<flow::UnixNanos>> {
    store.with_contents(|contents| contents.observers.values().map(|row| row.ended).collect())
}

#[test]
fn a_silent_entry_is_closed_and_opened_by_its_next_growth() {
    let store = store();
    let mut committer = start(&store, 0);
    commit(&mut committer, vec![batch(ONE, 1, 110, vec![record(1, 105, 110, 0, 10)])]);
    assert!(!close_silent(&mut committer, 1_112), "it may live for a thousand seconds");
    assert!(close_silent(&mut committer, 1_113));
    assert_eq!(ends(&store), [Some(unix(112))], "receipt of its last record");
    assert!(!close_silent(&mut committer, 1_800), "closed once");
    assert_eq!(committer.counter().entries(), 0, "and forgotten as one that has ended");

    // Its node was only cut off: the base it writes is what was counted.
    let late = |frame: Frame| Frame { received: unix(2_000), ..frame };
    let grown = batch(ONE, 2, 120, vec![record(1, 105, 120, 10, 14)]);
    commit(&mut committer, vec![late(grown)]);
    assert_eq!((total(&store), ends(&store)), (counters(14), vec![None]));

    // Closed again; an old reading from a copy of the spool is no news, and counts nothing.
    assert!(close_silent(&mut committer, 4_000));
    let (store_of, at) = (&store, Some(unix(2_000)));
    assert_eq!(ends(store_of), [at]);
    let old = Record { flags: RecordFlags::REBASE, ..record(1, 105, 112, 0, 12) };
    commit(&mut committer, vec![late(batch(TWO, 1, 112, vec![old]))]);
    assert_eq!((total(&store), ends(&store)), (counters(14), vec![at]));

    // What it counted comes from its rows now, since there were two epochs.
    close_silent(&mut committer, 8_000);
    assert_eq!(committer.counter().entries(), 0);
    let last = ended(Record { flags: RecordFlags::REBASE, ..record(1, 105, 130, 0, 20) });
    let mut frame = batch(TWO, 2, 130, vec![last]);
    frame.received = unix(9_000);
    commit(&mut committer, vec![frame]);
    assert_eq!((total(&store), ends(&store)), (counters(20), vec![Some(unix(9_000))]));
    assert_eq!(store.contents().observers.len(), 1);
}

#[test]
fn a_restart_takes_no_living_entry_for_silent() {
    let store = store();
    let mut committer = start(&store, 0);
    commit(&mut committer, vec![batch(ONE, 1, 110, vec![record(1, 105, 110, 0, 10)])]);
    commit(&mut committer, vec![batch(ONE, 2, 3_000, vec![record(1, 105, 3_000, 10, 11)])]);
    commit(&mut committer, vec![gap(ONE, 3, 3, 3_500)]);
    // It was seen first long ago; its node was heard of at 3002.
    let mut committer = start(&store, 3_600);
    assert!(!close_silent(&mut committer, 4_002));
    assert!(close_silent(&mut committer, 4_003));
    assert_eq!(ends(&store), [Some(unix(3_002))]);
}

#[test]
fn closing_survives_a_store_that_fails() {
    for fault in [Fault::Unavailable, Fault::LostCommit, Fault::KeptCommit, Fault::KeptAndSilent] {
        let store = store();
        let mut committer = start(&store, 0);
        commit(&mut committer, vec![batch(ONE, 1, 110, vec![record(1, 105, 110, 0, 10)])]);
        store.inject([fault]);
        assert!(committer.look_after(unix(1_200)));
        // A frame that arrives meanwhile waits, and opens it again.
        let frame = batch(ONE, 2, 120, vec![record(1, 105, 120, 10, 14)]);
        let mut work = Work { todo: vec![frame], ..Work::default() };
        let stopped = ready(committer.run(&mut work));
        assert!(matches!(stopped, Err(Stop::Away(_))), "{fault:?}: {stopped:?}");
        assert!(work.done.is_empty() && committer.look_after(unix(1_300)));
        ready(committer.run(&mut work)).unwrap();
        assert_eq!((total(&store), ends(&store)), (counters(14), vec![None]), "{fault:?}");
    }
}

#[test]
fn a_late_reading_of_an_ended_entry_does_not_make_memory_forget_the_present() {
    let store = store();
    let mut committer = start(&store, 0);
    commit(&mut committer, vec![batch(ONE, 1, 100, vec![])]);
    let entry = ended(record(1, 105, 110, 0, 10));
    commit(&mut committer, vec![batch(ONE, 2, 110, vec![entry])]);
    committer.look_after(unix(5_000));
    // A copy of its spool tells it again; an hour later memory is cleared of it once more.
    commit(
        &mut committer,
        vec![Frame { received: unix(5_001), ..batch(TWO, 1, 110, vec![entry]) }],
    );
    commit(&mut committer, vec![batch(ONE, 3, 5_100, vec![])]);
    committer.look_after(unix(5_200));
    assert_eq!(committer.counter().entries(), 1);
    commit(&mut committer, vec![batch(ONE, 4, 8_600, vec![])]);
    committer.look_after(unix(8_700));
    assert_eq!(committer.counter().entries(), 0);
    // An entry born now is known to be new: the store need not be asked, and it is away.
    store.leave_unanswered(1);
    commit(&mut committer, vec![batch(ONE, 5, 8_710, vec![record(2, 8_705, 8_710, 0, 1)])]);
    assert_eq!(total(&store), counters(11));
}
