//! The lab with the product: a node in each gateway, an aggregator beside them, traffic, and at
//! the end three counts of the same packets that know nothing of each other.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::capture::{Capture, Witness, dump};
use super::kernel::settle;
use super::network::{Network, Variant};
use super::rules;
use super::summary::{GatewayCounts, NodeSaid};
use super::traffic::{Done, Traffic};
use crate::interrupt::Interrupt;
use crate::threads::outcome;
use crate::up::stack::{Aggregator, Node, PORT, Place, Programs};
use crate::up::{Database, Folder, duration, stored};
use crate::workspace;

/// How to run it.
pub(crate) struct Plan {
    pub(crate) variant: Variant,
    /// How long traffic flows; without it until Ctrl-C.
    pub(crate) time: Option<Duration>,
    /// The nodes' interval.
    pub(crate) interval: String,
    pub(crate) store: Option<String>,
    /// Whether conntrack's events are captured beside the nodes.
    pub(crate) capture: bool,
    /// Keep the folder.
    pub(crate) keep: bool,
    pub(crate) profile: String,
}

/// A round of traffic begins no sooner than this after the last one.
const ROUND: Duration = Duration::from_secs(1);

/// Runs it and prints the summary.
///
/// # Errors
/// Something did not start or stay up, or the counts differ.
pub(crate) fn counts(plan: &Plan, interrupt: &Interrupt) -> Result<()> {
    let programs = Programs::build(&plan.profile)?;
    let folder = Folder::make(plan.keep)?;
    let network = Network::build(plan.variant)?;
    let captures = if plan.capture { captures(&network)? } else { Vec::new() };
    // Flows that are older than the nodes.
    let mut traffic = Traffic::start(&network)?;
    let database = Database::of(plan.store.as_deref())?;
    let store = database.store();
    let mut aggregator = aggregator(&programs, &network, &folder, store)?;
    let mut nodes = nodes(&aggregator, &network, &plan.interval, [PORT, PORT])?;
    aggregator.start(interrupt)?;
    for node in &mut nodes {
        node.start(interrupt)?;
    }
    eprintln!("aggregator and {} nodes are up, traffic begins", nodes.len());

    let end = plan.time.map(|time| Instant::now() + time);
    while !interrupt.take() && end.is_none_or(|end| Instant::now() < end) {
        let begun = Instant::now();
        traffic.round()?;
        aggregator.check()?;
        nodes.iter_mut().try_for_each(Node::check)?;
        std::thread::sleep(ROUND.saturating_sub(begun.elapsed()));
    }
    let done = traffic.finish()?;
    if plan.capture {
        settle(&network, interrupt)?;
    } else {
        settle_without_looking(&network, interrupt)?;
    }
    let witnesses = finish(&network, captures)?;
    let interval = duration(&plan.interval).map_err(anyhow::Error::msg)?;
    interrupt.wait(interval * 2)?;
    let counts = stop(&network, &mut nodes, &mut aggregator, witnesses, interrupt)?;
    judge(&counts, done)
}

/// One capture a gateway.
pub(super) fn captures(network: &Network) -> Result<Vec<Capture>> {
    network.gateways.iter().map(|gateway| Capture::start(&gateway.netns)).collect()
}

/// An aggregator in the middle, with keys for both its addresses.
pub(super) fn aggregator<'n>(
    programs: &Programs,
    network: &'n Network,
    folder: &Folder,
    store: Option<&str>,
) -> Result<Aggregator<'n>> {
    let names: Vec<String> = network.gateways.iter().map(|g| g.center.to_string()).collect();
    Aggregator::prepare(programs, Place::In(&network.center), folder.path(), store, &names)
}

/// A node in each gateway, which reaches the aggregator at the given port.
pub(super) fn nodes<'n>(
    aggregator: &Aggregator<'_>,
    network: &'n Network,
    interval: &str,
    ports: [u16; 2],
) -> Result<Vec<Node<'n>>> {
    let node = |(gateway, port): (&'n super::network::Gateway, u16)| {
        let address = SocketAddr::new(IpAddr::V4(gateway.center), port);
        let place = Place::In(&gateway.netns);
        Node::prepare(aggregator, place, gateway.name, address, interval)
    };
    network.gateways.iter().zip(ports).map(node).collect()
}

/// Runs rounds of traffic, one a second, until `meanwhile` is done.
pub(super) fn with_traffic<T: Send>(
    traffic: &mut Traffic<'_>,
    meanwhile: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let meanwhile = scope.spawn(meanwhile);
        let mut went = Ok(());
        while !meanwhile.is_finished() {
            let begun = Instant::now();
            if went.is_ok() {
                went = traffic.round();
            }
            std::thread::sleep(ROUND.saturating_sub(begun.elapsed()));
        }
        let result = outcome(meanwhile.join(), "what ran beside the traffic");
        went.context("traffic")?;
        result
    })
}

/// What the captures saw in all, one a gateway.
pub(super) fn finish(network: &Network, captures: Vec<Capture>) -> Result<Vec<Witness>> {
    let finish = |(gateway, capture): (&super::network::Gateway, Capture)| {
        capture.finish(dump(&gateway.netns)?)
    };
    network.gateways.iter().zip(captures).map(finish).collect()
}

/// Stops nodes, then the aggregator, and collects every count.
pub(super) fn stop(
    network: &Network,
    nodes: &mut [Node<'_>],
    aggregator: &mut Aggregator<'_>,
    witnesses: Vec<Witness>,
    interrupt: &Interrupt,
) -> Result<Vec<GatewayCounts>> {
    let place = aggregator.stored();
    let mut counts = Vec::new();
    let mut witnesses = witnesses.into_iter();
    for (gateway, node) in network.gateways.iter().zip(nodes) {
        interrupt.check()?;
        let said = NodeSaid::read(&node.metrics()?);
        node.stop()?;
        counts.push(GatewayCounts {
            name: gateway.name,
            witness: witnesses.next(),
            counted: rules::read(&gateway.netns)?,
            said,
            stored: stored::read(&place, gateway.name)?,
        });
    }
    workspace::run(&mut aggregator.reading(&["report", "--by", "node"]))?;
    aggregator.stop()?;
    Ok(counts)
}

/// Prints the summary.
///
/// # Errors
/// Two counts differ that must not, or the witnesses saw less than was sent.
fn judge(counts: &[GatewayCounts], done: Done) -> Result<()> {
    let mut wrong = Vec::new();
    for gateway in counts {
        eprint!("{gateway}");
        wrong.extend(gateway.differences());
        wrong.extend(gateway.vacuous(done));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

/// Waits until the gateways' tables are empty without reading them: the nodes' own sweeps, and
/// the kernel's garbage collection, end what has timed out.
fn settle_without_looking(network: &Network, interrupt: &Interrupt) -> Result<()> {
    for gateway in &network.gateways {
        interrupt.wait_for("the last flows to end", Duration::from_secs(180), || {
            Ok((gateway.netns.entries()? == 0).then_some(()))
        })?;
    }
    Ok(())
}
