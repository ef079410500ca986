//! Which flows this node leaves out, by loopback, address and protocol.
//!
//! Pure. [`Filtered`](crate::source::filtered::Filtered) asks it about every reading before the
//! flow table sees it; what is left out is in no record, no frame and no total of a batch's
//! header, and is counted in `conntracct_filter_*` instead, so that both together are what the
//! kernel counted.
//!
//! It looks at the original tuple alone, which an entry keeps for life: an entry is either left
//! out from its birth to its end or not at all. Translated addresses are not looked at.

pub mod metrics;

use std::fmt;
use std::net::IpAddr;

use flow::{Proto, Tuple};
use ipnet::IpNet;

/// Which flows are left out. The default leaves out none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Flows from or to a loopback address (127.0.0.0/8, ::1).
    pub exclude_loopback: bool,
    /// Where not empty: flows with neither source nor destination in one of these.
    pub include: Networks,
    /// Flows with source or destination in one of these; stronger than `include`.
    pub exclude: Networks,
    /// Where not empty: flows of other protocols.
    pub protocols: Protocols,
    /// Flows of these protocols.
    pub exclude_protocols: Protocols,
}

/// Why a flow is left out: the first of these that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A loopback address.
    Loopback,
    /// An address that is excluded, or none that is included.
    Address,
    /// Its protocol.
    Protocol,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Loopback, Self::Address, Self::Protocol];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Address => "address",
            Self::Protocol => "protocol",
        }
    }
}

impl Filter {
    /// Why a flow with this original tuple is left out; `None` where it is not.
    #[must_use]
    pub fn refuses(&self, orig: &Tuple) -> Option<Cause> {
        let Tuple { src, dst, proto, .. } = *orig;
        if self.exclude_loopback && (src.is_loopback() || dst.is_loopback()) {
            return Some(Cause::Loopback);
        }
        let holds = |networks: &Networks| networks.hold(src) || networks.hold(dst);
        if holds(&self.exclude) || !(self.include.is_empty() || holds(&self.include)) {
            return Some(Cause::Address);
        }
        let other = !(self.protocols.is_empty() || self.protocols.hold(proto));
        (other || self.exclude_protocols.hold(proto)).then_some(Cause::Protocol)
    }

    /// Whether it leaves out nothing.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

/// One text for each filter, whatever the order it was written in: to notice that a node was
/// started with another one. Empty for the filter that leaves out nothing.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.exclude_loopback {
            writeln!(f, "exclude_loopback")?;
        }
        for (name, networks) in [("include", &self.include), ("exclude", &self.exclude)] {
            for network in &networks.0 {
                writeln!(f, "{name} {network}")?;
            }
        }
        let sets = [("protocol", &self.protocols), ("exclude_protocol", &self.exclude_protocols)];
        for (name, set) in sets {
            for proto in set.iter() {
                writeln!(f, "{name} {}", proto.0)?;
            }
        }
        Ok(())
    }
}

/// Networks, each once, in order; at most [`Networks::MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// Why there are no such [`Networks`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworksError {
    /// Neither an address nor a network.
    #[error(
        "holds {text:?}, which is neither an address nor a network; write them like \
         \"192.0.2.1\", \"10.0.0.0/8\" or \"2001:db8::/32\""
    )]
    Form {
        /// What was written.
        text: String,
    },
    /// Bits are set beyond the network's length.
    #[error("holds {text:?}, which has bits beyond its length; the network is {meant}")]
    HostBits {
        /// What was written.
        text: String,
        /// The network around it.
        meant: IpNet,
    },
    /// More than are looked through for every reading.
    #[error("holds {count} networks, but at most {} are allowed", Networks::MAX)]
    TooMany {
        /// How many.
        count: usize,
    },
}

impl Networks {
    /// All are compared with every reading, so there is a bound.
    pub const MAX: usize = 256;

