//! Control messages: what travels on the control stream, one message a frame.
//!
//! Frozen: the fields of version 1 never change; what is new travels in `extensions`, or in a
//! kind of its own, which older sides skip. [`Message::encode`] and [`Message::decode`] are the
//! only ways between a message and a [`Frame`]; the bodies' shapes are private to them.

mod shape;

use flow::{BootId, BootNanos, Epoch, Seq, StoreId, UnixNanos};
use thiserror::Error;

use self::shape::{HelloV1, NackV1, PingV1, PongV1, RefusedV1, SeqV1, WelcomeV1};
use crate::codec::{self, CodecError};
use crate::field::{self, FieldError};
use crate::frame::{Digest, Frame, FrameError, Kind};

/// Fields that later versions add, by tag; unknown tags are ignored.
pub type Extensions = Vec<(u16, Vec<u8>)>;

/// Tag of a [`Digest`], 32 bytes: in a [`Welcome`] and an [`Ack`] that of the frame committed
/// under the number they name.
const COMMITTED_DIGEST: u16 = 1;

/// Tag of an empty extension: in a [`Nack`] it says that the number is taken by a frame with
/// other bytes.
const OTHER_BYTES: u16 = 1;

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
    /// For a person: what is wrong and what to do. Cut to [`field::MAX_TEXT`] bytes when encoded.
    pub message: String,
    /// Later fields.
    pub extensions: Extensions,
}

/// Why a session is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum RefuseReason {
    /// A number this version does not know; the message says more.
    Unknown = 0,
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

impl RefuseReason {
    /// The reason of a number; [`RefuseReason::Unknown`] where a later version made it.
    const fn from_wire(number: u16) -> Self {
        match number {
            1 => Self::WrongName,
            2 => Self::NameInUse,
            3 => Self::Revoked,
            4 => Self::Unavailable,
            5 => Self::TooManyNodes,
            6 => Self::Malformed,
            _ => Self::Unknown,
        }
    }
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
    /// Set it aside and send a gap in its place. The reason, for a person, is cut to
    /// [`field::MAX_TEXT`] bytes when encoded.
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

/// Why a message could not be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// A frame of flow data where control messages travel.
    #[error("a frame of kind {} is no control message", kind.0)]
    NotControl {
        /// The frame's kind.
        kind: Kind,
    },
    /// The body is not one of this message.
    #[error("the body of a control message of kind {} cannot be read or written", kind.0)]
    Body {
        /// The message's kind.
        kind: Kind,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// A field breaks its limit.
    #[error("a control message of kind {} breaks a limit", kind.0)]
    Field {
        /// The message's kind.
        kind: Kind,
        /// Which field.
        #[source]
        source: FieldError,
    },
    /// The frame cannot be made.
    #[error("a control message cannot be framed")]
    Frame(#[from] FrameError),
}

impl Welcome {
    /// Adds the digest of the frame that is committed under [`Welcome::committed`], so that a
    /// node that was rolled back sees that its own frame of that number is another one.
    #[must_use]
    pub fn with_committed_digest(mut self, digest: Option<Digest>) -> Self {
        set_digest(&mut self.extensions, digest);
        self
    }

    /// The digest of the frame that is committed under [`Welcome::committed`]; `None` where
    /// there is none, or an older aggregator does not say.
    #[must_use]
    pub fn committed_digest(&self) -> Option<Digest> {
        digest_in(&self.extensions)
    }
}

fn set_digest(extensions: &mut Extensions, digest: Option<Digest>) {
    extensions.retain(|(tag, _)| *tag != COMMITTED_DIGEST);
    if let Some(Digest(digest)) = digest {
        extensions.push((COMMITTED_DIGEST, digest.to_vec()));
    }
}

fn digest_in(extensions: &Extensions) -> Option<Digest> {
    let (_, bytes) = extensions.iter().find(|(tag, _)| *tag == COMMITTED_DIGEST)?;
    bytes.as_slice().try_into().ok().map(Digest)
}

impl Ack {
    /// An acknowledgement that says which frame was committed under its number, where that is
    /// known: a node with another one there has nothing acknowledged.
    #[must_use]
    pub fn of(seq: Seq, digest: Option<Digest>) -> Self {
        let mut extensions = Vec::new();
        set_digest(&mut extensions, digest);
        Self { seq, extensions }
    }

    /// See [`Ack::of`].
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        digest_in(&self.extensions)
    }
}

impl Nack {
    /// A rejection because the number is taken, committed or about to be, by other bytes. An
    /// older node sets the frame aside as it does any rejected one.
    #[must_use]
    pub fn other_bytes(seq: Seq, reason: String) -> Self {
        let extensions = vec![(OTHER_BYTES, Vec::new())];
        Self { seq, verdict: Verdict::Reject(reason), extensions }
    }

