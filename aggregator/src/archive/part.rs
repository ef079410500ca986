//! A file of an export: written under another name, with its digest, and renamed when it is whole;
//! read row by row.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use ::parquet::errors::ParquetError;
use sha2::{Digest as _, Sha256};

use super::manifest::Format;
use super::record::{CellError, Record};
use super::{csv, parquet};

/// Why a row cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The file cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It is not laid out as it must be.
    #[error("{0}")]
    Layout(String),
    /// A cell holds something that cannot be.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// It is damaged, or no Parquet file.
    #[error("it is no Parquet file that can be read")]
    Parquet(#[from] ParquetError),
}

/// A whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// Writes a file.
pub(super) struct PartWriter {
    path: PathBuf,
    half: PathBuf,
    out: Out,
}

enum Out {
    Csv(csv::Writer<Hashed>),
    Parquet(Box<parquet::Writer<Hashed>>),
}

impl PartWriter {
    /// Begins the file `path`. What is half done stands under another name until then.
    pub(super) fn begin(path: PathBuf, format: Format) -> io::Result<Self> {
        let mut half = path.as_os_str().to_owned();
        half.push(".half");
        let half = PathBuf::from(half);
        let out = Hashed {
            file: BufWriter::with_capacity(BUFFER, File::create(&half)?),
            digest: Sha256::new(),
            size: 0,
        };
        let out = match format {
            Format::Csv => Out::Csv(csv::Writer::new(out)?),
            Format::Parquet => Out::Parquet(Box::new(parquet::Writer::new(out)?)),
        };
        Ok(Self { path, half, out })
    }

    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        let cells = record.cells().map_err(io::Error::other)?;
        match &mut self.out {
            Out::Csv(out) => out.write(&cells),
            Out::Parquet(out) => Ok(out.write(&cells)?),
        }
    }

    /// Brings it to disk and gives it its name.
    pub(super) fn finish(self) -> io::Result<Whole> {
        let out = match self.out {
            Out::Csv(out) => out.finish(),
            Out::Parquet(out) => out.finish()?,
        };
        let file = out.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&self.half, &self.path)?;
        sync_folder(&self.path)?;
        Ok(Whole { size: out.size, sha256: hex(&out.digest.finalize()) })
    }
}

/// Makes names in the folder of `path` outlive a power failure.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// A file that is added up while it is written.
struct Hashed {
    file: BufWriter<File>,
    digest: Sha256,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads a file's rows.
pub(super) enum PartReader {
    Csv(csv::Reader<BufReader<File>>),
    Parquet(Box<parquet::Reader>),
}

impl PartReader {
    pub(super) fn open(path: &Path, format: Format) -> Result<Self, RowError> {
        let file = File::open(path)?;
        Ok(match format {
            Format::Csv => Self::Csv(csv::Reader::new(BufReader::with_capacity(BUFFER, file))?),
            Format::Parquet => Self::Parquet(Box::new(parquet::Reader::new(file)?)),
        })
    }

    /// The next row.
    pub(super) fn read(&mut self) -> Result<Option<Record>, RowError> {
        match self {
            Self::Csv(reader) => reader.read(),
            Self::Parquet(reader) => reader.read(),
        }
    }
}

/// Size and digest of a file as it is.
pub(super) fn whole(path: &Path) -> io::Result<Whole> {
    let mut file = File::open(path)?;
    let (mut digest, mut size, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
    loop {
        let read = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(Whole { size, sha256: hex(&digest.finalize()) });
        };
        digest.update(bytes);
        size += read as u64;
    }
}

/// SHA-256 of `bytes`, as text.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _written = write!(text, "{byte:02x}");
        text
    })
}

const BUFFER: usize = 256 << 10;
