//! What happens to the store itself: backups are put back, and another one takes its place.

use std::time::Duration;

use flow::UnixNanos;
use rand::Rng;

use crate::database::{Database, Saved};
use crate::outcome::Kind;
use crate::world::World;

/// Stores that are not in use.
#[derive(Default)]
pub(crate) struct Spare {
    /// The last backup of the one that is.
    saved: Option<Saved>,
    /// The former one, and when somebody puts it back.
    former: Option<(Database, UnixNanos)>,
}

impl World {
    /// A second's trouble with stores.
    pub(crate) fn trouble_stores(&mut self) {
        let faults = self.faults;
        if self.chance(faults.save_store) && self.centre.is_up() {
            self.kill_centre();
            self.spare.saved = Some(self.centre.save());
            self.happened.note(Kind::StoreSaved);
        }
        if self.chance(faults.restore_store)
            && let Some(saved) = self.spare.saved.take()
        {
            self.change_store(|store| {
                store.restore(&saved);
                None
            });
            self.spare.saved = Some(saved);
            self.happened.note(Kind::StoreRestored);
        }
        if self.chance(faults.replace_store) && self.spare.former.is_none() {
            let other = self.centre.store.another(&mut self.rng);
            let former = self.centre.store.clone();
            self.change_store(|_former| Some(other));
            self.spare.saved = None;
            self.happened.note(Kind::StoreReplaced);
            // Half the time it was a mistake.
            if self.rng.random_bool(0.5) {
                let until = self.now.plus(Duration::from_secs(self.rng.random_range(5..100)));
                self.spare.former = Some((former, until));
            }
        }
        let due = |(_, until): &mut (Database, UnixNanos)| self.now > *until;
        if let Some((former, _)) = self.spare.former.take_if(due) {
            self.change_store(|_other| Some(former));
            self.spare.saved = None;
            self.happened.note(Kind::StoreReturned);
        }
    }

    /// The aggregator dies, something happens to its store, and what only the former store had is
    /// forgone.
    fn change_store(&mut self, change: impl FnOnce(&Database) -> Option<Database>) {
        self.kill_centre();
        let before = self.centre.store.book();
        if let Some(other) = change(&self.centre.store) {
            self.centre.store = other;
        }
        let after = self.centre.store.book();
        let frames = &before.frames - &after.frames;
        let drops = &before.drops - &after.drops;
        for host in &mut self.hosts {
            host.forgo(&frames, &drops);
        }
    }

    /// A node has refused to go on with another store; its operator will see.
    pub(crate) fn refuses_store(&mut self, host: usize) {
        self.happened.note(Kind::RefusedOtherStore);
        if self.hosts[host].told_to_accept.is_none() {
            let sees = self.now.plus(Duration::from_secs(self.rng.random_range(1..60)));
            self.hosts[host].told_to_accept = Some(sees);
        }
    }

    /// Starts a node with `--accept-new-store` once its operator has seen that it must be.
    pub(crate) fn accept_store(&mut self, host: usize) {
        let due = |at: &mut UnixNanos| self.now > *at;
        if self.hosts[host].told_to_accept.take_if(due).is_some() {
            self.kill(host);
            self.hosts[host].accepts_new_store = true;
        }
    }
}
