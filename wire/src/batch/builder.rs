//! Builds batches: records in, columns out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flow::{Birth, Family, Interval, NetnsId, Record, Seq, Tuple};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::column::{Deltas, Varints, Writer, zigzag};
use super::compress::Packer;
use super::layout::*;
use super::{BatchError, BatchHeader, Compression, MAX_RECORDS, PushError, header};
use crate::frame::{Frame, HEADER_LEN, Kind};

/// Collects records and makes a frame of them. Made once and used for one batch after the
/// other: it keeps its memory (about 2 MiB once it has held a full batch).
///
/// Bound: [`MAX_RECORDS`]. When full, [`Builder::push`] refuses and the caller finishes the
/// batch first.
pub struct Builder {
    packer: Packer,
    records: u32,
    netns: Dictionary<NetnsId>,
    classes: Dictionary<Class>,
    v4: Dictionary<Ipv4Addr>,
    v6: Dictionary<Ipv6Addr>,
    class: Vec<u16>,
    flow: Vec<u64>,
    addresses: [Varints; 4],
    ports: [Vec<u16>; 4],
    /// One a record; 0 where there is none.
    start: Vec<u64>,
    kernel_id: Varints,
    mark: Vec<u32>,
    since: Vec<u64>,
    until: Deltas,
    delta: [Varints; 4],
    base: [Varints; 4],
    offset: [Varints; 4],
    /// Stop less `until`, of the records that have a stop.
    stop: Vec<u64>,
    writer: Writer,
    plain: Vec<u8>,
}

