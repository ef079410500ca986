//! Names and order of columns that all databases share.

/// The columns [`flow_row`](super::decode::flow_row) decodes, to be selected first and in this
/// order; from `flow_all` or `flow_stray` with `receipt` as the column after them.
pub const FLOW_COLUMNS: &str = "time, since, entry_start, path, entry, bytes_orig, bytes_reply, \
     packets_orig, packets_reply, raw_bytes_orig, raw_bytes_reply, raw_packets_orig, \
     raw_packets_reply, batch_seq, mark, since_slack, node, netns, zone, sport, dport, nat_sport, \
     nat_dport, flags, family, proto, tcp_state, src, dst, nat_src, nat_dst";

/// `flow` with the paths that theirs have become, where any has: `aliases` says so.
#[must_use]
pub fn resolved_flow(aliases: bool) -> String {
    if !aliases {
        return "flow".to_owned();
    }
    let column = |name: &&str| match *name {
        "path" => "coalesce(a.into_path, f.path) AS path".to_owned(),
        name => format!("f.{name}"),
    };
    let columns: Vec<String> = FLOW_FIELDS.iter().map(column).collect();
    let columns = columns.join(", ");
    format!("(SELECT {columns} FROM flow f LEFT JOIN path_alias a ON a.path = f.path) AS resolved")
}

/// [`FLOW_COLUMNS`] one by one.
pub(super) const FLOW_FIELDS: &[&str] = STRAY_FIELDS.split_at(STRAY_FIELDS.len() - 1).0;

/// Columns of `flow_stray`: those of `flow`, and the receipt.
pub(super) const STRAY_FIELDS: &[&str] = &[
    "time",
    "since",
    "entry_start",
    "path",
    "entry",
    "bytes_orig",
    "bytes_reply",
    "packets_orig",
    "packets_reply",
    "raw_bytes_orig",
    "raw_bytes_reply",
    "raw_packets_orig",
    "raw_packets_reply",
    "batch_seq",
    "mark",
    "since_slack",
    "node",
    "netns",
    "zone",
    "sport",
    "dport",
    "nat_sport",
    "nat_dport",
    "flags",
    "family",
    "proto",
    "tcp_state",
    "src",
    "dst",
    "nat_src",
    "nat_dst",
    "receipt",
];

/// The columns [`observer_row`](super::decode::observer_row) decodes, of `flow_entry AS o`, first
/// and in this order.
pub const OBSERVER_COLUMNS: &str = "o.entry, o.path, o.node, o.netns, o.zone, o.proto, o.sport, \
     o.dport, o.src, o.dst, o.nat_sport, o.nat_dport, o.nat_src, o.nat_dst, o.raw_start, \
     o.kernel_id, o.start, o.fresh, o.seen, o.ended, o.base_packets_orig, o.base_bytes_orig, \
     o.base_packets_reply, o.base_bytes_reply";

/// What is loaded of entries: those that are open, or ended at or after `$1`; `o` as in
/// [`OBSERVER_COLUMNS`].
pub(super) const LOADED_ENTRIES: &str = "(SELECT f.*, l.ended FROM (\
     SELECT entry, max(ended) AS ended FROM flow_end WHERE ended >= $1 GROUP BY entry \
     UNION ALL SELECT entry, NULL FROM flow_open \
     UNION ALL SELECT entry, NULL FROM flow_observer young \
     WHERE entry > (SELECT open_upto FROM writer) \
     AND NOT EXISTS (SELECT 1 FROM flow_end e WHERE e.entry = young.entry)) AS l \
     JOIN flow_observer f ON f.entry = l.entry) AS o";

/// How far entries may go on from `writer.open_upto` before those of them that are still open are
/// noted in `flow_open`: as many may have to be looked through at a start.
pub(super) const OPEN_EVERY: i64 = 131_072;

/// How many of the youngest entries are left out then: most of them end soon.
pub(super) const OPEN_YOUNG: i64 = 65_536;

/// Notes the open entries after `$1` up to `$2`.
pub(super) const NOTE_OPEN: &str = "INSERT INTO flow_open (entry) \
     SELECT entry FROM flow_observer o WHERE entry > $1 AND entry <= $2 \
     AND NOT EXISTS (SELECT 1 FROM flow_end e WHERE e.entry = o.entry)";

/// Aliases stay flat: what led to the path `$2` that is given up leads on to `$1` at once.
pub(super) const MOVE_ALIASES: &str = "UPDATE path_alias SET into_path = $1 WHERE into_path = $2";

/// Path `$2` is `$1` from now on.
pub(super) const ADD_ALIAS: &str = "INSERT INTO path_alias (into_path, path) VALUES ($1, $2) \
     ON CONFLICT (path) DO UPDATE SET into_path = excluded.into_path";

/// What [`Store::index_views`](super::Store::index_views) makes.
pub(super) const INDEX_VIEWS: [&str; 2] = [
    "CREATE INDEX IF NOT EXISTS flow_observer_view_inside ON flow_observer (view_inside)",
    "CREATE INDEX IF NOT EXISTS flow_observer_view_outside ON flow_observer (view_outside) \
     WHERE view_outside IS NOT NULL",
];

/// Columns of `flow_end`.
pub(super) const END_FIELDS: &[&str] = &["entry", "ended"];

/// Columns of `gap`.
pub(crate) const GAP_FIELDS: &[&str] = &[
    "node",
    "epoch",
    "first_seq",
    "last_seq",
    "reason",
    "boot",
    "at",
    "received",
    "flows",
    "packets_orig",
    "bytes_orig",
    "packets_reply",
    "bytes_reply",
    "note",
];

/// What [`epoch_row`](super::decode::epoch_row) decodes, of `node_epoch`.
pub(crate) const EPOCH_COLUMNS: &str =
    "node, epoch, committed_seq, last_digest, begun, last_gap, sweep_boot, sweep_begin";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_lists_agree() {
        assert_eq!(FLOW_COLUMNS.split(", ").collect::<Vec<_>>(), FLOW_FIELDS);
        assert_eq!(STRAY_FIELDS.split_last(), Some((&"receipt", FLOW_FIELDS)));
    }
}
