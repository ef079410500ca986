//! Each table's columns, and how a row fills them.

use flow::{Birth, Counters, Tuple};

use super::copy::{DoesNotFit, Encoder};
use crate::store::columns::{END_FIELDS, FLOW_FIELDS, GAP_FIELDS, STRAY_FIELDS};
use crate::store::row::{
    BatchRow, EndedEntry, FlowRow, GapRow, NetnsRow, NodeRow, ObserverRow, view_hash,
};

/// A table as rows are copied into it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [&'static str],
}

pub(super) const SEQ_RANGE: &str = "a sequence number exceeds 2^63 - 1";
const COUNTER_RANGE: &str = "a counter exceeds 2^63 - 1";
const START_RANGE: &str = "a start stamp exceeds 2^63 - 1";

pub(super) const NODE: Table =
    Table { name: "node", columns: &["id", "name", "epoch", "epoch_since"] };

pub(super) fn node(out: &mut Encoder, row: &NodeRow) -> Result<(), DoesNotFit> {
    out.int4(row.node.0);
    out.text(row.name.as_str())?;
    out.name(row.epoch.0);
    out.time(row.epoch_since);
    Ok(())
}

pub(super) const NETNS: Table = Table { name: "netns", columns: &["inode", "id", "node", "boot"] };

pub(super) fn netns(out: &mut Encoder, row: &NetnsRow) -> Result<(), DoesNotFit> {
    out.int8(row.inode().0);
    out.int4(row.netns.0);
    out.int4(row.node.0);
    out.name(row.id.boot.0);
    Ok(())
}

pub(super) const OBSERVER: Table = Table {
    name: "flow_observer",
    columns: &[
        "entry",
        "path",
        "view_inside",
        "view_outside",
        "raw_start",
        "kernel_id",
        "start",
        "seen",
        "node",
        "netns",
        "zone",
        "sport",
        "dport",
        "nat_sport",
        "nat_dport",
        "family",
        "proto",
        "fresh",
        "src",
        "dst",
        "nat_src",
        "nat_dst",
    ],
};

pub(super) fn observer(out: &mut Encoder, row: &ObserverRow) -> Result<(), DoesNotFit> {
    let (inside, outside) = (&row.inside, &row.outside);
    out.int8(row.entry.0);
    out.int8(row.path.0);
    out.int8(view_hash(inside));
    out.int8_or_null(row.is_translated().then(|| view_hash(outside)));
    let (start, id) = match row.birth {
        Birth::Start(start) => (start, 0),
        Birth::Id(id) => (0, id),
    };
    out.checked(start, START_RANGE)?;
    out.int8(id);
    out.time_or_null(row.start);
    out.time(row.seen);
    out.int4(row.node.0);
    out.int4(row.netns.0);
    out.int4(row.zone.0);
    ports(out, inside, outside);
    out.int2(inside.family() as u8);
    out.int2(inside.proto.0);
    out.flag(row.fresh);
    addresses(out, inside, outside);
    Ok(())
}

pub(super) const END: Table = Table { name: "flow_end", columns: END_FIELDS };

pub(super) fn end(out: &mut Encoder, row: &EndedEntry) -> Result<(), DoesNotFit> {
    out.int8(row.entry.0);
    out.time(row.at);
    Ok(())
}

pub(super) const FLOW: Table = Table { name: "flow", columns: FLOW_FIELDS };

