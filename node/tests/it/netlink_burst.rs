//! Bursts of ends against readers that are held up: what is delivered, what is lost, and that
//! every loss is counted. And what a stopped process does to the gateway.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use conntracct_node::netns::NetnsChoice;
use conntracct_node::source::netlink::{NetlinkConfig, NetlinkSource};
use conntracct_node::source::{Event, Source};
use flow::Counters;
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, PAYLOAD, destination, wait};
use crate::netlink::open;

/// Short flows of a burst.
const FLOWS: u32 = 80_000;

/// About 2,700 ends: far fewer than a burst.
const SMALL: NetlinkConfig = NetlinkConfig {
    netns: NetnsChoice::Own,
    rcvbuf: 1 << 20,
    ended_limit: 100_000,
    births_limit: 100_000,
};

const DATAGRAM: u64 = 20 + 8 + PAYLOAD as u64;

/// Begins and ends [`FLOWS`] flows of one datagram each.
fn burst(lab: &Lab) {
    lab.udp().send_all(0..FLOWS);
    lab.flush();
}

/// The same, with the event thread held for `time` from just before the ends on: a machine that
/// takes long to send does not use the hold up.
fn burst_while_held(lab: &Lab, source: &NetlinkSource, time: Duration) {
    lab.udp().send_all(0..FLOWS);
    let hold = source.event_hold();
    hold.hold(time);
    wait("the hold", Duration::from_secs(10), || hold.has_begun());
    lab.flush();
}

/// Takes all events: each end once, with its counters. Gives how many.
fn take_ends(source: &mut NetlinkSource) -> usize {
    let mut events = Vec::new();
    source.events(&mut events).unwrap();
    let ends: Vec<_> = events
        .iter()
        .filter_map(|timed| match timed.event {
            Event::End(reading) => Some(reading),
            Event::New(_) => None,
        })
        .collect();
    assert!(ends.iter().all(|end| end.counters == Some(Counters::new(1, DATAGRAM, 0, 0))));
    let known: HashSet<_> = (0..FLOWS).map(|n| std::net::IpAddr::V4(destination(n))).collect();
    let seen: HashSet<_> = ends.iter().map(|end| end.orig.dst).collect();
    assert_eq!(seen.len(), ends.len(), "no end twice");
    assert!(seen.is_subset(&known));
    ends.len()
}

#[test]
fn a_burst_waits_for_a_taker_that_is_held_up() {
    let Some(lab) = Lab::new("taker held up") else { return };
    let mut source = open(&lab, NetlinkConfig::default());
    burst(&lab);
    // Nobody takes events; the event thread reads on.
    wait("all ends", Duration::from_secs(40), || source.health().deaths == u64::from(FLOWS));
    let health = source.health();
    assert_eq!(health.ended_waiting, u64::from(FLOWS));
    assert_eq!((health.dropped_ends, health.lost_ends, health.guard_trips), (0, 0, 0));
    assert_eq!(take_ends(&mut source), FLOWS as usize);
}

#[test]
fn ends_beyond_the_bound_are_dropped_with_their_counters() {
    let Some(lab) = Lab::new("bounded table") else { return };
    let limit = 10_000;
    let mut source = open(&lab, NetlinkConfig { ended_limit: limit, ..NetlinkConfig::default() });
    wait("reliable ends", Duration::from_secs(10), || source.health().reliable_ends);
    burst(&lab);
    wait("all ends", Duration::from_secs(40), || {
        let health = source.health();
        health.deaths + health.lost_ends >= u64::from(FLOWS)
    });
    let health = source.health();
    assert_eq!(health.guard_trips, 1, "a full table switches reliable ends off");
    assert!(!health.reliable_ends);
    assert_eq!(health.dropped_ends, health.deaths - limit as u64);
    let n = health.dropped_ends;
    assert_eq!(health.dropped, Counters::new(n, n * DATAGRAM, 0, 0));
    assert_eq!(take_ends(&mut source), limit);
}

#[test]
fn an_event_thread_held_for_4_s_loses_nothing() {
    let Some(lab) = Lab::new("held 4 s") else { return };
    let mut source = open(&lab, SMALL);
    wait("reliable ends", Duration::from_secs(10), || source.health().reliable_ends);
    burst_while_held(&lab, &source, Duration::from_secs(4));
    wait("all ends", Duration::from_secs(50), || source.health().deaths >= u64::from(FLOWS));
    let health = source.health();
    assert!(health.overruns > 0, "the buffer was too small for the burst");
    assert_eq!((health.lost_ends, health.dropped_ends, health.guard_trips), (0, 0, 0));
    assert!(health.reliable_ends);
    assert_eq!(take_ends(&mut source), FLOWS as usize);
    assert_eq!(source.held_ends().unwrap(), 0);
}

