//! Tables for a terminal: aligned columns, numbers in units, as wide as there is room.

use std::io::IsTerminal;

/// What a table is printed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Its width in columns; `None` where lines may have any length (a file, a pipe).
    pub width: Option<usize>,
    /// Whether it takes colours.
    pub colour: bool,
}

impl Screen {
    /// A file or a pipe.
    pub const PLAIN: Self = Self { width: None, colour: false };

    /// Standard output as it is: a terminal or not.
    #[must_use]
    pub fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return Self::PLAIN;
        }
        let width = terminal_size::terminal_size_of(&stdout).map(|(width, _)| width.0.into());
        Self { width, colour: true }
    }
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its title.
    pub title: &'static str,
    /// Whether its cells are numbers, which stand to the right.
    pub right: bool,
    /// How easily it is left out where there is no room: 0 never, then the highest first.
    pub spare: u8,
}

impl Column {
    /// A column of texts.
    #[must_use]
    pub const fn text(title: &'static str, spare: u8) -> Self {
        Self { title, right: false, spare }
    }

    /// A column of numbers.
    #[must_use]
    pub const fn number(title: &'static str, spare: u8) -> Self {
        Self { title, right: true, spare }
    }
}

/// A table. Every row has a cell for each column.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
    /// How many rows at the end are sums, set off by a line.
    pub sums: usize,
}

impl Table {
    /// The table as text, each line ended.
    #[must_use]
    pub fn render(&self, screen: Screen) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, column)| {
                let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|cell| width(cell));
                cells.max().unwrap_or(0).max(width(column.title))
            })
            .collect();
        let shown = self.shown(&widths, screen.width);
        let mut text = String::new();
        let titles: Vec<&str> = self.columns.iter().map(|column| column.title).collect();
        let (bold, plain) = if screen.colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        text.push_str(bold);
        self.line(&mut text, &titles, &widths, &shown);
        text.truncate(text.trim_end().len());
        text.push_str(plain);
        text.push('\n');
        let sums = self.rows.len().saturating_sub(self.sums);
        for (number, row) in self.rows.iter().enumerate() {
            if number == sums {
                let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                self.line(&mut text, &dashes, &widths, &shown);
            }
            self.line(&mut text, row, &widths, &shown);
        }
        text
    }

    /// Which columns there is room for.
    fn shown(&self, widths: &[usize], room: Option<usize>) -> Vec<usize> {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let Some(room) = room else { return shown };
        loop {
            let taken: usize = shown.iter().filter_map(|i| widths.get(*i)).map(|w| w + GAP).sum();
            let spare = |i: &usize| self.columns.get(*i).map_or(0, |column| column.spare);
            let most = shown.iter().copied().max_by_key(spare).filter(|i| spare(i) > 0);
            match most {
                Some(most) if taken > room + GAP => shown.retain(|i| *i != most),
                _ => return shown,
            }
        }
    }

    fn line(
        &self,
        text: &mut String,
        cells: &[impl AsRef<str>],
        widths: &[usize],
        shown: &[usize],
    ) {
        let start = text.len();
        for &i in shown {
            let (Some(column), Some(&wide)) = (self.columns.get(i), widths.get(i)) else {
                continue;
            };
            let cell = cells.get(i).map_or("", AsRef::as_ref);
            let pad = " ".repeat(wide.saturating_sub(width(cell)));
            let (before, after) =
                if column.right { (pad.as_str(), "") } else { ("", pad.as_str()) };
            for part in [before, cell, after, "  "] {
                text.push_str(part);
            }
        }
        let end = text.trim_end_matches(' ').len().max(start);
        text.truncate(end);
        text.push('\n');
    }
}

/// A number of bytes in the largest unit it fills: `512 B`, `1.5 KiB`, `118 GiB`.
#[must_use]
pub fn bytes(count: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut amount = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if amount.abs() < 1023.5 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    if unit == "B" || amount.abs() >= 99.95 {
        format!("{amount:.0} {unit}")
    } else {
        format!("{amount:.1} {unit}")
    }
}

/// A number with its thousands set apart: `1,234,567`.
#[must_use]
pub fn number(count: i64) -> String {
    let digits = count.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if count < 0 {
        text.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Columns between two cells.
const GAP: usize = 2;

/// Columns that a text takes: our texts have no wide characters.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            columns: vec![
                Column::text("SRC", 0),
                Column::number("BYTES", 0),
                Column::number("PACKETS", 2),
                Column::text("NODE", 1),
            ],
            rows: vec![
                vec!["10.0.0.1".into(), "1.5 MiB".into(), "1,200".into(), "gw1".into()],
                vec!["fd00::1".into(), "3 B".into(), "1".into(), "gateway2".into()],
                vec!["total".into(), "1.5 MiB".into(), "1,201".into(), String::new()],
            ],
            sums: 1,
        }
    }

    #[test]
    fn columns_are_aligned_and_sums_set_off() {
        let expected = "\
SRC         BYTES  PACKETS  NODE
10.0.0.1  1.5 MiB    1,200  gw1
fd00::1       3 B        1  gateway2
--------  -------  -------  --------
total     1.5 MiB    1,201
";
        assert_eq!(table().render(Screen::PLAIN), expected);
    }

    #[test]
    fn what_can_be_spared_goes_where_there_is_no_room() {
        let header = |width| {
            let text = table().render(Screen { width: Some(width), colour: false });
            text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(header(36), "SRC BYTES PACKETS NODE");
        assert_eq!(header(35), "SRC BYTES NODE");
        assert_eq!(header(20), "SRC BYTES");
        assert_eq!(header(3), "SRC BYTES", "what is needed stays");
        let colours = table().render(Screen { width: None, colour: true });
        assert!(colours.starts_with("\x1b[1mSRC         BYTES  PACKETS  NODE\x1b[0m\n"));
    }

    #[test]
    fn numbers_are_readable() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_349, "100 KiB"),
            (1_048_575, "1.0 MiB"),
            (126_701_535_232, "118 GiB"),
            (-2048, "-2.0 KiB"),
            (i64::MAX, "8.0 EiB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
        for (count, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(number(count), text);
        }
    }
}
