//! `cargo xtask tidy`: house rules that no compiler knows. Every rule says where it is broken and
//! what to do instead.

mod containers;
mod crates;
mod documents;
mod sources;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// One broken rule at one place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Path from the workspace's root.
    file: String,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    /// What is wrong and what to do.
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{}:{line}: {}", self.file, self.what),
        }
    }
}

/// A file of the repository: its path from the root with `/`, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { file: self.path.clone(), line, what: what.into() }
    }
}

/// Checks everything.
///
/// # Errors
/// A rule is broken (all findings have been printed), or a file cannot be read.
pub(crate) fn run() -> Result<()> {
    let root = workspace::root();
    let mut files = Vec::new();
    read_folder(root, "", &mut files)?;
    let mut findings = crates::check()?;
    findings.extend(containers::check(root)?);
    for file in &files {
        sources::check(file, &mut findings);
        documents::check(file, root, &mut findings);
    }
    if let Some(what) = crate::ebpf::check(root)? {
        findings.push(Finding { file: "ebpf/prebuilt/probe.bpfel.o".to_owned(), line: 0, what });
    }
    documents::check_presence(&files, &mut findings);
    findings.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} house rules are broken (see above)", findings.len());
    }
    eprintln!("{} files, all tidy", files.len());
    Ok(())
}

/// Text files the rules speak about, by name's end.
const KINDS: &[&str] = &[".rs", ".md", ".toml", ".sh", ".sql", ".service", ".yml", ".yaml"];

/// Folders that hold nothing of ours, or nothing a rule speaks about.
const SKIPPED: &[&str] = &["target", ".git", "node_modules", "corpus", "artifacts"];

fn read_folder(folder: &Path, path: &str, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("could not list {path:?}"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                read_folder(&entry.path(), &path, files)?;
            }
        } else if kind.is_file() && (path == ".ci/run" || KINDS.iter().any(|k| name.ends_with(k))) {
            let text = fs::read_to_string(entry.path())
                .with_context(|| format!("could not read {path} as text"))?;
            files.push(File { path, text });
        }
    }
    Ok(())
}
