//! `GET /stats`: the numbers of probe, pipeline and sinks as JSON.
//!
//! The names are those that readers of the old `/stats` know, with what they have always meant
//! where this program has it: events are what the kernel told (updates are readings of live
//! entries, destroys are ends), lost are those that were read but dropped. Numbers that are new
//! stand beside them.

use serde_json::{Map, Value, json};

use crate::metrics::Metrics;
use crate::sink::counts::SinkCounts;

/// The body of `/stats`.
pub(super) fn body(metrics: &Metrics) -> Value {
    let Metrics { probe, aggregation, .. } = metrics;
    let health = probe.last_health();
    let (updates, destroys) = (probe.readings.get(), health.deaths);
    let total = updates.saturating_add(destroys);
    let sinks: Map<String, Value> =
        metrics.sink_counts().map(|counts| (SINK.to_owned(), sink(&counts))).into_iter().collect();
    json!({
        "probe": {
            "perf_events_total": total,
            "perf_events_update": updates,
            // A reading that fails comes again with the next sweep.
            "perf_events_update_lost": 0,
            "perf_events_destroy": destroys,
            "perf_events_destroy_lost": health.dropped_ends,
            "births": health.births,
            "overruns": health.overruns,
            "malformed": health.malformed,
            "reliable_ends": health.reliable_ends,
            "guard_trips": health.guard_trips,
            "sweeps_complete": probe.sweeps_complete.get(),
            "sweeps_partial": probe.sweeps_partial.get(),
        },
        "pipeline": {
            "events_total": total,
            "events_update": updates,
            "events_destroy": destroys,
            "records": aggregation.records.get(),
            "frames": aggregation.frames.get(),
            "intervals": aggregation.intervals.get(),
            "postponed": aggregation.postponed.get(),
            "unencodable": aggregation.unencodable.get(),
        },
        "sinks": sinks,
    })
}

/// The name of the one local sink there is so far.
const SINK: &str = "stdout";

fn sink(counts: &SinkCounts) -> Value {
    let numbers = counts.numbers();
    json!({
        "update_events_pushed": numbers.updates_pushed,
        "destroy_events_pushed": numbers.ends_pushed,
        "update_events_dropped": numbers.updates_dropped,
        "destroy_events_dropped": numbers.ends_dropped,
        "batch_length": numbers.last_batch,
        "batches_queued": numbers.batches_pushed,
        "batch_queue_length": numbers.queue_length,
        "batches_sent": numbers.batches_sent,
        "batches_dropped": numbers.batches_dropped,
        "batch_events_failed": numbers.events_failed,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::SourceHealth;

    #[test]
    fn old_readers_find_their_names_in_their_sections() {
        let metrics = Metrics::default();
        metrics.sink(&Arc::new(SinkCounts::default()));
        metrics.probe.readings.inc_by(40);
        let health = SourceHealth { deaths: 2, dropped_ends: 1, ..SourceHealth::default() };
        metrics.probe.health(&health);
        let body = body(&metrics);
        assert_eq!(body["probe"]["perf_events_total"], 42);
        assert_eq!(body["probe"]["perf_events_update"], 40);
        assert_eq!(body["probe"]["perf_events_destroy"], 2);
        assert_eq!(body["probe"]["perf_events_destroy_lost"], 1);
        assert_eq!(body["pipeline"]["events_total"], 42);
        for name in [
            "update_events_pushed",
            "destroy_events_pushed",
            "update_events_dropped",
            "destroy_events_dropped",
            "batch_length",
            "batches_queued",
            "batch_queue_length",
            "batches_sent",
            "batches_dropped",
            "batch_events_failed",
        ] {
            assert_eq!(body["sinks"]["stdout"][name], 0, "{name}");
        }
    }
}
