//! Batches: at most 10,000 records of one interval, in columns.
//!
//! API (helper A fills it in):
//! `Builder::new(Compression)`, `push(&Record)`, `len()`, `is_full()`,
//! `finish(&mut self, seq, &Interval) -> Result<Frame, BatchError>` (the builder is empty and reusable after),
//! `peek(&Frame) -> Result<BatchHeader, BatchError>` (no decompression; gives the declared size),
//! `decode(&Frame) -> Result<(BatchHeader, Vec<Record>), BatchError>`.

use flow::{Interval, Seq};

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
