//! The lab test of the promise: programs are killed, a state folder is wiped, a link is cut, and
//! every flow whose end some life of the node could see is stored to the last byte; every other
//! one is listed, and never too much.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use super::capture::dump;
use super::course::with_traffic;
use super::kernel::settle;
use super::netns::Netns;
use super::network::Network;
use super::relay::{Relay, Weather};
use super::run;
use super::summary::GatewayCounts;
use super::tally::{Both, Flows, Key};
use super::topology::ROUTER;
use super::traffic::Traffic;
use crate::interrupt::Interrupt;
use crate::up::stack::{Aggregator, Node, PORT, Programs};
use crate::up::{Folder, stored};

/// gw1 reaches the aggregator through a relay on this port.
const RELAY_PORT: u16 = 4434;
/// The nodes' interval, as a flag and as a time.
const INTERVAL: (&str, Duration) = ("2s", Duration::from_secs(2));
/// Connections that are opened, then partly closed while nobody looks.
const HELD: usize = 40;
const KEPT: usize = 16;
/// How long the link is cut.
const CUT: Duration = Duration::from_secs(20);
/// How long the store may take to say what the kernel says.
const CATCH_UP: Duration = Duration::from_secs(60);

/// A time in which gw1's node was down, widened to what it may have seen without writing it.
struct Down {
    /// Wall-clock nanoseconds, as the kernel stamps a flow's start.
    from_wall: u64,
    from: Instant,
    to: Instant,
}

/// Everything that runs.
struct Stage<'n> {
    network: &'n Network,
    interrupt: &'n Interrupt,
    aggregator: Aggregator<'n>,
    gw1: Node<'n>,
    relay: Relay,
    store: stored::Place,
}

/// What must be found at the end.
#[derive(Default)]
struct Expected {
    down: Vec<Down>,
    /// Flows of gw1 that ended while it was down, with their last reading before.
    closed_unseen: Flows,
}

