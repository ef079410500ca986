//! `import`: from an export's files into a store.
//!
//! All files are read once before anything is written: their digests, every row of them, their
//! sums. Then rows go in, [`ROWS`] a transaction, each transaction a number of the import's epoch;
//! which was the last one is in the store, so an import that was interrupted goes on behind it. At
//! the end the store adds up what it has got, and that must be what the manifest says.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flow::{Counters, NetnsId, NodeName, Seq, UnixNanos};
use wire::frame::Digest;

use super::MANIFEST;
use super::ledger::{Keeper, LedgerError};
use super::manifest::{Manifest, ManifestError, Part, Sums};
use super::part::{PartReader, RowError, whole};
use super::record::Record;
use super::source;
use crate::answers::{AnswerError, Reader};
use crate::config::StoreChoice;
use crate::progress::Progress;
use crate::store::postgres::PostgresStore;
use crate::store::row::{
    ChangeSet, EntryNo, EpochAdvance, EpochRow, Identity, LastIds, Loaded, NetnsNo, NetnsRow,
    NodeNo, NodeRow, ObserverRow, PathNo, WriterToken,
};
use crate::store::sqlite::{SqliteConfig, SqliteStore};
use crate::store::{Backend, CommitError, OpenError, Store, StoreError};

/// Rows of a transaction.
const ROWS: usize = 10_000;

/// Entries kept in memory so that they need not be asked for; all are forgotten when they are more.
const KNOWN: usize = 500_000;

/// Network namespaces of an export at most.
const NAMESPACES: usize = 1_000_000;

/// Why an export was not taken in, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is nothing to import.
    #[error(
        "there is no export at {}: no manifest is there{}", path.display(),
        if *half { ", but half an export; run the export again, it goes on where it was" }
        else { "" }
    )]
    Missing {
        /// Where the manifest was looked for.
        path: PathBuf,
        /// Whether there is one of half an export.
        half: bool,
    },
    /// The manifest cannot be used.
    #[error("the manifest {} cannot be used", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        error: ManifestError,
    },
    /// A file is not what was exported.
    #[error(
        "{} is not as it was exported: {what}; nothing of this import was written by this run; \
         copy the file again, or export again", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what.
        what: String,
    },
    /// A row cannot be read.
    #[error(
        "row {row} of {} cannot be read; nothing was written by this run; copy the file again, or \
         export again", path.display()
    )]
    Row {
        /// The file.
        path: PathBuf,
        /// The row's number, from 1.
        row: u64,
        /// What is wrong with it.
        #[source]
        error: RowError,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read for comparing.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The rows cannot be taken without counting something twice.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store cannot be asked.
    #[error("the store cannot be asked; run the same command again to go on")]
    Ask(#[from] StoreError),
    /// The store did not take rows.
    #[error("the store did not take rows up to {row} of {}; run the same command again to go on",
        path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The last row of the transaction.
        row: u64,
        /// What the store said.
        #[source]
        error: CommitError,
    },
    /// The store holds something else in the end.
    #[error(
        "the store holds {stored} {what} of these nodes and times, the export {exported}; restore \
         the store from a backup and import again"
    )]
    Differs {
        /// In what.
        what: &'static str,
        /// In the export.
        exported: u128,
        /// In the store.
        stored: u128,
    },
    /// What was done cannot be told.
    #[error("the outcome cannot be written")]
    Tell(#[source] io::Error),
}

/// Takes the export at `path` (its folder, its file or its manifest) into `store`, and tells `out`
/// how it went. `now` is when the import's epoch begins.
///
/// # Errors
/// See [`ImportError`]. What was taken in stays; the same call goes on with it.
pub async fn import(
    path: &Path,
    store: &StoreChoice,
    now: UnixNanos,
    out: &mut impl Write,
) -> Result<(), ImportError> {
    let begun = Instant::now();
    let path = manifest_path(path);
    if !path.exists() {
        let half = path.with_file_name("manifest.partial.json").exists();
        return Err(ImportError::Missing { path, half });
    }
    let manifest = Manifest::read_whole(&path)
        .map_err(|error| ImportError::Manifest { path: path.clone(), error })?;
    let folder = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
    let export = Export { manifest, folder };
    export.verify()?;
    match store {
        StoreChoice::Sqlite(file) => {
            let opened = SqliteStore::open(&SqliteConfig::new(file)).await?;
            run(&export, opened, store, now).await?;
        }
        StoreChoice::Postgres(address) => {
            let opened = PostgresStore::open(address).await?;
            run(&export, opened, store, now).await?;
        }
    }
    let sums = &export.manifest.sums;
    writeln!(
        out,
        "{} rows of {} nodes, {} packets and {} bytes there, {} and {} back: all are in {store}, \
         which adds up to the same. Imported in {:.0?}",
        sums.rows,
        export.manifest.nodes.len(),
        sums.packets_orig,
        sums.bytes_orig,
        sums.packets_reply,
        sums.bytes_reply,
        begun.elapsed()
    )
    .map_err(ImportError::Tell)
}

/// The manifest of what was named.
fn manifest_path(path: &Path) -> PathBuf {
    let manifest = path.extension().is_some_and(|extension| extension == "json");
    if path.is_dir() {
        path.join(MANIFEST)
    } else if manifest {
        path.to_owned()
    } else {
        let mut name = path.as_os_str().to_owned();
        name.push(".");
        name.push(MANIFEST);
        name.into()
    }
}