pub(super) fn flow(out: &mut Encoder, row: &FlowRow) -> Result<(), DoesNotFit> {
    let (inside, outside) = (&row.inside, &row.outside);
    out.time(row.time);
    out.time_or_null(row.since);
    out.time_or_null(row.entry_start);
    out.int8(row.path.0);
    out.int8(row.entry.0);
    let stored = |[packets, bytes, reply_packets, reply_bytes]: [u64; 4]| {
        [bytes, reply_bytes, packets, reply_packets]
    };
    let (counted, raw) = (stored(row.counted.components()), stored(row.raw.components()));
    for value in counted {
        out.signed(value, row.is_retraction(), COUNTER_RANGE)?;
    }
    for (raw, counted) in raw.into_iter().zip(counted) {
        if row.is_same(raw, counted) {
            out.null();
        } else {
            out.checked(raw, COUNTER_RANGE)?;
        }
    }
    out.checked(row.seq.get(), SEQ_RANGE)?;
    out.int8(row.mark);
    out.int4_or_null(row.slack.map(|slack| {
        // Rounded up: it is a bound. Its largest value is 24 days, longer than any spool is old.
        i32::try_from(slack.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    }));
    out.int4(row.node.0);
    out.int4(row.netns.0);
    out.int4(row.zone.0);
    ports(out, inside, outside);
    out.int4(row.flags.cast_signed());
    out.int2(inside.family() as u8);
    out.int2(inside.proto.0);
    out.int2(row.tcp.0);
    addresses(out, inside, outside);
    Ok(())
}

pub(super) const STRAY: Table = Table { name: "flow_stray", columns: STRAY_FIELDS };

pub(super) fn stray(out: &mut Encoder, row: &FlowRow) -> Result<(), DoesNotFit> {
    flow(out, row)?;
    out.time(row.stray.unwrap_or(row.time));
    Ok(())
}

pub(super) const BATCH: Table = Table {
    name: "ingest_batch",
    columns: &[
        "received",
        "wall",
        "seq",
        "interval",
        "live_flows",
        "live_packets_orig",
        "live_bytes_orig",
        "live_packets_reply",
        "live_bytes_reply",
        "ended_flows",
        "ended_packets_orig",
        "ended_bytes_orig",
        "ended_packets_reply",
        "ended_bytes_reply",
        "uncounted",
        "ended_unseen",
        "records",
        "interval_ms",
        "part",
        "parts",
        "node",
        "paused",
        "epoch",
        "digest",
    ],
};

pub(super) fn batch(out: &mut Encoder, row: &BatchRow) -> Result<(), DoesNotFit> {
    let interval = &row.interval;
    let totals = &interval.totals;
    out.time(row.received);
    out.time(interval.clock.wall);
    out.checked(row.name.seq.get(), SEQ_RANGE)?;
    out.clamped(interval.number);
    out.clamped(totals.live_flows);
    clamped(out, &totals.live);
    out.clamped(totals.ended_flows);
    clamped(out, &totals.ended);
    out.clamped(totals.uncounted);
    out.clamped(totals.ended_unseen);
    out.int8(row.records);
    out.int8(interval.length_ms);
    out.int8(interval.part);
    out.int8(interval.parts);
    out.int4(row.name.node.0);
    out.flag(interval.paused);
    out.name(row.name.epoch.0);
    out.digest(row.digest.0);
    Ok(())
}

pub(super) const GAP: Table = Table { name: "gap", columns: GAP_FIELDS };

pub(super) fn gap(out: &mut Encoder, row: &GapRow) -> Result<(), DoesNotFit> {
    out.int4(row.name.node.0);
    out.name(row.name.epoch.0);
    out.checked(row.name.seq.get(), SEQ_RANGE)?;
    out.checked(row.last.get(), SEQ_RANGE)?;
    out.int4(row.reason as u16);
    out.name(row.boot.0);
    out.time(row.at);
    out.time(row.received);
    out.clamped(row.flows);
    clamped(out, &row.lost);
    out.text(&row.note)
}

/// `sport, dport, nat_sport, nat_dport`; those of NAT are NULL where they are the same.
fn ports(out: &mut Encoder, inside: &Tuple, outside: &Tuple) {
    out.int4(inside.sport);
    out.int4(inside.dport);
    for (inside, outside) in [(inside.sport, outside.sport), (inside.dport, outside.dport)] {
        out.int4_or_null((inside != outside).then_some(outside.into()));
    }
}

/// `src, dst, nat_src, nat_dst`; those of NAT are NULL where they are the same.
fn addresses(out: &mut Encoder, inside: &Tuple, outside: &Tuple) {
    out.address(&inside.src);
    out.address(&inside.dst);
    out.address_or_null((inside.src != outside.src).then_some(&outside.src));
    out.address_or_null((inside.dst != outside.dst).then_some(&outside.dst));
}

/// Packets and bytes of both directions, for persons.
fn clamped(out: &mut Encoder, counters: &Counters) {
    for component in counters.components() {
        out.clamped(component);
    }
}
