//! What goes in comes out.

use bytes::Bytes;
use proptest::prelude::*;
use wire::batch::{self, Builder, Compression};
use wire::control::Message;
use wire::frame::{Frame, HEADER_LEN, Header, Kind};
use wire::gap::Gap;

use crate::strategy;

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::Zstd), Just(Compression::Lz4)]
}

proptest! {
    #[test]
    fn frames(kind: u16, body in proptest::collection::vec(any::<u8>(), 0..200), before in 0..50usize) {
        let frame = Frame::new(Kind(kind), &body).unwrap();
        prop_assert_eq!(frame.body(), body.as_slice());
        prop_assert_eq!(&Frame::parse(frame.bytes.clone()).unwrap(), &frame);
        prop_assert_eq!(Header::peek(&frame.bytes).unwrap(), frame.header);
        prop_assert_eq!(frame.header.frame_len(), HEADER_LEN + body.len());
        // In a segment: something before it, something behind.
        let mut segment = vec![0xff; before];
        segment.extend_from_slice(&frame.bytes);
        segment.extend_from_slice(&[0xff; 9]);
        let (found, next) = Frame::parse_prefix(&Bytes::from(segment), before).unwrap();
        prop_assert_eq!(found, frame.clone());
        prop_assert_eq!(next, before + frame.bytes.len());
    }

    #[test]
    fn messages(message in strategy::message()) {
        let frame = message.encode().unwrap();
        prop_assert_eq!(frame.kind(), message.kind());
        prop_assert_eq!(Message::decode(&frame).unwrap(), Some(message));
    }

    #[test]
    fn gaps(gap in strategy::gap()) {
        prop_assert_eq!(Gap::decode(&gap.encode().unwrap()).unwrap(), gap);
    }

    #[test]
    fn batches(
        compression in compression(),
        seq: u64,
        interval in strategy::interval(),
        records in proptest::collection::vec(strategy::record(), 0..60),
        again in proptest::collection::vec(strategy::record(), 0..5),
    ) {
        let mut builder = Builder::new(compression);
        // The second batch of a builder owes nothing to the first.
        for records in [&records, &again, &records] {
            for record in records {
                builder.push(record).unwrap();
            }
            prop_assert_eq!(builder.len(), records.len());
            let frame = builder.finish(flow::Seq(seq), &interval).unwrap();
            prop_assert!(builder.is_empty());
            let (header, found) = batch::decode(&frame).unwrap();
            prop_assert_eq!(&found, records);
            prop_assert_eq!(batch::peek(&frame).unwrap(), header);
            prop_assert_eq!(header.seq.0, seq);
            prop_assert_eq!(header.interval, interval);
            prop_assert_eq!(header.records as usize, records.len());
            prop_assert_eq!(header.compression, compression);
            prop_assert_eq!(Frame::parse(frame.bytes.clone()).unwrap(), frame);
        }
    }
}
