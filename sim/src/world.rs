//! A world: hosts, an aggregator, what is between them, and everything that goes wrong, from one
//! seed. Time is virtual and moves in steps of a second.

use std::collections::BTreeMap;
use std::time::Duration;

use flow::table::TableLimits;
use flow::{NodeName, UnixNanos};
use node::aggregation::AggregationConfig;
use node::spool::{Level, SpoolConfig};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::centre::Centre;
use crate::database::Database;
use crate::host::{Died, Host};
use crate::kernel::Kernel;
use crate::network::Letter;
use crate::outcome::{Happened, Kind, Outcome, Violation};
use crate::sqlite::File;
use crate::stores::Spare;
use crate::trouble::{Fate, Faults, Twins};

/// What changes in a world besides everything that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// One store for ever, and entries with or without time stamps for ever.
    Usual,
    /// Backups of the store are put back, it is replaced by another one, time stamps are switched
    /// on and off, and silent entries are closed after minutes.
    Changing,
    /// As [`Setting::Changing`], on a real SQLite database.
    Sqlite,
}

impl Setting {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Usual, "usual"), (Self::Changing, "changing"), (Self::Sqlite, "sqlite")];
}

/// A whole world.
pub struct World {
    pub(crate) seed: u64,
    pub(crate) setting: Setting,
    pub(crate) spare: Spare,
    pub(crate) rng: SmallRng,
    pub(crate) now: UnixNanos,
    pub(crate) faults: Faults,
    pub(crate) hosts: Vec<Host>,
    pub(crate) twins: Vec<Twins>,
    pub(crate) centre: Centre,
    /// How the aggregator is to die in the next transactions.
    pub(crate) fate: Option<Fate>,
    /// Which host a connection belongs to.
    pub(crate) connections: BTreeMap<u64, usize>,
    pub(crate) next_connection: u64,
    pub(crate) letters: Vec<Letter>,
    pub(crate) delay_ms: u64,
    pub(crate) duplicates: f64,
    pub(crate) happened: Happened,
}

impl World {
    /// A world at its beginning. Seed and setting decide everything that happens in it.
    #[must_use]
    pub fn new(seed: u64, setting: Setting) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let now = UnixNanos(1_760_000_000_000_000_000);
        let timestamps = rng.random_bool(0.8);
        let hosts = (0..rng.random_range(1..4u8)).map(|n| {
            let error = rng.random_range(-2_000_000_000..2_000_000_000);
            let kernel = Kernel::new(n, now, error, timestamps, &mut rng);
            let narrow = rng.random_bool(0.25);
            let budget_bytes = if narrow { rng.random_range(8..24) << 10 } else { 1 << 30 };
            let spool = SpoolConfig {
                budget_bytes,
                segment_bytes: rng.random_range(1_000..20_000).min(budget_bytes / 4),
                checkpoint_bytes: 8 << 10,
                ..SpoolConfig::default()
            };
            let ended = if narrow { rng.random_range(2..8) } else { 100_000 };
            let limits = TableLimits { ended, ..TableLimits::default() };
            let aggregation = AggregationConfig { limits, ..AggregationConfig::default() };
            Host::new(name(n), kernel, spool, aggregation, &mut rng)
        });
        let hosts = hosts.collect();
        let store = Database::model(&mut rng);
        let store = if setting == Setting::Sqlite { Database::Sqlite(File::new()) } else { store };
        let centre = Centre::new(store, setting, now);
        let faults = Faults::draw(setting, &mut rng);
        let (delay_ms, duplicates) = (rng.random_range(0..4_000), rng.random_range(0.0..0.1));
        Self {
            seed,
            setting,
            spare: Spare::default(),
            rng,
            now,
            faults,
            hosts,
            twins: Vec::new(),
            centre,
            fate: None,
            connections: BTreeMap::new(),
            next_connection: 0,
            letters: Vec::new(),
            delay_ms,
            duplicates,
            happened: Happened::default(),
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
        self.heal();
        // An incomplete sweep may be under way; grace for missing ends; drained epochs.
        let mut settled = 0;
        for second in 0..SETTLE_SECONDS {
            self.second(false);
            settled += u32::from(second > 120 && self.is_settled());
            if settled > 20 {
                for host in &mut self.hosts {
                    host.close_books();
                }
                return self.judge();
            }
        }
        Err(self.violation("the cluster did not settle: something is never delivered".to_owned()))
    }

    /// Nothing goes wrong any more.
    fn heal(&mut self) {
        self.faults = Faults::default();
        self.duplicates = 0.0;
        self.fate = None;
        self.part_twins(true);
        for host in &mut self.hosts {
            host.disk.set_capacity(None);
            host.cut_off_until = None;
        }
    }

    fn is_settled(&self) -> bool {
        let settled = |host: &Host| {
            host.gone
                || host.life.as_ref().is_some_and(|life| {
                    life.uplink.is_connected()
                        && life.spool.view().waiting == 0
                        && life.spool.level() == Level::Normal
                        && life.aggregation.table().ends_waiting() == 0
                })
        };
        self.hosts.iter().all(settled) && self.centre.backlog() == 0
    }

    fn second(&mut self, troubled: bool) {
        self.now = self.now.plus(Duration::from_secs(1));
        if !self.centre.is_up() && (!troubled || self.rng.random_bool(0.3)) {
            self.centre.start(self.now, &mut self.rng);
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].gone {
                continue;
            }
            if troubled {
                self.live(host);
                self.trouble(host);
            }
            self.accept_store(host);
            if self.hosts[host].life.is_none() && (!troubled || self.rng.random_bool(0.2)) {
                let started = self.hosts[host].start(self.now, &mut self.rng);
                self.survive(host, started);
            }
            self.work(host);
        }
        if troubled {
            self.part_twins(false);
            self.trouble_centre();
            self.trouble_stores();
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

    /// The node process dies; its host lives on.
    pub(crate) fn kill(&mut self, host: usize) {
        self.hang_up_host(host);
        self.hosts[host].kill(&mut self.rng);
    }

    /// The node dies because its disk has stopped.
    pub(crate) fn stop(&mut self, host: usize) {
        self.kill(host);
        self.happened.note(Kind::DiskStopped);
    }

    pub(crate) fn survive(&mut self, host: usize, done: Result<(), Died>) {
        if done.is_err() {
            self.stop(host);
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
                self.hosts[host].sweep_begin(self.now);
                let readings = self.hosts[host].kernel.dump(0, len / 2);
                self.hosts[host].sweep_some(readings, self.now);
            }
            1 => {
                let Some(begin) = self.hosts[host].sweep_begun() else { return };
                // The table's order may have changed meanwhile: everything is read again, as a
                // kernel under change lists some entries twice.
                let torn = self.chance(self.faults.torn_sweep);
                let from = if torn { len.saturating_sub(3) } else { 0 };
                if torn {
                    self.happened.note(Kind::TornSweep);
                }
                let readings = self.hosts[host].kernel.dump(from, len);
                self.hosts[host].sweep_some(readings, self.now);
                self.note_level(host);
                let now = self.now;
                let ended = self.hosts[host].sweep_end(begin, now, !torn, &mut self.rng);
                self.survive(host, ended);
            }
            _ => {}
        }
    }
}

/// Long enough for backoff, grace for missing ends, and drained epochs.
const SETTLE_SECONDS: u32 = 1_500;

fn name(n: u8) -> NodeName {
    #[expect(clippy::expect_used, reason = "gw and a digit is a legal name")]
    NodeName::new(&format!("gw{n}")).expect("a legal name")
}
