//! Labs of one flow seen by several: in a row, in turn, by one direction each, late, and under
//! addresses that mean another host elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Exactness, Host, Link, Mix, Step, Talk, Topology, link, talk};

const fn v4(net: u8, link: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, net, link, host))
}

/// In the pattern of links. All is hexadecimal there: 0x84 and 0x20 for 10.84.20.
const fn v6(net: u16, link: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00 | net, link, 0, 0, 0, 0, 0, host))
}

/// client - router - NAT - NAT - server.
pub(crate) const CHAIN: Topology = Topology {
    name: "chain",
    hosts: &[
        Host::new("client", &["default via 10.84.1.1", "default via fd84:1::1"]),
        Host::gateway("router", &["default via 10.84.2.2", "default via fd84:2::2"])
            .on_every_path(),
        Host::gateway(
            "nat1",
            &[
                "10.84.1.0/24 via 10.84.2.1",
                "fd84:1::/64 via fd84:2::1",
                "default via 10.84.3.2",
                "default via fd84:3::2",
            ],
        )
        .snat("10.84.3.1")
        .on_every_path(),
        Host::gateway("nat2", &["fd84:1::/64 via fd84:3::1"]).snat("10.84.4.1").on_every_path(),
        Host::new("server", &["default via 10.84.4.1", "default via fd84:4::1"]),
    ],
    links: &[
        link(("router", "lan"), ("client", "eth0"), "84.1"),
        link(("router", "wan"), ("nat1", "lan"), "84.2"),
        link(("nat1", "wan"), ("nat2", "lan"), "84.3"),
        link(("nat2", "wan"), ("server", "eth0"), "84.4"),
    ],
    talks: &[CHAIN_TALK],
    ..Topology::NONE
};
const CHAIN_TALK: Talk =
    talk("client", "server", &[v4(84, 4, 2), v6(0x84, 4, 2)]).back(v6(0x84, 1, 2));

/// The chain as [`crate::chaos`] uses it: entries stay for longer than any node is down or any
/// disk full, so every one is read to its last byte by some life of its node.
pub(crate) const CHAOS: Topology = Topology {
    name: "chaos",
    talks: &[CHAIN_TALK.of(Mix::LIGHT)],
    settings: &[
        ("net.netfilter.nf_conntrack_udp_timeout", "30"),
        ("net.netfilter.nf_conntrack_udp_timeout_stream", "30"),
        ("net.netfilter.nf_conntrack_icmp_timeout", "30"),
        ("net.netfilter.nf_conntrack_icmpv6_timeout", "30"),
        ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "30"),
        ("net.netfilter.nf_conntrack_tcp_timeout_fin_wait", "30"),
        ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", "30"),
        ("net.netfilter.nf_conntrack_tcp_timeout_last_ack", "30"),
        ("net.netfilter.nf_conntrack_tcp_timeout_close", "30"),
    ],
    flush: true,
    ..CHAIN
};

/// Client and server have an address of their own and a link to each of two gateways; both
/// begin with gw1.
///
/// ```text
///         .--N=1-- gw1 --N=3--.
///  client |         | N=5     | server        10.82.N.0/24, fd82:N::/64
///         '--N=2-- gw2 --N=4--'
/// ```
const TWO_WAYS: Topology = Topology {
    hosts: &[
        Host::new(
            "client",
            &["10.82.20.2 via 10.82.1.1 src 10.82.10.2", "fd82:20::2 via fd82:1::1 src fd82:10::2"],
        )
        .at_home(&["10.82.10.2/32", "fd82:10::2/128"]),
        Host::gateway(
            "gw1",
            &[
                "10.82.10.2 via 10.82.1.2",
                "fd82:10::2 via fd82:1::2",
                "10.82.20.2 via 10.82.3.2",
                "fd82:20::2 via fd82:3::2",
            ],
        ),
        Host::gateway(
            "gw2",
            &[
                "10.82.10.2 via 10.82.2.2",
                "fd82:10::2 via fd82:2::2",
                "10.82.20.2 via 10.82.4.2",
                "fd82:20::2 via fd82:4::2",
            ],
        ),
        Host::new(
            "server",
            &["10.82.10.2 via 10.82.3.1 src 10.82.20.2", "fd82:10::2 via fd82:3::1 src fd82:20::2"],
        )
        .at_home(&["10.82.20.2/32", "fd82:20::2/128"]),
    ],
    links: &[
        link(("gw1", "lan"), ("client", "eth1"), "82.1"),
        link(("gw2", "lan"), ("client", "eth2"), "82.2"),
        link(("gw1", "wan"), ("server", "eth1"), "82.3"),
        link(("gw2", "wan"), ("server", "eth2"), "82.4"),
        link(("gw1", "sync"), ("gw2", "sync"), "82.5"),
    ],
    flush: true,
    ..Topology::NONE
};
const TWO_WAYS_TALK: Talk = talk("client", "server", &[v4(82, 20, 2), v6(0x82, 0x20, 2)]);

