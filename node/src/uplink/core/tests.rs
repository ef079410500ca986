//! The core against an aggregator that delays, repeats, reorders, drops, refuses and restarts.

use std::collections::BTreeMap;

use flow::UnixNanos;
use proptest::prelude::*;
use wire::control::{Ack, Pong, Received, Refused};
use wire::frame::Digest;

use super::*;
use crate::spool::EpochView;

const SECOND: u64 = 1_000_000_000;

fn epoch(n: u8) -> Epoch {
    Epoch([n; 16])
}

fn view(acked: u64, next: u64) -> SpoolView {
    let sending = EpochView {
        epoch: epoch(1),
        acked: Seq(acked),
        next: Seq(next),
        current: true,
        disputed: false,
    };
    SpoolView { current: epoch(1), next: Seq(next), sending, ..SpoolView::default() }
}

fn welcome(store: u8, committed: u64) -> Message {
    Message::Welcome(Welcome {
        store: StoreId([store; 16]),
        committed: Seq(committed),
        max_unreceived: 16,
        max_frame: 4 << 20,
        time: UnixNanos(0),
        extensions: Vec::new(),
    })
}

fn uplink(config: UplinkConfig) -> Uplink {
    Uplink::new(config, BootId([1; 16]))
}

/// Connects and hands over a welcome.
fn greet(core: &mut Uplink, now: BootNanos, view: &SpoolView, message: Message) -> Vec<Order> {
    assert!(matches!(core.step(now, view), Step::Connect { .. }));
    core.connected(view.sending.epoch);
    assert!(!core.is_connected());
    core.message(now, message, view)
}

/// The answer to a ping, over a way that takes no time.
fn pong(ping: &Ping) -> Message {
    let now = UnixNanos(1_700_000_000_000_000_000 + i64::try_from(ping.sent.0).unwrap());
    Message::Pong(Pong { sent: ping.sent, received: now, answered: now, extensions: Vec::new() })
}

/// The frames that would be sent now, one after the other; pings are answered at once.
fn sends(core: &mut Uplink, now: BootNanos, view: &SpoolView) -> Vec<u64> {
    let mut sent = Vec::new();
    loop {
        match core.step(now, view) {
            Step::Ping(ping) => assert_eq!(core.message(now, pong(&ping), view), []),
            Step::Send { epoch, seq } => {
                core.sent(epoch, Span { first: seq, last: seq });
                sent.push(seq.0);
            }
            _ => return sent,
        }
    }
}

fn received(seq: u64) -> Message {
    Message::Received(Received { seq: Seq(seq), extensions: Vec::new() })
}

fn ack(seq: u64) -> Message {
    Message::Ack(Ack { seq: Seq(seq), extensions: Vec::new() })
}

fn nack(seq: u64, verdict: Verdict) -> Message {
    Message::Nack(Nack { seq: Seq(seq), verdict, extensions: Vec::new() })
}

#[test]
fn sending_begins_after_what_is_committed_and_stops_at_the_window() {
    let mut core = uplink(UplinkConfig::default());
    let now = BootNanos(SECOND);
    let spool = view(2, 40);
    let orders = greet(&mut core, now, &spool, welcome(1, 5));
    let remember = Order::Remember(StoreId([1; 16]));
    assert_eq!(orders, [remember, Order::Ack { epoch: epoch(1), seq: Seq(5), digest: None }]);
    assert!(core.is_connected());
    let spool = view(5, 40);
    assert_eq!(sends(&mut core, now, &spool), (6..=21).collect::<Vec<_>>());
    assert_eq!(core.message(now, received(9), &spool), []);
    assert_eq!(core.message(now, received(9), &spool), []);
    assert_eq!(sends(&mut core, now, &spool), [22]);
    let orders = core.message(now, ack(12), &spool);
    assert_eq!(orders, [Order::Ack { epoch: epoch(1), seq: Seq(12), digest: None }]);
    assert_eq!(sends(&mut core, now, &view(12, 40)), [23, 24, 25, 26, 27, 28]);
    assert_eq!(core.totals().resent, 0);
}

