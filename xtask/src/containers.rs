//! The files of `docker/` before the programs that will read them. That the names in them lead
//! somewhere is a house rule (`tidy`); that the containers work, only an engine could show.

use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace;

/// Has docker-compose and Prometheus' own checker read what they would be given.
///
/// # Errors
/// One of them does not take it.
pub(crate) fn check() -> Result<()> {
    let docker = workspace::root().join("docker");
    let mut compose = Command::new("docker-compose");
    compose.args(["-f", "compose.yaml", "config", "--quiet"]).current_dir(&docker);
    workspace::output(&mut compose)?;
    let mut promtool = Command::new("promtool");
    // The token's file is made by the aggregator's first start.
    promtool.args(["check", "config", "--syntax-only", "prometheus/prometheus.yml"]);
    workspace::output(promtool.current_dir(&docker)).context("docker/prometheus")?;
    Ok(())
}
