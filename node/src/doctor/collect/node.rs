//! The running node, asked over its HTTP page.

use daemon::http::{ClientError, Listener, get};
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::config::Config;
use crate::doctor::facts::{NodeFacts, Running};

pub(super) fn facts(config: &Config) -> NodeFacts {
    match &config.http {
        None => NodeFacts::NoListener,
        Some(listener) => ask(listener),
    }
}

fn ask(listener: &Listener) -> NodeFacts {
    // Health needs no token, and who asks may not be allowed to read it.
    let open = Listener { token: None, ..listener.clone() };
    let ready = match get(&open, "/readyz") {
        Ok(answer) => answer,
        Err(error @ ClientError::Connect { .. }) => return NodeFacts::Silent(error.to_string()),
        Err(error) => return NodeFacts::Refused(error.to_string()),
    };
    let Ok(ready) = serde_json::from_slice::<Ready>(&ready.body) else {
        return NodeFacts::Refused("what answers there is no conntracct-node".to_owned());
    };
    let metrics = match get(listener, "/metrics") {
        Ok(answer) if answer.status == 200 => String::from_utf8_lossy(&answer.body).into_owned(),
        Ok(answer) => return NodeFacts::Refused(format!("it answers {}", answer.status)),
        Err(error) => return NodeFacts::Refused(error.to_string()),
    };
    match running(&ready, &metrics) {
        Some(running) => NodeFacts::Running(Box::new(running)),
        None => NodeFacts::Refused("what answers there is no conntracct-node".to_owned()),
    }
}

/// The body of `/readyz`.
#[derive(Debug, Deserialize)]
struct Ready {
    conditions: BTreeMap<String, Condition>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    ok: bool,
    #[serde(default)]
    why: String,
}

/// What the node says, `None` where it is another program.
fn running(ready: &Ready, metrics: &str) -> Option<Running> {
    let number = |name: &str| number(metrics, name);
    let count = |name: &str| {
        // Counts are whole; a version that has not got this one has counted none.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        number(name).map_or(0, |value| value as u64)
    };
    number("conntracct_source_reliable_ends")?;
    let conditions = ready.conditions.iter();
    let degraded = conditions.filter(|(_, condition)| !condition.ok);
    let measured = count("conntracct_uplink_acked_seq") > 0
        || number("conntracct_uplink_round_trip_seconds").is_some_and(|seconds| seconds > 0.0);
    let connected = ready.conditions.contains_key("aggregator");
    Some(Running {
        degraded: degraded.map(|(name, condition)| (name.clone(), condition.why.clone())).collect(),
        lost_ends: count("conntracct_source_lost_ends_total"),
        dropped_ends: count("conntracct_source_dropped_ends_total")
            .saturating_add(count("conntracct_table_ends_dropped")),
        lost_births: count("conntracct_source_lost_births_total"),
        missed_births: count("conntracct_source_missed_births_total"),
        ended_unseen: count("conntracct_table_ended_unseen"),
        untracked: count("conntracct_table_untracked_live"),
        spool_level: count("conntracct_spool_level"),
        spool_waiting: count("conntracct_spool_waiting_frames"),
        spool_bytes: count("conntracct_spool_disk_bytes"),
        connected: connected.then(|| count("conntracct_uplink_connected") == 1),
        clock_error_seconds: number("conntracct_uplink_clock_error_seconds").filter(|_| measured),
    })
}

/// A metric without labels in the text format.
fn number(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP conntracct_source_reliable_ends x\n\
        conntracct_source_reliable_ends 1\nconntracct_source_lost_ends_total 3\n\
        conntracct_source_dropped_ends_total 4\nconntracct_table_ends_dropped 5\n\
        conntracct_spool_level 2\nconntracct_spool_disk_bytes 1048576\n\
        conntracct_uplink_connected 1\nconntracct_uplink_clock_error_seconds 0.25\n\
        conntracct_uplink_round_trip_seconds 0.5\n";

    fn ready(text: &str) -> Ready {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_a_node_says_is_understood() {
        let conditions = ready(
            r#"{"ready":false,"conditions":{"ends":{"ok":false,"why":"guard"},
               "aggregator":{"ok":true}}}"#,
        );
        let running = running(&conditions, METRICS).unwrap();
        assert_eq!(running.degraded, [("ends".to_owned(), "guard".to_owned())]);
        assert_eq!((running.lost_ends, running.dropped_ends), (3, 9));
        assert_eq!((running.spool_level, running.spool_bytes), (2, 1 << 20));
        assert_eq!((running.connected, running.clock_error_seconds), (Some(true), Some(0.25)));
    }

    #[test]
    fn a_node_without_an_aggregator_has_no_clock_and_another_program_is_none() {
        let alone = ready(r#"{"conditions":{"ends":{"ok":true}}}"#);
        let metrics = "conntracct_source_reliable_ends 1\nconntracct_uplink_connected 0\n\
                       conntracct_uplink_clock_error_seconds 0.0\n";
        let found = running(&alone, metrics).unwrap();
        assert_eq!((found.connected, found.clock_error_seconds), (None, None));
        assert_eq!(running(&alone, "go_goroutines 7\n"), None);
        assert_eq!(running(&alone, "conntracct_source_reliable_endsish 1\n"), None);
    }
}
