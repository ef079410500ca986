//! The aggregator of the simulation: sessions, order, counting and commits by its own cores, on a
//! [`Database`].

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator::count::domains::{DomainRule, Domains};
use aggregator::count::{Body, CounterConfig, Frame, MergeSettings, SilenceLimits};
use aggregator::ingest::reorder::{Numbers, Placed, Reorder, ReorderLimits};
use aggregator::ingest::table::{Admission, SessionId, SessionTable};
use aggregator::pipeline::commit::{Committer, Done, Stop, Work};
use aggregator::pipeline::intake::{Intake, Place};
use aggregator::store::row::WriterToken;
use flow::clock::SessionClock;
use flow::{
    BootId, ClockOffset, Counters, EntryId, Epoch, NodeName, Record, RecordFlags, Seq, UnixNanos,
};
use ipnet::IpNet;
use rand::Rng;
use rand::rngs::SmallRng;
use wire::control::{
    Ack, Hello, Message, Nack, Ping, Pong, Received, RefuseReason, Refused, Verdict, Welcome,
};
use wire::frame::{Digest, Kind};
use wire::gap::Gap;

use crate::database::{Database, Saved};
use crate::outcome::{self, Happened};
use crate::world::Setting;

/// Something said on a connection.
pub(crate) type Said = (u64, Message);

/// A reading that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivered {
    pub(crate) entry: EntryId,
    pub(crate) cum: Counters,
    /// Its end, and somebody saw it.
    pub(crate) ended: bool,
}

struct Session {
    node: NodeName,
    epoch: Epoch,
    boot: BootId,
    /// The digest of the last committed frame.
    digest: Option<Digest>,
    clock: Option<SessionClock>,
    reorder: Reorder<Frame>,
    /// It has submitted a frame: what becomes of its epoch's frames is told to it.
    submitted: bool,
}

/// What dies with the process.
struct Running {
    committer: Committer<Database>,
    table: SessionTable,
    sessions: BTreeMap<u64, Session>,
    intake: Intake,
    work: Work,
}

/// The aggregator.
pub(crate) struct Centre {
    pub(crate) store: Database,
    pub(crate) happened: Happened,
    setting: Setting,
    running: Option<Running>,
    zero: Instant,
    begun: UnixNanos,
    /// What the batches said that ever arrived, by digest.
    delivered: HashMap<[u8; 32], Vec<Delivered>>,
}

