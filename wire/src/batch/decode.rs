//! Reads batches: columns in, records out. Everything is checked against what the header said
//! before it is allocated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::vec::IntoIter;

use flow::entry::Zone;
use flow::{
    Birth, BootId, BootNanos, Counters, FlowNo, NetnsId, NetnsInode, Proto, Record, RecordFlags,
    Status, TcpState, Tuple,
};

use super::column::{Columns, Tag, unzigzag};
use super::layout::*;
use super::{BatchError, BatchHeader, compress, header};
use crate::frame::{Frame, Kind};

/// Reads a batch's header without decompressing anything.
///
/// # Errors
/// The frame is no batch, its header is cut off, or it announces more than the limits allow.
pub fn peek(frame: &Frame) -> Result<BatchHeader, BatchError> {
    parse_header(frame).map(|(header, _)| header)
}

/// Reads a batch: exactly as many records as its header says, in the order they were pushed.
///
/// Memory: at most [`BatchHeader::decode_memory`]; the declared size is checked before anything
/// is allocated, and decompression stops there.
///
/// # Errors
/// Any way in which the bytes are not a batch of version 1; see [`BatchError`].
pub fn decode(frame: &Frame) -> Result<(BatchHeader, Vec<Record>), BatchError> {
    let (header, packed) = parse_header(frame)?;
    let plain = compress::unpack(header.compression, packed, header.decompressed as usize)?;
    let columns = Columns::parse(&plain)?;
    let records = Decoder::new(&columns, &header)?.records()?;
    Ok((header, records))
}

fn parse_header(frame: &Frame) -> Result<(BatchHeader, &[u8]), BatchError> {
    let kind = frame.kind();
    if kind != Kind::BATCH {
        return Err(BatchError::NotBatch { kind });
    }
    header::parse(frame.body())
}

/// All columns of a batch, decoded.
struct Decoder {
    records: usize,
    classes: Vec<Class>,
    class: Values<u16>,
    flow: Values<u64>,
    addresses: Addresses,
    ports: [Values<u16>; 4],
    start: Values<u64>,
    kernel_id: Values<u32>,
    mark: Values<u32>,
    own: Values<u8>,
    since: Values<u64>,
    until: Values<u64>,
    delta: [Values<u64>; 4],
    base: [Values<u64>; 4],
    offset: [Values<u64>; 4],
    stop: Values<u64>,
    /// The last `since` that was not told by its own start.
    shared: u64,
    wall_less_boot: u64,
}

impl Decoder {
    fn new(columns: &Columns<'_>, header: &BatchHeader) -> Result<Self, BatchError> {
        let records = header.records as usize;
        let classes = read_classes(columns, records)?;
        let class: Vec<u16> = columns.read(CLASS, records)?;
        let mut shapes = [0usize; 8];
        for index in &class {
            let class = entry(&classes, CLASS, u64::from(*index))?;
            for (bit, count) in shapes.iter_mut().enumerate() {
                *count += usize::from(class.shape >> bit & 1);
            }
        }
        let [_, ids, reply_src, reply_dst, reply_sport, reply_dport, offsets, stops] = shapes;
        let addresses =
            [(SRC, records), (DST, records), (REPLY_SRC, reply_src), (REPLY_DST, reply_dst)];
        let ports = [
            (SPORT, records),
            (DPORT, records),
            (REPLY_SPORT, reply_sport),
            (REPLY_DPORT, reply_dport),
        ];
        Ok(Self {
            records,
            classes,
            class: Values { tag: CLASS, values: class.into_iter() },
            flow: Values::read(columns, FLOW, records)?,
            addresses: Addresses::read(columns, addresses)?,
            ports: Values::read_four(columns, ports)?,
            start: Values::read(columns, START, records - ids)?,
            kernel_id: Values::read(columns, KERNEL_ID, ids)?,
            mark: Values::read(columns, MARK, records)?,
            own: Values::read(columns, SINCE_OWN, records)?,
            since: Values::read(columns, SINCE, records)?,
            until: Values::read(columns, UNTIL, records)?,
            delta: Values::read_four(columns, DELTA.map(|tag| (tag, records)))?,
            base: Values::read_four(columns, BASE.map(|tag| (tag, records)))?,
            offset: Values::read_four(columns, OFFSET.map(|tag| (tag, offsets)))?,
            stop: Values::read(columns, STOP, stops)?,
            shared: header.interval.sweep_begin.0,
            wall_less_boot: wall_less_boot(&header.interval),
        })
    }

