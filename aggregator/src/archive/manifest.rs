//! What an export consists of: `manifest.json` beside its files, and the same half done.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flow::{Epoch, NodeName, StoreId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::part::{sha256, sync_folder};
use super::record::{COLUMNS, Record};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Comma-separated values with a header
    Csv,
    /// Apache Parquet, compressed
    Parquet,
}

impl Format {
    /// The end of its files' names.
    pub(super) const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// Rows added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sums {
    /// How many.
    pub rows: u64,
    /// Counted packets of the original direction.
    #[serde(with = "decimal")]
    pub packets_orig: i128,
    /// Counted bytes of the original direction.
    #[serde(with = "decimal")]
    pub bytes_orig: i128,
    /// Counted packets of the reply direction.
    #[serde(with = "decimal")]
    pub packets_reply: i128,
    /// Counted bytes of the reply direction.
    #[serde(with = "decimal")]
    pub bytes_reply: i128,
    /// What nodes reported: packets of the original direction.
    #[serde(with = "decimal")]
    pub raw_packets_orig: i128,
    /// What nodes reported: bytes of the original direction.
    #[serde(with = "decimal")]
    pub raw_bytes_orig: i128,
    /// What nodes reported: packets of the reply direction.
    #[serde(with = "decimal")]
    pub raw_packets_reply: i128,
    /// What nodes reported: bytes of the reply direction.
    #[serde(with = "decimal")]
    pub raw_bytes_reply: i128,
}

impl Sums {
    pub(super) fn add(&mut self, record: &Record) {
        let row = &record.row;
        // What is taken back makes the sums smaller.
        let sign = if row.is_retraction() { -1 } else { 1 };
        let [po, bo, pr, br] = row.counted.components().map(|count| sign * i128::from(count));
        let [rpo, rbo, rpr, rbr] = row.raw.components().map(i128::from);
        self.plus(&Self {
            rows: 1,
            packets_orig: po,
            bytes_orig: bo,
            packets_reply: pr,
            bytes_reply: br,
            raw_packets_orig: rpo,
            raw_bytes_orig: rbo,
            raw_packets_reply: rpr,
            raw_bytes_reply: rbr,
        });
    }

    /// Numbers from outside may be of any size.
    pub(super) fn plus(&mut self, other: &Self) {
        self.rows = self.rows.saturating_add(other.rows);
        for (sum, more) in self.components_mut().into_iter().zip(other.components()) {
            *sum = sum.saturating_add(more.1);
        }
    }

    /// The sums with their names.
    pub(super) const fn components(&self) -> [(&'static str, i128); 8] {
        [
            ("packets_orig", self.packets_orig),
            ("bytes_orig", self.bytes_orig),
            ("packets_reply", self.packets_reply),
            ("bytes_reply", self.bytes_reply),
            ("raw_packets_orig", self.raw_packets_orig),
            ("raw_bytes_orig", self.raw_bytes_orig),
            ("raw_packets_reply", self.raw_packets_reply),
            ("raw_bytes_reply", self.raw_bytes_reply),
        ]
    }

    pub(super) const fn components_mut(&mut self) -> [&mut i128; 8] {
        [
            &mut self.packets_orig,
            &mut self.bytes_orig,
            &mut self.packets_reply,
            &mut self.bytes_reply,
            &mut self.raw_packets_orig,
            &mut self.raw_bytes_orig,
            &mut self.raw_packets_reply,
            &mut self.raw_bytes_reply,
        ]
    }

    /// The first of the sums in which `other` differs: its name, ours, the other's.
    pub(super) fn difference(&self, other: &Self) -> Option<(&'static str, i128, i128)> {
        if self.rows != other.rows {
            return Some(("rows", self.rows.into(), other.rows.into()));
        }
        let both = self.components().into_iter().zip(other.components());
        both.map(|((name, ours), (_, theirs))| (name, ours, theirs)).find(|(_, a, b)| a != b)
    }
}

/// Sums exceed 64 bits, and numbers in JSON are not even that wide everywhere.
mod decimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(sum: &i128, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(sum)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i128, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// Its name in the manifest's folder.
    pub(super) file: String,
    /// Bytes of the file.
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) sums: Sums,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// [`KIND`]
    pub(super) kind: String,
    /// [`VERSION`]
    pub(super) version: u32,
    /// SHA-256 of the manifest with this empty: it names the export, and holds the digests of its
    /// files. Empty until the export is whole.
    pub(super) id: String,
    /// The store it came from.
    pub(super) store: String,
    /// The program that wrote it.
    pub(super) written_by: String,
    /// When it was begun.
    pub(super) begun: Timestamp,
    /// Rows with a time after this one; of strays with a receipt after it.
    pub(super) after: Timestamp,
    /// And up to this one.
    pub(super) until: Timestamp,
    pub(super) format: Format,
    pub(super) columns: Vec<String>,
    /// The nodes that its rows name.
    pub(super) nodes: BTreeSet<String>,
    pub(super) parts: Vec<Part>,
    /// Up to where it is done; the same as `until` in a whole one.
    pub(super) done: Timestamp,
    /// Of all parts.
    pub(super) sums: Sums,
}

pub(super) const KIND: &str = "conntracct flow export";
pub(super) const VERSION: u32 = 1;

/// Bytes of a manifest at most.
const MOST: u64 = 64 << 20;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It is none.
    #[error("it is no manifest of an export, or is damaged")]
    Parse(#[from] serde_json::Error),
    /// It is one that cannot be used.
    #[error("{0}")]
    Unfit(String),
}