impl Builder {
    /// An empty builder.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            packer: Packer::new(compression),
            records: 0,
            netns: Dictionary::default(),
            classes: Dictionary::default(),
            v4: Dictionary::default(),
            v6: Dictionary::default(),
            class: Vec::new(),
            flow: Vec::new(),
            addresses: Default::default(),
            ports: Default::default(),
            start: Vec::new(),
            kernel_id: Varints::default(),
            mark: Vec::new(),
            since: Vec::new(),
            until: Deltas::default(),
            delta: Default::default(),
            base: Default::default(),
            offset: Default::default(),
            stop: Vec::new(),
            writer: Writer::default(),
            plain: Vec::new(),
        }
    }

    /// Records in the batch so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records as usize
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether there are [`MAX_RECORDS`].
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len() >= MAX_RECORDS
    }

    /// Adds a record.
    ///
    /// # Errors
    /// The batch is full, or the record is none that the kernel can have made. The builder is
    /// unchanged then.
    pub fn push(&mut self, record: &Record) -> Result<(), PushError> {
        if self.is_full() {
            return Err(PushError::Full);
        }
        let shape = shape_of(record)?;
        let netns = self.netns.index(record.netns).0;
        let class = Class {
            netns,
            zone: record.zone.0,
            proto: record.orig.proto.0,
            tcp: record.tcp.0,
            status: low_half(record.status.0),
            flags: record.flags.0,
            shape,
        };
        self.class.push(self.classes.index(class).0);
        self.flow.push(record.flow.0);
        self.push_tuples(record, shape);
        match record.birth {
            Birth::Start(start) => self.start.push(start),
            Birth::Id(id) => {
                self.start.push(0);
                self.kernel_id.push(u64::from(id));
            }
        }
        self.mark.push(record.mark);
        self.since.push(record.since.0);
        self.until.push(record.until.0);
        let (cum, delta) = (record.cum.components(), record.delta.components());
        for i in 0..4 {
            self.delta[i].push(delta[i]);
            self.base[i].push(cum[i].wrapping_sub(delta[i]));
        }
        if shape & SHAPE_OFFSET != 0 {
            let offset = record.offset.components();
            self.offset.iter_mut().zip(offset).for_each(|(column, value)| column.push(value));
        }
        if shape & SHAPE_STOP != 0 {
            self.stop.push(record.stop.wrapping_sub(record.until.0));
        }
        self.records += 1;
        Ok(())
    }

    fn push_tuples(&mut self, record: &Record, shape: u8) {
        let Record { orig, reply, .. } = record;
        let [src, dst, reply_src, reply_dst] = &mut self.addresses;
        let mut code = |address| match address {
            IpAddr::V4(address) => self.v4.code(address),
            IpAddr::V6(address) => self.v6.code(address),
        };
        src.push(code(orig.src));
        dst.push(code(orig.dst));
        if shape & SHAPE_REPLY_SRC != 0 {
            reply_src.push(code(reply.src));
        }
        if shape & SHAPE_REPLY_DST != 0 {
            reply_dst.push(code(reply.dst));
        }
        let [sport, dport, reply_sport, reply_dport] = &mut self.ports;
        sport.push(orig.sport);
        dport.push(orig.dport);
        if shape & SHAPE_REPLY_SPORT != 0 {
            reply_sport.push(reply.sport);
        }
        if shape & SHAPE_REPLY_DPORT != 0 {
            reply_dport.push(reply.dport);
        }
    }

    /// Makes a frame of the records. The builder is empty after that, whatever the outcome.
    ///
    /// # Errors
    /// The compressor failed, or the frame exceeds its limit, which [`MAX_RECORDS`] records of
    /// the worst kind do not.
    pub fn finish(&mut self, seq: Seq, interval: &Interval) -> Result<Frame, BatchError> {
        self.write(interval);
        let frame = self.frame(seq, interval);
        self.clear();
        frame
    }

    fn frame(&mut self, seq: Seq, interval: &Interval) -> Result<Frame, BatchError> {
        let decompressed = u32::try_from(self.plain.len()).unwrap_or(u32::MAX);
        let header = BatchHeader {
            seq,
            interval: *interval,
            records: self.records,
            compression: self.packer.compression(),
            decompressed,
        };
        let mut bytes = Vec::with_capacity(HEADER_LEN + header::FIXED_LEN + self.plain.len() / 2);
        bytes.resize(HEADER_LEN, 0);
        header::put(&mut bytes, &header);
        let mut bytes = self.packer.pack(&self.plain, bytes)?;
        bytes.shrink_to_fit();
        Ok(Frame::seal(Kind::BATCH, bytes)?)
    }

    /// Writes all columns to `plain`.
    fn write(&mut self, interval: &Interval) {
        self.writer.clear();
        self.write_dictionaries();
        let writer = &mut self.writer;
        writer.planes(CLASS, &self.class);
        writer.smooth(FLOW, &self.flow);
        for (tag, column) in [SRC, DST, REPLY_SRC, REPLY_DST].into_iter().zip(&self.addresses) {
            writer.varints(tag, column);
        }
        for (tag, column) in [SPORT, DPORT, REPLY_SPORT, REPLY_DPORT].into_iter().zip(&self.ports) {
            writer.planes(tag, column);
        }
        writer.few(MARK, &self.mark);
        writer.deltas(UNTIL, &self.until);
        for (tags, columns) in [(DELTA, &self.delta), (BASE, &self.base), (OFFSET, &self.offset)] {
            for (tag, column) in tags.into_iter().zip(columns) {
                writer.varints(tag, column);
            }
        }
        self.write_times(interval);
        self.writer.assemble(&mut self.plain);
    }

    fn write_dictionaries(&mut self) {
        let writer = &mut self.writer;
        let netns = &self.netns.entries;
        writer.few(NETNS_INODE, &column(netns, |netns| netns.inode.0));
        let boots = column(netns, |netns| halves(netns.boot.0));
        for (half, tag) in NETNS_BOOT.into_iter().enumerate() {
            writer.few(tag, &column(&boots, |boot| boot[half]));
        }
        let classes = &self.classes.entries;
        writer.few(CLASS_NETNS, &column(classes, |class| class.netns));
        writer.few(CLASS_ZONE, &column(classes, |class| class.zone));
        writer.few(CLASS_PROTO, &column(classes, |class| class.proto));
        writer.few(CLASS_TCP, &column(classes, |class| class.tcp));
        writer.few(CLASS_STATUS, &column(classes, |class| class.status));
        writer.few(CLASS_FLAGS, &column(classes, |class| class.flags));
        writer.few(CLASS_SHAPE, &column(classes, |class| class.shape));
        writer.planes(V4, &column(&self.v4.entries, |address| address.to_bits()));
        let v6 = column(&self.v6.entries, |address| halves(address.octets()));
        for (half, tag) in V6.into_iter().enumerate() {
            writer.few(tag, &column(&v6, |address| address[half]));
        }
    }

    /// Start, `since` and stop: they are told by each other, with the help of the header's
    /// clocks. Whatever those say, what is told is exact.
    fn write_times(&mut self, interval: &Interval) {
        let offset = wall_less_boot(interval);
        let mut shared = interval.sweep_begin.0;
        let mut own = Vec::with_capacity(self.since.len());
        let mut since = Varints::default();
        for (&value, &start) in self.since.iter().zip(&self.start) {
            let by_shared = zigzag(value.wrapping_sub(shared));
            let by_start = zigzag(value.wrapping_sub(start.wrapping_sub(offset)));
            let is_own = start != 0 && by_start < by_shared;
            own.push(is_own);
            since.push(if is_own { by_start } else { by_shared });
            if !is_own {
                shared = value;
            }
        }
        let mut stop = Varints::default();
        self.stop.iter().for_each(|value| stop.push(zigzag(value.wrapping_sub(offset))));
        self.start.retain(|start| *start != 0);
        let writer = &mut self.writer;
        writer.smooth(START, &self.start);
        writer.varints(KERNEL_ID, &self.kernel_id);
        writer.bits(SINCE_OWN, &own);
        writer.varints(SINCE, &since);
        writer.varints(STOP, &stop);
    }

    fn clear(&mut self) {
        self.records = 0;
        self.netns.clear();
        self.classes.clear();
        self.v4.clear();
        self.v6.clear();
        self.class.clear();
        self.flow.clear();
        self.ports.iter_mut().for_each(Vec::clear);
        self.start.clear();
        self.kernel_id.clear();
        self.mark.clear();
        self.since.clear();
        self.until.clear();
        self.stop.clear();
        for columns in [&mut self.addresses, &mut self.delta, &mut self.base, &mut self.offset] {
            columns.iter_mut().for_each(Varints::clear);
        }
    }
}

