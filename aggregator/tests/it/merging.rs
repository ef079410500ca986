//! Flows that several gateways see are counted once, on the model store: whatever order, delay and
//! crashes their frames come with.

use std::sync::Arc;

use aggregator::count::domains::{DomainRule, Domains};
use aggregator::count::{CounterConfig, Frame, MergeSettings};
use aggregator::pipeline::commit::{Committer, Work};
use aggregator::store::model::{Fault, ModelStore};
use aggregator::store::row::WriterToken;
use flow::clock::SessionClock;
use flow::entry::Zone;
use flow::{Birth, ClockOffset, Counters, Record, Tuple};

use crate::counting::{ONE, commit, ready, store};
use crate::frames::{SECOND, batch, boot, counters, ended, record, unix};

/// The frame as another node's.
fn from(node: &str, frame: Frame) -> Frame {
    Frame { node: node.parse().unwrap(), ..frame }
}

/// Translated on its way out: its reply tuple answers another address.
fn translated(record: Record, to: &str) -> Record {
    let outside = Tuple { src: to.parse().unwrap(), ..record.orig };
    Record { reply: outside.inverse(), ..record }
}

/// As seen behind that translation.
fn behind(record: Record, to: &str) -> Record {
    let orig = Tuple { src: to.parse().unwrap(), ..record.orig };
    Record { orig, reply: orig.inverse(), ..record }
}

fn start(store: &ModelStore, now: u64) -> Committer<ModelStore> {
    begin(store, now, CounterConfig::default())
}

fn begin(store: &ModelStore, now: u64, config: CounterConfig) -> Committer<ModelStore> {
    ready(Committer::start(store.clone(), WriterToken([1; 16]), config, unix(now))).unwrap()
}

/// What is counted of everything, less what is taken back; and what is taken back.
fn totals(store: &ModelStore) -> (Counters, Counters) {
    store.with_contents(|contents| {
        let sum = |back: bool| -> Counters {
            let rows = contents.flows.iter().filter(|row| row.is_retraction() == back);
            rows.map(|row| row.counted).sum()
        };
        let (counted, back) = (sum(false), sum(true));
        assert!(!counted.any_below(back), "more is taken back than was counted");
        (counted.above(back), back)
    })
}

fn raw(store: &ModelStore) -> Counters {
    store.with_contents(|contents| contents.flows.iter().map(|row| row.raw).sum())
}

/// The counter's metrics, as they are scraped.
fn metrics(committer: &Committer<ModelStore>) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    committer.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

/// Both gateways' first frames, without flows: their clocks and sweeps are known then.
fn known(committer: &mut Committer<ModelStore>, nodes: &[&str]) {
    let frames = nodes.iter().map(|node| from(node, batch(ONE, 1, 100, vec![]))).collect();
    commit(committer, frames);
}

#[test]
fn two_gateways_that_see_a_flow_count_it_once() {
    let store = store();
    let mut committer = start(&store, 0);
    known(&mut committer, &["gw-1", "gw-2"]);
    for (seq, (base, cum)) in (2..).zip([(0, 10), (10, 25), (25, 40)]) {
        let end = 90 + seq * 10;
        for node in ["gw-1", "gw-2"] {
            let reading = record(1, 105, end, base, cum);
            commit(&mut committer, vec![from(node, batch(ONE, seq, end, vec![reading]))]);
        }
    }
    assert_eq!(totals(&store), (counters(40), Counters::ZERO));
    assert_eq!(raw(&store), counters(40).plus(counters(40)));
    let contents = store.contents();
    let paths: Vec<_> = contents.observers.values().map(|row| row.path).collect();
    assert_eq!(paths[0], paths[1], "one generation of one flow");
}

#[test]
fn switched_off_each_gateway_counts() {
    let store = store();
    let mut committer = begin(&store, 0, CounterConfig { merge: None, ..CounterConfig::default() });
    let reading = || vec![record(1, 105, 110, 0, 10)];
    for node in ["gw-1", "gw-2"] {
        let frames = [batch(ONE, 1, 100, vec![]), batch(ONE, 2, 110, reading())];
        commit(&mut committer, frames.map(|frame| from(node, frame)).into());
    }
    assert_eq!(totals(&store).0, counters(20));
}

