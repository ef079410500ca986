//! Where the table keeps its entries: a chunked slab (growing never copies what is there) and an
//! index over it by entry key. Several births of one key stand side by side.

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use crate::counters::Counters;
use crate::entry::{Birth, EntryId, EntryKey, Status, TcpState};
use crate::id::{BootId, FlowNo, NetnsId};
use crate::record::{Record, RecordFlags};
use crate::tuple::Tuple;
use crate::units::BootNanos;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Nothing.
    Free,
    /// An entry whose end is not known.
    Live,
    /// An ended entry whose last record is not durable yet.
    Ended,
    /// An ended entry whose last record is durable; remembered for a while, so that a repeated
    /// end or a reading older than the end is not taken for a new entry.
    Remembered,
}

/// One entry. 240 bytes, what most entries do not have is boxed, and what a sweep touches stands
/// together at the front.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    /// Highest reading: the kernel's counters plus `offset`.
    pub(super) cum: Counters,
    /// `cum` of the last durable record.
    pub(super) spooled: Counters,
    pub(super) birth: Birth,
    /// No packet above `spooled` came before this.
    pub(super) since: BootNanos,
    /// Live: begin of the sweep that read it last. Ended: when its end was read.
    pub(super) read: BootNanos,
    /// When the reading that grew last was taken: no packet below `cum` came after this.
    pub(super) grown: BootNanos,
    /// What zeroed counters had reached.
    pub(super) offset: Option<Box<Counters>>,
    pub(super) mark: u32,
    pub(super) status: Status,
    /// Its turn in the last sweep that read it.
    pub(super) turn: u32,
    /// Marks that its next record carries.
    pub(super) flags: RecordFlags,
    pub(super) tcp: TcpState,
    /// Complete sweeps in a row that did not find it.
    pub(super) missed: u8,
    pub(super) key: EntryKey,
    pub(super) state: State,
    /// A record of it is durable (so a baseline is).
    pub(super) has_baseline: bool,
    /// Restored from a baseline and not seen since.
    pub(super) restored: bool,
    pub(super) reply: Tuple,
    pub(super) flow: FlowNo,
    /// Raw kernel stop of an ended entry.
    pub(super) stop: u64,
}

/// What a reading did to an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Absorbed {
    pub(super) grew: bool,
    pub(super) reset: bool,
}

impl Slot {
    pub(super) fn offset(&self) -> Counters {
        self.offset.as_deref().copied().unwrap_or_default()
    }

    /// What no durable record has said yet.
    pub(super) fn growth(&self) -> Counters {
        self.cum.above(self.spooled)
    }

    /// Whether a live entry has anything to say.
    pub(super) fn is_due(&self) -> bool {
        self.cum != self.spooled || self.flags.has(RecordFlags::UNCOUNTED) && !self.has_baseline
    }

    /// Takes the kernel's counters in. Lower ones than before were zeroed by somebody: what they
    /// had reached becomes an offset, so that readings stay monotone.
    pub(super) fn absorb(&mut self, kernel: Counters) -> Absorbed {
        let mut offset = self.offset();
        let last = self.cum.above(offset);
        let reset = kernel.any_below(last);
        if reset {
            offset = offset.plus(last);
            self.offset = Some(Box::new(offset));
            self.flags = self.flags.with(RecordFlags::RESET);
        }
        let cum = kernel.plus(offset).max(self.cum);
        let grew = cum != self.cum;
        self.cum = cum;
        Absorbed { grew, reset }
    }

    /// Takes the last counters of an ended entry in.
    ///
    /// Without a start stamp the kernel may give a new entry of the same tuple the same id, and
    /// an end that comes late may be that of the entry before. Where the counters say that this
    /// may have happened, the end is taken as a reading by itself: perhaps too little, never too
    /// much.
    pub(super) fn absorb_last(&mut self, kernel: Counters) -> Absorbed {
        let offset = self.offset();
        let fell = kernel.any_below(self.cum.above(offset));
        if self.birth.start().is_some() || offset.is_zero() && !fell {
            return self.absorb(kernel);
        }
        let cum = self.cum.max(kernel);
        let grew = cum != self.cum;
        self.cum = cum;
        Absorbed { grew, reset: false }
    }

    /// The record that says all of this.
    pub(super) fn record(&self, boot: BootId) -> Record {
        let ended = self.state != State::Live;
        Record {
            flow: self.flow,
            netns: NetnsId { inode: self.key.netns, boot },
            zone: self.key.zone,
            orig: self.key.orig,
            reply: self.reply,
            birth: self.birth,
            mark: self.mark,
            status: self.status,
            tcp: self.tcp,
            flags: self.flags.with_if(RecordFlags::END, ended),
            since: self.since,
            until: self.grown.max(self.since),
            cum: self.cum,
            delta: self.growth(),
            offset: self.offset(),
            stop: self.stop,
        }
    }

