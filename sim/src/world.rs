//! A world: hosts, an aggregator, what is between them, and everything that goes wrong, from one
//! seed. Time is virtual and moves in steps of a second.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aggregator::store::model::{Fault, ModelStore};
use flow::{Counters, EntryId, NodeName, StoreId, UnixNanos};
use node::spool::{Level, MachineId, SpoolConfig};
use node::uplink::Step;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use wire::control::Message;

use crate::centre::Centre;
use crate::host::{Died, Host};
use crate::kernel::Kernel;

/// How often each kind of thing goes wrong, per second and place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The node process dies.
    pub kill_node: f64,
    /// The disk stops in the middle of the next few operations, and the node dies of it.
    pub stop_disk: f64,
    /// The aggregator dies.
    pub kill_centre: f64,
    /// The connection breaks.
    pub disconnect: f64,
    /// A COMMIT fails, or its outcome is not known.
    pub commit: f64,
    /// The store does not answer questions.
    pub away: f64,
    /// The state folder is wiped.
    pub wipe: f64,
    /// The state folder goes back to an earlier copy.
    pub rollback: f64,
    /// The machine is another one: its disk was cloned.
    pub clone: f64,
    /// The host reboots.
    pub reboot: f64,
    /// The disk is full for a while.
    pub full: f64,
    /// Somebody zeroes the counters.
    pub zero: f64,
    /// The wall clock is stepped by up to an hour.
    pub step_clock: f64,
    /// A sweep cannot be read to its end.
    pub torn_sweep: f64,
}

impl Faults {
    /// A random selection: most worlds have few kinds of trouble, some have all.
    fn draw(rng: &mut SmallRng) -> Self {
        let all = rng.random_bool(0.2);
        let mut some = |rate: f64| if all || rng.random_bool(0.35) { rate } else { 0.0 };
        Self {
            kill_node: some(0.01),
            stop_disk: some(0.01),
            kill_centre: some(0.01),
            disconnect: some(0.03),
            commit: some(0.05),
            away: some(0.02),
            wipe: some(0.003),
            rollback: some(0.003),
            clone: some(0.003),
            reboot: some(0.003),
            full: some(0.01),
            zero: some(0.003),
            step_clock: some(0.005),
            torn_sweep: some(0.05),
        }
    }
}

/// What a world showed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Entries that lived.
    pub entries: usize,
    /// Of these, entries whose stored totals had to be, and were, the kernel's.
    pub exact: usize,
    /// Entries whose end nobody could see, or whose frames were on a disk that was lost: stored
    /// is what was delivered last, and never more than the kernel's.
    pub bounded: usize,
    /// Transactions.
    pub commits: u64,
    /// Rows.
    pub rows: usize,
}

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The world's seed: it happens again with it.
    pub seed: u64,
    /// What did not hold.
    pub what: String,
}

enum Payload {
    Up(Message),
    Data(wire::frame::Frame),
    Down(Message),
}

struct Letter {
    at: UnixNanos,
    connection: u64,
    payload: Payload,
}

/// A whole world.
pub struct World {
    seed: u64,
    rng: SmallRng,
    now: UnixNanos,
    faults: Faults,
    hosts: Vec<Host>,
    centre: Centre,
    /// Which host a connection belongs to.
    connections: BTreeMap<u64, usize>,
    next_connection: u64,
    letters: Vec<Letter>,
    delay_ms: u64,
    duplicates: f64,
    snapshots: HashMap<usize, node::spool::memdisk::Snapshot>,
    sweeps: HashMap<usize, UnixNanos>,
    full_until: HashMap<usize, UnixNanos>,
}

