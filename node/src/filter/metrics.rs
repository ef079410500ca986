//! Numbers of the flows that the filter leaves out. With the totals in the batches' headers they
//! are what the kernel counted.

use std::fmt;

use flow::Counters;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Cause;

/// Flows left out, with what they carried; clones share the same figures.
#[derive(Clone, Debug)]
pub struct FilterMetrics {
    live: Family<CauseLabel, Gauge>,
    live_packets: Family<CauseLabel, Gauge>,
    live_bytes: Family<CauseLabel, Gauge>,
    ended: Family<CauseLabel, Counter>,
    ended_packets: Family<CauseLabel, Counter>,
    ended_bytes: Family<CauseLabel, Counter>,
}

/// Label: why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: Cause,
}

impl EncodeLabelValue for Cause {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        fmt::Write::write_str(encoder, self.as_str())
    }
}

/// Flows and what they carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub flows: u64,
    /// Their absolute counters.
    pub counters: Counters,
}

impl LeftOut {
    /// Takes one in; a flow that the kernel keeps no counters for carries nothing.
    pub fn add(&mut self, counters: Option<Counters>) {
        self.flows += 1;
        self.counters = self.counters.plus(counters.unwrap_or_default());
    }

    fn packets_and_bytes(&self) -> (u64, u64) {
        let [op, ob, rp, rb] = self.counters.components();
        (op.saturating_add(rp), ob.saturating_add(rb))
    }
}

impl Default for FilterMetrics {
    fn default() -> Self {
        let metrics = Self {
            live: Family::default(),
            live_packets: Family::default(),
            live_bytes: Family::default(),
            ended: Family::default(),
            ended_packets: Family::default(),
            ended_bytes: Family::default(),
        };
        // Every label is there from the start.
        for cause in Cause::ALL {
            metrics.set_live(cause, LeftOut::default());
            metrics.add_ended(cause, LeftOut::default());
        }
        metrics
    }
}

impl FilterMetrics {
    /// Puts the numbers under their names.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("conntracct_filter");
        r.register(
            "live_flows",
            "Live flows that the last sweep left out, by the filter's cause. More than expected: \
             the filter is too wide, nothing of them is reported",
            self.live.clone(),
        );
        r.register(
            "live_packets",
            "Packets of those, both directions. With ended_packets, what the filter hides",
            self.live_packets.clone(),
        );
        r.register(
            "live_bytes",
            "Bytes of those, both directions. With ended_bytes, what the filter hides",
            self.live_bytes.clone(),
        );
        r.register(
            "ended_flows",
            "Ends of flows that are left out, by the filter's cause. More than expected: the \
             filter is too wide, nothing of them is reported",
            self.ended.clone(),
        );
        r.register(
            "ended_packets",
            "Packets of those, both directions, from birth to end. What the filter hides: the \
             difference to the gateway's interfaces",
            self.ended_packets.clone(),
        );
        r.register(
            "ended_bytes",
            "Bytes of those, both directions, from birth to end. What the filter hides: the \
             difference to the gateway's interfaces",
            self.ended_bytes.clone(),
        );
    }

    /// What a sweep left out.
    pub fn set_live(&self, cause: Cause, left_out: LeftOut) {
        let label = CauseLabel { cause };
        let (packets, bytes) = left_out.packets_and_bytes();
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.live.get_or_create(&label).set(signed(left_out.flows));
        self.live_packets.get_or_create(&label).set(signed(packets));
        self.live_bytes.get_or_create(&label).set(signed(bytes));
    }

    /// Ends that were left out.
    pub fn add_ended(&self, cause: Cause, left_out: LeftOut) {
        let label = CauseLabel { cause };
        let (packets, bytes) = left_out.packets_and_bytes();
        self.ended.get_or_create(&label).inc_by(left_out.flows);
        self.ended_packets.get_or_create(&label).inc_by(packets);
        self.ended_bytes.get_or_create(&label).inc_by(bytes);
    }
}
