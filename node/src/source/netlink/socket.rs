//! Netlink sockets of the netfilter family: opening, joining, asking.
//!
//! Births and ends come over separate sockets. `NETLINK_BROADCAST_ERROR` belongs on that of the
//! ends alone: on a socket with births too, every birth that could not be queued would be tried
//! again on *each further packet* of its flow (`nf_ct_deliver_cached_events`), which is work in
//! the packet path; and a burst of births would crowd out ends. A lost birth is harmless, the
//! next sweep or the end tells of the entry.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

use crate::sys;

/// What is announced (`enum nfnetlink_groups`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// `NFNLGRP_CONNTRACK_NEW`.
    Births = 1,
    /// `NFNLGRP_CONNTRACK_DESTROY`.
    Ends = 3,
}

/// A socket bound to the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// A socket for requests.
    pub(super) fn for_requests() -> io::Result<Self> {
        let socket = Self::open()?;
        // The kernel answers at once; a silence this long is an error, not a wait.
        sockopt::set_socket_timeout(&socket.0, sockopt::Timeout::Recv, Some(ANSWER_TIME))?;
        Ok(socket)
    }

    /// A socket that hears of `group`, with a receive buffer of `rcvbuf` bytes (less where the
    /// privilege to go beyond `net.core.rmem_max` is missing).
    pub(super) fn for_events(group: Group, rcvbuf: usize) -> io::Result<Self> {
        let socket = Self::open()?;
        // The kernel doubles what it is given, in an int.
        let rcvbuf = rcvbuf.min(MAX_RCVBUF);
        if sockopt::set_socket_recv_buffer_size_force(&socket.0, rcvbuf).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket.0, rcvbuf)?;
        }
        sys::set_netlink_option(socket.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, group as i32)?;
        Ok(socket)
    }

    fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            Some(NETFILTER),
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(fd))
    }

    /// Whether the kernel keeps what it cannot queue on this socket.
    pub(super) fn set_reliable(&self, on: bool) -> io::Result<()> {
        sys::set_netlink_option(self.as_fd(), libc::NETLINK_BROADCAST_ERROR, i32::from(on))
    }

    /// Messages that could not be queued since the socket was opened, modulo 2^32; `None` before
    /// Linux 4.12.
    pub(super) fn drops(&self) -> Option<u32> {
        sys::queue_state(self.as_fd()).ok().map(|state| state.drops)
    }

    /// Sends a request for a dump.
    pub(super) fn request_dump(&self, kind: u16, seq: u32) -> io::Result<()> {
        let message = dump_request(kind, seq);
        let sent = rustix::net::send(&self.0, &message, SendFlags::empty())?;
        if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `struct nlmsghdr` and `struct nfgenmsg` with family `AF_UNSPEC`: all of them.
fn dump_request(kind: u16, seq: u32) -> [u8; REQUEST_SIZE] {
    let mut message = [0; REQUEST_SIZE];
    message[..4].copy_from_slice(&20u32.to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message[8..12].copy_from_slice(&seq.to_ne_bytes());
    message
}

const REQUEST_SIZE: usize = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;

const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The largest receive buffer that is asked for.
const MAX_RCVBUF: usize = 512 << 20;
