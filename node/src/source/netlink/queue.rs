//! The bounded table of events between the event thread and whoever takes them.
//!
//! Births and ends share one order, each kind has its own bound. A birth beyond its bound is
//! dropped and counted. An end beyond its bound is dropped and counted with its counters, which
//! were read: the loss is exact.

use flow::Counters;

use crate::source::{Event, Timed};

/// Events in order, in runs of [`RUN`] so that growing never copies.
#[derive(Debug, Default)]
pub(super) struct Queue {
    runs: Vec<Vec<Timed>>,
    births: usize,
    ends: usize,
    dropped: Dropped,
}

/// What did not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// Births.
    pub(super) births: u64,
    /// Ends.
    pub(super) ends: u64,
    /// The last counters of the ends.
    pub(super) counters: Counters,
}

/// The bounds of a [`Queue`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) births: usize,
    pub(super) ends: usize,
}

impl Queue {
    /// Appends an event, or drops and counts it.
    pub(super) fn push(&mut self, timed: Timed, bounds: Bounds) {
        match timed.event {
            Event::New(_) if self.births >= bounds.births => {
                self.dropped.births += 1;
                return;
            }
            Event::New(_) => self.births += 1,
            Event::End(reading) if self.ends >= bounds.ends => {
                self.dropped.ends += 1;
                let counters = reading.counters.unwrap_or_default();
                self.dropped.counters = self.dropped.counters.plus(counters);
                return;
            }
            Event::End(_) => self.ends += 1,
        }
        match self.runs.last_mut() {
            Some(run) if run.len() < RUN => run.push(timed),
            _ => {
                let mut run = Vec::with_capacity(RUN);
                run.push(timed);
                self.runs.push(run);
            }
        }
    }

    /// Takes everything; what was dropped stays counted.
    pub(super) fn take(&mut self) -> Vec<Vec<Timed>> {
        self.births = 0;
        self.ends = 0;
        std::mem::take(&mut self.runs)
    }

    /// Ends waiting.
    pub(super) const fn ends(&self) -> usize {
        self.ends
    }

    /// What was dropped so far.
    pub(super) const fn dropped(&self) -> Dropped {
        self.dropped
    }
}

/// Events of one run.
const RUN: usize = 512;

#[cfg(test)]
mod tests {
    use flow::{BootNanos, NetnsInode, Proto, Reading, Status, TcpState, Tuple};

    use super::*;

    fn reading(port: u16) -> Reading {
        let addr = |port| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let orig = Tuple::ports(Proto::UDP, addr(port), addr(53));
        Reading {
            netns: NetnsInode(1),
            zone: flow::entry::Zone(0),
            orig,
            reply: orig.inverse(),
            start: 0,
            stop: 0,
            kernel_id: 1,
            mark: 0,
            status: Status(0),
            tcp: TcpState(0),
            fresh: false,
            counters: Some(Counters::new(1, 10, 2, 20)),
        }
    }

    fn push(queue: &mut Queue, event: Event, bounds: Bounds) {
        queue.push(Timed { at: BootNanos(1), event }, bounds);
    }

    #[test]
    fn each_kind_has_its_own_bound_and_drops_are_exact() {
        let bounds = Bounds { births: 1, ends: 2 };
        let mut queue = Queue::default();
        for port in 1..=4 {
            push(&mut queue, Event::New(reading(port)), bounds);
            push(&mut queue, Event::End(reading(port)), bounds);
        }
        let counters = Counters::new(2, 20, 4, 40);
        assert_eq!(queue.dropped(), Dropped { births: 3, ends: 2, counters });
        assert_eq!(queue.ends(), 2);
        let taken: Vec<_> = queue.take().concat().iter().map(|timed| timed.event).collect();
        let (one, two) = (reading(1), reading(2));
        assert_eq!(taken, [Event::New(one), Event::End(one), Event::End(two)]);
        assert_eq!(queue.ends(), 0);
        push(&mut queue, Event::End(reading(9)), bounds);
        assert_eq!(queue.take().concat().len(), 1);
        assert_eq!(queue.dropped().ends, 2);
    }

    #[test]
    fn order_survives_many_runs() {
        let bounds = Bounds { births: 0, ends: 5 * RUN };
        let mut queue = Queue::default();
        for port in 0..2_000 {
            push(&mut queue, Event::End(reading(port)), bounds);
        }
        let ports = queue.take().concat().into_iter().map(|timed| match timed.event {
            Event::End(reading) | Event::New(reading) => reading.orig.sport,
        });
        assert!(ports.eq(0..2_000));
    }
}
