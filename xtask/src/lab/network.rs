//! The lab's network:
//!
//! ```text
//!  client1 --.                                              10.77.N.0/24, fd77:N::/64
//!   N=1      |-- gw1 (SNAT for IPv4) --N=3-- gw2 --N=4-- server
//!  client2 --'     |                          |
//!   N=2            '---------- center --------'             10.78.N.0/24, not tracked
//! ```
//!
//! `center` is where the aggregator lives. Its links are marked `notrack` in the gateways, so
//! what the nodes say never becomes a flow that they report.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::netns::Netns;
use super::rules;

/// What gw2 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// A plain router: it sees the flows with gw1's address
    Router,
    /// NAT again: no tuple is the same on both sides of it
    Nat2,
}

/// All namespaces, wired. Dropping it deletes them.
pub(crate) struct Network {
    pub(crate) client1: Netns,
    pub(crate) client2: Netns,
    pub(crate) gateways: [Gateway; 2],
    pub(crate) server: Netns,
    pub(crate) center: Netns,
}

/// A gateway: one node runs in each.
pub(crate) struct Gateway {
    /// `gw1` or `gw2`.
    pub(crate) name: &'static str,
    pub(crate) netns: Netns,
    /// The aggregator's address as this gateway reaches it.
    pub(crate) center: Ipv4Addr,
}

/// Addresses the traffic uses.
pub(crate) const SERVER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 4, 2));
pub(crate) const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 4, 0, 0, 0, 0, 0, 2));
pub(crate) const CLIENT1_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2));

/// Entries are gone a few seconds after their last packet, so that a run can wait for it.
const GATEWAY_SETTINGS: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.netfilter.nf_conntrack_acct", "1"),
    ("net.netfilter.nf_conntrack_timestamp", "1"),
    ("net.netfilter.nf_conntrack_events", "1"),
    ("net.netfilter.nf_conntrack_udp_timeout", "3"),
    ("net.netfilter.nf_conntrack_udp_timeout_stream", "3"),
    ("net.netfilter.nf_conntrack_icmp_timeout", "3"),
    ("net.netfilter.nf_conntrack_icmpv6_timeout", "3"),
    ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "3"),
    ("net.netfilter.nf_conntrack_tcp_timeout_fin_wait", "5"),
    ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", "5"),
    ("net.netfilter.nf_conntrack_tcp_timeout_last_ack", "5"),
    ("net.netfilter.nf_conntrack_tcp_timeout_close", "2"),
];

/// The longest of the timeouts above: later than this after the last packet every entry is due.
pub(crate) const LONGEST_TIMEOUT_S: u64 = 5;

impl Network {
    /// Makes everything; what was made before a failure is deleted again.
    pub(crate) fn build(variant: Variant) -> Result<Self> {
        let client1 = Netns::create("client1")?;
        let client2 = Netns::create("client2")?;
        let gw1 = Netns::create("gw1")?;
        let gw2 = Netns::create("gw2")?;
        let server = Netns::create("server")?;
        let center = Netns::create("center")?;

        link((&gw1, "lan1"), (&client1, "eth0"), "77.1")?;
        link((&gw1, "lan2"), (&client2, "eth0"), "77.2")?;
        link((&gw1, rules::WAN), (&gw2, "lan"), "77.3")?;
        link((&gw2, rules::WAN), (&server, "eth0"), "77.4")?;
        link((&center, "gw1"), (&gw1, rules::MANAGEMENT), "78.1")?;
        link((&center, "gw2"), (&gw2, rules::MANAGEMENT), "78.2")?;

        for (client, n) in [(&client1, 1), (&client2, 2)] {
            client.ip(&[
                &format!("route add default via 10.77.{n}.1"),
                &format!("route add default via fd77:{n}::1"),
            ])?;
        }
        gw1.ip(&["route add default via 10.77.3.2", "route add default via fd77:3::2"])?;
        gw2.ip(&[
            "route add 10.77.1.0/24 via 10.77.3.1",
            "route add 10.77.2.0/24 via 10.77.3.1",
            "route add fd77:1::/64 via fd77:3::1",
            "route add fd77:2::/64 via fd77:3::1",
        ])?;
        server.ip(&["route add default via 10.77.4.1", "route add default via fd77:4::1"])?;

        let nat2 = variant == Variant::Nat2;
        for (gateway, snat) in [(&gw1, Some("10.77.3.1")), (&gw2, nat2.then_some("10.77.4.1"))] {
            gateway.sysctl(GATEWAY_SETTINGS)?;
            rules::load(gateway, snat)?;
        }
        let gateways = [
            Gateway { name: "gw1", netns: gw1, center: Ipv4Addr::new(10, 78, 1, 1) },
            Gateway { name: "gw2", netns: gw2, center: Ipv4Addr::new(10, 78, 2, 1) },
        ];
        Ok(Self { client1, client2, gateways, server, center })
    }
}

/// Joins two namespaces by a veth pair, addresses .1 and .2 of `10.<net>.0/24`, and the same of
/// `fd<net>::/64` (with a colon for the dot).
fn link(one: (&Netns, &str), two: (&Netns, &str), net: &str) -> Result<()> {
    let (from, to) = (one.1, two.1);
    let peer = two.0.name();
    one.0.ip(&[&format!("link add {from} type veth peer name {to} netns {peer}")])?;
    let net6 = net.replace('.', ":");
    for ((netns, device), host) in [(one, 1), (two, 2)] {
        netns.ip(&[
            &format!("addr add 10.{net}.{host}/24 dev {device}"),
            &format!("addr add fd{net6}::{host}/64 dev {device} nodad"),
            &format!("link set {device} up"),
        ])?;
    }
    Ok(())
}