    pub(super) fn entry(&self, boot: BootId) -> EntryId {
        EntryId {
            netns: NetnsId { inode: self.key.netns, boot },
            zone: self.key.zone,
            orig: self.key.orig,
            birth: self.birth,
        }
    }
}

/// Slots and the index over them.
pub(super) struct Slab {
    chunks: Vec<Vec<Slot>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: KeyHasher,
}

impl Slab {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: KeyHasher::new(seed),
        }
    }

    /// The slot at a place, if there is one.
    pub(super) fn try_get(&self, at: u32) -> Option<&Slot> {
        self.chunks.get(at as usize >> CHUNK_BITS)?.get(at as usize & CHUNK_MASK)
    }

    pub(super) fn get(&self, at: u32) -> &Slot {
        slot(&self.chunks, at)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.chunks[at as usize >> CHUNK_BITS][at as usize & CHUNK_MASK]
    }

    /// Brings what a sweep touches of these slots into the cache. The reads depend on nothing, so
    /// a processor has many of them under way at once.
    pub(super) fn fetch(&self, places: &[u32]) {
        let lines = |slot: &Slot| {
            let [first, ..] = slot.cum.components();
            first ^ slot.since.0 ^ u64::from(slot.mark) ^ u64::from(slot.key.netns.0)
        };
        let touched = places.iter().filter_map(|at| self.try_get(*at)).map(lines);
        std::hint::black_box(touched.fold(0, |all, line| all ^ line));
    }

    pub(super) fn hash(&self, key: &EntryKey) -> u64 {
        self.hasher.hash(key)
    }

    /// A slot of `key` that `wanted` accepts; `hash` is the key's.
    pub(super) fn find(
        &self,
        hash: u64,
        key: &EntryKey,
        wanted: impl Fn(&Slot) -> bool,
    ) -> Option<u32> {
        let chunks = &self.chunks;
        self.index
            .find(hash, |&at| {
                let slot = slot(chunks, at);
                slot.key == *key && wanted(slot)
            })
            .copied()
    }

    /// Puts a slot in; `None` when 2^32 slots are taken.
    pub(super) fn insert(&mut self, hash: u64, new: Slot) -> Option<u32> {
        let at = match self.free.pop() {
            Some(at) => {
                *self.get_mut(at) = new;
                at
            }
            None => self.push(new)?,
        };
        let Self { chunks, index, hasher, .. } = self;
        index.insert_unique(hash, at, |&other| hasher.hash(&slot(chunks, other).key));
        Some(at)
    }

    pub(super) fn remove(&mut self, at: u32) {
        let hash = self.hasher.hash(&self.get(at).key);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == at) {
            found.remove();
        }
        let slot = self.get_mut(at);
        slot.state = State::Free;
        slot.offset = None;
        self.free.push(at);
    }

    /// All slots in use, in the order of their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.chunks.iter().flatten().filter(|slot| slot.state != State::Free)
    }

    /// All slots in use.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.chunks.iter_mut().flatten().filter(|slot| slot.state != State::Free)
    }

    /// One more than the highest place.
    pub(super) fn places(&self) -> u32 {
        match self.chunks.split_last() {
            // Places are numbered by `u32` (`push` sees to it).
            Some((last, full)) => {
                u32::try_from((full.len() << CHUNK_BITS) + last.len()).unwrap_or(u32::MAX)
            }
            None => 0,
        }
    }

    fn push(&mut self, new: Slot) -> Option<u32> {
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let full = self.chunks.len() - 1;
        let last = self.chunks.last_mut()?;
        let at = u32::try_from((full << CHUNK_BITS) + last.len()).ok()?;
        last.push(new);
        Some(at)
    }
}

/// Hashes keys with a seed that outsiders do not know: they choose the tuples.
pub(super) struct KeyHasher(SeedableRandomState);

impl KeyHasher {
    pub(super) fn new(seed: u64) -> Self {
        Self(SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()))
    }

    /// The key's parts packed into as few words as they need.
    pub(super) fn hash(&self, key: &EntryKey) -> u64 {
        let EntryKey { orig, netns, zone } = key;
        let mut hasher = self.0.build_hasher();
        hasher.write_u64(
            u64::from(orig.sport) << 48
                | u64::from(orig.dport) << 32
                | u64::from(zone.0) << 16
                | u64::from(orig.proto.0),
        );
        match (orig.src, orig.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                hasher.write_u64(u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits()));
            }
            (src, dst) => {
                hasher.write_u128(bits(src));
                hasher.write_u128(bits(dst));
            }
        }
        hasher.write_u32(netns.0);
        hasher.finish()
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn slot(chunks: &[Vec<Slot>], at: u32) -> &Slot {
    &chunks[at as usize >> CHUNK_BITS][at as usize & CHUNK_MASK]
}

/// Slots a chunk: just under a mebibyte.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: usize = 12;
const CHUNK_MASK: usize = CHUNK - 1;

// 1,048,576 of them and their index stay within 300 MiB.
const _: () = assert!(size_of::<Slot>() <= 240);
