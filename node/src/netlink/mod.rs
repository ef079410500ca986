//! Requests to the kernel over netlink beside the source's own: links and addresses ([`route`]),
//! nf_tables ([`nftables`]). For the self-test, which makes its own network, and for the doctor,
//! which looks at the gateway's; no `ip`, `nft` or `conntrack` has to be installed.
//!
//! A socket is bound to the namespace of the thread that opened it. Requests that change something
//! are sent by the self-test only, in namespaces of its own.

pub(crate) mod nftables;
pub(crate) mod route;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::source::netlink::attr::{Message, Messages};

/// Attributes being written (`struct nlattr`), in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// With one more.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With a number, big-endian.
    pub(crate) fn with_be32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_be_bytes())
    }

    /// With a text and its zero.
    pub(crate) fn with_text(self, kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.with(kind, &bytes)
    }

    /// With a nest of others.
    pub(crate) fn with_nest(self, kind: u16, inner: &Self) -> Self {
        self.with(kind | NESTED, &inner.0)
    }

    /// With a nest that begins with a header of its own.
    pub(crate) fn with_headed(self, kind: u16, head: &[u8], inner: &Self) -> Self {
        self.with(kind | NESTED, &[head, &inner.0].concat())
    }
}

/// A request: its kind, flags, fixed header and attributes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    kind: u16,
    flags: u16,
    head: Vec<u8>,
    attributes: Attributes,
}

impl Request {
    /// A request of a kind; `head` is the family's fixed header.
    pub(crate) fn new(kind: u16, flags: u16, head: &[u8], attributes: Attributes) -> Self {
        Self { kind, flags: flags | NLM_F_REQUEST, head: head.to_vec(), attributes }
    }

    fn write(&self, seq: u32, out: &mut Vec<u8>) {
        let length = HEADER + self.head.len() + self.attributes.0.len();
        out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend(self.flags.to_ne_bytes());
        out.extend(seq.to_ne_bytes());
        out.extend([0; 4]);
        out.extend(&self.head);
        out.extend(&self.attributes.0);
    }
}

/// A socket for requests, one after the other.
pub(crate) struct Talk {
    socket: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
}

impl Talk {
    /// With the network's configuration, in the calling thread's namespace.
    pub(crate) fn route() -> io::Result<Self> {
        // `NETLINK_ROUTE` is 0, no protocol.
        Self::open(None)
    }

    /// With netfilter, in the calling thread's namespace.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(Some(NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(family, SocketType::RAW, flags, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        // The kernel answers at once; a silence this long is an error, not a wait.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIME))?;
        Ok(Self { socket, seq: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Sends a request that changes something, and waits for the kernel's acknowledgement.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(crate) fn tell(&mut self, request: &Request) -> io::Result<()> {
        let request = Request { flags: request.flags | NLM_F_ACK, ..request.clone() };
        let first = self.send(&[request])?;
        self.receive(first, first, &mut |_message| Ok(()))
    }

    /// Sends several as one transaction of nf_tables: all of them or none.
    ///
    /// # Errors
    /// The first error of any of them.
    pub(crate) fn tell_at_once(&mut self, requests: &[Request]) -> io::Result<()> {
        let edge = |kind| Request::new(kind, 0, &nfgenmsg(0, NFNL_SUBSYS_NFTABLES), no());
        let mut all = vec![edge(NFNL_MSG_BATCH_BEGIN)];
        all.extend(requests.iter().cloned());
        // Acknowledged after everything before it was.
        if let Some(last) = all.last_mut() {
            last.flags |= NLM_F_ACK;
        }
        all.push(edge(NFNL_MSG_BATCH_END));
        let first = self.send(&all)?;
        let last = first.wrapping_add(u32::try_from(requests.len()).unwrap_or(u32::MAX));
        self.receive(first, last, &mut |_message| Ok(()))
    }

    /// Sends a request for a list, and hands over each of its messages.
    ///
    /// # Errors
    /// What the kernel answered, or `take`.
    pub(crate) fn list(
        &mut self,
        request: &Request,
        mut take: impl FnMut(&Message<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let request = Request { flags: request.flags | NLM_F_DUMP, ..request.clone() };
        let first = self.send(&[request])?;
        self.receive(first, first, &mut take)
    }

    fn send(&mut self, requests: &[Request]) -> io::Result<u32> {
        let first = self.seq.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in requests {
            self.seq = self.seq.wrapping_add(1);
            request.write(self.seq, &mut bytes);
        }
        let sent = rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        if sent == bytes.len() { Ok(first) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Reads answers until the last request's has come, or one of them failed.
    fn receive(
        &mut self,
        first: u32,
        last: u32,
        take: &mut dyn FnMut(&Message<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let received = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC)
            });
            let (_, length) = received?;
            // With MSG_TRUNC the true length is told, which may be longer than what there is.
            let datagram = self.buffer.get(..length).ok_or_else(malformed)?;
            for message in Messages::new(datagram) {
                let message = message.map_err(|_length| malformed())?;
                if message.seq.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let number = message.body.first_chunk().copied();
                        match number.map(i32::from_ne_bytes) {
                            Some(0) if message.seq == last => return Ok(()),
                            Some(0) => {}
                            Some(number) => {
                                let number = number.saturating_neg();
                                return Err(io::Error::from_raw_os_error(number));
                            }
                            None => return Err(malformed()),
                        }
                    }
                    _ => take(&message)?,
                }
            }
        }
    }
}

