//! Rules about source files: size, names, what they may use.

use super::{File, Finding};

/// A longer file says why in a line beginning with [`LONG_BECAUSE`].
const MAX_LINES: usize = 600;
const LONG_BECAUSE: &str = "// tidy: long because ";
/// `main.rs` holds flags, config, tracing, `run()`.
const MAX_MAIN_LINES: usize = 60;
/// What is longer than this is a program and belongs to `xtask`.
const MAX_SHELL_LINES: usize = 20;
/// Names that say nothing: what is inside has no home yet.
const NAMELESS: &[&str] = &["util", "utils", "helper", "helpers", "common", "manager", "misc"];

/// What of bincode the rest of `wire` may use: the derives of its frozen structs.
const DERIVES: &[&str] = &[concat!("use bin", "code::{Decode, Encode};")];

pub(super) fn check(file: &File, findings: &mut Vec<Finding>) {
    if file.path.ends_with(".rs") {
        rust(file, findings);
    }
    if file.path.ends_with(".sh") || file.text.starts_with("#!") {
        shell(file, findings);
    }
}

fn rust(file: &File, findings: &mut Vec<Finding>) {
    let lines = file.text.lines().count();
    let name = file.path.rsplit('/').next().unwrap_or_default();
    if lines > MAX_LINES && !file.text.lines().any(|line| line.starts_with(LONG_BECAUSE)) {
        findings.push(file.finding(
            0,
            format!(
                "{lines} lines, the limit is {MAX_LINES}: split it into a folder, or say why \
                 not in a line `{LONG_BECAUSE}...`"
            ),
        ));
    }
    if name == "main.rs" && file.path.contains("/src/") && lines > MAX_MAIN_LINES {
        findings.push(file.finding(
            0,
            format!("{lines} lines, a main.rs has at most {MAX_MAIN_LINES}: move it to lib.rs"),
        ));
    }
    // Unit tests in a file of their own belong to the file above them.
    let tests =
        file.path.contains("/src/") && file.path.trim_end_matches("/mod.rs").contains("/tests");
    if !tests && !file.text.trim_start().starts_with("//!") {
        findings.push(file.finding(1, "no `//!` lines: say what this file is and is not"));
    }
    let mut parts = file.path.trim_end_matches(".rs").split('/');
    if let Some(word) = parts.find(|part| NAMELESS.contains(part)) {
        findings
            .push(file.finding(0, format!("a module named {word}: name it after what it does")));
    }
    let codec = file.path.starts_with("wire/src/codec");
    let (path, import) = (concat!("bin", "code::"), concat!("use bin", "code"));
    for (number, line) in (1..).zip(file.text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        let derives = file.path.starts_with("wire/src/") && DERIVES.contains(&code.trim());
        if !codec && !derives && (code.contains(path) || code.contains(import)) {
            findings
                .push(file.finding(number, "bincode outside wire::codec: use wire's functions"));
        }
        if code.contains(concat!("#[", "allow(")) || code.contains(concat!("#![", "allow(")) {
            findings.push(
                file.finding(number, "an allowed lint: use #[expect(lint, reason = \"...\")]"),
            );
        }
        if code.contains(concat!("#[", "ignore]")) {
            findings.push(file.finding(number, "a test ignored without a reason"));
        }
    }
}

fn shell(file: &File, findings: &mut Vec<Finding>) {
    let lines = file.text.lines().count();
    if !file.path.ends_with(".rs") && lines > MAX_SHELL_LINES {
        findings.push(file.finding(
            0,
            format!("a script of {lines} lines, the limit is {MAX_SHELL_LINES}: make it an xtask"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        check(&File { path: path.to_owned(), text: text.to_owned() }, &mut out);
        out.into_iter().map(|finding| (finding.line, finding.what)).collect()
    }

    const IMPORT: &str = concat!("//! x\nuse bin", "code::Encode;\n");

    fn broken(path: &str, text: &str, line: usize, what: &str) {
        let found = findings(path, text);
        assert!(
            found.len() == 1 && found[0].0 == line && found[0].1.contains(what),
            "{path}: wanted {line} {what:?}, found {found:?}"
        );
    }

    #[test]
    fn every_rule_can_be_broken_and_names_the_line() {
        let long = "//! x\n".repeat(601);
        broken("flow/src/a.rs", &long, 0, "601 lines");
        broken("node/src/main.rs", &"//! x\n".repeat(61), 0, "a main.rs has at most 60");
        broken("flow/src/a.rs", "fn a() {}\n", 1, "no `//!` lines");
        broken("node/src/utils.rs", "//! x\n", 0, "named utils");
        broken("node/src/common/a.rs", "//! x\n", 0, "named common");
        broken("wire/src/frame.rs", IMPORT, 2, "outside wire::codec");
        broken("flow/src/a.rs", concat!("//! x\n\n#[", "allow(dead_code)]\n"), 3, "#[expect");
        broken("flow/src/a.rs", concat!("//! x\n#[", "ignore]\n"), 2, "without a reason");
        broken("docker/build.sh", &"true\n".repeat(21), 0, "script of 21 lines");
        broken(".ci/run", &format!("#!/bin/sh\n{}", "true\n".repeat(20)), 0, "script of 21");
    }

    #[test]
    fn what_is_fine_passes() {
        let excused = format!("{LONG_BECAUSE}one table\n{}", "//! x\n".repeat(601));
        assert_eq!(findings("flow/src/a.rs", &format!("//! x\n{excused}")), []);
        assert_eq!(findings("wire/src/codec/control.rs", IMPORT), []);
        let derives = format!("//! x\n{}\n", DERIVES[0]);
        assert_eq!(findings("wire/src/gap.rs", &derives), []);
        assert_eq!(findings("aggregator/src/a.rs", &derives).len(), 1);
        assert_eq!(findings("flow/src/a.rs", "//! x\n// bincode::encode is not here\n"), []);
        assert_eq!(findings("node/src/spool/tests/mod.rs", "fn a() {}\n"), []);
        assert_eq!(findings("node/src/tests.rs", "fn a() {}\n"), []);
        assert_eq!(findings("node/src/commonality.rs", "//! x\n"), []);
    }
}
