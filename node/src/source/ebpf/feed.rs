//! Records of the ring buffers, taken out as they come.
//!
//! One thread takes them into a bounded queue, so that a disk or an aggregator that is slow for a
//! while does not fill the ring. The kernel wakes it when an eighth of the ring is full; else it
//! looks by itself a few times a second. Whoever wants the records takes what is left in the ring
//! himself: everything that had happened before is then in his hands.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use aya::maps::PerCpuValues;
use ebpf_abi::Kind;
use flow::{BootNanos, Counters, NetnsInode, Reading};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use super::entry;
use super::layout::Layout;
use super::programs::Rings;
use crate::clock;
use crate::sys;

/// What the kernel told of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// What happened.
    pub(super) kind: Kind,
    /// When user space read it.
    pub(super) at: BootNanos,
    /// The entry's address.
    pub(super) ct: u64,
    /// The entry.
    pub(super) reading: Reading,
}

/// How many records may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct FeedBounds {
    /// Births (and adoptions); further ones are dropped and counted.
    pub(super) births: usize,
    /// Ends; further ones are dropped and counted with their counters.
    pub(super) ends: usize,
}

/// What was told and what was lost, since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FeedCounts {
    pub(super) births: u64,
    pub(super) ends: u64,
    /// Did not fit into the ring.
    pub(super) lost_births: u64,
    /// The same.
    pub(super) lost_ends: u64,
    /// The same.
    pub(super) lost_adoptions: u64,
    /// Did not fit into the queue.
    pub(super) dropped_births: u64,
    /// The same.
    pub(super) dropped_ends: u64,
    /// Of the dropped ends.
    pub(super) dropped: Counters,
    /// Records that are no entries.
    pub(super) malformed: u64,
    /// Ends in the queue.
    pub(super) waiting_ends: u64,
}

/// The running thread. Dropping it stops it.
pub(super) struct Feed {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    inner: Mutex<Inner>,
    waiter: OwnedFd,
    wake: OwnedFd,
    stop: AtomicBool,
}

struct Inner {
    rings: Rings,
    queue: Queue,
}

/// The bounded queue: pure.
struct Queue {
    layout: Layout,
    bounds: FeedBounds,
    waiting: VecDeque<Told>,
    waiting_births: usize,
    waiting_ends: usize,
    counts: FeedCounts,
}

impl Feed {
    /// Starts the thread.
    pub(super) fn start(rings: Rings, layout: Layout, bounds: FeedBounds) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let waiter = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let nothing = epoll::EventData::new_u64(0);
        epoll::add(&waiter, &wake, nothing, epoll::EventFlags::IN)?;
        // By edges: the ring is readable while anything is in it, the edge is the wake-up.
        epoll::add(&waiter, &rings.events, nothing, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        let shared = Arc::new(Shared {
            waiter,
            wake,
            stop: AtomicBool::new(false),
            inner: Mutex::new(Inner { rings, queue: Queue::new(layout, bounds) }),
        });
        let reader = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ct-ring".to_owned());
        let thread = Some(thread.spawn(move || reader.run())?);
        Ok(Self { shared, thread })
    }

    /// Everything that happened before the call and has not been taken, in order.
    pub(super) fn take(&self) -> VecDeque<Told> {
        let mut inner = self.shared.lock();
        inner.drain();
        inner.queue.take()
    }

    /// What was told and lost so far.
    pub(super) fn counts(&self) -> FeedCounts {
        let inner = self.shared.lock();
        let lost = |kind: Kind| {
            let values = inner.rings.losses.get(&(kind as u32), 0);
            values.map_or(0, |values| values.iter().sum())
        };
        FeedCounts {
            lost_births: lost(Kind::New),
            lost_ends: lost(Kind::End),
            lost_adoptions: lost(Kind::Adopt),
            waiting_ends: inner.queue.waiting_ends as u64,
            ..inner.queue.counts
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _full_only_after_2_64_wakes = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the ring buffer panicked");
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut told = 0;
        while !self.stop.load(Ordering::Acquire) {
            let mut events = Vec::with_capacity(2);
            let buffer = rustix::buffer::spare_capacity(&mut events);
            let _interrupted = epoll::wait(&self.waiter, buffer, Some(&LOOK_EVERY));
            let mut inner = self.lock();
            inner.drain();
            inner.tell_losses(&mut told);
        }
    }

    /// A poisoned lock guards plain data that is whole after every statement.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn drain(&mut self) {
        let Self { rings, queue } = self;
        // First, so that everything before one of these is in the other buffer by now.
        let mut adopted = VecDeque::new();
        while let Some(record) = rings.adopted.next() {
            adopted.extend(queue.parse(&record));
        }
        while let Some(record) = rings.events.next() {
            let Some((time, told)) = queue.parse(&record) else { continue };
            while let Some((_, earlier)) = adopted.pop_front_if(|(listed, _)| *listed < time) {
                queue.push(earlier);
            }
            queue.push(told);
        }
        adopted.into_iter().for_each(|(_, told)| queue.push(told));
    }

