//! Tuples: one direction of a flow, for every protocol conntrack tracks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An address family, by the number the kernel and the wire use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4 (`AF_INET`).
    V4 = 2,
    /// IPv6 (`AF_INET6`).
    V6 = 10,
}

/// A layer-4 protocol by its number (IANA, IPFIX element 4 `protocolIdentifier`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proto(pub u8);

impl Proto {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// DCCP.
    pub const DCCP: Self = Self(33);
    /// GRE.
    pub const GRE: Self = Self(47);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    /// The protocol's usual name, where it has one here.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::ICMP => "icmp",
            Self(2) => "igmp",
            Self::TCP => "tcp",
            Self::UDP => "udp",
            Self::DCCP => "dccp",
            Self::GRE => "gre",
            Self(50) => "esp",
            Self(51) => "ah",
            Self::ICMPV6 => "icmpv6",
            Self(94) => "ipip",
            Self(115) => "l2tp",
            Self::SCTP => "sctp",
            Self::UDPLITE => "udplite",
            _ => return None,
        })
    }

    /// Whether the 16-bit parts of a tuple are ports.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::DCCP | Self::SCTP | Self::UDPLITE)
    }

    /// Whether the 16-bit parts of a tuple are an ICMP id, type and code.
    #[must_use]
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }
}

/// Why a text is no [`Proto`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no protocol; give a number from 0 to 255 or a name like tcp, udp or icmp")]
pub struct ProtoError {
    text: String,
}

impl std::str::FromStr for Proto {
    type Err = ProtoError;

    /// A number, or a name as [`Proto::name`] says it, in any case.
    fn from_str(text: &str) -> Result<Self, ProtoError> {
        if let Ok(number) = text.parse() {
            return Ok(Self(number));
        }
        (0..=u8::MAX)
            .map(Self)
            .find(|proto| proto.name().is_some_and(|name| name.eq_ignore_ascii_case(text)))
            .ok_or_else(|| ProtoError { text: text.to_owned() })
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

/// One direction of a flow as conntrack keys it (`struct nf_conntrack_tuple`).
///
/// `sport` and `dport` carry what the kernel keys the protocol by: ports for TCP, UDP, DCCP,
/// SCTP and UDP-Lite; for ICMP and ICMPv6 the id in `sport` and `type << 8 | code` in `dport`
/// (as IPFIX element 32 `icmpTypeCodeIPv4`); for GRE the call keys; 0 for the rest.
/// Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, ICMP id or GRE key.
    pub sport: u16,
    /// Destination port, ICMP type and code, or GRE key.
    pub dport: u16,
    /// Protocol.
    pub proto: Proto,
}

impl Tuple {
    /// A tuple of a protocol with ports.
    #[must_use]
    pub const fn ports(proto: Proto, src: SocketAddr, dst: SocketAddr) -> Self {
        Self { src: src.ip(), dst: dst.ip(), sport: src.port(), dport: dst.port(), proto }
    }

    /// An ICMP or ICMPv6 tuple.
    #[must_use]
    pub const fn icmp(proto: Proto, src: IpAddr, dst: IpAddr, id: u16, kind: u8, code: u8) -> Self {
        Self { src, dst, sport: id, dport: (kind as u16) << 8 | code as u16, proto }
    }

    /// The address family, from the source address.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.src {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// ICMP type, code and id, for ICMP and ICMPv6.
    #[must_use]
    pub const fn icmp_parts(&self) -> Option<(u8, u8, u16)> {
        if !self.proto.is_icmp() {
            return None;
        }
        let [kind, code] = self.dport.to_be_bytes();
        Some((kind, code, self.sport))
    }

    /// The tuple of a packet going the other way, as the kernel inverts it
    /// (`nf_ct_invert_tuple`): ends change places; an ICMP request's type becomes its reply's.
    #[must_use]
    pub const fn inverse(&self) -> Self {
        let Some((kind, code, id)) = self.icmp_parts() else {
            return Self {
                src: self.dst,
                dst: self.src,
                sport: self.dport,
                dport: self.sport,
                proto: self.proto,
            };
        };
        Self::icmp(self.proto, self.dst, self.src, id, inverse_icmp(self.proto, kind), code)
    }
}

/// The type that answers an ICMP type (`invmap` in the kernel's `nf_conntrack_proto_icmp.c` and
/// `nf_conntrack_proto_icmpv6.c`); types without an answer stay as they are.
const fn inverse_icmp(proto: Proto, kind: u8) -> u8 {
    if proto.0 == Proto::ICMP.0 {
        match kind {
            0 => 8,
            8 => 0,
            13 => 14,
            14 => 13,
            15 => 16,
            16 => 15,
            17 => 18,
            18 => 17,
            other => other,
        }
    } else {
        match kind {
            128 => 129,
            129 => 128,
            139 => 140,
            140 => 139,
            other => other,
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { src, dst, sport, dport, proto } = *self;
        if let Some((kind, code, id)) = self.icmp_parts() {
            return write!(f, "{proto} {src} > {dst} type {kind} code {code} id {id}");
        }
        if proto.has_ports() {
            let (src, dst) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
            return write!(f, "{proto} {src} > {dst}");
        }
        if sport != 0 || dport != 0 {
            return write!(f, "{proto} {src} > {dst} keys {sport:#x} {dport:#x}");
        }
        write!(f, "{proto} {src} > {dst}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_named_or_numbered() {
        for (text, proto) in [("tcp", Proto::TCP), ("ICMPv6", Proto::ICMPV6), ("253", Proto(253))] {
            assert_eq!(text.parse(), Ok(proto));
        }
        assert!("256".parse::<Proto>().is_err() && "".parse::<Proto>().is_err());
    }

    #[test]
    fn inverses_follow_the_kernel() {
        let ping = Tuple::icmp(
            Proto::ICMP,
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
            7,
            8,
            0,
        );
        let answer = ping.inverse();
        assert_eq!(answer.icmp_parts(), Some((0, 0, 7)));
        assert_eq!((answer.src, answer.dst), (ping.dst, ping.src));
        assert_eq!(answer.inverse(), ping);

        let tcp = Tuple::ports(
            Proto::TCP,
            "[fd00::1]:4000".parse().unwrap(),
            "[fd00::2]:443".parse().unwrap(),
        );
        assert_eq!(tcp.inverse().sport, 443);
        assert_eq!(tcp.inverse().inverse(), tcp);
        assert_eq!(tcp.family(), Family::V6);
        assert_eq!(tcp.to_string(), "tcp [fd00::1]:4000 > [fd00::2]:443");
    }
}
