//! Counting and committing on the model store: nothing twice, nothing lost, whatever fails.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aggregator::count::{Body, CounterConfig, Frame, SilenceLimits};
use aggregator::pipeline::commit::{Committer, Done, Fatal, Stop, Work};
use aggregator::store::Store;
use aggregator::store::model::{Contents, Fault, ModelStore};
use aggregator::store::row::{EntryNo, FlowRow, WriterToken};
use flow::{
    Birth, BootId, BootNanos, ClockOffset, Counters, Epoch, NetnsId, NetnsInode, Record,
    RecordFlags, Seq, StoreId,
};
use proptest::prelude::*;

use crate::frames::{BOOT, BOOTED, SECOND, batch, boot, counters, ended, gap, node, record, unix};

pub(crate) const ONE: Epoch = Epoch([1; 16]);
pub(crate) const TWO: Epoch = Epoch([2; 16]);

/// Runs a future that never waits, as those of the model store.
pub(crate) fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the model store never waits"),
    }
}

pub(crate) fn store() -> ModelStore {
    ModelStore::new(StoreId([5; 16]))
}

pub(crate) fn start(store: &ModelStore, now: u64) -> Committer<ModelStore> {
    let config = CounterConfig {
        memory_horizon: Duration::from_secs(600),
        silence: SilenceLimits::uniform(Duration::from_secs(1_000)),
        ..CounterConfig::default()
    };
    ready(Committer::start(store.clone(), WriterToken([1; 16]), config, unix(now))).unwrap()
}

pub(crate) fn commit(committer: &mut Committer<ModelStore>, frames: Vec<Frame>) -> Vec<Done> {
    let mut work = Work { todo: frames, ..Work::default() };
    ready(committer.run(&mut work)).unwrap();
    assert!(work.todo.is_empty());
    work.done
}

fn sums(contents: &Contents) -> BTreeMap<EntryNo, Counters> {
    let mut sums = BTreeMap::new();
    for row in &contents.flows {
        let sum: &mut Counters = sums.entry(row.entry).or_default();
        *sum = sum.plus(row.raw);
        assert_eq!(row.raw, row.counted, "one observer: all of it counts");
    }
    sums
}

pub(crate) fn total(store: &ModelStore) -> Counters {
    store.with_contents(|contents| contents.flows.iter().map(|row| row.counted).sum())
}

fn last_row(store: &ModelStore) -> FlowRow {
    store.with_contents(|contents| *contents.flows.last().unwrap())
}

/// What the clocks may drift apart between the two readings of the first test and their
/// measurements: 100 ppm of 12 s, less 100 ppm of 5 s.
const DRIFT: Duration = Duration::from_micros(700);

#[test]
fn a_flow_from_its_first_record_to_its_last() {
    let store = store();
    let mut committer = start(&store, 0);
    commit(&mut committer, vec![batch(ONE, 1, 100, vec![])]);
    let born = record(1, 105, 110, 0, 10);
    let done = commit(
        &mut committer,
        vec![
            batch(ONE, 2, 110, vec![Record { since: boot(105), ..born }]),
            batch(ONE, 3, 120, vec![ended(record(1, 105, 118, 10, 14))]),
        ],
    );
    assert_eq!(done, vec![Done::Committed { node: node(), epoch: ONE, last: Seq(3) }]);
    let contents = store.contents();
    assert_eq!(contents.flows.len(), 2);
    let (first, last) = (contents.flows[0], contents.flows[1]);
    assert_eq!((first.counted, last.counted), (counters(10), counters(4)));
    assert_eq!((first.since, first.time), (Some(unix(105)), unix(110)));
    // Raised to the end of the reading before, less its uncertainty and plus this one's.
    assert_eq!((last.since, last.time), (Some(unix(110).plus(DRIFT)), unix(118)));
    assert_eq!(first.entry_start, Some(unix(105)), "the interval's clocks confirm the stamp");
    assert_eq!(last.flags >> 16, u32::from(RecordFlags::END.0));
    let observer = contents.observers[&first.entry];
    assert_eq!(observer.start, Some(unix(105)));
    assert_eq!(observer.ended, Some(unix(122)), "receipt of the record that ended it");
    assert_eq!(contents.batches.len(), 3, "an interval without records has its row too");
    assert_eq!(contents.epochs.values().next().unwrap().committed, Seq(3));
}

