//! Conntrack messages to readings: pure functions over bytes
//! (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`, written by the kernel's
//! `net/netfilter/nf_conntrack_netlink.c`).
//!
//! What the kernel leaves out, and when:
//! - counters: always in dumps and DESTROY where the entry has the accounting extension, never
//!   in NEW;
//! - start and stop: dumps and DESTROY, where the entry has the timestamp extension;
//! - TCP flags: dumps and NEW, never DESTROY (then [`Reading::fresh`] is false: what an earlier
//!   reading said of the entry holds);
//! - mark, zone: absent when zero.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flow::entry::Zone;
use flow::{Counters, NetnsInode, Proto, Reading, Status, Tally, TcpState, Tuple};

use super::attr::{Attr, AttrError, Attrs, Message};

/// What a message of a conntrack socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An entry: an element of a dump, or a NEW (or update) event.
    Entry,
    /// A DESTROY event.
    Destroy,
    /// The dump is over.
    Done,
    /// An answer to a request; 0 or a negated error number.
    Error,
    /// Anything else.
    Other,
}

/// Why an entry could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A length inside it is wrong.
    #[error(transparent)]
    Attr(#[from] AttrError),
    /// Shorter than `struct nfgenmsg`.
    #[error("shorter than its header")]
    Header,
    /// An address or number has another size than its type.
    #[error("attribute {kind} has {length} bytes")]
    Size {
        /// The attribute's type within its nest.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// No original or no reply tuple, or one without addresses of one family.
    #[error("the {direction} tuple is incomplete")]
    Tuple {
        /// Which one.
        direction: &'static str,
    },
}

/// What `message` is.
#[must_use]
pub const fn kind(message: &Message<'_>) -> Kind {
    match message.kind {
        CT_NEW => Kind::Entry,
        CT_DELETE => Kind::Destroy,
        NLMSG_DONE => Kind::Done,
        NLMSG_ERROR => Kind::Error,
        _ => Kind::Other,
    }
}

/// The error number (positive, 0 = none) of a [`Kind::Error`] or [`Kind::Done`] message; a body
/// too short for one carries none.
#[must_use]
pub fn error_number(message: &Message<'_>) -> i32 {
    message.body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes).saturating_neg())
}

/// Whether a message says that the dump it belongs to is not one consistent picture.
#[must_use]
pub const fn interrupted(message: &Message<'_>) -> bool {
    message.flags & NLM_F_DUMP_INTR != 0
}

/// The reading in the body of a [`Kind::Entry`] or [`Kind::Destroy`] message that was received
/// in `netns`.
///
/// # Errors
/// When a length is wrong or the tuples are incomplete. Unknown attributes are skipped.
#[inline]
pub fn reading(body: &[u8], netns: NetnsInode) -> Result<Reading, ParseError> {
    let attrs = body.get(GENMSG_HEADER..).ok_or(ParseError::Header)?;
    let mut entry = Entry::default();
    for attr in Attrs::new(attrs) {
        entry.take(attr?)?;
    }
    entry.into_reading(netns)
}

