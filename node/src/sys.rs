//! The node's only `unsafe` code: system calls that rustix does not wrap. Every function here is
//! safe to call with any argument; what the kernel refuses comes back as an `io::Error`.

#![expect(unsafe_code, reason = "raw system calls; each block names its invariant")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Sets an integer option of a netlink socket (`SOL_NETLINK`, netlink(7)).
///
/// # Errors
/// What the kernel answered; `EPERM` where the option needs `CAP_NET_ADMIN`.
pub(crate) fn set_netlink_option(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer is to a live integer and the length is that integer's size; the
    // kernel only reads it. The descriptor is open for as long as it is borrowed.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_u32::<libc::c_int>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What a socket's queue holds and what it has lost (`SO_MEMINFO`, Linux 4.12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueState {
    /// Messages the kernel could not queue since the socket was opened; wraps at 2^32.
    pub(crate) drops: u32,
    /// Bytes of kernel memory queued.
    pub(crate) queued: u32,
    /// Bytes the queue may take.
    pub(crate) limit: u32,
}

/// Reads a socket's queue state.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.12.
pub(crate) fn queue_state(socket: BorrowedFd<'_>) -> io::Result<QueueState> {
    // `SK_MEMINFO_*` in include/uapi/linux/sock_diag.h: rmem_alloc, rcvbuf, wmem_alloc, sndbuf,
    // fwd_alloc, wmem_queued, optmem, backlog, drops.
    const WORDS: usize = 9;
    let mut words = [0u32; WORDS];
    let mut length = size_u32::<[u32; WORDS]>();
    // SAFETY: `words` is writable for `length` bytes, which is its size; every bit pattern is a
    // valid u32. The kernel writes at most `length` bytes and updates `length`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(QueueState { drops: words[8], queued: words[0], limit: words[1] })
}

/// Buffers for receiving many datagrams with one system call.
///
/// The bound is given at construction: `count` datagrams of at most `size` bytes each; a longer
/// datagram is cut and reported as such.
pub(crate) struct Datagrams {
    bytes: Box<[u8]>,
    size: usize,
    count: usize,
    got: Vec<Received>,
}

/// One received datagram's place and state.
#[derive(Clone, Copy)]
struct Received {
    length: usize,
    truncated: bool,
    from_kernel: bool,
}

impl Datagrams {
    /// Buffers for `count` datagrams of `size` bytes.
    pub(crate) fn new(count: usize, size: usize) -> Self {
        let count = count.clamp(1, MAX_BATCH);
        let bytes = vec![0u8; count * size].into_boxed_slice();
        Self { bytes, size, count, got: Vec::with_capacity(count) }
    }

    /// Receives up to `count` datagrams; where `wait`, waits for the first one.
    ///
    /// # Errors
    /// `WouldBlock` when there is none and it must not wait, `ENOBUFS` when the kernel has
    /// dropped messages since the last call, `EINTR`.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        self.got.clear();
        let mut names = [MaybeUninit::<libc::sockaddr_nl>::zeroed(); MAX_BATCH];
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_BATCH];
        // SAFETY: `mmsghdr` is plain data for which all zeroes is a valid value (null pointers
        // and zero lengths).
        let mut headers: [libc::mmsghdr; MAX_BATCH] = unsafe { std::mem::zeroed() };
        let places = self.bytes.chunks_exact_mut(self.size);
        for (((header, vector), name), place) in
            headers.iter_mut().zip(&mut vectors).zip(&mut names).zip(places)
        {
            vector.iov_base = place.as_mut_ptr().cast();
            vector.iov_len = place.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = size_u32::<libc::sockaddr_nl>();
        }
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        let count = libc::c_uint::try_from(self.count).unwrap_or(1);
        // SAFETY: the first `count` (<= MAX_BATCH) headers point to `iovec`s and names that live
        // in this frame and to disjoint parts of `self.bytes`, each with its true length; all
        // outlive the call, and nothing else refers to them during it. No timeout is given.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                flags as _,
                std::ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).map_err(|_negative| io::Error::last_os_error())?;
        for (header, name) in headers.iter().zip(&names).take(got) {
            // SAFETY: zero-initialised above, and all zeroes as well as anything that the kernel
            // writes is a valid `sockaddr_nl` (plain integers).
            let sender = unsafe { name.assume_init() }.nl_pid;
            self.got.push(Received {
                length: usize::try_from(header.msg_len).unwrap_or(0).min(self.size),
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                from_kernel: sender == 0,
            });
        }
        Ok(got)
    }

    /// The datagrams of the last call that came from the kernel; `Err` for one that did not fit.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<&[u8], Truncated>> {
        let places = self.bytes.chunks_exact(self.size);
        self.got.iter().zip(places).filter(|(got, _)| got.from_kernel).map(|(got, place)| {
            if got.truncated { Err(Truncated) } else { Ok(&place[..got.length]) }
        })
    }
}