/// Frames that lean on those before them in every way: entries first seen, grown and ended in them,
/// another namespace, another epoch, a gap.
fn leaning_frames() -> Vec<Frame> {
    let elsewhere = |record: Record| Record {
        netns: NetnsId { inode: NetnsInode(9), ..record.netns },
        ..record
    };
    let (one, two) = (|n, cum| record(n, 105, 110, 0, cum), |n, cum| record(n, 105, 120, 10, cum));
    vec![
        batch(ONE, 1, 110, vec![one(1, 10), one(2, 10), elsewhere(one(3, 10))]),
        batch(ONE, 2, 120, vec![two(1, 15), ended(two(2, 12)), elsewhere(two(3, 11)), one(4, 1)]),
        batch(ONE, 3, 130, vec![ended(record(1, 105, 130, 15, 20)), record(2, 105, 130, 12, 13)]),
        gap(ONE, 4, 5, 140),
        batch(TWO, 1, 150, vec![record(4, 105, 150, 0, 9), elsewhere(record(3, 105, 150, 0, 14))]),
        batch(TWO, 2, 160, vec![ended(record(4, 105, 160, 9, 9)), record(5, 155, 160, 0, 2)]),
    ]
}

/// What is stored of them in transactions of so many rows, with these faults; how many transactions
/// that took is another matter.
fn stored(rows: usize, works: Vec<Vec<Frame>>, faults: &[Fault]) -> Contents {
    let store = store();
    let mut committer = start(&store, 0).with_transactions(rows);
    store.inject(faults.iter().copied());
    for todo in works {
        let mut work = Work { todo, ..Work::default() };
        for _attempt in 0..10 {
            match ready(committer.run(&mut work)) {
                Ok(()) | Err(Stop::Away(_)) => {}
                Err(Stop::Fatal(fatal)) => panic!("{fatal}"),
            }
        }
        assert!(work.todo.is_empty());
    }
    Contents { commits: 0, ..store.contents() }
}

#[test]
fn counting_ahead_changes_nothing() {
    let apart = stored(1, leaning_frames().into_iter().map(|frame| vec![frame]).collect(), &[]);
    assert_eq!((apart.flows.len(), apart.observers.len(), apart.netns.len()), (13, 5, 2));
    let faults = [
        Fault::Unavailable,
        Fault::LostCommit,
        Fault::KeptCommit,
        Fault::LostAndSilent,
        Fault::KeptAndSilent,
    ];
    let difference = |one: &Contents, two: &Contents| {
        let (one, two) = (format!("{one:?}"), format!("{two:?}"));
        let at = one.bytes().zip(two.bytes()).position(|(a, b)| a != b)?;
        let around = at.saturating_sub(300)..at + 60;
        Some(format!("{} where alone {}", &one[around.clone()], &two[around]))
    };
    for rows in [1, 2, 3, 5, 100] {
        for faults in faults.map(|fault| vec![fault; 2]).into_iter().chain([Vec::new()]) {
            let ahead = stored(rows, vec![leaning_frames()], &faults);
            assert_eq!(difference(&ahead, &apart), None, "{rows} rows a transaction, {faults:?}");
        }
    }
}

#[test]
fn the_same_frames_again_add_nothing() {
    let store = store();
    let mut committer = start(&store, 0);
    let frames = vec![batch(ONE, 1, 110, vec![record(1, 105, 110, 0, 10)])];
    commit(&mut committer, frames.clone());
    let mut work = Work { todo: frames, ..Work::default() };
    let again = ready(committer.run(&mut work));
    assert!(matches!(again, Err(Stop::Fatal(Fatal::Count(_)))), "{again:?}");
    assert_eq!(total(&store), counters(10));
}

#[test]
fn a_new_epoch_counts_nothing_twice() {
    let store = store();
    let mut committer = start(&store, 0);
    commit(&mut committer, vec![batch(ONE, 1, 110, vec![record(1, 105, 110, 0, 10)])]);
    // The node lost its spool: it reports the whole of the flow again.
    let again = Record { flags: RecordFlags::REBASE, ..record(1, 105, 120, 0, 14) };
    commit(&mut committer, vec![batch(TWO, 1, 120, vec![again])]);
    assert_eq!(total(&store), counters(14));
    // And once more, with nothing of it in the aggregator's memory.
    let mut committer = start(&store, 130);
    let again = Record { flags: RecordFlags::REBASE, ..record(1, 105, 130, 0, 15) };
    commit(&mut committer, vec![batch(Epoch([3; 16]), 1, 130, vec![again])]);
    assert_eq!(total(&store), counters(15));
}

