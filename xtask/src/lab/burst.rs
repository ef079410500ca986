//! The lab test of the guard: tens of thousands of flows are born and end while threads of a real
//! node stand still, and then what its aggregator has stored is held against what was sent.
//!
//! - The actors (probe, aggregation, uplink) held for 10 s: the event thread reads on, and every
//!   flow is stored.
//! - The event thread held for 4 s: the kernel keeps what it cannot deliver; every flow is stored.
//! - The event thread held for 8 s: the guard acts, the metrics say so, and every flow is stored
//!   or counted as lost.
//! - The whole node stopped at 90 % of the kernel's table: no new connection is refused.
//!
//! One namespace holds node, aggregator and traffic; what the programs say to each other is not
//! tracked there, so the burst is all that the table holds.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::hold::{Held, hold};
use super::netns::Netns;
use super::tally::{Both, Key};
use crate::interrupt::Interrupt;
use crate::up::stack::{AGGREGATOR_HTTP, Aggregator, NODE_HTTP, Node, PORT, Place, Programs};
use crate::up::{Folder, metric, stored};
use crate::workspace;

/// The node's name.
const NODE: &str = "gw";
/// Flows of the bursts that must be stored whole.
const FLOWS: u32 = 80_000;
/// Flows of the burst that overflows the event socket, which holds some 86,000.
const TOO_MANY: u32 = 120_000;
/// A datagram as conntrack counts it: IPv4 header, UDP header, payload.
const DATAGRAM: u64 = 20 + 8 + PAYLOAD as u64;
const PAYLOAD: usize = 20;
/// One port a scenario.
const ACTORS_HELD: u16 = 9001;
const EVENTS_HELD_4: u16 = 9002;
const EVENTS_HELD_8: u16 = 9003;
const FILLING: u16 = 9004;
const CHURN: u16 = 9005;
/// Entries made by the churn carry this mark, to be deleted by it.
const MARK: &str = "7";
/// Names of the node's threads.
const ACTORS: &str = "actors";
const EVENTS: &str = "ct-events";
/// How long something may take to come about on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Everything that runs.
struct Stage<'n> {
    netns: &'n Netns,
    interrupt: &'n Interrupt,
    node: Node<'n>,
    store: stored::Place,
}

/// Runs all of it.
///
/// # Errors
/// Something did not start, was lost without being counted, or was refused.
pub(crate) fn run(profile: &str, keep: bool, interrupt: &Interrupt) -> Result<()> {
    let programs = Programs::build(profile)?;
    let folder = Folder::make(keep)?;
    let netns = gateway()?;
    let place = Place::In(&netns);
    let names = ["127.0.0.1".to_owned()];
    let mut aggregator = Aggregator::prepare(&programs, place, folder.path(), None, &names)?;
    let store = aggregator.stored();
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    let node = Node::prepare(&aggregator, place, NODE, address, "2s")?;
    aggregator.start(interrupt)?;
    let mut stage = Stage { netns: &netns, interrupt, node, store };
    stage.node.start(interrupt)?;
    stage.actors_held()?;
    stage.events_held_4_s()?;
    stage.events_held_8_s()?;
    stage.stopped_when_nearly_full()?;
    // What the last scenario filled is of no interest: nothing waits for it to be stored.
    let Stage { mut node, .. } = stage;
    node.kill()?;
    aggregator.check()?;
    aggregator.kill()
}

/// A namespace that tracks connections, but not those of node and aggregator.
fn gateway() -> Result<Netns> {
    let netns = Netns::create("burst")?;
    let ports = format!("{{ {PORT}, {NODE_HTTP}, {AGGREGATOR_HTTP} }}");
    let rules = format!(
        "table inet burst {{
            chain raw_in {{
                type filter hook prerouting priority raw;
                th dport {ports} notrack
                th sport {ports} notrack
            }}
            chain raw_out {{
                type filter hook output priority raw;
                th dport {ports} notrack
                th sport {ports} notrack
            }}
            chain out {{
                type filter hook output priority 0;
                udp dport {CHURN} ct state new ct mark set {MARK}
                ct state new accept
            }}
            chain in {{ type filter hook prerouting priority 0; ct state new accept; }}
        }}"
    );
    workspace::output(netns.command("nft").arg(rules))?;
    netns.sysctl(&[
        ("net.netfilter.nf_conntrack_acct", "1"),
        ("net.netfilter.nf_conntrack_timestamp", "1"),
        ("net.netfilter.nf_conntrack_events", "1"),
        // Nothing ends unless it is flushed.
        ("net.netfilter.nf_conntrack_udp_timeout", "3600"),
    ])?;
    Ok(netns)
}