#[test]
fn other_domains_are_other_networks() {
    let store = store();
    let site = |name: &str, node: &str| DomainRule {
        name: name.to_owned(),
        nodes: vec![node.parse().unwrap()],
        ..DomainRule::default()
    };
    let domains = Arc::new(Domains::new(vec![site("a", "gw-1"), site("b", "gw-2")]));
    let merge = Some(MergeSettings { domains, ..MergeSettings::default() });
    let mut committer = begin(&store, 0, CounterConfig { merge, ..CounterConfig::default() });
    for node in ["gw-1", "gw-2"] {
        let reading = vec![record(1, 105, 110, 0, 10)];
        let frames = [batch(ONE, 1, 100, vec![]), batch(ONE, 2, 110, reading)];
        commit(&mut committer, frames.map(|frame| from(node, frame)).into());
    }
    assert_eq!(totals(&store).0, counters(20));
}

/// Inner and outer router are counted before the gateway between them tells that both are one.
#[test]
fn a_late_gateway_takes_back_what_was_counted_twice() {
    let store = store();
    let mut committer = start(&store, 0);
    let nodes = ["inner", "outer", "gw"];
    known(&mut committer, &nodes);
    let out = "198.51.100.1";
    let inner = |base, cum, end| record(1, 105, end, base, cum);
    let tell = |committer: &mut Committer<ModelStore>, node, seq, end, record: Record| {
        commit(committer, vec![from(node, batch(ONE, seq, end, vec![record]))]);
    };
    tell(&mut committer, "inner", 2, 110, inner(0, 10, 110));
    tell(&mut committer, "outer", 2, 110, behind(inner(0, 10, 110), out));
    assert_eq!(totals(&store).0, counters(20), "nobody knows yet");
    tell(&mut committer, "gw", 2, 110, translated(inner(0, 10, 110), out));
    assert_eq!(totals(&store), (counters(10), counters(10)));
    // From now on nothing is counted twice.
    tell(&mut committer, "inner", 3, 120, inner(10, 14, 120));
    tell(&mut committer, "outer", 3, 120, behind(inner(10, 14, 120), out));
    tell(&mut committer, "gw", 3, 120, translated(inner(10, 14, 120), out));
    assert_eq!(totals(&store), (counters(14), counters(10)));
    let contents = store.contents();
    let path = |row: &aggregator::store::row::ObserverRow| {
        contents.aliases.get(&row.path).copied().unwrap_or(row.path)
    };
    let mut paths: Vec<_> = contents.observers.values().map(path).collect();
    paths.dedup();
    assert_eq!(paths.len(), 1, "one path is left");
    let back = contents.flows.iter().find(|row| row.is_retraction()).unwrap();
    assert_eq!(back.time, unix(110), "at the time of what it takes back");
    assert_eq!(back.raw, Counters::ZERO);
}

/// A takeover: the second gateway's growth begins when the first one's is over.
#[test]
fn a_flow_that_moves_to_another_gateway_adds_up() {
    let store = store();
    let mut committer = start(&store, 0);
    known(&mut committer, &["gw-1", "gw-2"]);
    let first = vec![from("gw-1", batch(ONE, 2, 110, vec![record(1, 105, 110, 0, 10)]))];
    commit(&mut committer, first);
    let second = Record { since: boot(125), ..record(1, 124, 130, 0, 7) };
    commit(&mut committer, vec![from("gw-2", batch(ONE, 2, 130, vec![second]))]);
    assert_eq!(totals(&store).0, counters(17));
}

/// Everything that happens, with the aggregator killed after every commit: groups are made anew
/// from what is stored.
#[test]
fn a_restart_changes_nothing() {
    let out = "198.51.100.1";
    let frames = || {
        let read = |end, base, cum| record(1, 105, end, base, cum);
        let mut frames: Vec<Frame> =
            ["inner", "outer", "gw"].map(|node| from(node, batch(ONE, 1, 100, vec![]))).into();
        for (seq, (base, cum)) in (2..).zip([(0, 10), (10, 25), (25, 40), (40, 41)]) {
            let end = 90 + seq * 10;
            let last = |record: Record| if cum == 41 { ended(record) } else { record };
            let inner = last(read(end, base, cum));
            frames.push(from("inner", batch(ONE, seq, end, vec![inner])));
            frames.push(from("outer", batch(ONE, seq, end, vec![behind(inner, out)])));
            if seq > 3 {
                // Its first reading holds all growth since the flow's start.
                let mut late = last(read(end, if seq == 4 { 0 } else { base }, cum));
                if seq == 4 {
                    late.since = boot(105);
                }
                frames.push(from("gw", batch(ONE, seq - 2, end, vec![translated(late, out)])));
            }
        }
        frames
    };
    let whole = store();
    let mut committer = start(&whole, 0);
    for frame in frames() {
        commit(&mut committer, vec![frame]);
    }
    assert_eq!(totals(&whole).0, counters(41));
    let broken = store();
    for (at, frame) in frames().into_iter().enumerate() {
        let mut committer = start(&broken, 100);
        let fault = [None, Some(Fault::KeptCommit), Some(Fault::LostCommit)][at % 3];
        broken.inject(fault);
        let mut work = Work { todo: vec![frame], ..Work::default() };
        while ready(committer.run(&mut work)).is_err() {}
        assert!(work.todo.is_empty());
    }
    assert_eq!(totals(&broken).0, counters(41));
    assert_eq!(raw(&broken), raw(&whole));
}

