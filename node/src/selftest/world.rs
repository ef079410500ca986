//! The self-test's network:
//!
//! ```text
//! client ---lan--- gateway ---wan--- server        others: a namespace each, loopback only
//!        198.18.1.0/24     198.18.2.0/24
//!        2001:db8:1::/64   2001:db8:2::/64
//! ```
//!
//! The addresses are those of documents and benchmarks (RFC 2544, RFC 3849). Only the gateway and
//! the others track connections.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use flow::NetnsInode;

use crate::netlink::{Talk, route};
use crate::netns::Netns;
use crate::sys;

/// A namespace without a name. It ends when this is dropped, or with the process.
pub(super) struct Room {
    netns: Netns,
    /// What sources are told: the descriptor that holds it.
    path: String,
    _held: File,
}

/// The network.
pub(super) struct World {
    pub(super) client: Room,
    pub(super) gateway: Room,
    pub(super) server: Room,
    /// Watched, beside the gateway.
    pub(super) watched: Room,
    /// Not watched: nothing of it may be reported.
    pub(super) unwatched: Room,
}

impl Room {
    fn make() -> io::Result<Self> {
        let held = std::thread::scope(|scope| {
            let inside = || -> io::Result<File> {
                sys::leave_for_a_new_network()?;
                let held = File::open("/proc/thread-self/ns/net")?;
                // Without waiting for duplicate addresses.
                for (key, value) in [("accept_dad", "0"), ("dad_transmits", "0")] {
                    let path = format!("/proc/sys/net/ipv6/conf/default/{key}");
                    // A kernel without IPv6 has none.
                    let _absent = std::fs::write(path, value);
                }
                route::up(&mut Talk::route()?, "lo")?;
                Ok(held)
            };
            let thread = std::thread::Builder::new().name("netns".to_owned());
            let thread = thread.spawn_scoped(scope, inside)?;
            thread
                .join()
                .map_err(|_panic| io::Error::other("the thread of a namespace panicked"))?
        })?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd());
        Ok(Self { netns: Netns::named(&path)?, path, _held: held })
    }

    pub(super) fn path(&self) -> String {
        self.path.clone()
    }

    pub(super) const fn inode(&self) -> NetnsInode {
        self.netns.inode()
    }

    /// Runs `work` in it, on a thread of its own.
    pub(super) fn enter<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        self.netns.enter(work)
    }

    /// Sets `net.netfilter.nf_conntrack_<key>` in it.
    pub(super) fn set(&self, key: &str, value: u32) -> io::Result<()> {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{key}");
        self.enter(|| std::fs::write(&path, value.to_string()))
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    }
}

impl World {
    /// Makes it.
    ///
    /// # Errors
    /// What cannot be made: without root, or without veth.
    pub(super) fn make() -> io::Result<Self> {
        let [client, gateway, server, watched, unwatched] =
            [(); 5].map(|()| Room::make()).map(|made| made.map_err(|e| said("a namespace", &e)));
        let world = Self {
            client: client?,
            gateway: gateway?,
            server: server?,
            watched: watched?,
            unwatched: unwatched?,
        };
        let gateway = &world.gateway;
        gateway.enter(|| {
            let mut talk = Talk::route()?;
            for (name, room, hosts) in
                [(LAN, &world.client, LAN_HOSTS), (WAN, &world.server, WAN_HOSTS)]
            {
                let there = room._held.as_fd();
                route::cable(&mut talk, name, DEVICE, there)
                    .map_err(|e| said("a veth pair", &e))?;
                dress(&mut talk, name, hosts.map(|(here, _)| here))?;
            }
            // In this order both are known to the gateway before it forwards.
            forward("/proc/sys/net/ipv4/ip_forward", true)?;
            forward("/proc/sys/net/ipv6/conf/all/forwarding", world.has_ipv6())
        })?;
        for (room, hosts) in [(&world.client, LAN_HOSTS), (&world.server, WAN_HOSTS)] {
            room.enter(|| {
                let mut talk = Talk::route()?;
                dress(&mut talk, DEVICE, hosts.map(|(_, there)| there))?;
                for (gateway, _) in hosts.into_iter().filter(|(ip, _)| usable(*ip)) {
                    route::default_route(&mut talk, gateway).map_err(|e| said("a route", &e))?;
                }
                Ok(())
            })?;
        }
        Ok(world)
    }

    /// Whether the kernel speaks IPv6.
    pub(super) fn has_ipv6(&self) -> bool {
        ipv6_is_there()
    }
}

fn forward(path: &str, wanted: bool) -> io::Result<()> {
    if wanted { std::fs::write(path, "1").map_err(|e| said(path, &e)) } else { Ok(()) }
}

/// Addresses of both families, and the device switched on.
fn dress(talk: &mut Talk, device: &str, addresses: [IpAddr; 2]) -> io::Result<()> {
    route::up(talk, device).map_err(|e| said("switching a device on", &e))?;
    for ip in addresses.into_iter().filter(|ip| usable(*ip)) {
        let prefix = if ip.is_ipv4() { 24 } else { 64 };
        route::address(talk, device, ip, prefix).map_err(|e| said("an address", &e))?;
    }
    Ok(())
}

fn usable(ip: IpAddr) -> bool {
    ip.is_ipv4() || ipv6_is_there()
}

fn ipv6_is_there() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

fn said(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

const LAN: &str = "lan";
const WAN: &str = "wan";
const DEVICE: &str = "eth0";

const fn v4(net: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 18, net, host))
}

const fn v6(net: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host))
}

/// The gateway's address and that of who is behind it, for both families.
const LAN_HOSTS: [(IpAddr, IpAddr); 2] = [(v4(1, 1), v4(1, 2)), (v6(1, 1), v6(1, 2))];
const WAN_HOSTS: [(IpAddr, IpAddr); 2] = [(v4(2, 1), v4(2, 2)), (v6(2, 1), v6(2, 2))];

/// A family's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    /// `v4` or `v6`.
    pub(super) word: &'static str,
    pub(super) client: IpAddr,
    /// The gateway's address towards the client.
    pub(super) lan: IpAddr,
    /// The gateway's address towards the server.
    pub(super) wan: IpAddr,
    pub(super) server: IpAddr,
}

/// Of both families.
pub(super) const FAMILIES: [Addresses; 2] = [
    Addresses { word: "v4", client: v4(1, 2), lan: v4(1, 1), wan: v4(2, 1), server: v4(2, 2) },
    Addresses { word: "v6", client: v6(1, 2), lan: v6(1, 1), wan: v6(2, 1), server: v6(2, 2) },
];
