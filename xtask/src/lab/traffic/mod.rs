//! Traffic through the lab: TCP both ways, thousands of short UDP flows, echo requests, ports
//! nobody listens on, flows that idle and flows older than the node.
//!
//! What the programs send is a function of the number of rounds alone; what the kernel makes of
//! it (acknowledgements, retransmissions) is not, and is for the kernel to count. Everything
//! started is finished by [`Traffic::finish`].

mod icmp;
mod tcp;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use super::netns::Netns;
use super::network::Network;
use super::topology::{Mix, Talk};
use crate::threads::outcome;
use tcp::Connection;

/// Ports of the servers, and of clients for connections the server opens.
const TCP_PORT: u16 = 7000;
const UDP_PORT: u16 = 7001;
/// A socket that takes datagrams and never answers.
const SILENT_PORT: u16 = 7002;
/// Nobody listens here: the server's kernel answers with ICMP errors.
const CLOSED_PORT: u16 = 7003;

/// Source ports that are counted up begin again after so many; long after their flows' end.
const PORTS: u32 = 20_000;

/// A server has an address of each family.
const MOST_ADDRESSES: u32 = 2;

/// In a round each open connection that works is used so often, with pauses.
const USES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(80);

/// What the programs have done, as they know it themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Sockets opened through the gateways, each a flow of its own.
    pub(crate) flows: u64,
    /// Payload bytes sent by the openers.
    pub(crate) sent: u64,
    /// Payload bytes the openers received.
    pub(crate) received: u64,
    /// UDP requests and echo requests without an answer.
    pub(crate) unanswered: u64,
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Self) {
        self.flows += other.flows;
        self.sent += other.sent;
        self.received += other.received;
        self.unanswered += other.unanswered;
    }
}

/// Running servers and the long flows.
pub(crate) struct Traffic<'n> {
    network: &'n Network,
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<Result<()>>>,
    /// Those with an even place work, the others idle.
    long: Vec<Connection>,
    held: Vec<Connection>,
    /// Connections opened so far, for their source ports.
    opened: u32,
    rounds: u32,
    done: Done,
}

impl<'n> Traffic<'n> {
    /// Starts the servers and opens the long flows: to each address of each talk one that will be
    /// used in every round, and one that idles until the end.
    pub(crate) fn start(network: &'n Network) -> Result<Self> {
        let mut traffic = Self {
            network,
            stop: Arc::new(AtomicBool::new(false)),
            servers: Vec::new(),
            long: Vec::new(),
            held: Vec::new(),
            opened: 0,
            rounds: 0,
            done: Done::default(),
        };
        let talks = network.topology.talks;
        let mut serving: Vec<&str> = talks.iter().map(|talk| talk.server).collect();
        serving.sort_unstable();
        serving.dedup();
        for server in serving {
            let server = network.host(server)?;
            traffic.serve(server, |stop| tcp::listen(TCP_PORT, stop))?;
            traffic.serve(server, |stop| udp::echo(UDP_PORT, stop))?;
            traffic.serve(server, |stop| udp::swallow(SILENT_PORT, stop))?;
        }
        for talk in talks.iter().filter(|talk| talk.back.is_some()) {
            traffic.serve(network.host(talk.client)?, |stop| tcp::listen(TCP_PORT, stop))?;
        }
        let addresses: usize = talks.iter().map(|talk| talk.to.len()).sum();
        let (working, idle) = (traffic.open(addresses)?, traffic.open(addresses)?);
        traffic.long = working.into_iter().zip(idle).flat_map(|(one, two)| [one, two]).collect();
        Ok(traffic)
    }

    /// Starts a server in a namespace; its socket is bound when this returns.
    fn serve(
        &mut self,
        netns: &Netns,
        server: impl FnOnce(Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> + Send,
    ) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        self.servers.push(netns.enter(|| server(stop))?);
        Ok(())
    }

    /// Opens connections, to the addresses of all talks in turn, and uses each.
    fn open(&mut self, count: usize) -> Result<Vec<Connection>> {
        let talks = self.network.topology.talks;
        let addresses =
            talks.iter().flat_map(|talk| (1..).zip(talk.to).map(move |(nth, to)| (talk, nth, *to)));
        let mut open = Vec::with_capacity(count);
        for (talk, nth, to) in addresses.cycle().take(count) {
            // Ports of one family are not free for the other.
            let from = Ports::of(talk, self.opened * MOST_ADDRESSES + nth);
            let client = self.network.host(talk.client)?;
            let mut connection =
                client.enter(|| Connection::open(SocketAddr::new(to, TCP_PORT), from.of_long()))?;
            self.done += connection.exchange(1_000, 1_000)?;
            self.done.flows += 1;
            open.push(connection);
        }
        self.opened += 1;
        Ok(open)
    }

    /// How many connections live from [`Traffic::start`] to [`Traffic::finish`].
    pub(crate) fn long(&self) -> usize {
        self.long.len()
    }

    /// Opens connections that stay until [`Traffic::use_held`] closes them.
    pub(crate) fn hold(&mut self, count: usize) -> Result<()> {
        let mut more = self.open(count)?;
        self.held.append(&mut more);
        Ok(())
    }

