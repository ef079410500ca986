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
    live: "Entries tracked as live",
    untracked_live: "Entries of the last sweep that found no room",
    ended_waiting: "Ended entries whose last record is not durable",
    births: "NEW events since start",
    ends: "Ends taken since start",
    ends_unknown: "Ends of entries that no sweep had seen, since start",
    ends_repeated: "Ends that came again, since start",
    ended_unseen: "Entries closed because no end came, since start",
    ends_late: "Ends that came after their entry had been closed, since start",
    ends_dropped: "Ends dropped because too many waited, since start",
    resets: "Times counters of a living entry were zeroed by somebody, since start",
    changed_births: "Entries that took the key of one still held as live, since start",
    reappeared: "Entries that a complete sweep missed and a later one found, since start",
    sweeps_complete: "Complete sweeps of all namespaces, since start",
    sweeps_incomplete: "Sweeps given up or missing a namespace, since start",
}

impl AggregationMetrics {
    /// Puts the numbers under their names.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("conntracct_aggregation");
        r.register("records", "Records made durable or handed on", self.records.clone());
        r.register("frames", "Frames made durable", self.frames.clone());
        r.register("intervals", "Intervals closed", self.intervals.clone());
        r.register("postponed", "Closings that will come again", self.postponed.clone());
        r.register("unencodable", "Records that no frame can carry", self.unencodable.clone());
        self.table.register(registry);
    }

    /// Takes in the flow table's numbers.
    pub fn table(&self, stats: &TableStats) {
        self.table.set(stats);
    }
}
