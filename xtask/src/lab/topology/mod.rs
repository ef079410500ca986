//! What a lab is, as data: hosts, links, who watches what, who talks to whom, what is switched
//! while they talk, and how exactly each flow must be counted once. The declarations themselves
//! are in [`plain`] and [`paths`]; [`super::network`] makes them real.

mod paths;
mod plain;

use std::net::IpAddr;

pub(crate) use paths::{ASYM, CHAIN, CHAOS, HA, HA_SYNCED, NETNS, OVERLAP, REROUTE};
pub(crate) use plain::{NAT2, ROUTER};

/// A lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Topology {
    pub(crate) name: &'static str,
    pub(crate) hosts: &'static [Host],
    pub(crate) links: &'static [Link],
    pub(crate) talks: &'static [Talk],
    /// Kernel settings of every watched host, over the usual ones.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// The aggregator's configuration; nothing is its default.
    pub(crate) merge: &'static str,
    pub(crate) steps: &'static [Step],
    /// Two watched hosts that are joined by [`super::rules::SYNC`] and whose conntrack tables
    /// conntrackd keeps equal.
    pub(crate) synced: Option<[&'static str; 2]>,
    /// Entries may be left behind by flows that went on elsewhere: they are flushed at the end.
    pub(crate) flush: bool,
    pub(crate) exactness: Exactness,
}

/// How exactly each flow is to be counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exactness {
    /// Difference 0.
    Exact,
    /// Never over; under by at most one reading interval's traffic a step, since nobody can know
    /// whether two overlapping growths are the same packets.
    Takeovers,
}

impl Topology {
    /// Nothing: what a declaration does not say.
    const NONE: Self = Self {
        name: "",
        hosts: &[],
        links: &[],
        talks: &[],
        settings: &[],
        merge: "",
        steps: &[],
        synced: None,
        flush: false,
        exactness: Exactness::Exact,
    };

    /// Whether a flow from `src` is on its way to a client, not from it: told by the servers'
    /// addresses, which no gateway translates.
    pub(crate) fn is_from_server(&self, src: IpAddr) -> bool {
        self.talks.iter().any(|talk| talk.to.contains(&src))
    }
}

/// A network namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    pub(crate) name: &'static str,
    /// The node that reads this host's conntrack table. It runs in the first host that names it.
    pub(crate) node: Option<&'static str>,
    /// Addresses of its own, on no link.
    pub(crate) home: &'static [&'static str],
    /// What `ip route add` is told.
    pub(crate) routes: &'static [&'static str],
    /// The source address of IPv4 that leaves by [`super::rules::WAN`].
    pub(crate) snat: Option<&'static str>,
    /// Whether every flow passes it.
    pub(crate) sees_all: bool,
}

impl Host {
    /// A host nobody watches.
    const fn new(name: &'static str, routes: &'static [&'static str]) -> Self {
        Self { name, node: None, home: &[], routes, snat: None, sees_all: false }
    }

    /// Watched by the node `node`.
    const fn watched(self, node: &'static str) -> Self {
        Self { node: Some(node), ..self }
    }

    /// A gateway with a node of its name.
    const fn gateway(name: &'static str, routes: &'static [&'static str]) -> Self {
        Self::new(name, routes).watched(name)
    }

    const fn at_home(self, home: &'static [&'static str]) -> Self {
        Self { home, ..self }
    }

    const fn snat(self, to: &'static str) -> Self {
        Self { snat: Some(to), ..self }
    }

    const fn on_every_path(self) -> Self {
        Self { sees_all: true, ..self }
    }
}

/// A wire between two hosts, each with its device there. The first has the address .1 of
/// `10.<net>.0/24` (and of `fd<net>::/64`, with a colon for the dot), the second has .2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) one: (&'static str, &'static str),
    pub(crate) two: (&'static str, &'static str),
    pub(crate) net: &'static str,
}

const fn link(
    one: (&'static str, &'static str),
    two: (&'static str, &'static str),
    net: &'static str,
) -> Link {
    Link { one, two, net }
}

/// Traffic of a client to a server. What each sends and receives is the truth of this lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    pub(crate) client: &'static str,
    pub(crate) server: &'static str,
    /// The server's addresses.
    pub(crate) to: &'static [IpAddr],
    /// The client's address for connections that the server opens.
    pub(crate) back: Option<IpAddr>,
    /// Source ports are counted up from here, so that several talks have equal ones; else the
    /// kernel chooses.
    pub(crate) ports: Option<u16>,
    pub(crate) mix: Mix,
}

/// What a talk is made of, besides connections that stay open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Short UDP flows a round and address.
    pub(crate) udp: u32,
    /// New TCP connections.
    pub(crate) transfers: bool,
    /// Echo requests.
    pub(crate) echo: bool,
}

impl Mix {
    const FULL: Self = Self { udp: 150, transfers: true, echo: true };
    /// So little that a run of minutes stays small.
    const LIGHT: Self = Self { udp: 15, transfers: true, echo: true };
    /// What conntrack follows by either direction alone: it takes no echo reply for a beginning,
    /// and no acknowledgement for an answer to a SYN whose answer it did not see.
    const ONE_WAY: Self = Self { udp: 150, transfers: false, echo: false };
}

const fn talk(client: &'static str, server: &'static str, to: &'static [IpAddr]) -> Talk {
    Talk { client, server, to, back: None, ports: None, mix: Mix::FULL }
}

impl Talk {
    const fn back(self, client: IpAddr) -> Self {
        Self { back: Some(client), ..self }
    }

    const fn ports(self, first: u16) -> Self {
        Self { ports: Some(first), ..self }
    }

    const fn of(self, mix: Mix) -> Self {
        Self { mix, ..self }
    }
}

/// Something that happens while the traffic flows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) what: &'static str,
    /// Nothing is sent for so long that no reading's interval reaches over the step.
    pub(crate) calm: bool,
    /// Hosts, and what `ip` is told there.
    pub(crate) commands: &'static [(&'static str, &'static str)],
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Topology; 10] =
        [ROUTER, NAT2, CHAIN, HA, HA_SYNCED, ASYM, OVERLAP, REROUTE, NETNS, CHAOS];

    #[test]
    fn every_name_in_a_declaration_is_a_host_of_it() {
        for topology in ALL {
            let known = |name: &str| topology.hosts.iter().any(|host| host.name == name);
            let linked = topology.links.iter().flat_map(|link| [link.one.0, link.two.0]);
            let talking = topology.talks.iter().flat_map(|talk| [talk.client, talk.server]);
            let stepping = topology.steps.iter().flat_map(|s| s.commands.iter().map(|c| c.0));
            let synced = topology.synced.into_iter().flatten();
            for name in linked.chain(talking).chain(stepping).chain(synced) {
                assert!(known(name), "{}: no host {name}", topology.name);
            }
            assert!(!topology.talks.is_empty() && topology.talks.len() < 16, "{}", topology.name);
        }
    }

    #[test]
    fn a_host_is_a_client_or_a_server_and_no_client_is_taken_for_a_server() {
        for topology in ALL {
            for talk in topology.talks {
                assert!(topology.talks.iter().all(|other| other.server != talk.client));
                assert!(talk.back.is_none_or(|client| !topology.is_from_server(client)));
                assert!(talk.to.iter().all(|server| topology.is_from_server(*server)));
            }
        }
    }
}
