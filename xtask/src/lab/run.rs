//! The lab with the product: a node in each gateway, an aggregator beside them, traffic, and at
//! the end counts of the same packets that know nothing of each other: three of each gateway, and
//! those of the ends for all together.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::capture::{Capture, Witness, dump};
use super::conntrackd::Synced;
use super::course::{Course, flush};
use super::kernel::settle;
use super::network::{Gateway, Network};
use super::once::{Once, Slack};
use super::rules;
use super::summary::{GatewayCounts, NodeSaid, is_whole};
use super::tally::total;
use super::topology::Topology;
use super::traffic::{Done, Traffic};
use super::truth::{Ends, Samples};
use crate::interrupt::Interrupt;
use crate::up::stack::{Aggregator, Node, PORT, Place, Programs};
use crate::up::{Database, Folder, duration, stored};
use crate::workspace;

/// How to run it.
pub(crate) struct Plan {
    pub(crate) topology: &'static Topology,
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

/// How long the store may take to have everything.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Runs it and prints the summary.
///
/// # Errors
/// Something did not start or stay up, or the counts differ.
pub(crate) fn counts(plan: &Plan, interrupt: &Interrupt) -> Result<()> {
    let interval = duration(&plan.interval).map_err(anyhow::Error::msg)?;
    let programs = Programs::build(&plan.profile)?;
    let folder = Folder::make(plan.keep)?;
    let network = Network::build(plan.topology)?;
    let ends = Ends::count(&network)?;
    let captures = if plan.capture { captures(&network)? } else { Vec::new() };
    let synced = synced(&network, &folder, interrupt)?;
    // Flows that are older than the nodes.
    let mut traffic = Traffic::start(&network)?;
    let database = Database::of(plan.store.as_deref())?;
    let mut aggregator = aggregator(&programs, &network, &folder, database.store())?;
    let mut nodes = nodes(&aggregator, &network, &plan.interval, |_| PORT)?;
    aggregator.start(interrupt)?;
    for node in &mut nodes {
        node.start(interrupt)?;
    }
    eprintln!(
        "{}: aggregator and {} nodes are up, traffic begins",
        network.topology.name,
        nodes.len()
    );

    let mut course = Course {
        network: &network,
        aggregator: &mut aggregator,
        nodes: &mut nodes,
        synced,
        ends: &ends,
        samples: Samples::default(),
        interrupt,
        // A reading of all that was sent before, and what two clocks may differ by.
        calm: interval * 2 + Duration::from_secs(2),
    };
    let lasted = course.run(&mut traffic, plan.time)?;
    let Course { samples, synced, .. } = course;
    let done = traffic.finish()?;
    if plan.topology.flush {
        interrupt.wait(interval)?;
        flush(&network, interrupt)?;
    }
    if plan.capture {
        settle(&network, interrupt)?;
    } else {
        settle_without_looking(&network, interrupt)?;
    }
    drop(synced);
    let witnesses = finish(&network, captures)?;
    let truth = ends.read()?;
    caught_up(&network, &aggregator.stored(), interrupt)?;
    let counts = stop(&network, &mut nodes, &mut aggregator, witnesses, interrupt)?;
    let slack = Slack::of(plan.topology, &samples, interval, lasted);
    let merged = stored::merged(&aggregator.stored())?;
    let once = Once::of(plan.topology, counts.iter().map(|c| &c.stored), truth, merged, slack);
    judge(&counts, done, &once)
}

/// One capture a gateway.
pub(crate) fn captures(network: &Network) -> Result<Vec<Capture>> {
    network.gateways.iter().map(|gateway| Capture::start(&gateway.netns)).collect()
}

fn synced(network: &Network, folder: &Folder, interrupt: &Interrupt) -> Result<Option<Synced>> {
    let Some([one, two]) = network.topology.synced else { return Ok(None) };
    let pair = [network.host(one)?, network.host(two)?];
    Synced::start(pair, folder.path(), interrupt).map(Some)
}

/// An aggregator in the middle, with keys for all its addresses.
pub(crate) fn aggregator<'n>(
    programs: &Programs,
    network: &'n Network,
    folder: &Folder,
    store: Option<&str>,
) -> Result<Aggregator<'n>> {
    let names: Vec<String> = network.nodes().map(|(_, center)| center.to_string()).collect();
    let place = Place::In(&network.center);
    let mut aggregator = Aggregator::prepare(programs, place, folder.path(), store, &names)?;
    aggregator.configure(network.topology.merge)?;
    Ok(aggregator)
}

