//! Control messages. Frozen: v1 fields never change; what is new travels in `extensions`.

use flow::{BootId, BootNanos, Epoch, Seq, StoreId, UnixNanos};

/// Fields that later versions add, by tag; unknown tags are ignored.
pub type Extensions = Vec<(u16, Vec<u8>)>;

/// A node's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The node's name, which must be the one in its certificate.
    pub node: String,
    /// Its spool's epoch.
    pub epoch: Epoch,
    /// Its current boot.
    pub boot: BootId,
    /// Its source: `netlink`, `ebpf`, `replay`.
    pub source: String,
    /// `uname -r`.
    pub kernel: String,
    /// The node's version.
    pub version: String,
    /// The oldest frame not acknowledged; `next` where there is none.
    pub first_unacknowledged: Seq,
    /// The number of the next frame to be written.
    pub next: Seq,
    /// The store that acknowledged this epoch's frames, if any ever did.
    pub store: Option<StoreId>,
    /// Later fields.
    pub extensions: Extensions,
}

/// The aggregator's answer: the session is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The store behind this aggregator.
    pub store: StoreId,
    /// Last committed number of this (node, epoch).
    pub committed: Seq,
    /// Frames that may be on their way without `Received`.
    pub max_unreceived: u32,
    /// Largest frame taken, in bytes.
    pub max_frame: u32,
    /// The aggregator's wall clock.
    pub time: UnixNanos,
    /// Later fields.
    pub extensions: Extensions,
}

/// The aggregator refuses the session; the connection closes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Closed set, for machines.
    pub reason: RefuseReason,
    /// For a person: what is wrong and what to do.
    pub message: String,
    /// Later fields.
    pub extensions: Extensions,
}

/// Why a session is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum RefuseReason {
    /// `Hello` names another node than the certificate.
    WrongName = 1,
    /// A live session of this name has another epoch.
    NameInUse = 2,
    /// The certificate's serial is unknown or revoked.
    Revoked = 3,
    /// The store cannot be asked now; come back.
    Unavailable = 4,
    /// Too many nodes.
    TooManyNodes = 5,
    /// Malformed `Hello`.
    Malformed = 6,
}

/// Sent by the node to measure the clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The node's boottime when it sent this.
    pub sent: BootNanos,
    /// The offset the node computed from the last `Pong` (aggregator wall less node boottime,
    /// ns), so that both sides know it.
    pub offset: Option<i64>,
    /// Later fields.
    pub extensions: Extensions,
}

/// The answer to a [`Ping`]; with the node's receive time it makes the four time stamps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// [`Ping::sent`], back.
    pub sent: BootNanos,
    /// Aggregator's wall clock when the ping arrived.
    pub received: UnixNanos,
    /// Aggregator's wall clock when this left.
    pub answered: UnixNanos,
    /// Later fields.
    pub extensions: Extensions,
}

/// A frame arrived whole; it is not durable yet. Frees the send window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The frame's last number.
    pub seq: Seq,
    /// Later fields.
    pub extensions: Extensions,
}

/// Everything up to `seq` is committed. Frees the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The last committed number.
    pub seq: Seq,
    /// Later fields.
    pub extensions: Extensions,
}

/// A frame was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Its number.
    pub seq: Seq,
    /// What to do with it.
    pub verdict: Verdict,
    /// Later fields.
    pub extensions: Extensions,
}

/// What to do with a frame that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it again after this many milliseconds.
    RetryAfter(u32),
    /// Set it aside and send a gap in its place.
    Reject(String),
}

/// Any control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// See [`Refused`].
    Refused(Refused),
    /// See [`Ping`].
    Ping(Ping),
    /// See [`Pong`].
    Pong(Pong),
    /// See [`Received`].
    Received(Received),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Nack`].
    Nack(Nack),
}
