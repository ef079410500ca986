//! The product on this machine as it is: one aggregator, one node, the host's own connections.
//!
//! Traffic cannot be stopped here, so only flows that ended while the node ran are held against
//! what is stored: for those the kernel has said its last word.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::stack::{Aggregator, Node, PORT, Place, Programs};
use super::{Database, Folder, duration, stored};
use crate::interrupt::Interrupt;
use crate::lab::capture::Capture;
use crate::lab::tally::{Flows, compare, total};
use crate::workspace;

/// How to run it.
pub(crate) struct Plan {
    pub(crate) time: Option<Duration>,
    pub(crate) interval: String,
    pub(crate) store: Option<String>,
    pub(crate) keep: bool,
    pub(crate) profile: String,
}

/// Runs it.
///
/// # Errors
/// It does not build, start or stay up, or a flow that ended is stored with other numbers.
pub(crate) fn run(plan: &Plan, interrupt: &Interrupt) -> Result<()> {
    let interval = duration(&plan.interval).map_err(anyhow::Error::msg)?;
    let programs = Programs::build(&plan.profile)?;
    let folder = Folder::make(plan.keep)?;
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let database = Database::of(plan.store.as_deref())?;
    let store = database.store();
    let mut aggregator = Aggregator::prepare(&programs, Place::Here, folder.path(), store, &names)?;
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    let mut node = Node::prepare(&aggregator, Place::Here, "here", address, &plan.interval)?;
    aggregator.start(interrupt)?;
    node.start(interrupt)?;
    let capture = Capture::here()?;
    eprintln!("aggregator and node are up: http://127.0.0.1:8080/ and http://127.0.0.1:8000/stats");
    eprintln!("{}", plan.time.map_or_else(|| "Ctrl-C ends it".into(), |t| format!("for {t:?}")));

    let end = plan.time.map(|time| Instant::now() + time);
    while !interrupt.take() && end.is_none_or(|end| Instant::now() < end) {
        aggregator.check()?;
        node.check()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let judged = Instant::now();
    interrupt.wait(interval * 2)?;
    node.stop().context("stopping the node")?;
    let witness = capture.finish(Flows::new())?;
    workspace::run(&mut aggregator.reading(&["report", "--by", "node"]))?;
    let stored = stored::read(&aggregator.stored(), node.name())?;
    aggregator.stop().context("stopping the aggregator")?;

    let in_time = |key| witness.ended.get(key).is_some_and(|when| *when < judged);
    let kernel: Flows =
        witness.flows.iter().filter(|(key, _)| in_time(key)).map(|(k, b)| (*k, *b)).collect();
    let same: Flows = stored
        .raw
        .iter()
        .filter(|(key, _)| kernel.contains_key(key))
        .map(|(key, both)| (*key, *both))
        .collect();
    let differing = compare(&kernel, &same);
    eprintln!(
        "{} flows ended meanwhile: the kernel counted {:?} (packets and bytes there, and back), \
         stored are {:?}; {} flows differ",
        kernel.len(),
        total(&kernel).numbers(),
        total(&same).numbers(),
        differing.len()
    );
    if kernel.is_empty() {
        eprintln!("nothing ended: without firewall rules Linux tracks nothing; try --lab");
    }
    for difference in differing.iter().take(20) {
        eprintln!("  {difference}");
    }
    if !differing.is_empty() {
        bail!("{} flows are stored with other numbers than the kernel's", differing.len());
    }
    Ok(())
}