/// The nodes, each of which reaches the aggregator at the port that `port` gives its place.
pub(crate) fn nodes<'n>(
    aggregator: &Aggregator<'_>,
    network: &'n Network,
    interval: &str,
    port: impl Fn(u16) -> u16,
) -> Result<Vec<Node<'n>>> {
    let node = |(number, (gateway, center)): (u16, (&'n Gateway, _))| {
        let address = SocketAddr::new(IpAddr::V4(center), port(number));
        let place = Place::In(&gateway.netns);
        let node = Node::prepare(aggregator, place, gateway.node, address, interval)?;
        Ok(node.reading(network.read_by(gateway.node)))
    };
    (0..).zip(network.nodes()).map(node).collect()
}

/// What the captures saw in all, one a gateway.
pub(crate) fn finish(network: &Network, captures: Vec<Capture>) -> Result<Vec<Witness>> {
    let finish = |(gateway, capture): (&Gateway, Capture)| capture.finish(dump(&gateway.netns)?);
    network.gateways.iter().zip(captures).map(finish).collect()
}

/// Waits until everything the gateways have counted is stored, with every end; what is not by
/// then is for the judge to tell.
fn caught_up(network: &Network, place: &stored::Place, interrupt: &Interrupt) -> Result<()> {
    let all = interrupt.wait_for("everything to be stored", CATCH_UP, || {
        for gateway in &network.gateways {
            let stored = stored::read_in(place, gateway.node, gateway.inode()?)?;
            let counted = rules::read(&gateway.netns)?.tracked;
            let torn = network.topology.synced.is_some();
            if stored.open > 0 || !is_whole(total(&stored.raw), counted, torn) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    });
    if let Err(error) = all {
        interrupt.check()?;
        eprintln!("{error:#}");
    }
    Ok(())
}

/// Stops nodes, then the aggregator, and collects every count.
pub(crate) fn stop(
    network: &Network,
    nodes: &mut [Node<'_>],
    aggregator: &mut Aggregator<'_>,
    witnesses: Vec<Witness>,
    interrupt: &Interrupt,
) -> Result<Vec<GatewayCounts>> {
    let place = aggregator.stored();
    let mut said = Vec::new();
    for node in nodes {
        interrupt.check()?;
        said.push((node.name().to_owned(), NodeSaid::read(&node.metrics()?)));
        node.stop()?;
    }
    workspace::run(&mut aggregator.reading(&["report", "--by", "node"]))?;
    aggregator.stop()?;
    let mut witnesses = witnesses.into_iter();
    let counts = |gateway: &Gateway| {
        let said = said.iter().find(|(node, _)| *node == gateway.node);
        Ok(GatewayCounts {
            name: gateway.name,
            witness: witnesses.next(),
            counted: rules::read(&gateway.netns)?,
            said: said.context("a node that said nothing")?.1,
            stored: stored::read_in(&place, gateway.node, gateway.inode()?)?,
            sees_all: gateway.sees_all,
            torn: network.topology.synced.is_some(),
        })
    };
    network.gateways.iter().map(counts).collect()
}

/// Prints the summary.
///
/// # Errors
/// Two counts differ that must not, or the witnesses saw less than was sent.
fn judge(counts: &[GatewayCounts], done: Done, once: &Once) -> Result<()> {
    let mut wrong = Vec::new();
    for gateway in counts {
        eprint!("{gateway}");
        wrong.extend(gateway.differences());
        wrong.extend(gateway.vacuous(done));
    }
    eprint!("{once}");
    wrong.extend(once.wrong());
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