#[test]
fn an_event_thread_held_for_8_s_counts_every_loss() {
    let Some(lab) = Lab::new("held 8 s") else { return };
    let mut source = open(&lab, SMALL);
    wait("reliable ends", Duration::from_secs(10), || source.health().reliable_ends);
    burst_while_held(&lab, &source, Duration::from_secs(8));
    // And once more after the guard has let go, when what does not fit the buffer is lost: else it
    // would be a race of the kernel's worker with this thread whether there is any loss.
    source.event_hold().hold(Duration::from_secs(3));
    assert!(lab.get("count") > 1_000, "the kernel keeps what it could not deliver");
    wait("the guard", Duration::from_secs(20), || source.health().guard_trips == 1);
    assert!(!source.health().reliable_ends);
    wait("an account of all ends", Duration::from_secs(30), || {
        let health = source.health();
        health.deaths + health.lost_ends >= u64::from(FLOWS)
    });
    wait("the gateway to have its table back", Duration::from_secs(20), || lab.get("count") == 0);
    let health = source.health();
    // An end that the kernel failed to deliver again in the moment of switching off may be
    // counted as lost and delivered all the same: never less than the truth.
    assert!(health.lost_ends > 0 && health.dropped_ends == 0);
    assert_eq!(take_ends(&mut source) as u64, health.deaths);
    wait("reliable ends again", Duration::from_secs(20), || source.health().reliable_ends);
}

#[test]
fn what_a_stopped_process_keeps_is_free_when_it_is_killed() {
    let Some(lab) = Lab::new("stopped") else { return };
    let mut reader = Reader::start(&lab, true);
    reader.signal(Signal::STOP);
    // Less than the fifth of the table that the guard leaves free: nobody is refused.
    lab.udp().send_all(0..40_000);
    lab.flush();
    assert!(lab.get("count") > 30_000, "the kernel keeps what it cannot deliver");
    lab.udp().send_all(0..1_000);
    reader.signal(Signal::KILL);
    wait("the table", Duration::from_secs(20), || lab.get("count") == 1_000);
}

#[test]
fn a_stopped_process_at_90_percent_keeps_nothing() {
    let Some(lab) = Lab::new("stopped at 90 %") else { return };
    lab.set("udp_timeout", "3600");
    let max = lab.get("max");
    let live = u32::try_from(max * 9 / 10).unwrap();
    let udp = lab.udp();
    udp.send_all(0..live);
    assert!(lab.get("count") >= u64::from(live));
    let mut reader = Reader::start(&lab, false);
    reader.signal(Signal::STOP);
    // Churn of three times the room that is left: `send` fails where the kernel refuses an entry.
    lab.nft("insert rule inet t out ct state new ct mark set 7");
    let room = u32::try_from(max).unwrap() - live;
    for _ in 0..6 {
        udp.send_all(live..live + room / 2);
        lab.flush_mark(7);
    }
    assert!(lab.get("count") < u64::from(live) + u64::from(room / 2));
    reader.signal(Signal::KILL);
}

/// A process with a netlink source, to be stopped and killed.
struct Reader(Child);

impl Reader {
    /// Starts one and waits until it says that ends are reliable, or are not.
    fn start(lab: &Lab, reliable: bool) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "netlink_burst::reader_process", "--ignored", "--nocapture"])
            .env("CTT_READER_NETNS", lab.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reader = Self(child);
        let mut lines = BufReader::new(reader.0.stdout.take().unwrap()).lines();
        let said = lines.find_map(|line| line.ok()?.strip_prefix("reliable ").map(str::to_owned));
        assert_eq!(said, Some(reliable.to_string()));
        reader
    }

    fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[ignore = "a process that other tests start, stop and kill"]
fn reader_process() {
    let netns = std::env::var("CTT_READER_NETNS").expect("started by another test");
    let netns = NetnsChoice::Listed(vec![netns]);
    let source = NetlinkSource::open(NetlinkConfig { netns, ..SMALL }).unwrap();
    // The guard looks 20 times a second: this is its word after it has looked several times.
    let mut rounds = 0;
    wait("the guard to settle", Duration::from_secs(10), || {
        rounds += 1;
        rounds > 50
    });
    println!("\nreliable {}", source.health().reliable_ends);
    let ended = std::io::stdin().read(&mut [0; 1]);
    assert_eq!(ended.unwrap(), 0, "the parent says nothing, it only goes away");
}
