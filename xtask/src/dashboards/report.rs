//! The table at the end: every query with how often it ran, how many rows it gave, how long it
//! took.

use std::time::Duration;

/// What one dashboard's queries did.
pub(super) struct Report {
    title: String,
    lines: Vec<Line>,
}

struct Line {
    panel: String,
    runs: Vec<(usize, Duration)>,
    wrong: usize,
}

impl Report {
    /// Nothing yet.
    pub(super) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), lines: Vec::new() }
    }

    /// One run of a panel's query.
    pub(super) fn add(&mut self, panel: &str, rows: usize, took: Duration, right: bool) {
        let at = self.lines.iter().position(|line| line.panel == panel).unwrap_or_else(|| {
            self.lines.push(Line { panel: panel.to_owned(), runs: Vec::new(), wrong: 0 });
            self.lines.len() - 1
        });
        self.lines[at].runs.push((rows, took));
        self.lines[at].wrong += usize::from(!right);
    }

    /// Prints the table.
    pub(super) fn print(&self) {
        let width = self.lines.iter().map(|line| line.panel.len()).max().unwrap_or(0);
        eprintln!(
            "\n{:width$}  {:>4}  {:>13}  {:>9}  {:>9}  WRONG",
            self.title.to_uppercase(),
            "RUNS",
            "ROWS",
            "MEDIAN ms",
            "MOST ms",
        );
        for line in &self.lines {
            eprintln!("{}", line.text(width));
        }
    }
}

impl Line {
    fn text(&self, width: usize) -> String {
        let rows = self.runs.iter().map(|(rows, _)| *rows);
        let rows = (rows.clone().min().unwrap_or(0), rows.max().unwrap_or(0));
        let mut times: Vec<u128> = self.runs.iter().map(|(_, took)| took.as_millis()).collect();
        times.sort_unstable();
        let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
        let rows = format!("{} - {}", rows.0, rows.1);
        let Self { panel, runs, wrong } = self;
        format!("{panel:width$}  {:>4}  {rows:>13}  {median:>9}  {most:>9}  {wrong:>5}", runs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_sums_up_its_runs() {
        let mut report = Report::new("x");
        for (rows, ms, right) in [(5, 30, true), (0, 10, false), (7, 20, true)] {
            report.add("Throughput", rows, Duration::from_millis(ms), right);
        }
        let text = report.lines[0].text(12);
        assert_eq!(text, "Throughput       3          0 - 7         20         30      1");
    }
}
