//! The lab without the product: traffic flows, and conntrack's own events are held against
//! nftables' counters. It proves that the two witnesses the product is judged by agree.

use std::time::Duration;

use anyhow::{Result, bail};

use super::capture::{Capture, Witness, dump};
use super::network::{LONGEST_TIMEOUT_S, Network};
use super::rules::{self, Counted};
use super::tally::total;
use super::topology::Topology;
use super::traffic::{Done, Traffic};
use crate::interrupt::Interrupt;

/// Runs `rounds` rounds of traffic and compares.
///
/// # Errors
/// The witnesses disagree, or saw less than was sent.
pub(crate) fn run(topology: &'static Topology, rounds: u32, interrupt: &Interrupt) -> Result<()> {
    let network = Network::build(topology)?;
    let captures: Vec<Capture> =
        network.gateways.iter().map(|g| Capture::start(&g.netns)).collect::<Result<_>>()?;
    let mut traffic = Traffic::start(&network)?;
    for _ in 0..rounds {
        interrupt.check()?;
        traffic.round()?;
    }
    let done = traffic.finish()?;
    settle(&network, interrupt)?;
    eprintln!(
        "{} flows opened, {} bytes sent, {} received, {} requests unanswered",
        done.flows, done.sent, done.received, done.unanswered
    );
    let mut wrong = Vec::new();
    for (gateway, capture) in network.gateways.iter().zip(captures) {
        let witness = capture.finish(dump(&gateway.netns)?)?;
        let counted = rules::read(&gateway.netns)?;
        eprintln!("{}", describe(gateway.name, &witness, &counted));
        wrong.extend(judge(gateway.name, &witness, &counted, done));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

/// Waits until every entry has timed out, with dumps that make the kernel notice.
pub(crate) fn settle(network: &Network, interrupt: &Interrupt) -> Result<()> {
    interrupt.wait(Duration::from_secs(LONGEST_TIMEOUT_S + 1))?;
    for gateway in &network.gateways {
        interrupt.wait_for("the last flows to end", Duration::from_secs(30), || {
            Ok(dump(&gateway.netns)?.is_empty().then_some(()))
        })?;
    }
    Ok(())
}

/// A line for each of what the two witnesses of a gateway say.
pub(crate) fn describe(gateway: &str, witness: &Witness, counted: &Counted) -> String {
    let flows = witness.flows.len();
    let kernel = total(&witness.flows).numbers();
    let mut text = format!(
        "{gateway}: {flows} flows ({} alive), packets and bytes there, and back\n  \
         conntrack {kernel:?}\n  nftables  {:?}\n  on no flow:",
        witness.living,
        counted.tracked.numbers()
    );
    for (why, amount) in &counted.untracked {
        text += &format!(" {why} {} packets {} bytes;", amount.packets, amount.bytes);
    }
    text
}

/// What is wrong with a gateway's witnesses, if anything.
pub(crate) fn judge(
    gateway: &str,
    witness: &Witness,
    counted: &Counted,
    done: Done,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let seen = total(&witness.flows);
    let difference = seen - counted.tracked;
    if difference != [0; 4] {
        wrong.push(format!("{gateway}: conntrack less nftables is {difference:?}"));
    }
    // Ports are used again, so two sockets may be one flow; but not many.
    if (witness.flows.len() as u64) < done.flows * 9 / 10 {
        let flows = witness.flows.len();
        wrong.push(format!("{gateway}: {flows} flows seen of {} opened", done.flows));
    }
    if seen.original.bytes < done.sent || seen.reply.bytes < done.received {
        wrong.push(format!("{gateway}: fewer bytes counted than the programs sent"));
    }
    wrong
}
