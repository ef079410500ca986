//! The only place where bincode appears: bodies of control messages and gaps.
//!
//! Little endian, variable-length integers, always with a limit, never with bytes left over. The
//! structs that pass through here are frozen: their fields never change, whatever the domain
//! types beside them do.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::DecodeError;
use thiserror::Error;

use crate::frame::MAX_CONTROL_BODY;

/// Largest body that is encoded or decoded here, in bytes.
pub(crate) const MAX_BODY: usize = MAX_CONTROL_BODY;

/// Why a body could not be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// Longer than any legal body.
    #[error("a body of {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Its bytes.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// It ends before its fields do.
    #[error("the body ends before its fields do")]
    Truncated,
    /// It claims more elements than a body of legal length can hold.
    #[error("the body claims more than {MEMORY_LIMIT} bytes of content")]
    Claim,
    /// A field holds what its type cannot hold.
    #[error("malformed body: {what}")]
    Malformed {
        /// The decoder's words.
        what: String,
    },
    /// Bytes follow the last field.
    #[error("{extra} bytes follow the body's last field")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

/// Encodes a frozen struct.
pub(crate) fn encode<T: bincode::Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::encode_to_vec(value, CONFIG)
        .map_err(|error| CodecError::Malformed { what: error.to_string() })?;
    check_length(bytes.len())?;
    Ok(bytes)
}

/// Decodes a frozen struct from exactly these bytes.
pub(crate) fn decode<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    check_length(bytes.len())?;
    let (value, used) = bincode::decode_from_slice(bytes, CONFIG).map_err(|error| match error {
        DecodeError::UnexpectedEnd { .. } => CodecError::Truncated,
        DecodeError::LimitExceeded => CodecError::Claim,
        other => CodecError::Malformed { what: other.to_string() },
    })?;
    match bytes.len().saturating_sub(used) {
        0 => Ok(value),
        extra => Err(CodecError::Trailing { extra }),
    }
}

fn check_length(length: usize) -> Result<(), CodecError> {
    if length > MAX_BODY { Err(CodecError::TooLong { length, limit: MAX_BODY }) } else { Ok(()) }
}

/// What a decoder may claim at once, counted as bincode counts: the in-memory size of the
/// elements of each container. It bounds what a lying length can make us allocate.
const MEMORY_LIMIT: usize = 4 * MAX_BODY;

/// bincode's standard configuration, spelt out so that no release can change it under us.
const CONFIG: Configuration<LittleEndian, Varint, Limit<MEMORY_LIMIT>> =
    bincode::config::standard().with_little_endian().with_variable_int_encoding().with_limit();

#[cfg(test)]
mod tests {
    use super::*;

    type Shape = Vec<(u16, Vec<u8>)>;

    #[test]
    fn nine_bytes_cannot_claim_the_memory_of_the_world() {
        // 0xfd announces a 64-bit length: nine bytes that claim 2^62 elements.
        for claim in [1u64 << 62, u64::MAX, 1 << 32, 1 << 20] {
            let mut bomb = vec![0xfd];
            bomb.extend_from_slice(&claim.to_le_bytes());
            assert_eq!(decode::<Shape>(&bomb), Err(CodecError::Claim), "elements {claim}");
            assert_eq!(decode::<Vec<u8>>(&bomb), Err(CodecError::Claim), "bytes {claim}");
            assert_eq!(decode::<String>(&bomb), Err(CodecError::Claim), "text {claim}");
        }
    }

    #[test]
    fn every_byte_belongs_to_a_field() {
        let value: Shape = vec![(1, vec![2, 3])];
        let mut bytes = encode(&value).unwrap();
        assert_eq!(decode::<Shape>(&bytes).as_ref(), Ok(&value));
        for cut in 0..bytes.len() {
            assert_eq!(decode::<Shape>(&bytes[..cut]), Err(CodecError::Truncated), "cut {cut}");
        }
        bytes.push(0);
        assert_eq!(decode::<Shape>(&bytes), Err(CodecError::Trailing { extra: 1 }));
    }

    #[test]
    fn a_long_body_is_refused_on_both_sides() {
        let limit = MAX_BODY;
        let long = vec![0u8; limit + 1];
        assert_eq!(decode::<Vec<u8>>(&long), Err(CodecError::TooLong { length: limit + 1, limit }));
        assert_eq!(encode(&long), Err(CodecError::TooLong { length: limit + 4, limit }));
    }
}
