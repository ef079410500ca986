//! Two gateways in a row with everything behind them:
//!
//! ```text
//!  client1 --.                                              10.77.N.0/24, fd77:N::/64
//!   N=1      |-- gw1 (SNAT for IPv4) --N=3-- gw2 --N=4-- server
//!  client2 --'
//!   N=2
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Host, Link, Talk, Topology, link, talk};

const SERVER: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(10, 77, 4, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 4, 0, 0, 0, 0, 0, 2)),
];
const CLIENT1_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2));

const CLIENT1: Host = Host::new("client1", &["default via 10.77.1.1", "default via fd77:1::1"]);
const CLIENT2: Host = Host::new("client2", &["default via 10.77.2.1", "default via fd77:2::1"]);
const GW1: Host = Host::gateway("gw1", &["default via 10.77.3.2", "default via fd77:3::2"])
    .snat("10.77.3.1")
    .on_every_path();
const GW2: Host = Host::gateway(
    "gw2",
    &[
        "10.77.1.0/24 via 10.77.3.1",
        "10.77.2.0/24 via 10.77.3.1",
        "fd77:1::/64 via fd77:3::1",
        "fd77:2::/64 via fd77:3::1",
    ],
)
.on_every_path();
const SERVER_HOST: Host = Host::new("server", &["default via 10.77.4.1", "default via fd77:4::1"]);

const LINKS: &[Link] = &[
    link(("gw1", "lan1"), ("client1", "eth0"), "77.1"),
    link(("gw1", "lan2"), ("client2", "eth0"), "77.2"),
    link(("gw1", "wan"), ("gw2", "lan"), "77.3"),
    link(("gw2", "wan"), ("server", "eth0"), "77.4"),
];
const TALKS: &[Talk] =
    &[talk("client1", "server", SERVER).back(CLIENT1_V6), talk("client2", "server", SERVER)];

/// gw2 is a plain router: it sees the flows with gw1's address.
pub(crate) const ROUTER: Topology = Topology {
    name: "router",
    hosts: &[CLIENT1, CLIENT2, GW1, GW2, SERVER_HOST],
    links: LINKS,
    talks: TALKS,
    ..Topology::NONE
};

/// gw2 translates again: no IPv4 tuple is the same on both sides of it.
pub(crate) const NAT2: Topology = Topology {
    name: "nat2",
    hosts: &[CLIENT1, CLIENT2, GW1, GW2.snat("10.77.4.1"), SERVER_HOST],
    ..ROUTER
};
