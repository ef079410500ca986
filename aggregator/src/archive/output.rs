//! Where an export goes, and the files it is written into.

use std::io;
use std::path::{Path, PathBuf};

use super::MANIFEST;
use super::export::ExportError;
use super::manifest::{Format, Part, Sums};
use super::part::{PartWriter, Whole};
use super::record::Record;

/// Where an export goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub(super) folder: PathBuf,
    /// The one file it is written into, instead of one or more a day.
    pub(super) single: Option<String>,
    pub(super) format: Format,
}

impl Destination {
    /// What `-o` and `--format` say: a name that ends in `.csv` or `.parquet` is a file's.
    ///
    /// # Errors
    /// When the two contradict each other.
    pub fn new(output: &Path, format: Option<Format>) -> Result<Self, ExportError> {
        let extension = output.extension().and_then(|extension| extension.to_str());
        let meant = [Format::Csv, Format::Parquet]
            .into_iter()
            .find(|format| extension == Some(format.extension()));
        let Some(meant) = meant else {
            let format = format.unwrap_or(Format::Csv);
            return Ok(Self { folder: output.to_owned(), single: None, format });
        };
        if format.is_some_and(|format| format != meant) {
            return Err(ExportError::Flags(format!(
                "--format is {}, but -o names a file for {}: {}",
                format.unwrap_or(meant).extension(),
                meant.extension(),
                output.display()
            )));
        }
        let name = output.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            ExportError::Flags(format!("the file's name is no text: {}", output.display()))
        })?;
        let folder = output.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self { folder, single: Some(name.to_owned()), format: meant })
    }

    /// Where its manifest is.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        match &self.single {
            Some(file) => self.folder.join(format!("{file}.{MANIFEST}")),
            None => self.folder.join(MANIFEST),
        }
    }

    /// Where it is until it is whole.
    pub(super) fn half(&self) -> PathBuf {
        self.folder.join("manifest.partial.json")
    }
}

/// The files of an export.
pub(super) struct Output {
    folder: PathBuf,
    single: Option<String>,
    format: Format,
    open: Option<Open>,
    /// Files of this slice that are whole.
    whole: Vec<Part>,
}

struct Open {
    writer: PartWriter,
    file: String,
    sums: Sums,
}

impl Output {
    pub(super) fn new(to: &Destination) -> Self {
        let Destination { folder, single, format } = to.clone();
        Self { folder, single, format, open: None, whole: Vec::new() }
    }

    /// Writes a row into a file whose name begins with `stem`.
    pub(super) fn write(&mut self, stem: &str, record: &Record) -> io::Result<()> {
        if self.single.is_none()
            && self.open.as_ref().is_some_and(|open| open.sums.rows == PART_ROWS)
        {
            self.finish()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            empty => {
                let file = self.single.clone().unwrap_or_else(|| {
                    let number = self.whole.len();
                    let number =
                        if number == 0 { String::new() } else { format!("-{}", number + 1) };
                    format!("{stem}{number}.{}", self.format.extension())
                });
                let writer = PartWriter::begin(self.folder.join(&file), self.format)?;
                empty.insert(Open { writer, file, sums: Sums::default() })
            }
        };
        open.sums.add(record);
        open.writer.write(record)
    }

    /// The files of the slice that ends here.
    pub(super) fn end_slice(&mut self) -> io::Result<Vec<Part>> {
        if self.single.is_some() { Ok(Vec::new()) } else { self.close() }
    }

    /// All files that are not told yet.
    pub(super) fn close(&mut self) -> io::Result<Vec<Part>> {
        self.finish()?;
        Ok(std::mem::take(&mut self.whole))
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Some(Open { writer, file, sums }) = self.open.take() {
            let Whole { size, sha256 } = writer.finish()?;
            self.whole.push(Part { file, size, sha256, sums });
        }
        Ok(())
    }

    /// What is being written.
    pub(super) fn path(&self) -> PathBuf {
        self.open.as_ref().map_or_else(|| self.folder.clone(), |open| self.folder.join(&open.file))
    }
}

/// Rows of a file at most, where there are several.
const PART_ROWS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_whether_it_is_a_file() {
        let of = |name: &str, format| Destination::new(Path::new(name), format).unwrap();
        assert_eq!(of("x/y", None).manifest(), Path::new("x/y/manifest.json"));
        assert_eq!(of("x/y.csv", None).manifest(), Path::new("x/y.csv.manifest.json"));
        assert_eq!(of("y.parquet", None).format, Format::Parquet);
        assert_eq!(of("y.d", Some(Format::Parquet)).single, None);
        let wrong = Destination::new(Path::new("y.csv"), Some(Format::Parquet)).unwrap_err();
        assert!(wrong.to_string().starts_with("--format is parquet, but -o names"), "{wrong}");
    }
}
