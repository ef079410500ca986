//! Values with a form of their own, parsed: names, addresses, sources, namespaces, the interval.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use daemon::config::{ConfigError, Origins, Span, Strings};
use flow::NodeName;

use crate::netns::NetnsChoice;

/// Where readings come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    /// The best this kernel and these privileges allow.
    Auto,
    /// eBPF, or nothing.
    Ebpf,
    /// Netlink.
    Netlink,
    /// A recording.
    Replay(PathBuf),
}

/// The address of an aggregator. The host may be a name: it is looked up at each attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// A name or an address, without brackets.
    pub host: String,
    /// A UDP port, not 0.
    pub port: u16,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Time between sweeps: 1 s to 1 h. Sweeps begin at its multiples on the wall clock, so that the
/// intervals of all nodes of a site line up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(Duration);

impl Interval {
    /// The shortest interval.
    pub const MIN: Duration = Duration::from_secs(1);

    /// The longest interval.
    pub const MAX: Duration = Duration::from_secs(3600);

    /// An interval, where `time` is within the bounds.
    #[must_use]
    pub fn new(time: Duration) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&time).then_some(Self(time))
    }

    /// Its length.
    #[must_use]
    pub const fn length(self) -> Duration {
        self.0
    }
}

pub(super) fn interval(span: Span, origins: &Origins) -> Result<Interval, ConfigError> {
    Interval::new(span.0).ok_or_else(|| {
        let (min, max) = (Span(Interval::MIN), Span(Interval::MAX));
        origins.bad("interval", format!("is {span}, but must be from {min} to {max}"))
    })
}

pub(super) fn name(
    written: Option<&str>,
    hostname: &str,
    origins: &Origins,
) -> Result<NodeName, ConfigError> {
    let text = written.map_or_else(|| legal_name(hostname), str::to_owned);
    NodeName::new(&text).map_err(|error| origins.bad("name", format!("is {text:?}: {error}")))
}

/// The host's name with what a [`NodeName`] cannot hold replaced by `-`; `node` where nothing is
/// left.
fn legal_name(hostname: &str) -> String {
    let text: String = hostname
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '.' | '-' | '_') => c,
            _ => '-',
        })
        .collect();
    let text = text.trim_start_matches(['.', '-', '_']);
    // One byte a character by now.
    let text = text.get(..NodeName::MAX_LEN).unwrap_or(text);
    if text.is_empty() { "node".to_owned() } else { text.to_owned() }
}

pub(super) fn source(text: &str, origins: &Origins) -> Result<SourceChoice, ConfigError> {
    match (text, text.strip_prefix("replay:")) {
        ("auto", _) => Ok(SourceChoice::Auto),
        ("ebpf", _) => Ok(SourceChoice::Ebpf),
        ("netlink", _) => Ok(SourceChoice::Netlink),
        (_, Some(file)) if !file.is_empty() => Ok(SourceChoice::Replay(file.into())),
        _ => {
            let problem = format!("is {text:?}, but must be auto, ebpf, netlink or replay:FILE");
            Err(origins.bad("source", problem))
        }
    }
}

pub(super) fn netns(list: &Strings, origins: &Origins) -> Result<NetnsChoice, ConfigError> {
    let words: Vec<&str> = list.0.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["own"] => Ok(NetnsChoice::Own),
        ["all"] => Ok(NetnsChoice::All),
        names if !names.is_empty() && names.iter().all(|name| is_namespace(name)) => {
            Ok(NetnsChoice::Listed(list.0.clone()))
        }
        _ => {
            let problem = format!(
                "is {words:?}, but must be own, all, or namespaces: names as `ip netns` shows them, or \
                 absolute paths"
            );
            Err(origins.bad("netns", problem))
        }
    }
}

/// A name under `/run/netns`, or an absolute path; not one of the words with a meaning.
fn is_namespace(text: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let named = !text.is_empty() && text.chars().all(is_name);
    text.starts_with('/') || (named && text != "own" && text != "all")
}

pub(super) fn peers(list: &Strings, origins: &Origins) -> Result<Vec<Peer>, ConfigError> {
    list.0
        .iter()
        .map(|text| {
            peer(text).ok_or_else(|| {
                let problem = format!(
                    "is {text:?}, but must be HOST:PORT, like \"flows.example.net:4433\", \
                     \"192.0.2.1:4433\" or \"[2001:db8::1]:4433\""
                );
                origins.bad("aggregator", problem)
            })
        })
        .collect()
}

fn peer(text: &str) -> Option<Peer> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(address) => {
            let address = address.strip_suffix(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            address
        }
        None => host,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let bracketed = text.starts_with('[');
    let legal = bracketed || (!host.is_empty() && host.chars().all(is_name));
    legal.then(|| Peer { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_bounds() {
        assert_eq!(Interval::new(Duration::from_millis(999)), None);
        assert_eq!(Interval::new(Duration::from_secs(1)).unwrap().length().as_secs(), 1);
        assert_eq!(Interval::new(Duration::from_secs(3601)), None);
    }

    #[test]
    fn any_host_name_makes_a_legal_node_name() {
        for (host, name) in [
            ("gw1", "gw1"),
            ("GW-1.Example.NET", "gw-1.example.net"),
            ("(none)", "none-"),
            ("-_.x", "x"),
            ("", "node"),
            ("--", "node"),
            ("büro", "b-ro"),
        ] {
            assert_eq!(legal_name(host), name, "{host:?}");
            NodeName::new(&legal_name(host)).unwrap();
        }
        let long = "x".repeat(200);
        assert_eq!(NodeName::new(&legal_name(&long)).unwrap().to_string(), "x".repeat(63));
    }

    #[test]
    fn peers_are_a_host_and_a_port() {
        let show = |text| peer(text).map(|peer: Peer| (peer.host.clone(), peer.port));
        assert_eq!(show("flows.example.net:4433"), Some(("flows.example.net".into(), 4433)));
        assert_eq!(show("192.0.2.1:1"), Some(("192.0.2.1".into(), 1)));
        assert_eq!(show("[::1]:4433"), Some(("::1".into(), 4433)));
        assert_eq!(peer("[::1]:4433").unwrap().to_string(), "[::1]:4433");
        for text in
            ["", ":4433", "host", "host:", "host:0", "host:70000", "::1:4433", "[x]:1", "a b:1"]
        {
            assert_eq!(show(text), None, "{text:?}");
        }
    }
}