impl Centre {
    pub(crate) fn new(store: Database, setting: Setting, begun: UnixNanos) -> Self {
        let (happened, zero, delivered) = (Happened::default(), Instant::now(), HashMap::new());
        Self { store, happened, setting, running: None, zero, begun, delivered }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Starts, if the store answers.
    pub(crate) fn start(&mut self, now: UnixNanos, rng: &mut SmallRng) {
        let token = WriterToken(rng.random());
        let memory_horizon = Duration::from_secs(rng.random_range(20..3_600));
        let silence = match self.setting {
            Setting::Usual => SilenceLimits::default(),
            Setting::Changing | Setting::Sqlite => {
                SilenceLimits::uniform(Duration::from_secs(rng.random_range(15..300)))
            }
        };
        let merge = Some(own_addresses());
        let config = CounterConfig { memory_horizon, silence, merge, ..CounterConfig::default() };
        let store = self.store.clone();
        let started = self.store.wait(async {
            store.open().await;
            Committer::start(store.clone(), token, config, now).await
        });
        if let Ok(committer) = started {
            // Small ones, so that frames are often counted ahead of their turn.
            let committer = committer.with_transactions(usize::from(token.0[0] % 64) + 1);
            let table = SessionTable::new(100, Duration::from_secs(30));
            let (sessions, work) = (BTreeMap::new(), Work::default());
            let mut intake = Intake::default();
            for (node, epoch, progress) in committer.counter().all_progress() {
                intake.restore(node, epoch, progress);
            }
            self.running = Some(Running { committer, table, sessions, intake, work });
        }
    }

    /// Dies; every connection is gone.
    pub(crate) fn kill(&mut self) {
        self.running = None;
        self.store.let_go();
    }

    /// Dies, and what it wrote to is copied away.
    pub(crate) fn save(&mut self) -> Saved {
        self.kill();
        self.store.save()
    }

    fn instant(&self, now: UnixNanos) -> Instant {
        let passed = u64::try_from(now.diff(self.begun)).unwrap_or(0);
        self.zero + Duration::from_nanos(passed)
    }

    /// A connection has ended.
    pub(crate) fn hung_up(&mut self, connection: u64) {
        let Some(running) = &mut self.running else { return };
        if let Some(session) = running.sessions.remove(&connection) {
            running.table.leave(&session.node, SessionId(connection));
        }
    }

    /// A control message arrived. Answers, and connections to be closed.
    pub(crate) fn control(
        &mut self,
        connection: u64,
        message: Message,
        now: UnixNanos,
    ) -> (Vec<Said>, Vec<u64>) {
        let instant = self.instant(now);
        let Some(running) = &mut self.running else { return (Vec::new(), vec![connection]) };
        match message {
            Message::Hello(hello) => running.greet(connection, &hello, now, instant),
            Message::Ping(Ping { sent, offset, .. }) => {
                let Some(session) = running.sessions.get_mut(&connection) else {
                    return (Vec::new(), vec![connection]);
                };
                running.table.heard(instant, &session.node, SessionId(connection));
                session.clock = offset.map(|offset| SessionClock {
                    offset: ClockOffset(offset),
                    boot: session.boot,
                    at: sent,
                });
                let (received, answered) = (now, now);
                let pong = Pong { sent, received, answered, extensions: Vec::new() };
                (vec![(connection, Message::Pong(pong))], Vec::new())
            }
            _ => (Vec::new(), vec![connection]),
        }
    }

    /// A data frame arrived.
    pub(crate) fn data(
        &mut self,
        connection: u64,
        frame: &wire::frame::Frame,
        now: UnixNanos,
    ) -> Vec<Said> {
        let instant = self.instant(now);
        let Some(running) = &mut self.running else { return Vec::new() };
        let Some(session) = running.sessions.get_mut(&connection) else { return Vec::new() };
        let Some(frame) = decode(session, frame, now) else { return Vec::new() };
        if let Body::Batch { records, .. } = &frame.body {
            self.delivered
                .entry(frame.digest.0)
                .or_insert_with(|| records.iter().map(Delivered::of).collect());
        }
        let (first, last) = (frame.first, frame.last);
        let say = |seq| Message::Received(Received { seq, extensions: Vec::new() });
        let mut answers = vec![(connection, say(last))];
        match session.reorder.place(instant, Numbers { first, last }, 1, frame) {
            Ok(Placed::Committed) => {
                let seq = session.reorder.last_committed();
                answers.push((connection, ack(seq, session.digest)));
            }
            Ok(Placed::Taken | Placed::Duplicate) => {}
            Err(_overlap) => answers.clear(),
        }
        while let Some(seq) = session.reorder.overflow() {
            answers.push((connection, later(seq)));
        }
        answers
    }

    /// What a batch said that arrived.
    pub(crate) fn delivered(&self, digest: &[u8; 32]) -> Option<&[Delivered]> {
        self.delivered.get(digest).map(Vec::as_slice)
    }

    /// Transactions committed.
    pub(crate) fn commits(&self) -> u64 {
        self.store.commits()
    }

    /// Whether it has sent a COMMIT and does not know what became of it.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.committer.is_in_doubt())
    }