/// The second gateway's frames come when memory has forgotten the first one's flow.
#[test]
fn what_memory_has_forgotten_is_found_by_its_view() {
    let store = store();
    let mut committer = start(&store, 0);
    known(&mut committer, &["gw-1", "gw-2"]);
    let over = |base, cum, end| ended(record(1, 105, end, base, cum));
    commit(&mut committer, vec![from("gw-1", batch(ONE, 2, 110, vec![over(0, 10, 110)]))]);
    let hours = unix(4 * 3_600);
    committer.look_after(hours);
    assert_eq!(committer.counter().entries(), 0);
    let late = Frame { received: hours, ..batch(ONE, 2, 110, vec![over(0, 10, 110)]) };
    commit(&mut committer, vec![from("gw-2", late)]);
    assert_eq!(totals(&store), (counters(10), Counters::ZERO));
}

/// Later than any spool can be: counted as such, and not twice.
#[test]
fn what_is_later_than_the_horizon_is_reported_and_not_doubled() {
    let store = store();
    let mut committer = start(&store, 0);
    known(&mut committer, &["gw-1", "gw-2"]);
    let over = || vec![ended(record(1, 105, 110, 0, 10))];
    commit(&mut committer, vec![from("gw-1", batch(ONE, 2, 110, over()))]);
    let days = unix(9 * 86_400);
    committer.look_after(days);
    let late = Frame { received: days, ..batch(ONE, 2, 110, over()) };
    commit(&mut committer, vec![from("gw-2", late)]);
    assert_eq!(totals(&store), (counters(10), Counters::ZERO));
    let contents = store.contents();
    let strays: Vec<_> = contents.flows.iter().filter(|row| row.stray.is_some()).collect();
    assert_eq!(strays.len(), 1);
    assert_eq!((strays[0].raw, strays[0].stray), (counters(10), Some(days)));
    let text = metrics(&committer);
    assert!(text.contains("findings_total{finding=\"stray\"} 1"), "{text}");
}

#[test]
fn one_gateway_needs_nothing_of_this() {
    let store = store();
    let mut committer = start(&store, 0);
    known(&mut committer, &["gw-1"]);
    let reading = vec![record(1, 105, 110, 0, 10)];
    commit(&mut committer, vec![from("gw-1", batch(ONE, 2, 110, reading))]);
    assert!(!committer.counter().is_merging());
    // The flow was counted before anybody else was there; it is found all the same.
    let reading = vec![record(1, 105, 110, 0, 10)];
    let frames = [batch(ONE, 1, 100, vec![]), batch(ONE, 2, 110, reading)];
    commit(&mut committer, frames.map(|frame| from("gw-2", frame)).into());
    assert!(committer.counter().is_merging());
    assert_eq!(totals(&store), (counters(10), Counters::ZERO));
}

/// One gateway's entries time out between two packets of a flow, the other's does not: its group
/// never ends. More of them than a group takes leave it, also when a restart reads them again.
#[test]
fn a_group_that_never_ends_takes_any_number_of_entries() {
    for restarts in [false, true] {
        let store = store();
        let mut committer = start(&store, 0);
        known(&mut committer, &["short", "long"]);
        let mut passed = 0;
        for generation in 0..200 {
            let (seq, begun) = (generation + 2, 110 + generation * 60);
            let end = begun + 40;
            let short = ended(record(1, begun, end, 0, 3));
            let short = Record { since: boot(begun), ..short };
            let long = record(1, 105, end, passed, passed + 3);
            let long = Record { since: boot(begun - 1), ..long };
            passed += 3;
            commit(&mut committer, vec![from("short", batch(ONE, seq, end, vec![short]))]);
            commit(&mut committer, vec![from("long", batch(ONE, seq, end, vec![long]))]);
            committer.look_after(unix(end));
            assert_eq!(totals(&store).0, counters(passed), "after {generation}");
            if restarts && generation % 45 == 44 {
                committer = start(&store, end);
            }
        }
        // Seven hours later nothing has changed for the one that was there all the time.
        let (groups, entries, _) = committer.counter().merge_size();
        assert!(groups == 1 && entries <= 64, "{groups} {entries}");
    }
}

