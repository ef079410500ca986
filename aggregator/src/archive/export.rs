//! `export`: from a store to files.
//!
//! Rows are read day by day, each day in one snapshot, and go straight into a file; what is in
//! memory does not depend on how many there are. When a day's files are whole and hold what the
//! store itself adds up, a line of the half-done manifest says so; an export that was interrupted
//! goes on behind it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flow::StoreId;
use jiff::Timestamp;

use super::manifest::{Manifest, ManifestError, Part, Sums};
use super::output::{Destination, Output};
use super::record::Record;
use super::source::{self, ReadError, Slice, Table};
use crate::answers::{AnswerError, AskError, Reader, time};
use crate::cli::ExportArgs;
use crate::config::StoreChoice;
use crate::progress::Progress;
use crate::store::StoreError;

/// Why there is no export, or half of one.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] AnswerError),
    /// The question makes no sense.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The flags contradict each other.
    #[error("{0}")]
    Flags(String),
    /// The store cannot be read.
    #[error("the store {store} cannot be read; run the same command again to go on")]
    Read {
        /// The store.
        store: String,
        /// What it said.
        #[source]
        error: StoreError,
    },
    /// A file cannot be written.
    #[error("{} cannot be written; make room or give another -o, then run the command again: an \
        export into a folder goes on where it was", path.display())]
    Write {
        /// The file, or its folder.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The manifest cannot be read or written.
    #[error("the manifest {} cannot be used; remove it, or give another -o", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        error: ManifestError,
    },
    /// There is something else already.
    #[error("{} holds {what}; give another -o", path.display())]
    Occupied {
        /// The manifest.
        path: PathBuf,
        /// What it is of.
        what: String,
    },
    /// What was written is not what the store holds.
    #[error("{} holds {written} {what}, the store has {stored} of them; do not use it", path.display())]
    Differs {
        /// The folder.
        path: PathBuf,
        /// In what.
        what: &'static str,
        /// In the files.
        written: i128,
        /// In the store.
        stored: i128,
    },
    /// What was done cannot be told.
    #[error("the outcome cannot be written")]
    Tell(#[source] io::Error),
}

/// Writes what the flags ask for, and tells `out` what it was.
///
/// # Errors
/// See [`ExportError`]. What was done of an export into a folder stays; the same call goes on.
pub async fn export(
    args: &ExportArgs,
    store: &StoreChoice,
    now: Timestamp,
    out: &mut impl Write,
) -> Result<(), ExportError> {
    let begun = Instant::now();
    let to = Destination::new(&args.output, args.format)?;
    let from = args.from.as_deref().map(|text| time("--from", text)).transpose()?;
    let until = args.to.as_deref().map(|text| time("--to", text)).transpose()?;
    if let (Some(from), until) = (from, until.unwrap_or(now))
        && until <= from
    {
        return Err(AskError::Backwards { from, to: until }.into());
    }
    if to.manifest().exists() {
        let what = "a finished export".to_owned();
        return Err(ExportError::Occupied { path: to.manifest(), what });
    }
    let reader = Reader::open(store).await?;
    let failed = |error| ExportError::Read { store: store.to_string(), error };
    let id = source::store_id(&reader).await.map_err(failed)?;
    make_folder(&to.folder)?;
    let mut manifest = match half_done(&to, id, from, until)? {
        Some(manifest) => manifest,
        None => {
            let until = until.unwrap_or(now);
            let after = match from {
                Some(from) => from,
                None => first(&reader, until).await.map_err(failed)?,
            };
            Manifest::new(id, to.format, [after, until], now)
        }
    };
    let mut run = Run { store, reader, output: Output::new(&to), to: &to };
    run.write(&mut manifest).await?;
    tell(&manifest, &to, begun, out).map_err(ExportError::Tell)
}

fn tell(
    manifest: &Manifest,
    to: &Destination,
    begun: Instant,
    out: &mut impl Write,
) -> io::Result<()> {
    let sums = &manifest.sums;
    writeln!(
        out,
        "{} rows of {} nodes, {} packets and {} bytes there, {} and {} back, after {} and up to {}; \
         the store adds up to the same. {} files and {} in {:.0?}",
        sums.rows,
        manifest.nodes.len(),
        sums.packets_orig,
        sums.bytes_orig,
        sums.packets_reply,
        sums.bytes_reply,
        manifest.after,
        manifest.until,
        manifest.parts.len(),
        to.manifest().display(),
        begun.elapsed()
    )
}

fn make_folder(folder: &Path) -> Result<(), ExportError> {
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)
        .map_err(|error| ExportError::Write { path: folder.to_owned(), error })
}

/// The half-done export that is there, where it is this one.
fn half_done(
    to: &Destination,
    store: StoreId,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Result<Option<Manifest>, ExportError> {
    let path = to.half();
    if to.single.is_some() || !path.exists() {
        return Ok(None);
    }
    let half = Manifest::read(&path)
        .map_err(|error| ExportError::Manifest { path: path.clone(), error })?;
    let other = if half.store != store.to_string() {
        format!("of another store, {}", half.store)
    } else if half.format != to.format {
        format!("with --format {}", half.format.extension())
    } else if from.is_some_and(|from| from != half.after) {
        format!("with --from {}", half.after)
    } else if until.is_some_and(|until| until != half.until) {
        format!("with --to {}", half.until)
    } else {
        return Ok(Some(half));
    };
    Err(ExportError::Occupied { path, what: format!("another export, half done, {other}") })
}

/// The moment before the first row of all.
async fn first(reader: &Reader, until: Timestamp) -> Result<Timestamp, StoreError> {
    let until = until.as_microsecond();
    let mut first = until;
    for table in [Table::Flow, Table::Stray] {
        let extent = source::extent(reader, Slice { table, after: i64::MIN, until }).await?;
        if let Some((earliest, _)) = extent.moments {
            first = first.min(earliest.saturating_sub(1));
        }
    }
    Ok(Timestamp::from_microsecond(first).unwrap_or(Timestamp::MIN))
}

/// An export under way.
struct Run<'a> {
    store: &'a StoreChoice,
    reader: Reader,
    output: Output,
    to: &'a Destination,
}

