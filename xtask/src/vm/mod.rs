//! `cargo xtask vm`: the kernel tests, or a command, inside a real kernel: one of Debian's, in an
//! emulated machine that has nothing but an initramfs. Needs no root and touches nothing of the
//! host's kernel. Emulated time says nothing about speed.

mod cpio;
mod image;
mod kernel;
mod machine;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::packages;
use kernel::Kernel;

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

/// Runs the tests or the command in one kernel or all.
///
/// # Errors
/// A test failed, or a machine could not be built. A kernel that cannot be had is told and left
/// out, but where it was asked for by name.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    packages::ensure(&[packages::VM], flags.yes)?;
    let tests = image::Programs::build()?;
    let command = match flags.command.as_slice() {
        [] => KERNEL_TESTS.to_owned(),
        words => words.join(" "),
    };
    let kernels = flags.kernel.map_or_else(|| Kernel::ALL.to_vec(), |kernel| vec![kernel]);
    let mut rows = Vec::new();
    for kernel in kernels {
        let outcome = match kernel.fetch() {
            Ok(fetched) => {
                let initramfs = image::build(&fetched, &tests, &command)?;
                let verdict = machine::run(&fetched, &initramfs, LIMIT)?;
                Some((fetched.release, verdict))
            }
            Err(error) if flags.kernel.is_none() => {
                eprintln!("{kernel:?} cannot be had: {error:#}");
                None
            }
            Err(error) => return Err(error),
        };
        rows.push((kernel, outcome));
    }
    summarize(&rows)
}

/// Why the smoke test cannot run: its kernel is not here and cannot be fetched.
pub(crate) fn lacks() -> Option<String> {
    Kernel::V6_12.fetch().err().map(|error| format!("{error:#}"))
}

/// The smoke test of `cargo xtask test`: the kernel tests in Linux 6.12.
///
/// # Errors
/// As [`run`].
pub(crate) fn smoke() -> Result<()> {
    let kernel = Some(Kernel::V6_12);
    run(&Flags { kernel, yes: false, command: Vec::new() })
}

fn summarize(rows: &[(Kernel, Option<(String, machine::Verdict)>)]) -> Result<()> {
    let mut failed = 0;
    eprintln!("\nkernel        result");
    for (kernel, outcome) in rows {
        match outcome {
            None => eprintln!("{kernel:?}: not run, it cannot be had"),
            Some((release, verdict)) => {
                failed += usize::from(!verdict.passed);
                let word = if verdict.passed { "passed" } else { "FAILED" };
                let seconds = verdict.took.as_secs_f64();
                eprintln!("{release}: {word} in {seconds:.0} s  {}", verdict.summary);
            }
        }
    }
    if failed > 0 {
        bail!("{failed} kernels failed");
    }
    Ok(())
}

/// The kernel tests of the node.
const KERNEL_TESTS: &str = "/kernel-tests --test-threads=1 kernel:: ebpf_sweep::";

/// Longest run of one machine: five minutes on two idle cores, three times that on busy ones.
const LIMIT: Duration = Duration::from_mins(15);