#[test]
fn the_window_is_the_narrower_of_both_sides_limits() {
    let now = BootNanos(SECOND);
    let spool = view(0, 40);
    for (ours, sent) in [(3, 3), (16, 16), (1_000, 16)] {
        let config = UplinkConfig { max_unreceived: ours, ..UplinkConfig::default() };
        let mut core = uplink(config);
        greet(&mut core, now, &spool, welcome(1, 0));
        assert_eq!(sends(&mut core, now, &spool).len(), sent);
    }
}

#[test]
fn frames_not_taken_come_again_when_they_are_due() {
    let mut core = uplink(UplinkConfig::default());
    let now = BootNanos(SECOND);
    let spool = view(0, 4);
    greet(&mut core, now, &spool, welcome(1, 0));
    assert_eq!(sends(&mut core, now, &spool), [1, 2, 3]);
    assert_eq!(core.message(now, nack(2, Verdict::RetryAfter(500)), &spool), []);
    assert_eq!(core.message(now, nack(9, Verdict::RetryAfter(0)), &spool), [], "never sent");
    let due = now.plus(Duration::from_millis(500));
    assert_eq!(core.step(now, &spool), Step::Wait { until: due });
    assert_eq!(sends(&mut core, due, &spool), [2]);
    assert_eq!(core.totals().resent, 1);

    let orders = core.message(due, nack(3, Verdict::Reject("no".into())), &spool);
    let reject = Order::Reject { epoch: epoch(1), seq: Seq(3), reason: "no".into() };
    assert_eq!(orders, [reject]);
    let later = due.plus(Duration::from_secs(1));
    assert_eq!(sends(&mut core, later, &spool), [3], "the gap in its place");
    assert_eq!((core.totals().nacks_retry, core.totals().nacks_reject), (1, 1));
}

#[test]
fn no_frame_goes_out_before_the_aggregator_knows_the_clock() {
    let now = BootNanos(SECOND);
    let at = |ms| now.plus(Duration::from_millis(ms));
    let spool = view(0, 2);
    let ping = |core: &mut Uplink, now| match core.step(now, &spool) {
        Step::Ping(ping) => ping,
        step => panic!("{step:?}"),
    };
    let sent = Step::Send { epoch: epoch(1), seq: Seq(1) };
    let mut core = uplink(UplinkConfig::default());
    greet(&mut core, now, &spool, welcome(1, 0));
    let first = ping(&mut core, now);
    assert_eq!(first.offset, None);
    assert_eq!(core.step(now, &spool), Step::Wait { until: at(1_000) });
    // Measured: told at once, and known when that is answered.
    assert_eq!(core.message(at(40), pong(&first), &spool), []);
    let second = ping(&mut core, at(40));
    assert!(second.offset.is_some());
    assert!(matches!(core.step(at(41), &spool), Step::Wait { .. }));
    assert_eq!(core.message(at(60), pong(&first), &spool), []);
    assert!(matches!(core.step(at(60), &spool), Step::Wait { .. }), "the first one again");
    assert_eq!(core.message(at(80), pong(&second), &spool), []);
    assert_eq!(core.step(at(80), &spool), sent);

    // What is known of an earlier session is told with the first ping.
    core.disconnected(at(90), 0);
    greet(&mut core, at(90), &spool, welcome(1, 0));
    let again = ping(&mut core, at(90));
    assert!(again.offset.is_some());
    assert_eq!(core.message(at(130), pong(&again), &spool), []);
    assert_eq!(core.step(at(130), &spool), sent);

    // An aggregator that answers no ping gets its frames all the same.
    let mut core = uplink(UplinkConfig::default());
    greet(&mut core, now, &spool, welcome(1, 0));
    ping(&mut core, now);
    ping(&mut core, at(1_000));
    assert_eq!(core.step(at(1_999), &spool), Step::Wait { until: at(2_000) });
    ping(&mut core, at(2_000));
    assert_eq!(core.step(at(2_000), &spool), sent);
}