    /// Counts and commits what has arrived. Answers, and whether the process must end.
    pub(crate) fn cycle(&mut self, now: UnixNanos) -> (Vec<Said>, bool) {
        let Some(running) = &mut self.running else { return (Vec::new(), false) };
        let mut said = running.collect();
        let told = |running: &Running| {
            let metrics = running.committer.metrics();
            (metrics.closed(), metrics.reopened())
        };
        let before = told(running);
        let stopped = self.store.wait(running.committer.run(&mut running.work));
        let after = told(running);
        self.happened.add(outcome::Kind::SilentClosed, after.0 - before.0);
        self.happened.add(outcome::Kind::Reopened, after.1 - before.1);
        for done in std::mem::take(&mut running.work.done) {
            running.tell(done, &mut said);
        }
        running.committer.look_after(now);
        (said, matches!(stopped, Err(Stop::Fatal(_))))
    }

    /// Whether it holds frames that it could not commit.
    pub(crate) fn is_behind(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.work.todo.is_empty())
    }

    /// Frames taken and not committed.
    pub(crate) fn backlog(&self) -> usize {
        let Some(running) = &self.running else { return 0 };
        let waiting = running.sessions.values().map(|session| session.reorder.waiting());
        running.work.todo.len() + waiting.sum::<usize>()
    }
}

impl Delivered {
    fn of(record: &Record) -> Self {
        let seen = !record.flags.has(RecordFlags::UNSEEN);
        let ended = record.flags.has(RecordFlags::END) && seen;
        Self { entry: record.entry(), cum: record.cum, ended }
    }
}

impl Running {
    fn greet(
        &mut self,
        connection: u64,
        hello: &Hello,
        now: UnixNanos,
        instant: Instant,
    ) -> (Vec<Said>, Vec<u64>) {
        let Ok(node) = NodeName::new(&hello.node) else { return (Vec::new(), vec![connection]) };
        let epoch = hello.epoch;
        let replaced = match self.table.admit(instant, &node, epoch, SessionId(connection)) {
            Ok(Admission::Fresh) => Vec::new(),
            Ok(Admission::Replaces(SessionId(old))) => {
                self.sessions.remove(&old);
                vec![old]
            }
            Err(refusal) => {
                let message = refusal.to_string();
                let reason = RefuseReason::NameInUse;
                let refused = Refused { reason, message, extensions: Vec::new() };
                return (vec![(connection, Message::Refused(refused))], Vec::new());
            }
        };
        let committed = self.intake.committed(&node, epoch);
        let digest = self.intake.committed_digest(&node, epoch);
        if let Err(refusal) = self.intake.open(&node, epoch, now) {
            let (reason, message) = (RefuseReason::Unavailable, refusal.to_string());
            let refused = Refused { reason, message, extensions: Vec::new() };
            return (vec![(connection, Message::Refused(refused))], replaced);
        }
        let reorder = Reorder::new(committed, ReorderLimits::default());
        let boot = hello.boot;
        let (clock, submitted) = (None, false);
        let session = Session { node, epoch, boot, digest, clock, reorder, submitted };
        self.sessions.insert(connection, session);
        let welcome = Welcome {
            store: self.committer.store_id(),
            committed,
            max_unreceived: 16,
            max_frame: u32::try_from(wire::frame::MAX_FRAME).unwrap_or(u32::MAX),
            time: now,
            extensions: Vec::new(),
        }
        .with_committed_digest(digest);
        (vec![(connection, Message::Welcome(welcome))], replaced)
    }

