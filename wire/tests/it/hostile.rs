//! Frames, messages and gaps that no honest peer sends.

use bytes::Bytes;
use flow::Seq;
use wire::CodecError;
use wire::batch;
use wire::control::{ControlError, Message, Ping, RefuseReason, Refused};
use wire::field::{FieldError, MAX_EXTENSIONS, MAX_NAME, MAX_TEXT};
use wire::frame::{
    Frame, FrameError, HEADER_LEN, Header, Kind, MAX_CONTROL_BODY, MAX_FRAME, digest_of,
};
use wire::gap::{Gap, GapError, GapReason};

use crate::samples;

/// The same kind with another body and a digest that fits.
pub(crate) fn resealed(frame: &Frame, body: &[u8]) -> Frame {
    Frame::new(frame.kind(), body).unwrap()
}

#[test]
fn a_frame_cut_at_any_byte_is_truncated() {
    for (name, frame) in samples::frames() {
        let total = frame.bytes.len();
        for have in 0..total {
            let need = if have < HEADER_LEN { HEADER_LEN } else { total };
            let cut = frame.bytes.slice(..have);
            assert_eq!(Frame::parse(cut), Err(FrameError::Truncated { have, need }), "{name}");
        }
    }
}

#[test]
fn a_frame_with_any_bit_flipped_is_refused() {
    for (name, frame) in samples::frames() {
        for at in 0..frame.bytes.len() {
            for bit in 0..8 {
                let mut bytes = frame.bytes.to_vec();
                bytes[at] ^= 1 << bit;
                assert!(Frame::parse(bytes.into()).is_err(), "{name}: byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn a_body_cut_at_any_byte_is_refused_whatever_its_digest() {
    for (name, frame) in samples::frames() {
        for have in 0..frame.body().len() {
            let cut = resealed(&frame, &frame.body()[..have]);
            let refused = match frame.kind() {
                Kind::BATCH => batch::decode(&cut).is_err(),
                Kind::GAP => Gap::decode(&cut).is_err(),
                _ => Message::decode(&cut).is_err(),
            };
            assert!(refused, "{name} cut at {have}");
        }
    }
}

#[test]
fn a_body_with_any_bit_flipped_does_no_harm() {
    for (_, frame) in samples::frames() {
        for at in 0..frame.body().len() {
            let mut body = frame.body().to_vec();
            body[at] ^= 1 << (at % 8);
            // Panics where something decodes that cannot be encoded again.
            crate::fuzz::frame(&resealed(&frame, &body).bytes);
        }
    }
}

#[test]
fn bytes_behind_a_body_are_refused() {
    for (name, frame) in samples::frames() {
        let longer = resealed(&frame, &[frame.body(), &[0]].concat());
        let refused = match frame.kind() {
            Kind::BATCH => batch::decode(&longer).is_err(),
            Kind::GAP => {
                Gap::decode(&longer) == Err(GapError::Body(CodecError::Trailing { extra: 1 }))
            }
            kind => {
                let source = CodecError::Trailing { extra: 1 };
                Message::decode(&longer) == Err(ControlError::Body { kind, source })
            }
        };
        assert!(refused, "{name}");
        let two = Bytes::from([&frame.bytes[..], &[9; 3]].concat());
        assert_eq!(Frame::parse(two), Err(FrameError::Trailing { extra: 3 }), "{name}");
    }
}

#[test]
fn other_magic_and_other_versions_are_named() {
    let (_, frame) = samples::frames().swap_remove(0);
    let patched = |at: usize, byte: u8| {
        let mut bytes = frame.bytes.to_vec();
        bytes[at] = byte;
        Frame::parse(bytes.into())
    };
    assert_eq!(patched(4, 2), Err(FrameError::Version { found: 2 }));
    assert_eq!(patched(5, 1), Err(FrameError::Version { found: 257 }));
    assert_eq!(patched(0, b'C'), Err(FrameError::Magic { found: *b"Ctct" }));
    assert_eq!(
        patched(4, 2).unwrap_err().to_string(),
        "protocol version 2 is not spoken here (only 1); upgrade the older side"
    );
}

#[test]
fn large_frames_are_refused_by_their_header() {
    let header = |kind, body: usize| {
        let length = u32::try_from(body).unwrap();
        let digest = digest_of(kind, length, &[]);
        Header::parse(&Header { kind, length, digest }.encode())
    };
    let limit = MAX_FRAME;
    assert!(header(Kind::BATCH, limit - HEADER_LEN).is_ok());
    let length = limit + 1;
    assert_eq!(
        header(Kind::BATCH, length - HEADER_LEN),
        Err(FrameError::TooLarge { length, limit })
    );
    assert!(header(Kind(999), u32::MAX as usize).is_err());
    assert!(header(Kind::HELLO, MAX_CONTROL_BODY).is_ok());
    let limit = MAX_CONTROL_BODY + HEADER_LEN;
    let length = limit + 1;
    assert_eq!(header(Kind(15), MAX_CONTROL_BODY + 1), Err(FrameError::TooLarge { length, limit }));
    let body = vec![0; MAX_CONTROL_BODY + 1];
    assert_eq!(Frame::new(Kind::PING, &body), Err(FrameError::TooLarge { length, limit }));
}

#[test]
fn unknown_kinds_are_skipped_and_data_is_no_message() {
    let unknown = Frame::new(Kind(15), b"whatever").unwrap();
    assert_eq!(Message::decode(&unknown), Ok(None));
    for kind in [Kind::BATCH, Kind::GAP, Kind(999)] {
        let data = Frame::new(kind, &[]).unwrap();
        assert_eq!(Message::decode(&data), Err(ControlError::NotControl { kind }));
    }
    let ping = Frame::new(Kind::PING, &[0, 0, 0]).unwrap();
    assert_eq!(Gap::decode(&ping), Err(GapError::NotGap { kind: Kind::PING }));
    assert_eq!(batch::peek(&ping), Err(batch::BatchError::NotBatch { kind: Kind::PING }));
}

#[test]
fn unknown_numbers_of_reasons_are_kept_apart() {
    // reason, empty message, no extensions; 0xfb announces a 16-bit integer.
    let refused = Frame::new(Kind::REFUSED, &[0xfb, 0xff, 0x00, 0, 0]).unwrap();
    let expected =
        Refused { reason: RefuseReason::Unknown, message: String::new(), extensions: vec![] };
    assert_eq!(Message::decode(&refused), Ok(Some(Message::Refused(expected))));
    let gap = Gap { reason: GapReason::Rejected, ..samples::gap() }.encode().unwrap();
    let mut body = gap.body().to_vec();
    assert_eq!(body[2], 1);
    body[2] = 200;
    assert_eq!(Gap::decode(&resealed(&gap, &body)).unwrap().reason, GapReason::Unknown);
}

#[test]
fn nine_bytes_claim_no_memory() {
    for kind in 1..=8 {
        let kind = Kind(kind);
        // A text or a list of 2^64 - 1 elements, wherever the first length stands.
        for before in 0..8 {
            let body = [&vec![0; before][..], &[0xfd], &[0xff; 8]].concat();
            let error = Message::decode(&Frame::new(kind, &body).unwrap());
            assert!(matches!(error, Err(ControlError::Body { .. })), "{kind:?} at {before}");
        }
    }
}

#[test]
fn names_beyond_their_limit_are_refused_on_both_sides() {
    let Some((_, Message::Hello(mut hello))) = samples::messages().into_iter().next() else {
        panic!("the first sample is a hello");
    };
    hello.node = "n".repeat(MAX_NAME + 1);
    let source = FieldError::TooLong { field: "node", length: 64, limit: 63 };
    let refused = ControlError::Field { kind: Kind::HELLO, source };
    assert_eq!(Message::Hello(hello.clone()).encode(), Err(refused.clone()));
    hello.node = "n".repeat(MAX_NAME);
    let frame = Message::Hello(hello).encode().unwrap();
    assert_eq!(frame.body()[0], 63);
    let mut body = frame.body().to_vec();
    body[0] = 64;
    body.insert(1, b'n');
    assert_eq!(Message::decode(&resealed(&frame, &body)), Err(refused));
}

#[test]
fn texts_for_persons_are_cut_by_the_sender_and_checked_by_the_receiver() {
    let message = "long ".repeat(MAX_TEXT);
    let refused = |message: &str| {
        let reason = RefuseReason::Malformed;
        Message::Refused(Refused { reason, message: message.to_owned(), extensions: vec![] })
    };
    let frame = refused(&message).encode().unwrap();
    assert_eq!(Message::decode(&frame), Ok(Some(refused(&message[..MAX_TEXT]))));
    // 6, 0xfb, length as u16, text, no extensions: one more byte of text.
    let mut body = frame.body().to_vec();
    body[2..4].copy_from_slice(&u16::try_from(MAX_TEXT + 1).unwrap().to_le_bytes());
    body.insert(4, b'x');
    let source = FieldError::TooLong { field: "message", length: MAX_TEXT + 1, limit: MAX_TEXT };
    assert_eq!(
        Message::decode(&resealed(&frame, &body)),
        Err(ControlError::Field { kind: Kind::REFUSED, source })
    );
}

#[test]
fn extensions_are_bounded() {
    let ping = |count: usize, bytes: usize| {
        let extensions = vec![(1, vec![0; bytes]); count];
        Message::Ping(Ping { sent: flow::BootNanos(1), offset: None, extensions })
    };
    assert!(ping(MAX_EXTENSIONS, 200).encode().is_ok());
    let source = FieldError::TooManyExtensions { count: MAX_EXTENSIONS + 1 };
    let error = ControlError::Field { kind: Kind::PING, source };
    assert_eq!(ping(MAX_EXTENSIONS + 1, 0).encode(), Err(error));
    let error = ping(1, MAX_CONTROL_BODY).encode();
    assert!(matches!(error, Err(ControlError::Body { source: CodecError::TooLong { .. }, .. })));
}

#[test]
fn a_gap_covers_frames() {
    for (first, last) in [(0, 0), (0, 5), (6, 5)] {
        let (first, last) = (Seq(first), Seq(last));
        let gap = Gap { first, last, ..samples::gap() };
        assert_eq!(gap.encode(), Err(GapError::Range { first, last }));
    }
    let frame = samples::gap().encode().unwrap();
    let mut body = frame.body().to_vec();
    assert_eq!(body[..2], [44, 46]);
    body[1] = 43;
    let (first, last) = (Seq(44), Seq(43));
    assert_eq!(Gap::decode(&resealed(&frame, &body)), Err(GapError::Range { first, last }));
}