/// An export on disk.
struct Export {
    manifest: Manifest,
    folder: PathBuf,
}

impl Export {
    fn path(&self, part: &Part) -> PathBuf {
        self.folder.join(&part.file)
    }

    fn open(&self, part: &Part) -> Result<PartReader, ImportError> {
        PartReader::open(&self.path(part), self.manifest.format).map_err(|error| ImportError::Row {
            path: self.path(part),
            row: 1,
            error,
        })
    }

    /// Reads everything and compares it with the manifest.
    fn verify(&self) -> Result<(), ImportError> {
        let mut progress = Progress::new("rows checked", self.manifest.sums.rows, 0);
        let mut done = 0;
        for part in &self.manifest.parts {
            let path = self.path(part);
            let damaged = |what: String| ImportError::Damaged { path: path.clone(), what };
            let found =
                whole(&path).map_err(|error| damaged(format!("it cannot be read ({error})")))?;
            if found.size != part.size {
                return Err(damaged(format!("it has {} bytes of {}", found.size, part.size)));
            }
            if found.sha256 != part.sha256 {
                return Err(damaged("its digest is another".to_owned()));
            }
            let mut rows = self.open(part)?;
            let mut sums = Sums::default();
            loop {
                let record = rows.read().map_err(|error| ImportError::Row {
                    path: path.clone(),
                    row: sums.rows + 1,
                    error,
                })?;
                let Some(record) = record else { break };
                sums.add(&record);
                self.expected(&record).map_err(&damaged)?;
                done += 1;
                if done % 10_000 == 0 {
                    progress.at(done);
                }
            }
            if let Some((what, found, told)) = sums.difference(&part.sums) {
                return Err(damaged(format!("it has {found} {what}, the manifest says {told}")));
            }
        }
        progress.at(done);
        Ok(())
    }

    /// Whether a row is one that the manifest speaks of.
    fn expected(&self, record: &Record) -> Result<(), String> {
        if !self.manifest.nodes.contains(record.node.as_str()) {
            return Err(format!("it has rows of {}, the manifest does not", record.node));
        }
        let moment = record.row.stray.unwrap_or(record.row.time).micros_floor();
        let (after, until) =
            (self.manifest.after.as_microsecond(), self.manifest.until.as_microsecond());
        if moment <= after || moment > until {
            return Err("it has a row of another time than the manifest says".to_owned());
        }
        Ok(())
    }
}

async fn run<S: Backend>(
    export: &Export,
    store: S,
    place: &StoreChoice,
    now: UnixNanos,
) -> Result<(), ImportError> {
    let manifest = &export.manifest;
    let mut keeper = Keeper::open(place).await?;
    let own = store.meta().await?.store.to_string();
    let token = WriterToken(rand::random());
    // Asked before the store is taken over: what is refused disturbs nobody.
    let loaded = store.load(UnixNanos(i64::MAX)).await?;
    keeper.read().await?.check(manifest, &own, &loaded)?;
    store.take_writer(token, now).await?;
    let loaded = store.load(UnixNanos(i64::MAX)).await?;
    keeper.read().await?.check(manifest, &own, &loaded)?;
    let mut target = Target::new(&store, token, manifest, loaded, now);
    keeper.note(manifest, false).await?;
    target.fill(export).await?;
    let reader = Reader::open(place).await?;
    let span = (manifest.after.as_microsecond(), manifest.until.as_microsecond());
    let nodes: Vec<i32> = target.nodes.values().map(|node| node.0).collect();
    if !nodes.is_empty() {
        let stored = source::sums_of_nodes(&reader, span, &nodes).await?;
        if let Some((what, exported, stored)) = manifest.sums.difference(&stored) {
            return Err(ImportError::Differs { what, exported, stored });
        }
    }
    keeper.note(manifest, true).await?;
    keeper.close().await;
    store.close().await;
    Ok(())
}

/// A store while it is filled.
struct Target<'s, S> {
    store: &'s S,
    token: WriterToken,
    now: UnixNanos,
    /// The node whose epoch the import is: the first by name.
    leader: Option<NodeNo>,
    epoch: EpochRow,
    /// The export's nodes, and which of them are to be made.
    nodes: HashMap<NodeName, NodeNo>,
    new_nodes: Vec<NodeRow>,
    netns: HashMap<(NodeNo, NetnsId), NetnsNo>,
    known: HashMap<Identity, (EntryNo, PathNo)>,
    ids: LastIds,
}

impl<'s, S: Store> Target<'s, S> {
    fn new(
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
        let known = HashMap::new();
        Self { store, token, now, leader, epoch, nodes, new_nodes, netns, known, ids }
    }

    /// Writes what is missing.
    async fn fill(&mut self, export: &Export) -> Result<(), ImportError> {
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
        let (ids, now) = (&mut self.ids, self.now);
        (row.entry, row.path) = *self.known.entry(identity).or_insert_with(|| {
            (ids.entry, ids.path) = (ids.entry.next(), ids.path.next());
            set.observers.push(ObserverRow {
                entry: ids.entry,
                path: ids.path,
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
            (ids.entry, ids.path)
        });
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
