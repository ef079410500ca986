//! Rows as Apache Parquet: one flat group of columns, ZSTD, row groups of [`ROWS`].

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;

use super::part::RowError;
use super::record::{COLUMNS, Cells, Kind, Record, Value};

/// Rows of a row group: what is in memory at a time, on either side.
const ROWS: usize = 64 << 10;

/// Writes rows.
pub(super) struct Writer<W: Write + Send> {
    out: SerializedFileWriter<W>,
    columns: Vec<Column>,
    rows: usize,
}

impl<W: Write + Send> Writer<W> {
    pub(super) fn new(out: W) -> Result<Self, ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("conntracct-aggregator ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let out = SerializedFileWriter::new(out, schema()?, Arc::new(properties))?;
        Ok(Self { out, columns: COLUMNS.map(Column::of).into(), rows: 0 })
    }

    pub(super) fn write(&mut self, cells: &Cells) -> Result<(), ParquetError> {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.push(cell);
        }
        self.rows += 1;
        if self.rows == ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        let mut group = self.out.next_row_group()?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column()? else { break };
            let levels = column.optional.then_some(column.levels.as_slice());
            match &column.values {
                Values::Int(values) => {
                    writer.typed::<Int64Type>().write_batch(values, levels, None)?
                }
                Values::Text(values) => {
                    writer.typed::<ByteArrayType>().write_batch(values, levels, None)?
                }
                Values::Flag(values) => {
                    writer.typed::<BoolType>().write_batch(values, levels, None)?
                }
            };
            writer.close()?;
            column.clear();
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }

    /// What was written to, when all is in it.
    pub(super) fn finish(mut self) -> Result<W, ParquetError> {
        if self.rows > 0 {
            self.flush()?;
        }
        self.out.into_inner()
    }
}

/// Reads rows, a row group at a time.
pub(super) struct Reader {
    from: SerializedFileReader<File>,
    groups: usize,
    columns: Vec<Column>,
    /// Of the group in memory: how many rows, and how many were given out.
    rows: usize,
    given: usize,
}

impl Reader {
    /// # Errors
    /// When it is no Parquet file, or has not the columns of this version.
    pub(super) fn new(file: File) -> Result<Self, RowError> {
        let from = SerializedFileReader::new(file)?;
        let found = from.metadata().file_metadata().schema_descr().root_schema_ptr();
        if *found != *schema()? {
            return Err(RowError::Layout("it has other columns than this version's".to_owned()));
        }
        let columns = COLUMNS.map(Column::of).into();
        Ok(Self { from, groups: 0, columns, rows: 0, given: 0 })
    }

    /// The next row.
    pub(super) fn read(&mut self) -> Result<Option<Record>, RowError> {
        while self.given == self.rows {
            if self.groups == self.from.num_row_groups() {
                return Ok(None);
            }
            self.load()?;
        }
        let mut cells: Cells = [const { Value::Null }; COLUMNS.len()];
        for (cell, column) in cells.iter_mut().zip(&mut self.columns) {
            *cell = column.take(self.given)?;
        }
        self.given += 1;
        Ok(Some(Record::of_cells(&cells)?))
    }

    fn load(&mut self) -> Result<(), RowError> {
        let group = self.from.get_row_group(self.groups)?;
        let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(usize::MAX);
        if rows > ROWS {
            let what = format!("a row group of {rows} rows, where {ROWS} are the most");
            return Err(RowError::Layout(what));
        }
        for (at, column) in self.columns.iter_mut().enumerate() {
            column.clear();
            column.fill(group.get_column_reader(at)?, rows)?;
        }
        (self.groups, self.rows, self.given) = (self.groups + 1, rows, 0);
        Ok(())
    }
}

/// The schema of version 1.
fn schema() -> Result<TypePtr, ParquetError> {
    let mut text = String::from("message flow {");
    for column in COLUMNS {
        let repetition = if column.optional { "optional" } else { "required" };
        let (physical, logical) = match column.kind {
            Kind::Time => ("int64", " (timestamp(micros,true))"),
            Kind::Int => ("int64", ""),
            Kind::Text => ("binary", " (string)"),
            Kind::Flag => ("boolean", ""),
        };
        text.push_str(&format!(" {repetition} {physical} {}{logical};", column.name));
    }
    text.push_str(" }");
    parse_message_type(&text).map(Arc::new)
}

enum Values {
    Int(Vec<i64>),
    Text(Vec<ByteArray>),
    Flag(Vec<bool>),
}

/// One column of a row group.
struct Column {
    name: &'static str,
    kind: Kind,
    optional: bool,
    values: Values,
    /// 1 where there is a value, 0 where it is empty; of optional columns.
    levels: Vec<i16>,
    /// How many values were taken.
    taken: usize,
}

