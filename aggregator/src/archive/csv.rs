//! Rows as CSV: a header, then a line a row. No cell ever needs quotes, and none are read.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};

use jiff::Timestamp;

use super::part::RowError;
use super::record::{COLUMNS, Cells, Kind, Record, Value};

/// Bytes of a line at most; the longest that can be written is shorter than 700.
const MOST: u64 = 1_024;

/// The first line.
fn header() -> String {
    COLUMNS.map(|column| column.name).join(",")
}

/// Writes rows.
pub(super) struct Writer<W> {
    out: W,
    line: String,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        writeln!(out, "{}", header())?;
        Ok(Self { out, line: String::new() })
    }

    pub(super) fn write(&mut self, cells: &Cells) -> io::Result<()> {
        self.line.clear();
        for (at, cell) in cells.iter().enumerate() {
            if at > 0 {
                self.line.push(',');
            }
            // Writing into a String cannot fail.
            let _written = match cell {
                Value::Null => Ok(()),
                Value::Time(micros) => match Timestamp::from_microsecond(*micros) {
                    Ok(time) => write!(self.line, "{time:.6}"),
                    Err(error) => return Err(io::Error::other(error)),
                },
                Value::Int(value) => write!(self.line, "{value}"),
                Value::Text(text) => write!(self.line, "{text}"),
                Value::Flag(flag) => write!(self.line, "{flag}"),
            };
        }
        self.line.push('\n');
        self.out.write_all(self.line.as_bytes())
    }

    /// What was written to, when all is in it.
    pub(super) fn finish(self) -> W {
        self.out
    }
}

/// Reads rows.
pub(super) struct Reader<R> {
    from: R,
    line: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// # Errors
    /// When the header is not that of this version.
    pub(super) fn new(from: R) -> Result<Self, RowError> {
        let mut reader = Self { from, line: Vec::new() };
        match reader.next_line()? {
            Some(line) if line == header() => Ok(reader),
            _ => Err(RowError::Layout("its first line does not name the columns".to_owned())),
        }
    }

    /// The next row.
    pub(super) fn read(&mut self) -> Result<Option<Record>, RowError> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        let mut cells: Cells = [const { Value::Null }; COLUMNS.len()];
        let mut texts = line.split(',');
        for (cell, column) in cells.iter_mut().zip(COLUMNS) {
            let wrong = |what: &str| RowError::Layout(format!("column {} {what}", column.name));
            let text = texts.next().ok_or_else(|| wrong("is missing"))?;
            *cell = match (text, column.kind) {
                ("", _) => Value::Null,
                (_, Kind::Time) => {
                    let time: Timestamp = text.parse().map_err(|_error| wrong("is no time"))?;
                    Value::Time(time.as_microsecond())
                }
                (_, Kind::Int) => Value::Int(text.parse().map_err(|_error| wrong("is no number"))?),
                (_, Kind::Text) => Value::Text(text.to_owned()),
                ("true", Kind::Flag) => Value::Flag(true),
                ("false", Kind::Flag) => Value::Flag(false),
                (_, Kind::Flag) => return Err(wrong("is neither true nor false")),
            };
        }
        if texts.next().is_some() {
            return Err(RowError::Layout("there are more columns than belong".to_owned()));
        }
        Ok(Some(Record::of_cells(&cells)?))
    }

    fn next_line(&mut self) -> Result<Option<&str>, RowError> {
        self.line.clear();
        let read = (&mut self.from).take(MOST).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        let Some((b'\n', line)) = self.line.split_last() else {
            return Err(RowError::Layout("the line does not end".to_owned()));
        };
        let text = std::str::from_utf8(line);
        text.map(Some).map_err(|_error| RowError::Layout("the line is no UTF-8".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::records;
    use super::*;

    fn written() -> String {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for record in records() {
            writer.write(&record.cells().unwrap()).unwrap();
        }
        String::from_utf8(writer.finish()).unwrap()
    }

    #[test]
    fn lines_read_as_they_were_written_and_never_change() {
        let text = written();
        let mut reader = Reader::new(text.as_bytes()).unwrap();
        for record in records() {
            assert_eq!(reader.read().unwrap(), Some(record));
        }
        assert_eq!(reader.read().unwrap(), None);
        // Files of version 1 must read for ever.
        assert_eq!(text, format!("{}\n{FULL}\n{EMPTY}\n", header()));
        assert!(text.lines().all(|line| line.len() < 700));
    }

    const FULL: &str = "2023-11-14T22:13:20.000001Z,2023-11-14T22:13:10.000000Z,250,\
        2023-11-14T22:13:20.000002Z,gw-1.example,4294967295,abababababababababababababababab,\
        65535,6,10.0.0.1,4000,192.0.2.1,443,198.51.100.1,1024,192.0.2.1,443,1,\
        9223372036854775807,3,4,5,6,7,8,4294967295,4278190079,3,9,7,8,\
        1969-12-31T23:59:59.999999Z,2023-11-14T22:13:19.000000Z,1700000000123456789,0,true";
    const EMPTY: &str = "2023-11-14T22:13:20.000001Z,,,,gw-1.example,4294967295,\
        abababababababababababababababab,65535,17,fd00::1,4000,fd00::2,443,fd00::1,4000,fd00::2,\
        443,1,9223372036854775807,3,4,5,6,7,8,4294967295,4278190079,3,9,7,8,,\
        2023-11-14T22:13:19.000000Z,0,5,false";

    #[test]
    fn hostile_lines_are_refused() {
        let text = written();
        let (header, rows) = text.split_once('\n').unwrap();
        let row = rows.lines().next().unwrap();
        let read = |text: &[u8]| Reader::new(text).and_then(|mut reader| reader.read());
        assert!(read(text.as_bytes()).is_ok());
        let with = |row: &str| format!("{header}\n{row}\n");
        for (text, said) in [
            (format!("{row}\n"), "its first line does not name the columns"),
            (format!("\u{feff}{}", with(row)), "its first line does not name the columns"),
            (with(&format!("{row},1")), "there are more columns than belong"),
            (with(&row[..row.len() - 5]), "column fresh is missing"),
            (with(&row[..row.len() - 4]), "column fresh is neither"),
            (with("1"), "column time is no time"),
            (with(&row.replacen("gw-1.example", "\"gw-1\"", 1)), "column node is wrong"),
            (with(&row.replacen("gw-1.example", "=cmd|' /C calc'!A0", 1)), "column node is wrong"),
            (with(&row.replacen("gw-1.example", "gw-1\0", 1)), "column node is wrong"),
            (with(&row.replacen("4000", "4e3", 1)), "column sport is no number"),
            (with(&row.replacen("4000", "99999999999999999999", 1)), "column sport is no number"),
            (format!("{header}\n{}", "1".repeat(5_000)), "the line does not end"),
            (format!("{header}\n{row}"), "the line does not end"),
        ] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}: {text}");
        }
        let latin = [format!("{header}\n").as_bytes(), b"\xe9\n"].concat();
        assert_eq!(read(&latin).unwrap_err().to_string(), "the line is no UTF-8");
    }
}