    /// Whether the number is taken by other bytes: see [`Nack::other_bytes`].
    #[must_use]
    pub fn is_other_bytes(&self) -> bool {
        let tagged = self.extensions.iter().any(|(tag, _)| *tag == OTHER_BYTES);
        tagged && matches!(self.verdict, Verdict::Reject(_))
    }
}

impl Message {
    /// The kind of the frame it travels in.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::HELLO,
            Self::Welcome(_) => Kind::WELCOME,
            Self::Refused(_) => Kind::REFUSED,
            Self::Ping(_) => Kind::PING,
            Self::Pong(_) => Kind::PONG,
            Self::Received(_) => Kind::RECEIVED,
            Self::Ack(_) => Kind::ACK,
            Self::Nack(_) => Kind::NACK,
        }
    }

    /// Encodes the message into a frame. Texts for a person are cut to their limit.
    ///
    /// # Errors
    /// A field or the whole body breaks its limit.
    pub fn encode(&self) -> Result<Frame, ControlError> {
        let kind = self.kind();
        self.check_names().map_err(|source| ControlError::Field { kind, source })?;
        let body = match self {
            Self::Hello(hello) => codec::encode(&HelloV1::from(hello)),
            Self::Welcome(welcome) => codec::encode(&WelcomeV1::from(welcome)),
            Self::Refused(refused) => codec::encode(&RefusedV1::from(refused)),
            Self::Ping(ping) => codec::encode(&PingV1::from(ping)),
            Self::Pong(pong) => codec::encode(&PongV1::from(pong)),
            Self::Received(received) => codec::encode(&SeqV1::from(received)),
            Self::Ack(ack) => codec::encode(&SeqV1::from(ack)),
            Self::Nack(nack) => codec::encode(&NackV1::from(nack)),
        }
        .map_err(|source| ControlError::Body { kind, source })?;
        Ok(Frame::new(kind, &body)?)
    }

    /// Decodes a frame of the control stream; `None` where its kind is not known here, which a
    /// reader skips.
    ///
    /// # Errors
    /// A data frame, a body that is not exactly one of its kind, a field beyond its limit.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, ControlError> {
        let kind = frame.kind();
        let body = frame.body();
        let message = match kind {
            Kind::HELLO => codec::decode::<HelloV1>(body).map(|shape| Self::Hello(shape.into())),
            Kind::WELCOME => {
                codec::decode::<WelcomeV1>(body).map(|shape| Self::Welcome(shape.into()))
            }
            Kind::REFUSED => {
                codec::decode::<RefusedV1>(body).map(|shape| Self::Refused(shape.into()))
            }
            Kind::PING => codec::decode::<PingV1>(body).map(|shape| Self::Ping(shape.into())),
            Kind::PONG => codec::decode::<PongV1>(body).map(|shape| Self::Pong(shape.into())),
            Kind::RECEIVED => {
                codec::decode::<SeqV1>(body).map(|shape| Self::Received(shape.into()))
            }
            Kind::ACK => codec::decode::<SeqV1>(body).map(|shape| Self::Ack(shape.into())),
            Kind::NACK => codec::decode::<NackV1>(body).map(|shape| Self::Nack(shape.into())),
            unknown if unknown.is_control() => return Ok(None),
            kind => return Err(ControlError::NotControl { kind }),
        }
        .map_err(|source| ControlError::Body { kind, source })?;
        message
            .check_names()
            .and_then(|()| message.check_texts())
            .map_err(|source| ControlError::Field { kind, source })?;
        Ok(Some(message))
    }

    /// The limits of what a machine reads: broken ones are errors on both sides.
    fn check_names(&self) -> Result<(), FieldError> {
        if let Self::Hello(hello) = self {
            field::check_name("node", &hello.node)?;
            field::check_name("source", &hello.source)?;
            field::check_version("kernel", &hello.kernel)?;
            field::check_version("version", &hello.version)?;
        }
        field::check_extensions(self.extensions())
    }

    /// The limits of what a person reads: encoding keeps them, decoding checks them.
    fn check_texts(&self) -> Result<(), FieldError> {
        match self {
            Self::Refused(refused) => field::check_text("message", &refused.message),
            Self::Nack(Nack { verdict: Verdict::Reject(reason), .. }) => {
                field::check_text("reject", reason)
            }
            _ => Ok(()),
        }
    }

    const fn extensions(&self) -> &Extensions {
        match self {
            Self::Hello(hello) => &hello.extensions,
            Self::Welcome(welcome) => &welcome.extensions,
            Self::Refused(refused) => &refused.extensions,
            Self::Ping(ping) => &ping.extensions,
            Self::Pong(pong) => &pong.extensions,
            Self::Received(received) => &received.extensions,
            Self::Ack(ack) => &ack.extensions,
            Self::Nack(nack) => &nack.extensions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(message: Message) -> Message {
        Message::decode(&message.encode().unwrap()).unwrap().unwrap()
    }

    #[test]
    fn extensions_of_this_version_travel_and_others_do_not_disturb() {
        let welcome = Welcome {
            store: StoreId([1; 16]),
            committed: Seq(3),
            max_unreceived: 16,
            max_frame: 1,
            time: UnixNanos(5),
            extensions: vec![(9, vec![1])],
        };
        assert_eq!(welcome.committed_digest(), None);
        let digest = Some(Digest([7; 32]));
        let told = welcome.clone().with_committed_digest(digest).with_committed_digest(digest);
        let Message::Welcome(heard) = round_trip(Message::Welcome(told)) else { panic!() };
        assert_eq!((heard.committed_digest(), heard.extensions.len()), (digest, 2));
        let short = Welcome { extensions: vec![(COMMITTED_DIGEST, vec![7; 31])], ..welcome };
        assert_eq!(short.committed_digest(), None, "what has not 32 bytes is no digest");

        let Message::Ack(ack) = round_trip(Message::Ack(Ack::of(Seq(4), digest))) else { panic!() };
        assert_eq!((ack.digest(), Ack::of(Seq(4), None).digest()), (digest, None));

        let taken = Nack::other_bytes(Seq(4), "taken".into());
        let Message::Nack(heard) = round_trip(Message::Nack(taken.clone())) else { panic!() };
        assert!(heard.is_other_bytes() && heard == taken);
        let verdict = Verdict::RetryAfter(1);
        assert!(!Nack { verdict, ..taken.clone() }.is_other_bytes());
        assert!(!Nack { extensions: Vec::new(), ..taken }.is_other_bytes());
    }
}
