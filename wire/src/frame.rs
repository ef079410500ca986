//! Frames: the envelope of everything that travels or lies in a spool.
//!
//! Not a reader: nothing here does I/O. Who reads from a stream reads [`HEADER_LEN`] bytes, asks
//! [`Header::parse`], which checks magic, version and every limit, and only then allocates
//! [`Header::frame_len`] bytes and hands them to [`Frame::parse`], which checks the digest. A
//! spool segment is a plain concatenation of frames: [`Frame::parse_prefix`] walks it.

use bytes::{BufMut, Bytes};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The protocol name agreed on in the TLS handshake (ALPN, RFC 7301).
pub const ALPN: &[u8] = b"conntracct/1";

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"ctct";

/// Protocol version of this module.
pub const VERSION: u16 = 1;

/// Bytes of a frame's header: magic 4, version u16, kind u16, length u32 (little endian), and
/// the digest.
pub const HEADER_LEN: usize = 4 + 2 + 2 + 4 + 32;

/// The largest frame, header included.
pub const MAX_FRAME: usize = 4 << 20;

/// The largest body of a control frame ([`Kind::is_control`]).
pub const MAX_CONTROL_BODY: usize = 16 << 10;

/// SHA-256 over all other header fields and the body as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

impl Kind {
    /// [`control::Hello`](crate::control::Hello)
    pub const HELLO: Self = Self(1);
    /// [`control::Welcome`](crate::control::Welcome)
    pub const WELCOME: Self = Self(2);
    /// [`control::Refused`](crate::control::Refused)
    pub const REFUSED: Self = Self(3);
    /// [`control::Ping`](crate::control::Ping)
    pub const PING: Self = Self(4);
    /// [`control::Pong`](crate::control::Pong)
    pub const PONG: Self = Self(5);
    /// [`control::Received`](crate::control::Received)
    pub const RECEIVED: Self = Self(6);
    /// [`control::Ack`](crate::control::Ack)
    pub const ACK: Self = Self(7);
    /// [`control::Nack`](crate::control::Nack)
    pub const NACK: Self = Self(8);
    /// A batch of records.
    pub const BATCH: Self = Self(16);
    /// Numbers that carry no records, and why.
    pub const GAP: Self = Self(17);

    /// Whether frames of this kind travel on the control stream: the numbers below 16, known or
    /// not. Their bodies are bounded by [`MAX_CONTROL_BODY`].
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.0 < 16
    }

    /// Whether frames of this kind are numbered and lie in a spool.
    #[must_use]
    pub const fn is_data(self) -> bool {
        !self.is_control()
    }

    /// The largest frame of this kind in bytes, header included.
    #[must_use]
    pub const fn max_frame(self) -> usize {
        if self.is_control() { HEADER_LEN + MAX_CONTROL_BODY } else { MAX_FRAME }
    }
}

/// A frame's parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is; unknown kinds are skipped.
    pub kind: Kind,
    /// Bytes of the body.
    pub length: u32,
    /// The digest the sender wrote.
    pub digest: Digest,
}

impl Header {
    /// Parses a header: magic, then version, then the limit of its kind. The digest is not
    /// checked: the body is not here yet.
    ///
    /// # Errors
    /// [`FrameError::Magic`], [`FrameError::Version`] or [`FrameError::TooLarge`].
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [m0, m1, m2, m3, v0, v1, k0, k1, l0, l1, l2, l3, digest @ ..] = *bytes;
        let found = [m0, m1, m2, m3];
        if found != MAGIC {
            return Err(FrameError::Magic { found });
        }
        let found = u16::from_le_bytes([v0, v1]);
        if found != VERSION {
            return Err(FrameError::Version { found });
        }
        let kind = Kind(u16::from_le_bytes([k0, k1]));
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let header = Self { kind, length, digest: Digest(digest) };
        check_length(kind, header.frame_len())?;
        Ok(header)
    }

    /// Parses the header at the start of `bytes`, whatever follows it.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] where there are fewer than [`HEADER_LEN`] bytes, else as
    /// [`Header::parse`].
    pub fn peek(bytes: &[u8]) -> Result<Self, FrameError> {
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(FrameError::Truncated { have: bytes.len(), need: HEADER_LEN });
        };
        Self::parse(head)
    }

    /// Bytes of the whole frame, header included. At most [`MAX_FRAME`] for a parsed header.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        HEADER_LEN.saturating_add(self.length as usize)
    }

    /// Bytes of the body. At most [`MAX_FRAME`] less [`HEADER_LEN`] for a parsed header.
    #[must_use]
    pub const fn body_len(&self) -> usize {
        self.length as usize
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut rest = out.as_mut_slice();
        rest.put_slice(&signed_fields(self.kind, self.length));
        rest.put_slice(&self.digest.0);
        out
    }
}

