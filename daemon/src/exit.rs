//! How a program ends: the one place that prints an error with all its causes.

use std::error::Error;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// The exit code of what a program did; an error is printed to standard error, with its causes.
///
/// A reader of our output that went away (`conntracct-aggregator flows | head`) is no error.
pub fn code(done: Result<(), impl Into<Box<dyn Error + Send + Sync>>>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    let error: Box<dyn Error + Send + Sync> = error.into();
    let mut text = String::from("error");
    let mut cause: Option<&dyn Error> = Some(&*error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        text = format!("{text}: {error}");
        cause = error.source();
    }
    let _nobody_reads = writeln!(std::io::stderr(), "{text}");
    ExitCode::FAILURE
}
