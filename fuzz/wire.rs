//! What the fuzz targets of the wire protocol do with their input. The same functions replay the
//! committed corpora as a test of the crate `conntracct-wire`.
//!
//! Each asserts more than "no panic": what decodes must encode, and decode to the same again.

use bytes::Bytes;
use wire::batch::{self, Builder, Compression, MAX_RECORDS};
use wire::control::Message;
use wire::frame::{Frame, HEADER_LEN, Header, Kind};
use wire::gap::Gap;

/// Bytes of the fixed fields of a batch header, version 1.
const BATCH_HEADER_LEN: usize = 216;

/// The input is a spool segment: frames one after the other.
pub(crate) fn frame(data: &[u8]) {
    let segment = Bytes::copy_from_slice(data);
    let mut offset = 0;
    while let Ok((frame, next)) = Frame::parse_prefix(&segment, offset) {
        assert_eq!(next - offset, frame.header.frame_len());
        assert_eq!(Header::peek(&segment[offset..]), Ok(frame.header));
        assert_eq!(Frame::parse(segment.slice(offset..next)), Ok(frame.clone()));
        assert_eq!(Frame::new(frame.kind(), frame.body()), Ok(frame.clone()));
        any_kind(&frame);
        offset = next;
    }
}

/// The input is a kind (one byte) and the body of a frame of that kind.
pub(crate) fn control(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    if let Ok(frame) = Frame::new(Kind(u16::from(*kind)), body) {
        any_kind(&frame);
    }
}

/// The input starts with a byte. If it is even, a batch's body follows. If it is odd, the number
/// of records (one byte) and the columns as they lie under the compression follow: so that
/// mutations reach them.
pub(crate) fn batch(data: &[u8]) {
    let body = match data {
        [choice, body @ ..] if choice % 2 == 0 => body.to_vec(),
        [_, records, columns @ ..] => stored_batch(u32::from(*records), columns),
        _ => return,
    };
    if let Ok(frame) = Frame::new(Kind::BATCH, &body) {
        any_kind(&frame);
    }
}

fn any_kind(frame: &Frame) {
    if let Ok(Some(message)) = Message::decode(frame) {
        let again = message.encode().expect("a decoded message encodes");
        assert_eq!(Message::decode(&again), Ok(Some(message)));
    }
    if let Ok(gap) = Gap::decode(frame) {
        let again = gap.encode().expect("a decoded gap encodes");
        assert_eq!(Gap::decode(&again), Ok(gap));
    }
    if let Ok((header, records)) = batch::decode(frame) {
        assert_eq!(batch::peek(frame), Ok(header));
        assert!(records.len() <= MAX_RECORDS);
        assert_eq!(records.len(), header.records as usize);
        let mut builder = Builder::new(Compression::Lz4);
        for record in &records {
            builder.push(record).expect("a decoded record encodes");
        }
        let again = builder.finish(header.seq, &header.interval).expect("a decoded batch encodes");
        let (found, same) = batch::decode(&again).expect("an encoded batch decodes");
        assert_eq!(found.interval, header.interval);
        assert_eq!(same, records);
    }
}

/// A batch whose columns are stored as one LZ4 block of literals only.
pub(crate) fn stored_batch(records: u32, columns: &[u8]) -> Vec<u8> {
    let mut body = vec![0; BATCH_HEADER_LEN];
    body[8..12].copy_from_slice(&records.to_le_bytes());
    body[12..16].copy_from_slice(&u32::try_from(columns.len()).unwrap_or(u32::MAX).to_le_bytes());
    body[16] = Compression::Lz4 as u8;
    body.extend_from_slice(&lz4_literals(columns));
    assert!(body.len() >= BATCH_HEADER_LEN && HEADER_LEN == 44);
    body
}

/// The LZ4 block format's last sequence: a token, the length's further bytes, the literals.
fn lz4_literals(plain: &[u8]) -> Vec<u8> {
    let Some(more) = plain.len().checked_sub(15) else {
        return [&[u8::try_from(plain.len()).unwrap_or_default() << 4], plain].concat();
    };
    let mut out = vec![0xf0];
    out.resize(1 + more / 255, 0xff);
    out.push(u8::try_from(more % 255).unwrap_or_default());
    out.extend_from_slice(plain);
    out
}