impl Stage<'_> {
    fn actors_held(&self) -> Result<()> {
        let taken = |stage: &Self| stage.number("conntracct_probe_events_total");
        let held = self.hold(ACTORS)?;
        let begun = Instant::now();
        let before = taken(self)?;
        self.send(ACTORS_HELD, 0..FLOWS)?;
        self.flush()?;
        self.interrupt.wait(Duration::from_secs(10).saturating_sub(begun.elapsed()))?;
        held.check()?;
        ensure!(taken(self)? == before, "the actors took events while they were held");
        let (queued, entries) = (self.queued()?, self.netns.entries()?);
        ensure!(queued == 0, "the event thread left {queued} bytes in its sockets");
        ensure!(entries == 0, "the kernel still keeps {entries} entries");
        let time = begun.elapsed();
        drop(held);
        self.all_stored(ACTORS_HELD, FLOWS)?;
        eprintln!("actors held for {time:.1?}: {FLOWS} of {FLOWS} flows stored, bytes exact");
        Ok(())
    }

    fn events_held_4_s(&self) -> Result<()> {
        self.send(EVENTS_HELD_4, 0..FLOWS)?;
        let held = self.hold(EVENTS)?;
        let begun = Instant::now();
        // On a busy machine the flush may take longer than the hold, which must not be longer.
        let mut flushing =
            self.flushing().stderr(Stdio::null()).spawn().context("could not start conntrack")?;
        self.interrupt.wait(Duration::from_secs(4))?;
        held.check()?;
        let queued = self.queued()?;
        let time = begun.elapsed();
        drop(held);
        ensure!(flushing.wait()?.success(), "conntrack -F failed");
        ensure!(queued > 1 << 20, "only {queued} bytes waited in the event sockets");
        ensure!(
            time < Duration::from_secs(5),
            "the hold took {time:.1?}: the guard acts after 5 s, this machine is too slow"
        );
        self.all_stored(EVENTS_HELD_4, FLOWS)?;
        ensure!(self.number("conntracct_source_reliable_ends")? == 1, "ends are not reliable");
        ensure!(self.number("conntracct_source_guard_trips_total")? == 0, "the guard acted");
        eprintln!(
            "event thread held for {time:.1?}: {FLOWS} of {FLOWS} flows stored, bytes exact; \
             {queued} bytes had to wait"
        );
        Ok(())
    }

    fn events_held_8_s(&self) -> Result<()> {
        self.send(EVENTS_HELD_8, 0..TOO_MANY)?;
        let held = self.hold(EVENTS)?;
        let begun = Instant::now();
        self.flush()?;
        let kept = self.netns.entries()?;
        ensure!(kept > 0, "the event socket took all of {TOO_MANY} ends");
        self.interrupt.wait(Duration::from_secs(8).saturating_sub(begun.elapsed()))?;
        held.check()?;
        let time = begun.elapsed();
        drop(held);
        self.interrupt.wait_for("reliable_ends 0 in the metrics", PATIENCE, || {
            let off = self.number("conntracct_source_reliable_ends")? == 0;
            Ok((off && self.number("conntracct_source_guard_trips_total")? == 1).then_some(()))
        })?;
        self.interrupt.wait_for("/readyz to say so", PATIENCE, || {
            let ready = self.node.get("/readyz")?;
            Ok((ready.status == 503 && ready.body.contains("ends may be lost")).then_some(()))
        })?;

        let (mut ended, mut uncertain) = (0, 0);
        let accounted = self.interrupt.wait_for("an account of all flows", PATIENCE, || {
            let lost = self.lost()?;
            if !self.is_quiet()? {
                return Ok(None);
            }
            (ended, uncertain) = self.stored(EVENTS_HELD_8, TOO_MANY)?;
            Ok((ended + lost >= u64::from(TOO_MANY)).then_some(lost))
        });
        let lost = accounted.with_context(|| {
            format!("{ended} ends are stored, {uncertain} flows have none, of {TOO_MANY}")
        })?;
        ensure!(lost > 0, "nothing was lost: the guard cannot have switched reliable ends off");
        ensure!(ended + uncertain <= u64::from(TOO_MANY), "more is stored than was sent");
        eprintln!(
            "event thread held for {time:.1?}: the kernel kept {kept} ends, the guard let go; \
             {ended} of {TOO_MANY} ends stored, {lost} counted as lost ({uncertain} of them by \
             flows that a sweep had read), reliable_ends 0"
        );
        self.interrupt.wait_for("reliable ends again", PATIENCE, || {
            Ok((self.number("conntracct_source_reliable_ends")? == 1).then_some(()))
        })
    }

    fn stopped_when_nearly_full(&self) -> Result<()> {
        let max = self.netns.enter(|| {
            let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")?;
            text.trim().parse::<u32>().context("nf_conntrack_max is no number")
        })?;
        let live = max / 10 * 9;
        self.send(FILLING, 0..live)?;
        self.interrupt.wait_for("the guard to see a full table", PATIENCE, || {
            Ok((self.number("conntracct_source_reliable_ends")? == 0).then_some(()))
        })?;
        self.node.running()?.signal(Signal::STOP)?;
        // Churn of twice the room that is left. `send` fails where the kernel refuses an entry.
        let round = (max - live) / 2;
        let churned = (0..4).try_for_each(|_| {
            self.send(CHURN, 0..round).context("the gateway refused a new connection")?;
            let mut delete = self.netns.command("conntrack");
            workspace::output(delete.args(["-D", "-m", MARK])).map(drop)
        });
        let entries = self.netns.entries()?;
        self.node.running()?.signal(Signal::CONT)?;
        churned?;
        ensure!(entries <= u64::from(live), "the kernel keeps {} entries", entries);
        self.interrupt.wait_for("the node to go on", PATIENCE, || {
            Ok(self.node.get("/healthz").ok().filter(|answer| answer.status == 200).map(drop))
        })?;
        eprintln!(
            "node stopped with {live} of {max} entries in the table: {} more were born and ended, \
             none refused, none kept",
            round * 4
        );
        Ok(())
    }

    fn hold(&self, thread: &str) -> Result<Held> {
        hold(self.node.running()?.pid(), thread)
    }

    /// Ends every flow, at once.
    fn flush(&self) -> Result<()> {
        workspace::output(&mut self.flushing()).map(drop)
    }

    fn flushing(&self) -> Command {
        let mut command = self.netns.command("conntrack");
        command.arg("-F");
        command
    }

    /// Begins flows of one datagram each.
    fn send(&self, port: u16, numbers: std::ops::Range<u32>) -> Result<()> {
        self.netns.enter(move || {
            // Somebody who hears them: nobody would be told of by an answer of ICMP each.
            let _sink = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            for number in numbers {
                let to = SocketAddrV4::new(destination(number), port);
                sender.send_to(&[0; PAYLOAD], to).with_context(|| format!("flow {number}"))?;
            }
            Ok(())
        })
    }

    /// Bytes of events that wait in netfilter's netlink sockets of the namespace.
    fn queued(&self) -> Result<u64> {
        let table = self.netns.enter(|| {
            // Not /proc/net, which is that of the process's first thread.
            std::fs::read_to_string("/proc/thread-self/net/netlink").context("/proc/net/netlink")
        })?;
        let column = |line: &str, n: usize| line.split_whitespace().nth(n).map(str::to_owned);
        let netfilter = table.lines().filter(|line| column(line, 1).as_deref() == Some("12"));
        let bytes = netfilter.filter_map(|line| column(line, 4)?.parse::<u64>().ok());
        Ok(bytes.sum())
    }

    fn number(&self, name: &str) -> Result<u64> {
        let text = self.node.metrics()?;
        let value = metric(&text, name).with_context(|| format!("no metric {name}"))?;
        format!("{value}").parse().with_context(|| format!("{name} is {value}"))
    }

    /// Ends that the node says are lost.
    fn lost(&self) -> Result<u64> {
        Ok(self.number("conntracct_source_lost_ends_total")?
            + self.number("conntracct_source_dropped_ends_total")?
            + self.number("conntracct_table_ends_dropped")?)
    }

    /// Whether nothing is on its way from the kernel to the store.
    fn is_quiet(&self) -> Result<bool> {
        Ok(self.number("conntracct_source_ended_waiting_entries")? == 0
            && self.number("conntracct_table_ended_waiting")? == 0
            && self.number("conntracct_spool_waiting_frames")? == 0
            && self.netns.entries()? == 0)
    }

    /// Waits until every flow of a burst is stored with its end.
    fn all_stored(&self, port: u16, flows: u32) -> Result<()> {
        let mut stored = (0, 0);
        let done = self.interrupt.wait_for("all flows to be stored", PATIENCE, || {
            if !self.is_quiet()? {
                return Ok(None);
            }
            stored = self.stored(port, flows)?;
            Ok((stored == (u64::from(flows), 0)).then_some(()))
        });
        done.with_context(|| {
            let (ended, uncertain) = stored;
            format!("{ended} flows of {flows} are stored, and {uncertain} without their end")
        })?;
        ensure!(self.lost()? == 0, "{} ends are said to be lost", self.lost()?);
        Ok(())
    }

    /// Flows of a burst that are stored with their end, and those without; each is one that was
    /// sent, once, with exactly what the kernel counted.
    fn stored(&self, port: u16, flows: u32) -> Result<(u64, u64)> {
        let stored = stored::read(&self.store, NODE)?;
        let ours = |key: &&Key| key.dport == port;
        let sent: BTreeSet<IpAddr> = (0..flows).map(|n| destination(n).into()).collect();
        let mut seen = BTreeSet::new();
        for (key, both) in stored.raw.iter().filter(|(key, _)| key.dport == port) {
            if both.numbers() != [1, DATAGRAM, 0, 0] {
                bail!("{key} is stored with {:?}, not [1, {DATAGRAM}, 0, 0]", Both::numbers(*both));
            }
            ensure!(sent.contains(&key.dst), "{key} was never sent");
            ensure!(seen.insert(key.dst), "{key} is stored twice");
        }
        // Bursts before this one have ended whole, so what is open is of this one.
        let uncertain = stored.unseen.iter().filter(ours).count() + stored.open;
        Ok((u64::try_from(seen.len().saturating_sub(uncertain))?, u64::try_from(uncertain)?))
    }
}

/// The destination of a flow: 127.1.0.0 and up.
fn destination(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0000 + number)
}
