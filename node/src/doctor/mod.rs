//! `conntracct-node doctor`: looks at kernel, privileges, conntrack, the running node and the way to
//! the aggregator, and says what is or will be wrong with figures and how to cure it.
//!
//! [`collect`] looks and changes nothing, [`judge`] is pure, [`finding`] prints. The self-test
//! (`crate::selftest`) is the other half: it sends real traffic.

mod collect;
pub mod facts;
pub mod finding;
pub mod judge;

use std::io::Write;

use crate::cli::DoctorArgs;
use crate::config::Config;

/// Looks, judges and prints.
///
/// # Errors
/// When there is a problem: then the program's exit status is 1. Or when nothing can be printed.
pub fn run(config: &Config, args: &DoctorArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let findings = judge::judge(&collect::facts(config));
    if args.json {
        finding::print_json(&findings, out)?;
    } else {
        finding::print(&findings, out)?;
    }
    out.flush()?;
    match finding::problems(&findings) {
        0 => Ok(()),
        problems => anyhow::bail!("{problems} of the checks found a problem"),
    }
}