#[test]
fn a_restart_believes_the_node_only_where_nothing_was_missed() {
    // One epoch without a hole: the node's base is what was counted.
    let store = store();
    commit(&mut start(&store, 0), vec![batch(ONE, 1, 110, vec![record(1, 105, 110, 0, 10)])]);
    commit(&mut start(&store, 115), vec![batch(ONE, 2, 120, vec![record(1, 105, 120, 10, 14)])]);
    assert_eq!(total(&store), counters(14));
    // A frame that was rejected: base says 20, 14 were counted.
    commit(&mut start(&store, 125), vec![gap(ONE, 3, 3, 130)]);
    commit(&mut start(&store, 135), vec![batch(ONE, 4, 140, vec![record(1, 105, 140, 20, 25)])]);
    assert_eq!(total(&store), counters(25));
    // The gap and what comes after it in one set.
    let frames = vec![gap(ONE, 5, 5, 150), batch(ONE, 6, 160, vec![record(1, 105, 160, 30, 31)])];
    commit(&mut start(&store, 145), frames);
    assert_eq!(total(&store), counters(31));
    // Another epoch in between, of a clone say, that reported more than this one knows.
    let clone = vec![batch(TWO, 1, 170, vec![record(1, 105, 170, 0, 40)])];
    commit(&mut start(&store, 165), clone);
    let back = vec![batch(ONE, 7, 180, vec![record(1, 105, 180, 31, 41)])];
    commit(&mut start(&store, 175), back);
    assert_eq!(total(&store), counters(41));
}

#[test]
fn an_end_that_is_told_again_after_a_restart_counts_nothing_twice() {
    let store = store();
    let mut committer = start(&store, 0);
    let first = record(1, 105, 110, 0, 10);
    let last = ended(record(1, 105, 118, 10, 14));
    commit(&mut committer, vec![batch(ONE, 1, 110, vec![first]), batch(ONE, 2, 120, vec![last])]);
    // Both forget: the aggregator what it has counted, the node the baseline of what has ended.
    // Its source tells it of the end once more, in the same epoch.
    let mut committer = start(&store, 125);
    let again = ended(record(1, 105, 118, 0, 14));
    commit(&mut committer, vec![batch(ONE, 3, 130, vec![again])]);
    assert_eq!(total(&store), counters(14));
    assert_eq!(store.contents().observers.len(), 1);
}

#[test]
fn an_entry_that_left_memory_is_found_again() {
    let store = store();
    let mut committer = start(&store, 0);
    let first = ended(record(1, 105, 110, 0, 10));
    commit(&mut committer, vec![batch(ONE, 1, 110, vec![first, record(2, 106, 110, 0, 1)])]);
    committer.look_after(unix(5_000));
    assert_eq!(committer.counter().entries(), 1, "the open one stays");
    // Hours late, from a spool of another epoch: the same entry, more of it.
    let late = Record { flags: RecordFlags::REBASE, ..record(1, 105, 112, 0, 12) };
    let mut frame = batch(TWO, 1, 120, vec![late]);
    frame.received = unix(9_000);
    commit(&mut committer, vec![frame]);
    assert_eq!(total(&store), counters(12).plus(counters(1)));
    assert_eq!(store.contents().observers.len(), 2);
}

#[test]
fn wrong_clocks_do_not_split_an_entry() {
    let store = store();
    let mut committer = start(&store, 0);
    commit(&mut committer, vec![batch(ONE, 1, 100, vec![])]);
    let entry = record(1, 105, 110, 0, 10);
    commit(&mut committer, vec![batch(ONE, 2, 110, vec![ended(entry)])]);
    committer.look_after(unix(5_000));
    // The aggregator's clock goes a day ahead; by it the entry looks younger than all forgotten.
    let mut late = batch(ONE, 3, 111, vec![record(1, 105, 111, 10, 11)]);
    late.clock.as_mut().unwrap().offset = ClockOffset(BOOTED + 86_400 * SECOND as i64);
    late.received = unix(86_400 + 5_000);
    let done = commit(&mut committer, vec![late]);
    assert_eq!(done, vec![Done::Committed { node: node(), epoch: ONE, last: Seq(3) }]);
    assert_eq!(store.contents().observers.len(), 1);
    assert_eq!(total(&store), counters(11));
}

