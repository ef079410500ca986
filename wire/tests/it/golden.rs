//! Golden files: bytes of version 1, which decode to the same values for ever.
//!
//! `UPDATE_GOLDEN=1` writes files that are missing or whose encoding has changed. A change of
//! the encoding (never of the decoding) may be right, for instance a better codec for a column:
//! then the old file stays, under a name of its own, beside the new one.

use std::path::PathBuf;

use bytes::Bytes;
use wire::batch;
use wire::control::Message;
use wire::frame::{Frame, HEADER_LEN, Kind};
use wire::gap::Gap;

use crate::samples;

/// Bytes of the fixed fields of a batch header, version 1.
const BATCH_HEADER_LEN: usize = 216;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.bin"))
}

fn stored(name: &str) -> Frame {
    let bytes = std::fs::read(path(name)).unwrap_or_else(|error| {
        panic!("golden file {name}.bin: {error}; UPDATE_GOLDEN=1 writes it where it is new")
    });
    Frame::parse(Bytes::from(bytes)).unwrap()
}

/// What a frame says whatever its compressor: for a batch the header without the compressed
/// bytes, then the columns decompressed.
fn comparable(frame: &Frame) -> Vec<u8> {
    if frame.kind() != Kind::BATCH {
        return frame.bytes.to_vec();
    }
    let header = batch::peek(frame).unwrap();
    let (head, packed) = frame.body().split_at(BATCH_HEADER_LEN);
    let size = header.decompressed as usize;
    let columns = match header.compression {
        batch::Compression::Zstd => zstd::bulk::decompress(packed, size).unwrap(),
        batch::Compression::Lz4 => lz4_flex::block::decompress(packed, size).unwrap(),
    };
    [head, &columns].concat()
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

#[test]
fn encoding_has_not_changed() {
    for (name, frame) in samples::frames() {
        let path = path(name);
        let same = path.exists() && comparable(&stored(name)) == comparable(&frame);
        if !same && updating() {
            std::fs::write(path, &frame.bytes).unwrap();
        }
        assert!(
            same || updating(),
            "{name}.bin is encoded differently now: if that is meant, keep the old file under a \
             new name with a test of its own, then run with UPDATE_GOLDEN=1"
        );
    }
}

#[test]
fn messages_decode_for_ever() {
    for (name, message) in samples::messages() {
        assert_eq!(Message::decode(&stored(name)), Ok(Some(message)), "{name}");
    }
}

#[test]
fn gaps_decode_for_ever() {
    assert_eq!(Gap::decode(&stored("gap")), Ok(samples::gap()));
}

#[test]
fn batches_decode_for_ever() {
    for sample in samples::batches() {
        let frame = stored(sample.name);
        let (header, records) = batch::decode(&frame).unwrap();
        assert_eq!(header.seq, sample.seq, "{}", sample.name);
        assert_eq!(header.interval, sample.interval, "{}", sample.name);
        assert_eq!(header.compression, sample.compression, "{}", sample.name);
        assert_eq!(records, sample.records, "{}", sample.name);
    }
}

#[test]
fn headers_lie_where_they_always_did() {
    // Written out by hand: an encoder and a decoder that change together would not notice.
    let frame = stored("received");
    assert_eq!(&frame.bytes[..12], b"ctct\x01\x00\x06\x00\x02\x00\x00\x00");
    assert_eq!(frame.body(), [43, 0]);
    let heartbeat = stored("batch-heartbeat");
    let body = heartbeat.body();
    assert_eq!(&heartbeat.bytes[4..8], [1, 0, 16, 0]);
    assert_eq!(heartbeat.bytes.len(), HEADER_LEN + body.len());
    assert_eq!(&body[..8], 1u64.to_le_bytes());
    assert_eq!(&body[8..20], [0, 0, 0, 0, 2, 0, 0, 0, 1, 0b0101, 0, 0]);
    assert_eq!(&body[20..28], 176_000_360u64.to_le_bytes());
    assert_eq!(&body[28..32], 10_000u32.to_le_bytes());
    assert_eq!(&body[56..72], [0xb0; 16]);
}
