//! Columns: how a sequence of integers lies in a batch's body, and the directory that lists them.
//!
//! The decompressed body is: number of columns u16, then for each column a directory entry (tag
//! u16, codec u16, values u32, bytes u32, little endian), then the columns' bytes in the same
//! order without gaps, to the end. So columns cannot overlap, and the lengths must add up.
//!
//! A column is always a sequence of unsigned integers; any codec may carry any column, so an
//! encoder may choose better ones without a change of the format:
//!
//! | codec | bytes |
//! |---|---|
//! | 0 constant | one varint, which all values equal; nothing where there are none |
//! | 1 varint | each value as LEB128 |
//! | 2 delta | each value less the one before (the first less 0), wrapping, zigzag, LEB128 |
//! | 3 planes | width w (u8, 0 to 8), least value (u64), then all first bytes of value - least, all second bytes, to the w-th |
//! | 4 dictionary | size n (u8, 0 = 256), n varints, then an index byte for each value |
//! | 5 bits | a bit for each value, lowest bit first; unused bits zero |

use bytes::{Buf, BufMut};

use super::BatchError;

/// Most columns a directory may list; version 1 knows 42.
pub(super) const MAX_COLUMNS: usize = 256;

/// Bytes of a directory entry.
const ENTRY_LEN: usize = 2 + 2 + 4 + 4;

/// A column's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(pub(super) u16);

/// How a column's values lie in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Codec {
    Constant = 0,
    Varint = 1,
    Delta = 2,
    Planes = 3,
    Dictionary = 4,
    Bits = 5,
}

impl Codec {
    const fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Constant,
            1 => Self::Varint,
            2 => Self::Delta,
            3 => Self::Planes,
            4 => Self::Dictionary,
            5 => Self::Bits,
            _ => return None,
        })
    }
}

/// A column of LEB128 values, encoded as they come.
#[derive(Default)]
pub(super) struct Varints {
    bytes: Vec<u8>,
    count: u32,
}

