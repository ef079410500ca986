//! One namespace's event sockets: reading them in an order that makes sense, guarding them, and
//! counting what was lost.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use flow::entry::EntryKey;
use flow::{BootNanos, NetnsInode, Reading};

use super::attr::Messages;
use super::fill::FillFiles;
use super::guard::{Decision, Fill, Guard, Pressure};
use super::parse::{self, Kind};
use super::socket::{Group, Socket};
use crate::source::{Event, Timed};
use crate::sys::Datagrams;

/// The event sockets of one namespace.
pub(super) struct Port {
    netns: NetnsInode,
    births: Socket,
    ends: Socket,
    fill: FillFiles,
    guard: Guard,
    losses: Losses,
}

/// What one namespace's sockets have lost or could not read, since they were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Ends that could not be queued while the kernel did not keep them for us.
    pub(super) ends: u64,
    /// Births that could not be queued.
    pub(super) births: u64,
    /// `ENOBUFS`.
    pub(super) overruns: u64,
    /// Messages that could not be parsed.
    pub(super) malformed: u64,
    births_seen: u32,
    ends_seen: u32,
}

/// What a round of reading gave.
#[derive(Default)]
pub(super) struct Round {
    births: Vec<Reading>,
    ends: Vec<Reading>,
    late: Vec<Reading>,
    ending: HashMap<EntryKey, u32>,
}

impl Port {
    /// Opens the sockets in the calling thread's namespace, which is `netns`.
    pub(super) fn open(netns: NetnsInode, rcvbuf: usize) -> io::Result<Self> {
        let ends = Socket::for_events(Group::Ends, rcvbuf)?;
        let births = Socket::for_events(Group::Births, rcvbuf)?;
        // Bound to this namespace like the sockets, whoever reads them later.
        let fill = FillFiles::open();
        let (guard, losses) = (Guard::new(), Losses::default());
        Ok(Self { netns, births, ends, fill, guard, losses })
    }

    pub(super) const fn netns(&self) -> NetnsInode {
        self.netns
    }

    pub(super) const fn is_reliable(&self) -> bool {
        self.guard.is_on()
    }

    pub(super) const fn trips(&self) -> u64 {
        self.guard.trips()
    }

    pub(super) const fn losses(&self) -> Losses {
        self.losses
    }

    /// The sockets to wait for: ends, births.
    pub(super) fn sockets(&self) -> [BorrowedFd<'_>; 2] {
        [self.ends.as_fd(), self.births.as_fd()]
    }

    /// Entries in the namespace and the kernel's limit.
    pub(super) fn fill(&self) -> Option<Fill> {
        self.fill.read()
    }

    /// Looks whether the kernel may keep undelivered ends, and counts what was lost.
    pub(super) fn guard(&mut self, now: BootNanos, pressure: Pressure) {
        // Before switching off and after switching on: what fails in between is counted as lost
        // though the kernel keeps it, never the other way round.
        let was_on = self.guard.is_on();
        match self.guard.decide(now, pressure) {
            Decision::Keep => {}
            Decision::SwitchOff(trip) => {
                self.count_drops(true);
                let done = self.ends.set_reliable(false);
                tracing::warn!(
                    netns = self.netns.0,
                    reason = ?trip,
                    ?done,
                    "ends are not reliable for now"
                );
                return;
            }
            Decision::SwitchOn => {
                if let Err(error) = self.ends.set_reliable(true) {
                    self.guard.refused(now);
                    tracing::warn!(netns = self.netns.0, %error, "reliable ends were refused");
                } else {
                    tracing::info!(netns = self.netns.0, "ends are reliable");
                }
            }
        }
        self.count_drops(was_on);
    }

    /// Takes note of what the sockets dropped; of ends only what the kernel did not keep.
    fn count_drops(&mut self, reliable: bool) {
        if let Some(drops) = self.ends.drops() {
            let lost = drops.wrapping_sub(self.losses.ends_seen);
            self.losses.ends_seen = drops;
            self.losses.ends += if reliable { 0 } else { u64::from(lost) };
        }
        if let Some(drops) = self.births.drops() {
            self.losses.births += u64::from(drops.wrapping_sub(self.losses.births_seen));
            self.losses.births_seen = drops;
        }
    }

    /// Reads some ends and then all births, so that an entry's birth is never behind its end.
    /// Gives whether there may be more ends.
    pub(super) fn read(&mut self, buffers: &mut Datagrams, round: &mut Round) -> io::Result<bool> {
        let more = self.receive(Group::Ends, buffers, round, ENDS_A_ROUND)?;
        self.receive(Group::Births, buffers, round, BIRTHS_A_ROUND)?;
        Ok(more)
    }