#[test]
fn over_the_bound_the_longest_silent_are_forgotten() {
    let store = store();
    let config = CounterConfig { max_entries: 10, ..CounterConfig::default() };
    let mut committer =
        ready(Committer::start(store.clone(), WriterToken([1; 16]), config, unix(0))).unwrap();
    for port in 1..=20 {
        let seq = u64::from(port);
        let records = vec![record(port, 105, 100 + 10 * seq, 0, 10)];
        commit(&mut committer, vec![batch(ONE, seq, 100 + 10 * seq, records)]);
    }
    committer.look_after(unix(400));
    assert!(committer.counter().entries() <= 10);
    let again = (1..=20).map(|port| record(port, 105, 400, 10, 12)).collect();
    commit(&mut committer, vec![batch(ONE, 21, 400, again)]);
    assert_eq!(store.contents().observers.len(), 20);
    assert!(sums(&store.contents()).values().all(|sum| *sum == counters(12)));
}

#[test]
fn unknown_commits_are_asked_for() {
    for (fault, commits) in
        [(Fault::LostCommit, 1), (Fault::KeptCommit, 1), (Fault::Unavailable, 1)]
    {
        for unanswered in [0, 1, 3] {
            let store = store();
            let mut committer = start(&store, 0);
            store.inject([fault]);
            store.leave_unanswered(unanswered);
            let frames = vec![batch(ONE, 1, 110, vec![record(1, 105, 110, 0, 10)])];
            let mut work = Work { todo: frames, ..Work::default() };
            let mut tries = 0;
            while let Err(stop) = ready(committer.run(&mut work)) {
                assert!(matches!(stop, Stop::Away(_)), "{stop:?}");
                tries += 1;
                assert!(tries < 10);
            }
            assert_eq!(work.done.len(), 1);
            assert_eq!(store.contents().commits, commits);
            assert_eq!(total(&store), counters(10));
            // Memory is what the store is: the next frame follows.
            commit(&mut committer, vec![batch(ONE, 2, 120, vec![record(1, 105, 120, 10, 11)])]);
            assert_eq!(total(&store), counters(11));
        }
    }
}

#[test]
fn a_process_that_was_replaced_stops() {
    let store = store();
    let mut old = start(&store, 0);
    ready(store.take_writer(WriterToken([2; 16]), unix(1))).unwrap();
    let mut work = Work { todo: vec![batch(ONE, 1, 110, vec![])], ..Work::default() };
    assert_eq!(ready(old.run(&mut work)), Err(Stop::Fatal(Fatal::OtherWriter)));
    assert_eq!(store.contents().commits, 0);
}

#[test]
fn a_store_that_was_restored_is_noticed() {
    let store = store();
    let mut committer = start(&store, 0);
    commit(&mut committer, vec![batch(ONE, 1, 110, vec![]), batch(ONE, 2, 120, vec![])]);
    // The database behind the running process becomes an older one.
    let mut stale = start(&ModelStore::new(StoreId([5; 16])), 0);
    std::mem::swap(&mut stale, &mut committer);
    let other = start(&store, 0);
    drop(other);
    let mut work = Work { todo: vec![batch(ONE, 1, 110, vec![])], ..Work::default() };
    // `committer` now has an empty memory and an empty store; `stale` has both full.
    assert!(ready(committer.run(&mut work)).is_ok());
    let mut work = Work { todo: vec![batch(ONE, 1, 110, vec![])], ..Work::default() };
    assert!(matches!(ready(stale.run(&mut work)), Err(Stop::Fatal(_))));
}

