//! What a world showed, and what happened in it.

use crate::world::Setting;

/// Something that went wrong, or a way out of it that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node process was killed.
    NodeKilled,
    /// A node's disk stopped in the middle of something, and the node died of it.
    DiskStopped,
    /// The aggregator was killed between transactions.
    CentreKilled,
    /// The aggregator was killed while the outcome of a COMMIT was not known to it.
    CentreKilledInDoubt,
    /// The aggregator was killed after a COMMIT, before anybody heard of it.
    CentreKilledUnsaid,
    /// A connection broke.
    Disconnected,
    /// A node could not reach the aggregator for a while.
    Partitioned,
    /// A COMMIT was refused, lost, or kept without an answer.
    CommitFault,
    /// The store left questions unanswered.
    StoreAway,
    /// A state folder was wiped.
    Wiped,
    /// A state folder went back to an earlier copy.
    RolledBack,
    /// A disk went on in another machine.
    Moved,
    /// A copied disk ran in a second machine beside the first, the same name on both.
    Twinned,
    /// Such a copy that could not be told from the original by machine or folder.
    TwinnedAlike,
    /// One of such a pair died for good.
    TwinGone,
    /// A host rebooted.
    Rebooted,
    /// A disk was found full.
    DiskFull,
    /// An interval was closed with updates paused.
    Paused,
    /// An interval found the spool full.
    Full,
    /// Ends were dropped because no room was left for them.
    EndsDropped,
    /// A gap that tells of dropped ends became durable.
    DropsTold,
    /// Counters were zeroed.
    Zeroed,
    /// A wall clock was stepped.
    ClockStepped,
    /// A sweep could not be read to its end.
    TornSweep,
    /// A frame arrived twice.
    Duplicated,
    /// A frame overtook an earlier one.
    Reordered,
    /// A session was refused because its name was in use.
    NameInUse,
    /// A session took the place of an older one.
    Replaced,
    /// A node gave its epoch up because the aggregator was ahead of it.
    FoundAhead,
    /// A node gave an epoch up because the aggregator had other frames under its numbers.
    FoundOtherBytes,
    /// Frames were told under another epoch's name.
    Retold,
    /// A frame was refused because its number was taken by other bytes.
    RefusedOtherBytes,
    /// An entry was born without a start stamp.
    Unstamped,
    /// Somebody switched time stamps on or off.
    StampsSwitched,
    /// An entry was closed because nothing was heard of it for too long.
    SilentClosed,
    /// An entry that was over grew again.
    Reopened,
    /// The store was backed up.
    StoreSaved,
    /// A backup of the store was put back.
    StoreRestored,
    /// The aggregator was given another store.
    StoreReplaced,
    /// It was given the former one again.
    StoreReturned,
    /// A node gave its epoch up because the store had lost what it acknowledged.
    FoundRestored,
    /// A node sent nothing because another store was behind the aggregator.
    RefusedOtherStore,
    /// A node was told to accept another store, and began a new epoch.
    AcceptedOtherStore,
    /// A frame that a store had lost was still in a spool, and was sent again.
    Regained,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 44] = [
        Self::NodeKilled,
        Self::DiskStopped,
        Self::CentreKilled,
        Self::CentreKilledInDoubt,
        Self::CentreKilledUnsaid,
        Self::Disconnected,
        Self::Partitioned,
        Self::CommitFault,
        Self::StoreAway,
        Self::Wiped,
        Self::RolledBack,
        Self::Moved,
        Self::Twinned,
        Self::TwinnedAlike,
        Self::TwinGone,
        Self::Rebooted,
        Self::DiskFull,
        Self::Paused,
        Self::Full,
        Self::EndsDropped,
        Self::DropsTold,
        Self::Zeroed,
        Self::ClockStepped,
        Self::TornSweep,
        Self::Duplicated,
        Self::Reordered,
        Self::NameInUse,
        Self::Replaced,
        Self::FoundAhead,
        Self::FoundOtherBytes,
        Self::Retold,
        Self::RefusedOtherBytes,
        Self::Unstamped,
        Self::StampsSwitched,
        Self::SilentClosed,
        Self::Reopened,
        Self::StoreSaved,
        Self::StoreRestored,
        Self::StoreReplaced,
        Self::StoreReturned,
        Self::FoundRestored,
        Self::RefusedOtherStore,
        Self::AcceptedOtherStore,
        Self::Regained,
    ];

    /// Whether it happens only where stores and stamps change ([`crate::Setting::Changing`]).
    #[must_use]
    pub const fn is_change(self) -> bool {
        self as usize > Self::Unstamped as usize
    }
}

/// How often each kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened([u64; Kind::ALL.len()]);

impl Default for Happened {
    fn default() -> Self {
        Self([0; Kind::ALL.len()])
    }
}

impl Happened {
    /// It happened.
    pub fn note(&mut self, kind: Kind) {
        self.add(kind, 1);
    }

    /// It happened so many times.
    pub fn add(&mut self, kind: Kind, times: u64) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count += times;
        }
    }

    /// How often.
    #[must_use]
    pub fn times(&self, kind: Kind) -> u64 {
        self.0.get(kind as usize).copied().unwrap_or(0)
    }

    /// Kinds that never happened.
    pub fn never(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| self.times(*kind) == 0)
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for kind in Kind::ALL {
            self.add(kind, other.times(kind));
        }
        self
    }
}

/// What a world showed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Entries that lived.
    pub entries: usize,
    /// Of these, entries whose stored totals had to be, and were, the kernel's.
    pub exact: usize,
    /// Entries whose end nobody could see or keep, or whose counters were zeroed: stored is the
    /// highest reading delivered, and never more than the kernel's.
    pub bounded: usize,
    /// Transactions.
    pub commits: u64,
    /// Rows.
    pub rows: usize,
    /// What went wrong.
    pub happened: Happened,
}

impl Outcome {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            exact: self.exact + other.exact,
            bounded: self.bounded + other.bounded,
            commits: self.commits + other.commits,
            rows: self.rows + other.rows,
            happened: self.happened.plus(&other.happened),
        }
    }
}

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The world's seed and setting: it happens again with them.
    pub seed: u64,
    /// See `seed`.
    pub setting: Setting,
    /// What did not hold.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_place_of_its_own() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        let mut happened = Happened::default();
        happened.note(Kind::Regained);
        assert_eq!(happened.plus(&happened).times(Kind::Regained), 2);
        assert_eq!(happened.never().count(), Kind::ALL.len() - 1);
    }
}
