//! The event thread: one for all namespaces. It reads the event sockets into the bounded
//! [`Queue`], keeps the guards, and waits for nothing else: the lock it shares with the taker of
//! events is held for a swap only.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use flow::{BootNanos, NetnsInode};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::guard::Pressure;
use super::port::{Losses, Port, Round};
use super::queue::{Bounds, Queue};
use crate::clock;
use crate::source::{SourceHealth, Timed};
use crate::sys::Datagrams;

/// The running thread. Dropping it stops the thread and closes its sockets.
pub(super) struct EventThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Holds up the event thread, for tests of what then happens. Not for anything else.
#[doc(hidden)]
#[derive(Clone)]
pub struct EventHold(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Namespaces to begin and to stop listening to; bounded by the number of namespaces.
    orders: Mutex<Vec<Order>>,
    health: Mutex<Told>,
    wake: OwnedFd,
    stop: AtomicBool,
    hold_ms: AtomicU64,
}

enum Order {
    Listen(Box<Port>),
    Leave(NetnsInode),
}

/// What the thread tells of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    reliable: bool,
    births: u64,
    deaths: u64,
    trips: u64,
    losses: Losses,
    /// Kernel's fullest table, in thousandths.
    fill_permille: u64,
    broken: Option<i32>,
}

struct Reader {
    shared: Arc<Shared>,
    ports: Vec<Port>,
    bounds: Bounds,
    buffers: Datagrams,
    round: Round,
    told: Told,
    /// When the guards last looked.
    guarded: BootNanos,
    /// Of ports that are gone.
    past: Told,
}

impl EventThread {
    /// Starts the thread with no namespaces.
    pub(super) fn start(bounds: Bounds) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            orders: Mutex::default(),
            health: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
            hold_ms: AtomicU64::new(0),
        });
        let reader = Reader {
            shared: Arc::clone(&shared),
            ports: Vec::new(),
            bounds,
            buffers: Datagrams::new(DATAGRAMS, DATAGRAM),
            round: Round::default(),
            told: Told::default(),
            guarded: BootNanos::BOOT,
            past: Told::default(),
        };
        let thread = std::thread::Builder::new().name("ct-events".to_owned());
        let thread = Some(thread.spawn(move || reader.run())?);
        Ok(Self { shared, thread })
    }

    /// Listens to a namespace, from now on. Its sockets have been queueing since they were
    /// opened.
    pub(super) fn listen(&self, port: Port) {
        self.order(Order::Listen(Box::new(port)));
    }

    /// Reads what is left of a namespace and closes its sockets.
    pub(super) fn leave(&self, netns: NetnsInode) {
        self.order(Order::Leave(netns));
    }

    fn order(&self, order: Order) {
        lock(&self.shared.orders).push(order);
        self.shared.wake();
    }

    /// Appends all events read so far; never waits for any.
    pub(super) fn take(&self, out: &mut Vec<Timed>) {
        let runs = lock(&self.shared.queue).take();
        out.reserve(runs.iter().map(Vec::len).sum());
        runs.into_iter().for_each(|mut run| out.append(&mut run));
    }

    /// An error that ended a namespace's sockets for good, by number.
    pub(super) fn broken(&self) -> Option<io::Error> {
        lock(&self.shared.health).broken.map(io::Error::from_raw_os_error)
    }

    /// The thread's state of health.
    pub(super) fn health(&self) -> SourceHealth {
        let told = *lock(&self.shared.health);
        let (dropped, ended_waiting) = {
            let queue = lock(&self.shared.queue);
            (queue.dropped(), queue.ends())
        };
        SourceHealth {
            reliable_ends: told.reliable,
            dropped_ends: dropped.ends,
            dropped: dropped.counters,
            lost_ends: told.losses.ends,
            lost_births: told.losses.births + dropped.births,
            // A sweep shows each of them; nothing is listed to find them.
            missed_births: 0,
            overruns: told.losses.overruns,
            guard_trips: told.trips,
            births: told.births,
            deaths: told.deaths,
            malformed: told.losses.malformed,
            ended_waiting: u64::try_from(ended_waiting).unwrap_or(u64::MAX),
            fill_permille: told.fill_permille,
        }
    }

    pub(super) fn holder(&self) -> EventHold {
        EventHold(Arc::clone(&self.shared))
    }
}

impl EventHold {
    /// Makes the event thread sleep once for `time`, from its next round on.
    pub fn hold(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.0.hold_ms.store(millis, Ordering::Release);
        self.0.wake();
    }

    /// Whether the event thread has begun the last hold that was asked for.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.hold_ms.load(Ordering::Acquire) == 0
    }
}

