//! The self-test's result, for people and for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::check::{Check, Verdict};

/// What was tested and how it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: &'static str,
    /// `uname -r`.
    pub kernel: String,
    /// The source that was tested; `None` where none could be opened.
    pub source: Option<&'static str>,
    /// Why it is not the one that was wished for, or why there is none.
    pub reason: Option<String>,
    /// The checks in order.
    pub checks: Vec<Check>,
}

impl Report {
    /// How many checks failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.count(Verdict::Fail)
    }

    /// How many passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.count(Verdict::Pass)
    }

    /// How many were not made.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.count(Verdict::Skipped)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.result == verdict).count()
    }

    /// Prints it, one line a check.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { version, kernel, source, reason, checks } = self;
        let tested = match (source, reason) {
            (Some(source), None) => format!("source {source}"),
            (Some(source), Some(reason)) => {
                format!("source {source}, eBPF cannot be used: {reason}")
            }
            (None, Some(reason)) => format!("no source: {reason}"),
            (None, None) => "no source".to_owned(),
        };
        writeln!(out, "conntracct-node {version} on Linux {kernel}, {tested}")?;
        let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for Check { name, result, detail } in checks {
            let word = match result {
                Verdict::Pass => "pass",
                Verdict::Fail => "FAIL",
                Verdict::Skipped => "skipped",
            };
            writeln!(out, "{word:7}  {name:width$}  {detail}")?;
        }
        let (passed, failed, skipped) = (self.passed(), self.failed(), self.skipped());
        writeln!(out, "{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// Prints it as one JSON object.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn print_json(&self, out: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Whole<'r> {
            #[serde(flatten)]
            report: &'r Report,
            passed: usize,
            failed: usize,
            skipped: usize,
        }
        let (passed, failed, skipped) = (self.passed(), self.failed(), self.skipped());
        serde_json::to_writer(&mut *out, &Whole { report: self, passed, failed, skipped })?;
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            version: "1.0",
            kernel: "6.12".to_owned(),
            source: Some("netlink"),
            reason: Some("no kprobes".to_owned()),
            checks: vec![
                Check::of("udp v4", Ok("3 packets".to_owned())),
                Check::of("mark", Err("the mark: sent 42, reported 0".to_owned())),
                Check::skipped("snat v6", "the kernel has no IPv6 NAT"),
            ],
        }
    }

    #[test]
    fn people_get_a_line_a_check() {
        let mut out = Vec::new();
        report().print(&mut out).unwrap();
        let expected = "\
conntracct-node 1.0 on Linux 6.12, source netlink, eBPF cannot be used: no kprobes
pass     udp v4   3 packets
FAIL     mark     the mark: sent 42, reported 0
skipped  snat v6  the kernel has no IPv6 NAT
1 passed, 1 failed, 1 skipped
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn programs_get_json() {
        let mut out = Vec::new();
        report().print_json(&mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&value["source"], &value["failed"]), (&"netlink".into(), &1.into()));
        assert_eq!(value["checks"][2]["result"], "skipped");
    }
}
