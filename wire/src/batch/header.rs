//! The header of a batch's body: fixed little-endian fields, then extensions.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | number within (node, epoch) |
//! | 4 | records |
//! | 4 | bytes of the columns once decompressed |
//! | 1 | compression |
//! | 1 | bits: paused 0, clock synchronised 1, clock stepped 2, offset measured 3 |
//! | 2 | bytes of the extensions |
//! | 8, 4, 4, 4 | interval: number, length in ms, part, parts |
//! | 8, 8 | begin and end of the sweep, boottime ns |
//! | 16 | boot id |
//! | 8, 8 | clock pair: boottime ns, wall clock ns (signed) |
//! | 8, 16, 8 | offset: ns (signed), its boot id, when it was measured; zero where there is none |
//! | 8, 32, 8, 32, 8, 8 | totals: live flows, their counters, ended flows, their counters, uncounted, ended unseen |
//! | any | extensions: tag u16, length u16, value; unknown tags are ignored |
//!
//! Counters are packets and bytes of the original, then of the reply direction. Unknown bits are
//! ignored. The compressed columns follow.

use bytes::{Buf, BufMut};
use flow::record::{ClockPair, KernelTotals, MeasuredOffset};
use flow::{BootId, BootNanos, ClockOffset, Counters, Interval, Seq, UnixNanos};

use super::{BatchError, BatchHeader, Compression, MAX_DECOMPRESSED, MAX_RECORDS};

/// Bytes of the fixed fields.
pub(super) const FIXED_LEN: usize = 8 + 4 + 4 + 1 + 1 + 2 + 20 + 16 + 16 + 16 + 32 + 96;

const PAUSED: u8 = 1 << 0;
const SYNCHRONISED: u8 = 1 << 1;
const STEPPED: u8 = 1 << 2;
const MEASURED: u8 = 1 << 3;

/// Appends the header, without extensions.
pub(super) fn put(out: &mut Vec<u8>, header: &BatchHeader) {
    let BatchHeader { seq, interval, records, compression, decompressed } = header;
    let Interval { clock, offset, totals, .. } = interval;
    let bits = [
        (PAUSED, interval.paused),
        (SYNCHRONISED, clock.synchronised),
        (STEPPED, clock.stepped),
        (MEASURED, offset.is_some()),
    ];
    out.put_u64_le(seq.0);
    out.put_u32_le(*records);
    out.put_u32_le(*decompressed);
    out.put_u8(*compression as u8);
    out.put_u8(bits.iter().filter(|(_, set)| *set).map(|(bit, _)| bit).sum());
    out.put_u16_le(0);
    out.put_u64_le(interval.number);
    out.put_u32_le(interval.length_ms);
    out.put_u32_le(interval.part);
    out.put_u32_le(interval.parts);
    out.put_u64_le(interval.sweep_begin.0);
    out.put_u64_le(interval.sweep_end.0);
    out.put_slice(&interval.boot.0);
    out.put_u64_le(clock.boot.0);
    out.put_i64_le(clock.wall.0);
    let (offset, boot, at) = offset.map_or_else(Default::default, |m| (m.offset, m.boot, m.at));
    out.put_i64_le(offset.0);
    out.put_slice(&boot.0);
    out.put_u64_le(at.0);
    out.put_u64_le(totals.live_flows);
    put_counters(out, &totals.live);
    out.put_u64_le(totals.ended_flows);
    put_counters(out, &totals.ended);
    out.put_u64_le(totals.uncounted);
    out.put_u64_le(totals.ended_unseen);
}

/// Parses the header and checks its limits; the second part of the answer are the bytes that
/// follow it.
pub(super) fn parse(body: &[u8]) -> Result<(BatchHeader, &[u8]), BatchError> {
    let have = body.len();
    let Some((mut fixed, rest)) = body.split_at_checked(FIXED_LEN) else {
        return Err(BatchError::Header { have, need: FIXED_LEN });
    };
    let bytes = &mut fixed;
    let seq = Seq(bytes.get_u64_le());
    let records = bytes.get_u32_le();
    let decompressed = bytes.get_u32_le();
    let compression = bytes.get_u8();
    let bits = bytes.get_u8();
    let extensions = usize::from(bytes.get_u16_le());
    if records as usize > MAX_RECORDS {
        return Err(BatchError::TooManyRecords { records });
    }
    if decompressed as usize > MAX_DECOMPRESSED {
        return Err(BatchError::TooLarge { declared: decompressed });
    }
    let compression = Compression::from_wire(compression)
        .ok_or(BatchError::Compression { found: compression })?;
    let Some((extensions, columns)) = rest.split_at_checked(extensions) else {
        return Err(BatchError::Header { have, need: FIXED_LEN + extensions });
    };
    skip_extensions(extensions)?;
    let interval = get_interval(bytes, bits);
    Ok((BatchHeader { seq, interval, records, compression, decompressed }, columns))
}

