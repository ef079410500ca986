//! What the doctor says: findings, and how they are printed.

use std::io::{self, Write};

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Looked at and right.
    Ok,
    /// Worth knowing; no figure is wrong or missing for it.
    Note,
    /// It could not be looked at.
    Unknown,
    /// Figures are or will be wrong or missing until it is cured.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check: a fixed name, the same for every outcome.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The namespace, address or folder it is about, where there may be several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What was found, one line.
    pub text: String,
    /// What to do, one line; always there for a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    fn new(check: &'static str, severity: Severity, text: impl Into<String>) -> Self {
        Self { check, severity, subject: None, text: line(text.into()), cure: None }
    }

    /// Something that is right.
    pub(super) fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, text)
    }

    /// Something worth knowing.
    pub(super) fn note(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Severity::Note, text)
    }

    /// Something that could not be looked at.
    pub(super) fn unknown(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Severity::Unknown, text)
    }

    /// Something that must be cured, and how.
    pub(super) fn problem(
        check: &'static str,
        text: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self::new(check, Severity::Problem, text).cure(cure)
    }

    /// With what to do.
    pub(super) fn cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(line(cure.into())), ..self }
    }

    /// About this one.
    pub(super) fn about(self, subject: &str) -> Self {
        Self { subject: Some(subject.to_owned()), ..self }
    }
}

/// Everything in one line, whatever a kernel or a peer has said.
fn line(text: String) -> String {
    text.replace(char::is_control, " ")
}

/// How many problems there are.
#[must_use]
pub fn problems(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.severity == Severity::Problem).count()
}

/// Prints findings for people: problems last, where the eye is; each cure below its finding.
///
/// # Errors
/// When it cannot be written.
pub fn print(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for finding in sorted {
        let word = match finding.severity {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Unknown => "unknown",
            Severity::Problem => "PROBLEM",
        };
        let subject = finding.subject.as_ref().map(|subject| format!("{subject}: "));
        let subject = subject.unwrap_or_default();
        writeln!(out, "{word:7}  {:width$}  {subject}{}", finding.check, finding.text)?;
        if let Some(cure) = &finding.cure {
            writeln!(out, "{:7}  {:width$}  -> {cure}", "", "")?;
        }
    }
    match problems(findings) {
        0 => writeln!(out, "nothing is wrong"),
        1 => writeln!(out, "1 problem: figures are or will be wrong or missing"),
        many => writeln!(out, "{many} problems: figures are or will be wrong or missing"),
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'f> {
    version: &'static str,
    problems: usize,
    findings: &'f [Finding],
}

/// Prints findings as one JSON object.
///
/// # Errors
/// When it cannot be written.
pub fn print_json(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let report = Report { version, problems: problems(findings), findings };
    serde_json::to_writer(&mut *out, &report)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Finding> {
        vec![
            Finding::problem("conntrack.fill", "91 % full\nof 100", "raise it").about("own"),
            Finding::ok("kernel.version", "Linux 6.12"),
        ]
    }

    #[test]
    fn people_read_lines_with_the_worst_last() {
        let mut out = Vec::new();
        print(&some(), &mut out).unwrap();
        let expected = "\
ok       kernel.version  Linux 6.12
PROBLEM  conntrack.fill  own: 91 % full of 100
                         -> raise it
1 problem: figures are or will be wrong or missing
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        print(&some()[1..], &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("nothing is wrong\n"));
    }

    #[test]
    fn programs_read_json() {
        let mut out = Vec::new();
        print_json(&some(), &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["problems"], 1);
        let first = &value["findings"][0];
        assert_eq!((&first["severity"], &first["subject"]), (&"problem".into(), &"own".into()));
        assert_eq!(first["cure"], "raise it");
        assert!(value["findings"][1].get("cure").is_none());
    }
}