#[test]
fn a_bad_frame_is_found_and_the_others_go_on() {
    let store = store();
    let mut committer = start(&store, 0);
    // Beyond what `Frame::check` looks at when it is called: the store is the last line.
    let bad = Record {
        cum: Counters::new(u64::MAX, 0, 0, 0),
        delta: Counters::ZERO,
        ..record(9, 105, 110, 0, 0)
    };
    let frames = vec![
        batch(ONE, 1, 110, vec![record(1, 105, 110, 0, 10)]),
        batch(TWO, 1, 110, vec![record(2, 105, 110, 0, 10)]),
        batch(ONE, 2, 120, vec![bad]),
        batch(ONE, 3, 130, vec![record(1, 105, 130, 10, 99)]),
        batch(TWO, 2, 130, vec![record(2, 105, 130, 10, 20)]),
    ];
    assert!(frames[2].check().is_err());
    let done = commit(&mut committer, frames);
    let is = |done: &Done| match done {
        Done::Committed { epoch, last, .. } => ("committed", *epoch, *last),
        Done::Rejected { epoch, seq, reason, .. } => {
            assert!(reason.contains("2^63"), "{reason}");
            ("rejected", *epoch, *seq)
        }
        Done::Later { epoch, seq, .. } => ("later", *epoch, *seq),
    };
    assert_eq!(
        done.iter().map(is).collect::<Vec<_>>(),
        vec![
            ("committed", ONE, Seq(1)),
            ("committed", TWO, Seq(1)),
            ("rejected", ONE, Seq(2)),
            ("later", ONE, Seq(3)),
            ("committed", TWO, Seq(2)),
        ]
    );
    assert_eq!(total(&store), counters(30));
    // The gap takes its place, and what was put off comes again.
    commit(
        &mut committer,
        vec![gap(ONE, 2, 2, 140), batch(ONE, 3, 130, vec![record(1, 105, 130, 10, 99)])],
    );
    assert_eq!(total(&store), counters(20).plus(counters(99)));
}

#[test]
fn times_that_nobody_can_know_are_marked() {
    let store = store();
    let mut committer = start(&store, 0);
    let mut frame = batch(ONE, 1, 110, vec![record(1, 105, 110, 0, 10)]);
    frame.clock = None;
    let Body::Batch { interval, .. } = &mut frame.body else { panic!() };
    interval.clock.synchronised = false;
    interval.clock.wall = unix(100_000);
    commit(&mut committer, vec![frame]);
    let row = last_row(&store);
    assert_eq!((row.time, row.since, row.slack), (unix(112), None, None));
    assert!(RecordFlags(u16::try_from(row.flags >> 16).unwrap()).has(RecordFlags::TIME_UNKNOWN));
    assert_eq!(row.counted, counters(10));
    assert_eq!(row.stray, None);
}

#[test]
fn impossible_times_are_kept_apart_and_counted() {
    let store = store();
    let mut committer = start(&store, 0);
    let ahead = record(1, 105, 110 + 7_200, 0, 10);
    commit(&mut committer, vec![batch(ONE, 1, 110, vec![ahead])]);
    let row = last_row(&store);
    assert_eq!((row.stray, row.time), (Some(unix(112)), unix(7_310)));
    assert_eq!(row.counted, counters(10));
    // What it claims does not disturb the next reading's times.
    commit(&mut committer, vec![batch(ONE, 2, 120, vec![record(1, 105, 120, 10, 12)])]);
    let row = last_row(&store);
    assert_eq!((row.stray, row.since, row.time), (None, Some(unix(110)), unix(120)));
    // And the sum of rows after a restart has both.
    commit(&mut start(&store, 130), vec![gap(ONE, 3, 3, 130)]);
    commit(&mut start(&store, 135), vec![batch(ONE, 4, 140, vec![record(1, 105, 140, 12, 13)])]);
    assert_eq!(total(&store), counters(13));
}

#[test]
fn hostile_records_never_panic() {
    let store = store();
    let mut committer = start(&store, 0);
    let turned = Record { since: boot(500), until: boot(110), ..record(1, 105, 110, 0, 10) };
    let back = Record { cum: Counters::ZERO, delta: counters(10), ..record(1, 105, 112, 0, 0) };
    let end_of_time = Record { until: BootNanos(u64::MAX), ..record(2, 0, 110, 0, 1) };
    let no_start = Record { birth: Birth::Id(7), ..record(3, 105, 110, 0, 1) };
    let mut frame = batch(ONE, 1, 110, vec![turned, back, end_of_time, no_start]);
    frame.clock.as_mut().unwrap().offset = ClockOffset(i64::MIN);
    let other_boot = BootId([9; 16]);
    let Body::Batch { interval, records } = &mut frame.body else { panic!() };
    interval.clock.wall = flow::UnixNanos(i64::MIN);
    records.push(Record { netns: NetnsId { boot: other_boot, ..records[0].netns }, ..records[0] });
    assert_ne!(other_boot, BOOT);
    commit(&mut committer, vec![frame]);
    assert_eq!(total(&store), counters(10).plus(counters(1)).plus(counters(1)).plus(counters(10)));
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// The flow from this port grows; the node reads it, or it ends.
    Grow { port: u16, by: u64, end: bool },
    /// The node sends what it read since its last frame.
    Send,
    /// The node's spool is lost.
    NewEpoch,
    /// A frame is rejected, or cannot be read back: a gap takes its place.
    Lose,
    /// The aggregator dies and starts again.
    Restart,
    /// Time passes; memory is cleared.
    Evict,
    /// The store fails.
    Fail(Fault),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..6u16, 1..1_000u64, prop::bool::weighted(0.1))
            .prop_map(|(port, by, end)| Step::Grow { port, by, end }),
        6 => Just(Step::Send),
        1 => Just(Step::NewEpoch),
        1 => Just(Step::Lose),
        1 => Just(Step::Restart),
        1 => Just(Step::Evict),
        1 => prop::sample::select(vec![Fault::Unavailable, Fault::LostCommit, Fault::KeptCommit])
            .prop_map(Step::Fail),
    ];
    prop::collection::vec(step, 1..120)
}

