//! How a program ends: the one place that prints an error with all its causes.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// The exit code of what a program did; an error is printed to standard error, with its causes.
///
/// A reader of our output that went away (`conntracct-aggregator flows | head`) is no error.
pub fn code(done: anyhow::Result<()>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    let gone = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    };
    if error.chain().any(gone) {
        return ExitCode::SUCCESS;
    }
    let _nobody_reads = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::FAILURE
}
