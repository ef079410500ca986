//! Rules about documents: the ones everybody looks for exist, and their links lead somewhere.

use std::path::Path;

use super::{File, Finding};

/// Documents a stranger looks for.
const EXPECTED: &[&str] = &["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md"];

/// A map, not a book.
const MAX_ARCHITECTURE_LINES: usize = 400;

pub(super) fn check_presence(files: &[File], findings: &mut Vec<Finding>) {
    for name in EXPECTED {
        if !files.iter().any(|file| file.path == *name) {
            let what = "does not exist, and everybody looks for it".to_owned();
            findings.push(Finding { file: (*name).to_owned(), line: 0, what });
        }
    }
}

pub(super) fn check(file: &File, root: &Path, findings: &mut Vec<Finding>) {
    if !file.path.ends_with(".md") {
        return;
    }
    let lines = file.text.lines().count();
    if file.path == "ARCHITECTURE.md" && lines > MAX_ARCHITECTURE_LINES {
        findings.push(file.finding(0, format!("{lines} lines, limit {MAX_ARCHITECTURE_LINES}")));
    }
    let here = Path::new(&file.path).parent().unwrap_or_else(|| Path::new(""));
    for (line, target) in links(&file.text) {
        let path = target.split(['#', '?']).next().unwrap_or_default();
        if path.is_empty() {
            if !anchors(&file.text).contains(&target.trim_start_matches('#').to_owned()) {
                findings.push(file.finding(line, format!("no heading for the link {target}")));
            }
            continue;
        }
        let from = if path.starts_with('/') { Path::new("") } else { here };
        if !root.join(from).join(path.trim_start_matches('/')).exists() {
            findings.push(file.finding(line, format!("the link to {target} leads nowhere")));
        }
    }
}

/// Links and pictures that stay inside the repository, with their line; code is left out.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second piece between backquotes is code.
        for piece in line.split('`').step_by(2) {
            for rest in piece.split("](").skip(1) {
                let target = rest.split([')', ' ']).next().unwrap_or_default();
                let outside = target.contains("://") || target.starts_with("mailto:");
                if !target.is_empty() && !outside {
                    found.push((number, target.to_owned()));
                }
            }
        }
    }
    found
}

/// Names that headings get: lower case, spaces become dashes, other signs go.
fn anchors(text: &str) -> Vec<String> {
    let heading = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    text.lines().filter(|line| line.starts_with('#')).map(heading).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<usize> {
        let mut out = Vec::new();
        let file = File { path: "xtask/a.md".into(), text: text.into() };
        check(&file, Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")), &mut out);
        out.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn dead_links_are_found_with_their_line() {
        assert_eq!(findings("fine\n[a](nowhere.md) ![b](/Cargo.toml) [c](../no/x.png)\n"), [2, 2]);
        assert_eq!(findings("# A heading\n[a](#a-heading) [b](#another)\n"), [2]);
    }

    #[test]
    fn living_links_web_links_and_code_are_not() {
        assert_eq!(findings("[a](../Cargo.toml#x) [b](https://example.net/x.md)"), [0usize; 0]);
        assert_eq!(findings("`[a](no.md)`\n```\n[a](no.md)\n```\n"), [0usize; 0]);
    }

    #[test]
    fn missing_documents_are_named() {
        let mut out = Vec::new();
        check_presence(&[File { path: "README.md".into(), text: String::new() }], &mut out);
        assert_eq!(out.len(), EXPECTED.len() - 1);
    }
}
