//! A walk over netlink messages and attributes without copying (netlink(7), RFC 3549;
//! `include/uapi/linux/netlink.h`). Knows nothing of conntrack.
//!
//! Input is hostile: every length is checked against what is left, a bad one ends the walk with
//! an error, nothing panics.

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttrError {
    /// A length is shorter than its header or longer than what is left.
    #[error("a length of {length} where {left} bytes are left")]
    Length {
        /// The length found.
        length: usize,
        /// Bytes left, header included.
        left: usize,
    },
    /// Bytes too few to be a header.
    #[error("{left} bytes left over")]
    Rest {
        /// How many.
        left: usize,
    },
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr<'a> {
    /// Its type without the nested and byte-order bits.
    pub kind: u16,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Attr<'a> {
    /// The attributes inside this one.
    #[must_use]
    pub const fn nested(self) -> Attrs<'a> {
        Attrs::new(self.value)
    }

    /// The value as a byte.
    #[must_use]
    pub fn u8(self) -> Option<u8> {
        self.value.first().copied()
    }

    /// The value as a big-endian number.
    #[must_use]
    pub fn be16(self) -> Option<u16> {
        self.value.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// The value as a big-endian number.
    #[must_use]
    pub fn be32(self) -> Option<u32> {
        self.value.first_chunk().copied().map(u32::from_be_bytes)
    }

    /// The value as a big-endian number.
    #[must_use]
    pub fn be64(self) -> Option<u64> {
        self.value.first_chunk().copied().map(u64::from_be_bytes)
    }
}

/// The attributes in a run of bytes, in order; the first error is the last item.
#[derive(Clone, Copy, Debug)]
pub struct Attrs<'a> {
    left: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// The attributes in `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, AttrError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left;
        if left.is_empty() {
            return None;
        }
        self.left = &[];
        let Some(&[l0, l1, t0, t1]) = left.first_chunk() else {
            return Some(Err(AttrError::Rest { left: left.len() }));
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([t0, t1]) & TYPE_MASK;
        let Some(value) = left.get(ATTR_HEADER..length) else {
            return Some(Err(AttrError::Length { length, left: left.len() }));
        };
        self.left = left.get(aligned(length)..).unwrap_or_default();
        Some(Ok(Attr { kind, value }))
    }
}

/// One netlink message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub seq: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The messages in one datagram, in order; the first error is the last item.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a> {
    left: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in `datagram`.
    #[must_use]
    pub const fn new(datagram: &'a [u8]) -> Self {
        Self { left: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, AttrError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left;
        if left.is_empty() {
            return None;
        }
        self.left = &[];
        let Some(&[l0, l1, l2, l3, t0, t1, f0, f1, s0, s1, s2, s3, ..]) =
            left.first_chunk::<MESSAGE_HEADER>()
        else {
            return Some(Err(AttrError::Rest { left: left.len() }));
        };
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some(body) = left.get(MESSAGE_HEADER..length) else {
            return Some(Err(AttrError::Length { length, left: left.len() }));
        };
        self.left = left.get(aligned(length)..).unwrap_or_default();
        Some(Ok(Message {
            kind: u16::from_ne_bytes([t0, t1]),
            flags: u16::from_ne_bytes([f0, f1]),
            seq: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        }))
    }
}

/// Lengths are padded to a multiple of four; `length` is at most that of a slice.
const fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// `struct nlmsghdr`.
pub const MESSAGE_HEADER: usize = 16;

/// `struct nlattr`.
pub const ATTR_HEADER: usize = 4;

/// Everything but `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, length: u16, value: &[u8]) -> Vec<u8> {
        let mut out = length.to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out
    }

    #[test]
    fn flags_are_masked_and_padding_skipped() {
        let mut bytes = attr(0x8000 | 7, 5, &[9, 0, 0, 0]);
        bytes.extend(attr(0x4000 | 8, 8, &[0, 0, 1, 2]));
        let found: Vec<_> = Attrs::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(found[0], Attr { kind: 7, value: &[9] });
        assert_eq!((found[1].kind, found[1].be32()), (8, Some(0x102)));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].be16(), None);
    }

    #[test]
    fn the_last_padding_may_be_missing() {
        let bytes = attr(1, 6, &[1, 2]);
        let found: Vec<_> = Attrs::new(&bytes).collect();
        assert_eq!(found, [Ok(Attr { kind: 1, value: &[1, 2] })]);
    }

    #[test]
    fn wrong_lengths_end_the_walk() {
        for (length, left) in [(0u16, 8usize), (3, 8), (9, 8), (u16::MAX, 8)] {
            let bytes = attr(1, length, &[0; 4]);
            let found: Vec<_> = Attrs::new(&bytes).collect();
            let length = usize::from(length);
            assert_eq!(found, [Err(AttrError::Length { length, left })]);
        }
        let found: Vec<_> = Attrs::new(&[1, 0, 0]).collect();
        assert_eq!(found, [Err(AttrError::Rest { left: 3 })]);
    }

    #[test]
    fn messages_are_cut_by_their_lengths() {
        let mut bytes = Vec::new();
        for (length, seq) in [(18u32, 7u32), (16, 8)] {
            bytes.extend(length.to_ne_bytes());
            bytes.extend(3u16.to_ne_bytes());
            bytes.extend(2u16.to_ne_bytes());
            bytes.extend(seq.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(if length > 16 { vec![1, 2, 0, 0] } else { vec![] });
        }
        let found: Vec<_> = Messages::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(found[0], Message { kind: 3, flags: 2, seq: 7, body: &[1, 2] });
        assert_eq!(found[1], Message { kind: 3, flags: 2, seq: 8, body: &[] });
        let found: Vec<_> = Messages::new(&bytes[..17]).collect();
        assert_eq!(found, [Err(AttrError::Length { length: 18, left: 17 })]);
    }
}