    /// The networks in these texts: addresses, or networks without bits beyond their length.
    ///
    /// # Errors
    /// When one is neither, or there are too many.
    pub fn parse(texts: &[String]) -> Result<Self, NetworksError> {
        let mut networks = texts.iter().map(|text| network(text)).collect::<Result<Vec<_>, _>>()?;
        networks.sort_unstable();
        networks.dedup();
        match networks.len() {
            count if count > Self::MAX => Err(NetworksError::TooMany { count }),
            _ => Ok(Self(networks)),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn hold(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

fn network(text: &str) -> Result<IpNet, NetworksError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let Ok(network) = text.parse::<IpNet>() else {
        return Err(NetworksError::Form { text: text.to_owned() });
    };
    match network.trunc() {
        meant if meant == network => Ok(network),
        meant => Err(NetworksError::HostBits { text: text.to_owned(), meant }),
    }
}

/// A set of protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols([u64; 4]);

impl Protocols {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn hold(&self, proto: Proto) -> bool {
        let Proto(number) = proto;
        self.0.get(usize::from(number / 64)).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn iter(&self) -> impl Iterator<Item = Proto> {
        (0..=u8::MAX).map(Proto).filter(|proto| self.hold(*proto))
    }
}

impl FromIterator<Proto> for Protocols {
    fn from_iter<T: IntoIterator<Item = Proto>>(protos: T) -> Self {
        let mut set = Self::default();
        for Proto(number) in protos {
            if let Some(word) = set.0.get_mut(usize::from(number / 64)) {
                *word |= 1 << (number % 64);
            }
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        Networks::parse(&texts).unwrap()
    }

    fn tuple(proto: Proto, src: &str, dst: &str) -> Tuple {
        let at = |host: &str| SocketAddr::new(host.parse().unwrap(), 80);
        Tuple::ports(proto, at(src), at(dst))
    }

    #[test]
    fn nothing_is_left_out_unless_asked() {
        let filter = Filter::default();
        assert!(filter.is_open());
        assert_eq!(filter.to_string(), "");
        for (src, dst) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("10.0.0.1", "8.8.8.8")] {
            assert_eq!(filter.refuses(&tuple(Proto::TCP, src, dst)), None);
        }
    }

    #[test]
    fn either_side_counts_and_exclude_is_the_stronger() {
        let filter = Filter {
            include: networks(&["10.0.0.0/8", "2001:db8::/32"]),
            exclude: networks(&["10.9.0.0/16", "10.1.2.3"]),
            ..Filter::default()
        };
        let refuses = |src, dst| filter.refuses(&tuple(Proto::UDP, src, dst));
        assert_eq!(refuses("10.0.0.1", "192.0.2.1"), None);
        assert_eq!(refuses("192.0.2.1", "10.0.0.1"), None);
        assert_eq!(refuses("2001:db8::1", "::1"), None);
        assert_eq!(refuses("192.0.2.1", "192.0.2.2"), Some(Cause::Address), "in neither");
        assert_eq!(refuses("fe80::1", "fe80::2"), Some(Cause::Address));
        assert_eq!(refuses("10.0.0.1", "10.9.255.255"), Some(Cause::Address));
        assert_eq!(refuses("10.1.2.3", "10.0.0.1"), Some(Cause::Address));
        assert_eq!(refuses("10.1.2.4", "10.0.0.1"), None);
    }

    #[test]
    fn loopback_and_protocols() {
        let filter = Filter {
            exclude_loopback: true,
            protocols: [Proto::TCP, Proto::UDP, Proto(255)].into_iter().collect(),
            exclude_protocols: [Proto::UDP].into_iter().collect(),
            ..Filter::default()
        };
        let refuses = |proto, src| filter.refuses(&tuple(proto, src, "10.0.0.2"));
        assert_eq!(refuses(Proto::TCP, "127.8.8.8"), Some(Cause::Loopback));
        assert_eq!(
            filter.refuses(&tuple(Proto::TCP, "fe80::1", "::1")),
            Some(Cause::Loopback),
            "the destination counts too"
        );
        assert_eq!(refuses(Proto::TCP, "10.0.0.1"), None);
        assert_eq!(refuses(Proto(255), "10.0.0.1"), None);
        assert_eq!(refuses(Proto::UDP, "10.0.0.1"), Some(Cause::Protocol));
        assert_eq!(refuses(Proto::SCTP, "10.0.0.1"), Some(Cause::Protocol));
        assert_eq!(refuses(Proto(0), "10.0.0.1"), Some(Cause::Protocol));
    }

    #[test]
    fn networks_are_strict_and_say_what_was_meant() {
        let parse = |text: &str| Networks::parse(&[text.to_owned()]).map_err(|e| e.to_string());
        assert!(parse("10.0.0.1").is_ok() && parse("::/0").is_ok());
        let error = parse("10.0.0.1/8").unwrap_err();
        assert!(error.contains("\"10.0.0.1/8\"") && error.contains("10.0.0.0/8"), "{error}");
        for text in ["", "10.0.0.0/33", "10.0.0", "example.net", "10.0.0.0/-1", " 10.0.0.0/8"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("neither an address nor a network"), "{text:?}: {error}");
        }
        let many: Vec<_> = (0..=256u32).map(|n| std::net::Ipv4Addr::from(n).to_string()).collect();
        assert_eq!(Networks::parse(&many), Err(NetworksError::TooMany { count: 257 }));
        assert!(Networks::parse(&many[1..]).is_ok());
    }

    #[test]
    fn the_text_tells_filters_apart_and_not_their_order() {
        let one = Filter {
            exclude: networks(&["10.0.0.0/8", "192.0.2.1"]),
            exclude_protocols: [Proto::ICMPV6, Proto::ICMP].into_iter().collect(),
            ..Filter::default()
        };
        let same = Filter {
            exclude: networks(&["192.0.2.1/32", "10.0.0.0/8", "192.0.2.1"]),
            exclude_protocols: [Proto::ICMP, Proto::ICMPV6].into_iter().collect(),
            ..Filter::default()
        };
        assert_eq!(one.to_string(), same.to_string());
        let text = "exclude 10.0.0.0/8\nexclude 192.0.2.1/32\nexclude_protocol 1\n\
                    exclude_protocol 58\n";
        assert_eq!(one.to_string(), text);
        let other = Filter { include: one.exclude.clone(), exclude: Networks::default(), ..one };
        assert_ne!(other.to_string(), same.to_string());
    }
}