    /// Uses every held connection, then closes all but the first `keep`.
    pub(crate) fn use_held(&mut self, keep: usize) -> Result<()> {
        for held in &mut self.held {
            self.done += held.exchange(3_000, 4_000)?;
        }
        self.held.drain(keep.min(self.held.len())..).try_for_each(Connection::close)
    }

    /// Uses the long flows that work.
    pub(crate) fn work(&mut self) -> Result<()> {
        for long in self.long.iter_mut().step_by(2) {
            self.done += long.exchange(20_000, 30_000)?;
        }
        Ok(())
    }

    /// One round: about a second's worth of everything. It is over when all its flows are closed.
    pub(crate) fn round(&mut self) -> Result<()> {
        let (network, round) = (self.network, self.rounds);
        let long = &mut self.long;
        let results: Vec<Result<Done>> = std::thread::scope(|scope| {
            let mut jobs = vec![scope.spawn(|| stream(long))];
            for (number, talk) in (1..).zip(network.topology.talks) {
                jobs.push(scope.spawn(move || {
                    network.host(talk.client)?.enter(|| client(talk, number, round))
                }));
                if let Some(back) = talk.back {
                    let job = move || network.host(talk.server)?.enter(|| opened_by_server(back));
                    jobs.push(scope.spawn(job));
                }
            }
            let join = |job: std::thread::ScopedJoinHandle<'_, _>| {
                outcome(job.join(), "a thread of the traffic")
            };
            jobs.into_iter().map(join).collect()
        });
        for result in results {
            self.done += result?;
        }
        self.rounds += 1;
        Ok(())
    }

    /// Uses the long flows a last time, closes everything, ends the servers.
    pub(crate) fn finish(mut self) -> Result<Done> {
        self.use_held(0)?;
        for mut long in self.long.drain(..) {
            self.done += long.exchange(5_000, 5_000)?;
            long.close()?;
        }
        self.stop.store(true, Ordering::Release);
        for server in self.servers.drain(..) {
            outcome(server.join(), "a server of the traffic")?;
        }
        Ok(self.done)
    }
}

impl Drop for Traffic<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Uses every second connection for a round's time: flows that are always in the middle.
fn stream(connections: &mut [Connection]) -> Result<Done> {
    let mut done = Done::default();
    for _ in 0..USES {
        for connection in connections.iter_mut().step_by(2) {
            done += connection.exchange(2_000, 3_000)?;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(done)
}

/// A client's part of a round. `number` keeps the echo ids of different clients apart, as they
/// meet behind NAT.
fn client(talk: &Talk, number: u16, round: u32) -> Result<Done> {
    let Mix { udp, transfers, echo } = talk.mix;
    let mut done = Done::default();
    for (nth, server) in (0..).zip(talk.to) {
        let at = |port| SocketAddr::new(*server, port);
        let ports = Ports::of(talk, (round * MOST_ADDRESSES + nth) * (udp + 4));
        for index in 0..udp {
            done += udp::flow(at(UDP_PORT), index, ports.nth(index))?;
        }
        done += udp::shout(at(SILENT_PORT), 3, ports.nth(udp))?;
        done += udp::shout(at(CLOSED_PORT), 1, ports.nth(udp + 1))?;
        if transfers {
            done += transfer(at(TCP_PORT), ports.nth(udp + 2), 400_000, 1_000)?;
            done += transfer(at(TCP_PORT), ports.nth(udp + 3), 1_000, 600_000)?;
        }
        if echo {
            done += icmp::echo(*server, number, 5)?;
        }
    }
    Ok(done)
}

/// Connections the other way: through the gateways from outside.
fn opened_by_server(client: IpAddr) -> Result<Done> {
    let mut done = transfer(SocketAddr::new(client, TCP_PORT), None, 50_000, 200_000)?;
    done += icmp::echo(client, 15, 2)?;
    Ok(done)
}

fn transfer(to: SocketAddr, from: Option<u16>, up: u32, down: u32) -> Result<Done> {
    let mut connection = Connection::open(to, from)?;
    let mut done = connection.exchange(up, down)?;
    connection.close()?;
    done.flows = 1;
    Ok(done)
}

/// Source ports of a talk, counted up from some place.
#[derive(Clone, Copy)]
struct Ports {
    first: Option<u16>,
    place: u32,
}

impl Ports {
    fn of(talk: &Talk, place: u32) -> Self {
        Self { first: talk.ports, place }
    }

    /// The port of a short flow, or none where the kernel chooses.
    fn nth(self, index: u32) -> Option<u16> {
        let offset = u16::try_from((self.place + index) % PORTS).ok()?;
        Some(self.first? + offset)
    }

    /// The port of a connection that stays open: below all of the short ones.
    fn of_long(self) -> Option<u16> {
        Some(self.first? - u16::try_from(self.place).ok()?)
    }
}

/// The wildcard address of the same family, with this port.
fn any(like: IpAddr, port: Option<u16>) -> SocketAddr {
    let port = port.unwrap_or(0);
    match like {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], port)),
        IpAddr::V6(_) => SocketAddr::from(([0u16; 8], port)),
    }
}
