//! What flows carry: packets with their moments, one generation of a tuple after the other.

use std::net::SocketAddr;
use std::time::Duration;

use flow::{Proto, Tuple, UnixNanos};
use rand::Rng;
use rand::rngs::SmallRng;

/// What a packet means to conntrack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Syn,
    SynAck,
    Data,
    Fin,
    Reset,
    /// Of a protocol without states.
    Plain,
}

/// A packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) at: UnixNanos,
    pub(crate) flow: usize,
    /// Which use of the tuple it belongs to.
    pub(crate) generation: u32,
    /// From server to client.
    pub(crate) back: bool,
    pub(crate) kind: Kind,
    pub(crate) bytes: u32,
}

/// From when on packets take which way: the observers from the client's side to the server's.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) from: UnixNanos,
    pub(crate) there: Vec<usize>,
    pub(crate) back: Vec<usize>,
}

/// A flow between two hosts.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) tuple: Tuple,
    pub(crate) phases: Vec<Phase>,
    /// How the server sees it: the last packet that got there.
    pub(crate) outer: Option<Tuple>,
}

impl Flow {
    pub(crate) fn new(client: SocketAddr, server: SocketAddr, proto: Proto) -> Self {
        let tuple = match proto {
            Proto::ICMP => Tuple::icmp(proto, client.ip(), server.ip(), client.port(), 8, 0),
            _ => Tuple::ports(proto, client, server),
        };
        Self { tuple, phases: Vec::new(), outer: None }
    }

    /// The way a packet takes at `now`.
    pub(crate) fn phase(&self, now: UnixNanos) -> Option<&Phase> {
        self.phases.iter().rev().find(|phase| phase.from <= now)
    }
}

/// How a flow's tuple is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habit {
    pub(crate) begin: UnixNanos,
    pub(crate) end: UnixNanos,
    /// How often the tuple is used, one generation after the other.
    pub(crate) generations: u32,
    /// Seconds between two generations.
    pub(crate) pause: (f64, f64),
    /// Sends nothing for long, at times.
    pub(crate) silent: bool,
}

/// All packets of a flow, in order, and when each generation begins.
pub(crate) fn packets(
    flow: usize,
    proto: Proto,
    habit: &Habit,
    rng: &mut SmallRng,
) -> (Vec<Packet>, Vec<UnixNanos>) {
    let (mut packets, mut begins) = (Vec::new(), Vec::new());
    let length = habit.end.diff(habit.begin) / i64::from(habit.generations.max(1));
    let mut now = habit.begin;
    for generation in 0..habit.generations {
        let share = rng.random_range(0.3..1.0);
        let end = now.plus(Duration::from_secs_f64(length as f64 * share / 1e9));
        let mut train = Train { flow, generation, proto, now, rng, packets: &mut packets };
        begins.push(now);
        train.run(end.min(habit.end), habit.silent);
        now = train.now.plus(seconds(rng.random_range(habit.pause.0..=habit.pause.1)));
        if now >= habit.end {
            break;
        }
    }
    (packets, begins)
}

struct Train<'p> {
    flow: usize,
    generation: u32,
    proto: Proto,
    now: UnixNanos,
    rng: &'p mut SmallRng,
    packets: &'p mut Vec<Packet>,
}

impl Train<'_> {
    fn run(&mut self, end: UnixNanos, silent: bool) {
        let tcp = self.proto == Proto::TCP;
        let usual = if tcp { Kind::Data } else { Kind::Plain };
        if tcp {
            self.send(Kind::Syn, false);
            self.send(Kind::SynAck, true);
        }
        let answers = self.rng.random_range(0.1..0.9);
        let mean = [0.1, 0.5, 2.0][self.rng.random_range(0..3)];
        while self.now < end && self.packets.len() < PACKETS {
            let back = self.rng.random_bool(answers);
            self.send(usual, back);
            let draw: f64 = self.rng.random_range(0.001..1.0);
            self.wait(-draw.ln() * mean);
            if silent && self.rng.random_bool(0.02) {
                let wait = self.rng.random_range(5.0..100.0);
                self.wait(wait);
            }
        }
        self.now = self.now.min(end.max(self.packets.last().map_or(end, |last| last.at)));
        if tcp {
            match self.rng.random_range(0..10u8) {
                0..=6 => {
                    let back = self.rng.random_bool(0.5);
                    self.send(Kind::Fin, back);
                    self.send(Kind::Fin, !back);
                    self.send(Kind::Data, back);
                }
                7..=8 => {
                    let back = self.rng.random_bool(0.5);
                    self.send(Kind::Reset, back);
                }
                _ => {}
            }
        }
    }

    fn wait(&mut self, by: f64) {
        self.now = self.now.plus(seconds(by));
    }

    fn send(&mut self, kind: Kind, back: bool) {
        let bytes = match kind {
            Kind::Data | Kind::Plain => self.rng.random_range(60..1500),
            _ => 60,
        };
        let Self { now, flow, generation, .. } = *self;
        self.packets.push(Packet { at: now, flow, generation, back, kind, bytes });
        let pause = self.rng.random_range(0.001..0.05);
        self.wait(pause);
    }
}

/// Packets of one flow, at most.
const PACKETS: usize = 500;

pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}
