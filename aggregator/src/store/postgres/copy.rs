//! Rows as `COPY ... FROM STDIN (FORMAT binary)` takes them; pure.
//!
//! The format is PostgreSQL's "COPY, Binary Format" (sql-copy in its manual): a header, then each
//! row as its number of fields and each field as its length and its bytes in network order, then a
//! trailer. Numbers that could be too large for their column are checked, never cast.

use std::net::IpAddr;

use flow::UnixNanos;

/// A value that no column can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DoesNotFit(pub(super) &'static str);

/// Rows on their way to the server.
#[derive(Debug)]
pub(super) struct Encoder {
    bytes: Vec<u8>,
    columns: u16,
}

impl Encoder {
    /// An encoder of rows of so many columns, the header written; it grows to about `room` bytes.
    pub(super) fn new(columns: u16, room: usize) -> Self {
        let mut bytes = Vec::with_capacity(room);
        bytes.extend_from_slice(SIGNATURE);
        // No flags, no extension of the header.
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes, columns }
    }

    /// What has been written since the last [`Encoder::clear`].
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets what has been written and keeps its room.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Begins a row.
    pub(super) fn row(&mut self) {
        self.bytes.extend_from_slice(&self.columns.to_be_bytes());
    }

    /// Ends the copy.
    pub(super) fn end(&mut self) {
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
    }

    fn field<const N: usize>(&mut self, length: i32, value: [u8; N]) {
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(&value);
    }

    /// NULL.
    pub(super) fn null(&mut self) {
        self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    /// `int2`
    pub(super) fn int2(&mut self, value: impl Into<i16>) {
        self.field(2, value.into().to_be_bytes());
    }

    /// `int4`
    pub(super) fn int4(&mut self, value: impl Into<i32>) {
        self.field(4, value.into().to_be_bytes());
    }

    /// `int4`, or NULL.
    pub(super) fn int4_or_null(&mut self, value: Option<i32>) {
        match value {
            Some(value) => self.int4(value),
            None => self.null(),
        }
    }

    /// `int8`
    pub(super) fn int8(&mut self, value: impl Into<i64>) {
        self.field(8, value.into().to_be_bytes());
    }

    /// `int8`, or NULL.
    pub(super) fn int8_or_null(&mut self, value: Option<i64>) {
        match value {
            Some(value) => self.int8(value),
            None => self.null(),
        }
    }

    /// `int8` of a number that must fit.
    pub(super) fn checked(&mut self, value: u64, what: &'static str) -> Result<(), DoesNotFit> {
        self.int8(i64::try_from(value).map_err(|_over| DoesNotFit(what))?);
        Ok(())
    }

    /// The same, below zero where it is taken back.
    pub(super) fn signed(
        &mut self,
        value: u64,
        back: bool,
        what: &'static str,
    ) -> Result<(), DoesNotFit> {
        let value = i64::try_from(value).map_err(|_over| DoesNotFit(what))?;
        self.int8(if back { -value } else { value });
        Ok(())
    }

    /// `int8` of a number for persons, kept up to the largest the column has.
    pub(super) fn clamped(&mut self, value: u64) {
        self.int8(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// `bool`
    pub(super) fn flag(&mut self, value: bool) {
        self.field(1, [u8::from(value)]);
    }

    /// `timestamptz`, in microseconds, rounded towards the past.
    pub(super) fn time(&mut self, value: UnixNanos) {
        self.int8(micros_of(value));
    }

    /// `timestamptz`, or NULL.
    pub(super) fn time_or_null(&mut self, value: Option<UnixNanos>) {
        self.int8_or_null(value.map(micros_of));
    }

    /// `uuid`
    pub(super) fn name(&mut self, value: [u8; 16]) {
        self.field(16, value);
    }

    /// `bytea`, 32 bytes of it.
    pub(super) fn digest(&mut self, value: [u8; 32]) {
        self.field(32, value);
    }

    /// `text`. It cannot hold NUL, which becomes U+FFFD.
    ///
    /// # Errors
    /// Longer than a field can be.
    pub(super) fn text(&mut self, value: &str) -> Result<(), DoesNotFit> {
        let clean = value.replace('\0', "\u{fffd}");
        let length =
            i32::try_from(clean.len()).map_err(|_over| DoesNotFit("a text is too long"))?;
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(clean.as_bytes());
        Ok(())
    }

    /// `inet`
    pub(super) fn address(&mut self, value: &IpAddr) {
        match value {
            IpAddr::V4(v4) => {
                self.field(8, [INET_V4, 32, NO_CIDR, 4]);
                self.bytes.extend_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                self.field(20, [INET_V6, 128, NO_CIDR, 16]);
                self.bytes.extend_from_slice(&v6.octets());
            }
        }
    }

    /// `inet`, or NULL.
    pub(super) fn address_or_null(&mut self, value: Option<&IpAddr>) {
        match value {
            Some(value) => self.address(value),
            None => self.null(),
        }
    }
}

/// A time as PostgreSQL counts it: microseconds since 2000-01-01T00:00:00Z.
pub(super) const fn micros_of(time: UnixNanos) -> i64 {
    time.micros_floor() - EPOCH_MICROS
}

/// 2000-01-01T00:00:00Z in microseconds since 1970.
pub(super) const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// `PGSQL_AF_INET` and `PGSQL_AF_INET6` of PostgreSQL's `utils/inet.h`.
pub(super) const INET_V4: u8 = 2;
/// See [`INET_V4`].
pub(super) const INET_V6: u8 = 3;
/// An `inet`, not a `cidr`.
const NO_CIDR: u8 = 0;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_as_the_manual_has_them() {
        let mut rows = Encoder::new(12, 0);
        rows.row();
        rows.int2(-2_i16);
        rows.int4(70_000_i32);
        rows.int4_or_null(None);
        rows.int8(-1_i64);
        rows.checked(9, "").unwrap();
        rows.clamped(u64::MAX);
        rows.flag(true);
        rows.time(UnixNanos(EPOCH_MICROS * 1_000 - 1));
        rows.name([7; 16]);
        rows.text("a\0b").unwrap();
        rows.address(&"10.1.2.3".parse().unwrap());
        rows.address_or_null(Some(&"fd00::1".parse().unwrap()));
        rows.end();
        let mut expected = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x0c".to_vec();
        for field in [
            &[0, 0, 0, 2, 0xff, 0xfe][..],
            &[0, 0, 0, 4, 0, 1, 0x11, 0x70],
            &[0xff; 4],
            &[0, 0, 0, 8, 255, 255, 255, 255, 255, 255, 255, 255],
            &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9],
            &[0, 0, 0, 8, 0x7f, 255, 255, 255, 255, 255, 255, 255],
            &[0, 0, 0, 1, 1],
            // A nanosecond before the epoch is a microsecond before it.
            &[0, 0, 0, 8, 255, 255, 255, 255, 255, 255, 255, 255],
            &[0, 0, 0, 16, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7],
            &[0, 0, 0, 5, b'a', 0xef, 0xbf, 0xbd, b'b'],
            &[0, 0, 0, 8, 2, 32, 0, 4, 10, 1, 2, 3],
            &[0, 0, 0, 20, 3, 128, 0, 16, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0xff, 0xff],
        ] {
            expected.extend_from_slice(field);
        }
        assert_eq!(rows.bytes(), expected);
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let mut rows = Encoder::new(1, 0);
        assert_eq!(rows.checked(1 << 63, "a counter"), Err(DoesNotFit("a counter")));
        assert!(rows.checked((1 << 63) - 1, "a counter").is_ok());
    }
}
