//! Each table's columns, and how a row fills them.

use super::insert::{Binds, DoesNotFit, Table};
use crate::store::columns::{END_FIELDS, FLOW_FIELDS, GAP_FIELDS, STRAY_FIELDS};
use crate::store::row::{
    BatchRow, EndedEntry, FlowRow, GapRow, NetnsRow, NodeRow, ObserverRow, view_hash,
};

pub(super) const SEQ_RANGE: &str = "a sequence number exceeds 2^63 - 1";
const COUNTER_RANGE: &str = "a counter exceeds 2^63 - 1";
const START_RANGE: &str = "a start stamp exceeds 2^63 - 1";

pub(super) static NODE: Table = Table::new("node", &["id", "name", "epoch", "epoch_since"]);

pub(super) fn bind_node(binds: &mut Binds, row: &NodeRow) -> Result<(), DoesNotFit> {
    binds.int(row.node.0);
    binds.text(row.name.as_str());
    binds.blob(&row.epoch.0);
    binds.time(row.epoch_since);
    Ok(())
}

pub(super) static NETNS: Table = Table::new("netns", &["id", "node", "inode", "boot"]);

pub(super) fn bind_netns(binds: &mut Binds, row: &NetnsRow) -> Result<(), DoesNotFit> {
    binds.int(row.netns.0);
    binds.int(row.node.0);
    binds.int(row.inode().0);
    binds.blob(&row.id.boot.0);
    Ok(())
}

pub(super) static OBSERVER: Table = Table::new(
    "flow_observer",
    &[
        "entry",
        "path",
        "node",
        "netns",
        "zone",
        "family",
        "proto",
        "sport",
        "dport",
        "src",
        "dst",
        "nat_sport",
        "nat_dport",
        "nat_src",
        "nat_dst",
        "view_inside",
        "view_outside",
        "raw_start",
        "kernel_id",
        "start",
        "fresh",
        "seen",
    ],
);

pub(super) fn bind_observer(binds: &mut Binds, row: &ObserverRow) -> Result<(), DoesNotFit> {
    let (inside, outside) = (&row.inside, &row.outside);
    binds.int(row.entry.0);
    binds.int(row.path.0);
    binds.int(row.node.0);
    binds.int(row.netns.0);
    binds.int(row.zone.0);
    binds.int(inside.family() as u8);
    binds.int(inside.proto.0);
    binds.ports(inside);
    binds.addresses(inside);
    binds.nat_ports(inside, outside);
    binds.nat_addresses(inside, outside);
    binds.int(view_hash(inside));
    binds.int_or_null(row.is_translated().then(|| view_hash(outside)));
    let (start, id) = match row.birth {
        flow::Birth::Start(start) => (start, 0),
        flow::Birth::Id(id) => (0, id),
    };
    binds.checked(start, START_RANGE)?;
    binds.int(id);
    binds.time_or_null(row.start);
    binds.int(row.fresh);
    binds.time(row.seen);
    Ok(())
}

pub(super) static END: Table = Table::new("flow_end", END_FIELDS);

pub(super) fn bind_end(binds: &mut Binds, row: &EndedEntry) -> Result<(), DoesNotFit> {
    binds.int(row.entry.0);
    binds.time(row.at);
    Ok(())
}

pub(super) static FLOW: Table = Table::new("flow", FLOW_FIELDS);

pub(super) fn bind_flow(binds: &mut Binds, row: &FlowRow) -> Result<(), DoesNotFit> {
    let (inside, outside) = (&row.inside, &row.outside);
    binds.time(row.time);
    binds.time_or_null(row.since);
    binds.time_or_null(row.entry_start);
    binds.int(row.path.0);
    binds.int(row.entry.0);
    let [packets, bytes, reply_packets, reply_bytes] = row.counted.components();
    for counted in [bytes, reply_bytes, packets, reply_packets] {
        binds.signed(counted, row.is_retraction(), COUNTER_RANGE)?;
    }
    let [raw_packets, raw_bytes, raw_reply_packets, raw_reply_bytes] = row.raw.components();
    for (raw, counted) in [
        (raw_bytes, bytes),
        (raw_reply_bytes, reply_bytes),
        (raw_packets, packets),
        (raw_reply_packets, reply_packets),
    ] {
        if row.is_same(raw, counted) {
            binds.int_or_null(None);
        } else {
            binds.checked(raw, COUNTER_RANGE)?;
        }
    }
    binds.checked(row.seq.get(), SEQ_RANGE)?;
    binds.int(row.mark);
    binds.int_or_null(row.slack.map(|slack| {
        // Rounded up: it is a bound.
        i64::try_from(slack.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
    }));
    binds.int(row.node.0);
    binds.int(row.netns.0);
    binds.int(row.zone.0);
    binds.ports(inside);
    binds.nat_ports(inside, outside);
    binds.int(row.flags);
    binds.int(inside.family() as u8);
    binds.int(inside.proto.0);
    binds.int(row.tcp.0);
    binds.addresses(inside);
    binds.nat_addresses(inside, outside);
    Ok(())
}

pub(super) static STRAY: Table = Table::new("flow_stray", STRAY_FIELDS);

pub(super) fn bind_stray(binds: &mut Binds, row: &FlowRow) -> Result<(), DoesNotFit> {
    bind_flow(binds, row)?;
    binds.time(row.stray.unwrap_or(row.time));
    Ok(())
}

pub(super) static BATCH: Table = Table::new(
    "ingest_batch",
    &[
        "node",
        "epoch",
        "seq",
        "received",
        "digest",
        "records",
        "interval",
        "interval_ms",
        "part",
        "parts",
        "wall",
        "paused",
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
    ],
);

pub(super) fn bind_batch(binds: &mut Binds, row: &BatchRow) -> Result<(), DoesNotFit> {
    let interval = &row.interval;
    let totals = &interval.totals;
    binds.int(row.name.node.0);
    binds.blob(&row.name.epoch.0);
    binds.checked(row.name.seq.get(), SEQ_RANGE)?;
    binds.time(row.received);
    binds.blob(&row.digest.0);
    binds.int(row.records);
    binds.clamped(interval.number);
    binds.int(interval.length_ms);
    binds.int(interval.part);
    binds.int(interval.parts);
    binds.time(interval.clock.wall);
    binds.int(interval.paused);
    binds.clamped(totals.live_flows);
    binds.clamped_counters(&totals.live);
    binds.clamped(totals.ended_flows);
    binds.clamped_counters(&totals.ended);
    binds.clamped(totals.uncounted);
    binds.clamped(totals.ended_unseen);
    Ok(())
}

pub(super) static GAP: Table = Table::new("gap", GAP_FIELDS);

pub(super) fn bind_gap(binds: &mut Binds, row: &GapRow) -> Result<(), DoesNotFit> {
    binds.int(row.name.node.0);
    binds.blob(&row.name.epoch.0);
    binds.checked(row.name.seq.get(), SEQ_RANGE)?;
    binds.checked(row.last.get(), SEQ_RANGE)?;
    binds.int(row.reason as u16);
    binds.blob(&row.boot.0);
    binds.time(row.at);
    binds.time(row.received);
    binds.clamped(row.flows);
    binds.clamped_counters(&row.lost);
    binds.text(&row.note);
    Ok(())
}
