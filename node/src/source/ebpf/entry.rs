//! From an entry's bytes to a reading: pure, by the running kernel's layout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebpf_abi::{COUNTED, Entry, HELD, READ, STAMPED};
use flow::entry::Zone;
use flow::{Counters, NetnsInode, Proto, Reading, Status, TcpState, Tuple};

use super::layout::Layout;

/// Why bytes are no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The kernel could not read them.
    #[error("it could not be read")]
    Unread,
    /// A tuple of neither IPv4 nor IPv6.
    #[error("its family is {family}, neither IPv4 nor IPv6")]
    Family {
        /// What it says.
        family: u16,
    },
    /// The directions of its tuples are not original and reply.
    #[error("its tuples have the directions {orig} and {reply}, not 0 and 1")]
    Direction {
        /// Of the first tuple.
        orig: u8,
        /// Of the second one.
        reply: u8,
    },
}

/// The reading in an entry's bytes; `kernel_id` is 0: only netlink tells it.
///
/// # Errors
/// When the bytes cannot be those of an entry.
pub fn reading(layout: &Layout, entry: &Entry, netns: NetnsInode) -> Result<Reading, EntryError> {
    if entry.flags & READ == 0 {
        return Err(EntryError::Unread);
    }
    let conn = &layout.nf_conn;
    let block = Block(&entry.block);
    let orig = block.tuple(layout, conn.orig)?;
    let reply = block.tuple(layout, conn.reply)?;
    let directions = [conn.orig, conn.reply].map(|tuple| block.byte(tuple + layout.tuple.dir));
    if let [from, to] = directions
        && (from, to) != (0, 1)
    {
        return Err(EntryError::Direction { orig: from, reply: to });
    }
    let stamped = entry.flags & STAMPED != 0;
    let is_tcp = orig.proto == Proto::TCP;
    let picked_up = block.byte(conn.tcp_orig_flags) & block.byte(conn.tcp_reply_flags) & PICKED_UP;
    Ok(Reading {
        netns,
        zone: conn.zone.map_or(Zone(0), |zone| block.zone(zone)),
        orig,
        reply,
        start: if stamped { entry.start } else { 0 },
        stop: if stamped { entry.stop } else { 0 },
        kernel_id: 0,
        mark: conn.mark.map_or(0, |mark| block.word(mark)),
        status: Status(block.word(conn.status)),
        tcp: TcpState(if is_tcp { block.byte(conn.tcp_state) } else { 0 }),
        fresh: is_tcp && picked_up != PICKED_UP,
        counters: counters(entry),
    })
}

/// Whether the bytes of a swept entry are those of one that still lived after they were read.
#[must_use]
pub const fn is_held(entry: &Entry) -> bool {
    entry.flags & HELD != 0
}

fn counters(entry: &Entry) -> Option<Counters> {
    let [packets, bytes, reply_packets, reply_bytes] = entry.counters;
    (entry.flags & COUNTED != 0).then(|| Counters::new(packets, bytes, reply_packets, reply_bytes))
}

/// The copied bytes of a `struct nf_conn`. Nothing lies beyond: the layout was checked.
struct Block<'b>(&'b [u8]);

impl Block<'_> {
    fn bytes<const N: usize>(&self, at: u32) -> [u8; N] {
        let bytes = self.0.get(at as usize..).and_then(|bytes| bytes.first_chunk());
        bytes.copied().unwrap_or([0; N])
    }

    fn byte(&self, at: u32) -> u8 {
        let [byte] = self.bytes(at);
        byte
    }

    fn word(&self, at: u32) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    fn tuple(&self, layout: &Layout, begin: u32) -> Result<Tuple, EntryError> {
        let at = &layout.tuple;
        let address: fn(&Self, u32) -> IpAddr =
            match u16::from_ne_bytes(self.bytes(begin + at.l3num)) {
                AF_INET => |block, at| Ipv4Addr::from(block.bytes::<4>(at)).into(),
                AF_INET6 => |block, at| Ipv6Addr::from(block.bytes::<16>(at)).into(),
                family => return Err(EntryError::Family { family }),
            };
        // In network order, whatever they are: ports, GRE keys, an ICMP id, its type and code.
        Ok(Tuple {
            src: address(self, begin + at.src),
            dst: address(self, begin + at.dst),
            sport: u16::from_be_bytes(self.bytes(begin + at.sport)),
            dport: u16::from_be_bytes(self.bytes(begin + at.dport)),
            proto: Proto(self.byte(begin + at.proto)),
        })
    }

    /// The zone of the original direction: `struct nf_conntrack_zone { u16 id; u8 flags; u8 dir }`.
    fn zone(&self, at: u32) -> Zone {
        let of_original = self.byte(at + 3) & ZONE_DIR_ORIG != 0;
        Zone(if of_original { u16::from_ne_bytes(self.bytes(at)) } else { 0 })
    }
}

/// What the kernel's `NFPROTO_IPV4` and `NFPROTO_IPV6` are, too.
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// `NF_CT_ZONE_DIR_ORIG` (`nf_conntrack_zones_common.h`).
const ZONE_DIR_ORIG: u8 = 1;

