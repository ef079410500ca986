//! Compression of a batch's columns, with the output bounded exactly by what was declared.

use std::io::Cursor;

use zstd::bulk::{Compressor, Decompressor};

use super::{BatchError, Compression};

/// Zstandard's level: the fastest regular one. The columns leave little to search for, so
/// higher levels cost time and gain next to nothing.
const ZSTD_LEVEL: i32 = 1;

/// Compresses one batch after the other, with one context.
pub(super) enum Packer {
    Zstd(Option<Compressor<'static>>),
    Lz4,
}

impl Packer {
    pub(super) const fn new(compression: Compression) -> Self {
        match compression {
            Compression::Zstd => Self::Zstd(None),
            Compression::Lz4 => Self::Lz4,
        }
    }

    pub(super) const fn compression(&self) -> Compression {
        match self {
            Self::Zstd(_) => Compression::Zstd,
            Self::Lz4 => Compression::Lz4,
        }
    }

    /// Appends `plain`, compressed, to `out`.
    pub(super) fn pack(&mut self, plain: &[u8], mut out: Vec<u8>) -> Result<Vec<u8>, BatchError> {
        let start = out.len();
        match self {
            Self::Zstd(context) => {
                let zstd = match context {
                    Some(zstd) => zstd,
                    None => context.insert(Compressor::new(ZSTD_LEVEL).map_err(compress)?),
                };
                out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
                let mut cursor = Cursor::new(out);
                cursor.set_position(start as u64);
                zstd.compress_to_buffer(plain, &mut cursor).map_err(compress)?;
                Ok(cursor.into_inner())
            }
            Self::Lz4 => {
                let bound = lz4_flex::block::get_maximum_output_size(plain.len());
                out.resize(start + bound, 0);
                let room = out.get_mut(start..).unwrap_or_default();
                let length = lz4_flex::block::compress_into(plain, room).map_err(compress)?;
                out.truncate(start + length);
                Ok(out)
            }
        }
    }
}

/// Decompresses to exactly `declared` bytes, which is all that is allocated.
pub(super) fn unpack(
    compression: Compression,
    packed: &[u8],
    declared: usize,
) -> Result<Vec<u8>, BatchError> {
    let plain = match compression {
        Compression::Zstd => {
            let mut plain = Vec::with_capacity(declared);
            Decompressor::new()
                .and_then(|mut zstd| zstd.decompress_to_buffer(packed, &mut plain))
                .map_err(decompress)?;
            plain
        }
        Compression::Lz4 => {
            let mut plain = vec![0; declared];
            let length =
                lz4_flex::block::decompress_into(packed, &mut plain).map_err(decompress)?;
            plain.truncate(length);
            plain
        }
    };
    match plain.len() {
        found if found == declared => Ok(plain),
        found => Err(BatchError::Declared { declared, found }),
    }
}

fn compress(error: impl std::fmt::Display) -> BatchError {
    BatchError::Compress { what: error.to_string() }
}

fn decompress(error: impl std::fmt::Display) -> BatchError {
    BatchError::Decompress { what: error.to_string() }
}