#[test]
fn what_an_earlier_session_sent_may_be_acknowledged_but_nothing_unwritten() {
    let mut core = uplink(UplinkConfig::default());
    let now = BootNanos(SECOND);
    let spool = view(0, 40);
    greet(&mut core, now, &spool, welcome(1, 0));
    assert_eq!(core.message(now, ack(30), &spool).len(), 1);
    assert_eq!(sends(&mut core, now, &spool)[0], 31);
    assert_eq!(core.message(now, ack(40), &spool), []);
    assert!(matches!(core.step(now, &spool), Step::Close(Ended::Protocol { .. })));
}

#[test]
fn another_store_is_refused_unless_it_is_accepted() {
    let spool = SpoolView { store: Some(StoreId([1; 16])), ..view(3, 9) };
    let now = BootNanos(SECOND);
    let mut core = uplink(UplinkConfig::default());
    assert_eq!(greet(&mut core, now, &spool, welcome(2, 0)), []);
    let Step::Close(ended) = core.step(now, &spool) else { panic!("still open") };
    assert!(ended.to_string().contains("--accept-new-store"), "{ended}");

    let config = UplinkConfig { accept_new_store: true, ..UplinkConfig::default() };
    let mut core = uplink(config);
    let orders = greet(&mut core, now, &spool, welcome(2, 0));
    let begin = Order::NewEpoch(NewEpochReason::OtherStore);
    assert_eq!(orders, [begin, Order::Remember(StoreId([2; 16]))]);
    assert_eq!(core.step(now, &spool), Step::Close(Ended::EpochDone));
}

#[test]
fn a_store_behind_or_ahead_ends_the_epoch() {
    let now = BootNanos(SECOND);
    let store = Some(StoreId([1; 16]));
    let (committed, acked, next) = (Seq(1), Seq(3), Seq(9));
    let restored = NewEpochReason::StoreRestored { committed, acked };
    let reason = NewEpochReason::RolledBack { committed: Seq(9), next };
    let overtaken = Order::Overtaken { epoch: epoch(1), reason };
    let forgotten = Order::Forgotten { epoch: epoch(1), committed };
    let cases = [
        (true, 1, vec![Order::NewEpoch(restored), forgotten.clone()], false),
        (true, 9, vec![overtaken.clone()], false),
        (true, 8, vec![Order::Ack { epoch: epoch(1), seq: Seq(8), digest: None }], true),
        (false, 1, vec![forgotten], true),
        (false, 9, vec![overtaken], false),
    ];
    for (current, committed, expected, live) in cases {
        let mut spool = SpoolView { store, ..view(3, 9) };
        spool.sending.current = current;
        let mut core = uplink(UplinkConfig::default());
        assert_eq!(greet(&mut core, now, &spool, welcome(1, committed)), expected);
        assert_eq!(core.is_connected(), live, "{expected:?}");
    }
}

