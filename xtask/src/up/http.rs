//! Just enough HTTP to ask our own programs how they are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

const PATIENCE: Duration = Duration::from_secs(5);
/// No answer of ours is longer.
const MAX_ANSWER: u64 = 16 << 20;

/// An answer's status and body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// `GET path` in HTTP/1.0, so that the answer ends with the connection.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("could not connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut text).context("no complete answer")?;
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without an end of header")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.context("an answer without a status")?;
    Ok(Answer { status, body: body.to_owned() })
}

/// The sum of all samples of a metric in Prometheus' text format, whatever their labels; `None`
/// where there is no such metric.
pub(crate) fn metric(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        // A label's value may hold spaces, a sample's value does not.
        rest.rsplit_once('}').map_or(rest, |(_, rest)| rest).split_whitespace().next()?.parse().ok()
    };
    text.lines().filter_map(value).reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_taken_apart() {
        let answer = parse("HTTP/1.0 503 Service Unavailable\r\nx: y\r\n\r\nstarting\n").unwrap();
        assert_eq!(answer, Answer { status: 503, body: "starting\n".into() });
        assert!(parse("nonsense").is_err());
    }

    #[test]
    fn samples_of_a_metric_are_added_and_no_others() {
        let text = "# TYPE a counter\na_total{x=\"1 }\"} 2\na_total{x=\"2\"} 3\na_total_x 7\nb 1\n";
        assert_eq!(metric(text, "a_total"), Some(5.0));
        assert_eq!(metric(text, "b"), Some(1.0));
        assert_eq!(metric(text, "c"), None);
    }
}