/// Frames of a domain's gateways wait for each other: nothing is taken back then.
#[test]
fn a_gateway_in_time_leaves_nothing_to_take_back() {
    let store = store();
    let mut committer = start(&store, 0);
    let nodes = ["inner", "outer", "gw"];
    // The second brings merging with it; from the third on all wait.
    known(&mut committer, &nodes);
    let admit = |committer: &mut Committer<ModelStore>, frame: Frame, end: u64| {
        let mut work = Work { arrived: vec![frame], ..Work::default() };
        ready(committer.admit(&mut work, unix(end + 2), false)).unwrap();
        ready(committer.run(&mut work)).unwrap();
        work.done.len()
    };
    for (port, node) in (50..).zip(nodes) {
        let other = vec![record(port, 101, 105, 0, 1)];
        admit(&mut committer, from(node, batch(ONE, 2, 105, other)), 105);
    }
    let out = "198.51.100.1";
    let mut committed = 0;
    for (seq, (base, cum)) in (3..).zip([(0, 10), (10, 25), (25, 40)]) {
        let end = 85 + seq * 10;
        let inner = record(1, 106, end, base, cum);
        let told =
            [("inner", inner), ("outer", behind(inner, out)), ("gw", translated(inner, out))];
        for (node, record) in told {
            committed += admit(&mut committer, from(node, batch(ONE, seq, end, vec![record])), end);
        }
    }
    assert!(committed >= 6 && committer.held().0 >= 3, "each waits for the others' next sweep");
    let mut rest = Work::default();
    ready(committer.admit(&mut rest, unix(135), true)).unwrap();
    ready(committer.run(&mut rest)).unwrap();
    assert_eq!(committer.held().0, 0);
    let others = counters(1).plus(counters(1)).plus(counters(1));
    assert_eq!(totals(&store), (counters(40).plus(others), Counters::ZERO));
    assert!(store.with_contents(|contents| contents.flows.iter().all(|row| !row.is_retraction())));
}

/// A hostile node with a valid certificate: frames of 2,500 entries that all share one view, and
/// none ends.
fn share_one_view(frames: u64) {
    let store = store();
    let mut committer = start(&store, 0);
    known(&mut committer, &["gw-1", "evil"]);
    commit(&mut committer, vec![from("gw-1", batch(ONE, 2, 110, vec![record(3, 105, 110, 0, 1)]))]);
    let records = 2_500_u64;
    for seq in 0..frames {
        let one = |n: u64| {
            let n = seq * records + n;
            let born = Birth::Start(u64::try_from(unix(105).0).unwrap() + n);
            let zone = Zone(u16::try_from(n % 5_000).unwrap());
            Record { birth: born, zone, ..record(1, 105, 110, 0, 10) }
        };
        let frame = batch(ONE, seq + 2, 110, (0..records).map(one).collect());
        commit(&mut committer, vec![from("evil", frame)]);
    }
    let (groups, entries, segments) = committer.counter().merge_size();
    assert_eq!(entries, usize::try_from(frames * records).unwrap() + 1);
    assert!(segments <= entries * 6, "{segments} segments of {entries} entries");
    assert!(groups >= entries / 64, "{groups} groups");
    // Somebody else's flow counts as ever.
    let before = totals(&store).0;
    commit(&mut committer, vec![from("gw-1", batch(ONE, 3, 110, vec![record(2, 105, 110, 0, 7)]))]);
    assert_eq!(totals(&store).0.above(before), counters(7));
}

#[test]
fn entries_without_end_that_share_a_view_are_bounded() {
    share_one_view(20);
}

#[test]
#[ignore = "takes minutes: `cargo xtask nightly` runs it"]
fn a_million_entries_that_share_a_view_are_bounded() {
    share_one_view(400);
}