    fn receive(
        &mut self,
        group: Group,
        buffers: &mut Datagrams,
        round: &mut Round,
        most: usize,
    ) -> io::Result<bool> {
        let mut read = 0;
        while read < most {
            let socket = match group {
                Group::Ends => &self.ends,
                Group::Births => &self.births,
            };
            match buffers.receive(socket.as_fd(), false) {
                Ok(count) => read += count.max(1),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(false),
                    Some(libc::EINTR) => continue,
                    Some(libc::ENOBUFS) => {
                        self.losses.overruns += 1;
                        read += 1;
                        continue;
                    }
                    _ => return Err(error),
                },
            }
            for datagram in buffers.iter() {
                self.losses.malformed += round.parse(datagram.unwrap_or(CUT), self.netns);
            }
        }
        Ok(true)
    }
}

impl Round {
    /// Parses a datagram of events; gives how many messages of it could not be.
    fn parse(&mut self, datagram: &[u8], netns: NetnsInode) -> u64 {
        let mut malformed = 0;
        for message in Messages::new(datagram) {
            let Ok(message) = message else {
                malformed += 1;
                break;
            };
            let list = match parse::kind(&message) {
                Kind::Entry => &mut self.births,
                Kind::Destroy => &mut self.ends,
                Kind::Done | Kind::Error | Kind::Other => continue,
            };
            match parse::reading(message.body, netns) {
                Ok(reading) => list.push(reading),
                Err(_unreadable) => malformed += 1,
            }
        }
        malformed
    }

    /// Whether nothing was read.
    pub(super) fn is_empty(&self) -> bool {
        self.births.is_empty() && self.ends.is_empty()
    }

    /// Empties the round into `out`, in order for each entry, and gives (births, ends).
    ///
    /// Births come first, except those whose tuple ended in this round under another kernel id:
    /// they are the tuple's next life. (The id is made of the entry's address and tuple; where
    /// the kernel used the very same memory again, a next life cannot be told from the first and
    /// its birth comes early. The next sweep shows it as alive.)
    pub(super) fn publish(&mut self, at: BootNanos, mut out: impl FnMut(Timed)) -> (u64, u64) {
        let counts = (self.births.len() as u64, self.ends.len() as u64);
        if !self.births.is_empty() {
            self.ending.extend(self.ends.iter().map(|end| (end.key(), end.kernel_id)));
        }
        for birth in self.births.drain(..) {
            match self.ending.get(&birth.key()) {
                Some(id) if *id != birth.kernel_id => self.late.push(birth),
                _ => out(Timed { at, event: Event::New(birth) }),
            }
        }
        let ends = self.ends.drain(..).map(Event::End);
        let late = self.late.drain(..).map(Event::New);
        ends.chain(late).for_each(|event| out(Timed { at, event }));
        self.ending.clear();
        counts
    }
}

/// Stands for a datagram that was cut: one message that cannot be parsed.
const CUT: &[u8] = &[0];

/// Ends read before the births and the other namespaces have their turn.
const ENDS_A_ROUND: usize = 1024;

/// More births than a receive buffer holds: so all that were queued when the last end was read
/// are read. A message takes at least 768 bytes of its socket's buffer.
const BIRTHS_A_ROUND: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use flow::{Proto, Status, TcpState, Tuple};

    use super::*;

    fn reading(port: u16, kernel_id: u32) -> Reading {
        let addr = |port| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let orig = Tuple::ports(Proto::UDP, addr(port), addr(53));
        Reading {
            netns: NetnsInode(1),
            zone: flow::entry::Zone(0),
            orig,
            reply: orig.inverse(),
            start: 0,
            stop: 0,
            kernel_id,
            mark: 0,
            status: Status(0),
            tcp: TcpState(0),
            fresh: false,
            counters: None,
        }
    }

    #[test]
    fn a_birth_is_not_behind_its_end_nor_before_that_of_an_earlier_life() {
        let (short, old, next) = (reading(1, 11), reading(2, 22), reading(2, 23));
        let mut round =
            Round { births: vec![short, next], ends: vec![old, short], ..Round::default() };
        let mut events = Vec::new();
        assert_eq!(round.publish(BootNanos(5), |timed| events.push(timed.event)), (2, 2));
        assert_eq!(
            events,
            [Event::New(short), Event::End(old), Event::End(short), Event::New(next)]
        );
        assert!(round.is_empty());
        assert_eq!(round.publish(BootNanos(5), |_| unreachable!()), (0, 0));
    }

    #[test]
    fn what_cannot_be_parsed_is_counted() {
        let mut round = Round::default();
        assert_eq!(round.parse(CUT, NetnsInode(1)), 1);
        assert!(round.is_empty());
    }
}