impl Varints {
    #[inline]
    pub(super) fn push(&mut self, value: u64) {
        put_varint(&mut self.bytes, value);
        self.count += 1;
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

/// A column of differences, encoded as its values come.
#[derive(Default)]
pub(super) struct Deltas {
    values: Varints,
    previous: u64,
}

impl Deltas {
    #[inline]
    pub(super) fn push(&mut self, value: u64) {
        self.values.push(zigzag(value.wrapping_sub(self.previous)));
        self.previous = value;
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
        self.previous = 0;
    }
}

/// Builds the decompressed body. Columns without values are left out.
#[derive(Default)]
pub(super) struct Writer {
    directory: Vec<u8>,
    data: Vec<u8>,
    columns: u16,
}

impl Writer {
    pub(super) fn clear(&mut self) {
        self.directory.clear();
        self.data.clear();
        self.columns = 0;
    }

    /// The body: directory, then data, in `out`.
    pub(super) fn assemble(&self, out: &mut Vec<u8>) {
        out.clear();
        out.reserve(2 + self.directory.len() + self.data.len());
        out.put_u16_le(self.columns);
        out.extend_from_slice(&self.directory);
        out.extend_from_slice(&self.data);
    }

    pub(super) fn varints(&mut self, tag: Tag, column: &Varints) {
        self.column(tag, Codec::Varint, column.count, |data| data.extend_from_slice(&column.bytes));
    }

    pub(super) fn deltas(&mut self, tag: Tag, column: &Deltas) {
        let Varints { bytes, count } = &column.values;
        self.column(tag, Codec::Delta, *count, |data| data.extend_from_slice(bytes));
    }

    pub(super) fn bits(&mut self, tag: Tag, values: &[bool]) {
        self.column(tag, Codec::Bits, count(values), |data| {
            let byte =
                |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
            data.extend(values.chunks(8).map(byte));
        });
    }

    /// As few whole bytes a value as hold them, a constant where all are equal.
    pub(super) fn planes<T: Copy + Into<u64>>(&mut self, tag: Tag, values: &[T]) {
        let (least, most) = range(values);
        if least == most {
            return self.constant(tag, count(values), least);
        }
        let width = 8 - (most - least).leading_zeros() / 8;
        self.column(tag, Codec::Planes, count(values), |data| {
            data.put_u8(width.to_le_bytes()[0]);
            data.put_u64_le(least);
            for plane in 0..width {
                let byte = |value: &T| low_byte(((*value).into() - least) >> (8 * plane));
                data.extend(values.iter().map(byte));
            }
        });
    }

    /// The smaller of planes and differences, judged by significant bits.
    pub(super) fn smooth(&mut self, tag: Tag, values: &[u64]) {
        let (least, most) = range(values);
        let bits = |value: u64| u64::from(64 - value.leading_zeros());
        let planes = bits(most - least) * values.len() as u64;
        let mut previous = 0;
        let mut deltas = 0;
        for value in values {
            deltas += bits(zigzag(value.wrapping_sub(previous)));
            previous = *value;
        }
        if planes <= deltas {
            return self.planes(tag, values);
        }
        self.column(tag, Codec::Delta, count(values), |data| {
            let mut previous = 0;
            for value in values {
                put_varint(data, zigzag(value.wrapping_sub(previous)));
                previous = *value;
            }
        });
    }

    /// A dictionary where at most 256 values differ, else varints.
    pub(super) fn few<T: Copy + Into<u64>>(&mut self, tag: Tag, values: &[T]) {
        let (least, most) = range(values);
        if least == most {
            return self.constant(tag, count(values), least);
        }
        let mut index = hashbrown::HashMap::<u64, u8, foldhash::fast::RandomState>::default();
        let mut words = Vec::new();
        let mut indices = Vec::with_capacity(values.len());
        for value in values {
            let value = (*value).into();
            let fresh = u8::try_from(words.len());
            let entry = index.entry(value);
            let found = match (entry, fresh) {
                (hashbrown::hash_map::Entry::Occupied(known), _) => *known.get(),
                (hashbrown::hash_map::Entry::Vacant(room), Ok(fresh)) => {
                    words.push(value);
                    *room.insert(fresh)
                }
                (hashbrown::hash_map::Entry::Vacant(_), Err(_)) => {
                    return self.column(tag, Codec::Varint, count(values), |data| {
                        values.iter().for_each(|value| put_varint(data, (*value).into()));
                    });
                }
            };
            indices.push(found);
        }
        self.column(tag, Codec::Dictionary, count(values), |data| {
            data.put_u8(low_byte(words.len() as u64));
            words.iter().for_each(|word| put_varint(data, *word));
            data.extend_from_slice(&indices);
        });
    }

    fn constant(&mut self, tag: Tag, count: u32, value: u64) {
        self.column(tag, Codec::Constant, count, |data| put_varint(data, value));
    }

    fn column(&mut self, tag: Tag, codec: Codec, count: u32, write: impl FnOnce(&mut Vec<u8>)) {
        if count == 0 {
            return;
        }
        let start = self.data.len();
        write(&mut self.data);
        let length = u32::try_from(self.data.len() - start).unwrap_or(u32::MAX);
        self.directory.put_u16_le(tag.0);
        self.directory.put_u16_le(codec as u16);
        self.directory.put_u32_le(count);
        self.directory.put_u32_le(length);
        self.columns += 1;
    }
}

/// The columns of a body, checked against each other but not decoded.
pub(super) struct Columns<'a> {
    columns: Vec<Column<'a>>,
}

#[derive(Clone, Copy)]
struct Column<'a> {
    tag: Tag,
    codec: u16,
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Columns<'a> {
    /// Reads the directory of a decompressed body: its lengths must add up to the body, and no
    /// tag may occur twice.
    pub(super) fn parse(plain: &'a [u8]) -> Result<Self, BatchError> {
        let mut rest = plain;
        let columns = usize::from(rest.try_get_u16_le().unwrap_or_default());
        if columns > MAX_COLUMNS {
            return Err(BatchError::TooManyColumns { columns });
        }
        let directory = 2 + columns * ENTRY_LEN;
        let Some((mut entries, mut data)) =
            plain.get(2..).and_then(|rest| rest.split_at_checked(directory - 2))
        else {
            return Err(BatchError::Directory { have: plain.len(), need: directory });
        };
        let mut out = Self { columns: Vec::with_capacity(columns) };
        while entries.has_remaining() {
            let tag = Tag(entries.get_u16_le());
            let codec = entries.get_u16_le();
            let count = entries.get_u32_le();
            let length = entries.get_u32_le() as usize;
            let Some((bytes, after)) = data.split_at_checked(length) else {
                return Err(BatchError::Directory { have: data.len(), need: length });
            };
            data = after;
            if out.find(tag).is_some() {
                return Err(BatchError::Duplicate { column: tag.0 });
            }
            out.columns.push(Column { tag, codec, count, bytes });
        }
        match data.len() {
            0 => Ok(out),
            extra => Err(BatchError::Unlisted { extra }),
        }
    }

    /// Values the column says it has; 0 where it is not there. At most `limit`.
    pub(super) fn count(&self, tag: Tag, limit: usize) -> Result<usize, BatchError> {
        let found = self.find(tag).map_or(0, |column| column.count) as usize;
        if found > limit {
            return Err(BatchError::Count { column: tag.0, expected: limit, found });
        }
        Ok(found)
    }

