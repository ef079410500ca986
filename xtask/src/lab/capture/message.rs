//! ctnetlink messages as this lab reads them: a second, simple parser that shares no code with
//! the product, so that both would have to be wrong in the same way.
//!
//! Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h, nfnetlink.h, netlink.h.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};

use crate::lab::tally::{Amount, Both, Key};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: an entry of a dump.
const NEW: u16 = 1 << 8;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`: an entry's end.
const DELETE: u16 = 1 << 8 | 2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x1 | 0x300;
/// The table changed under the dump: some entries may be missing.
const DUMP_INTERRUPTED: u16 = 0x10;

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A living entry.
    Living(Key, Both),
    /// An entry's end with its last counters.
    Ended(Key, Both),
    /// An entry that was born while the kernel did not count.
    Uncounted,
    /// A dump is complete; `false` where it was interrupted.
    Done(bool),
}

/// The request for a dump of all entries of all families.
pub(super) fn dump_request() -> Vec<u8> {
    let mut request = Vec::with_capacity(20);
    request.extend(20u32.to_ne_bytes());
    request.extend(GET.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]); // sequence, port
    request.extend([0; 4]); // struct nfgenmsg: every family, version 0
    request
}

/// All messages of a datagram; other kinds than ours are left out.
pub(super) fn parse(datagram: &[u8]) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while rest.len() >= 16 {
        let length = u32::from_ne_bytes(array(rest, 0)?) as usize;
        let kind = u16::from_ne_bytes(array(rest, 4)?);
        let flags = u16::from_ne_bytes(array(rest, 6)?);
        let message =
            rest.get(..length).context("a netlink message is longer than its datagram")?;
        let body = message.get(16..).context("a netlink message is shorter than its header")?;
        match kind {
            NEW | DELETE => {
                let attributes = body.get(4..).context("no nfgenmsg in a conntrack message")?;
                messages.push(match (entry(attributes)?, kind) {
                    (None, _) => Message::Uncounted,
                    (Some((key, both)), DELETE) => Message::Ended(key, both),
                    (Some((key, both)), _) => Message::Living(key, both),
                });
            }
            NLMSG_DONE => messages.push(Message::Done(flags & DUMP_INTERRUPTED == 0)),
            NLMSG_ERROR => {
                let code = i32::from_ne_bytes(array(body, 0)?);
                bail!("ctnetlink: {}", std::io::Error::from_raw_os_error(-code));
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn entry(attributes: &[u8]) -> Result<Option<(Key, Both)>> {
    let (Some(original), Some(reply)) = (amount(attributes, 9)?, amount(attributes, 10)?) else {
        return Ok(None);
    };
    let tuple = find(attributes, 1)?.context("an entry has no original tuple")?;
    let ip = find(tuple, 1)?.context("a tuple has no addresses")?;
    let (src, dst) = match (find(ip, 1)?, find(ip, 2)?, find(ip, 3)?, find(ip, 4)?) {
        (Some(src), Some(dst), ..) => {
            (IpAddr::from(array::<4>(src, 0)?), IpAddr::from(array::<4>(dst, 0)?))
        }
        (_, _, Some(src), Some(dst)) => {
            (IpAddr::from(array::<16>(src, 0)?), IpAddr::from(array::<16>(dst, 0)?))
        }
        _ => bail!("a tuple has no pair of addresses"),
    };
    let proto = find(tuple, 2)?.context("a tuple has no protocol")?;
    let number = |kind| -> Result<Option<u8>> {
        find(proto, kind)?.map(|value| Ok(u8::from_be_bytes(array(value, 0)?))).transpose()
    };
    let port = |kind| -> Result<Option<u16>> {
        find(proto, kind)?.map(|value| Ok(u16::from_be_bytes(array(value, 0)?))).transpose()
    };
    // ICMP: id 4, type 5, code 6; ICMPv6: 7, 8, 9.
    let icmp = |id, kind, code| -> Result<Option<(u16, u16)>> {
        let (Some(id), Some(kind), Some(code)) = (port(id)?, number(kind)?, number(code)?) else {
            return Ok(None);
        };
        Ok(Some((id, u16::from(kind) << 8 | u16::from(code))))
    };
    let (sport, dport) = match (icmp(4, 5, 6)?, icmp(7, 8, 9)?) {
        (Some(parts), _) | (None, Some(parts)) => parts,
        _ => (port(2)?.unwrap_or(0), port(3)?.unwrap_or(0)),
    };
    let start = match find(attributes, 20)? {
        Some(times) => find(times, 1)?.map_or(Ok(0), |v| array(v, 0).map(u64::from_be_bytes))?,
        None => 0,
    };
    let zone = find(attributes, 18)?.map_or(Ok(0), |v| array(v, 0).map(u16::from_be_bytes))?;
    let proto = number(1)?.context("a tuple has no protocol number")?;
    let key = Key { proto, src, dst, sport, dport, zone, start };
    Ok(Some((key, Both { original, reply })))
}

fn amount(attributes: &[u8], kind: u16) -> Result<Option<Amount>> {
    let Some(counters) = find(attributes, kind)? else {
        return Ok(None);
    };
    let number = |kind| -> Result<u64> {
        let value = find(counters, kind)?.context("a counter is missing")?;
        array(value, 0).map(u64::from_be_bytes)
    };
    Ok(Some(Amount { packets: number(1)?, bytes: number(2)? }))
}

/// The value of the first attribute of this kind.
fn find(mut attributes: &[u8], wanted: u16) -> Result<Option<&[u8]>> {
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(array(attributes, 0)?));
        let kind = u16::from_ne_bytes(array(attributes, 2)?) & 0x3fff;
        let value = attributes.get(4..length).context("an attribute has a wrong length")?;
        if kind == wanted {
            return Ok(Some(value));
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(None)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let part = bytes.get(at..at + N).context("a netlink value is too short")?;
    part.try_into().context("a netlink value is too short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut out = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn counters(packets: u64, bytes: u64) -> Vec<u8> {
        [attribute(1, &packets.to_be_bytes()), attribute(2, &bytes.to_be_bytes())].concat()
    }

    fn message(kind: u16, proto: &[u8]) -> Vec<u8> {
        let ip = [attribute(1, &[10, 0, 0, 1]), attribute(2, &[10, 0, 0, 2])].concat();
        let tuple = [attribute(0x8001, &ip), attribute(0x8002, proto)].concat();
        let mut body = vec![2, 0, 0, 0];
        body.extend(attribute(0x8001, &tuple));
        body.extend(attribute(0x8009, &counters(3, 300)));
        body.extend(attribute(0x800a, &counters(2, 200)));
        body.extend(attribute(18, &7u16.to_be_bytes()));
        body.extend(attribute(0x8014, &attribute(1, &99u64.to_be_bytes())));
        let length = u32::try_from(body.len() + 16).unwrap();
        let mut out = length.to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(body);
        out
    }

    #[test]
    fn an_end_gives_tuple_zone_start_and_counters() {
        let proto = [attribute(1, &[17]), attribute(2, &[0, 5]), attribute(3, &[0, 53])].concat();
        let (src, dst) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let key = Key { proto: 17, src, dst, sport: 5, dport: 53, zone: 7, start: 99 };
        let both = Both {
            original: Amount { packets: 3, bytes: 300 },
            reply: Amount { packets: 2, bytes: 200 },
        };
        assert_eq!(parse(&message(DELETE, &proto)).unwrap(), [Message::Ended(key, both)]);
        assert_eq!(parse(&message(NEW, &proto)).unwrap(), [Message::Living(key, both)]);
    }

    #[test]
    fn icmp_parts_take_the_place_of_ports() {
        let proto =
            [attribute(1, &[1]), attribute(4, &[1, 2]), attribute(5, &[8]), attribute(6, &[0])]
                .concat();
        let messages = parse(&message(DELETE, &proto)).unwrap();
        let [Message::Ended(key, _)] = messages.as_slice() else { panic!("{messages:?}") };
        assert_eq!((key.sport, key.dport), (0x0102, 0x0800));
    }

    #[test]
    fn truncated_messages_are_errors() {
        let proto = [attribute(1, &[17]), attribute(2, &[0, 5]), attribute(3, &[0, 53])].concat();
        let whole = message(DELETE, &proto);
        for end in 16..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{end}");
        }
    }
}
