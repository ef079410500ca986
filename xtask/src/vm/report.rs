//! What the tests in a machine said, line by line, and the table of all machines: pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What one machine's console has told of its tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    tests: BTreeMap<String, Outcome>,
    /// What passed tests have printed.
    said: Vec<String>,
    /// Whose output the next lines are.
    of: Option<String>,
    /// A test whose outcome stands on a later line: it or its kernel wrote something between.
    running: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Report {
    /// Takes the next line in.
    pub(super) fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, outcome)) = rest.split_once(" ... ")
        {
            let name = name.trim_start_matches("kernel::").to_owned();
            self.running = Some(name);
            self.outcome(outcome);
        } else if self.running.is_some() && matches!(line, "ok" | "FAILED") {
            self.outcome(line);
        } else if let Some(of) = line.strip_prefix("---- ") {
            let name = of.split(' ').next().unwrap_or_default();
            self.of = Some(name.trim_start_matches("kernel::").to_owned());
        } else if line.is_empty() {
            self.of = None;
        } else if let Some(name) = &self.of
            && let Some(outcome @ Outcome::Passed) = self.tests.get(name).copied()
        {
            if line.contains("skipped") && outcome == Outcome::Passed {
                self.tests.insert(name.clone(), Outcome::Skipped);
            }
            self.said.push(line.to_owned());
        }
    }

    /// What passed and skipped tests have printed: figures, and why they were skipped.
    pub(super) fn said(&self) -> &[String] {
        &self.said
    }

    /// How many tests there were.
    pub(super) fn count(&self) -> usize {
        self.tests.len()
    }

    fn outcome(&mut self, text: &str) {
        let outcome = match text.trim() {
            text if text.ends_with("ok") => Outcome::Passed,
            text if text.ends_with("FAILED") => Outcome::Failed,
            text if text.starts_with("ignored") => Outcome::Skipped,
            _ => return,
        };
        if let Some(name) = self.running.take() {
            self.tests.insert(name, outcome);
        }
    }
}

/// Kernel by test: a column for each machine, a row for each test; where a machine has no report,
/// or a report has no such test, nothing was run.
pub(super) fn table(machines: &[(String, Option<&Report>)]) -> String {
    let reports = machines.iter().filter_map(|(_, report)| *report);
    let mut names: Vec<&String> = reports.flat_map(|report| report.tests.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let wide = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut text = format!("{:wide$}", "");
    for (kernel, _) in machines {
        let _never_fails = write!(text, "  {kernel}");
    }
    for name in names {
        let _never_fails = write!(text, "\n{name:wide$}");
        for (kernel, report) in machines {
            let outcome = report.and_then(|report| report.tests.get(name));
            let word = match outcome {
                Some(Outcome::Passed) => "ok",
                Some(Outcome::Failed) => "FAILED",
                Some(Outcome::Skipped) => "skipped",
                None => "-",
            };
            let _never_fails = write!(text, "  {word:<width$}", width = kernel.len());
        }
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &str) -> Report {
        let mut report = Report::default();
        lines.lines().for_each(|line| report.line(line));
        report
    }

    #[test]
    fn outcomes_and_what_was_printed_are_read() {
        let report = report(
            "running 4 tests
test kernel::life::a ... ok
test kernel::life::b ... [   12.3] a word of the kernel
ok
test kernel::life::c ... FAILED
test kernel::life::d ... ok
test kernel::life::e ... ignored

successes:

---- kernel::life::a stdout ----
life: 7 of 7

---- kernel::life::d stdout ----
d: skipped, no type information

failures:

---- kernel::life::c stdout ----
a panic
",
        );
        assert_eq!((report.count(), report.said().len()), (5, 2));
        assert_eq!(report.said()[0], "life: 7 of 7");
        let table = table(&[("6.1".into(), Some(&report)), ("7.2.13".into(), None)]);
        assert_eq!(
            table,
            "         6.1  7.2.13
life::a  ok   -
life::b  ok   -
life::c  FAILED  -
life::d  skipped  -
life::e  skipped  -"
        );
    }
}
