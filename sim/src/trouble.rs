//! What goes wrong in a world, and how often.

use std::time::Duration;

use aggregator::store::model::Fault;
use flow::UnixNanos;
use node::spool::{Level, MachineId, MemDisk};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::outcome::Kind;
use crate::world::{Setting, World};

/// How often each kind of thing goes wrong, per second and place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    kill_node: f64,
    stop_disk: f64,
    kill_centre: f64,
    disconnect: f64,
    partition: f64,
    commit: f64,
    away: f64,
    wipe: f64,
    rollback: f64,
    relocate: f64,
    twin: f64,
    reboot: f64,
    full: f64,
    zero: f64,
    step_clock: f64,
    pub(crate) torn_sweep: f64,
    pub(crate) switch_stamps: f64,
    pub(crate) save_store: f64,
    pub(crate) restore_store: f64,
    pub(crate) replace_store: f64,
}

impl Faults {
    /// A random selection: most worlds have few kinds of trouble, some have all.
    pub(crate) fn draw(setting: Setting, rng: &mut SmallRng) -> Self {
        let all = rng.random_bool(0.2);
        let mut some = |rate: f64| if all || rng.random_bool(0.35) { rate } else { 0.0 };
        let usual = Self {
            kill_node: some(0.01),
            stop_disk: some(0.01),
            kill_centre: some(0.01),
            disconnect: some(0.03),
            partition: some(0.004),
            commit: some(0.05),
            away: some(0.02),
            wipe: some(0.003),
            rollback: some(0.004),
            relocate: some(0.003),
            twin: some(0.003),
            reboot: some(0.003),
            full: some(0.01),
            zero: some(0.003),
            step_clock: some(0.005),
            torn_sweep: some(0.05),
            ..Self::default()
        };
        if setting == Setting::Usual {
            return usual;
        }
        Self {
            switch_stamps: some(0.01),
            save_store: 0.02,
            restore_store: some(0.005),
            replace_store: some(0.004),
            ..usual
        }
    }
}

/// When the aggregator dies within the coming transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// With a COMMIT whose outcome it does not know.
    InDoubt,
    /// After a COMMIT, before it said a word of it.
    Unsaid,
}

/// A second host of the same name: the first one's place, and when one of the two dies for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Twins {
    pub(crate) pair: [usize; 2],
    pub(crate) until: UnixNanos,
}

/// Hosts with one name at a time; a third one would say nothing new.
const MOST_HOSTS: usize = 6;

impl World {
    /// Whether something of this rate happens now.
    pub(crate) fn chance(&mut self, rate: f64) -> bool {
        rate > 0.0 && self.rng.random_bool(rate)
    }

    fn soon(&mut self, seconds: std::ops::Range<u64>) -> UnixNanos {
        self.now.plus(Duration::from_secs(self.rng.random_range(seconds)))
    }

    /// A second's trouble of one host.
    pub(crate) fn trouble(&mut self, host: usize) {
        let faults = self.faults;
        if self.chance(faults.zero) {
            self.hosts[host].kernel.zero_counters();
            self.happened.note(Kind::Zeroed);
        }
        if self.chance(faults.step_clock) {
            let by = self.rng.random_range(-3_600_000_000_000..3_600_000_000_000);
            self.hosts[host].kernel.step_wall(by);
            self.happened.note(Kind::ClockStepped);
        }
        if self.chance(faults.switch_stamps) {
            self.hosts[host].kernel.switch_stamps();
            self.happened.note(Kind::StampsSwitched);
        }
        if self.chance(faults.full) {
            let room = self.rng.random_range(0..8_000);
            self.hosts[host].disk.set_capacity(Some(room));
            self.hosts[host].full_until = Some(self.soon(1..60));
        }
        if self.hosts[host].full_until.is_some_and(|until| self.now > until) {
            self.hosts[host].disk.set_capacity(None);
            self.hosts[host].full_until = None;
        }
        if self.chance(faults.stop_disk) {
            let steps = self.rng.random_range(0..40);
            self.hosts[host].disk.stop_after(steps);
        }
        if self.chance(faults.kill_node) && self.hosts[host].life.is_some() {
            self.kill(host);
            self.happened.note(Kind::NodeKilled);
        }
        if self.chance(faults.disconnect) {
            self.hang_up_host(host);
        }
        if self.chance(faults.partition) {
            let until = self.soon(10..150);
            self.hosts[host].cut_off_until = Some(until);
            self.hang_up_host(host);
            self.happened.note(Kind::Partitioned);
        }
        self.trouble_state(host);
        self.trouble_machine(host);
    }