/// What many records of a batch share.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Class {
    netns: u16,
    zone: u16,
    proto: u8,
    tcp: u8,
    status: u16,
    flags: u16,
    shape: u8,
}

/// Distinct values in order of first use. At most four a record, so the index fits 16 bits.
struct Dictionary<T> {
    indices: HashMap<T, u16, RandomState>,
    entries: Vec<T>,
    last: Option<(T, u16)>,
}

impl<T> Default for Dictionary<T> {
    fn default() -> Self {
        Self { indices: HashMap::default(), entries: Vec::new(), last: None }
    }
}

impl<T: Copy + Eq + std::hash::Hash> Dictionary<T> {
    /// The index of a value, and whether it is new.
    #[inline]
    fn index(&mut self, value: T) -> (u16, bool) {
        if let Some((last, index)) = self.last
            && last == value
        {
            return (index, false);
        }
        let next = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        let (index, new) = match self.indices.entry(value) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(room) => {
                self.entries.push(value);
                (*room.insert(next), true)
            }
        };
        self.last = Some((value, index));
        (index, new)
    }

    /// 0 for a new value, else its index + 1.
    #[inline]
    fn code(&mut self, value: T) -> u64 {
        match self.index(value) {
            (_, true) => 0,
            (index, false) => u64::from(index) + 1,
        }
    }

    fn clear(&mut self) {
        self.indices.clear();
        self.entries.clear();
        self.last = None;
    }
}

/// The record's shape, or why it cannot be told.
fn shape_of(record: &Record) -> Result<u8, PushError> {
    let Record { flow, orig, reply, birth, .. } = *record;
    let v6 = orig.family() == Family::V6;
    let families = [orig.dst, reply.src, reply.dst].iter().all(|address| address.is_ipv6() == v6);
    if !families || orig.proto != reply.proto {
        return Err(PushError::Tuples { flow });
    }
    if birth == Birth::Start(0) {
        return Err(PushError::Start { flow });
    }
    let Tuple { src, dst, sport, dport, .. } = orig.inverse();
    let bits = [
        (SHAPE_V6, v6),
        (SHAPE_ID, birth.start().is_none()),
        (SHAPE_REPLY_SRC, reply.src != src),
        (SHAPE_REPLY_DST, reply.dst != dst),
        (SHAPE_REPLY_SPORT, reply.sport != sport),
        (SHAPE_REPLY_DPORT, reply.dport != dport),
        (SHAPE_OFFSET, !record.offset.is_zero()),
        (SHAPE_STOP, record.stop != 0),
    ];
    Ok(bits.iter().fold(0, |shape, (bit, set)| if *set { shape | bit } else { shape }))
}

fn column<T, U>(entries: &[T], field: impl Fn(&T) -> U) -> Vec<U> {
    entries.iter().map(field).collect()
}

fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_be_bytes(bytes);
    let low = u64::try_from(whole & u128::from(u64::MAX)).unwrap_or_default();
    let high = u64::try_from(whole >> 64).unwrap_or_default();
    [high, low]
}

fn low_half(status: u32) -> u16 {
    let [a, b, ..] = status.to_le_bytes();
    u16::from_le_bytes([a, b])
}
