//! One network namespace's conntrack table, as a model: entries are born by packets or copied from
//! a twin, picked up in the middle, translated, expire, and are born again. Each keeps a log of the
//! packets it counted: the truth that everything else is measured against.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use flow::entry::Zone;
use flow::{Birth, Counters, EntryId, NetnsId, NetnsInode, Proto, Reading, Status, TcpState};
use flow::{Tuple, UnixNanos};

use super::traffic::{Kind, Packet};

/// After how much silence an entry is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    pub(crate) opening: Duration,
    pub(crate) established: Duration,
    pub(crate) time_wait: Duration,
    pub(crate) closed: Duration,
    pub(crate) unanswered: Duration,
    pub(crate) answered: Duration,
}

/// A packet as one entry counted it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) packet: u32,
    pub(crate) at: UnixNanos,
    /// What it counted for: a packet joined to the one before it counts for none.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// The direction's bytes up to and with it.
    pub(crate) up_to: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Opening,
    Established,
    Closing,
    TimeWait,
    Closed,
    /// Protocols without states.
    Unanswered,
    Answered,
}

/// An entry, living or over.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    pub(crate) reply: Tuple,
    kernel_id: u32,
    start: u64,
    stop: u64,
    pub(crate) fresh: bool,
    /// Its original direction is the flow's answers.
    pub(crate) reversed: bool,
    state: State,
    finished: [bool; 2],
    touched: UnixNanos,
    pub(crate) died: Option<UnixNanos>,
    pub(crate) counters: Counters,
    /// Packets of the original and of the reply direction.
    pub(crate) log: [Vec<Seen>; 2],
}

impl Entry {
    /// The host translates it.
    pub(crate) fn is_translated(&self) -> bool {
        flow::view::is_translated(&self.id.orig, &self.reply)
    }

    pub(crate) fn reading(&self) -> Reading {
        let assured = self.state > State::Opening && self.state != State::Unanswered;
        let seen = if assured { Status::SEEN_REPLY | Status::ASSURED } else { 0 };
        Reading {
            netns: self.id.netns.inode,
            zone: self.id.zone,
            orig: self.id.orig,
            reply: self.reply,
            start: self.start,
            stop: self.stop,
            kernel_id: self.kernel_id,
            mark: 0,
            status: Status(Status::CONFIRMED | seen),
            tcp: TcpState(if self.id.orig.proto == Proto::TCP { 3 } else { 0 }),
            fresh: self.fresh,
            counters: Some(self.counters),
        }
    }
}

/// What becomes of a packet at a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It goes on like this.
    On(Tuple),
    /// It ends here.
    Ends,
}

/// When and how a packet comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arriving<'p> {
    pub(crate) number: u32,
    pub(crate) packet: &'p Packet,
    pub(crate) tuple: Tuple,
    /// The host's wall clock; 0 where the kernel keeps no stamps.
    pub(crate) stamp: u64,
    /// It is joined to others before it is counted.
    pub(crate) joining: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Conntrack {
    netns: NetnsId,
    public: Option<Ipv4Addr>,
    idle: Idle,
    /// All that ever lived.
    pub(crate) entries: Vec<Entry>,
    /// Living ones by either tuple.
    by_tuple: HashMap<Tuple, usize>,
    live: Vec<usize>,
    next_id: u32,
}

impl Conntrack {
    pub(crate) fn new(netns: NetnsId, public: Option<Ipv4Addr>, idle: Idle) -> Self {
        Self {
            netns,
            public,
            idle,
            entries: Vec::new(),
            by_tuple: HashMap::new(),
            live: Vec::new(),
            next_id: 1,
        }
    }

    pub(crate) const fn netns(&self) -> NetnsInode {
        self.netns.inode
    }

    /// The living entries.
    pub(crate) fn live(&self) -> impl Iterator<Item = usize> {
        self.live.iter().copied()
    }

    /// A packet passes. Entries that end by it are put into `ended`, one that begins is given.
    pub(crate) fn carry(
        &mut self,
        arriving: &Arriving<'_>,
        ended: &mut Vec<usize>,
    ) -> (Way, Option<usize>) {
        let Arriving { packet, tuple, stamp, .. } = *arriving;
        let now = packet.at;
        let mut found = self.by_tuple.get(&tuple).copied();
        if let Some(at) = found {
            let entry = &self.entries[at];
            let used_again = packet.kind == Kind::Syn
                && entry.state >= State::TimeWait
                && entry.state <= State::Closed;
            if self.is_over(at, now) || used_again {
                self.end(at, now, stamp);
                ended.push(at);
                found = None;
            }
        }
        let born = if found.is_none() { self.begin(arriving) } else { None };
        let Some(at) = found.or(born) else {
            let on = self.public.is_none();
            return (if on { Way::On(tuple) } else { Way::Ends }, None);
        };
        self.count(at, arriving);
        let entry = &self.entries[at];
        let orig = tuple == entry.id.orig;
        let on = if orig { entry.reply.inverse() } else { entry.id.orig.inverse() };
        (Way::On(on), born)
    }

    fn begin(&mut self, arriving: &Arriving<'_>) -> Option<usize> {
        let Arriving { packet, tuple, stamp, .. } = *arriving;
        let reply = match self.public {
            // Nobody inside has asked for it.
            Some(public) if tuple.dst == IpAddr::V4(public) || packet.back => return None,
            Some(public) => self.translate(&tuple, public)?,
            None => tuple.inverse(),
        };
        let state = match packet.kind {
            Kind::Syn => State::Opening,
            Kind::Data | Kind::Fin => State::Established,
            Kind::SynAck | Kind::Reset => return None,
            Kind::Plain => State::Unanswered,
        };
        let fresh = packet.kind == Kind::Syn;
        Some(self.insert(tuple, reply, state, fresh, packet.back, packet.at, stamp))
    }

