//! What the kernel side (`ebpf/probe`) and the user side (`node`) of the eBPF source share: the
//! layout of ring buffer records and of the sweep buffer, the names of what the loader sets.
//!
//! Plain memory, no logic. The probe copies the kernel's bytes as they are and user space takes
//! them apart with the running kernel's layout: so there is little in the kernel that can be
//! wrong, and nothing there that has to know what a tuple looks like.

#![no_std]

/// Version of all layouts here, in every record.
pub const VERSION: u16 = 1;

/// Most bytes of a `struct nf_conn` that are copied. Everything read lies in the first 248 bytes
/// of the largest one known (5.10).
pub const SPAN_MAX: usize = 256;

/// Most entries of one run of the sweep program.
pub const CHUNK: usize = 512;

/// Default size of the ring buffer in bytes: a power of two, pages.
pub const RING_BYTES: u32 = 16 << 20;

/// Size of the ring buffer `ADOPTED` in bytes. The kernel lists some 150 entries a datagram, a few
/// datagrams ahead of the reader, who empties it after each.
pub const ADOPTED_BYTES: u32 = 1 << 20;

/// What a record of a ring buffer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// An entry is being inserted.
    New = 1,
    /// An entry is being destroyed; its counters are the last ones.
    End = 2,
    /// An entry is being listed by ctnetlink: it lived before anybody listened.
    Adopt = 3,
    /// An entry's packet is being transmitted (benchmarks only).
    Seen = 4,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn of(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::New),
            2 => Some(Self::End),
            3 => Some(Self::Adopt),
            4 => Some(Self::Seen),
            _ => None,
        }
    }
}

/// Records of one kind that did not fit into the ring buffer are counted at this index of the
/// per-CPU array `LOSSES`: the kind's number. Index 0 is unused.
pub const LOSS_KINDS: u32 = 5;

/// [`Entry::flags`]: `block` was read.
pub const READ: u32 = 1;
/// [`Entry::flags`]: `counters` were read; the entry has the accounting extension.
pub const COUNTED: u32 = 1 << 1;
/// [`Entry::flags`]: `start` and `stop` were read; the entry has the timestamp extension.
pub const STAMPED: u32 = 1 << 2;
/// [`Entry::flags`]: after all of it was read the entry was still referenced and had the same
/// extensions. Set by sweeps only: elsewhere somebody holds the entry.
pub const HELD: u32 = 1 << 3;

/// A conntrack entry, copied.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry {
    /// Its address in the kernel.
    pub ct: u64,
    /// [`READ`], [`COUNTED`], [`STAMPED`], [`HELD`].
    pub flags: u32,
    /// Nothing.
    pub padding: u32,
    /// The first bytes of its `struct nf_ct_ext`.
    pub ext: [u8; 16],
    /// `struct nf_conn_acct`: packets and bytes of the original, then of the reply direction.
    pub counters: [u64; 4],
    /// `struct nf_conn_tstamp`: wall-clock nanoseconds.
    pub start: u64,
    /// The same.
    pub stop: u64,
    /// The first bytes of its `struct nf_conn`, as many as the loader asked for.
    pub block: [u8; SPAN_MAX],
}

/// A record of the ring buffers `EVENTS` and `ADOPTED`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Event {
    /// [`VERSION`].
    pub version: u16,
    /// A [`Kind`].
    pub kind: u16,
    /// Inode of the entry's network namespace.
    pub netns: u32,
    /// `CLOCK_MONOTONIC` in nanoseconds when the hook ran: it orders the records of both buffers.
    pub time: u64,
    /// The entry.
    pub entry: Entry,
}

/// The one element of the array `SWEEP`, mapped into the node's memory. The program's only
/// argument is how many pointers there are.
#[repr(C)]
pub struct Sweep {
    /// Addresses of entries, set by user space.
    pub pointers: [u64; CHUNK],
    /// The entries, set by the kernel.
    pub entries: [Entry; CHUNK],
}

const _: () = assert!(size_of::<Entry>() == 336 && align_of::<Entry>() == 8);
const _: () = assert!(size_of::<Event>() == 352 && align_of::<Event>() == 8);
const _: () = assert!(size_of::<Sweep>() == CHUNK * (8 + 336) && align_of::<Sweep>() == 8);
const _: () = assert!(RING_BYTES.is_power_of_two());