#[test]
fn a_number_taken_by_other_bytes_ends_the_epoch() {
    let mut core = uplink(UplinkConfig::default());
    let now = BootNanos(SECOND);
    let spool = view(0, 4);
    let digest = Digest([7; 32]);
    let Message::Welcome(plain) = welcome(1, 1) else { panic!() };
    let known = Message::Welcome(plain.with_committed_digest(Some(digest)));
    let orders = greet(&mut core, now, &spool, known);
    let ack = Order::Ack { epoch: epoch(1), seq: Seq(1), digest: Some(digest) };
    assert!(orders.contains(&ack), "{orders:?}");
    let again = Message::Ack(Ack::of(Seq(1), Some(digest)));
    assert_eq!(core.message(now, again, &spool), [ack]);
    let spool = view(1, 4);
    assert_eq!(sends(&mut core, now, &spool), [2, 3]);
    let taken = Message::Nack(Nack::other_bytes(Seq(2), "taken".into()));
    let reason = NewEpochReason::OtherBytes { seq: Seq(2) };
    assert_eq!(core.message(now, taken, &spool), [Order::Overtaken { epoch: epoch(1), reason }]);
    let sending = EpochView { epoch: epoch(2), current: false, ..spool.sending };
    let retold = SpoolView { sending, ..spool };
    assert_eq!(core.clone().step(now, &retold), Step::Close(Ended::EpochDone));
    // Without room for that nothing more is sent, and the next session begins with it.
    let sending = EpochView { disputed: true, ..spool.sending };
    let stuck = SpoolView { sending, ..spool };
    assert_eq!(core.step(now, &stuck), Step::Close(Ended::Disputed));
    let mut core = uplink(UplinkConfig::default());
    let orders = greet(&mut core, now, &stuck, welcome(1, 1));
    assert!(matches!(orders.last(), Some(Order::Overtaken { .. })), "{orders:?}");
    assert!(!core.is_connected());
}

#[test]
fn a_disputed_epoch_on_a_full_disk_waits_ever_longer() {
    let config = UplinkConfig::default();
    let mut core = uplink(config);
    let mut stuck = view(1, 4);
    stuck.sending.disputed = true;
    let mut now = BootNanos(SECOND);
    let mut pauses = Vec::new();
    for _ in 0..20 {
        let orders = greet(&mut core, now, &stuck, welcome(1, 1));
        assert!(matches!(orders.last(), Some(Order::Overtaken { .. })), "{orders:?}");
        // The disk is full, so the order could not be carried out.
        assert_eq!(core.step(now, &stuck), Step::Close(Ended::Disputed));
        core.disconnected(now, 29_999_999_999);
        let Step::Wait { until } = core.step(now, &stuck) else { panic!("no pause") };
        pauses.push(until.since(now));
        now = until;
    }
    assert!(pauses[0] <= config.backoff_first);
    assert_eq!(pauses[19], Duration::from_nanos(29_999_999_999));

    // There is room again: the epoch gets its other name. With that sent, pauses are short again.
    let _ = greet(&mut core, now, &stuck, welcome(1, 1));
    let mut renamed = view(0, 4);
    renamed.sending.epoch = epoch(2);
    assert_eq!(core.step(now, &renamed), Step::Close(Ended::EpochDone));
    core.disconnected(now, 0);
    let _ = greet(&mut core, now, &renamed, welcome(1, 0));
    assert!(core.is_connected());
    core.disconnected(now, 29_999_999_999);
    let Step::Wait { until } = core.step(now, &renamed) else { panic!("no pause") };
    assert!(until.since(now) <= config.backoff_first);
}

#[test]
fn a_drained_epoch_ends_its_session() {
    let mut core = uplink(UplinkConfig::default());
    let now = BootNanos(SECOND);
    let mut spool = view(0, 2);
    spool.sending.current = false;
    greet(&mut core, now, &spool, welcome(1, 0));
    assert_eq!(sends(&mut core, now, &spool), [1]);
    let _ = core.message(now, ack(1), &spool);
    let mut after = view(0, 5);
    after.sending.epoch = epoch(2);
    assert_eq!(core.step(now, &after), Step::Close(Ended::EpochDone));
    core.disconnected(now, u64::MAX);
    assert!(matches!(core.step(now.plus(Duration::from_secs(1)), &after), Step::Connect { .. }));
}