impl Column {
    fn of(column: super::record::Column) -> Self {
        let super::record::Column { name, kind, optional } = column;
        let values = match kind {
            Kind::Time | Kind::Int => Values::Int(Vec::new()),
            Kind::Text => Values::Text(Vec::new()),
            Kind::Flag => Values::Flag(Vec::new()),
        };
        Self { name, kind, optional, values, levels: Vec::new(), taken: 0 }
    }

    fn clear(&mut self) {
        match &mut self.values {
            Values::Int(values) => values.clear(),
            Values::Text(values) => values.clear(),
            Values::Flag(values) => values.clear(),
        }
        self.levels.clear();
        self.taken = 0;
    }

    fn push(&mut self, cell: &Value) {
        if self.optional {
            self.levels.push((*cell != Value::Null).into());
        }
        match (&mut self.values, cell) {
            (Values::Int(values), Value::Int(value) | Value::Time(value)) => values.push(*value),
            (Values::Text(values), Value::Text(text)) => values.push(text.as_str().into()),
            (Values::Flag(values), Value::Flag(flag)) => values.push(*flag),
            // A cell's kind is its column's; the writer finds a value too few.
            _ => {}
        }
    }

    /// Reads `rows` rows of a group.
    fn fill(&mut self, reader: ColumnReader, rows: usize) -> Result<(), RowError> {
        let levels = self.optional.then_some(&mut self.levels);
        let read = match (reader, &mut self.values) {
            (ColumnReader::Int64ColumnReader(from), Values::Int(to)) => all(from, rows, levels, to),
            (ColumnReader::ByteArrayColumnReader(from), Values::Text(to)) => {
                all(from, rows, levels, to)
            }
            (ColumnReader::BoolColumnReader(from), Values::Flag(to)) => all(from, rows, levels, to),
            _ => return Err(self.wrong("has another type")),
        };
        if read? < rows { Err(self.wrong("has fewer rows than others")) } else { Ok(()) }
    }

    /// The cell of the row `at`; rows are taken in order.
    fn take(&mut self, at: usize) -> Result<Value, RowError> {
        if self.optional && self.levels.get(at) == Some(&0) {
            return Ok(Value::Null);
        }
        let next = self.taken;
        let value = match (&mut self.values, self.kind) {
            (Values::Int(values), Kind::Time) => values.get(next).map(|value| Value::Time(*value)),
            (Values::Int(values), _) => values.get(next).map(|value| Value::Int(*value)),
            (Values::Flag(values), _) => values.get(next).map(|flag| Value::Flag(*flag)),
            (Values::Text(values), _) => values
                .get(next)
                .and_then(|text| text.as_utf8().ok())
                .map(|text| Value::Text(text.to_owned())),
        };
        self.taken += 1;
        value.ok_or_else(|| self.wrong("has no readable value here"))
    }

    fn wrong(&self, what: &str) -> RowError {
        RowError::Layout(format!("column {} {what}", self.name))
    }
}

/// Reads up to `rows` rows of a column; gives how many there were.
fn all<T: DataType>(
    mut from: ColumnReaderImpl<T>,
    rows: usize,
    mut levels: Option<&mut Vec<i16>>,
    to: &mut Vec<T::T>,
) -> Result<usize, ParquetError> {
    let mut read = 0;
    while read < rows {
        match from.read_records(rows - read, levels.as_deref_mut(), None, to)?.0 {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::records;
    use super::*;

    #[test]
    fn rows_read_as_they_were_written_over_more_than_one_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let mut writer = Writer::new(File::create(&path).unwrap()).unwrap();
        let records = records();
        let rows = ROWS + ROWS / 2;
        for record in records.iter().cycle().take(rows) {
            writer.write(&record.cells().unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let mut reader = Reader::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.from.num_row_groups(), 2);
        for record in records.iter().cycle().take(rows) {
            assert_eq!(reader.read().unwrap().as_ref(), Some(record));
        }
        assert_eq!(reader.read().unwrap(), None);
    }

    #[test]
    fn what_is_no_parquet_of_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let open = || Reader::new(File::open(&path).unwrap());
        std::fs::write(&path, "time,since\n").unwrap();
        assert!(matches!(open(), Err(RowError::Parquet(_))));

        let schema = parse_message_type("message flow { required int64 time; }").unwrap();
        let out = File::create(&path).unwrap();
        let mut other = SerializedFileWriter::new(out, Arc::new(schema), Arc::default()).unwrap();
        other.finish().unwrap();
        let error = open().map(|_reader| ()).unwrap_err().to_string();
        assert_eq!(error, "it has other columns than this version's");
    }
}
