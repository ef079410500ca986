//! Numbers in as few bytes as they take: base 128, the low seven bits first (LEB128), differences
//! with their sign in the lowest bit. Times, entries and labels are told as differences to the
//! ones before them: within a group they are near each other.

use std::time::Duration;

use super::super::{EntryRef, Label};
use crate::units::UnixNanos;

/// What differences are told to.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    time: i64,
    entry: i64,
    label: i64,
}

/// Writes numbers.
#[derive(Debug)]
pub(super) struct Writer<'b> {
    /// What is written, and room behind it: numbers are written eight bytes at a time.
    bytes: &'b mut Vec<u8>,
    written: usize,
    last: Last,
}

impl<'b> Writer<'b> {
    /// Writes into `bytes`, of which nothing stays.
    pub(super) fn new(bytes: &'b mut Vec<u8>) -> Self {
        Self { bytes, written: 0, last: Last::default() }
    }

    /// The same, told to nothing before it.
    pub(super) fn begin(&mut self) {
        self.last = Last::default();
    }

    /// How much is written.
    pub(super) const fn written(&self) -> usize {
        self.written
    }

    /// All that was written.
    pub(super) fn finish(self) -> &'b mut [u8] {
        self.bytes.get_mut(..self.written).unwrap_or_default()
    }

    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        self.put([byte; 8], 1);
    }

    pub(super) fn slice(&mut self, slice: &[u8]) {
        let end = self.written + slice.len();
        if self.bytes.len() < end {
            self.bytes.resize(end + MORE, 0);
        }
        if let Some(room) = self.bytes.get_mut(self.written..end) {
            room.copy_from_slice(slice);
        }
        self.written = end;
    }

    /// Writes over what is there at the beginning.
    pub(super) fn put_first(&mut self, slice: &[u8]) {
        if let Some(first) = self.bytes.get_mut(..slice.len()) {
            first.copy_from_slice(slice);
        }
    }

    #[inline]
    pub(super) fn number(&mut self, number: u64) {
        if number < 0x80 {
            self.byte(number.to_le_bytes()[0]);
        } else {
            self.larger(number);
        }
    }

    /// A number of more than seven bits.
    fn larger(&mut self, mut number: u64) {
        let (mut eight, mut length) = (0, 1);
        while number >= 0x80 {
            if length == 8 {
                // The last two have a byte each.
                self.put((eight | (number & 0x7f | 0x80) << 56).to_le_bytes(), 8);
                return self.number(number >> 7);
            }
            eight |= (number & 0x7f | 0x80) << (8 * (length - 1));
            number >>= 7;
            length += 1;
        }
        self.put((eight | number << (8 * (length - 1))).to_le_bytes(), length);
    }

    /// Writes the first `length` of eight bytes.
    #[inline]
    fn put(&mut self, bytes: [u8; 8], length: usize) {
        if self.bytes.len() < self.written + 8 {
            self.bytes.resize(self.written + MORE, 0);
        }
        if let Some(room) = self.bytes.get_mut(self.written..self.written + 8) {
            room.copy_from_slice(&bytes);
        }
        self.written += length;
    }

    /// A time that those after it are told to.
    pub(super) fn base(&mut self, time: UnixNanos) {
        self.put(time.0.to_le_bytes(), 8);
        self.last.time = time.0;
    }

    /// A time in eight bytes, that can be changed where it stands.
    pub(super) fn place(&mut self, time: UnixNanos) {
        self.put(time.0.to_le_bytes(), 8);
    }

    #[inline]
    pub(super) fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// What a number is more or less than was to be expected.
    #[inline]
    pub(super) fn beyond(&mut self, number: u64, expected: u64) {
        self.signed(number.wrapping_sub(expected).cast_signed());
    }

    #[inline]
    pub(super) fn time(&mut self, time: UnixNanos) {
        self.signed(time.0.wrapping_sub(self.last.time));
        self.last.time = time.0;
    }

    #[inline]
    pub(super) fn entry(&mut self, EntryRef(entry): EntryRef) {
        self.signed(entry.wrapping_sub(self.last.entry));
        self.last.entry = entry;
    }

    #[inline]
    pub(super) fn label(&mut self, Label(label): Label) {
        self.signed(label.wrapping_sub(self.last.label));
        self.last.label = label;
    }

    pub(super) fn duration(&mut self, duration: Duration) {
        self.number(duration.as_secs());
        self.number(duration.subsec_nanos().into());
    }

    #[inline]
    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)).cast_unsigned());
    }
}