/// A kernel's entry and what its node last wrote of it.
#[derive(Clone, Debug)]
struct Entry {
    start: u64,
    cum: u64,
    base: u64,
    ended: bool,
    touched: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens, what is stored of each entry is its highest reading delivered.
    #[test]
    fn stored_is_the_highest_reading_delivered(steps in steps()) {
        let store = store();
        let mut committer = start(&store, 0);
        let (mut now, mut epoch, mut seq) = (100u64, 1u8, 0u64);
        let mut entries: BTreeMap<(u16, u64), Entry> = BTreeMap::new();
        let mut delivered: BTreeMap<(u16, u64), u64> = BTreeMap::new();
        for step in steps {
            now += 10;
            match step {
                Step::Grow { port, by, end } => {
                    let key = entries.iter().find(|(k, e)| k.0 == port && !e.ended).map(|(k, _)| *k);
                    let key = key.unwrap_or((port, now));
                    let entry = entries.entry(key).or_insert(
                        Entry { start: now, cum: 0, base: 0, ended: false, touched: true });
                    entry.cum += by;
                    entry.ended = end;
                    entry.touched = true;
                }
                Step::Send | Step::Lose => {
                    seq += 1;
                    let id = Epoch([epoch; 16]);
                    let mut records = Vec::new();
                    for ((port, start), entry) in &mut entries {
                        if !entry.touched {
                            continue;
                        }
                        entry.touched = false;
                        let one = record(*port, *start, now, entry.base, entry.cum);
                        records.push(if entry.ended { ended(one) } else { one });
                        entry.base = entry.cum;
                        if matches!(step, Step::Send) {
                            delivered.insert((*port, *start), entry.cum);
                        }
                    }
                    let frame = match step {
                        Step::Send => batch(id, seq, now, records),
                        _ => gap(id, seq, seq, now),
                    };
                    let mut work = Work { todo: vec![frame], ..Work::default() };
                    let mut tries = 0;
                    while let Err(stop) = ready(committer.run(&mut work)) {
                        prop_assert!(matches!(stop, Stop::Away(_)), "{:?}", stop);
                        tries += 1;
                        prop_assert!(tries < 200);
                    }
                    prop_assert_eq!(work.done.len(), 1);
                }
                Step::NewEpoch => {
                    epoch += 1;
                    seq = 0;
                    for entry in entries.values_mut() {
                        entry.base = 0;
                        entry.touched = !entry.ended || entry.touched;
                    }
                }
                Step::Restart => committer = start(&store, now),
                Step::Evict => {
                    now += 2_000;
                    committer.look_after(unix(now));
                }
                Step::Fail(fault) => store.inject([fault]),
            }
            let contents = store.contents();
            let starts: BTreeMap<EntryNo, (u16, u64)> = contents
                .observers
                .values()
                .map(|row| {
                    let stamp = row.birth.start().unwrap() - u64::try_from(BOOTED).unwrap();
                    (row.entry, (row.inside.sport, stamp / SECOND))
                })
                .collect();
            prop_assert_eq!(starts.len(), delivered.len());
            for (entry, sum) in sums(&contents) {
                prop_assert_eq!(sum, counters_of(&delivered, starts[&entry]));
            }
        }
        prop_assert!(entries.values().all(|entry| entry.start >= 100));
    }
}

fn counters_of(delivered: &BTreeMap<(u16, u64), u64>, key: (u16, u64)) -> Counters {
    counters(delivered[&key])
}
