//! Links, addresses and routes (rtnetlink(7), `include/uapi/linux/{rtnetlink,if_link}.h`).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Attributes, NLM_F_CREATE, NLM_F_EXCL, Request, Talk, no};

/// A pair of devices joined like the ends of a cable: `name` here, `peer` in another namespace.
///
/// # Errors
/// What the kernel answered; `EOPNOTSUPP` where it has no veth.
pub(crate) fn cable(
    talk: &mut Talk,
    name: &str,
    peer: &str,
    there: BorrowedFd<'_>,
) -> io::Result<()> {
    let fd = there.as_raw_fd().to_ne_bytes();
    let other = no().with_text(IFLA_IFNAME, peer).with(IFLA_NET_NS_FD, &fd);
    let pair = Attributes::default().with_headed(VETH_INFO_PEER, &ifinfomsg(0, 0), &other);
    let kind = no().with_text(IFLA_INFO_KIND, "veth").with_nest(IFLA_INFO_DATA, &pair);
    let all = no().with_text(IFLA_IFNAME, name).with_nest(IFLA_LINKINFO, &kind);
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    talk.tell(&Request::new(RTM_NEWLINK, flags, &ifinfomsg(0, 0), all))
}

/// Switches a device on.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn up(talk: &mut Talk, name: &str) -> io::Result<()> {
    let name = no().with_text(IFLA_IFNAME, name);
    talk.tell(&Request::new(RTM_NEWLINK, 0, &ifinfomsg(IFF_UP, IFF_UP), name))
}

/// Gives a device an address; IPv6 without a look for duplicates, which takes a second.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn address(talk: &mut Talk, name: &str, ip: IpAddr, prefix: u8) -> io::Result<()> {
    let index = rustix::net::netdevice::name_to_index(&talk.socket, name)?;
    let mut head = vec![family(ip), prefix, IFA_F_NODAD, 0];
    head.extend(index.to_ne_bytes());
    let ip = octets(ip);
    let all = no().with(IFA_LOCAL, &ip).with(IFA_ADDRESS, &ip);
    talk.tell(&Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &head, all))
}

/// Sends everything that has no other way to a gateway.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn default_route(talk: &mut Talk, gateway: IpAddr) -> io::Result<()> {
    let mut head = vec![family(gateway), 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST];
    head.extend([0; 4]);
    let via = no().with(RTA_GATEWAY, &octets(gateway));
    talk.tell(&Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &head, via))
}

/// `struct ifinfomsg`.
fn ifinfomsg(flags: u32, change: u32) -> Vec<u8> {
    let mut head = vec![0; 8];
    head.extend(flags.to_ne_bytes());
    head.extend(change.to_ne_bytes());
    head
}

const fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