/// A gateway whose clock is a day off, and one whose records contradict themselves.
#[test]
fn times_that_cannot_be_add_to_nobody_elses() {
    let store = store();
    let mut committer = start(&store, 0);
    known(&mut committer, &["gw-1", "late", "odd"]);
    let honest = |base, cum, end| record(1, 105, end, base, cum);
    let tell = |committer: &mut Committer<ModelStore>, node, frame: Frame| {
        commit(committer, vec![from(node, frame)]);
    };
    tell(&mut committer, "gw-1", batch(ONE, 2, 110, vec![honest(0, 10, 110)]));
    // A day ahead of its receipt: stored apart, and adds only to its own readings.
    let mut ahead = batch(ONE, 2, 110, vec![honest(0, 10, 110)]);
    let day = i64::try_from(86_400 * SECOND).unwrap();
    ahead.clock = ahead
        .clock
        .map(|clock| SessionClock { offset: ClockOffset(clock.offset.0 + day), ..clock });
    tell(&mut committer, "late", ahead);
    assert_eq!(totals(&store).0, counters(10));
    // Begins after it ends; counters that shrink.
    let backward = Record { since: boot(400), ..honest(0, 10, 110) };
    tell(&mut committer, "odd", batch(ONE, 2, 110, vec![backward]));
    tell(&mut committer, "odd", batch(ONE, 3, 120, vec![honest(10, 3, 120)]));
    assert_eq!(totals(&store).0, counters(10));
    tell(&mut committer, "gw-1", batch(ONE, 3, 120, vec![honest(10, 15, 120)]));
    tell(&mut committer, "odd", batch(ONE, 4, 130, vec![honest(3, 15, 130)]));
    assert_eq!(totals(&store), (counters(15), Counters::ZERO));
}

/// Clocks that jump between frames, hours there and back.
#[test]
fn a_jumping_clock_never_counts_twice() {
    let store = store();
    let mut committer = start(&store, 0);
    known(&mut committer, &["gw-1", "gw-2"]);
    let hour = i64::try_from(3_600 * SECOND).unwrap();
    for (seq, jump) in (2..).zip([0, hour, -hour, 0, -hour, hour, 0]) {
        let end = 90 + seq * 10;
        let reading = record(1, 105, end, (seq - 2) * 10, (seq - 1) * 10);
        commit(&mut committer, vec![from("gw-1", batch(ONE, seq, end, vec![reading]))]);
        let mut other = batch(ONE, seq, end, vec![reading]);
        other.clock = other
            .clock
            .map(|clock| SessionClock { offset: ClockOffset(clock.offset.0 + jump), ..clock });
        commit(&mut committer, vec![from("gw-2", other)]);
        let (total, _) = totals(&store);
        let most = counters((seq - 1) * 20);
        assert!(!most.any_below(total) && !total.any_below(counters((seq - 1) * 10)), "{total:?}");
    }
}

/// All that an observer reported is stored, suppressed, or both sides of a retraction.
#[test]
fn what_was_reported_is_counted_or_suppressed() {
    let store = store();
    let mut committer = start(&store, 0);
    known(&mut committer, &["inner", "outer", "gw"]);
    let out = "198.51.100.1";
    let inner = |base, cum, end| record(1, 105, end, base, cum);
    for (seq, (base, cum)) in (2..).zip([(0, 10), (10, 14)]) {
        let end = 90 + seq * 10;
        let told = [
            ("inner", inner(base, cum, end)),
            ("outer", behind(inner(base, cum, end), out)),
            ("gw", translated(inner(base, cum, end), out)),
        ];
        for (node, record) in told {
            commit(&mut committer, vec![from(node, batch(ONE, seq, end, vec![record]))]);
        }
    }
    let text = metrics(&committer);
    let metric = |name: &str| -> u64 {
        let line =
            text.lines().find(|line| line.starts_with(&format!("conntracct_count_{name}_total ")));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    };
    let bytes = |counters: Counters| counters.orig.bytes.get() + counters.reply.bytes.get();
    let (total, back) = totals(&store);
    assert_eq!(metric("bytes") - metric("retracted_bytes"), bytes(total));
    assert_eq!(metric("retracted_bytes"), bytes(back));
    assert_eq!(metric("bytes") + metric("suppressed_bytes"), bytes(raw(&store)));
    assert!(metric("suppressed_packets") > 0 && metric("retractions") > 0);
}