    /// The answers' tuple behind the public address: the same port, where it is free.
    fn translate(&self, tuple: &Tuple, public: Ipv4Addr) -> Option<Tuple> {
        let src = IpAddr::V4(public);
        (0..u16::MAX).find_map(|more| {
            let sport = tuple.sport.wrapping_add(more);
            let reply = Tuple { src, sport, ..*tuple }.inverse();
            (!self.by_tuple.contains_key(&reply)).then_some(reply)
        })
    }

    #[expect(clippy::too_many_arguments, reason = "all that makes an entry")]
    fn insert(
        &mut self,
        orig: Tuple,
        reply: Tuple,
        state: State,
        fresh: bool,
        reversed: bool,
        now: UnixNanos,
        stamp: u64,
    ) -> usize {
        let kernel_id = self.next_id;
        self.next_id += 1;
        let birth = Birth::of(stamp, kernel_id);
        let at = self.entries.len();
        self.entries.push(Entry {
            id: EntryId { netns: self.netns, zone: Zone(0), orig, birth },
            reply,
            kernel_id,
            start: stamp,
            stop: 0,
            fresh,
            reversed,
            state,
            finished: [false; 2],
            touched: now,
            died: None,
            counters: Counters::ZERO,
            log: [Vec::new(), Vec::new()],
        });
        self.by_tuple.insert(orig, at);
        self.by_tuple.insert(reply, at);
        self.live.push(at);
        at
    }

    fn count(&mut self, at: usize, arriving: &Arriving<'_>) {
        let Arriving { number, packet, tuple, joining, .. } = *arriving;
        let entry = &mut self.entries[at];
        let direction = usize::from(tuple != entry.id.orig);
        let last = entry.log[direction].last().copied();
        let near = last.is_some_and(|last| packet.at.diff(last.at) < 300_000_000);
        let joined = joining && near && packet.kind == Kind::Data;
        let (packets, bytes) = match joined {
            true => (0, u64::from(packet.bytes) - 40),
            false => (1, u64::from(packet.bytes)),
        };
        let up_to = last.map_or(0, |last| last.up_to) + bytes;
        entry.log[direction].push(Seen { packet: number, at: packet.at, packets, bytes, up_to });
        let mut components = entry.counters.components();
        components[2 * direction] += packets;
        components[2 * direction + 1] += bytes;
        entry.counters = Counters::from_components(components);
        entry.touched = packet.at;
        entry.state = match (packet.kind, entry.state) {
            (Kind::Reset, _) => State::Closed,
            (Kind::Fin, state) => {
                entry.finished[direction] = true;
                let both = entry.finished == [true; 2];
                if both { state.max(State::TimeWait) } else { state.max(State::Closing) }
            }
            (Kind::SynAck, State::Opening) if direction == 1 => State::Established,
            (Kind::Plain, State::Unanswered) if direction == 1 => State::Answered,
            (_, state) => state,
        };
    }

    /// Another host's entry is copied here, with no packets counted, or kept alive. Whether it
    /// was new.
    pub(crate) fn copy(&mut self, other: &Entry, now: UnixNanos, stamp: u64) -> bool {
        match self.by_tuple.get(&other.id.orig).copied() {
            Some(at) if !self.is_over(at, now) => {
                let entry = &mut self.entries[at];
                (entry.touched, entry.state) = (now, other.state);
                false
            }
            Some(_) => false,
            None => {
                let (orig, reply) = (other.id.orig, other.reply);
                self.insert(orig, reply, other.state, other.fresh, other.reversed, now, stamp);
                true
            }
        }
    }

    fn is_over(&self, at: usize, now: UnixNanos) -> bool {
        let entry = &self.entries[at];
        let idle = match entry.state {
            State::Opening => self.idle.opening,
            State::Established => self.idle.established,
            State::Closing | State::TimeWait => self.idle.time_wait,
            State::Closed => self.idle.closed,
            State::Unanswered => self.idle.unanswered,
            State::Answered => self.idle.answered,
        };
        entry.touched.plus(idle) <= now
    }

    fn end(&mut self, at: usize, now: UnixNanos, stamp: u64) {
        let entry = &mut self.entries[at];
        entry.died = Some(now);
        entry.stop = if entry.start == 0 { 0 } else { stamp };
        for tuple in [entry.id.orig, entry.reply] {
            if self.by_tuple.get(&tuple) == Some(&at) {
                self.by_tuple.remove(&tuple);
            }
        }
        self.live.retain(|other| *other != at);
    }

    /// Ends what has been silent for too long.
    pub(crate) fn expire(&mut self, now: UnixNanos, stamp: u64) -> Vec<usize> {
        let over: Vec<usize> = self.live().filter(|at| self.is_over(*at, now)).collect();
        over.iter().for_each(|at| self.end(*at, now, stamp));
        over
    }

    /// The host reboots: all is gone, nobody is told.
    pub(crate) fn reboot(&mut self, netns: NetnsId, now: UnixNanos) {
        for at in std::mem::take(&mut self.live) {
            self.entries[at].died = Some(now);
        }
        self.by_tuple.clear();
        self.netns = netns;
    }
}
