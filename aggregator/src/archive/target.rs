//! The store that an import fills: rows get its numbers, and go in a change set at a time.

use std::collections::{HashMap, HashSet};

use flow::{Counters, NetnsId, NodeName, Seq, UnixNanos};
use wire::frame::Digest;

use super::import::{Export, ImportError};
use super::manifest::{Manifest, Part};
use super::record::Record;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::row::{
    ChangeSet, EntryNo, EpochAdvance, EpochRow, Identity, LastIds, Loaded, NetnsNo, NetnsRow,
    NodeNo, NodeRow, ObserverRow, PathNo, WriterToken,
};

/// Rows of a transaction.
const ROWS: usize = 10_000;

/// Entries kept in memory so that they need not be asked for; all are forgotten when they are more.
const KNOWN: usize = 500_000;

/// Network namespaces of an export at most.
const NAMESPACES: usize = 1_000_000;

/// A store while it is filled.
pub(super) struct Target<'s, S> {
    store: &'s S,
    token: WriterToken,
    now: UnixNanos,
    /// The node whose epoch the import is: the first by name.
    leader: Option<NodeNo>,
    epoch: EpochRow,
    /// The export's nodes, and which of them are to be made.
    pub(super) nodes: HashMap<NodeName, NodeNo>,
    new_nodes: Vec<NodeRow>,
    netns: HashMap<(NodeNo, NetnsId), NetnsNo>,
    known: HashMap<Identity, (EntryNo, PathNo)>,
    /// This store's numbers of the export's paths.
    paths: HashMap<PathNo, PathNo>,
    ids: LastIds,
}

impl<'s, S: Store> Target<'s, S> {
    pub(super) fn new(
        store: &'s S,
        token: WriterToken,
        manifest: &Manifest,
        loaded: Loaded,
        now: UnixNanos,
    ) -> Self {
        let epoch = manifest.epoch().unwrap_or_default();
        let mut ids = loaded.ids;
        let (mut nodes, mut new_nodes) = (HashMap::new(), Vec::new());
        for name in manifest.nodes.iter().filter_map(|name| NodeName::new(name).ok()) {
            let there = loaded.nodes.iter().find(|row| row.name == name).map(|row| row.node);
            let node = there.unwrap_or_else(|| {
                ids.node = ids.node.next();
                let (node, name) = (ids.node, name.clone());
                new_nodes.push(NodeRow { node, name, epoch, epoch_since: now });
                node
            });
            nodes.insert(name, node);
        }
        let leader = manifest.nodes.first().and_then(|name| NodeName::new(name).ok());
        let leader = leader.and_then(|name| nodes.get(&name)).copied();
        let node = leader.unwrap_or_default();
        let begun = loaded.epochs.into_iter().find(|row| row.epoch == epoch && row.node == node);
        let epoch = begun.unwrap_or(EpochRow {
            node,
            epoch,
            committed: Seq::NONE,
            digest: Digest([0; 32]),
            begun: now,
            last_gap: None,
            sweep: None,
        });
        let netns = loaded.netns.into_iter();
        let netns = netns.map(|NetnsRow { netns, node, id }| ((node, id), netns)).collect();
        let (known, paths) = (HashMap::new(), HashMap::new());
        Self { store, token, now, leader, epoch, nodes, new_nodes, netns, known, paths, ids }
    }

    /// Writes what is missing.
    pub(super) async fn fill(&mut self, export: &Export) -> Result<(), ImportError> {
        let total = export.manifest.sums.rows;
        let (mut number, mut done) = (0, 0);
        let mut progress = None;
        for part in &export.manifest.parts {
            let numbers = part.sums.rows.div_ceil(ROWS as u64);
            if number + numbers <= self.epoch.committed.get() {
                (number, done) = (number + numbers, done + part.sums.rows);
                continue;
            }
            let mut rows = export.open(part)?;
            let mut row = 0;
            loop {
                let mut records = Vec::with_capacity(ROWS);
                while records.len() < ROWS {
                    row += 1;
                    let record = rows.read().map_err(|error| ImportError::Row {
                        path: export.path(part),
                        row,
                        error,
                    })?;
                    match record {
                        Some(record) => records.push(record),
                        None => break,
                    }
                }
                if records.is_empty() {
                    break;
                }
                number += 1;
                done += records.len() as u64;
                if number <= self.epoch.committed.get() {
                    continue;
                }
                let before = done - records.len() as u64;
                let progress =
                    progress.get_or_insert_with(|| Progress::new("rows imported", total, before));
                self.write(export, part, Seq(number), row, records).await?;
                progress.at(done);
            }
        }
        Ok(())
    }

