//! The course of a lab's traffic: rounds, and the topology's steps between or in the midst of
//! them, while everything that runs is watched.

use std::slice::Iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::conntrackd::Synced;
use super::network::Network;
use super::topology::Step;
use super::traffic::Traffic;
use super::truth::{Ends, Samples};
use crate::interrupt::Interrupt;
use crate::threads::outcome;
use crate::up::stack::{Aggregator, Node};
use crate::workspace;

/// A round of traffic begins no sooner than this after the last one.
const ROUND: Duration = Duration::from_secs(1);
/// How often the truth is looked at, and what runs.
const LOOK: Duration = Duration::from_millis(250);
/// Without a given time a step comes after so long.
const UNHURRIED: Duration = Duration::from_secs(10);

/// What runs beside the traffic.
pub(super) struct Course<'c, 'n> {
    pub(super) network: &'n Network,
    pub(super) aggregator: &'c mut Aggregator<'n>,
    pub(super) nodes: &'c mut [Node<'n>],
    pub(super) synced: Option<Synced>,
    pub(super) ends: &'c Ends<'n>,
    pub(super) samples: Samples,
    pub(super) interrupt: &'c Interrupt,
    /// How long nothing is sent before and after a step that wants calm.
    pub(super) calm: Duration,
}

impl Course<'_, '_> {
    /// Lets traffic flow for `time`, or until we are asked to stop, and takes the steps at equal
    /// distances. Gives how long it took.
    pub(super) fn run(
        &mut self,
        traffic: &mut Traffic<'_>,
        time: Option<Duration>,
    ) -> Result<Duration> {
        let begun = Instant::now();
        let mut steps = self.network.topology.steps.iter();
        let parts = u32::try_from(steps.len() + 1)?;
        let part = time.map_or(UNHURRIED, |time| time / parts);
        self.is_synced()?;
        loop {
            let next =
                with_traffic(traffic, |broken| self.in_the_midst(&mut steps, part, time, broken))?;
            let Some(step) = next else { break };
            self.interrupt.wait(self.calm)?;
            self.step(step)?;
            self.interrupt.wait(self.calm)?;
        }
        Ok(begun.elapsed())
    }

    /// Takes steps while the traffic flows, and gives the next one that wants calm.
    fn in_the_midst(
        &mut self,
        steps: &mut Iter<'static, Step>,
        part: Duration,
        time: Option<Duration>,
        broken: &AtomicBool,
    ) -> Result<Option<&'static Step>> {
        loop {
            let last = steps.as_slice().is_empty();
            let enough = if last { time.map(|_| part) } else { Some(part) };
            if !self.watch(enough, broken)? {
                return Ok(None);
            }
            match steps.next() {
                None => return Ok(None),
                Some(step) if step.calm => return Ok(Some(step)),
                Some(step) => self.step(step)?,
            }
        }
    }

    /// Watches for a while, or for ever; `false` where we were asked to stop.
    fn watch(&mut self, time: Option<Duration>, broken: &AtomicBool) -> Result<bool> {
        let end = time.map(|time| Instant::now() + time);
        while end.is_none_or(|end| Instant::now() < end) {
            if self.interrupt.take() {
                return Ok(false);
            }
            ensure!(!broken.load(Ordering::Acquire), "the traffic broke off");
            self.aggregator.check()?;
            self.nodes.iter_mut().try_for_each(Node::check)?;
            self.synced.as_mut().map_or(Ok(()), Synced::check)?;
            self.samples.add(Instant::now(), self.ends.read()?.sent);
            std::thread::sleep(LOOK);
        }
        Ok(true)
    }

    fn step(&self, step: &Step) -> Result<()> {
        eprintln!("{}", step.what);
        for (host, command) in step.commands {
            self.network.host(host)?.ip(&[command])?;
        }
        Ok(())
    }

    /// Waits until conntrackd has told the second gateway what the first one knows: nothing
    /// passes it yet.
    fn is_synced(&self) -> Result<()> {
        let Some([_, idle]) = self.network.topology.synced else { return Ok(()) };
        let idle = self.network.host(idle)?;
        self.interrupt.wait_for("conntrackd to tell of entries", Duration::from_secs(20), || {
            Ok((idle.entries()? > 0).then_some(()))
        })
    }
}

/// Runs rounds of traffic, one a second, until `meanwhile`, on this thread, is done. It is given a
/// flag that says when there is no traffic any more.
pub(crate) fn with_traffic<T>(
    traffic: &mut Traffic<'_>,
    meanwhile: impl FnOnce(&AtomicBool) -> Result<T>,
) -> Result<T> {
    let (enough, broken) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let rounds = scope.spawn(|| -> Result<()> {
            while !enough.load(Ordering::Acquire) {
                let begun = Instant::now();
                traffic.round().inspect_err(|_| broken.store(true, Ordering::Release))?;
                std::thread::sleep(ROUND.saturating_sub(begun.elapsed()));
            }
            Ok(())
        });
        let result = meanwhile(&broken);
        enough.store(true, Ordering::Release);
        outcome(rounds.join(), "the traffic").context("traffic")?;
        result
    })
}

/// Deletes what is left in the gateways' tables, again and again until nothing is.
pub(crate) fn flush(network: &Network, interrupt: &Interrupt) -> Result<()> {
    for gateway in &network.gateways {
        interrupt.wait_for("a flushed table", Duration::from_secs(30), || {
            workspace::output(gateway.netns.command("conntrack").arg("-F"))?;
            Ok((gateway.netns.entries()? == 0).then_some(()))
        })?;
    }
    Ok(())
}