/// A datagram was longer than its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncated;

/// Whether the kernel holds the wall clock for synchronised (`adjtimex(2)`, `STA_UNSYNC`).
/// False also where the call is forbidden.
pub(crate) fn wall_clock_is_synchronised() -> bool {
    // SAFETY: `timex` is plain integers; all zeroes is valid, and `modes = 0` only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `timex`, which the kernel fills in.
    let verdict = unsafe { libc::adjtimex(&raw mut state) };
    verdict >= 0 && state.status & libc::STA_UNSYNC == 0
}

/// Moves the calling thread into a new network namespace (`unshare(2)`), alone.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `ENOSPC` beyond the kernel's limit.
pub(crate) fn leave_for_a_new_network() -> io::Result<()> {
    // SAFETY: no memory is involved, and only the namespace of this thread's network changes: no
    // descriptor or memory that another thread relies on.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The sweep program's buffer: a map's memory, mapped into ours.
///
/// The kernel writes to it while the sweep program runs, which it does within a call of ours; so
/// who holds it mutably is alone with it.
pub(crate) struct SweepBuffer {
    memory: NonNull<ebpf_abi::Sweep>,
}

impl SweepBuffer {
    /// Maps the array whose one element is an [`ebpf_abi::Sweep`].
    ///
    /// # Errors
    /// When the descriptor is no such map, or it was made without `BPF_F_MMAPABLE`.
    pub(crate) fn map(array: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours lies there.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<ebpf_abi::Sweep>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                array.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { memory })
    }

    /// What is in it.
    pub(crate) const fn get(&self) -> &ebpf_abi::Sweep {
        // SAFETY: mapped for as long as `self` lives, page aligned, as long as a `Sweep` (the
        // kernel refuses a longer mapping than the map), and any bytes are a valid `Sweep`, plain
        // integers. The program writes in [`SweepBuffer::get_mut`]'s borrow only.
        unsafe { self.memory.as_ref() }
    }

    /// The same, to be written to.
    pub(crate) const fn get_mut(&mut self) -> &mut ebpf_abi::Sweep {
        // SAFETY: as `get`, and `&mut self` is the only way to it.
        unsafe { self.memory.as_mut() }
    }
}

impl Drop for SweepBuffer {
    fn drop(&mut self) {
        // SAFETY: this very mapping, which nothing refers to any more.
        let _ = unsafe { libc::munmap(self.memory.as_ptr().cast(), size_of::<ebpf_abi::Sweep>()) };
    }
}

// SAFETY: plain memory, which no thread owns.
unsafe impl Send for SweepBuffer {}

/// The record in the bytes of the ring buffer; `None` where they are of another length or
/// version.
pub(crate) fn ring_record(bytes: &[u8]) -> Option<ebpf_abi::Event> {
    if bytes.len() != size_of::<ebpf_abi::Event>() {
        return None;
    }
    // SAFETY: as many bytes as an `Event` has, any bytes being a valid one (plain integers); read
    // without an assumption on their alignment.
    let event = unsafe { bytes.as_ptr().cast::<ebpf_abi::Event>().read_unaligned() };
    (event.version == ebpf_abi::VERSION).then_some(event)
}

fn size_u32<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

/// Most datagrams one call receives.
const MAX_BATCH: usize = 64;

/// `SO_MEMINFO` of include/uapi/asm-generic/socket.h; the same on every architecture we build.
const SO_MEMINFO: libc::c_int = 55;
