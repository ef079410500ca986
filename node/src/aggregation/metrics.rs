//! Numbers of the aggregation and its flow table.

use flow::table::TableStats;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What the aggregation counts. Gauges named after a total show a number that the flow table
/// keeps itself.
#[derive(Debug, Default)]
pub struct AggregationMetrics {
    /// Records in durable frames, or handed to local sinks.
    pub records: Counter,
    /// Frames made durable.
    pub frames: Counter,
    /// Intervals closed.
    pub intervals: Counter,
    /// Closings that were not durable and will come again.
    pub postponed: Counter,
    /// Records that no frame can carry; left out.
    pub unencodable: Counter,
    table: TableGauges,
}

macro_rules! table_gauges {
    ($($field:ident: $help:literal,)*) => {
        /// The flow table's numbers, one gauge each.
        #[derive(Debug, Default)]
        struct TableGauges { $($field: Gauge,)* }

        impl TableGauges {
            fn register(&self, registry: &mut Registry) {
                let r = registry.sub_registry_with_prefix("conntracct_table");
                $(r.register(stringify!($field), $help, self.$field.clone());)*
            }

            fn set(&self, stats: &TableStats) {
                $(self.$field.set(i64::try_from(stats.$field).unwrap_or(i64::MAX));)*
            }
        }
    };
}

table_gauges! {
    live: "Entries tracked as live. The load; at 1,048,576 further ones are untracked",
    untracked_live: "Entries of the last sweep that found no room in the table. They are counted by \
                     their end only: raise limits.live_flows",
    ended_waiting: "Ended entries whose last record is not durable yet. Growing: the spool is full or \
                    its disk slow",
    births: "NEW events since start. The rate of new connections",
    ends: "Ends taken since start. Over hours it follows births",
    ends_unknown: "Ends of entries that no sweep had seen, since start. Short flows: normal",
    ends_repeated: "Ends that came again, since start. Normal after an overrun; counted once",
    ended_unseen: "Entries closed because no end came, since start. Their growth since the last sweep \
                   is unknown: see lost_ends of the source, and restarts of the node",
    ends_late: "Ends that came after their entry had been closed, since start. Counted in full; many: \
                the node is behind with events",
    ends_dropped: "Ends dropped because too many waited, since start. Their last growth is lost and \
                   told by a gap: the spool was full",
    resets: "Times counters of a living entry were zeroed by somebody, since start. Something runs \
             conntrack -Z: what grew between sweep and zeroing is lost",
    changed_births: "Entries that took the key of one still held as live, since start. An end was \
                     not delivered; many: see lost_ends of the source",
    reappeared: "Entries that a complete sweep missed and a later one found, since start. The kernel \
                 moves entries while it is read: some are normal",
    sweeps_complete: "Complete sweeps of all namespaces, since start. One each interval",
    sweeps_incomplete: "Sweeps given up or missing a namespace, since start. Always: see \
                        conntracct_probe_sweeps_partial",
}

impl AggregationMetrics {
    /// Puts the numbers under their names.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("conntracct_aggregation");
        r.register("records", RECORDS, self.records.clone());
        r.register("frames", FRAMES, self.frames.clone());
        r.register("intervals", INTERVALS, self.intervals.clone());
        r.register("postponed", POSTPONED, self.postponed.clone());
        r.register("unencodable", UNENCODABLE, self.unencodable.clone());
        self.table.register(registry);
    }

    /// Takes in the flow table's numbers.
    pub fn table(&self, stats: &TableStats) {
        self.table.set(stats);
    }
}

const RECORDS: &str = "Records made durable, or handed to local sinks. The load";
const FRAMES: &str = "Frames made durable in the spool. One an interval at least, one for each \
                      10,000 records";
const INTERVALS: &str = "Intervals closed. Stands still: no flow is reported, see /readyz";
const POSTPONED: &str = "Closings that were not durable and come again. Nothing is lost; rising: \
                         the spool's disk is full or slow";
const UNENCODABLE: &str =
    "Records that no frame can carry, left out. Never; report it with the log";
