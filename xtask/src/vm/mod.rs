//! `cargo xtask vm`: the kernel tests, or a command, inside a real kernel: one of Debian's, in an
//! emulated machine that has nothing but an initramfs. Needs no root and touches nothing of the
//! host's kernel. Emulated time says nothing about speed.

mod cpio;
mod image;
mod kernel;
mod machine;
mod report;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::packages;
use kernel::{Arch, Kernel};
use machine::Verdict;

/// Flags of `cargo xtask vm`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Which kernel; all of them without it
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// Install missing system packages without asking (as root)
    #[arg(long)]
    yes: bool,
    /// What to run there instead of the kernel tests: a shell command line
    #[arg(last = true)]
    command: Vec<String>,
}

/// What ran in one kernel.
struct Row {
    kernel: Kernel,
    /// Its release and how it went; `None` where the kernel cannot be had.
    outcome: Option<(String, Verdict)>,
}

/// Runs the tests or the command in one kernel or all.
///
/// # Errors
/// A test failed, or a machine could not be built. A kernel that cannot be had is told and left
/// out, but where it was asked for by name.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    packages::ensure(&[packages::VM], flags.yes)?;
    let arch = flags.kernel.map_or(Arch::Amd64, Kernel::arch);
    if arch == Arch::Arm64 {
        packages::ensure(&[packages::ARM64], flags.yes)?;
    }
    let programs = image::Programs::build(arch)?;
    let command = match flags.command.as_slice() {
        [] => KERNEL_TESTS.to_owned(),
        words => words.join(" "),
    };
    let kernels = flags.kernel.map_or_else(|| Kernel::ALL.to_vec(), |kernel| vec![kernel]);
    let mut rows = Vec::new();
    for kernel in kernels {
        let outcome = match kernel.fetch() {
            Ok(fetched) => {
                let initramfs = image::build(kernel, &fetched, &programs, &command)?;
                let verdict = machine::run(&fetched, arch, &initramfs, LIMIT)?;
                Some((fetched.release, verdict))
            }
            Err(error) if flags.kernel.is_none() => {
                eprintln!("{kernel:?} cannot be had: {error:#}");
                None
            }
            Err(error) => return Err(error),
        };
        rows.push(Row { kernel, outcome });
    }
    summarize(&rows)
}

/// Why the smoke test cannot run: its kernel is not here and cannot be fetched.
pub(crate) fn lacks() -> Option<String> {
    Kernel::V6_12.fetch().err().map(|error| format!("{error:#}"))
}

/// Why nothing can be run on arm64: its kernel is not here and cannot be fetched, or there is no
/// compiler for it.
pub(crate) fn lacks_arm64() -> Option<String> {
    let target = image::lacks_target();
    target.or_else(|| Kernel::Arm64.fetch().err().map(|error| format!("{error:#}")))
}

/// The smoke test of `cargo xtask test`: the short kernel tests in Linux 6.12.
///
/// # Errors
/// As [`run`].
pub(crate) fn smoke() -> Result<()> {
    let command = vec![format!("{KERNEL_TESTS} {SKIP_LONG}")];
    run(&Flags { kernel: Some(Kernel::V6_12), yes: false, command })
}

/// The kernel tests in all kernels.
///
/// # Errors
/// As [`run`].
pub(crate) fn matrix() -> Result<()> {
    run(&Flags { kernel: None, yes: false, command: Vec::new() })
}

/// The kernel tests with a static node in an emulated arm64 machine.
///
/// # Errors
/// As [`run`]; the compiler for it is missing.
pub(crate) fn arm64() -> Result<()> {
    run(&Flags { kernel: Some(Kernel::Arm64), yes: false, command: Vec::new() })
}

fn summarize(rows: &[Row]) -> Result<()> {
    let mut failed = 0;
    let mut columns = Vec::new();
    eprintln!("\nkernel        result");
    for Row { kernel, outcome } in rows {
        match outcome {
            None => {
                eprintln!("{kernel:?}: not run, it cannot be had");
                columns.push((format!("{kernel:?}"), None));
            }
            Some((release, verdict)) => {
                failed += usize::from(!verdict.passed);
                let word = if verdict.passed { "passed" } else { "FAILED" };
                let seconds = verdict.took.as_secs_f64();
                eprintln!("{release}: {word} in {seconds:.0} s  {}", verdict.summary);
                verdict.report.said().iter().for_each(|line| eprintln!("    {line}"));
                columns.push((release.clone(), Some(&verdict.report)));
            }
        }
    }
    if columns.iter().any(|(_, report)| report.is_some_and(|report| report.count() > 0)) {
        eprintln!("\n{}", report::table(&columns));
    }
    if failed > 0 {
        bail!("{failed} kernels failed");
    }
    Ok(())
}

/// The kernel tests of the node.
const KERNEL_TESTS: &str = "/kernel-tests --test-threads=1 --show-output kernel:: ebpf_sweep::";

/// Leaves out what takes a minute each; `nightly` runs it.
const SKIP_LONG: &str = "--skip kernel::gateway --skip kernel::losses::under_churn";

/// Longest run of one machine: five minutes on two idle cores, three times that on busy ones.
const LIMIT: Duration = Duration::from_mins(15);
