//! The two texts of `/metrics`: OpenMetrics, which the registry encodes, for those who ask for
//! it, and the older Prometheus text format (0.0.4) for everybody else.
//!
//! They differ in what concerns us by the names of counters (there the family carries `_total`
//! too, or its help and type are lost), by `UNIT` and by `EOF`.

use std::fmt::Write;

use axum::http::{HeaderMap, header};

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
}
