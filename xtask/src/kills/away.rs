//! The database goes away for a while, under load, and comes back: nothing is lost, nothing is
//! doubled, and whoever looks is told.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{INTERVAL, Stage};
use crate::interrupt::Interrupt;
use crate::up::Folder;
use crate::workspace::CI_PROFILE;

/// How long the nodes deliver before the database goes, and after it is back.
const AROUND: Duration = Duration::from_secs(6);

/// How long the aggregator may take to notice either: its longest pause between two tries, one and
/// a half times, and the time to try.
const NOTICE: Duration = Duration::from_secs(30);

/// What it logs, once each.
const AWAY: &str = "the store is away";
const BACK: &str = "the store is back";

/// The same as a test: the database is away for `outage`.
///
/// # Errors
/// See [`run`].
pub(crate) fn check(outage: Duration) -> Result<()> {
    run(outage, CI_PROFILE, false)
}

/// Stops the database for `outage` and starts it again.
///
/// # Errors
/// `/readyz` or the log does not say so, or what is stored is not what the kernels counted.
pub(super) fn run(outage: Duration, profile: &str, keep: bool) -> Result<()> {
    let (interrupt, folder) = (Interrupt::listen()?, Folder::make(keep)?);
    let end = AROUND * 2 + outage + INTERVAL * 5;
    let mut stage = Stage::set(profile, &folder, end, &interrupt)?;
    interrupt.wait(AROUND)?;
    let before = rows(&stage)?;
    ensure!(before > 0, "nothing was stored before the database went");
    stage.database.shut_down()?;
    let gone = stage.began.elapsed();
    interrupt.wait_for("/readyz to say that the store is away", NOTICE, || {
        Ok(is_away(&mut stage)?.then_some(()))
    })?;
    let noticed = stage.began.elapsed() - gone;
    while stage.began.elapsed() < gone + outage {
        interrupt.wait(Duration::from_millis(500))?;
        ensure!(is_away(&mut stage)?, "/readyz says that all is fine while the database is away");
    }
    stage.database.start_again()?;
    let there = stage.began.elapsed();
    interrupt.wait_for("/readyz to say that the store is back", NOTICE, || {
        Ok((!is_away(&mut stage)?).then_some(()))
    })?;
    let back = stage.began.elapsed() - there;
    stage.finish(end)?;
    told_once(&stage.aggregator.log()?)?;
    eprintln!(
        "the database was away for {outage:.0?}; noticed after {noticed:.1?}, taken up again \
         {back:.1?} after it was back, one line of the log each"
    );
    Ok(())
}

fn rows(stage: &Stage<'_>) -> Result<u64> {
    let rows = stage.database.sql(testdb::DATABASE, "SELECT count(*) FROM flow")?;
    Ok(rows.trim().parse()?)
}

/// Whether `/readyz` says that the store is away. Everything must still run.
fn is_away(stage: &mut Stage<'_>) -> Result<bool> {
    stage.aggregator.check()?;
    for node in &mut stage.nodes {
        node.check()?;
    }
    let answer = stage.aggregator.get("/readyz")?;
    match answer.status {
        200 => Ok(false),
        503 if answer.body.contains(AWAY) => Ok(true),
        status => bail!("/readyz answers {status}: {}", answer.body.trim()),
    }
}

/// Holds the log to one line when the store went, one when it came back, and no other complaint.
fn told_once(log: &str) -> Result<()> {
    for text in [AWAY, BACK] {
        let lines = log.lines().filter(|line| line.contains(text)).count();
        ensure!(lines == 1, "{lines} lines of the log say {text:?}, not one:\n{log}");
    }
    let complaints = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    let others: Vec<&str> =
        log.lines().filter(complaints).filter(|line| !line.contains(AWAY)).collect();
    ensure!(others.is_empty(), "the log complains of more:\n{}", others.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_held_to_one_line_each() {
        let went = "2026-11-22T10:00:00Z  WARN the store is away, nodes keep their frames\n";
        let back = "2026-11-22T10:01:00Z  INFO the store is back\n";
        assert!(told_once(&format!("{went}{back}")).is_ok());
        assert!(told_once(went).is_err());
        assert!(told_once(&format!("{went}{went}{back}")).is_err());
        let error = "2026-11-22T10:00:30Z ERROR something else\n";
        assert!(told_once(&format!("{went}{error}{back}")).is_err());
    }
}