    /// Decodes a column of exactly `expected` values, each of which must fit its type.
    pub(super) fn read<T: TryFrom<u64>>(
        &self,
        tag: Tag,
        expected: usize,
    ) -> Result<Vec<T>, BatchError> {
        let Some(column) = self.find(tag) else {
            return match expected {
                0 => Ok(Vec::new()),
                _ => Err(BatchError::Missing { column: tag.0 }),
            };
        };
        let found = column.count as usize;
        if found != expected {
            return Err(BatchError::Count { column: tag.0, expected, found });
        }
        let codec = Codec::from_wire(column.codec)
            .ok_or(BatchError::Codec { column: tag.0, codec: column.codec })?;
        Decoder { tag, rest: column.bytes, out: Vec::with_capacity(expected), expected }.run(codec)
    }

    fn find(&self, tag: Tag) -> Option<&Column<'a>> {
        self.columns.iter().find(|column| column.tag == tag)
    }
}

/// Decodes one column; `expected` has been checked against the limits.
struct Decoder<'a, T> {
    tag: Tag,
    rest: &'a [u8],
    out: Vec<T>,
    expected: usize,
}

impl<T: TryFrom<u64>> Decoder<'_, T> {
    fn run(mut self, codec: Codec) -> Result<Vec<T>, BatchError> {
        match codec {
            _ if self.expected == 0 => {}
            Codec::Constant => {
                let value = self.varint()?;
                (0..self.expected).try_for_each(|_| self.push(value))?;
            }
            Codec::Varint => {
                for _ in 0..self.expected {
                    let value = self.varint()?;
                    self.push(value)?;
                }
            }
            Codec::Delta => {
                let mut value = 0u64;
                for _ in 0..self.expected {
                    value = value.wrapping_add(unzigzag(self.varint()?));
                    self.push(value)?;
                }
            }
            Codec::Planes => self.planes()?,
            Codec::Dictionary => self.dictionary()?,
            Codec::Bits => self.bits()?,
        }
        if self.rest.is_empty() { Ok(self.out) } else { Err(self.bad("has bytes left over")) }
    }

    fn planes(&mut self) -> Result<(), BatchError> {
        let width = usize::from(self.take(1)?.get_u8());
        let least = self.take(8)?.get_u64_le();
        if width > 8 {
            return Err(self.bad("has planes wider than 8 bytes"));
        }
        let planes = self.take(width * self.expected)?;
        let mut values = vec![0u64; self.expected];
        for (shift, plane) in planes.chunks_exact(self.expected).enumerate() {
            for (value, byte) in values.iter_mut().zip(plane) {
                *value |= u64::from(*byte) << (8 * shift);
            }
        }
        values.into_iter().try_for_each(|value| self.push(least.wrapping_add(value)))
    }

    fn dictionary(&mut self) -> Result<(), BatchError> {
        let size = match self.take(1)?.get_u8() {
            0 => 256,
            size => usize::from(size),
        };
        let words = (0..size).map(|_| self.varint()).collect::<Result<Vec<_>, _>>()?;
        for index in self.take(self.expected)? {
            let Some(word) = words.get(usize::from(*index)) else {
                return Err(self.bad("refers beyond its dictionary"));
            };
            self.push(*word)?;
        }
        Ok(())
    }

    fn bits(&mut self) -> Result<(), BatchError> {
        let bytes = self.take(self.expected.div_ceil(8))?;
        let unused = bytes.len() * 8 - self.expected;
        if bytes.last().is_some_and(|last| unused > 0 && last >> (8 - unused) != 0) {
            return Err(self.bad("has unused bits set"));
        }
        let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| u64::from(byte >> bit & 1)));
        bits.take(self.expected).try_for_each(|bit| self.push(bit))
    }

    #[inline]
    fn push(&mut self, value: u64) -> Result<(), BatchError> {
        match T::try_from(value) {
            Ok(value) => self.out.push(value),
            Err(_) => return Err(BatchError::Value { column: self.tag.0, value }),
        }
        Ok(())
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, BatchError> {
        get_varint(&mut self.rest).ok_or_else(|| self.bad("ends early or has an overlong integer"))
    }

    fn bad(&self, what: &'static str) -> BatchError {
        BatchError::Column { column: self.tag.0, what }
    }
}

impl<'a, T> Decoder<'a, T> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BatchError> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(BatchError::Column { column: self.tag.0, what: "ends early" });
        };
        self.rest = rest;
        Ok(taken)
    }
}

/// The zigzag form of a signed number given as its two's complement: small numbers of either
/// sign become small.
#[inline]
pub(super) const fn zigzag(value: u64) -> u64 {
    value << 1 ^ (value >> 63).wrapping_neg()
}

