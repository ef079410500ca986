//! `cargo xtask test`: everything that must pass before a change lands.
//!
//! `.ci/run` runs the same. All steps but clippy and rustdoc share one set of artifacts, those of
//! the profile `ci`.

use std::io::{BufRead, BufReader, IsTerminal};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lab::Variant;
use crate::steps::Steps;
use crate::workspace::{self, CI_PROFILE, cargo};
use crate::{containers, dashboards, kills, lab, packages, tidy, vm};

/// Flags of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Leave out what needs root or takes long: no lab
    #[arg(long)]
    quick: bool,
    /// Install missing system packages without asking (as root)
    #[arg(long)]
    yes: bool,
}

/// The longest the whole may take on two cores, from nothing.
const LIMIT: Duration = Duration::from_mins(75);

/// Runs all steps.
///
/// # Errors
/// A step failed, system packages are missing, or it took too long.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let with_lab = !flags.quick && workspace::is_root();
    let mut needed = vec![packages::BUILD, packages::TESTS];
    if !flags.quick {
        needed.push(packages::CONTAINERS);
        needed.push(packages::VM);
    }
    if with_lab {
        needed.push(packages::LAB);
    }
    packages::ensure(&needed, flags.yes)?;

    let mut steps = Steps::new();
    let mut summary = None;
    steps.run("format", || workspace::run(&mut cargo(["fmt", "--all", "--check"])));
    steps.run("tidy", tidy::run);
    steps.run("clippy", clippy);
    steps.run("documentation", documentation);
    steps.run("tests", || {
        summary = nextest()?;
        Ok(())
    });
    steps.run("tests in documentation", || {
        let quiet =
            ["test", "--locked", "--workspace", "--doc", "--quiet", "--profile", CI_PROFILE];
        workspace::run(&mut cargo(quiet))
    });
    if flags.quick {
        steps.skip("containers", "--quick");
        steps.skip("dashboards", "--quick");
        steps.skip("kills", "--quick");
        steps.skip("database away", "--quick");
        steps.skip("kernel tests in Linux 6.12", "--quick");
    } else {
        steps.run("containers", containers::check);
        steps.run("dashboards", dashboards::check_few);
        steps.run("kills", || kills::check(20));
        steps.run("database away", || kills::check_away(Duration::from_secs(8)));
        match vm::lacks() {
            None => steps.run("kernel tests in Linux 6.12", vm::smoke),
            Some(why) => steps.skip("kernel tests in Linux 6.12", why),
        }
    }
    if flags.quick {
        steps.skip("lab", "--quick");
    } else if with_lab {
        steps.run("lab", || lab::check(CI_PROFILE));
        steps.run("labs: one flow, one count", || lab::check_once(&Variant::CHEAP, 15, CI_PROFILE));
        steps.run("lab: kill", || lab::check_kill(CI_PROFILE));
        steps.run("lab: burst", || lab::check_burst(CI_PROFILE));
    } else {
        steps.skip("lab", "needs root (network namespaces, nftables): sudo cargo xtask test");
    }
    let done = steps.finish(Some(LIMIT));
    if let Some(summary) = summary {
        eprintln!("{summary}");
    }
    done
}

fn clippy() -> Result<()> {
    let mut command = cargo(["clippy", "--locked", "--workspace", "--all-targets"]);
    command.args(["--profile", CI_PROFILE, "--", "-D", "warnings"]);
    workspace::run(&mut command)
}

fn documentation() -> Result<()> {
    let mut command = cargo(["doc", "--locked", "--workspace", "--no-deps"]);
    command.args(["--document-private-items", "--profile", CI_PROFILE]);
    // Private items are documented too, so that links to them lead somewhere.
    let flags = "-D warnings -A rustdoc::private-intra-doc-links";
    workspace::run(command.env("RUSTDOCFLAGS", flags))
}

/// Runs all tests, with nextest where it is installed. Gives the line that sums them up, so that
/// it can be repeated where everybody looks: at the end.
fn nextest() -> Result<Option<String>> {
    if !workspace::has_program("cargo-nextest") {
        eprintln!("cargo-nextest is not installed, running plain cargo test");
        let plain = ["test", "--locked", "--workspace", "--all-targets", "--profile", CI_PROFILE];
        workspace::run(&mut cargo(plain))?;
        return Ok(None);
    }
    let mut command = cargo(["nextest", "run", "--locked", "--workspace", "--no-fail-fast"]);
    command.args(["--cargo-profile", CI_PROFILE]);
    command.args(["--color", if std::io::stderr().is_terminal() { "always" } else { "never" }]);
    let mut child = command.stderr(Stdio::piped()).spawn().context("could not start nextest")?;
    let said = child.stderr.take().context("nextest has no standard error")?;
    let mut summary = None;
    for line in BufReader::new(said).split(b'\n') {
        let line =
            String::from_utf8_lossy(&line.context("could not read nextest's output")?).into_owned();
        eprintln!("{line}");
        if line.contains("Summary") && line.contains("tests run") {
            summary = Some(line);
        }
    }
    let status = child.wait().context("could not wait for nextest")?;
    if !status.success() {
        bail!("{}", summary.as_deref().map_or("tests failed", str::trim));
    }
    Ok(summary)
}
