//! Flows in files: `export` writes records of a store as CSV or Parquet, `import` takes such an
//! export into a store of either kind. docs/export.md has the format and the rules.
//!
//! An export is its files and a manifest, which holds their digests and sums and is written last.
//! Rows name node, namespace and entry by what they are everywhere, so a store that takes them in
//! gives them numbers of its own.
//!
//! **Nothing is counted twice** because an import is committed as an epoch of its own, named by the
//! manifest's digest: its transactions are the numbers of that epoch, and the [store's
//! contract](crate::store) takes each once, in order, for ever. The entries it brings are known by
//! their identity; should their node tell of one later, what it grew by above the rows that were
//! imported is counted, as after a wiped spool. What cannot be told apart is refused: rows of a
//! node that this store has already counted itself, or got from elsewhere ([`ledger`]).

mod csv;
mod export;
mod import;
mod ledger;
mod manifest;
mod output;
mod parquet;
mod part;
mod record;
mod source;
mod target;

pub use export::{ExportError, export};
pub use import::{ImportError, import};
pub use ledger::LedgerError;
pub use manifest::{Format, ManifestError, Sums};
pub use output::Destination;
pub use part::RowError;
pub use record::CellError;

/// The manifest's name in an export's folder.
const MANIFEST: &str = "manifest.json";