impl Manifest {
    /// One of an export that begins.
    pub(super) fn new(
        store: StoreId,
        format: Format,
        span: [Timestamp; 2],
        now: Timestamp,
    ) -> Self {
        Self {
            kind: KIND.to_owned(),
            version: VERSION,
            id: String::new(),
            store: store.to_string(),
            written_by: concat!("conntracct-aggregator ", env!("CARGO_PKG_VERSION")).to_owned(),
            begun: now,
            after: span[0],
            until: span[1],
            format,
            columns: COLUMNS.map(|column| column.name.to_owned()).into(),
            nodes: BTreeSet::new(),
            parts: Vec::new(),
            done: span[0],
            sums: Sums::default(),
        }
    }

    /// Reads one, whole or half done.
    pub(super) fn read(path: &Path) -> Result<Self, ManifestError> {
        let mut text = Vec::new();
        File::open(path)?.take(MOST).read_to_end(&mut text)?;
        let manifest: Self = serde_json::from_slice(&text)?;
        if manifest.kind != KIND {
            return Err(ManifestError::Unfit("it is no manifest of an export".to_owned()));
        }
        if manifest.version != VERSION {
            return Err(ManifestError::Unfit(format!(
                "it has version {}, this program reads {VERSION}; use the one that wrote it ({})",
                manifest.version, manifest.written_by
            )));
        }
        Ok(manifest)
    }

    /// Reads a whole one, and checks it against its digest and itself.
    pub(super) fn read_whole(path: &Path) -> Result<Self, ManifestError> {
        let manifest = Self::read(path)?;
        let unfit = |what: &str| Err(ManifestError::Unfit(what.to_owned()));
        if manifest.id != manifest.digest()? {
            return unfit("it is damaged or was changed: its digest is another");
        }
        let mut names = BTreeSet::new();
        let mut sums = Sums::default();
        for part in &manifest.parts {
            // A manifest must not name files elsewhere.
            let plain = Path::new(&part.file).file_name() == Some(part.file.as_ref());
            if !plain || !names.insert(&part.file) {
                return unfit("it names a file twice, or one outside its folder");
            }
            sums.plus(&part.sums);
        }
        if sums != manifest.sums {
            return unfit("its sums are not those of its parts");
        }
        if !manifest.columns.iter().eq(COLUMNS.iter().map(|column| column.name)) {
            return unfit("it has other columns than its version has");
        }
        if manifest.store.parse::<StoreId>().is_err() {
            return unfit("it does not name the store it came from");
        }
        if manifest.nodes.iter().any(|node| NodeName::new(node).is_err()) {
            return unfit("it names a node that cannot be");
        }
        Ok(manifest)
    }

    /// Gives it its name: nothing more is added.
    pub(super) fn seal(&mut self) -> Result<(), ManifestError> {
        self.id = self.digest()?;
        Ok(())
    }

    /// The export's name among epochs: the first half of its digest.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.id.get(..32)?.parse().ok()
    }

    fn digest(&self) -> Result<String, ManifestError> {
        let unnamed = Self { id: String::new(), ..self.clone() };
        Ok(sha256(&serde_json::to_vec(&unnamed)?))
    }

    /// Brings it to disk: the old one or this one is there at any moment.
    pub(super) fn write(&self, path: &Path) -> Result<(), ManifestError> {
        let mut half = path.as_os_str().to_owned();
        half.push(".half");
        let half = PathBuf::from(half);
        let mut file = File::create(&half)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        std::fs::rename(&half, path)?;
        Ok(sync_folder(path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Manifest {
        let times = [1, 2].map(|second| Timestamp::from_second(second).unwrap());
        let mut manifest = Manifest::new(StoreId([7; 16]), Format::Csv, times, times[1]);
        let sums = Sums { rows: 1, bytes_orig: i128::from(u64::MAX) + 1, ..Sums::default() };
        let part = Part { file: "a.csv".into(), size: 3, sha256: "0".repeat(64), sums };
        manifest.parts.push(part);
        manifest.sums = sums;
        manifest.nodes.insert("gw-1".into());
        manifest.seal().unwrap();
        manifest
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        sealed().write(&path).unwrap();
        assert_eq!(Manifest::read_whole(&path).unwrap(), sealed());
        assert_eq!(sealed().epoch().unwrap().to_string(), sealed().id[..32]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_changed_or_foreign_manifest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        let text = serde_json::to_string(&sealed()).unwrap();
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Manifest::read_whole(&path).unwrap_err().to_string()
        };
        assert_eq!(
            refused(&text.replace("\"rows\":1", "\"rows\":2")),
            "it is damaged or was changed: its digest is another"
        );
        assert!(refused(&text.replace("\"version\":1", "\"version\":2")).contains("version 2"));
        assert!(refused(&text[..100]).starts_with("it is no manifest"));
        assert!(refused("{}").starts_with("it is no manifest"));
        assert!(refused(&text.replace("flow export", "other")).starts_with("it is no manifest"));
        let with = |change: fn(&mut Manifest)| {
            let mut manifest = sealed();
            change(&mut manifest);
            manifest.seal().unwrap();
            refused(&serde_json::to_string(&manifest).unwrap())
        };
        assert!(with(|m| m.parts[0].file = "../a.csv".into()).contains("outside its folder"));
        assert!(with(|m| m.parts[0].file = "..".into()).contains("outside its folder"));
        assert!(with(|m| m.parts.push(m.parts[0].clone())).contains("a file twice"));
        assert!(with(|m| m.sums.rows = 5).contains("not those of its parts"));
        assert!(with(|m| m.columns.swap(0, 1)).contains("other columns"));
        assert!(with(|m| m.store = "x".into()).contains("the store it came from"));
        assert!(with(|m| _ = m.nodes.insert("../x".into())).contains("a node that cannot be"));
    }
}