#[derive(Default)]
struct Entry {
    orig: Half,
    reply: Half,
    zone: u16,
    start: u64,
    stop: u64,
    kernel_id: u32,
    mark: u32,
    status: u32,
    tcp: Tcp,
    counted_orig: Option<Tally>,
    counted_reply: Option<Tally>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Half {
    src: Option<IpAddr>,
    dst: Option<IpAddr>,
    proto: Option<u8>,
    sport: u16,
    dport: u16,
    zone: Option<u16>,
}

#[derive(Default)]
struct Tcp {
    state: u8,
    orig: Option<u8>,
    reply: Option<u8>,
}

impl Entry {
    #[inline]
    fn take(&mut self, attr: Attr<'_>) -> Result<(), ParseError> {
        match attr.kind {
            CTA_TUPLE_ORIG => self.orig = half(attr)?,
            CTA_TUPLE_REPLY => self.reply = half(attr)?,
            CTA_STATUS => self.status = sized(attr, attr.be32())?,
            CTA_PROTOINFO => self.tcp = tcp(attr)?,
            CTA_MARK => self.mark = sized(attr, attr.be32())?,
            CTA_COUNTERS_ORIG => self.counted_orig = Some(tally(attr)?),
            CTA_COUNTERS_REPLY => self.counted_reply = Some(tally(attr)?),
            CTA_ID => self.kernel_id = sized(attr, attr.be32())?,
            CTA_ZONE => self.zone = sized(attr, attr.be16())?,
            CTA_TIMESTAMP => {
                for inner in attr.nested() {
                    let inner = inner?;
                    match inner.kind {
                        CTA_TIMESTAMP_START => self.start = sized(inner, inner.be64())?,
                        CTA_TIMESTAMP_STOP => self.stop = sized(inner, inner.be64())?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    #[inline]
    fn into_reading(self, netns: NetnsInode) -> Result<Reading, ParseError> {
        let zone = Zone(self.orig.zone.unwrap_or(self.zone));
        let orig = self.orig.into_tuple("original")?;
        let reply = self.reply.into_tuple("reply")?;
        let counters = match (self.counted_orig, self.counted_reply) {
            (None, None) => None,
            (orig, reply) => {
                Some(Counters { orig: orig.unwrap_or_default(), reply: reply.unwrap_or_default() })
            }
        };
        Ok(Reading {
            netns,
            zone,
            orig,
            reply,
            start: self.start,
            stop: self.stop,
            kernel_id: self.kernel_id,
            mark: self.mark,
            status: Status(self.status),
            tcp: TcpState(self.tcp.state),
            fresh: orig.proto == Proto::TCP && self.tcp.born_by_syn(),
            counters,
        })
    }
}

impl Half {
    fn into_tuple(self, direction: &'static str) -> Result<Tuple, ParseError> {
        let incomplete = ParseError::Tuple { direction };
        let (Some(src), Some(dst), Some(proto)) = (self.src, self.dst, self.proto) else {
            return Err(incomplete);
        };
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(incomplete);
        }
        Ok(Tuple { src, dst, sport: self.sport, dport: self.dport, proto: Proto(proto) })
    }
}

impl Tcp {
    /// `tcp_new` in the kernel's `nf_conntrack_proto_tcp.c`: an entry picked up in the middle of
    /// a connection gets both flags in both directions; a handshake never sets `BE_LIBERAL`.
    const fn born_by_syn(&self) -> bool {
        match (self.orig, self.reply) {
            (Some(orig), Some(reply)) => orig & reply & PICKED_UP != PICKED_UP,
            _ => false,
        }
    }
}

/// A tuple: at once where it has the usual form, else attribute by attribute.
#[inline]
fn half(attr: Attr<'_>) -> Result<Half, ParseError> {
    usual_half(attr.value).map_or_else(|| any_half(attr), Ok)
}

/// The form of nearly every tuple (IPv4 and ports in the kernel's order, little endian), read
/// without a walk: it is compared with the headers that it must have.
#[inline]
fn usual_half(value: &[u8]) -> Option<Half> {
    let value: &[u8; 48] = value.try_into().ok()?;
    let word = |at: usize| [value[at], value[at + 1], value[at + 2], value[at + 3]];
    let usual = word(0) == [20, 0, 1, 0x80]
        && word(4) == [8, 0, 1, 0]
        && word(12) == [8, 0, 2, 0]
        && word(20) == [28, 0, 2, 0x80]
        && word(24) == [5, 0, 1, 0]
        && word(32) == [6, 0, 2, 0]
        && word(40) == [6, 0, 3, 0];
    usual.then(|| Half {
        src: Some(IpAddr::V4(Ipv4Addr::from(word(8)))),
        dst: Some(IpAddr::V4(Ipv4Addr::from(word(16)))),
        proto: Some(value[28]),
        sport: u16::from_be_bytes([value[36], value[37]]),
        dport: u16::from_be_bytes([value[44], value[45]]),
        zone: None,
    })
}

fn any_half(attr: Attr<'_>) -> Result<Half, ParseError> {
    let mut half = Half::default();
    for inner in attr.nested() {
        let inner = inner?;
        match inner.kind {
            CTA_TUPLE_IP => addresses(inner, &mut half)?,
            CTA_TUPLE_PROTO => protocol(inner, &mut half)?,
            CTA_TUPLE_ZONE => half.zone = Some(sized(inner, inner.be16())?),
            _ => {}
        }
    }
    Ok(half)
}

#[inline]
fn addresses(attr: Attr<'_>, half: &mut Half) -> Result<(), ParseError> {
    for inner in attr.nested() {
        let inner = inner?;
        let place = match inner.kind {
            CTA_IP_V4_SRC | CTA_IP_V6_SRC => &mut half.src,
            CTA_IP_V4_DST | CTA_IP_V6_DST => &mut half.dst,
            _ => continue,
        };
        let address = match inner.kind {
            CTA_IP_V4_SRC | CTA_IP_V4_DST => {
                <[u8; 4]>::try_from(inner.value).ok().map(|b| IpAddr::V4(Ipv4Addr::from(b)))
            }
            _ => <[u8; 16]>::try_from(inner.value).ok().map(|b| IpAddr::V6(Ipv6Addr::from(b))),
        };
        *place = Some(sized(inner, address)?);
    }
    Ok(())
}

#[inline]
fn protocol(attr: Attr<'_>, half: &mut Half) -> Result<(), ParseError> {
    let (mut icmp_type, mut icmp_code) = (0, 0);
    let mut icmp = false;
    for inner in attr.nested() {
        let inner = inner?;
        match inner.kind {
            CTA_PROTO_NUM => half.proto = Some(sized(inner, inner.u8())?),
            CTA_PROTO_SRC_PORT => half.sport = sized(inner, inner.be16())?,
            CTA_PROTO_DST_PORT => half.dport = sized(inner, inner.be16())?,
            CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
                half.sport = sized(inner, inner.be16())?;
                icmp = true;
            }
            CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
                icmp_type = sized(inner, inner.u8())?;
                icmp = true;
            }
            CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => {
                icmp_code = sized(inner, inner.u8())?;
                icmp = true;
            }
            _ => {}
        }
    }
    if icmp {
        half.dport = u16::from_be_bytes([icmp_type, icmp_code]);
    }
    Ok(())
}

#[inline]
fn tally(attr: Attr<'_>) -> Result<Tally, ParseError> {
    let (mut packets, mut bytes) = (0, 0);
    for inner in attr.nested() {
        let inner = inner?;
        match inner.kind {
            CTA_COUNTERS_PACKETS => packets = sized(inner, inner.be64())?,
            CTA_COUNTERS_BYTES => bytes = sized(inner, inner.be64())?,
            _ => {}
        }
    }
    Ok(Tally::new(packets, bytes))
}

#[inline]
fn tcp(attr: Attr<'_>) -> Result<Tcp, ParseError> {
    let mut tcp = Tcp::default();
    for inner in attr.nested() {
        let inner = inner?;
        if inner.kind != CTA_PROTOINFO_TCP {
            continue;
        }
        for leaf in inner.nested() {
            let leaf = leaf?;
            match leaf.kind {
                CTA_PROTOINFO_TCP_STATE => tcp.state = sized(leaf, leaf.u8())?,
                // `struct nf_ct_tcp_flags { flags, mask }`.
                CTA_PROTOINFO_TCP_FLAGS_ORIG => tcp.orig = Some(sized(leaf, leaf.u8())?),
                CTA_PROTOINFO_TCP_FLAGS_REPLY => tcp.reply = Some(sized(leaf, leaf.u8())?),
                _ => {}
            }
        }
    }
    Ok(tcp)
}

#[inline]
fn sized<T>(attr: Attr<'_>, value: Option<T>) -> Result<T, ParseError> {
    value.ok_or(ParseError::Size { kind: attr.kind, length: attr.value.len() })
}

/// `NFNL_SUBSYS_CTNETLINK << 8`.
const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_NEW`: events of births, and the elements of dumps.
pub(super) const CT_NEW: u16 = SUBSYSTEM;
/// `IPCTNL_MSG_CT_GET`.
pub(super) const CT_GET: u16 = SUBSYSTEM | 1;
/// `IPCTNL_MSG_CT_DELETE`.
pub(super) const CT_DELETE: u16 = SUBSYSTEM | 2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// `struct nfgenmsg`: family, version, resource id.
const GENMSG_HEADER: usize = 4;

// enum ctattr_type
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_MARK: u16 = 8;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TIMESTAMP: u16 = 20;
// enum ctattr_tuple
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
// enum ctattr_ip
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
// enum ctattr_l4proto
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;
// enum ctattr_counters
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;
// enum ctattr_tstamp
const CTA_TIMESTAMP_START: u16 = 1;
const CTA_TIMESTAMP_STOP: u16 = 2;
// enum ctattr_protoinfo, ctattr_protoinfo_tcp
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIG: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
/// `IP_CT_TCP_FLAG_SACK_PERM | IP_CT_TCP_FLAG_BE_LIBERAL` (`nf_conntrack_tcp.h`).
const PICKED_UP: u8 = 0x02 | 0x08;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIXTURES: &str = include_str!("../../../tests/fixtures/ctnetlink.txt");
    const NETNS: NetnsInode = NetnsInode(7);

    /// The bodies recorded under a name, in order.
    fn bodies(name: &str) -> Vec<Vec<u8>> {
        let lines = FIXTURES.lines().filter_map(|line| line.split_once(": "));
        let hex = lines.filter(|(what, _)| name.is_empty() || *what == name);
        let byte = |at: &[u8]| u8::from_str_radix(std::str::from_utf8(at).unwrap(), 16).unwrap();
        hex.map(|(_, hex)| hex.as_bytes().chunks(2).map(byte).collect()).collect()
    }

    fn readings(name: &str) -> Vec<Reading> {
        bodies(name).iter().map(|body| reading(body, NETNS).unwrap()).collect()
    }

    #[test]
    fn recorded_connections_are_read() {
        let established = readings("tcp established")[0];
        assert_eq!(established.netns, NETNS);
        assert_eq!(established.orig.to_string().split(':').next(), Some("tcp 127.0.0.1"));
        assert_eq!((established.orig.dport, established.reply.sport), (4000, 4000));
        assert_eq!(established.tcp.name(), "ESTABLISHED");
        assert!(established.fresh && established.start > 0 && established.stop == 0);
        // SYN, ACK, data; SYN-ACK, ACK of the data: headers of 60, 52, 52 + 8 and 60, 52 bytes.
        assert_eq!(established.counters, Some(Counters::new(3, 172, 2, 112)));

        let picked_up = readings("tcp picked up")[0];
        assert!(!picked_up.fresh);
        assert_eq!(picked_up.orig.dport, 4000);
        assert_ne!(picked_up.start, established.start);

        let born = readings("new");
        assert_eq!((born[0].orig, born[0].kernel_id), (established.orig, established.kernel_id));
        assert!(born.iter().all(|r| r.counters.is_none() && r.start == 0));
        let ended = readings("destroy");
        assert_eq!((ended[0].orig, ended[0].start), (established.orig, established.start));
        assert_eq!(ended[0].counters, established.counters);
        assert!(ended.iter().all(|r| r.stop >= r.start && r.start > 0));
    }

    #[test]
    fn recorded_protocols_are_read() {
        let all = readings("inserted");
        let mut said: Vec<_> = all.iter().map(|r| format!("{} z{}", r.orig, r.zone.0)).collect();
        said.sort();
        assert_eq!(
            said,
            [
                "gre 10.1.0.1 > 10.1.0.2 keys 0x5 0x6 z0",
                "icmp 10.1.0.1 > 10.1.0.2 type 8 code 0 id 77 z0",
                "icmpv6 fd00::1 > fd00::2 type 128 code 0 id 78 z0",
                "sctp 10.1.0.1:1004 > 10.1.0.2:2905 z0",
                "tcp 10.1.0.1:1001 > 10.1.0.2:80 z0",
                "tcp [fd00::1]:1003 > [fd00::2]:443 z0",
                "udp 10.1.0.1:1002 > 10.1.0.2:53 z7",
                "udp 10.1.0.1:1002 > 10.1.0.2:53 z8",
                "udp 10.1.0.1:1002 > 10.1.0.2:54 z0",
                "udp 10.1.0.1:1008 > 10.1.0.2:1009 z0",
                "udplite 10.1.0.1:1006 > 10.1.0.2:1007 z0",
            ]
        );
    }

    #[test]
    fn an_entry_cut_short_is_an_error_or_lacks_its_tail() {
        for body in bodies("") {
            let whole = reading(&body, NETNS).unwrap();
            for length in 0..body.len() {
                if let Ok(part) = reading(&body[..length], NETNS) {
                    assert_eq!((part.orig, part.reply), (whole.orig, whole.reply));
                }
            }
        }
        assert_eq!(reading(&[], NETNS), Err(ParseError::Header));
        let none = Err(ParseError::Tuple { direction: "original" });
        assert_eq!(reading(&[0; 4], NETNS), none);
    }

    #[test]
    fn the_usual_form_is_read_as_any_other() {
        let mut usual = 0;
        for body in bodies("") {
            for attr in Attrs::new(&body[GENMSG_HEADER..]).map(Result::unwrap) {
                if let (1..=2, Some(read)) = (attr.kind, usual_half(attr.value)) {
                    assert_eq!(Ok(read), any_half(attr));
                    usual += 1;
                }
            }
        }
        assert!(usual > 20 || cfg!(target_endian = "big"));
    }

    proptest! {
        #[test]
        fn a_usual_form_with_any_values_is_read_as_any_other(
            mut value in proptest::collection::vec(any::<u8>(), 48),
            headers in any::<bool>(),
        ) {
            if headers {
                for (at, header) in [
                    (0, [20, 0, 1, 0x80]), (4, [8, 0, 1, 0]), (12, [8, 0, 2, 0]),
                    (20, [28, 0, 2, 0x80]), (24, [5, 0, 1, 0]), (32, [6, 0, 2, 0]),
                    (40, [6, 0, 3, 0]),
                ] {
                    value[at..at + 4].copy_from_slice(&header);
                }
            }
            if let Some(read) = usual_half(&value) {
                prop_assert_eq!(Ok(read), any_half(Attr { kind: 1, value: &value }));
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = reading(&bytes, NETNS);
            for message in super::super::attr::Messages::new(&bytes).flatten() {
                let _ = (kind(&message), error_number(&message), reading(message.body, NETNS));
            }
        }

        #[test]
        fn damaged_messages_never_panic(
            which in any::<prop::sample::Index>(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let bodies = bodies("");
            let mut body = which.get(&bodies).clone();
            for (at, byte) in damage {
                let at = at.index(body.len());
                body[at] = byte;
            }
            if let Ok(reading) = reading(&body, NETNS) {
                prop_assert_eq!(reading.orig.src.is_ipv4(), reading.orig.dst.is_ipv4());
            }
        }
    }
}
