//! Dumps of a namespace's whole table.
//!
//! What a dump is (`ctnetlink_dump_table`): the kernel walks the hash buckets and fills one
//! datagram per receive, remembering the entry it stopped at. Between datagrams the table lives
//! on:
//! - an entry alive from begin to end is listed at least once; new ones may be listed or not;
//! - if the entry it stopped at is gone, the kernel starts that bucket again: some are listed
//!   twice, a bit later. Harmless, counters are absolute;
//! - if the table is resized (`nf_conntrack_buckets`, e.g. by the kernel module's parameter),
//!   entries change buckets and may be missed without any mark (ctnetlink never sets
//!   `NLM_F_DUMP_INTR`; it is obeyed anyway). So the number of buckets is compared before and
//!   after, and a dump across a resize is taken again;
//! - entries whose end could not be delivered yet are not listed: they are no longer in the hash.

use std::io;
use std::os::fd::AsFd;

use super::attr::{Message, Messages};
use super::parse::{self, Kind};
use super::socket::Socket;
use crate::sys::Datagrams;

/// Why a dump did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The table was resized under it; another try may do better.
    #[error("the table was resized during the dump")]
    Interrupted,
    /// A datagram that is not made of whole messages.
    #[error("the kernel's answer is malformed")]
    Malformed,
    /// The kernel refused, or the socket failed.
    #[error("the kernel ended the dump")]
    Kernel(#[source] io::Error),
}

/// A piece of a dump.
#[derive(Debug)]
pub enum Part<'a> {
    /// An entry, to be parsed with [`parse::reading`].
    Entry(Message<'a>),
    /// A whole datagram has been handed over: all entries so far were read before now.
    Read,
}

/// A socket for dumps in one namespace.
pub struct DumpSocket {
    socket: Socket,
    seq: u32,
    buffers: Datagrams,
}

impl DumpSocket {
    /// Opens one in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink or the process no descriptors left.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::for_requests()?;
        Ok(Self { socket, seq: 0, buffers: Datagrams::new(BATCH, DATAGRAM) })
    }

    /// Dumps all entries of all families.
    ///
    /// # Errors
    /// When the dump did not come to its end; then what was handed over is true but not all.
    /// The socket can be used again after [`DumpError::Interrupted`] only.
    pub fn entries(&mut self, take: impl FnMut(Part<'_>)) -> Result<(), DumpError> {
        self.run(parse::CT_GET, take)
    }

    /// Dumps the entries that have ended and whose end the kernel could not deliver yet.
    ///
    /// # Errors
    /// As [`DumpSocket::entries`].
    pub fn held(&mut self, take: impl FnMut(Part<'_>)) -> Result<(), DumpError> {
        self.run(CT_GET_DYING, take)
    }

    fn run(&mut self, kind: u16, mut take: impl FnMut(Part<'_>)) -> Result<(), DumpError> {
        self.seq = self.seq.wrapping_add(1);
        self.socket.request_dump(kind, self.seq).map_err(DumpError::Kernel)?;
        let mut interrupted = false;
        loop {
            match self.buffers.receive(self.socket.as_fd(), true) {
                Ok(_count) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(DumpError::Kernel(error)),
            }
            for datagram in self.buffers.iter() {
                let datagram = datagram.map_err(|_cut| DumpError::Malformed)?;
                for message in Messages::new(datagram) {
                    let message = message.map_err(|_length| DumpError::Malformed)?;
                    if message.seq != self.seq {
                        continue;
                    }
                    interrupted |= parse::interrupted(&message);
                    match parse::kind(&message) {
                        Kind::Entry | Kind::Destroy => take(Part::Entry(message)),
                        Kind::Done => {
                            take(Part::Read);
                            return finished(&message, interrupted);
                        }
                        Kind::Error => return finished(&message, interrupted),
                        Kind::Other => {}
                    }
                }
                take(Part::Read);
            }
        }
    }
}

fn finished(message: &Message<'_>, interrupted: bool) -> Result<(), DumpError> {
    match parse::error_number(message) {
        0 if interrupted => Err(DumpError::Interrupted),
        0 => Ok(()),
        libc::EINTR => Err(DumpError::Interrupted),
        number => Err(DumpError::Kernel(io::Error::from_raw_os_error(number))),
    }
}

/// `IPCTNL_MSG_CT_GET_DYING`.
const CT_GET_DYING: u16 = 1 << 8 | 6;

/// Bytes of one datagram's buffer. The kernel sizes a dump's datagrams by the largest buffer it
/// has seen on the socket, up to 32 KiB (`netlink_recvmsg`); twice that is never cut.
const DATAGRAM: usize = 64 << 10;

/// Datagrams a system call.
const BATCH: usize = 2;
