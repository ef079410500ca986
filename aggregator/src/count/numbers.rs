//! Numbers given to nodes and namespaces that the store does not have yet, and where the sweeps of
//! frames are that are linked but not counted.

use flow::{Epoch, NetnsId, NodeName};
use hashbrown::HashMap;

use super::CountError;
use super::frame::Frame;
use super::memory::{EpochState, Memory};
use crate::store::row::{NetnsNo, NodeNo};

type State = foldhash::fast::RandomState;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    nodes: HashMap<NodeName, NodeNo, State>,
    netns: HashMap<(NodeNo, NetnsId), NetnsNo, State>,
    epochs: HashMap<(NodeName, Epoch), EpochState, State>,
}

impl Numbers {
    /// The number of a node that the store does not have.
    pub(super) fn node(&self, name: &NodeName) -> Option<NodeNo> {
        self.nodes.get(name).copied()
    }

    /// The number of a namespace that the store does not have.
    pub(super) fn netns(&self, node: NodeNo, id: NetnsId) -> Option<NetnsNo> {
        self.netns.get(&(node, id)).copied()
    }
}

impl Memory {
    /// A node's number, given now where it has none.
    pub(super) fn number_node(&mut self, name: &NodeName) -> Result<NodeNo, CountError> {
        let known = self.nodes.get(name).map(|node| node.row.node);
        if let Some(node) = known.or_else(|| self.numbers.node(name)) {
            return Ok(node);
        }
        self.ids.node = super::next_id(self.ids.node, NodeNo::next, "node")?;
        self.numbers.nodes.insert(name.clone(), self.ids.node);
        Ok(self.ids.node)
    }

    /// A namespace's number, given now where it has none, and whether the store may know entries
    /// of it.
    pub(super) fn number_netns(
        &mut self,
        (node, name): (NodeNo, &NodeName),
        id: NetnsId,
    ) -> Result<(NetnsNo, bool), CountError> {
        if let Some(netns) = self.netns.get(&(node, id)) {
            return Ok((*netns, true));
        }
        if let Some(netns) = self.numbers.netns(node, id) {
            return Ok((netns, false));
        }
        self.ids.netns = super::next_id(self.ids.netns, NetnsNo::next, "network namespace")?;
        self.numbers.netns.insert((node, id), self.ids.netns);
        if let Some(merging) = &mut self.merging {
            merging.observe(self.ids.netns, name);
        }
        Ok((self.ids.netns, false))
    }

    /// Where the sweeps of a frame's epoch are, as of the last frame linked.
    pub(super) fn linked_epoch(&mut self, frame: &Frame, node: NodeNo) -> &mut EpochState {
        let key = (frame.node.clone(), frame.epoch);
        let known = self.nodes.get(&frame.node).and_then(|node| node.epochs.get(&frame.epoch));
        let known = known.copied();
        self.numbers.epochs.entry(key).or_insert_with(|| {
            known.unwrap_or_else(|| EpochState::begun(frame, node, frame.received))
        })
    }
}