/// Two gateways, of which one forwards: the routes are switched over and back in mid-flow, and
/// the one that takes over knows nothing of the flows.
pub(crate) const HA: Topology = Topology {
    name: "ha",
    talks: &[TWO_WAYS_TALK.back(v6(0x82, 0x10, 2))],
    steps: &[
        Step {
            what: "gw2 takes over",
            calm: false,
            commands: &[
                ("client", "route replace 10.82.20.2 via 10.82.2.1 src 10.82.10.2"),
                ("server", "route replace 10.82.10.2 via 10.82.4.1 src 10.82.20.2"),
                ("client", "route replace fd82:20::2 via fd82:2::1 src fd82:10::2"),
                ("server", "route replace fd82:10::2 via fd82:4::1 src fd82:20::2"),
            ],
        },
        Step {
            what: "gw1 takes it back",
            calm: false,
            commands: &[
                ("client", "route replace 10.82.20.2 via 10.82.1.1 src 10.82.10.2"),
                ("server", "route replace 10.82.10.2 via 10.82.3.1 src 10.82.20.2"),
                ("client", "route replace fd82:20::2 via fd82:1::1 src fd82:10::2"),
                ("server", "route replace fd82:10::2 via fd82:3::1 src fd82:20::2"),
            ],
        },
    ],
    exactness: Exactness::Takeovers,
    ..TWO_WAYS
};

/// The same with conntrackd: the one that takes over has every entry already, without counters.
pub(crate) const HA_SYNCED: Topology =
    Topology { name: "ha, synced", synced: Some(["gw1", "gw2"]), ..HA };

/// Requests by gw1, replies by gw2: connections that were opened by gw1 alone, which gw2 picks up
/// in the middle, and datagrams that gw2 takes for flows the other way round.
pub(crate) const ASYM: Topology = Topology {
    name: "asym",
    talks: &[TWO_WAYS_TALK.of(Mix::ONE_WAY)],
    steps: &[Step {
        what: "replies go by gw2",
        calm: true,
        commands: &[
            ("server", "route replace 10.82.10.2 via 10.82.4.1 src 10.82.20.2"),
            ("server", "route replace fd82:10::2 via fd82:4::1 src fd82:20::2"),
        ],
    }],
    ..TWO_WAYS
};

/// Two sites with equal private addresses behind different NAT addresses, and two with equal
/// addresses throughout, told apart by their domains alone. All use the same ports.
///
/// ```text
///  client-a -- gw-a (SNAT) --.                      client-c -- gw-c -- server-c
///                            core -- server
///  client-b -- gw-b (SNAT) --'                      client-d -- gw-d -- server-d
/// ```
pub(crate) const OVERLAP: Topology = Topology {
    name: "overlap",
    hosts: &[
        Host::new("client-a", &["default via 10.86.1.1"]),
        Host::new("client-b", &["default via 10.86.1.1"]),
        Host::gateway("gw-a", &["default via 10.86.2.2"]).snat("10.86.2.1"),
        Host::gateway("gw-b", &["default via 10.86.3.2"]).snat("10.86.3.1"),
        Host::gateway("core", &[]),
        Host::new("server", &["default via 10.86.4.1"]),
        Host::new("client-c", &["default via 10.86.8.1", "default via fd86:8::1"]),
        Host::new("client-d", &["default via 10.86.8.1", "default via fd86:8::1"]),
        Host::gateway("gw-c", &[]),
        Host::gateway("gw-d", &[]),
        Host::new("server-c", &["default via 10.86.9.1", "default via fd86:9::1"]),
        Host::new("server-d", &["default via 10.86.9.1", "default via fd86:9::1"]),
    ],
    links: &[
        link(("gw-a", "lan"), ("client-a", "eth0"), "86.1"),
        link(("gw-b", "lan"), ("client-b", "eth0"), "86.1"),
        link(("gw-a", "wan"), ("core", "lan-a"), "86.2"),
        link(("gw-b", "wan"), ("core", "lan-b"), "86.3"),
        link(("core", "wan"), ("server", "eth0"), "86.4"),
        link(("gw-c", "lan"), ("client-c", "eth0"), "86.8"),
        link(("gw-d", "lan"), ("client-d", "eth0"), "86.8"),
        link(("gw-c", "wan"), ("server-c", "eth0"), "86.9"),
        link(("gw-d", "wan"), ("server-d", "eth0"), "86.9"),
    ],
    talks: &[
        talk("client-a", "server", &[v4(86, 4, 2)]).ports(10_000),
        talk("client-b", "server", &[v4(86, 4, 2)]).ports(10_000),
        talk("client-c", "server-c", OVERLAP_SERVER).ports(10_000),
        talk("client-d", "server-d", OVERLAP_SERVER).ports(10_000),
    ],
    merge: "[merge.domains.site-c]\nnodes = [\"gw-c\"]\n\n\
            [merge.domains.site-d]\nnodes = [\"gw-d\"]\n",
    ..Topology::NONE
};
const OVERLAP_SERVER: &[IpAddr] = &[v4(86, 9, 2), v6(0x86, 9, 2)];

