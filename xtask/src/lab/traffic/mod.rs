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

use anyhow::Result;

use super::netns::Netns;
use super::network::{CLIENT1_V6, Network, SERVER4, SERVER6};
use crate::threads::outcome;
use tcp::Connection;

/// Ports of the server, and of client1 for connections the server opens.
const TCP_PORT: u16 = 7000;
const UDP_PORT: u16 = 7001;
/// A socket that takes datagrams and never answers.
const SILENT_PORT: u16 = 7002;
/// Nobody listens here: the server's kernel answers with ICMP errors.
const CLOSED_PORT: u16 = 7003;

/// Short UDP flows a client opens in a round, for each family.
const UDP_FLOWS: u32 = 150;

/// Flows that live from [`Traffic::start`] to [`Traffic::finish`].
pub(crate) const LONG_FLOWS: usize = 4;

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
    long: Vec<Connection>,
    held: Vec<Connection>,
    done: Done,
}

impl<'n> Traffic<'n> {
    /// Starts the servers and opens the long flows: one of each family that will be used in
    /// every round, and one of each that idles until the end.
    pub(crate) fn start(network: &'n Network) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut traffic = Self {
            network,
            stop,
            servers: Vec::new(),
            long: Vec::new(),
            held: Vec::new(),
            done: Done::default(),
        };
        traffic.serve(&network.server, |stop| tcp::listen(TCP_PORT, stop))?;
        traffic.serve(&network.server, |stop| udp::echo(UDP_PORT, stop))?;
        traffic.serve(&network.server, |stop| udp::swallow(SILENT_PORT, stop))?;
        traffic.serve(&network.client1, |stop| tcp::listen(TCP_PORT, stop))?;
        traffic.long = traffic.open(LONG_FLOWS)?;
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

    /// Opens connections of both clients and both families, and uses each.
    fn open(&mut self, count: usize) -> Result<Vec<Connection>> {
        let clients = [&self.network.client1, &self.network.client2];
        let mut open = Vec::with_capacity(count);
        for number in 0..count {
            let server = if number % 4 < 2 { SERVER4 } else { SERVER6 };
            let mut connection = clients[number % 2]
                .enter(|| Connection::open(SocketAddr::new(server, TCP_PORT)))?;
            self.done += connection.exchange(1_000, 1_000)?;
            self.done.flows += 1;
            open.push(connection);
        }
        Ok(open)
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

    /// Uses the long flows that work: every second one; the others idle.
    pub(crate) fn work(&mut self) -> Result<()> {
        for long in self.long.iter_mut().step_by(2) {
            self.done += long.exchange(20_000, 30_000)?;
        }
        Ok(())
    }

    /// One round: about a second's worth of everything. It is over when all its flows are closed.
    pub(crate) fn round(&mut self) -> Result<()> {
        let network = self.network;
        let results: Vec<Result<Done>> = std::thread::scope(|scope| {
            let jobs = [
                scope.spawn(|| network.client1.enter(|| client(1))),
                scope.spawn(|| network.client2.enter(|| client(2))),
                scope.spawn(|| network.server.enter(opened_by_the_server)),
            ];
            let join = |job: std::thread::ScopedJoinHandle<'_, _>| {
                outcome(job.join(), "a thread of the traffic")
            };
            jobs.into_iter().map(join).collect()
        });
        for result in results {
            self.done += result?;
        }
        self.work()
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

/// A client's part of a round.
fn client(number: u16) -> Result<Done> {
    let mut done = Done::default();
    for server in [SERVER4, SERVER6] {
        let at = |port| SocketAddr::new(server, port);
        for index in 0..UDP_FLOWS {
            done += udp::flow(at(UDP_PORT), index)?;
        }
        done += udp::shout(at(SILENT_PORT), 3)?;
        done += udp::shout(at(CLOSED_PORT), 1)?;
        done += transfer(at(TCP_PORT), 400_000, 1_000)?;
        done += transfer(at(TCP_PORT), 1_000, 600_000)?;
        done += icmp::echo(server, number, 5)?;
    }
    Ok(done)
}

/// Connections the other way: through the gateways from outside (IPv6 only, there is no NAT).
fn opened_by_the_server() -> Result<Done> {
    let mut done = transfer(SocketAddr::new(CLIENT1_V6, TCP_PORT), 50_000, 200_000)?;
    done += icmp::echo(CLIENT1_V6, 3, 2)?;
    Ok(done)
}

fn transfer(to: SocketAddr, up: u32, down: u32) -> Result<Done> {
    let mut connection = Connection::open(to)?;
    let mut done = connection.exchange(up, down)?;
    connection.close()?;
    done.flows = 1;
    Ok(done)
}

/// The wildcard address of the same family.
fn any(like: IpAddr) -> SocketAddr {
    match like {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    }
}
