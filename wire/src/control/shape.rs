//! The frozen shapes of control bodies, version 1, and their conversions.
//!
//! Field order is the format: nothing here is ever reordered, added or removed. What is new
//! travels in `extensions`.

use bincode::{Decode, Encode};
use flow::{BootId, BootNanos, Epoch, Seq, StoreId, UnixNanos};

use super::{
    Ack, Extensions, Hello, Nack, Ping, Pong, Received, RefuseReason, Refused, Verdict, Welcome,
};
use crate::field::cut_text;

#[derive(Encode, Decode)]
pub(super) struct HelloV1 {
    node: String,
    epoch: [u8; 16],
    boot: [u8; 16],
    source: String,
    kernel: String,
    version: String,
    first_unacknowledged: u64,
    next: u64,
    store: Option<[u8; 16]>,
    extensions: Extensions,
}

#[derive(Encode, Decode)]
pub(super) struct WelcomeV1 {
    store: [u8; 16],
    committed: u64,
    max_unreceived: u32,
    max_frame: u32,
    time: i64,
    extensions: Extensions,
}

#[derive(Encode, Decode)]
pub(super) struct RefusedV1 {
    reason: u16,
    message: String,
    extensions: Extensions,
}

#[derive(Encode, Decode)]
pub(super) struct PingV1 {
    sent: u64,
    offset: Option<i64>,
    extensions: Extensions,
}

#[derive(Encode, Decode)]
pub(super) struct PongV1 {
    sent: u64,
    received: i64,
    answered: i64,
    extensions: Extensions,
}

/// `Received` and `Ack`.
#[derive(Encode, Decode)]
pub(super) struct SeqV1 {
    seq: u64,
    extensions: Extensions,
}

#[derive(Encode, Decode)]
pub(super) struct NackV1 {
    seq: u64,
    verdict: VerdictV1,
    extensions: Extensions,
}

#[derive(Encode, Decode)]
enum VerdictV1 {
    RetryAfter(u32),
    Reject(String),
}

impl From<&Hello> for HelloV1 {
    fn from(hello: &Hello) -> Self {
        let Hello {
            node,
            epoch,
            boot,
            source,
            kernel,
            version,
            first_unacknowledged,
            next,
            store,
            extensions,
        } = hello.clone();
        Self {
            node,
            epoch: epoch.0,
            boot: boot.0,
            source,
            kernel,
            version,
            first_unacknowledged: first_unacknowledged.0,
            next: next.0,
            store: store.map(|store| store.0),
            extensions,
        }
    }
}

impl From<HelloV1> for Hello {
    fn from(shape: HelloV1) -> Self {
        let HelloV1 {
            node,
            epoch,
            boot,
            source,
            kernel,
            version,
            first_unacknowledged,
            next,
            store,
            extensions,
        } = shape;
        Self {
            node,
            epoch: Epoch(epoch),
            boot: BootId(boot),
            source,
            kernel,
            version,
            first_unacknowledged: Seq(first_unacknowledged),
            next: Seq(next),
            store: store.map(StoreId),
            extensions,
        }
    }
}

impl From<&Welcome> for WelcomeV1 {
    fn from(welcome: &Welcome) -> Self {
        let Welcome { store, committed, max_unreceived, max_frame, time, extensions } =
            welcome.clone();
        Self {
            store: store.0,
            committed: committed.0,
            max_unreceived,
            max_frame,
            time: time.0,
            extensions,
        }
    }
}

impl From<WelcomeV1> for Welcome {
    fn from(shape: WelcomeV1) -> Self {
        let WelcomeV1 { store, committed, max_unreceived, max_frame, time, extensions } = shape;
        Self {
            store: StoreId(store),
            committed: Seq(committed),
            max_unreceived,
            max_frame,
            time: UnixNanos(time),
            extensions,
        }
    }
}

impl From<&Refused> for RefusedV1 {
    fn from(refused: &Refused) -> Self {
        Self {
            reason: refused.reason as u16,
            message: cut_text(&refused.message).to_owned(),
            extensions: refused.extensions.clone(),
        }
    }
}

impl From<RefusedV1> for Refused {
    fn from(shape: RefusedV1) -> Self {
        let RefusedV1 { reason, message, extensions } = shape;
        Self { reason: RefuseReason::from_wire(reason), message, extensions }
    }
}

impl From<&Ping> for PingV1 {
    fn from(ping: &Ping) -> Self {
        Self { sent: ping.sent.0, offset: ping.offset, extensions: ping.extensions.clone() }
    }
}

impl From<PingV1> for Ping {
    fn from(shape: PingV1) -> Self {
        let PingV1 { sent, offset, extensions } = shape;
        Self { sent: BootNanos(sent), offset, extensions }
    }
}

impl From<&Pong> for PongV1 {
    fn from(pong: &Pong) -> Self {
        Self {
            sent: pong.sent.0,
            received: pong.received.0,
            answered: pong.answered.0,
            extensions: pong.extensions.clone(),
        }
    }
}

impl From<PongV1> for Pong {
    fn from(shape: PongV1) -> Self {
        let PongV1 { sent, received, answered, extensions } = shape;
        Self {
            sent: BootNanos(sent),
            received: UnixNanos(received),
            answered: UnixNanos(answered),
            extensions,
        }
    }
}

impl From<&Received> for SeqV1 {
    fn from(received: &Received) -> Self {
        Self { seq: received.seq.0, extensions: received.extensions.clone() }
    }
}

impl From<SeqV1> for Received {
    fn from(SeqV1 { seq, extensions }: SeqV1) -> Self {
        Self { seq: Seq(seq), extensions }
    }
}

impl From<&Ack> for SeqV1 {
    fn from(ack: &Ack) -> Self {
        Self { seq: ack.seq.0, extensions: ack.extensions.clone() }
    }
}

impl From<SeqV1> for Ack {
    fn from(SeqV1 { seq, extensions }: SeqV1) -> Self {
        Self { seq: Seq(seq), extensions }
    }
}

impl From<&Nack> for NackV1 {
    fn from(nack: &Nack) -> Self {
        let verdict = match &nack.verdict {
            Verdict::RetryAfter(millis) => VerdictV1::RetryAfter(*millis),
            Verdict::Reject(reason) => VerdictV1::Reject(cut_text(reason).to_owned()),
        };
        Self { seq: nack.seq.0, verdict, extensions: nack.extensions.clone() }
    }
}

impl From<NackV1> for Nack {
    fn from(NackV1 { seq, verdict, extensions }: NackV1) -> Self {
        let verdict = match verdict {
            VerdictV1::RetryAfter(millis) => Verdict::RetryAfter(millis),
            VerdictV1::Reject(reason) => Verdict::Reject(reason),
        };
        Self { seq: Seq(seq), verdict, extensions }
    }
}
