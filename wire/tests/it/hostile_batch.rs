//! Batches that lie: about their size, their columns, their counts.

use flow::{Birth, Counters, FlowNo, Record, Seq, Tuple};
use proptest::prelude::*;
use wire::batch::{
    self, BatchError, Builder, Compression, MAX_DECOMPRESSED, MAX_RECORDS, PushError,
};
use wire::frame::{Frame, Kind, MAX_FRAME};

use crate::samples;

/// Bytes of the fixed fields of a batch header, version 1.
const HEADER: usize = 216;

/// A column as it stands in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    tag: u16,
    codec: u16,
    count: u32,
    length: u32,
    bytes: Vec<u8>,
}

/// A batch's columns, decompressed.
pub(crate) fn columns_of(frame: &Frame) -> Vec<u8> {
    let header = batch::peek(frame).unwrap();
    let (packed, size) = (&frame.body()[HEADER..], header.decompressed as usize);
    match header.compression {
        Compression::Zstd => zstd::bulk::decompress(packed, size).unwrap(),
        Compression::Lz4 => lz4_flex::block::decompress(packed, size).unwrap(),
    }
}

fn parse(plain: &[u8]) -> Vec<Column> {
    let u16_at = |at: usize| u16::from_le_bytes(plain[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(plain[at..at + 4].try_into().unwrap());
    let columns = usize::from(u16_at(0));
    let mut data = 2 + 12 * columns;
    let column = |i| {
        let at = 2 + 12 * i;
        let length = u32_at(at + 8);
        let bytes = plain[data..data + length as usize].to_vec();
        data += length as usize;
        Column { tag: u16_at(at), codec: u16_at(at + 2), count: u32_at(at + 4), length, bytes }
    };
    (0..columns).map(column).collect()
}

fn assemble(columns: &[Column]) -> Vec<u8> {
    let mut plain = u16::try_from(columns.len()).unwrap().to_le_bytes().to_vec();
    for Column { tag, codec, count, length, .. } in columns {
        plain.extend_from_slice(&tag.to_le_bytes());
        plain.extend_from_slice(&codec.to_le_bytes());
        plain.extend_from_slice(&count.to_le_bytes());
        plain.extend_from_slice(&length.to_le_bytes());
    }
    columns.iter().for_each(|column| plain.extend_from_slice(&column.bytes));
    plain
}

/// The batch `frame` with other columns, its header telling their true size.
fn with_columns(frame: &Frame, plain: &[u8]) -> Frame {
    let packed = match batch::peek(frame).unwrap().compression {
        Compression::Zstd => zstd::bulk::compress(plain, 1).unwrap(),
        Compression::Lz4 => lz4_flex::block::compress(plain),
    };
    let declared = u32::try_from(plain.len()).unwrap();
    with_packed(frame, &packed, declared)
}

fn with_packed(frame: &Frame, packed: &[u8], declared: u32) -> Frame {
    let mut body = frame.body()[..HEADER].to_vec();
    body[12..16].copy_from_slice(&declared.to_le_bytes());
    body.extend_from_slice(packed);
    Frame::new(Kind::BATCH, &body).unwrap()
}

/// A batch in which every column occurs but those of other namespaces and families.
fn everything() -> Frame {
    let samples = samples::batches();
    samples.iter().find(|sample| sample.name == "batch-everything-lz4").unwrap().frame()
}

fn decode_changed(change: impl FnOnce(&mut Vec<Column>)) -> Result<usize, BatchError> {
    let frame = everything();
    let mut columns = parse(&columns_of(&frame));
    change(&mut columns);
    batch::decode(&with_columns(&frame, &assemble(&columns))).map(|(_, records)| records.len())
}

#[test]
fn the_changer_changes_nothing_by_itself() {
    let frame = everything();
    let plain = columns_of(&frame);
    assert_eq!(assemble(&parse(&plain)), plain);
    assert_eq!(parse(&plain).len(), 42, "all columns of version 1");
    assert_eq!(decode_changed(|_| ()), Ok(325));
}

#[test]
fn bombs_stop_at_what_was_declared() {
    for compression in [Compression::Zstd, Compression::Lz4] {
        let frame =
            Builder::new(compression).finish(Seq(1), &samples::batches()[0].interval).unwrap();
        let bomb = vec![0; 64 << 20];
        let packed = match compression {
            Compression::Zstd => zstd::bulk::compress(&bomb, 1).unwrap(),
            Compression::Lz4 => lz4_flex::block::compress(&bomb),
        };
        assert!(packed.len() < bomb.len() / 200, "{} bytes", packed.len());
        for declared in [0, 2, 1_000, MAX_DECOMPRESSED] {
            let declared = u32::try_from(declared).unwrap();
            let error = batch::decode(&with_packed(&frame, &packed, declared));
            assert!(matches!(error, Err(BatchError::Decompress { .. })), "{declared}: {error:?}");
        }
        let declared = u32::try_from(MAX_DECOMPRESSED).unwrap() + 1;
        let error = BatchError::TooLarge { declared };
        let lying = with_packed(&frame, &packed, declared);
        assert_eq!(batch::peek(&lying), Err(error.clone()));
        assert_eq!(batch::decode(&lying), Err(error));
    }
}

#[test]
fn columns_smaller_than_declared_are_refused() {
    for sample in samples::batches() {
        let frame = sample.frame();
        let found = columns_of(&frame).len();
        let packed = &frame.body()[HEADER..];
        let lying = with_packed(&frame, packed, u32::try_from(found).unwrap() + 1);
        let declared = found + 1;
        assert_eq!(batch::decode(&lying), Err(BatchError::Declared { declared, found }));
    }
}

#[test]
fn more_records_than_allowed_are_refused_before_anything_is_read() {
    let mut body = everything().body().to_vec();
    body[8..12].copy_from_slice(&10_001u32.to_le_bytes());
    let lying = Frame::new(Kind::BATCH, &body).unwrap();
    assert_eq!(batch::peek(&lying), Err(BatchError::TooManyRecords { records: 10_001 }));
    body[8..12].copy_from_slice(&10_000u32.to_le_bytes());
    let lying = Frame::new(Kind::BATCH, &body).unwrap();
    let error = BatchError::Count { column: 16, expected: 10_000, found: 325 };
    assert_eq!(batch::decode(&lying), Err(error));
}

#[test]
fn every_column_is_required() {
    let tags: Vec<u16> = parse(&columns_of(&everything())).iter().map(|c| c.tag).collect();
    for (at, tag) in tags.into_iter().enumerate() {
        let error = decode_changed(|columns| drop(columns.remove(at))).unwrap_err();
        let expected = match error {
            BatchError::Missing { column } => column == tag,
            // A dictionary's first column says how many entries it has.
            BatchError::Count { found, .. } => [1, 10, 12].contains(&tag) && found > 0,
            BatchError::Reference { size: 0, .. } => tag == 11,
            _ => false,
        };
        assert!(expected, "column {tag}: {error:?}");
    }
}

#[test]
fn every_column_has_the_right_count_codec_and_length() {
    let columns = parse(&columns_of(&everything()));
    for (at, Column { tag, count, .. }) in columns.into_iter().enumerate() {
        for count in [0, count - 1, count + 1, 1 << 20, u32::MAX] {
            let error = decode_changed(|columns| columns[at].count = count);
            assert!(error.is_err(), "column {tag} with {count} values");
        }
        let error = decode_changed(|columns| columns[at].codec = 6);
        assert_eq!(error, Err(BatchError::Codec { column: tag, codec: 6 }));
        for length in [-1i32, 1] {
            let error = decode_changed(|columns| {
                columns[at].length = columns[at].length.wrapping_add_signed(length);
            });
            assert!(error.is_err(), "column {tag} {length} bytes longer in the directory");
        }
        let error = decode_changed(|columns| columns[at].length = u32::MAX);
        assert!(matches!(error, Err(BatchError::Directory { .. })), "column {tag}: {error:?}");
        let error = decode_changed(|columns| {
            columns[at].bytes.push(0);
            columns[at].length += 1;
        });
        assert!(matches!(error, Err(BatchError::Column { column, .. }) if column == tag));
    }
}

#[test]
fn a_later_version_may_add_columns_but_not_twice() {
    let later = Column { tag: 500, codec: 99, count: 7, length: 3, bytes: vec![1, 2, 3] };
    assert_eq!(decode_changed(|columns| columns.insert(5, later.clone())), Ok(325));
    let twice = decode_changed(|columns| columns.extend([later.clone(), later.clone()]));
    assert_eq!(twice, Err(BatchError::Duplicate { column: 500 }));
    let again = decode_changed(|columns| columns.push(columns[0].clone()));
    assert_eq!(again, Err(BatchError::Duplicate { column: 1 }));
    let many = decode_changed(|columns| {
        columns.extend((0..300).map(|tag| Column { tag: 1_000 + tag, ..later.clone() }));
    });
    assert_eq!(many, Err(BatchError::TooManyColumns { columns: 342 }));
}

#[test]
fn bytes_of_no_column_are_refused() {
    let frame = everything();
    let mut plain = columns_of(&frame);
    plain.push(0);
    let error = batch::decode(&with_columns(&frame, &plain));
    assert_eq!(error, Err(BatchError::Unlisted { extra: 1 }));
    for columns in [[].as_slice(), &[1], &[1, 0], &[255, 255]] {
        assert!(batch::decode(&with_columns(&frame, columns)).is_err(), "{columns:?}");
    }
}

#[test]
fn values_beyond_their_field_and_references_beyond_their_dictionary_are_refused() {
    let constant = |tag: u16, value: &'static [u8]| {
        decode_changed(move |columns| {
            let column = columns.iter_mut().find(|column| column.tag == tag).unwrap();
            column.codec = 0;
            column.length = u32::try_from(value.len()).unwrap();
            column.bytes = value.to_vec();
        })
        .unwrap_err()
    };
    // A port, a protocol, a start of 0, a bit of 2; then an integer of more than 64 bits.
    assert_eq!(constant(22, &[0x80, 0x80, 4]), BatchError::Value { column: 22, value: 65_536 });
    assert_eq!(constant(6, &[0x80, 2]), BatchError::Value { column: 6, value: 256 });
    assert_eq!(constant(26, &[0]), BatchError::Value { column: 26, value: 0 });
    assert_eq!(constant(29, &[2]), BatchError::Value { column: 29, value: 2 });
    const OVERLONG: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
    assert!(matches!(constant(17, OVERLONG), BatchError::Column { column: 17, .. }));
    // A class, a namespace, an address; then new addresses without end.
    assert!(matches!(constant(16, &[100]), BatchError::Reference { column: 16, index: 100, .. }));
    assert!(matches!(constant(4, &[5]), BatchError::Reference { column: 4, index: 5, size: 2 }));
    assert!(matches!(constant(18, &[0xff, 0x7f]), BatchError::Reference { column: 18, .. }));
    assert!(matches!(constant(18, &[0]), BatchError::Reference { .. }));
}

#[test]
fn a_full_builder_refuses_and_the_worst_batch_fits_a_frame() {
    // Nothing repeats, nothing compresses: every field of every record is random.
    let mut state = 1u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let mut address =
        || std::net::Ipv6Addr::from_bits(u128::from(random()) << 64 | u128::from(random()));
    let mut records = Vec::new();
    let sample = samples::batches().swap_remove(2).records[0];
    for n in 0..MAX_RECORDS as u64 {
        let orig = Tuple { src: address().into(), dst: address().into(), ..sample.orig };
        let reply = Tuple { src: address().into(), dst: address().into(), ..sample.reply };
        let [a, b] = [address(), address()].map(|bits| bits.to_bits());
        let word =
            |bits: u128, shift: u32| u64::try_from(bits >> shift & u128::from(u64::MAX)).unwrap();
        let (a0, a1, b0, b1) = (word(a, 0), word(a, 64), word(b, 0), word(b, 64));
        records.push(Record {
            flow: FlowNo(a0),
            netns: flow::NetnsId { boot: flow::BootId(a.to_be_bytes()), ..sample.netns },
            orig: Tuple { sport: address().segments()[0], dport: address().segments()[0], ..orig },
            reply: Tuple {
                sport: address().segments()[0],
                dport: address().segments()[0],
                ..reply
            },
            birth: Birth::Start(a1 | 1),
            mark: u32::from(address().segments()[0]) << 16 | u32::from(address().segments()[1]),
            since: flow::BootNanos(b0),
            until: flow::BootNanos(b1),
            cum: Counters::new(a0 ^ b0, a1 ^ b1, a0 ^ b1, a1 ^ b0),
            delta: Counters::new(a0.wrapping_mul(b0), a1.wrapping_mul(b1), !a0, !a1),
            offset: Counters::new(!b0, !b1, a0.wrapping_mul(3), a1.wrapping_mul(5)),
            stop: (n + 1).wrapping_mul(b0 | 1),
            ..sample
        });
    }
    for compression in [Compression::Zstd, Compression::Lz4] {
        let mut builder = Builder::new(compression);
        records.iter().for_each(|record| builder.push(record).unwrap());
        assert!(builder.is_full());
        assert_eq!(builder.push(&sample), Err(PushError::Full));
        let frame = builder.finish(Seq(1), &samples::batches()[0].interval).unwrap();
        assert!(frame.bytes.len() > MAX_FRAME / 2, "{} bytes are a poor test", frame.bytes.len());
        let (header, found) = batch::decode(&frame).unwrap();
        assert!(found == records);
        assert!(header.decode_memory() < 16 << 20, "{}", header.decode_memory());
    }
}

#[test]
fn records_the_kernel_cannot_make_are_refused_and_leave_no_trace() {
    let good = samples::batches().swap_remove(1).records[0];
    let flow = good.flow;
    let v6 = "::1".parse().unwrap();
    let bad = [
        (Record { orig: Tuple { dst: v6, ..good.orig }, ..good }, PushError::Tuples { flow }),
        (Record { reply: Tuple { src: v6, ..good.reply }, ..good }, PushError::Tuples { flow }),
        (
            Record { reply: Tuple { proto: flow::Proto::UDP, ..good.reply }, ..good },
            PushError::Tuples { flow },
        ),
        (Record { birth: Birth::Start(0), ..good }, PushError::Start { flow }),
    ];
    let mut builder = Builder::new(Compression::Lz4);
    builder.push(&good).unwrap();
    for (record, error) in bad {
        assert_eq!(builder.push(&record), Err(error));
    }
    let frame = builder.finish(Seq(1), &samples::batches()[0].interval).unwrap();
    assert_eq!(batch::decode(&frame).unwrap().1, [good]);
}

proptest! {
    #[test]
    fn random_bytes_under_a_valid_digest_do_no_harm(
        records in 0..40u8,
        columns in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        crate::fuzz::batch(&[&[1, records], &columns[..]].concat());
    }

    /// Damaged columns under whole compression: the decoder refuses, or what it reads encodes.
    #[test]
    fn damaged_columns_do_no_harm(
        at in any::<prop::sample::Index>(),
        byte: u8,
        cut in 0..4usize,
    ) {
        let frame = everything();
        let mut columns = columns_of(&frame);
        let index = at.index(columns.len().min(2_500));
        columns[index] = byte;
        columns.truncate(columns.len() - cut);
        crate::fuzz::frame(&with_columns(&frame, &columns).bytes);
    }
}