    fn records(mut self) -> Result<Vec<Record>, BatchError> {
        let mut records = Vec::with_capacity(self.records);
        for _ in 0..self.records {
            records.push(self.record()?);
        }
        Ok(records)
    }

    fn record(&mut self) -> Result<Record, BatchError> {
        let index = self.class.next()?;
        let class = *entry(&self.classes, CLASS, u64::from(index))?;
        let (orig, reply) = self.tuples(class)?;
        let birth = if class.has(SHAPE_ID) {
            Birth::Id(self.kernel_id.next()?)
        } else {
            match self.start.next()? {
                0 => return Err(BatchError::Value { column: START.0, value: 0 }),
                start => Birth::Start(start),
            }
        };
        let since = self.since(birth)?;
        let until = self.until.next()?;
        let delta = next_four(&mut self.delta)?;
        let base = next_four(&mut self.base)?;
        let cum = std::array::from_fn(|i| base[i].wrapping_add(delta[i]));
        let offset =
            if class.has(SHAPE_OFFSET) { next_four(&mut self.offset)? } else { Default::default() };
        let stop = if class.has(SHAPE_STOP) {
            unzigzag(self.stop.next()?).wrapping_add(self.wall_less_boot).wrapping_add(until)
        } else {
            0
        };
        Ok(Record {
            flow: FlowNo(self.flow.next()?),
            netns: class.netns,
            zone: class.zone,
            orig,
            reply,
            birth,
            mark: self.mark.next()?,
            status: class.status,
            tcp: class.tcp,
            flags: class.flags,
            since: BootNanos(since),
            until: BootNanos(until),
            cum: Counters::from_components(cum),
            delta: Counters::from_components(delta),
            offset: Counters::from_components(offset),
            stop,
        })
    }

    /// Original and reply tuple; the reply is the inverse of the original but for the parts
    /// that the shape names.
    fn tuples(&mut self, class: Class) -> Result<(Tuple, Tuple), BatchError> {
        let v6 = class.has(SHAPE_V6);
        let [sport, dport, reply_sport, reply_dport] = &mut self.ports;
        let orig = Tuple {
            src: self.addresses.next(0, v6)?,
            dst: self.addresses.next(1, v6)?,
            sport: sport.next()?,
            dport: dport.next()?,
            proto: class.proto,
        };
        let mut reply = orig.inverse();
        if class.has(SHAPE_REPLY_SRC) {
            reply.src = self.addresses.next(2, v6)?;
        }
        if class.has(SHAPE_REPLY_DST) {
            reply.dst = self.addresses.next(3, v6)?;
        }
        if class.has(SHAPE_REPLY_SPORT) {
            reply.sport = reply_sport.next()?;
        }
        if class.has(SHAPE_REPLY_DPORT) {
            reply.dport = reply_dport.next()?;
        }
        Ok((orig, reply))
    }

    fn since(&mut self, birth: Birth) -> Result<u64, BatchError> {
        let distance = unzigzag(self.since.next()?);
        match (self.own.next()?, birth) {
            (0, _) => {
                self.shared = self.shared.wrapping_add(distance);
                Ok(self.shared)
            }
            (1, Birth::Start(start)) => {
                Ok(start.wrapping_sub(self.wall_less_boot).wrapping_add(distance))
            }
            (value, _) => Err(BatchError::Value { column: SINCE_OWN.0, value: u64::from(value) }),
        }
    }
}

/// Fields that many records share.
#[derive(Clone, Copy)]
struct Class {
    netns: NetnsId,
    zone: Zone,
    proto: Proto,
    tcp: TcpState,
    status: Status,
    flags: RecordFlags,
    shape: u8,
}

impl Class {
    const fn has(&self, bit: u8) -> bool {
        self.shape & bit != 0
    }
}

fn read_classes(columns: &Columns<'_>, records: usize) -> Result<Vec<Class>, BatchError> {
    let netns = read_netns(columns, records)?;
    let count = columns.count(CLASS_SHAPE, records)?;
    let mut index = Values::<u16>::read(columns, CLASS_NETNS, count)?;
    let mut zone = Values::read(columns, CLASS_ZONE, count)?;
    let mut proto = Values::read(columns, CLASS_PROTO, count)?;
    let mut tcp = Values::read(columns, CLASS_TCP, count)?;
    let mut status = Values::<u16>::read(columns, CLASS_STATUS, count)?;
    let mut flags = Values::read(columns, CLASS_FLAGS, count)?;
    let mut shape = Values::read(columns, CLASS_SHAPE, count)?;
    let class = |_| {
        Ok(Class {
            netns: *entry(&netns, CLASS_NETNS, u64::from(index.next()?))?,
            zone: Zone(zone.next()?),
            proto: Proto(proto.next()?),
            tcp: TcpState(tcp.next()?),
            status: Status(u32::from(status.next()?)),
            flags: RecordFlags(flags.next()?),
            shape: shape.next()?,
        })
    };
    (0..count).map(class).collect()
}