/// Deletes all entries of the namespace, as `conntrack -F` does; each of them tells its end.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn flush_conntrack(talk: &mut Talk) -> io::Result<()> {
    talk.tell(&Request::new(CT_DELETE, 0, &nfgenmsg(0, 0), no()))
}

/// `struct nfgenmsg` of a family; `resource` is used by batches only.
fn nfgenmsg(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn no() -> Attributes {
    Attributes::default()
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is malformed")
}

/// `struct nlmsghdr`, `struct nlattr`.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

const NESTED: u16 = 0x8000;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// `NFNL_SUBSYS_*`, `NFNL_MSG_BATCH_*` (`include/uapi/linux/netfilter/nfnetlink.h`).
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_SUBSYS_HOOK: u16 = 12;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
/// `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK`.
const CT_DELETE: u16 = 1 << 8 | 2;

const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Larger than any datagram of a list: the kernel fills at most 32 KiB.
const DATAGRAM: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::netlink::attr::Attrs;

    #[test]
    fn what_is_written_is_what_is_read() {
        let inner = Attributes::default().with_text(1, "veth");
        let all = no().with(3, &[1, 2, 3, 4, 5]).with_be32(4, 7).with_nest(5, &inner);
        let request = Request::new(9, NLM_F_CREATE, &[0xaa; 4], all);
        let mut bytes = Vec::new();
        request.write(77, &mut bytes);
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        assert_eq!((message.kind, message.flags, message.seq), (9, 0x401, 77));
        assert_eq!(message.body[..4], [0xaa; 4]);
        let found: Vec<_> = Attrs::new(&message.body[4..]).map(Result::unwrap).collect();
        assert_eq!((found[0].kind, found[0].value), (3, &[1, 2, 3, 4, 5][..]));
        assert_eq!((found[1].kind, found[1].be32()), (4, Some(7)));
        let nested: Vec<_> = found[2].nested().map(Result::unwrap).collect();
        assert_eq!((found[2].kind, nested[0].kind, nested[0].value), (5, 1, &b"veth\0"[..]));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn the_kernel_answers_and_refuses() {
        let mut talk = Talk::route().unwrap();
        let mut links = 0;
        talk.list(&Request::new(18, 0, &[0; 16], no()), |_link| {
            links += 1;
            Ok(())
        })
        .unwrap();
        assert!(links > 0, "there is always a loopback device");
        // A link of no name, address or kind.
        let refused = talk.tell(&Request::new(16, 0, &[0; 16], no())).unwrap_err();
        assert!(matches!(refused.raw_os_error(), Some(libc::EINVAL | libc::EPERM | libc::ENODEV)));
    }
}