impl Run<'_> {
    async fn write(&mut self, manifest: &mut Manifest) -> Result<(), ExportError> {
        let (done, until) = (manifest.done.as_microsecond(), manifest.until.as_microsecond());
        let all = Slice { table: Table::Flow, after: done, until };
        let flows = self.extent(all).await?;
        let received = Slice { table: Table::Stray, after: manifest.after.as_microsecond(), until };
        let strays = self.extent(received).await?;
        let before = manifest.sums.rows;
        let mut progress = Progress::new("rows", before + flows.rows + strays.rows, before);
        if let Some((earliest, last)) = flows.moments {
            let first = earliest.saturating_sub(1).max(done);
            for (after, end) in days(first, last.min(until)) {
                let slice = Slice { table: Table::Flow, after, until: end };
                self.slice(manifest, slice, &mut progress).await?;
                manifest.done = Timestamp::from_microsecond(end).unwrap_or(manifest.until);
                self.keep(manifest)?;
            }
        }
        if strays.rows > 0 {
            self.slice(manifest, received, &mut progress).await?;
        }
        let last = self.output.close().map_err(|error| self.unwritten(error))?;
        take_parts(manifest, last);
        manifest.done = manifest.until;
        self.seal(manifest)
    }

    async fn extent(&self, slice: Slice) -> Result<source::Extent, ExportError> {
        source::extent(&self.reader, slice).await.map_err(|error| self.unread(error))
    }

    /// Writes a slice, and compares it with what the store says it holds.
    async fn slice(
        &mut self,
        manifest: &mut Manifest,
        slice: Slice,
        progress: &mut Progress,
    ) -> Result<(), ExportError> {
        let stem = match slice.table {
            Table::Flow => format!("flow-{}", date(slice.until)),
            Table::Stray => "stray".to_owned(),
        };
        let (mut sums, before) = (Sums::default(), manifest.sums.rows);
        let (nodes, output) = (&mut manifest.nodes, &mut self.output);
        let read = source::read(&self.reader, slice, |record: Record| {
            sums.add(&record);
            if !nodes.contains(record.node.as_str()) {
                nodes.insert(record.node.to_string());
            }
            if sums.rows % 10_000 == 0 {
                progress.at(before + sums.rows);
            }
            output.write(&stem, &record)
        });
        let stored = match read.await {
            Ok(stored) => stored,
            Err(ReadError::Store(error)) => return Err(self.unread(error)),
            Err(ReadError::Taken(error)) => return Err(self.unwritten(error)),
        };
        if let Some((what, written, stored)) = sums.difference(&stored) {
            let path = self.to.folder.clone();
            return Err(ExportError::Differs { path, what, written, stored });
        }
        let parts = self.output.end_slice().map_err(|error| self.unwritten(error))?;
        take_parts(manifest, parts);
        manifest.sums.plus(&sums);
        progress.at(manifest.sums.rows);
        Ok(())
    }

    /// Says on disk how far it is.
    fn keep(&self, manifest: &Manifest) -> Result<(), ExportError> {
        if self.to.single.is_some() {
            return Ok(());
        }
        let path = self.to.half();
        manifest.write(&path).map_err(|error| ExportError::Manifest { path, error })
    }

    fn seal(&self, manifest: &mut Manifest) -> Result<(), ExportError> {
        let path = self.to.manifest();
        let failed = |error| ExportError::Manifest { path: path.clone(), error };
        manifest.seal().map_err(failed)?;
        manifest.write(&path).map_err(failed)?;
        let half = self.to.half();
        if self.to.single.is_none() && half.exists() {
            std::fs::remove_file(&half)
                .map_err(|error| ExportError::Write { path: half, error })?;
        }
        Ok(())
    }

    fn unread(&self, error: StoreError) -> ExportError {
        ExportError::Read { store: self.store.to_string(), error }
    }

    fn unwritten(&self, error: io::Error) -> ExportError {
        ExportError::Write { path: self.output.path(), error }
    }
}

fn take_parts(manifest: &mut Manifest, parts: Vec<Part>) {
    manifest.parts.extend(parts);
}

/// The days between two moments, each from after its first moment to the first of the next one: a
/// row's time is the end of its growth.
fn days(after: i64, until: i64) -> impl Iterator<Item = (i64, i64)> {
    let mut next = after;
    std::iter::from_fn(move || {
        (next < until).then(|| {
            let begin = next;
            next = begin.div_euclid(DAY).saturating_add(1).saturating_mul(DAY).min(until);
            (begin, next)
        })
    })
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// The day that ends at `until`, or in which it lies.
fn date(until: i64) -> String {
    let day = Timestamp::from_microsecond(until.saturating_sub(1)).unwrap_or_default();
    day.strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_end_at_midnight_and_cover_every_moment_once() {
        assert_eq!(days(5, 5).count(), 0);
        assert_eq!(days(DAY - 1, DAY).collect::<Vec<_>>(), [(DAY - 1, DAY)]);
        assert_eq!(
            days(-1, 2 * DAY + 1).collect::<Vec<_>>(),
            [(-1, 0), (0, DAY), (DAY, 2 * DAY), (2 * DAY, 2 * DAY + 1)]
        );
        // A growth that ended at midnight is the day's before.
        assert_eq!(date(DAY), "1970-01-01");
        assert_eq!(date(DAY + 1), "1970-01-02");
    }
}
