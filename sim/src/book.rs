//! What a database holds, as far as a world is judged by it: the same for every kind of database.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::store::model::Contents;
use aggregator::store::row::{
    EntryNo, FrameName, GapRow, NetnsNo, NetnsRow, NodeNo, NodeRow, ObserverRow,
};
use flow::{Counters, EntryId, NodeName};
use wire::frame::Digest;
use wire::gap::GapReason;

use crate::host::DropsTold;

/// An entry of a node.
pub(crate) type Named = (NodeName, EntryId);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Sums of the rows.
    pub(crate) sums: BTreeMap<Named, Counters>,
    /// Rows.
    pub(crate) rows: usize,
    /// Committed batches.
    pub(crate) frames: BTreeSet<(NodeName, [u8; 32])>,
    /// What the committed gaps tell of dropped ends.
    pub(crate) drops: BTreeSet<(NodeName, DropsTold)>,
    /// What does not fit together, if anything.
    pub(crate) broken: Option<&'static str>,
}

/// A row, reduced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) entry: EntryNo,
    pub(crate) node: NodeNo,
    pub(crate) netns: NetnsNo,
    pub(crate) raw: Counters,
    pub(crate) counted: Counters,
}

impl Book {
    /// What the model store holds.
    pub(crate) fn of(contents: &Contents) -> Self {
        let rows = contents.flows.iter().map(|row| Row {
            entry: row.entry,
            node: row.node,
            netns: row.netns,
            raw: row.raw,
            counted: row.counted,
        });
        let nodes: Vec<NodeRow> = contents.nodes.values().cloned().collect();
        let observers: Vec<ObserverRow> = contents.observers.values().copied().collect();
        let frames = contents.batches.iter().map(|row| (row.name, row.digest));
        Self::keep((&nodes, &contents.netns, &observers), rows, frames, &contents.gaps)
    }

    /// Keeps what tables hold.
    pub(crate) fn keep(
        (nodes, netns, observers): (&[NodeRow], &[NetnsRow], &[ObserverRow]),
        rows: impl Iterator<Item = Row>,
        frames: impl Iterator<Item = (FrameName, Digest)>,
        gaps: &[GapRow],
    ) -> Self {
        let mut book = Self::default();
        let names: BTreeMap<NodeNo, &NodeName> =
            nodes.iter().map(|row| (row.node, &row.name)).collect();
        let netns: BTreeMap<NetnsNo, _> = netns.iter().map(|row| (row.netns, row.id)).collect();
        let observers: BTreeMap<EntryNo, &ObserverRow> =
            observers.iter().map(|row| (row.entry, row)).collect();
        for row in rows {
            let place = (names.get(&row.node), netns.get(&row.netns), observers.get(&row.entry));
            let (Some(name), Some(netns), Some(observer)) = place else {
                book.broken = Some("a row without its observer, node or netns");
                continue;
            };
            let (zone, orig, birth) = (observer.zone, observer.inside, observer.birth);
            let entry = EntryId { netns: *netns, zone, orig, birth };
            let sum = book.sums.entry(((*name).clone(), entry)).or_default();
            *sum = sum.plus(row.raw);
            book.rows += 1;
            if row.counted != row.raw {
                book.broken = Some("counted differs from raw with one observer");
            }
        }
        for (frame, digest) in frames {
            match names.get(&frame.node) {
                Some(name) => {
                    book.frames.insert(((*name).clone(), digest.0));
                }
                None => book.broken = Some("a batch without its node"),
            }
        }
        for row in gaps.iter().filter(|row| row.reason == GapReason::DroppedEnds) {
            let Some(name) = names.get(&row.name.node) else {
                book.broken = Some("a gap without its node");
                continue;
            };
            let drops = DropsTold::of(row.name.seq, row.at, row.flows, &row.lost);
            book.drops.insert(((*name).clone(), drops));
        }
        book
    }
}
