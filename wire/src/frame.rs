//! Frames: the envelope of everything that travels or lies in a spool.

use bytes::Bytes;
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

/// A whole frame whose digest has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// All its bytes, header included.
    pub bytes: Bytes,
}

impl Frame {
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
    /// Larger than [`MAX_FRAME`].
    #[error("a frame of {length} bytes exceeds the limit of {MAX_FRAME}")]
    TooLarge {
        /// Bytes of the whole frame.
        length: usize,
    },
    /// The bytes are not what the sender signed.
    #[error("digest mismatch: the frame was damaged on its way or on disk")]
    Digest,
}