impl World {
    /// A world at its beginning.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let now = UnixNanos(1_760_000_000_000_000_000);
        let timestamps = rng.random_bool(0.8);
        let hosts = (0..rng.random_range(1..4u8)).map(|n| {
            let error = rng.random_range(-2_000_000_000..2_000_000_000);
            let kernel = Kernel::new(n, now, error, timestamps, &mut rng);
            let budget_bytes = if rng.random_bool(0.2) { 24 << 10 } else { 1 << 30 };
            let spool = SpoolConfig {
                budget_bytes,
                segment_bytes: rng.random_range(1_000..20_000),
                checkpoint_bytes: 8 << 10,
                ..SpoolConfig::default()
            };
            Host::new(name(n), kernel, spool, &mut rng)
        });
        let hosts = hosts.collect();
        let centre = Centre::new(ModelStore::new(StoreId(rng.random())), now);
        let faults = Faults::draw(&mut rng);
        let (delay_ms, duplicates) = (rng.random_range(0..4_000), rng.random_range(0.0..0.1));
        Self {
            seed,
            rng,
            now,
            faults,
            hosts,
            centre,
            connections: BTreeMap::new(),
            next_connection: 0,
            letters: Vec::new(),
            delay_ms,
            duplicates,
            snapshots: HashMap::new(),
            sweeps: HashMap::new(),
            full_until: HashMap::new(),
        }
    }

    /// Lives through `seconds` of trouble, then heals and settles, and is looked at.
    ///
    /// # Errors
    /// The first property that does not hold.
    pub fn run(mut self, seconds: u32) -> Result<Outcome, Violation> {
        for _ in 0..seconds {
            self.second(true);
        }
        self.faults = Faults::default();
        self.duplicates = 0.0;
        for host in 0..self.hosts.len() {
            self.hosts[host].disk.set_capacity(None);
        }
        // An incomplete sweep may be under way; grace for missing ends; drained epochs.
        let mut settled = 0;
        for second in 0..SETTLE_SECONDS {
            self.second(false);
            settled += u32::from(second > 120 && self.is_settled());
            if settled > 20 {
                return self.judge();
            }
        }
        Err(self.violation("the cluster did not settle: something is never delivered".to_owned()))
    }

    fn is_settled(&self) -> bool {
        let spooled = |host: &Host| {
            host.life.as_ref().is_some_and(|life| {
                life.uplink.is_connected()
                    && life.spool.view().waiting == 0
                    && life.spool.level() == Level::Normal
                    && life.aggregation.table().ends_waiting() == 0
            })
        };
        self.hosts.iter().all(spooled) && self.centre.backlog() == 0
    }

    fn second(&mut self, troubled: bool) {
        self.now = self.now.plus(Duration::from_secs(1));
        if !self.centre.is_up() && (!troubled || self.rng.random_bool(0.3)) {
            self.centre.start(self.now, &mut self.rng);
        }
        for host in 0..self.hosts.len() {
            if troubled {
                self.live(host);
                self.trouble(host);
            }
            if self.hosts[host].life.is_none() && (!troubled || self.rng.random_bool(0.2)) {
                let started = self.hosts[host].start(self.now, &mut self.rng);
                self.survive(host, started);
            }
            self.work(host);
        }
        if troubled {
            self.trouble_centre();
        }
        for _ in 0..3 {
            for host in 0..self.hosts.len() {
                self.pump(host);
            }
            self.deliver();
            self.commit();
        }
    }

    /// What the host's users do.
    fn live(&mut self, host: usize) {
        let (kernel, rng) = (&mut self.hosts[host].kernel, &mut self.rng);
        for _ in 0..rng.random_range(0..4) {
            match rng.random_range(0..10u8) {
                0..=2 if kernel.len() < 40 => kernel.birth(self.now, rng),
                3..=4 => kernel.death(self.now, rng),
                _ => kernel.traffic(rng),
            }
        }
    }

    fn chance(&mut self, rate: f64) -> bool {
        rate > 0.0 && self.rng.random_bool(rate)
    }

    fn trouble(&mut self, host: usize) {
        let faults = self.faults;
        if self.chance(faults.zero) {
            self.hosts[host].kernel.zero_counters();
        }
        if self.chance(faults.step_clock) {
            let by = self.rng.random_range(-3_600_000_000_000..3_600_000_000_000);
            self.hosts[host].kernel.step_wall(by);
        }
        if self.chance(faults.full) {
            let room = self.rng.random_range(0..8_000);
            self.hosts[host].disk.set_capacity(Some(room));
            let until = self.now.plus(Duration::from_secs(self.rng.random_range(1..60)));
            self.full_until.insert(host, until);
        }
        if self.full_until.get(&host).is_some_and(|until| self.now > *until) {
            self.hosts[host].disk.set_capacity(None);
            self.full_until.remove(&host);
        }
        if self.chance(faults.stop_disk) {
            let steps = self.rng.random_range(0..12);
            self.hosts[host].disk.stop_after(steps);
        }
        if self.chance(faults.kill_node) {
            self.kill(host);
        }
        if self.chance(faults.disconnect) {
            self.hang_up_host(host);
        }
        self.trouble_state(host);
    }

    /// Trouble with the state folder and the machine.
    fn trouble_state(&mut self, host: usize) {
        let faults = self.faults;
        if self.chance(0.01) {
            self.snapshots.insert(host, self.hosts[host].disk.snapshot());
        }
        if self.chance(faults.wipe) {
            self.kill(host);
            self.hosts[host].disk = node::spool::MemDisk::new();
            self.hosts[host].lose_uncommitted();
            self.snapshots.remove(&host);
        }
        if self.chance(faults.rollback)
            && let Some(snapshot) = self.snapshots.get(&host)
        {
            let disk = self.hosts[host].disk.clone();
            let snapshot = snapshot.clone();
            self.kill(host);
            disk.restore(&snapshot);
            self.hosts[host].lose_uncommitted();
        }
        if self.chance(faults.clone) {
            self.kill(host);
            self.hosts[host].kernel.reboot(self.now, &mut self.rng);
            self.hosts[host].machine = MachineId(self.rng.random());
            let copy = self.hosts[host].disk.copy();
            self.hosts[host].disk = copy;
            self.snapshots.remove(&host);
        }
        if self.chance(faults.reboot) {
            self.kill(host);
            self.hosts[host].kernel.reboot(self.now, &mut self.rng);
        }
    }

    fn trouble_centre(&mut self) {
        let faults = self.faults;
        if self.chance(faults.commit) {
            let kinds = [Fault::Unavailable, Fault::LostCommit, Fault::KeptCommit];
            let kind = kinds[self.rng.random_range(0..kinds.len())];
            self.centre.store.inject([kind]);
        }
        if self.chance(faults.away) {
            self.centre.store.leave_unanswered(self.rng.random_range(1..5));
        }
        if self.chance(faults.kill_centre) {
            self.kill_centre();
        }
    }

    fn kill_centre(&mut self) {
        self.centre.kill();
        for host in 0..self.hosts.len() {
            self.hang_up_host(host);
        }
    }

    fn kill(&mut self, host: usize) {
        self.hang_up_host(host);
        self.hosts[host].kill(&mut self.rng);
        self.sweeps.remove(&host);
    }

    fn survive(&mut self, host: usize, done: Result<(), Died>) {
        if done.is_err() {
            self.kill(host);
        }
    }

    /// What the node does in a second: events always, a sweep every ten seconds that takes two.
    fn work(&mut self, host: usize) {
        if self.hosts[host].life.is_none() {
            return;
        }
        let most = if self.rng.random_bool(0.1) { 1 } else { usize::MAX };
        let drained = self.hosts[host].drain(self.now, most);
        self.survive(host, drained);
        let second = self.now.get() / 1_000_000_000;
        let len = self.hosts[host].kernel.len();
        match second % 10 {
            0 => {
                self.sweeps.insert(host, self.now);
                self.hosts[host].sweep_begin(self.now);
                let readings = self.hosts[host].kernel.dump(0, len / 2);
                self.hosts[host].sweep_some(readings, self.now);
            }
            1 => {
                let Some(begin) = self.sweeps.remove(&host) else { return };
                // The table's order may have changed meanwhile: everything is read again, as a
                // kernel under change lists some entries twice.
                let torn = self.chance(self.faults.torn_sweep);
                let from = if torn { len.saturating_sub(3) } else { 0 };
                let readings = self.hosts[host].kernel.dump(from, len);
                self.hosts[host].sweep_some(readings, self.now);
                let now = self.now;
                let ended = self.hosts[host].sweep_end(begin, now, !torn, &mut self.rng);
                self.survive(host, ended);
            }
            _ => {}
        }
    }

    /// Does what the uplink says, until it waits.
    fn pump(&mut self, host: usize) {
        for _ in 0..64 {
            let now = self.hosts[host].kernel.boottime(self.now);
            let wall = self.hosts[host].kernel.wall(self.now);
            let Some(life) = &mut self.hosts[host].life else { return };
            let view = life.spool.view();
            match life.uplink.step(now, &view) {
                Step::Wait { .. } => return,
                Step::Connect { .. } => {
                    if !self.centre.is_up() {
                        let pause = self.rng.random();
                        life.uplink.disconnected(now, pause);
                        return;
                    }
                    self.next_connection += 1;
                    let connection = self.next_connection;
                    life.connection = Some(connection);
                    life.uplink.connected(view.sending.epoch);
                    self.connections.insert(connection, host);
                    if let Some(hello) = self.hosts[host].hello() {
                        self.post(connection, Payload::Up(Message::Hello(hello)));
                    }
                }
                Step::Send { epoch, seq } => {
                    let connection = life.connection;
                    match life.spool.frame(epoch, seq, wall) {
                        Ok(Some(stored)) => {
                            life.uplink.sent(epoch, stored.span);
                            if let Some(connection) = connection {
                                self.post(connection, Payload::Data(stored.frame));
                            }
                        }
                        Ok(None) => {
                            self.hang_up_host(host);
                            return;
                        }
                        Err(_stopped) => {
                            self.kill(host);
                            return;
                        }
                    }
                }
                Step::Ping(ping) => {
                    if let Some(connection) = life.connection {
                        self.post(connection, Payload::Up(Message::Ping(ping)));
                    }
                }
                Step::Close(_) => self.hang_up_host(host),
            }
        }
    }

    /// Ends a host's connection, for both sides.
    fn hang_up_host(&mut self, host: usize) {
        let now = self.hosts[host].kernel.boottime(self.now);
        let pause = self.rng.random();
        if let Some(life) = &mut self.hosts[host].life
            && let Some(connection) = life.connection.take()
        {
            life.uplink.disconnected(now, pause);
            self.connections.remove(&connection);
            self.centre.hung_up(connection);
        }
    }

    /// Sends something: late, perhaps twice; control messages stay in order.
    fn post(&mut self, connection: u64, payload: Payload) {
        let data = matches!(payload, Payload::Data(_));
        let delay = Duration::from_millis(match data {
            true => self.rng.random_range(0..=self.delay_ms),
            false => self.delay_ms / 2,
        });
        let at = self.now.plus(delay);
        if let Payload::Data(frame) = &payload
            && self.rng.random_bool(self.duplicates)
        {
            let copy = Payload::Data(frame.clone());
            let at = at.plus(Duration::from_millis(self.delay_ms / 3 + 1));
            self.letters.push(Letter { at, connection, payload: copy });
        }
        self.letters.push(Letter { at, connection, payload });
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (mut due, rest): (Vec<Letter>, Vec<Letter>) =
            std::mem::take(&mut self.letters).into_iter().partition(|letter| letter.at <= now);
        self.letters = rest;
        due.sort_by_key(|letter| letter.at);
        for Letter { connection, payload, .. } in due {
            let Some(&host) = self.connections.get(&connection) else { continue };
            match payload {
                Payload::Up(message) => {
                    let (said, closed) = self.centre.control(connection, message, now);
                    self.answer(said);
                    for connection in closed {
                        if let Some(&host) = self.connections.get(&connection) {
                            self.hang_up_host(host);
                        }
                    }
                }
                Payload::Data(frame) => {
                    let said = self.centre.data(connection, &frame, now);
                    self.answer(said);
                }
                Payload::Down(message) => {
                    let boot = self.hosts[host].kernel.boottime(now);
                    let Some(life) = &mut self.hosts[host].life else { continue };
                    let view = life.spool.view();
                    let orders = life.uplink.message(boot, message, &view);
                    let obeyed = self.hosts[host].obey(orders, now, &mut self.rng);
                    self.survive(host, obeyed);
                }
            }
        }
    }

    fn answer(&mut self, said: Vec<(u64, Message)>) {
        for (connection, message) in said {
            self.post(connection, Payload::Down(message));
        }
    }

    fn commit(&mut self) {
        let (said, committed, fatal) = self.centre.cycle(self.now);
        for (node, epoch, through) in committed {
            for host in self.hosts.iter_mut().filter(|host| host.name == node) {
                host.committed(epoch, through);
            }
        }
        self.answer(said);
        if fatal {
            self.kill_centre();
        }
    }

    fn violation(&self, what: String) -> Violation {
        Violation { seed: self.seed, what }
    }

    /// Compares what is stored with what happened.
    fn judge(&self) -> Result<Outcome, Violation> {
        let contents = self.centre.store.contents();
        let mut stored: HashMap<(NodeName, EntryId), Counters> = HashMap::new();
        let mut outcome =
            Outcome { commits: contents.commits, rows: contents.flows.len(), ..Outcome::default() };
        let namespaces: HashMap<_, _> =
            contents.netns.iter().map(|row| (row.netns, row.id)).collect();
        for row in &contents.flows {
            let observer = contents.observers.get(&row.entry);
            let node = contents.nodes.get(&row.node).map(|node| node.name.clone());
            let netns = namespaces.get(&row.netns).copied();
            let (Some(observer), Some(node), Some(netns)) = (observer, node, netns) else {
                return Err(self.violation("a row without its observer, node or netns".to_owned()));
            };
            let (zone, orig, birth) = (observer.zone, observer.inside, observer.birth);
            let entry = EntryId { netns, zone, orig, birth };
            let sum = stored.entry((node, entry)).or_default();
            *sum = sum.plus(row.raw);
            if row.counted != row.raw {
                return Err(self.violation("counted differs from raw with one observer".to_owned()));
            }
        }
        for host in &self.hosts {
            for (entry, truth) in host.kernel.truth() {
                let got = stored.remove(&(host.name.clone(), *entry)).unwrap_or_default();
                outcome.entries += 1;
                let exact = !truth.zeroed && (!truth.ended || truth.end_seen);
                if exact && got != truth.passed || truth.passed.any_below(got) {
                    let must = if exact { "must equal" } else { "must not exceed" };
                    return Err(self.violation(format!(
                        "{} {entry:?}: stored {got:?} {must} {:?} ({truth:?})",
                        host.name, truth.passed
                    )));
                }
                if exact { outcome.exact += 1 } else { outcome.bounded += 1 }
            }
        }
        match stored.keys().next() {
            Some(ghost) => Err(self.violation(format!("stored, but never lived: {ghost:?}"))),
            None => Ok(outcome),
        }
    }
}

/// Long enough for backoff, grace for missing ends, and drained epochs.
const SETTLE_SECONDS: u32 = 1_500;

fn name(n: u8) -> NodeName {
    #[expect(clippy::expect_used, reason = "gw and a digit is a legal name")]
    NodeName::new(&format!("gw{n}")).expect("a legal name")
}

impl Outcome {
    /// Both together.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            exact: self.exact + other.exact,
            bounded: self.bounded + other.bounded,
            commits: self.commits + other.commits,
            rows: self.rows + other.rows,
        }
    }
}