    /// Trouble with the state folder.
    fn trouble_state(&mut self, host: usize) {
        let faults = self.faults;
        if self.chance(0.01) {
            self.hosts[host].take_snapshot();
        }
        if self.chance(faults.wipe) {
            self.kill(host);
            self.hosts[host].wipe();
            self.happened.note(Kind::Wiped);
        }
        // Frames of the time before that the aggregator still holds make it worse.
        let worse = if self.centre.is_behind() { 10.0 } else { 1.0 };
        if self.chance(faults.rollback * worse) && self.hosts[host].has_snapshot() {
            self.kill(host);
            self.hosts[host].roll_back();
            self.happened.note(Kind::RolledBack);
        }
    }

    /// Trouble with the machine.
    fn trouble_machine(&mut self, host: usize) {
        let faults = self.faults;
        if self.chance(faults.relocate) {
            self.kill(host);
            self.hosts[host].kernel.reboot(self.now, &mut self.rng);
            let disk = self.hosts[host].disk.copy();
            self.hosts[host].move_to(MachineId(self.rng.random()), disk);
            self.happened.note(Kind::Moved);
        }
        if self.chance(faults.reboot) {
            self.kill(host);
            self.hosts[host].kernel.reboot(self.now, &mut self.rng);
            self.happened.note(Kind::Rebooted);
        }
        let single = |twins: &Twins| !twins.pair.contains(&host);
        let worse = if self.centre.is_behind() { 10.0 } else { 1.0 };
        if self.chance(faults.twin * worse)
            && self.hosts.len() < MOST_HOSTS
            && self.twins.iter().all(single)
        {
            self.twin(host);
        }
    }

    /// A copy of the host's disk starts in another machine, and both run, until one is gone.
    fn twin(&mut self, host: usize) {
        let alike = self.rng.random_bool(0.5);
        let disk = if alike {
            let disk = MemDisk::new();
            disk.restore(&self.hosts[host].disk.snapshot());
            self.happened.note(Kind::TwinnedAlike);
            disk
        } else {
            self.hosts[host].disk.copy()
        };
        disk.set_capacity(None);
        disk.crash(self.rng.random());
        let machine = if alike { self.hosts[host].machine } else { MachineId(self.rng.random()) };
        let (place, now) = (self.hosts.len(), self.now);
        let twin = self.hosts[host].twin(
            u8::try_from(place).unwrap_or(0),
            machine,
            disk,
            now,
            &mut self.rng,
        );
        self.hosts.push(twin);
        let until = self.soon(20..200);
        self.twins.push(Twins { pair: [host, place], until });
        self.happened.note(Kind::Twinned);
    }

    /// Ends the pairs that are due; all of them `at_last`.
    pub(crate) fn part_twins(&mut self, at_last: bool) {
        let now = self.now;
        let due = |twins: &Twins| at_last || now > twins.until;
        let over: Vec<Twins> = self.twins.iter().copied().filter(due).collect();
        for Twins { pair, .. } in over {
            let host = pair[usize::from(self.rng.random_bool(0.3))];
            if pair.iter().all(|host| !self.hosts[*host].gone) {
                self.kill(host);
                self.hosts[host].go();
                self.happened.note(Kind::TwinGone);
            }
        }
        // Pairs stay listed: one host is a twin once.
    }

    /// A second's trouble of the aggregator.
    pub(crate) fn trouble_centre(&mut self) {
        let faults = self.faults;
        if self.chance(faults.commit) {
            let kinds = [Fault::Unavailable, Fault::LostCommit, Fault::KeptCommit];
            let kind = kinds[self.rng.random_range(0..kinds.len())];
            self.centre.store.inject(kind);
            self.happened.note(Kind::CommitFault);
        }
        if self.chance(faults.away) {
            self.centre.store.leave_unanswered(self.rng.random_range(1..60));
            self.happened.note(Kind::StoreAway);
        }
        if self.chance(faults.kill_centre) && self.centre.is_up() {
            match self.rng.random_range(0..3u8) {
                0 => {
                    self.kill_centre();
                    self.happened.note(Kind::CentreKilled);
                }
                1 => {
                    let kinds = [Fault::LostAndSilent, Fault::KeptAndSilent];
                    let kind = kinds[self.rng.random_range(0..kinds.len())];
                    self.centre.store.inject(kind);
                    self.fate = Some(Fate::InDoubt);
                }
                _ => self.fate = Some(Fate::Unsaid),
            }
        }
    }

    /// Counts what the interval that is closed now finds.
    pub(crate) fn note_level(&mut self, host: usize) {
        let level = self.hosts[host].life.as_ref().map(|life| life.spool.level());
        match level {
            Some(Level::Paused) => self.happened.note(Kind::Paused),
            Some(Level::Full) => self.happened.note(Kind::Full),
            Some(Level::Normal) | None => {}
        }
    }
}