/// `IP_CT_TCP_FLAG_SACK_PERM | IP_CT_TCP_FLAG_BE_LIBERAL`, in both directions of an entry that
/// was picked up in the middle of a connection (`tcp_new` in `nf_conntrack_proto_tcp.c`).
const PICKED_UP: u8 = 0x02 | 0x08;

#[cfg(test)]
pub(super) mod tests {
    use super::super::layout::tests::linux_6_12;
    use super::*;

    /// An entry of TCP from 10.0.0.1:`port` to 10.0.0.2:80, as the kernel would copy it.
    pub(crate) fn tcp(port: u16, start: u64, counters: [u64; 4]) -> Entry {
        let layout = linux_6_12();
        let mut block = [0u8; ebpf_abi::SPAN_MAX];
        let mut put = |at: u32, bytes: &[u8]| {
            block[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        let (conn, tuple) = (layout.nf_conn, layout.tuple);
        for (begin, dir) in [(conn.orig, 0u8), (conn.reply, 1)] {
            let (mut ends, mut ports) = ([[10, 0, 0, 1], [10, 0, 0, 2]], [port, 80]);
            if dir == 1 {
                ends.reverse();
                ports.reverse();
            }
            put(begin + tuple.src, &ends[0]);
            put(begin + tuple.dst, &ends[1]);
            put(begin + tuple.sport, &ports[0].to_be_bytes());
            put(begin + tuple.dport, &ports[1].to_be_bytes());
            put(begin + tuple.l3num, &2u16.to_ne_bytes());
            put(begin + tuple.proto, &[6]);
            put(begin + tuple.dir, &[dir]);
        }
        put(conn.status, &0x0eu64.to_ne_bytes());
        put(conn.tcp_state, &[3]);
        put(conn.tcp_orig_flags, &[0x02]);
        put(conn.tcp_reply_flags, &[0x02]);
        put(conn.mark.unwrap(), &42u32.to_ne_bytes());
        put(conn.zone.unwrap(), &[7, 0, 0, 3]);
        Entry {
            ct: 0xffff_8880_0000_1000,
            flags: READ | COUNTED | STAMPED | HELD,
            padding: 0,
            ext: [0; 16],
            counters,
            start,
            stop: 0,
            block,
        }
    }

    fn parse(entry: &Entry) -> Result<Reading, EntryError> {
        reading(&linux_6_12(), entry, NetnsInode(1))
    }

    #[test]
    fn every_field_is_found() {
        let found = parse(&tcp(1001, 5, [1, 40, 2, 80])).unwrap();
        let addr = |text: &str| text.parse().unwrap();
        assert_eq!(
            found.orig,
            Tuple::ports(Proto::TCP, addr("10.0.0.1:1001"), addr("10.0.0.2:80"))
        );
        assert_eq!(found.reply, found.orig.inverse());
        assert_eq!((found.zone, found.mark, found.tcp.name()), (Zone(7), 42, "ESTABLISHED"));
        assert_eq!((found.start, found.stop, found.fresh), (5, 0, true));
        assert_eq!(found.counters, Some(Counters::new(1, 40, 2, 80)));
        assert!(found.status.has(Status::CONFIRMED | Status::ASSURED | Status::SEEN_REPLY));
    }

    #[test]
    fn what_an_entry_lacks_is_not_made_up() {
        let mut entry = tcp(1001, 5, [1, 40, 2, 80]);
        entry.flags = READ;
        let conn = linux_6_12().nf_conn;
        entry.block[conn.tcp_orig_flags as usize] = 0x0a;
        entry.block[conn.tcp_reply_flags as usize] = 0x0a;
        entry.block[conn.zone.unwrap() as usize + 3] = 2;
        let found = parse(&entry).unwrap();
        assert_eq!((found.start, found.counters, found.fresh), (0, None, false));
        assert_eq!(found.zone, Zone(0), "a reply's zone is not the entry's");
        assert!(!is_held(&entry));
    }

    #[test]
    fn bytes_that_are_no_entry_are_refused() {
        let mut entry = tcp(1, 1, [0; 4]);
        entry.flags = 0;
        assert_eq!(parse(&entry), Err(EntryError::Unread));
        let (conn, tuple) = (linux_6_12().nf_conn, linux_6_12().tuple);
        let mut entry = tcp(1, 1, [0; 4]);
        entry.block[(conn.reply + tuple.dir) as usize] = 0;
        assert_eq!(parse(&entry), Err(EntryError::Direction { orig: 0, reply: 0 }));
        entry.block[(conn.orig + tuple.l3num) as usize] = 7;
        assert_eq!(parse(&entry), Err(EntryError::Family { family: 7 }));
    }

    #[test]
    fn an_icmp_tuple_is_id_type_and_code() {
        let (conn, tuple) = (linux_6_12().nf_conn, linux_6_12().tuple);
        let mut entry = tcp(77, 1, [0; 4]);
        for begin in [conn.orig, conn.reply] {
            entry.block[(begin + tuple.proto) as usize] = 1;
        }
        entry.block[(conn.orig + tuple.dport) as usize..][..2].copy_from_slice(&[8, 0]);
        let found = parse(&entry).unwrap();
        assert_eq!(found.orig.icmp_parts(), Some((8, 0, 77)));
        assert_eq!((found.tcp.0, found.fresh), (0, false));
    }
}
