//! `check-health` of both programs: asks the running one how it is, over its own listener. For
//! health checks of containers and for people; monitoring asks `/readyz` itself.

use std::io::{self, Write};

use serde_json::Value;

use super::client::{ClientError, get};
use super::listener::Listener;
use super::state::READY;

/// Why the program is not well.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// There is no listener to ask.
    #[error("the HTTP listener is off (api_enabled), so nothing can be asked")]
    Off,
    /// Nobody answers.
    #[error(transparent)]
    Ask(#[from] ClientError),
    /// What answers is not our page.
    #[error("{READY} was answered with status {status} and not with the conditions of a program")]
    Foreign {
        /// The status.
        status: u16,
    },
    /// It runs, but cannot do its work.
    #[error("it runs but is not ready: {}", why.join("; "))]
    NotReady {
        /// Each condition that is not fine.
        why: Vec<String>,
    },
    /// The output cannot be written.
    #[error("the answer cannot be written")]
    Output(#[from] io::Error),
}

/// Asks the program that serves `listener` and tells `out` how it is. To be alive is enough,
/// unless it must be `ready`.
///
/// # Errors
/// It does not answer; it is not ready, though it must be; or `out` cannot be written.
pub fn check_health(
    listener: Option<&Listener>,
    ready: bool,
    out: &mut dyn Write,
) -> Result<(), HealthError> {
    let listener = listener.ok_or(HealthError::Off)?;
    // Health needs no token, and who asks may not be allowed to read it.
    let listener = Listener { token: None, ..listener.clone() };
    let answer = get(&listener, READY)?;
    let why = conditions(&answer.body).ok_or(HealthError::Foreign { status: answer.status })?;
    if why.is_empty() {
        writeln!(out, "alive and ready")?;
        return Ok(());
    }
    if ready {
        return Err(HealthError::NotReady { why });
    }
    writeln!(out, "alive, not ready: {}", why.join("; "))?;
    Ok(())
}

/// Those conditions that are not fine, each with its name.
fn conditions(body: &[u8]) -> Option<Vec<String>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let conditions = body.get("conditions")?.as_object()?;
    let bad = conditions.iter().filter(|(_, condition)| condition["ok"] != true);
    let why = |condition: &Value| condition["why"].as_str().unwrap_or("not fine").to_owned();
    Some(bad.map(|(name, condition)| format!("{name}: {}", why(condition))).collect())
}