#[test]
fn silence_and_slow_welcomes_end_a_session() {
    let config = UplinkConfig::default();
    let mut core = uplink(config);
    let now = BootNanos(SECOND);
    let spool = view(0, 1);
    assert!(matches!(core.step(now, &spool), Step::Connect { .. }));
    let late = now.plus(config.connect_timeout);
    assert_eq!(core.step(now, &spool), Step::Wait { until: late });
    assert!(matches!(core.step(late, &spool), Step::Close(Ended::NoWelcome { .. })));

    let mut core = uplink(config);
    greet(&mut core, now, &spool, welcome(1, 0));
    let mut pings = 0;
    let mut at = now;
    let ended = loop {
        match core.step(at, &spool) {
            Step::Ping(_) => pings += 1,
            Step::Wait { until } => at = until,
            Step::Close(ended) => break ended,
            step => panic!("{step:?}"),
        }
    };
    assert!(matches!(ended, Ended::Silence { .. }));
    assert_eq!(at, now.plus(config.silence));
    assert_eq!(pings, 6, "four soon, then every ten seconds");
}

#[test]
fn pauses_grow_to_a_bound_and_addresses_take_turns() {
    let config = UplinkConfig { addresses: 3, ..UplinkConfig::default() };
    let mut core = uplink(config);
    let mut now = BootNanos(SECOND);
    let spool = view(0, 1);
    let mut pauses = Vec::new();
    for n in 0..40 {
        assert_eq!(core.step(now, &spool), Step::Connect { address: n % 3 });
        core.disconnected(now, 29_999_999_999);
        let Step::Wait { until } = core.step(now, &spool) else { panic!("no pause") };
        pauses.push(until.since(now));
        now = until;
    }
    assert!(pauses.iter().all(|pause| *pause <= config.backoff_longest));
    assert_eq!(pauses[39], Duration::from_nanos(29_999_999_999));
    assert!(pauses[0] <= config.backoff_first);

    let Step::Connect { address } = core.step(now, &spool) else { panic!("no attempt") };
    core.connected(epoch(1));
    let _ = core.message(now, welcome(1, 0), &spool);
    core.disconnected(now, 0);
    assert_eq!(core.step(now, &spool), Step::Connect { address }, "this one welcomed us");
}

#[test]
fn a_refusal_is_passed_on_in_its_own_words() {
    let mut core = uplink(UplinkConfig::default());
    let now = BootNanos(SECOND);
    let spool = view(0, 1);
    let refused = Refused {
        reason: RefuseReason::NameInUse,
        message: "gw1 is connected from elsewhere".into(),
        extensions: Vec::new(),
    };
    assert_eq!(greet(&mut core, now, &spool, Message::Refused(refused)), []);
    let Step::Close(ended) = core.step(now, &spool) else { panic!("still open") };
    assert!(ended.to_string().contains("gw1 is connected from elsewhere"));
}

/// What happens next in a hostile world.
#[derive(Clone, Debug)]
enum Happening {
    /// This much time passes (ms).
    Time(u64),
    /// The node writes frames.
    Write(u8),
    /// A frame on its way arrives, the n-th of those that do.
    Arrive(usize),
    /// The aggregator commits what it has in order.
    Commit,
    /// An answer on its way arrives, perhaps once more later.
    Answer(usize, bool),
    /// The aggregator puts a frame that it holds off.
    PutOff(usize),
    /// The connection breaks.
    Break,
    /// The aggregator restarts: what was not committed is forgotten.
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => (1..3_000u64).prop_map(Happening::Time),
        2 => (1..8u8).prop_map(Happening::Write),
        6 => (0..64usize).prop_map(Happening::Arrive),
        3 => Just(Happening::Commit),
        6 => (0..64usize, any::<bool>()).prop_map(|(n, twice)| Happening::Answer(n, twice)),
        1 => (0..64usize).prop_map(Happening::PutOff),
        1 => Just(Happening::Break),
        1 => Just(Happening::Restart),
    ]
}

/// A node, an aggregator and the way between them.
struct World {
    core: Uplink,
    now: BootNanos,
    acked: u64,
    next: u64,
    /// Frames on their way.
    frames: Vec<u64>,
    /// Answers on their way.
    answers: Vec<Message>,
    held: BTreeMap<u64, ()>,
    committed: u64,
}

