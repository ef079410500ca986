//! A data folder as `initdb` makes it, made once and copied for each server.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::account::Account;
use crate::{DATABASE, ROLE, SUPERUSER};

/// Copies a fresh data folder to `to`, which must not exist.
pub(crate) fn copy(programs: &Path, account: Account, to: &Path) -> io::Result<()> {
    let template = template(programs, account)?;
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--reflink=auto"]).arg(&template).arg(to);
    succeed(&mut copy, "copying the template")
}

/// The template's folder; made where it is not there. Processes wait for each other here.
fn template(programs: &Path, account: Account) -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let folder = folder.map_or_else(std::env::temp_dir, Path::to_owned);
    // Another version of PostgreSQL or of this file makes another template.
    let version = programs.display().to_string().replace('/', "-");
    let user = rustix::process::geteuid().as_raw();
    let kept = folder.join(format!("testdb-{FORMAT}-{user}{version}"));
    let lock = File::create(folder.join("testdb.lock"))?;
    lock.lock()?;
    if !kept.exists() {
        // Made elsewhere first: the user that runs the server need not reach our folder.
        let made = tempfile::Builder::new().prefix("testdb-").tempdir()?;
        account.give(made.path())?;
        let data = made.path().join("data");
        initialise(programs, account, &data)?;
        let half = folder.join("testdb-half");
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        succeed(Command::new("cp").arg("--archive").arg(&data).arg(&half), "keeping the template")?;
        fs::rename(&half, &kept)?;
    }
    Ok(kept)
}

/// Changes with what is in a template.
const FORMAT: u32 = 1;

fn initialise(programs: &Path, account: Account, data: &Path) -> io::Result<()> {
    let mut initdb = Command::new(programs.join("initdb"));
    initdb
        .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username"])
        .arg(SUPERUSER)
        .arg("--pgdata")
        .arg(data)
        .current_dir("/");
    account.run_as(&mut initdb);
    succeed(&mut initdb, "initdb")?;
    // The single-user mode takes one statement a line.
    let mut single = Command::new(programs.join("postgres"));
    single.arg("--single").arg("-D").arg(data).arg(SUPERUSER).current_dir("/");
    account.run_as(&mut single);
    single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = single.spawn()?;
    if let Some(mut statements) = child.stdin.take() {
        writeln!(statements, "CREATE ROLE {ROLE} LOGIN")?;
        writeln!(statements, "CREATE DATABASE {DATABASE} OWNER {ROLE}")?;
    }
    let said = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&said.stderr);
    if said.status.success() && !text.contains("ERROR") {
        return Ok(());
    }
    Err(io::Error::other(format!("making the database failed: {text}")))
}

/// Runs a command to its end.
pub(crate) fn succeed(command: &mut Command, what: &str) -> io::Result<()> {
    let said = command.stdin(Stdio::null()).output()?;
    if said.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&said.stderr);
    Err(io::Error::other(format!("{what} failed ({}): {text}", said.status)))
}