impl Drop for EventThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the event thread panicked");
        }
    }
}

impl Shared {
    fn wake(&self) {
        // Full only after 2^64 - 2 wakes: it is awake then.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Reader {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let ready = self.wait();
            let hold = self.shared.hold_ms.swap(0, Ordering::AcqRel);
            if hold > 0 {
                std::thread::sleep(Duration::from_millis(hold));
            }
            self.guard();
            let before = self.told.births + self.told.deaths;
            ready.into_iter().for_each(|at| self.read_port(at));
            self.obey();
            *lock(&self.shared.health) = self.told;
            if self.told.births + self.told.deaths - before < FEW {
                std::thread::sleep(GATHER);
            }
        }
    }

    /// Waits for something to do; gives the ports that have something to be read.
    fn wait(&self) -> Vec<usize> {
        let mut fds = Vec::with_capacity(1 + 2 * self.ports.len());
        fds.push(PollFd::new(&self.shared.wake, PollFlags::IN));
        for port in &self.ports {
            let sockets = port.sockets();
            fds.extend(sockets.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        if poll(&mut fds, Some(&LONGEST_WAIT)).is_err() {
            // EINTR, ENOMEM: then all are looked at.
            return (0..self.ports.len()).collect();
        }
        let (wake, sockets) = fds.split_at(1);
        if wake.iter().any(|fd| !fd.revents().is_empty()) {
            let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
        }
        let ready = |pair: &[PollFd<'_>]| pair.iter().any(|fd| !fd.revents().is_empty());
        sockets.chunks(2).enumerate().filter(|(_, pair)| ready(pair)).map(|(at, _)| at).collect()
    }

    fn obey(&mut self) {
        let orders = std::mem::take(&mut *lock(&self.shared.orders));
        for order in orders {
            match order {
                Order::Listen(port) => self.ports.push(*port),
                Order::Leave(netns) => {
                    let gone = self.ports.iter().position(|port| port.netns() == netns);
                    if let Some(at) = gone {
                        self.read_port(at);
                        let port = self.ports.swap_remove(at);
                        self.past.add(&port);
                    }
                }
            }
        }
    }

    fn guard(&mut self) {
        let now = clock::now();
        if now.since(self.guarded) < GUARD_EVERY {
            return;
        }
        self.guarded = now;
        let ended = lock(&self.shared.queue).ends();
        let mut told = Told { births: self.told.births, deaths: self.told.deaths, ..self.past };
        told.reliable = !self.ports.is_empty();
        told.fill_permille = 0;
        told.broken = self.told.broken;
        for port in &mut self.ports {
            let fill = port.fill();
            let pressure = Pressure { fill, ended, ended_limit: self.bounds.ends };
            port.guard(now, pressure);
            told.add(port);
            told.reliable &= port.is_reliable();
            let permille = fill.map_or(0, |fill| fill.count * 1000 / fill.max.max(1));
            told.fill_permille = told.fill_permille.max(permille);
        }
        self.told = told;
    }

    /// Reads one port once; a port that fails for good is left in place, silent.
    fn read_port(&mut self, at: usize) {
        let Some(port) = self.ports.get_mut(at) else { return };
        if let Err(error) = port.read(&mut self.buffers, &mut self.round) {
            self.told.broken = error.raw_os_error().or(Some(libc::EIO));
        }
        if self.round.is_empty() {
            return;
        }
        let now = clock::now();
        let mut queue = lock(&self.shared.queue);
        let bounds = self.bounds;
        let (births, deaths) = self.round.publish(now, |timed| queue.push(timed, bounds));
        self.told.births += births;
        self.told.deaths += deaths;
    }
}

impl Told {
    fn add(&mut self, port: &Port) {
        let losses = port.losses();
        self.trips += port.trips();
        self.losses.ends += losses.ends;
        self.losses.births += losses.births;
        self.losses.overruns += losses.overruns;
        self.losses.malformed += losses.malformed;
    }
}

/// A poisoned lock guards plain data that is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The guards look at least this often,
const LONGEST_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// and, each look being some system calls a namespace, at most this often.
const GUARD_EVERY: Duration = Duration::from_millis(20);

/// After a round with fewer events than this, the thread lets some gather: a wake-up for each
/// event would cost more than the event. The socket's buffer holds seconds of events.
const FEW: u64 = 64;
const GATHER: Duration = Duration::from_millis(2);

/// Events a system call.
const DATAGRAMS: usize = 64;

/// An event is one message of some 400 bytes; labels, a helper's name and a security context
/// (at most 4 KiB) fit too.
const DATAGRAM: usize = 8 << 10;
