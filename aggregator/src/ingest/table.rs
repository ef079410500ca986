//! Who is connected: one live session a node. A pure core: no I/O, `now` an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use flow::{Epoch, NodeName};

/// One session, for as long as this process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The live sessions by node.
#[derive(Debug)]
pub struct SessionTable {
    max_nodes: usize,
    silence: Duration,
    live: HashMap<NodeName, Live>,
}

#[derive(Debug)]
struct Live {
    id: SessionId,
    epoch: Epoch,
    heard: Instant,
}

/// How a session was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The node had none.
    Fresh,
    /// It takes the place of this one, which must end before anything else happens.
    Replaces(SessionId),
}

/// Why a session was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// Another epoch of this name is connected.
    #[error(
        "another node with this name is connected (epoch {epoch}, last heard {} s ago): is its \
         disk or its certificate a copy? Give one of them another name; this one may come in once \
         the other is silent for {} s", .heard_ago.as_secs(), .silence.as_secs()
    )]
    NameInUse {
        /// Its epoch.
        epoch: Epoch,
        /// When it was last heard.
        heard_ago: Duration,
        /// How long it must be silent.
        silence: Duration,
    },
    /// The table is full.
    #[error("this aggregator takes {max} nodes at most and has as many; raise ingest.max_nodes")]
    TooManyNodes {
        /// The bound.
        max: usize,
    },
}

impl SessionTable {
    /// An empty table for at most `max_nodes`; a session of another epoch is replaced once it is
    /// silent for `silence`.
    #[must_use]
    pub fn new(max_nodes: usize, silence: Duration) -> Self {
        Self { max_nodes, silence, live: HashMap::new() }
    }

    /// Lets a session in: the first of its name, a newer one of the same epoch (the older is a
    /// connection that the node has given up), or one of another epoch when the older is silent.
    ///
    /// # Errors
    /// When another epoch is alive, or there are too many nodes.
    pub fn admit(
        &mut self,
        now: Instant,
        node: &NodeName,
        epoch: Epoch,
        id: SessionId,
    ) -> Result<Admission, NotAdmitted> {
        let full = self.live.len() >= self.max_nodes;
        let fresh = Live { id, epoch, heard: now };
        let Some(live) = self.live.get_mut(node) else {
            if full {
                return Err(NotAdmitted::TooManyNodes { max: self.max_nodes });
            }
            self.live.insert(node.clone(), fresh);
            return Ok(Admission::Fresh);
        };
        let heard_ago = now.saturating_duration_since(live.heard);
        if live.epoch != epoch && heard_ago < self.silence {
            let (epoch, silence) = (live.epoch, self.silence);
            return Err(NotAdmitted::NameInUse { epoch, heard_ago, silence });
        }
        let old = std::mem::replace(live, fresh);
        Ok(Admission::Replaces(old.id))
    }

    /// The node was heard on session `id`.
    pub fn heard(&mut self, now: Instant, node: &NodeName, id: SessionId) {
        if let Some(live) = self.live.get_mut(node).filter(|live| live.id == id) {
            live.heard = now;
        }
    }

    /// Session `id` has ended. Nothing happens where a newer one has taken its place.
    pub fn leave(&mut self, node: &NodeName, id: SessionId) {
        if self.live.get(node).is_some_and(|live| live.id == id) {
            self.live.remove(node);
        }
    }

    /// Nodes connected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether no node is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(30);

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    #[test]
    fn the_same_epoch_replaces_and_another_one_waits_for_silence() {
        let start = Instant::now();
        let (gw, a, b) = (name("gw"), Epoch([1; 16]), Epoch([2; 16]));
        let mut table = SessionTable::new(10, SILENCE);
        assert_eq!(table.admit(start, &gw, a, SessionId(1)), Ok(Admission::Fresh));
        let second = table.admit(start, &gw, a, SessionId(2));
        assert_eq!(second, Ok(Admission::Replaces(SessionId(1))));
        // The first one's end changes nothing, nor does what it said last.
        table.leave(&gw, SessionId(1));
        table.heard(start + SILENCE * 9, &gw, SessionId(1));
        assert_eq!(table.len(), 1);

        let heard = start + Duration::from_secs(5);
        table.heard(heard, &gw, SessionId(2));
        let early = table.admit(start + SILENCE, &gw, b, SessionId(3)).unwrap_err();
        assert!(matches!(early, NotAdmitted::NameInUse { epoch, .. } if epoch == a), "{early}");
        let late = table.admit(heard + SILENCE, &gw, b, SessionId(4));
        assert_eq!(late, Ok(Admission::Replaces(SessionId(2))));
        table.leave(&gw, SessionId(4));
        assert!(table.is_empty());
    }

    #[test]
    fn a_full_table_takes_no_new_name_but_known_ones() {
        let now = Instant::now();
        let epoch = Epoch([1; 16]);
        let mut table = SessionTable::new(1, SILENCE);
        table.admit(now, &name("a"), epoch, SessionId(1)).unwrap();
        let refused = table.admit(now, &name("b"), epoch, SessionId(2));
        assert_eq!(refused, Err(NotAdmitted::TooManyNodes { max: 1 }));
        assert!(table.admit(now, &name("a"), epoch, SessionId(3)).is_ok());
    }
}
