//! An independent witness in a gateway: it takes every DESTROY event of the kernel and, at the
//! end, a dump of what still lives.
//!
//! Its socket does not ask for reliable events (`NETLINK_BROADCAST_ERROR`), so it never changes
//! what the node sees; instead its buffer is large, and if that overflows the run says so and is
//! void.

mod message;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType, netlink, sockopt};

use super::netns::Netns;
use super::tally::{Flows, Key};
use crate::threads::outcome;
use message::Message;

/// The kernel keeps this many bytes of events for us: about 200,000 of them.
const BUFFER: usize = 64 << 20;
/// `NFNLGRP_CONNTRACK_DESTROY` (3) as a bit of the groups to join.
const DESTROY_GROUP: u32 = 1 << 2;
/// A datagram of a dump is at most 32 KiB for a reader with a buffer of 64 KiB.
const DATAGRAM: usize = 64 << 10;

/// A running witness.
pub(crate) struct Capture {
    place: String,
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Result<Seen>>,
}

/// When each flow's end was seen, and with which counters.
#[derive(Default)]
struct Seen {
    ended: Flows,
    when: BTreeMap<Key, Instant>,
    overflows: u64,
}

/// What a witness saw in all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witness {
    /// Every flow, ended or living, with its last counters.
    pub(crate) flows: Flows,
    /// When the ends came.
    pub(crate) ended: BTreeMap<Key, Instant>,
    /// How many still lived.
    pub(crate) living: usize,
}

impl Capture {
    /// Begins to listen in a gateway.
    pub(crate) fn start(gateway: &Netns) -> Result<Self> {
        Ok(Self::on(gateway.enter(|| open(DESTROY_GROUP))?, gateway.name()))
    }

    /// Begins to listen where this thread is.
    pub(crate) fn here() -> Result<Self> {
        Ok(Self::on(open(DESTROY_GROUP)?, "this host"))
    }

    fn on(socket: OwnedFd, place: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let reader = std::thread::spawn(move || listen(&socket, &asked));
        Self { place: place.to_owned(), stop, reader }
    }

    /// Reads what events are left, and gives everything; `living` is a dump made just now.
    ///
    /// # Errors
    /// The witness lost events, so it cannot testify; or its socket failed.
    pub(crate) fn finish(self, living: Flows) -> Result<Witness> {
        // The events of entries that ended before the dump were queued before its end.
        self.stop.store(true, Ordering::Release);
        let seen = outcome(self.reader.join(), "the capture")?;
        if seen.overflows > 0 {
            bail!(
                "the capture in {} lost events ({} overflows): this run proves nothing",
                self.place,
                seen.overflows
            );
        }
        let mut flows = living;
        let living = flows.keys().filter(|key| !seen.ended.contains_key(key)).count();
        flows.extend(seen.ended);
        Ok(Witness { flows, ended: seen.when, living })
    }
}

/// All living entries of a gateway. A dump also makes the kernel end what has timed out.
pub(crate) fn dump(gateway: &Netns) -> Result<Flows> {
    let socket = gateway.enter(|| open(0))?;
    for _ in 0..5 {
        net::send(&socket, &message::dump_request(), SendFlags::empty())
            .context("could not ask for a dump")?;
        let mut flows = Flows::new();
        let mut buffer = vec![0; DATAGRAM];
        let complete = 'dump: loop {
            let (length, _) =
                retry_on_intr(|| net::recv(&socket, &mut buffer[..], RecvFlags::empty()))
                    .context("could not read a dump")?;
            for message in message::parse(buffer.get(..length).unwrap_or_default())? {
                match message {
                    Message::Living(key, both) | Message::Ended(key, both) => {
                        flows.insert(key, both);
                    }
                    Message::Uncounted => {}
                    Message::Done(complete) => break 'dump complete,
                }
            }
        };
        if complete {
            return Ok(flows);
        }
    }
    bail!("five dumps in a row were interrupted: is there still traffic?")
}

fn open(groups: u32) -> Result<OwnedFd> {
    let socket = net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))
        .context("could not open a netlink socket")?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)
        .context("could not enlarge the netlink socket's buffer")?;
    net::bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))
        .context("could not join conntrack's events")?;
    Ok(socket)
}

fn listen(socket: &OwnedFd, stop: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let last = stop.load(Ordering::Acquire);
        let mut ready = [PollFd::new(socket, PollFlags::IN)];
        let patience = Timespec::try_from(Duration::from_millis(100))?;
        let count = retry_on_intr(|| poll(&mut ready, Some(&patience)))
            .context("could not wait for events")?;
        if count == 0 {
            if last {
                return Ok(seen);
            }
            continue;
        }
        let (length, _) = match net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok(received) => received,
            Err(Errno::INTR) => continue,
            Err(Errno::NOBUFS) => {
                seen.overflows += 1;
                continue;
            }
            Err(error) => return Err(error).context("could not read events"),
        };
        for message in message::parse(buffer.get(..length).unwrap_or_default())? {
            if let Message::Ended(key, both) = message {
                seen.ended.insert(key, both);
                seen.when.insert(key, Instant::now());
            }
        }
    }
}