/// Reads what a [`Writer`] wrote; behind its end are zeros.
#[derive(Clone, Debug)]
pub(super) struct Reader<'b> {
    bytes: &'b [u8],
    last: Last,
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, last: Last::default() }
    }

    #[inline]
    pub(super) fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *byte
    }

    pub(super) fn slice(&mut self, length: usize) -> &'b [u8] {
        let (slice, rest) = self.bytes.split_at_checked(length).unwrap_or_default();
        self.bytes = rest;
        slice
    }

    #[inline]
    pub(super) fn number(&mut self) -> u64 {
        if let [byte @ ..0x80, rest @ ..] = self.bytes {
            self.bytes = rest;
            return u64::from(*byte);
        }
        self.larger()
    }

    /// A number of more than seven bits.
    fn larger(&mut self) -> u64 {
        let Some(eight) = self.bytes.first_chunk() else { return self.last_number() };
        let eight = u64::from_le_bytes(*eight);
        let ends = !eight & 0x8080_8080_8080_8080;
        if ends == 0 {
            return self.last_number();
        }
        let length = ends.trailing_zeros() / 8 + 1;
        self.bytes = usize::try_from(length)
            .ok()
            .and_then(|length| self.bytes.get(length..))
            .unwrap_or_default();
        gather(eight & (u64::MAX >> (64 - 8 * length)))
    }

    /// A number of more than eight bytes, or among the last eight.
    #[cold]
    fn last_number(&mut self) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }

    /// What [`Writer::base`] wrote.
    pub(super) fn base(&mut self) {
        self.last.time = self.place().0;
    }

    /// What [`Writer::place`] wrote.
    pub(super) fn place(&mut self) -> UnixNanos {
        let Some((eight, rest)) = self.bytes.split_first_chunk() else { return UnixNanos(0) };
        self.bytes = rest;
        UnixNanos(i64::from_le_bytes(*eight))
    }

    /// How much is left to be read.
    pub(super) const fn left(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    pub(super) fn count(&mut self) -> usize {
        usize::try_from(self.number()).unwrap_or(usize::MAX)
    }

    #[inline]
    pub(super) fn beyond(&mut self, expected: u64) -> u64 {
        expected.wrapping_add(self.signed().cast_unsigned())
    }

    #[inline]
    pub(super) fn time(&mut self) -> UnixNanos {
        self.last.time = self.last.time.wrapping_add(self.signed());
        UnixNanos(self.last.time)
    }

    #[inline]
    pub(super) fn entry(&mut self) -> EntryRef {
        self.last.entry = self.last.entry.wrapping_add(self.signed());
        EntryRef(self.last.entry)
    }

    #[inline]
    pub(super) fn label(&mut self) -> Label {
        self.last.label = self.last.label.wrapping_add(self.signed());
        Label(self.last.label)
    }

    pub(super) fn duration(&mut self) -> Duration {
        let seconds = self.number();
        Duration::new(seconds, u32::try_from(self.number()).unwrap_or_default())
    }

    #[inline]
    fn signed(&mut self) -> i64 {
        let number = self.number();
        (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
    }
}

/// Room that a writer makes when it needs some.
const MORE: usize = 512;

/// The number of which seven bits are in each byte; the eighth is ignored.
const fn gather(bytes: u64) -> u64 {
    let number = (bytes & 0x007f_007f_007f_007f) | (bytes & 0x7f00_7f00_7f00_7f00) >> 1;
    let number = (number & 0x0000_3fff_0000_3fff) | (number & 0x3fff_0000_3fff_0000) >> 2;
    (number & 0x0fff_ffff) | (number & 0x0fff_ffff_0000_0000) >> 4
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As many bits as not.
    fn number() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64u32).prop_map(|(number, less)| number >> less)
    }

    proptest! {
        #[test]
        fn all_that_is_written_is_read(
            numbers in prop::collection::vec((number(), any::<i64>(), 0..30usize), 0..20),
        ) {
            let mut bytes = vec![7; 3];
            let mut writer = Writer::new(&mut bytes);
            for (number, signed, length) in &numbers {
                writer.number(*number);
                writer.beyond(*number, signed.cast_unsigned());
                writer.time(UnixNanos(*signed));
                writer.entry(EntryRef(*signed));
                writer.label(Label(*signed));
                writer.duration(Duration::from_nanos(*number));
                writer.byte(7);
                writer.slice(&[3; 30][..*length]);
            }
            let written = writer.finish();
            let mut reader = Reader::new(written);
            for (number, signed, length) in numbers {
                prop_assert_eq!(reader.number(), number);
                prop_assert_eq!(reader.beyond(signed.cast_unsigned()), number);
                prop_assert_eq!(reader.time(), UnixNanos(signed));
                prop_assert_eq!(reader.entry(), EntryRef(signed));
                prop_assert_eq!(reader.label(), Label(signed));
                prop_assert_eq!(reader.duration(), Duration::from_nanos(number));
                prop_assert_eq!(reader.byte(), 7);
                prop_assert_eq!(reader.slice(length), vec![3; length]);
            }
            prop_assert_eq!(reader.number(), 0, "nothing is left");
        }
    }

    #[test]
    fn numbers_take_a_byte_for_seven_bits() {
        for (number, length) in
            [(0, 1), (0x7f, 1), (0x80, 2), (1 << 55, 8), ((1 << 56) - 1, 8), (1 << 56, 9)]
                .into_iter()
                .chain([((1 << 63) - 1, 9), (1 << 63, 10), (u64::MAX, 10)])
        {
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes);
            writer.number(number);
            let written = writer.finish();
            assert_eq!(written.len(), length, "{number:#x}");
            assert_eq!(Reader::new(written).number(), number);
        }
    }

    #[test]
    fn times_near_each_other_take_few() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.time(UnixNanos(1_700_000_000_000_000_000));
        assert_eq!(writer.written(), 9);
        writer.time(UnixNanos(1_699_999_999_999_999_999));
        writer.beyond(5, 5);
        assert_eq!(writer.written(), 11);
    }
}
