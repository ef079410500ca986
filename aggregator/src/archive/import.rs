//! `import`: from an export's files into a store.
//!
//! All files are read once before anything is written: their digests, every row of them, their
//! sums. Then rows go in ([`super::target`]), each transaction a number of the import's epoch; which
//! was the last one is in the store, so an import that was interrupted goes on behind it. At the
//! end the store adds up what it has got, and that must be what the manifest says.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flow::UnixNanos;

use super::MANIFEST;
use super::ledger::{Keeper, LedgerError};
use super::manifest::{Manifest, ManifestError, Part, Sums};
use super::part::{PartReader, RowError, whole};
use super::record::Record;
use super::source;
use super::target::Target;
use crate::answers::{AnswerError, Reader};
use crate::config::StoreChoice;
use crate::progress::Progress;
use crate::store::postgres::PostgresStore;
use crate::store::row::WriterToken;
use crate::store::sqlite::{SqliteConfig, SqliteStore};
use crate::store::{Backend, CommitError, OpenError, StoreError};

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
        exported: i128,
        /// In the store.
        stored: i128,
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
pub(super) struct Export {
    pub(super) manifest: Manifest,
    folder: PathBuf,
}

impl Export {
    /// A file of it.
    pub(super) fn path(&self, part: &Part) -> PathBuf {
        self.folder.join(&part.file)
    }

    /// Its rows.
    pub(super) fn open(&self, part: &Part) -> Result<PartReader, ImportError> {
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
