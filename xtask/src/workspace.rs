//! Where the workspace is, and how its commands are run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The profile of tests and CI, spelled once so that nothing is built twice.
pub(crate) const CI_PROFILE: &str = "ci";

/// The workspace's root folder.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where cargo puts what it builds: `CARGO_TARGET_DIR`, else `target`, seen from the root, where
/// [`cargo`] runs.
pub(crate) fn target_dir() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// A cargo command in the workspace's root, the same cargo that runs us. It does not see what
/// that cargo has told us of our own package: build scripts look at it, and everything above ring
/// would be built anew whenever a person's own cargo command and one of ours take turns.
pub(crate) fn cargo<I>(arguments: I) -> Command
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let told = name.to_str().is_some_and(|name| TOLD.iter().any(|told| name.starts_with(told)));
        if told {
            command.env_remove(name);
        }
    }
    command
}

/// How variables begin that cargo sets for a program it runs (The Cargo Book, "Environment
/// variables Cargo sets for crates").
const TOLD: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// A command as a person would type it.
pub(crate) fn spell(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a command to its end, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status =
        command.status().with_context(|| format!("could not start `{}`", spell(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", spell(command));
    }
    Ok(())
}

/// Runs a command to its end and gives what it wrote to standard output; what it wrote to
/// standard error is part of the error.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output =
        command.output().with_context(|| format!("could not start `{}`", spell(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", spell(command), output.status, said.trim());
    }
    Ok(output.stdout)
}

/// Whether `name` is a program on the search path (or in /usr/sbin, which a user's often lacks).
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|folder| folder.join(name).is_file())
}

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