    async fn write(
        &mut self,
        export: &Export,
        part: &Part,
        number: Seq,
        row: u64,
        records: Vec<Record>,
    ) -> Result<(), ImportError> {
        let Some(leader) = self.leader else { return Ok(()) };
        let mut set = ChangeSet::default();
        let mut numbered = Vec::with_capacity(records.len());
        for record in records {
            numbered.push(
                self.numbered(&mut set, record)
                    .map_err(|what| ImportError::Damaged { path: export.path(part), what })?,
            );
        }
        self.find(&numbered).await?;
        for record in numbered {
            self.place(&mut set, record);
        }
        if number == Seq(1) {
            set.new_nodes = std::mem::take(&mut self.new_nodes);
        }
        let epoch = EpochRow {
            node: leader,
            committed: number,
            digest: digest(&part.sha256),
            ..self.epoch
        };
        set.advances.push(EpochAdvance { first: number, row: epoch });
        self.store.commit(self.token, &set).await.map_err(|error| ImportError::Write {
            path: export.path(part),
            row,
            error,
        })?;
        self.epoch = epoch;
        Ok(())
    }

    /// Gives a row this store's numbers of its node and namespace.
    fn numbered(&mut self, set: &mut ChangeSet, mut record: Record) -> Result<Record, String> {
        let node = self.nodes.get(&record.node).copied();
        let node = node.ok_or_else(|| format!("it has rows of {} now", record.node))?;
        let id = record.netns;
        let netns = match self.netns.get(&(node, id)) {
            Some(netns) => *netns,
            None if self.netns.len() >= NAMESPACES => {
                return Err(format!("it has more than {NAMESPACES} network namespaces"));
            }
            None => {
                self.ids.netns = self.ids.netns.next();
                let netns = self.ids.netns;
                self.netns.insert((node, id), netns);
                set.netns.push(NetnsRow { netns, node, id });
                netns
            }
        };
        (record.row.node, record.row.netns) = (node, netns);
        Ok(record)
    }

    /// Asks the store for the entries of these rows that are not known.
    async fn find(&mut self, records: &[Record]) -> Result<(), ImportError> {
        if self.known.len() > KNOWN {
            self.known.clear();
            self.paths.clear();
        }
        let unknown: HashSet<Identity> =
            records.iter().map(identity).filter(|id| !self.known.contains_key(id)).collect();
        let unknown: Vec<Identity> = unknown.into_iter().collect();
        for row in self.store.find(&unknown).await? {
            self.known.insert(row.identity(), (row.entry, row.path));
        }
        Ok(())
    }

    /// Puts a row into the set, and its entry where this is the first of it.
    fn place(&mut self, set: &mut ChangeSet, record: Record) {
        let identity = identity(&record);
        let mut row = record.row;
        let (ids, paths, now) = (&mut self.ids, &mut self.paths, self.now);
        let exported = row.path;
        (row.entry, row.path) = *self.known.entry(identity).or_insert_with(|| {
            ids.entry = ids.entry.next();
            let path = *paths.entry(exported).or_insert_with(|| {
                ids.path = ids.path.next();
                ids.path
            });
            set.observers.push(ObserverRow {
                entry: ids.entry,
                path,
                node: row.node,
                netns: row.netns,
                zone: row.zone,
                inside: row.inside,
                outside: row.outside,
                birth: record.birth,
                start: row.entry_start,
                fresh: record.fresh,
                seen: record.seen,
                // Closed: whoever still has it opens it again by its next growth.
                ended: Some(row.stray.unwrap_or(row.time).min(now).max(record.seen)),
                base: Counters::ZERO,
                frame: 0,
            });
            (ids.entry, path)
        });
        // Entries known before may be of a path that new ones share.
        self.paths.entry(exported).or_insert(row.path);
        set.flows.push(row);
    }
}

fn identity(record: &Record) -> Identity {
    let row = &record.row;
    Identity { netns: row.netns, zone: row.zone, birth: record.birth, orig: row.inside }
}

/// A digest from its text.
fn digest(text: &str) -> Digest {
    let byte = |at: usize| text.get(2 * at..2 * at + 2).map(|byte| u8::from_str_radix(byte, 16));
    Digest(std::array::from_fn(|at| byte(at).and_then(Result::ok).unwrap_or_default()))
}
