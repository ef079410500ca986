//! What to set and what to complain of, from the values found. Pure.

use std::fmt;

use super::Warning;

/// A sysctl that is managed; all are wanted to be [`WANTED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `nf_conntrack_acct`: packets and bytes are counted.
    Acct,
    /// `nf_conntrack_timestamp`: start and stop are kept.
    Timestamp,
    /// `nf_conntrack_events`: births and ends are announced, also those of entries born while
    /// nobody listened (with 2 they are not).
    Events,
}

/// A timeout that makes ends come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongTimeout {
    /// The sysctl's name.
    pub key: &'static str,
    /// Its value.
    pub seconds: u64,
    /// The longest that is not complained of.
    pub most: u64,
}

/// The values found in a namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Managed keys; `None` where the kernel has no such key.
    pub(super) keys: Vec<(Key, Option<u64>)>,
    /// Timeouts in seconds, by their short names.
    pub(super) timeouts: Vec<(&'static str, u64)>,
}

/// A value to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What to do in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    pub(super) warnings: Vec<Warning>,
}

/// Decides. Unmanaged, nothing is changed; only what breaks the counting is complained of.
pub(super) fn plan(found: &Found, manage: bool, timeout_warnings: bool) -> Plan {
    let mut plan = Plan::default();
    for &(key, value) in &found.keys {
        match value {
            Some(WANTED) => {}
            None => plan.warnings.push(Warning::Missing(key)),
            Some(from) if manage => plan.changes.push(Change { key, from, to: WANTED }),
            Some(0) if key == Key::Acct => plan.warnings.push(Warning::Off(key)),
            Some(_) => {}
        }
    }
    if timeout_warnings {
        for &(name, seconds) in &found.timeouts {
            let longest = LONGEST_TIMEOUTS.iter().find(|(known, _)| *known == name);
            if let Some(&(key, most)) = longest
                && seconds > most
            {
                plan.warnings.push(Warning::LongTimeout(LongTimeout { key, seconds, most }));
            }
        }
    }
    plan
}

impl Key {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Acct, Self::Timestamp, Self::Events];

    /// The name in `/proc/sys/net/netfilter`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acct => "nf_conntrack_acct",
            Self::Timestamp => "nf_conntrack_timestamp",
            Self::Events => "nf_conntrack_events",
        }
    }

    /// The key with a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    pub(super) fn path(self) -> String {
        path(self.name())
    }

    /// What is missing without it.
    pub(super) const fn consequence(self) -> &'static str {
        match self {
            Self::Acct => "flows are reported without packets and bytes",
            Self::Timestamp => "starts and ends of flows are as exact as the interval",
            Self::Events => "flows that end between two sweeps are not seen",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.netfilter.{}", self.name())
    }
}

/// Where a sysctl of the namespace of the reading thread lies.
pub(super) fn path(name: &str) -> String {
    format!("/proc/sys/net/netfilter/{name}")
}

/// What every [`Key`] is to be.
pub(super) const WANTED: u64 = 1;

/// Timeouts above which ends come late, in seconds.
pub(super) const LONGEST_TIMEOUTS: [(&str, u64); 5] = [
    ("nf_conntrack_tcp_timeout_close_wait", 15),
    ("nf_conntrack_tcp_timeout_fin_wait", 15),
    ("nf_conntrack_tcp_timeout_time_wait", 15),
    ("nf_conntrack_udp_timeout", 10),
    ("nf_conntrack_udp_timeout_stream", 30),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn found(acct: u64, timestamp: Option<u64>, events: u64) -> Found {
        Found {
            keys: vec![
                (Key::Acct, Some(acct)),
                (Key::Timestamp, timestamp),
                (Key::Events, Some(events)),
            ],
            timeouts: vec![
                ("nf_conntrack_udp_timeout", 10),
                ("nf_conntrack_udp_timeout_stream", 120),
            ],
        }
    }

    const STREAM: Warning = Warning::LongTimeout(LongTimeout {
        key: "nf_conntrack_udp_timeout_stream",
        seconds: 120,
        most: 30,
    });

    #[test]
    fn managed_keys_are_set() {
        let plan = plan(&found(0, Some(1), 2), true, true);
        let change = |key, from| Change { key, from, to: 1 };
        assert_eq!(plan.changes, [change(Key::Acct, 0), change(Key::Events, 2)]);
        assert_eq!(plan.warnings, [STREAM]);
    }

    #[test]
    fn unmanaged_keys_are_left_alone_and_no_counting_is_complained_of() {
        let off = plan(&found(0, Some(0), 2), false, false);
        assert_eq!(off, Plan { changes: vec![], warnings: vec![Warning::Off(Key::Acct)] });
        let text = off.warnings[0].to_string();
        assert!(text.contains("net.netfilter.nf_conntrack_acct is off"), "{text}");
        assert!(text.contains("without packets and bytes"), "{text}");
        assert_eq!(plan(&found(1, Some(0), 2), false, false), Plan::default());
    }

    #[test]
    fn what_the_kernel_lacks_is_told() {
        let plan = plan(&found(1, None, 1), true, false);
        assert_eq!(plan.warnings, [Warning::Missing(Key::Timestamp)]);
        assert!(plan.changes.is_empty());
    }

    #[test]
    fn keys_have_names() {
        assert!(Key::ALL.into_iter().all(|key| Key::named(key.name()) == Some(key)));
        assert_eq!(Key::named("nf_conntrack_max"), None);
    }
}
