//! Tells the library which build it is part of.
//!
//! A release build asks git for the commit (or takes `CONNTRACCT_BUILD_COMMIT`, for builds from
//! an archive); other builds do not, so that a commit does not rebuild everything.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CONNTRACCT_BUILD_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match std::env::var("CONNTRACCT_BUILD_COMMIT") {
        Ok(commit) => commit,
        Err(_) if release => git_commit().unwrap_or_default(),
        Err(_) => String::new(),
    };
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=BUILD_SECONDS={}", if release { seconds() } else { String::new() });
    println!("cargo::rustc-env=BUILD_RUSTC={}", rustc_version().unwrap_or_default());
}

/// Seconds since 1970 of this build; `SOURCE_DATE_EPOCH` makes it reproducible.
fn seconds() -> String {
    std::env::var("SOURCE_DATE_EPOCH").unwrap_or_else(|_| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map(|now| now.as_secs().to_string()).unwrap_or_default()
    })
}

fn git_commit() -> Option<String> {
    let head = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={head}");
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let clean = output("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { commit } else { format!("{commit} with local changes") })
}

fn rustc_version() -> Option<String> {
    output(&std::env::var("RUSTC").ok()?, &["--version"])
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