/// Reads the interval's fields; the caller knows that all fixed fields are there.
fn get_interval(bytes: &mut &[u8], bits: u8) -> Interval {
    let number = bytes.get_u64_le();
    let length_ms = bytes.get_u32_le();
    let part = bytes.get_u32_le();
    let parts = bytes.get_u32_le();
    let sweep_begin = BootNanos(bytes.get_u64_le());
    let sweep_end = BootNanos(bytes.get_u64_le());
    let boot = get_boot(bytes);
    let clock = ClockPair {
        boot: BootNanos(bytes.get_u64_le()),
        wall: UnixNanos(bytes.get_i64_le()),
        synchronised: bits & SYNCHRONISED != 0,
        stepped: bits & STEPPED != 0,
    };
    let measured = MeasuredOffset {
        offset: ClockOffset(bytes.get_i64_le()),
        boot: get_boot(bytes),
        at: BootNanos(bytes.get_u64_le()),
    };
    let totals = KernelTotals {
        live_flows: bytes.get_u64_le(),
        live: get_counters(bytes),
        ended_flows: bytes.get_u64_le(),
        ended: get_counters(bytes),
        uncounted: bytes.get_u64_le(),
        ended_unseen: bytes.get_u64_le(),
    };
    Interval {
        number,
        length_ms,
        part,
        parts,
        sweep_begin,
        sweep_end,
        boot,
        clock,
        offset: (bits & MEASURED != 0).then_some(measured),
        totals,
        paused: bits & PAUSED != 0,
    }
}

fn skip_extensions(mut bytes: &[u8]) -> Result<(), BatchError> {
    while !bytes.is_empty() {
        let length = bytes.get(2..4).and_then(|mut length| length.try_get_u16_le().ok());
        let need = 4 + usize::from(length.unwrap_or_default());
        bytes = bytes.get(need..).ok_or(BatchError::Header { have: bytes.len(), need })?;
    }
    Ok(())
}

fn put_counters(out: &mut Vec<u8>, counters: &Counters) {
    counters.components().into_iter().for_each(|component| out.put_u64_le(component));
}

fn get_counters(bytes: &mut &[u8]) -> Counters {
    Counters::from_components(std::array::from_fn(|_| bytes.get_u64_le()))
}

fn get_boot(bytes: &mut &[u8]) -> BootId {
    let mut boot = BootId::default();
    bytes.copy_to_slice(&mut boot.0);
    boot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_fields_fill_their_length() {
        let interval = get_interval(&mut [0u8; FIXED_LEN - 20].as_slice(), 0);
        let header = BatchHeader {
            seq: Seq(1),
            interval,
            records: 0,
            compression: Compression::Zstd,
            decompressed: 2,
        };
        let mut out = Vec::new();
        put(&mut out, &header);
        assert_eq!(out.len(), FIXED_LEN);
        assert_eq!(parse(&out).unwrap(), (header, [].as_slice()));
    }

    #[test]
    fn extensions_are_skipped_but_must_be_whole() {
        let mut body = vec![0u8; FIXED_LEN];
        body[16] = Compression::Lz4 as u8;
        body[18] = 6;
        body.extend_from_slice(&[9, 0, 2, 0, 0xaa, 0xbb, 0xcc]);
        assert_eq!(parse(&body).unwrap().1, [0xcc]);
        body[18] = 5;
        assert_eq!(parse(&body).unwrap_err(), BatchError::Header { have: 5, need: 6 });
        body[18] = 8;
        let need = FIXED_LEN + 8;
        assert_eq!(parse(&body).unwrap_err(), BatchError::Header { have: need - 1, need });
    }
}