fn read_netns(columns: &Columns<'_>, records: usize) -> Result<Vec<NetnsId>, BatchError> {
    let count = columns.count(NETNS_INODE, records)?;
    let inodes = columns.read(NETNS_INODE, count)?;
    let boots = read_128(columns, NETNS_BOOT, count)?;
    let netns = |(inode, boot): (u32, u128)| NetnsId {
        inode: NetnsInode(inode),
        boot: BootId(boot.to_be_bytes()),
    };
    Ok(inodes.into_iter().zip(boots).map(netns).collect())
}

fn read_128(columns: &Columns<'_>, tags: [Tag; 2], count: usize) -> Result<Vec<u128>, BatchError> {
    let high: Vec<u64> = columns.read(tags[0], count)?;
    let low: Vec<u64> = columns.read(tags[1], count)?;
    let whole = |(high, low)| u128::from(high) << 64 | u128::from(low);
    Ok(high.into_iter().zip(low).map(whole).collect())
}

/// The addresses of all records: their codes, and the dictionaries those refer to.
struct Addresses {
    v4: Vec<u32>,
    v6: Vec<u128>,
    /// Entries of each dictionary that were used already.
    used: [usize; 2],
    /// Original source and destination, reply source and destination.
    codes: [Values<u32>; 4],
}

impl Addresses {
    fn read(columns: &Columns<'_>, codes: [(Tag, usize); 4]) -> Result<Self, BatchError> {
        let limit = codes.iter().map(|(_, count)| count).sum();
        let v4 = columns.read(V4, columns.count(V4, limit)?)?;
        let v6 = read_128(columns, V6, columns.count(V6[0], limit)?)?;
        Ok(Self { v4, v6, used: [0; 2], codes: Values::read_four(columns, codes)? })
    }

    fn next(&mut self, place: usize, v6: bool) -> Result<IpAddr, BatchError> {
        let codes = &mut self.codes[place];
        let used = &mut self.used[usize::from(v6)];
        let index = match codes.next()? {
            0 => {
                *used += 1;
                *used as u64 - 1
            }
            known => u64::from(known) - 1,
        };
        if v6 {
            entry(&self.v6, codes.tag, index).map(|bits| Ipv6Addr::from_bits(*bits).into())
        } else {
            entry(&self.v4, codes.tag, index).map(|bits| Ipv4Addr::from_bits(*bits).into())
        }
    }
}

/// A decoded column, read once from its first value to its last.
struct Values<T> {
    tag: Tag,
    values: IntoIter<T>,
}

impl<T: TryFrom<u64>> Values<T> {
    fn read(columns: &Columns<'_>, tag: Tag, count: usize) -> Result<Self, BatchError> {
        Ok(Self { tag, values: columns.read(tag, count)?.into_iter() })
    }

    fn read_four(columns: &Columns<'_>, tags: [(Tag, usize); 4]) -> Result<[Self; 4], BatchError> {
        let [a, b, c, d] = tags.map(|(tag, count)| Self::read(columns, tag, count));
        Ok([a?, b?, c?, d?])
    }

    /// The next value. The counts were checked when the column was read, so there is one.
    #[inline]
    fn next(&mut self) -> Result<T, BatchError> {
        self.values.next().ok_or(BatchError::Missing { column: self.tag.0 })
    }
}

#[inline]
fn next_four(columns: &mut [Values<u64>; 4]) -> Result<[u64; 4], BatchError> {
    let [a, b, c, d] = columns;
    Ok([a.next()?, b.next()?, c.next()?, d.next()?])
}

/// An entry of a dictionary.
#[inline]
fn entry<T>(dictionary: &[T], tag: Tag, index: u64) -> Result<&T, BatchError> {
    let size = dictionary.len();
    let found = usize::try_from(index).ok().and_then(|index| dictionary.get(index));
    found.ok_or(BatchError::Reference { column: tag.0, index, size })
}