/// Runs it.
///
/// # Errors
/// Something did not start, or what is stored is not what it must be.
pub(crate) fn kill(profile: &str, keep: bool, interrupt: &Interrupt) -> Result<()> {
    let programs = Programs::build(profile)?;
    let folder = Folder::make(keep)?;
    let network = Network::build(&ROUTER)?;
    let captures = run::captures(&network)?;
    let mut traffic = Traffic::start(&network)?;
    let mut aggregator = run::aggregator(&programs, &network, &folder, None)?;
    let store = aggregator.stored();
    let nodes =
        run::nodes(
            &aggregator,
            &network,
            INTERVAL.0,
            |number| {
                if number == 0 { RELAY_PORT } else { PORT }
            },
        )?;
    let Ok([mut gw1, mut gw2]) = <[Node<'_>; 2]>::try_from(nodes) else {
        bail!("the lab has two gateways");
    };
    let to = SocketAddr::from(([127, 0, 0, 1], PORT));
    let relay = Relay::start(&network.center, RELAY_PORT, to, Weather::default())?;
    aggregator.start(interrupt)?;
    gw1.start(interrupt)?;
    gw2.start(interrupt)?;

    let mut expected = Expected::default();
    let network = &network;
    let mut stage = Stage { network, interrupt, aggregator, gw1, relay, store };
    stage.kill_node_in_silence(&mut traffic, &mut expected)?;
    stage.kill_node_under_traffic(&mut traffic, &mut expected)?;
    stage.kill_aggregator(&mut traffic)?;
    stage.wipe_node(&mut traffic)?;
    stage.cut_link(&mut traffic)?;
    let Stage { mut aggregator, gw1, .. } = stage;

    let done = traffic.finish()?;
    settle(network, interrupt)?;
    let witnesses = run::finish(network, captures)?;
    for gateway in ["gw1", "gw2"] {
        interrupt.wait_for("every end to be stored", CATCH_UP, || {
            let stored = stored::read(&aggregator.stored(), gateway)?;
            Ok((stored.open == 0).then_some(()))
        })?;
    }
    interrupt.wait(INTERVAL.1 * 2)?;
    let mut nodes = [gw1, gw2];
    let counts = run::stop(network, &mut nodes, &mut aggregator, witnesses, interrupt)?;
    let [gw1, gw2] = counts.as_slice() else {
        bail!("the lab has two gateways");
    };
    eprint!("{gw1}{gw2}");
    let mut wrong = gw2.differences();
    wrong.extend(gw2.vacuous(done));
    wrong.extend(gw1.witnesses_differ());
    wrong.extend(gw1.vacuous(done));
    wrong.extend(expected.judge(gw1));
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

impl Stage<'_> {
    fn gateway(&self) -> &Netns {
        &self.network.gateways[0].netns
    }

    /// Kills gw1's node when everything is stored, then uses connections, closes some, and lets
    /// others be born and die, all unseen: what must be found afterwards is known exactly.
    fn kill_node_in_silence(
        &mut self,
        traffic: &mut Traffic<'_>,
        expected: &mut Expected,
    ) -> Result<()> {
        eprintln!("SIGKILL gw1's node in silence");
        traffic.round()?;
        traffic.hold(HELD)?;
        let before = self.caught_up(traffic.long() + HELD)?;
        let down = now();
        self.gw1.kill()?;
        traffic.use_held(KEPT)?;
        traffic.round()?;
        let after = self.only(traffic.long() + KEPT)?;
        self.gw1.start(self.interrupt)?;
        expected.down.push(Down { from_wall: down.0, from: down.1, to: Instant::now() });

        let closed: Flows =
            before.into_iter().filter(|(key, _)| !after.contains_key(key)).collect();
        ensure!(
            closed.len() == HELD - KEPT,
            "{} flows were closed, not {}",
            closed.len(),
            HELD - KEPT
        );
        let keys: BTreeSet<&Key> = closed.keys().collect();
        let store = &self.store;
        let mut last = 0;
        let wait = self.interrupt.wait_for("the unseen ends to be stored", CATCH_UP, || {
            let stored = stored::read(store, "gw1")?;
            last = stored.unseen.len();
            Ok((stored.unseen.iter().collect::<BTreeSet<_>>() == keys).then_some(()))
        });
        wait.with_context(|| format!("{last} ends are marked unseen, expected {}", keys.len()))?;
        self.caught_up(traffic.long() + KEPT)?;
        expected.closed_unseen = closed;
        Ok(())
    }

    /// Kills gw1's node at a moment of its own choosing, with flows being born and dying all the
    /// time.
    fn kill_node_under_traffic(
        &mut self,
        traffic: &mut Traffic<'_>,
        expected: &mut Expected,
    ) -> Result<()> {
        eprintln!("SIGKILL gw1's node under traffic");
        let down = with_traffic(traffic, |_| {
            self.interrupt.wait(INTERVAL.1 * 3)?;
            // What ended since the last sweep that is on disk may be known to the process only.
            let (wall, instant) = now();
            let unwritten = INTERVAL.1 * 2;
            let from = instant.checked_sub(unwritten).context("a clock that has just begun")?;
            let from_wall = wall.saturating_sub(u64::try_from(unwritten.as_nanos())?);
            self.gw1.kill()?;
            for _ in 0..4 {
                self.interrupt.wait(Duration::from_secs(1))?;
                dump(self.gateway())?; // makes the kernel end what has timed out
            }
            self.gw1.start(self.interrupt)?;
            let to = Instant::now();
            self.interrupt.wait(INTERVAL.1 * 2)?;
            Ok(Down { from_wall, from, to })
        })?;
        expected.down.push(down);
        Ok(())
    }

    /// Kills the aggregator under traffic. Nothing may be missing, nothing twice.
    fn kill_aggregator(&mut self, traffic: &mut Traffic<'_>) -> Result<()> {
        eprintln!("SIGKILL the aggregator under traffic");
        with_traffic(traffic, |_| {
            self.interrupt.wait(INTERVAL.1)?;
            self.aggregator.kill()?;
            self.interrupt.wait(INTERVAL.1 * 2)?;
            self.aggregator.start(self.interrupt)?;
            self.interrupt.wait(INTERVAL.1 * 2)
        })
    }

    /// Stops gw1's node in order, wipes its state and starts it again: a new epoch, every living
    /// flow reported from zero and counted once.
    fn wipe_node(&mut self, traffic: &mut Traffic<'_>) -> Result<()> {
        eprintln!("wipe gw1's state");
        self.caught_up(traffic.long() + KEPT)?;
        self.gw1.stop()?;
        self.gw1.wipe()?;
        traffic.work()?;
        self.gw1.start(self.interrupt)?;
        with_traffic(traffic, |_| self.interrupt.wait(INTERVAL.1 * 2))
    }

    /// Drops everything between gw1 and the aggregator for a while.
    fn cut_link(&mut self, traffic: &mut Traffic<'_>) -> Result<()> {
        eprintln!("cut gw1's link for {CUT:?}");
        let (passed, dropped) = with_traffic(traffic, |_| {
            let before = self.relay.counts();
            self.relay.cut(true);
            let cut = self.interrupt.wait(CUT);
            self.relay.cut(false);
            let after = self.relay.counts();
            cut?;
            self.interrupt.wait(INTERVAL.1 * 2)?;
            Ok((before.passed, after.dropped - before.dropped))
        })?;
        ensure!(
            passed > 0 && dropped > 0,
            "the relay was not used: {passed} passed, {dropped} cut"
        );
        Ok(())
    }

    /// Waits until gw1 has `count` entries and no others, and gives them.
    fn only(&self, count: usize) -> Result<Flows> {
        let mut found = 0;
        let wait = self.interrupt.wait_for("short flows to end", CATCH_UP, || {
            let living = dump(self.gateway())?;
            found = living.len();
            Ok((found == count).then_some(living))
        });
        wait.with_context(|| format!("{found} entries, expected {count}"))
    }

    /// Waits until gw1 has `count` entries, and the store says of them what the kernel says and
    /// that all others have ended.
    fn caught_up(&self, count: usize) -> Result<Flows> {
        let living = self.only(count)?;
        // Ends that nothing in the store waits for: of flows that were born since the last sweep.
        self.interrupt.wait(INTERVAL.1 * 2)?;
        self.interrupt.wait_for("the store to have caught up", CATCH_UP, || {
            let stored = stored::read(&self.store, "gw1")?;
            let same = |(key, both): (&Key, &Both)| stored.raw.get(key) == Some(both);
            Ok((stored.open == count && living.iter().all(same)).then_some(()))
        })?;
        Ok(living)
    }
}