/// The digest of a frame: SHA-256 (FIPS 180-4) over magic, version, kind and length as they lie
/// in the header, then the body as sent. `length` is that of the body.
#[must_use]
pub fn digest_of(kind: Kind, length: u32, body: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(signed_fields(kind, length));
    hash.update(body);
    Digest(hash.finalize().into())
}

/// A whole frame whose digest has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// All its bytes, header included.
    pub bytes: Bytes,
}

impl Frame {
    /// Wraps a body: computes the header and its digest.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] where the body exceeds the limit of its kind.
    pub fn new(kind: Kind, body: &[u8]) -> Result<Self, FrameError> {
        let mut bytes = Vec::with_capacity(HEADER_LEN.saturating_add(body.len()));
        bytes.resize(HEADER_LEN, 0);
        bytes.extend_from_slice(body);
        Self::seal(kind, bytes)
    }

    /// [`Frame::new`] without a copy: `bytes` starts with [`HEADER_LEN`] bytes of room.
    pub(crate) fn seal(kind: Kind, mut bytes: Vec<u8>) -> Result<Self, FrameError> {
        let total = bytes.len();
        check_length(kind, total)?;
        let Some((room, body)) = bytes.split_first_chunk_mut::<HEADER_LEN>() else {
            return Err(FrameError::Truncated { have: total, need: HEADER_LEN });
        };
        let Ok(length) = u32::try_from(body.len()) else {
            return Err(FrameError::TooLarge { length: total, limit: MAX_FRAME });
        };
        let header = Header { kind, length, digest: digest_of(kind, length, body) };
        *room = header.encode();
        Ok(Self { header, bytes: bytes.into() })
    }

    /// Parses exactly one frame and checks its digest. No copy is made.
    ///
    /// # Errors
    /// Any [`FrameError`]; [`FrameError::Trailing`] where bytes follow the frame.
    pub fn parse(bytes: Bytes) -> Result<Self, FrameError> {
        let (frame, next) = Self::parse_prefix(&bytes, 0)?;
        if next != bytes.len() {
            return Err(FrameError::Trailing { extra: bytes.len() - next });
        }
        Ok(frame)
    }

    /// Parses the frame that starts at `offset` and checks its digest; says where the next one
    /// starts. The frame shares the memory of `bytes`.
    ///
    /// At the end of `bytes`, and inside a frame whose tail is missing, the answer is
    /// [`FrameError::Truncated`]; `have` is 0 exactly at the end.
    ///
    /// # Errors
    /// Any [`FrameError`] but [`FrameError::Trailing`].
    pub fn parse_prefix(bytes: &Bytes, offset: usize) -> Result<(Self, usize), FrameError> {
        let rest = bytes.get(offset..).unwrap_or_default();
        let header = Header::peek(rest)?;
        let need = header.frame_len();
        let Some(body) = rest.get(HEADER_LEN..need) else {
            return Err(FrameError::Truncated { have: rest.len(), need });
        };
        if digest_of(header.kind, header.length, body) != header.digest {
            return Err(FrameError::Digest);
        }
        let next = offset + need;
        Ok((Self { header, bytes: bytes.slice(offset..next) }, next))
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.header.kind
    }

    /// The bytes after the header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Too few bytes.
    #[error("truncated frame: {have} of {need} bytes")]
    Truncated {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Not ours.
    #[error("not a conntracct frame (it starts with {found:02x?})")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Another major version.
    #[error("protocol version {found} is not spoken here (only {VERSION}); upgrade the older side")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Larger than [`Kind::max_frame`].
    #[error("a frame of {length} bytes exceeds the limit of {limit} for its kind")]
    TooLarge {
        /// Bytes of the whole frame.
        length: usize,
        /// The limit it exceeds.
        limit: usize,
    },
    /// Bytes follow where exactly one frame was expected.
    #[error("{extra} bytes follow the frame")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// The bytes are not what the sender signed.
    #[error("digest mismatch: the frame was damaged on its way or on disk")]
    Digest,
}

const fn check_length(kind: Kind, length: usize) -> Result<(), FrameError> {
    let limit = kind.max_frame();
    if length > limit { Err(FrameError::TooLarge { length, limit }) } else { Ok(()) }
}

/// The header without its digest.
fn signed_fields(kind: Kind, length: u32) -> [u8; HEADER_LEN - 32] {
    let mut out = [0; HEADER_LEN - 32];
    let mut rest = out.as_mut_slice();
    rest.put_slice(&MAGIC);
    rest.put_u16_le(VERSION);
    rest.put_u16_le(kind.0);
    rest.put_u32_le(length);
    out
}