/// gw2 comes to stand behind gw1 in mid-flow; gw1 sees everything from the first packet on.
///
/// ```text
///              .---------N=2---------.
///  client --- gw1                  server       10.85.N.0/24, fd85:N::/64
///         N=1  '--N=3-- gw2 --N=4---'
/// ```
pub(crate) const REROUTE: Topology = Topology {
    name: "reroute",
    hosts: &[
        Host::new("client", &["default via 10.85.1.1", "default via fd85:1::1"]),
        Host::gateway("gw1", &["10.85.20.2 via 10.85.2.2", "fd85:20::2 via fd85:2::2"])
            .on_every_path(),
        Host::gateway(
            "gw2",
            &[
                "10.85.20.2 via 10.85.4.2",
                "fd85:20::2 via fd85:4::2",
                "10.85.1.0/24 via 10.85.3.1",
                "fd85:1::/64 via fd85:3::1",
            ],
        ),
        Host::new(
            "server",
            &[
                "10.85.1.0/24 via 10.85.2.1 src 10.85.20.2",
                "fd85:1::/64 via fd85:2::1 src fd85:20::2",
            ],
        )
        .at_home(&["10.85.20.2/32", "fd85:20::2/128"]),
    ],
    links: &[
        link(("gw1", "lan"), ("client", "eth0"), "85.1"),
        link(("gw1", "wan"), ("server", "eth1"), "85.2"),
        link(("gw1", "wan2"), ("gw2", "lan"), "85.3"),
        link(("gw2", "wan"), ("server", "eth2"), "85.4"),
    ],
    talks: &[talk("client", "server", &[v4(85, 20, 2), v6(0x85, 0x20, 2)]).back(v6(0x85, 1, 2))],
    steps: &[Step {
        what: "gw2 joins the path",
        calm: false,
        commands: &[
            ("gw1", "route replace 10.85.20.2 via 10.85.3.2"),
            ("gw1", "route replace fd85:20::2 via fd85:3::2"),
            ("server", "route replace 10.85.1.0/24 via 10.85.4.1 src 10.85.20.2"),
            ("server", "route replace fd85:1::/64 via fd85:4::1 src fd85:20::2"),
        ],
    }],
    ..Topology::NONE
};

/// One node on a container host: it reads the host's namespace, which translates, and those of
/// three containers, two of which talk to a server outside and to the third.
///
/// ```text
///  c1 --N=1--.
///  c2 --N=2-- host (SNAT) --N=4-- server        10.87.N.0/24, fd87:N::/64
///  c3 --N=3--'
/// ```
pub(crate) const NETNS: Topology = Topology {
    name: "netns",
    hosts: &[
        Host::gateway("host", &[]).snat("10.87.4.1").on_every_path(),
        Host::new("c1", &["default via 10.87.1.1", "default via fd87:1::1"]).watched("host"),
        Host::new("c2", &["default via 10.87.2.1", "default via fd87:2::1"]).watched("host"),
        Host::new("c3", &["default via 10.87.3.1", "default via fd87:3::1"]).watched("host"),
        Host::new("server", &["default via 10.87.4.1", "default via fd87:4::1"]),
    ],
    links: CONTAINERS,
    talks: &[
        talk("c1", "server", &[v4(87, 4, 2), v6(0x87, 4, 2)]).back(v6(0x87, 1, 2)),
        talk("c2", "server", &[v4(87, 4, 2), v6(0x87, 4, 2)]),
        talk("c2", "c3", &[v4(87, 3, 2), v6(0x87, 3, 2)]),
    ],
    ..Topology::NONE
};
const CONTAINERS: &[Link] = &[
    link(("host", "veth1"), ("c1", "eth0"), "87.1"),
    link(("host", "veth2"), ("c2", "eth0"), "87.2"),
    link(("host", "veth3"), ("c3", "eth0"), "87.3"),
    link(("host", "wan"), ("server", "eth0"), "87.4"),
];