    /// Notes how many lost ends this life knows of, for the next one: what is lost beyond was lost
    /// while nobody looked.
    fn tell_losses(&mut self, told: &mut u64) {
        let losses = &mut self.rings.losses;
        let Ok(values) = losses.get(&(Kind::End as u32), 0) else { return };
        let lost = values.iter().sum();
        if lost == *told {
            return;
        }
        let mut note = vec![0; values.len()];
        note[0] = lost;
        let noted = PerCpuValues::try_from(note).map(|note| losses.set(LOSSES_TOLD, note, 0));
        if matches!(noted, Ok(Ok(()))) {
            *told = lost;
        }
    }
}

/// What a record tells that has waited for somebody to read it, as of when its hook ran.
pub(super) fn waited(layout: &Layout, record: &[u8]) -> Option<Told> {
    let (time, told) = parse(layout, record)?;
    Some(Told { at: clock::of_monotonic(time), ..told })
}

/// What a record tells, and when its hook ran.
fn parse(layout: &Layout, record: &[u8]) -> Option<(u64, Told)> {
    let event = sys::ring_record(record)?;
    let kind = Kind::of(event.kind)?;
    let reading = entry::reading(layout, &event.entry, NetnsInode(event.netns)).ok()?;
    Some((event.time, Told { kind, at: clock::now(), ct: event.entry.ct, reading }))
}

impl Queue {
    fn new(layout: Layout, bounds: FeedBounds) -> Self {
        let (waiting, counts) = (VecDeque::new(), FeedCounts::default());
        Self { layout, bounds, waiting, waiting_births: 0, waiting_ends: 0, counts }
    }

    /// What a record tells, and when its hook ran; what is no record is counted.
    fn parse(&mut self, record: &[u8]) -> Option<(u64, Told)> {
        let told = parse(&self.layout, record);
        self.counts.malformed += u64::from(told.is_none());
        told
    }

    /// Takes in what was told, or drops and counts it.
    fn push(&mut self, told: Told) {
        let counts = &mut self.counts;
        if told.kind == Kind::End {
            counts.ends += 1;
            if self.waiting_ends >= self.bounds.ends {
                counts.dropped_ends += 1;
                let counters = told.reading.counters.unwrap_or_default();
                counts.dropped = counts.dropped.plus(counters);
                return;
            }
            self.waiting_ends += 1;
        } else {
            counts.births += u64::from(told.kind == Kind::New);
            if self.waiting_births >= self.bounds.births {
                counts.dropped_births += 1;
                return;
            }
            self.waiting_births += 1;
        }
        self.waiting.push_back(told);
    }

    fn take(&mut self) -> VecDeque<Told> {
        (self.waiting_births, self.waiting_ends) = (0, 0);
        std::mem::take(&mut self.waiting)
    }
}

/// The ring is looked at as often even where the kernel does not wake us. It holds 48,000 records:
/// half a million events a second would fill it within this time.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The index of `LOSSES` that no kind of record has.
pub(super) const LOSSES_TOLD: u32 = 0;

#[cfg(test)]
mod tests {
    use super::super::entry::tests::tcp;
    use super::super::layout::tests::linux_6_12;
    use super::*;

    fn told(kind: Kind, port: u16) -> Told {
        let reading = entry::reading(&linux_6_12(), &tcp(port, 1, [1, 40, 2, 80]), NetnsInode(1));
        Told { kind, at: BootNanos(1), ct: u64::from(port), reading: reading.unwrap() }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_by_kind() {
        let mut queue = Queue::new(linux_6_12(), FeedBounds { births: 1, ends: 2 });
        for port in 1..=3 {
            queue.push(told(Kind::New, port));
            queue.push(told(Kind::End, port));
        }
        let counts = queue.counts;
        assert_eq!((counts.births, counts.ends), (3, 3));
        assert_eq!((counts.dropped_births, counts.dropped_ends), (2, 1));
        assert_eq!(counts.dropped, Counters::new(1, 40, 2, 80));
        let taken: Vec<_> = queue.take().iter().map(|told| (told.kind, told.ct)).collect();
        assert_eq!(taken, [(Kind::New, 1), (Kind::End, 1), (Kind::End, 2)]);
        queue.push(told(Kind::End, 9));
        assert_eq!(queue.take().len(), 1, "there is room again");
        assert_eq!(queue.counts.dropped_ends, 1);
    }

    #[test]
    fn a_record_that_is_none_is_counted() {
        let mut queue = Queue::new(linux_6_12(), FeedBounds { births: 1, ends: 1 });
        assert_eq!(queue.parse(&[0; 8]), None);
        assert_eq!(queue.parse(&[0; size_of::<ebpf_abi::Event>()]), None);
        assert_eq!((queue.counts.malformed, queue.take().len()), (2, 0));
    }
}
