//! Questions: what the flags ask for, checked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use flow::Proto;
use ipnet::IpNet;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::cli::{WhenArgs, WhichArgs};

/// Why a question makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A time that is none.
    #[error(
        "{flag} is {text:?}, but must be a time like 2026-11-22, \"2026-11-22 18:30\" (local) or \
         2026-11-22T18:30:00Z"
    )]
    Time {
        /// The flag.
        flag: &'static str,
        /// What was written.
        text: String,
    },
    /// An end before its beginning.
    #[error("--to ({to}) must be after --from ({from})")]
    Backwards {
        /// The beginning.
        from: Timestamp,
        /// The end.
        to: Timestamp,
    },
    /// A network that is none.
    #[error("{flag} is {text:?}, but must be an address or a network like 10.0.0.0/8 or fd00::/8")]
    Network {
        /// The flag.
        flag: &'static str,
        /// What was written.
        text: String,
    },
    /// A protocol that is none.
    #[error("--proto: {0}")]
    Proto(flow::tuple::ProtoError),
    /// A node that never delivered.
    #[error("--node {name:?} is not in this store; it knows {}", known.join(", "))]
    Node {
        /// What was written.
        name: String,
        /// The nodes there are.
        known: Vec<String>,
    },
}

/// A time: after `from`, up to and with `to`. Microseconds since 1970, as the store keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Span {
    /// It in words, for the progress line.
    pub(super) fn words(self, now: Timestamp) -> String {
        let length = std::time::Duration::from_micros(self.to.abs_diff(self.from));
        let length = daemon::config::Span(std::time::Duration::from_secs(length.as_secs()));
        if self.to == now.as_microsecond() {
            format!("the last {length}")
        } else {
            format!("{length} from {} on", super::print::local(self.from))
        }
    }
}

/// Which flows, as conditions on rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Which {
    pub(super) src: Option<IpNet>,
    pub(super) dst: Option<IpNet>,
    pub(super) port: Option<u16>,
    pub(super) proto: Option<Proto>,
    pub(super) node: Option<i64>,
}

/// The time that the flags ask for.
pub(super) fn span(args: &WhenArgs, now: Timestamp) -> Result<Span, AskError> {
    if let Some(from) = &args.from {
        let from = time("--from", from)?;
        let to = args.to.as_deref().map_or(Ok(now), |to| time("--to", to))?;
        if to <= from {
            return Err(AskError::Backwards { from, to });
        }
        return Ok(Span { from: from.as_microsecond(), to: to.as_microsecond() });
    }
    let last = args.last.map_or(DEFAULT_LAST, |last| last.0);
    // A span beyond all time means all of it.
    let length = SignedDuration::try_from(last).unwrap_or(SignedDuration::MAX);
    let from = now.checked_sub(length).unwrap_or(Timestamp::MIN);
    Ok(Span { from: from.as_microsecond(), to: now.as_microsecond() })
}

/// The flows that the flags ask for. `nodes` are the store's, by name.
pub(super) fn which(args: &WhichArgs, nodes: &BTreeMap<String, i64>) -> Result<Which, AskError> {
    let node = args.node.as_ref().map(|name| {
        nodes.get(name).copied().ok_or_else(|| AskError::Node {
            name: name.clone(),
            known: nodes.keys().cloned().collect(),
        })
    });
    Ok(Which {
        src: args.src.as_deref().map(|text| network("--src", text)).transpose()?,
        dst: args.dst.as_deref().map(|text| network("--dst", text)).transpose()?,
        port: args.port,
        proto: args
            .proto
            .as_deref()
            .map(|text| text.parse().map_err(AskError::Proto))
            .transpose()?,
        node: node.transpose()?,
    })
}

/// The time that a report covers unless told otherwise.
const DEFAULT_LAST: std::time::Duration = std::time::Duration::from_secs(3600);

/// A time with a zone, or a local one; a date alone is its midnight.
pub(crate) fn time(flag: &'static str, text: &str) -> Result<Timestamp, AskError> {
    let local = |text: &str| {
        let civil: DateTime = text.parse().ok()?;
        Some(civil.to_zoned(TimeZone::system()).ok()?.timestamp())
    };
    text.parse()
        .ok()
        .or_else(|| local(text))
        .ok_or_else(|| AskError::Time { flag, text: text.to_owned() })
}

fn network(flag: &'static str, text: &str) -> Result<IpNet, AskError> {
    text.parse::<IpNet>()
        .or_else(|_no_prefix| text.parse::<IpAddr>().map(IpNet::from))
        .map(|network| network.trunc())
        .map_err(|_neither| AskError::Network { flag, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000_000;

    fn when(last: Option<&str>, from: Option<&str>, to: Option<&str>) -> Result<Span, AskError> {
        let args = WhenArgs {
            last: last.map(|text| text.parse().unwrap()),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        span(&args, Timestamp::from_microsecond(NOW).unwrap())
    }

    #[test]
    fn times_are_what_was_written() {
        assert_eq!(when(None, None, None).unwrap(), Span { from: NOW - 3_600_000_000, to: NOW });
        assert_eq!(when(Some("90s"), None, None).unwrap().from, NOW - 90_000_000);
        let span = when(None, Some("2023-11-14T22:00:00Z"), None).unwrap();
        assert_eq!(span, Span { from: 1_699_999_200_000_000, to: NOW });
        let offset = when(None, Some("2023-11-14T23:00:00+01:00"), None).unwrap();
        assert_eq!(offset, span);
        for from in ["2023-11-14", "2023-11-14 22:00", "2023-11-14T22:00:30"] {
            let to = when(None, Some(from), Some("2023-11-16")).unwrap();
            assert!(to.from < to.to, "{from}");
        }
        assert!(when(Some("1000000000d"), None, None).unwrap().from < 0, "all of time");
        let error = when(None, Some("yesterday"), None).unwrap_err().to_string();
        assert!(error.starts_with("--from is \"yesterday\", but must be a time"), "{error}");
        let backwards = when(None, Some("2023-11-14"), Some("2023-11-13"));
        assert!(matches!(backwards, Err(AskError::Backwards { .. })));
    }

    #[test]
    fn flows_are_chosen_by_what_they_are() {
        let nodes = BTreeMap::from([("gw1".to_owned(), 1), ("gw2".to_owned(), 2)]);
        let ask = |args: &WhichArgs| which(args, &nodes);
        let args = WhichArgs {
            src: Some("10.1.2.3/8".into()),
            dst: Some("fd00::1".into()),
            port: Some(443),
            proto: Some("tcp".into()),
            node: Some("gw2".into()),
        };
        let expected = Which {
            src: Some("10.0.0.0/8".parse().unwrap()),
            dst: Some("fd00::1/128".parse().unwrap()),
            port: Some(443),
            proto: Some(Proto::TCP),
            node: Some(2),
        };
        assert_eq!(ask(&args).unwrap(), expected);
        let bad = |args: WhichArgs| ask(&args).unwrap_err().to_string();
        let text = bad(WhichArgs { src: Some("10.0.0.0/33".into()), ..WhichArgs::default() });
        assert!(text.starts_with("--src is \"10.0.0.0/33\", but must be an address"), "{text}");
        let text = bad(WhichArgs { node: Some("gw3".into()), ..WhichArgs::default() });
        assert_eq!(text, "--node \"gw3\" is not in this store; it knows gw1, gw2");
        let text = bad(WhichArgs { proto: Some("ctp".into()), ..WhichArgs::default() });
        assert!(text.starts_with("--proto: \"ctp\" is no protocol"), "{text}");
    }
}