/// The inverse of [`zigzag`].
#[inline]
pub(super) const fn unzigzag(value: u64) -> u64 {
    value >> 1 ^ (value & 1).wrapping_neg()
}

/// Writes LEB128. Lengths vary without a pattern that a processor could predict, so the usual
/// numbers take no branch: eight bytes are written and the unused ones given back.
#[inline]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    if value >> 56 == 0 {
        let length = (70 - (value | 1).leading_zeros() as usize) / 7;
        let more = MORE & ((1 << (8 * (length - 1))) - 1);
        let start = out.len();
        out.extend_from_slice(&(spread(value) | more).to_le_bytes());
        out.truncate(start + length);
        return;
    }
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

/// Reads LEB128; `None` where the bytes end first or the number exceeds 64 bits. Without a branch
/// on the length, as in [`put_varint`], where eight bytes are at hand.
#[inline]
fn get_varint(bytes: &mut &[u8]) -> Option<u64> {
    if let Some(word) = bytes.first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let ends = !word & MORE;
        if ends != 0 {
            let length = ends.trailing_zeros() as usize / 8 + 1;
            *bytes = bytes.get(length..)?;
            // All bits up to the first end.
            return Some(gather(word & (ends ^ (ends - 1))));
        }
    }
    get_long_varint(bytes)
}

fn get_long_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            return None;
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The bit of each byte that says that another one follows.
const MORE: u64 = 0x8080_8080_8080_8080;

/// The low 56 bits, seven to a byte.
#[inline]
const fn spread(value: u64) -> u64 {
    let value = value & 0x0fff_ffff | (value & 0x00ff_ffff_f000_0000) << 4;
    let value = value & 0x0000_3fff_0000_3fff | (value & 0x0fff_c000_0fff_c000) << 2;
    value & 0x007f_007f_007f_007f | (value & 0x3f80_3f80_3f80_3f80) << 1
}

/// The inverse of [`spread`]; the highest bit of each byte is ignored.
#[inline]
const fn gather(value: u64) -> u64 {
    let value = value & 0x007f_007f_007f_007f | (value & 0x7f00_7f00_7f00_7f00) >> 1;
    let value = value & 0x0000_3fff_0000_3fff | (value & 0x3fff_0000_3fff_0000) >> 2;
    value & 0x0fff_ffff | (value & 0x0fff_ffff_0000_0000) >> 4
}

#[inline]
const fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// A batch holds at most 10,000 records, and no column has more values than four a record.
fn count<T>(values: &[T]) -> u32 {
    u32::try_from(values.len()).unwrap_or(u32::MAX)
}

fn range<T: Copy + Into<u64>>(values: &[T]) -> (u64, u64) {
    let all = values.iter().map(|value| (*value).into());
    all.fold(None, |range: Option<(u64, u64)>, value| {
        Some(range.map_or((value, value), |(least, most)| (least.min(value), most.max(value))))
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_leb128_of_every_length() {
        for bits in 0..=64u32 {
            let top = if bits == 0 { 0 } else { u64::MAX >> (64 - bits) };
            for value in [top, top.wrapping_add(1), top ^ 0x5555_5555_5555_5555 & top] {
                let mut expected = Vec::new();
                let mut rest = value;
                while rest >= 0x80 {
                    expected.push(low_byte(rest) | 0x80);
                    rest >>= 7;
                }
                expected.push(low_byte(rest));
                let mut found = vec![1, 2, 3];
                put_varint(&mut found, value);
                assert_eq!(found[3..], expected, "{value:#x}");
                // With bytes behind it, and at the end of the input.
                for behind in [0, 1, 8] {
                    let bytes = [&expected[..], &vec![0xff; behind]].concat();
                    let mut rest = bytes.as_slice();
                    assert_eq!(get_varint(&mut rest), Some(value));
                    assert_eq!(rest.len(), behind);
                }
                let mut cut = &expected[..expected.len() - 1];
                assert_eq!(get_varint(&mut cut), None);
            }
        }
    }

    #[test]
    fn numbers_of_more_than_64_bits_are_none() {
        let mut bytes = [0xffu8; 12].as_slice();
        assert_eq!(get_varint(&mut bytes), None);
        let mut bytes = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2].as_slice();
        assert_eq!(get_varint(&mut bytes), None);
    }

    #[test]
    fn zigzag_folds_both_signs() {
        for value in [0, 1, -1, 2, -2, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(value.cast_unsigned())).cast_signed(), value);
        }
        assert_eq!(zigzag((-1i64).cast_unsigned()), 1);
        assert_eq!(zigzag(1), 2);
    }
}