    /// Takes what is in order from the sessions, as the pipeline's task does.
    fn collect(&mut self) -> Vec<Said> {
        let Self { sessions, intake, work, .. } = self;
        let mut said = Vec::new();
        for (connection, session) in sessions {
            while let Some((_, frame)) = session.reorder.pop() {
                session.submitted = true;
                let (node, epoch, numbers) = (&frame.node, frame.epoch, (frame.first, frame.last));
                let is_gap = matches!(frame.body, Body::Gap(_));
                let answer = match intake.place(node, epoch, numbers, &frame.digest, is_gap) {
                    Place::Next => {
                        intake.accept(node, epoch, frame.last, frame.digest);
                        work.todo.push(frame);
                        continue;
                    }
                    Place::Pending => continue,
                    Place::Committed(seq) => {
                        session.reorder.committed(seq);
                        session.digest = intake.committed_digest(node, epoch);
                        ack(seq, session.digest)
                    }
                    Place::Early => {
                        session.reorder.returned(frame.first);
                        later(frame.first)
                    }
                    Place::OtherBytes | Place::Straddles => {
                        intake.contest(node, epoch);
                        session.reorder.returned(frame.first);
                        Message::Nack(Nack::other_bytes(frame.first, "other bytes".to_owned()))
                    }
                };
                said.push((*connection, answer));
            }
        }
        said
    }

    fn tell(&mut self, done: Done, said: &mut Vec<Said>) {
        let (node, epoch, seq) = match &done {
            Done::Committed { node, epoch, last } => (node, *epoch, *last),
            Done::Rejected { node, epoch, seq, .. } | Done::Later { node, epoch, seq } => {
                (node, *epoch, *seq)
            }
        };
        match &done {
            Done::Committed { last, .. } => self.intake.commit(node, epoch, *last),
            Done::Rejected { seq, .. } => self.intake.give_up(node, epoch, *seq),
            Done::Later { .. } => {}
        }
        let digest = self.intake.committed_digest(node, epoch);
        let of = |session: &Session| {
            session.node == *node && session.epoch == epoch && session.submitted
        };
        let session = self.sessions.iter_mut().find(|(_, session)| of(session));
        let answer = match &done {
            Done::Committed { .. } => ack(seq, digest),
            Done::Later { .. } => later(seq),
            Done::Rejected { reason, .. } => {
                let verdict = Verdict::Reject(reason.clone());
                Message::Nack(Nack { seq, verdict, extensions: Vec::new() })
            }
        };
        let Some((connection, session)) = session else { return };
        match done {
            Done::Committed { .. } => {
                session.reorder.committed(seq);
                session.digest = digest;
            }
            Done::Rejected { .. } | Done::Later { .. } => session.reorder.returned(seq),
        }
        said.push((*connection, answer));
    }
}

fn ack(seq: Seq, digest: Option<Digest>) -> Message {
    Message::Ack(Ack::of(seq, digest))
}

fn later(seq: Seq) -> Message {
    let verdict = Verdict::RetryAfter(1_000);
    Message::Nack(Nack { seq, verdict, extensions: Vec::new() })
}

fn decode(session: &Session, frame: &wire::frame::Frame, received: UnixNanos) -> Option<Frame> {
    let digest = frame.header.digest;
    let (first, last, body) = if frame.header.kind == Kind::BATCH {
        let (header, records) = wire::batch::decode(frame).ok()?;
        let interval = Box::new(header.interval);
        (header.seq, header.seq, Body::Batch { interval, records })
    } else {
        let gap = Gap::decode(frame).ok()?;
        (gap.first, gap.last, Body::Gap(Box::new(gap)))
    };
    let (node, epoch, clock) = (session.node.clone(), session.epoch, session.clock);
    Some(Frame { node, epoch, first, last, digest, received, clock, body })
}

/// Flows are linked and counted as where several hosts see one; but here every host has addresses
/// of its own, a copied machine too.
fn own_addresses() -> MergeSettings {
    let all = |address: IpAddr| IpNet::new_assert(address, 0);
    let private = vec![all(Ipv4Addr::UNSPECIFIED.into()), all(Ipv6Addr::UNSPECIFIED.into())];
    let name = Domains::DEFAULT.to_owned();
    let rule = DomainRule { name, private, ..DomainRule::default() };
    MergeSettings { domains: Arc::new(Domains::new(vec![rule])), ..MergeSettings::default() }
}