impl Expected {
    /// What is wrong with gw1, which did not live all the time.
    fn judge(&self, gateway: &GatewayCounts) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut tell = |key: &Key, what: String| wrong.push(format!("gw1: {key}: {what}"));
        let Some(witness) = &gateway.witness else {
            return vec!["gw1: nobody captured its events".into()];
        };
        let unseen: BTreeSet<&Key> = gateway.stored.unseen.iter().collect();
        let ended_in = |key: &Key| {
            let when = witness.ended.get(key)?;
            self.down.iter().find(|down| (down.from..=down.to).contains(when))
        };
        for found in gateway.differing() {
            let key = &found.key;
            let (Some(kernel), stored) = (found.kernel, found.other) else {
                tell(key, "stored, and the kernel knows nothing of it".into());
                continue;
            };
            let Some(down) = ended_in(key) else {
                tell(key, format!("differs though the node saw its end ({found})"));
                continue;
            };
            match stored {
                None if key.start < down.from_wall => {
                    tell(key, "was there before, is not stored".into())
                }
                Some(stored) if !kernel.covers(stored) => {
                    tell(key, "more is stored than the kernel counted".into());
                }
                Some(_) if !unseen.contains(key) => {
                    tell(key, "is incomplete and not marked".into())
                }
                _ => {}
            }
        }
        for key in &unseen {
            if ended_in(key).is_none() {
                tell(key, "is marked unseen, but the node was there when it ended".into());
            }
        }
        for (key, before) in &self.closed_unseen {
            if gateway.stored.raw.get(key) != Some(before) {
                tell(key, format!("is not stored as last read: {:?}", before.numbers()));
            }
            if witness.flows.get(key) == Some(before) || !unseen.contains(key) {
                tell(key, "grew and ended unseen, and is not told so".into());
            }
        }
        if gateway.stored.open > 0 {
            wrong.push(format!("gw1: {} flows have no end", gateway.stored.open));
        }
        let more = wrong.len().saturating_sub(20);
        wrong.truncate(20);
        if more > 0 {
            wrong.push(format!("and {more} more"));
        }
        wrong
    }
}

