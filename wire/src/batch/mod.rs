//! Batches: at most [`MAX_RECORDS`] records of one interval, in columns.
//!
//! A batch's body is a header of fixed fields, readable without decompressing anything ([`peek`]),
//! and its columns, compressed as one piece as the header says. [`Builder`] makes batches,
//! [`decode()`] reads them; both keep the order of the records, and what goes in comes out exactly,
//! except that only the low 16 bits of the status travel.
//!
//! How records become columns:
//! - What repeats (namespace, zone, protocol, TCP state, status, flags, and the record's *shape*)
//!   is one *class*: a dictionary of classes, and one small number a record.
//! - The shape says which optional parts a record has: IPv6, kernel id instead of a start, each
//!   of the four parts in which the reply tuple differs from the inverse of the original (NAT),
//!   counter offset, stop. Parts it does not have take no space.
//! - Addresses go through a dictionary a batch; its entries lie in the order of first use, so a
//!   new address is the number 0 and a known one its index + 1.
//! - Counters are `delta` and `base = cum - delta`; times are differences.
//!
//! The module `column` says how a column lies in its bytes, `layout` lists the columns.

mod builder;
mod column;
mod compress;
mod decode;
mod header;
mod layout;

use flow::{FlowNo, Interval, Record, Seq};
use thiserror::Error;

pub use self::builder::Builder;
pub use self::decode::{decode, peek};
use crate::frame::{FrameError, Kind};

/// Most records in a batch.
pub const MAX_RECORDS: usize = 10_000;

/// Most bytes of a batch's columns, decompressed and as declared.
pub const MAX_DECOMPRESSED: usize = 16 << 20;

/// How a batch's columns are compressed; the header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Zstandard (RFC 8878).
    Zstd = 1,
    /// LZ4 block format.
    Lz4 = 2,
}

impl Compression {
    const fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Zstd),
            2 => Some(Self::Lz4),
            _ => None,
        }
    }
}

/// A batch's header: readable without decompressing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Number within (node, epoch).
    pub seq: Seq,
    /// The interval.
    pub interval: Interval,
    /// Records in the batch.
    pub records: u32,
    /// Compression of the columns.
    pub compression: Compression,
    /// Bytes of the columns once decompressed, as declared; checked before anything is allocated.
    pub decompressed: u32,
}

impl BatchHeader {
    /// An upper bound of the bytes that [`decode()`] has allocated at any moment, result included:
    /// what a reader takes from its budget before it decodes.
    #[must_use]
    pub const fn decode_memory(&self) -> usize {
        let records = self.records as usize;
        self.decompressed as usize
            + records * (size_of::<Record>() + layout::DECODED_BYTES_PER_RECORD)
            + DECODER_CONTEXT_BYTES
    }
}

/// A Zstandard decompression context without a window, and the directory, rounded up.
const DECODER_CONTEXT_BYTES: usize = 256 << 10;

/// Why a record was not added to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// The batch has [`MAX_RECORDS`] records.
    #[error("the batch is full with {MAX_RECORDS} records")]
    Full,
    /// Its addresses are not of one family, or its tuples not of one protocol.
    #[error("the tuples of flow {} mix families or protocols", flow.0)]
    Tuples {
        /// The flow.
        flow: FlowNo,
    },
    /// A raw start of 0, which means that there is none: such an entry has an id instead.
    #[error("flow {} has a start of 0 instead of an id", flow.0)]
    Start {
        /// The flow.
        flow: FlowNo,
    },
}

/// Why a batch could not be made or read. Columns are named by their tags.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The frame is no batch.
    #[error("a frame of kind {} is no batch", kind.0)]
    NotBatch {
        /// The frame's kind.
        kind: Kind,
    },
    /// The frame cannot be made.
    #[error("a batch cannot be framed")]
    Frame(#[from] FrameError),
    /// The header or one of its extensions is cut off.
    #[error("a batch header is cut off: {have} of {need} bytes")]
    Header {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// More than [`MAX_RECORDS`].
    #[error("a batch of {records} records exceeds the limit of {MAX_RECORDS}")]
    TooManyRecords {
        /// Records announced.
        records: u32,
    },
    /// More than [`MAX_DECOMPRESSED`].
    #[error("columns of {declared} bytes exceed the limit of {MAX_DECOMPRESSED}")]
    TooLarge {
        /// Bytes declared.
        declared: u32,
    },
    /// A compression this version does not know.
    #[error("unknown compression {found}")]
    Compression {
        /// Its number.
        found: u8,
    },
    /// The compressor failed.
    #[error("the columns cannot be compressed: {what}")]
    Compress {
        /// Its words.
        what: String,
    },
    /// The columns are damaged, or larger than declared.
    #[error("the columns cannot be decompressed: {what}")]
    Decompress {
        /// The decompressor's words.
        what: String,
    },
    /// The columns are smaller than declared.
    #[error("the columns have {found} bytes where {declared} were declared")]
    Declared {
        /// Bytes declared.
        declared: usize,
        /// Bytes found.
        found: usize,
    },
    /// More columns than a directory may list.
    #[error("{columns} columns are too many")]
    TooManyColumns {
        /// Columns announced.
        columns: usize,
    },
    /// The directory, or a column it lists, reaches beyond the end.
    #[error("the directory or a column is cut off: {have} of {need} bytes")]
    Directory {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Bytes that no column owns.
    #[error("{extra} bytes belong to no column")]
    Unlisted {
        /// How many.
        extra: usize,
    },
    /// A column occurs twice.
    #[error("column {column} occurs twice")]
    Duplicate {
        /// Its tag.
        column: u16,
    },
    /// A column that the records need is not there.
    #[error("column {column} is missing")]
    Missing {
        /// Its tag.
        column: u16,
    },
    /// A column whose codec this version does not know.
    #[error("column {column} has the unknown codec {codec}")]
    Codec {
        /// Its tag.
        column: u16,
        /// Its codec.
        codec: u16,
    },
    /// A column has not as many values as the records need, or more than they may have.
    #[error("column {column} has {found} values where {expected} are expected")]
    Count {
        /// Its tag.
        column: u16,
        /// Values needed, or the limit.
        expected: usize,
        /// Values it has.
        found: usize,
    },
    /// A column's bytes are not what its codec says.
    #[error("column {column} {what}")]
    Column {
        /// Its tag.
        column: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// A value outside its field's range.
    #[error("column {column} has the value {value}, which its field cannot hold")]
    Value {
        /// Its tag.
        column: u16,
        /// The value.
        value: u64,
    },
    /// An index beyond the dictionary it refers to.
    #[error("column {column} refers to entry {index} of a dictionary of {size}")]
    Reference {
        /// Its tag.
        column: u16,
        /// The index.
        index: u64,
        /// Entries in the dictionary.
        size: usize,
    },
}
