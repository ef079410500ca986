//! The two texts of `/metrics`: OpenMetrics, which the registry encodes, for those who ask for
//! it, and the older Prometheus text format (0.0.4) for everybody else.
//!
//! They differ in what concerns us by the names of counters (there the family carries `_total`
//! too, or its help and type are lost), by `UNIT` and by `EOF`.

use std::fmt::Write;

use axum::http::{HeaderMap, header};
use prometheus_client::registry::Registry;
use serde_json::{Map, Value};

/// Content type of what the registry encodes.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Content type of what [`plain`] makes.
pub(super) const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the client takes OpenMetrics.
pub(super) fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    accepted.any(|value| {
        value.to_str().is_ok_and(|value| value.contains("application/openmetrics-text"))
    })
}

/// OpenMetrics as Prometheus text.
pub(super) fn plain(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    // A family's help comes before its type, which says what the family is called.
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some("#"), Some(kind)) = (words.next(), words.next()) else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let (name, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match kind {
            "HELP" => help = Some((name, rest)),
            "TYPE" => {
                let (suffix, kind) = match rest {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                if let Some((_, help)) = help.take().filter(|(helped, _)| *helped == name) {
                    let _ = writeln!(text, "# HELP {name}{suffix} {help}");
                }
                let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
            }
            // UNIT, EOF.
            _ => {}
        }
    }
    text
}

/// Every number of a registry as JSON, for `/stats`: one object a component, named by what
/// follows `conntracct_` in the metric's name, labels as in the text formats.
#[must_use]
pub fn registry_stats(registry: &Registry) -> Value {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    sections(&text)
}

fn sections(openmetrics: &str) -> Value {
    let mut components: Map<String, Value> = Map::new();
    for line in openmetrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let name = name.strip_prefix("conntracct_").unwrap_or(name);
        let Some((component, rest)) = name.split_once('_') else { continue };
        let value = match (value.parse::<i64>(), value.parse::<f64>()) {
            (Ok(whole), _) => Value::from(whole),
            (Err(_), Ok(number)) => Value::from(number),
            (Err(_), Err(_)) => Value::from(value),
        };
        let section = components.entry(component).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(section) = section {
            section.insert(rest.to_owned(), value);
        }
    }
    Value::Object(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_help_and_type() {
        let openmetrics = "\
# HELP x_frames Frames seen.
# TYPE x_frames counter
x_frames_total{a=\"b c\"} 3
# HELP x_depth_bytes Depth of # the queue.
# TYPE x_depth_bytes gauge
# UNIT x_depth_bytes bytes
x_depth_bytes 7
# EOF
";
        let expected = "\
# HELP x_frames_total Frames seen.
# TYPE x_frames_total counter
x_frames_total{a=\"b c\"} 3
# HELP x_depth_bytes Depth of # the queue.
# TYPE x_depth_bytes gauge
x_depth_bytes 7
";
        assert_eq!(plain(openmetrics), expected);
    }

    #[test]
    fn numbers_are_grouped_by_component() {
        let openmetrics = "\
# TYPE conntracct_store_commits counter
conntracct_store_commits_total{outcome=\"ok now\"} 3
conntracct_store_commit_seconds_sum 0.25
conntracct_http_connections 0
# EOF
";
        let expected = serde_json::json!({
            "http": { "connections": 0 },
            "store": { "commits_total{outcome=\"ok now\"}": 3, "commit_seconds_sum": 0.25 },
        });
        assert_eq!(sections(openmetrics), expected);
    }
}