impl World {
    fn new() -> Self {
        let core = uplink(UplinkConfig::default());
        let (now, held) = (BootNanos(SECOND), BTreeMap::new());
        Self { core, now, acked: 0, next: 1, frames: vec![], answers: vec![], held, committed: 0 }
    }

    fn view(&self) -> SpoolView {
        SpoolView { store: Some(StoreId([1; 16])), ..view(self.acked, self.next) }
    }

    /// Lets the core do all it wants to do now.
    fn run(&mut self) {
        loop {
            let view = self.view();
            match self.core.step(self.now, &view) {
                Step::Connect { .. } => {
                    self.core.connected(epoch(1));
                    self.answers.push(welcome(1, self.committed));
                }
                Step::Send { epoch, seq } => {
                    assert!(seq.0 > self.acked && seq.0 < self.next, "{seq} was not there");
                    self.core.sent(epoch, Span { first: seq, last: seq });
                    self.frames.push(seq.0);
                    assert!(self.core.unreceived() <= 16);
                }
                Step::Ping(ping) => self.answers.push(pong(&ping)),
                Step::Close(_) => self.lose_connection(),
                Step::Wait { .. } => return,
            }
        }
    }

    fn lose_connection(&mut self) {
        self.core.disconnected(self.now, 1);
        self.frames.clear();
        self.answers.clear();
        self.held.clear();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Time(ms) => self.now = self.now.plus(Duration::from_millis(ms)),
            Happening::Write(n) => self.next += u64::from(n),
            Happening::Arrive(n) if !self.frames.is_empty() => {
                let seq = self.frames.swap_remove(n % self.frames.len());
                self.held.insert(seq, ());
                self.answers.push(received(seq));
            }
            Happening::Commit => {
                while self.held.remove(&(self.committed + 1)).is_some() {
                    self.committed += 1;
                }
                self.held.retain(|seq, ()| *seq > self.committed);
                self.answers.push(ack(self.committed));
            }
            Happening::Answer(n, twice) if !self.answers.is_empty() => {
                // The control stream keeps the order of `Welcome`; the rest may come in any.
                let first = matches!(self.answers[0], Message::Welcome(_));
                let at = if first { 0 } else { n % self.answers.len() };
                let message = self.answers.remove(at);
                let orders = self.core.message(self.now, message.clone(), &self.view());
                for order in orders {
                    let Order::Ack { seq, .. } = order else { panic!("{order:?}") };
                    assert!(seq.0 <= self.committed, "{seq} is not committed");
                    self.acked = self.acked.max(seq.0);
                }
                if twice && !first {
                    self.answers.push(message);
                }
            }
            Happening::PutOff(n) if !self.held.is_empty() => {
                let seq = *self.held.keys().nth(n % self.held.len()).unwrap();
                self.held.remove(&seq);
                self.answers.push(nack(seq, Verdict::RetryAfter(100)));
            }
            Happening::Break | Happening::Restart => self.lose_connection(),
            Happening::Arrive(_) | Happening::Answer(..) | Happening::PutOff(_) => {}
        }
        self.run();
    }
}

proptest! {
    #[test]
    fn no_frame_is_lost_or_skipped(happenings in prop::collection::vec(happening(), 1..300)) {
        let mut world = World::new();
        for what in happenings {
            world.happen(what);
        }
        // From now on the world is kind: everything must arrive.
        let mut patience = 2_000;
        while world.acked + 1 < world.next {
            patience -= 1;
            prop_assert!(patience > 0, "stuck at {} of {}", world.acked, world.next - 1);
            world.happen(Happening::Time(250));
            while !world.frames.is_empty() {
                world.happen(Happening::Arrive(0));
            }
            world.happen(Happening::Commit);
            while !world.answers.is_empty() {
                world.happen(Happening::Answer(0, false));
            }
        }
        prop_assert_eq!(world.committed, world.next - 1);
    }
}
