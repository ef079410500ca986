//! A [`Topology`] made real: a namespace for each host, wired, and one more, `center`, where the
//! aggregator lives.
//!
//! Every host in which a node runs has a link to `center`: `10.78.N.0/24`, marked `notrack`, so
//! what the nodes say never becomes a flow that they report.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};

use super::netns::Netns;
use super::rules;
use super::topology::{Host, Topology};

/// All namespaces, wired. Dropping it deletes them.
pub(crate) struct Network {
    pub(crate) topology: &'static Topology,
    /// The hosts that are watched, in the order of their declaration.
    pub(crate) gateways: Vec<Gateway>,
    /// The others.
    others: Vec<(&'static str, Netns)>,
    pub(crate) center: Netns,
}

/// A host whose conntrack table a node reads.
pub(crate) struct Gateway {
    pub(crate) name: &'static str,
    pub(crate) netns: Netns,
    /// The node that reads it.
    pub(crate) node: &'static str,
    /// The aggregator's address as this host reaches it, where the node runs here.
    pub(crate) center: Option<Ipv4Addr>,
    /// Whether every flow passes it.
    pub(crate) sees_all: bool,
}

/// Entries are gone a few seconds after their last packet, so that a run can wait for it; and a
/// packet outside TCP's window is counted. conntrack otherwise accepts a late acknowledgement as
/// the flow's without adding it to the flow, while nftables counts it
/// (`net/netfilter/nf_conntrack_proto_tcp.c`, `NFCT_TCP_IGNORE`).
const GATEWAY_SETTINGS: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.netfilter.nf_conntrack_acct", "1"),
    ("net.netfilter.nf_conntrack_timestamp", "1"),
    ("net.netfilter.nf_conntrack_events", "1"),
    ("net.netfilter.nf_conntrack_tcp_be_liberal", "1"),
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
    pub(crate) fn build(topology: &'static Topology) -> Result<Self> {
        let center = Netns::create("center")?;
        let mut network = Self { topology, gateways: Vec::new(), others: Vec::new(), center };
        for host in topology.hosts {
            let netns = Netns::create(host.name)?;
            let home = host.home.iter().map(|own| format!("addr add {own} dev lo"));
            netns.ip(&home.collect::<Vec<_>>())?;
            match host.node {
                Some(node) => network.watch(host, node, netns)?,
                None => network.others.push((host.name, netns)),
            }
        }
        for wire in topology.links {
            let (one, two) = (network.host(wire.one.0)?, network.host(wire.two.0)?);
            link((one, wire.one.1), (two, wire.two.1), wire.net)?;
        }
        for host in topology.hosts {
            let routes = host.routes.iter().map(|route| format!("route add {route}"));
            network.host(host.name)?.ip(&routes.collect::<Vec<_>>())?;
        }
        for host in topology.hosts.iter().filter(|host| host.node.is_some()) {
            let gateway = network.host(host.name)?;
            gateway.sysctl(GATEWAY_SETTINGS)?;
            gateway.sysctl(topology.settings)?;
            rules::load(gateway, host.snat)?;
        }
        Ok(network)
    }

    fn watch(&mut self, host: &Host, node: &'static str, netns: Netns) -> Result<()> {
        let runs_here = self.gateways.iter().all(|gateway| gateway.node != node);
        let center = if runs_here {
            let number = u8::try_from(self.gateways.len() + 1)?;
            let ends = ((&self.center, host.name), (&netns, rules::MANAGEMENT));
            link(ends.0, ends.1, &format!("78.{number}"))?;
            Some(Ipv4Addr::new(10, 78, number, 1))
        } else {
            None
        };
        let (name, sees_all) = (host.name, host.sees_all);
        self.gateways.push(Gateway { name, netns, node, center, sees_all });
        Ok(())
    }

    /// The namespace of a host.
    pub(crate) fn host(&self, name: &str) -> Result<&Netns> {
        let watched = self.gateways.iter().map(|gateway| (gateway.name, &gateway.netns));
        let others = self.others.iter().map(|(name, netns)| (*name, netns));
        let mut found = watched.chain(others).filter(|(host, _)| *host == name);
        Ok(found.next().with_context(|| format!("no host {name}"))?.1)
    }

    /// Where nodes run, with the aggregator's address as they reach it.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Gateway, Ipv4Addr)> {
        self.gateways.iter().filter_map(|gateway| Some((gateway, gateway.center?)))
    }

    /// What a node reads, unless that is just its own namespace.
    pub(crate) fn read_by(&self, node: &str) -> Vec<String> {
        let read = self.gateways.iter().filter(|gateway| gateway.node == node);
        let names: Vec<String> = read.map(|gateway| gateway.netns.name().to_owned()).collect();
        if names.len() > 1 { names } else { Vec::new() }
    }
}

impl Gateway {
    /// The number of its namespace, as the kernel and the store know it.
    pub(crate) fn inode(&self) -> Result<u64> {
        let path = self.netns.path();
        Ok(fs::metadata(&path).with_context(|| path.display().to_string())?.ino())
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