/// The wall clock in nanoseconds, and the monotonic clock.
fn now() -> (u64, Instant) {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    (u64::try_from(wall).unwrap_or(u64::MAX), Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::capture::Witness;
    use crate::lab::rules::Counted;
    use crate::lab::summary::NodeSaid;
    use crate::lab::tally::Amount;
    use crate::up::stored::Stored;
    use std::net::IpAddr;

    fn key(sport: u16, start: u64) -> Key {
        let address = IpAddr::from([10, 0, 0, 1]);
        Key { proto: 6, src: address, dst: address, sport, dport: 80, zone: 0, start }
    }

    fn both(packets: u64) -> Both {
        let amount = Amount { packets, bytes: packets };
        Both { original: amount, reply: amount }
    }

    /// One flow, which ended at 10 s or 100 s; the node was down from 5 s to 20 s, and the flow
    /// was last read at 3 packets.
    fn judged(
        ended: u64,
        start: u64,
        kernel: u64,
        stored: Option<u64>,
        unseen: bool,
        closed: bool,
    ) -> usize {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let key = key(1, start);
        let down = Down { from_wall: 5, from: at(5), to: at(20) };
        let closed_unseen = closed.then(|| (key, both(3))).into_iter().collect();
        let expected = Expected { down: vec![down], closed_unseen };
        let witness = Witness {
            flows: Flows::from([(key, both(kernel))]),
            ended: [(key, at(ended))].into(),
            living: 0,
        };
        let stored = Stored {
            raw: stored.map(|packets| (key, both(packets))).into_iter().collect(),
            unseen: if unseen { vec![key] } else { Vec::new() },
            ..Stored::default()
        };
        let (counted, said) = (Counted::default(), NodeSaid::default());
        let witness = Some(witness);
        let name = "gw1";
        let (sees_all, torn) = (true, false);
        expected
            .judge(&GatewayCounts { name, witness, counted, said, stored, sees_all, torn })
            .len()
    }

    #[test]
    fn what_is_right_passes() {
        assert_eq!(judged(100, 1, 5, Some(5), false, false), 0, "seen");
        assert_eq!(judged(10, 1, 5, Some(3), true, false), 0, "ended unseen");
        assert_eq!(judged(10, 1, 5, Some(3), true, true), 0, "ended unseen, as expected");
        assert_eq!(judged(10, 7, 5, None, false, false), 0, "born and ended unseen");
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert_eq!(judged(100, 1, 5, Some(4), false, false), 1, "seen, and too little");
        assert_eq!(judged(100, 1, 5, None, false, false), 1, "seen, and not stored");
        assert_eq!(judged(10, 1, 5, Some(6), true, false), 1, "too much");
        assert_eq!(judged(10, 1, 5, Some(3), false, false), 1, "not marked");
        assert_eq!(judged(100, 1, 5, Some(5), true, false), 1, "marked for no reason");
        assert_eq!(judged(10, 1, 5, None, false, false), 1, "there before, and not stored");
        assert_eq!(judged(10, 1, 5, Some(4), true, true), 1, "more than was read");
        assert_eq!(judged(10, 1, 3, Some(3), true, true), 1, "it did not grow");
    }
}
