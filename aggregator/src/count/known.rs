//! What is known while frames are counted: memory, and over it a change that is being committed.

use flow::{Epoch, NetnsId, NodeName, UnixNanos};

use super::entries::Place;
use super::frame::Frame;
use super::memory::{Change, Entry, EpochState, Memory};
use crate::store::row::{Identity, LastIds, NetnsNo, NodeNo, NodeRow};

/// See the module's text.
#[derive(Clone, Copy)]
pub(super) struct Known<'m> {
    pub(super) memory: &'m Memory,
    /// What memory becomes once the set before is committed.
    pub(super) pending: Option<&'m Change>,
}

/// Where an entry was found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// In memory.
    Known(Place),
    /// In a change: memory does not have it.
    Fresh,
}

impl<'m> Known<'m> {
    pub(super) fn ids(&self) -> LastIds {
        self.pending.map_or(self.memory.ids, |change| change.ids)
    }

    pub(super) fn latest(&self) -> UnixNanos {
        self.pending.map_or(self.memory.latest, |change| change.latest)
    }

    pub(super) fn node(&self, name: &NodeName) -> Option<&'m NodeRow> {
        let pending = self.pending.and_then(|change| change.nodes.get(name));
        pending.or_else(|| self.memory.nodes.get(name)).map(|node| &node.row)
    }

    pub(super) fn epoch(&self, name: &NodeName, epoch: Epoch) -> Option<&'m EpochState> {
        let pending = self.pending.and_then(|change| change.nodes.get(name)?.epochs.get(&epoch));
        pending.or_else(|| self.memory.nodes.get(name)?.epochs.get(&epoch))
    }

    /// A namespace's row, and whether the store may know entries of it that are not here.
    pub(super) fn netns(&self, node: NodeNo, id: NetnsId) -> Option<(NetnsNo, bool)> {
        let key = (node, id);
        let stored = self.memory.netns.get(&key).map(|netns| (*netns, true));
        stored.or_else(|| Some((*self.pending?.netns.get(&key)?, false)))
    }

    pub(super) fn entry(&self, identity: &Identity) -> Option<(Found, Entry)> {
        match self.memory.entries.find(identity) {
            Some(place) => {
                let pending = self.pending.and_then(|change| change.known(place));
                let entry = pending.or_else(|| self.memory.entries.get(place))?;
                Some((Found::Known(place), *entry))
            }
            None => Some((Found::Fresh, *self.pending?.fresh.get(identity)?)),
        }
    }

    /// Whether what the node of `frame` believes was reported of `entry` is what was counted: all
    /// of the node's frames since the entry's first one are of this one epoch, without a hole;
    /// those of `set`, which is being counted, among them.
    ///
    /// Frames of an epoch are committed in order, so a base that the node wrote into a frame is
    /// what it had written into those before. Another epoch, before or in between, may have known
    /// less (its baselines given up) or more (its frames never arrived). And a node gives up the
    /// baseline of an entry whose end it has told: should it tell of that one again, it begins
    /// from zero.
    pub(super) fn base_is_counted(&self, set: &[Frame], frame: &Frame, entry: &Entry) -> bool {
        let broken = |other: &Frame| {
            other.node == frame.node && (other.epoch != frame.epoch || other.is_gap_in_place())
        };
        let whole = |state: &EpochState| state.row.last_gap.is_none_or(|gap| gap < entry.seen);
        entry.ended.is_none()
            && self
                .node(&frame.node)
                .is_some_and(|row| row.epoch == frame.epoch && entry.seen >= row.epoch_since)
            && self.epoch(&frame.node, frame.epoch).is_some_and(whole)
            && !set.iter().any(broken)
    }
}
