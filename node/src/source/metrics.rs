//! Metrics of the source, whichever it is.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use flow::{Reading, Status};

use super::SourceHealth;

/// What a source has read and lost.
#[derive(Clone, Debug, Default)]
pub struct SourceMetrics {
    births: Counter,
    ends: Counter,
    dropped_ends: Counter,
    dropped_packets: Counter,
    dropped_bytes: Counter,
    lost_ends: Counter,
    lost_births: Counter,
    missed_births: Counter,
    overruns: Counter,
    guard_trips: Counter,
    malformed: Counter,
    reliable_ends: Gauge,
    ended_waiting: Gauge,
    fill: Gauge,
    uncounted: Gauge,
    offloaded: Gauge,
    offloaded_uncounted: Gauge,
    failed_sweeps: Counter,
    namespaces: Gauge,
}

impl SourceMetrics {
    /// Adds the metrics to a registry, under `conntracct_source_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("conntracct_source");
        let mut counter = |name: &str, help: &str, metric: &Counter| {
            registry.register(name, help, metric.clone());
        };
        counter("births", "NEW events read. The rate of new connections", &self.births);
        counter(
            "ends",
            "DESTROY events read. Over hours it follows births; far below: events are lost or \
             switched off",
            &self.ends,
        );
        counter(
            "dropped_ends",
            "Ends read, then dropped because the table of ended entries was full. Their last growth \
             is lost and told by a gap: the aggregator was away too long, or the node is too slow",
            &self.dropped_ends,
        );
        counter(
            "dropped_packets",
            "Packets of the dropped ends, both directions. Missing in the store, and said so there \
             in a gap",
            &self.dropped_packets,
        );
        counter(
            "dropped_bytes",
            "Bytes of the dropped ends, both directions. Missing in the store, and said so there \
             in a gap",
            &self.dropped_bytes,
        );
        counter(
            "lost_ends",
            "Ends that the kernel could not deliver and did not keep. Their entries are closed \
             as ended unseen, without the growth since their last sweep: give the node CPU time, \
             or a larger buffer",
            &self.lost_ends,
        );
        counter(
            "lost_births",
            "Births that were not delivered. Nothing is missing: the sweep or the end tells of them",
            &self.lost_births,
        );
        counter(
            "missed_births",
            "Living entries whose birth was missed and that listing the table has found, by eBPF. \
             Nothing is missing; often: give the node CPU time, or a larger ebpf.ring",
            &self.missed_births,
        );
        counter(
            "overruns",
            "Times the kernel reported a full event buffer. Often: the node gets too little CPU \
             time for this rate of connections",
            &self.overruns,
        );
        counter(
            "guard_trips",
            "Times reliable ends were switched off so that the gateway refuses no connection. \
             Ends may be lost until they are on again: nf_conntrack_max is too small, or the \
             node was stopped",
            &self.guard_trips,
        );
        counter(
            "malformed_messages",
            "Messages of the kernel that could not be parsed. Report it with the kernel's version",
            &self.malformed,
        );
        counter(
            "failed_sweeps",
            "Tables of a namespace that could not be read to the end. They are read again at the \
             next sweep; always the same: see the log",
            &self.failed_sweeps,
        );
        let mut gauge = |name: &str, help: &str, metric: &Gauge| {
            registry.register(name, help, metric.clone());
        };
        gauge(
            "reliable_ends",
            "1 while the kernel keeps ends that it cannot deliver at once. At 0 the last growth \
             of an entry can be lost: alert on it",
            &self.reliable_ends,
        );
        gauge(
            "ended_waiting_entries",
            "Ended entries that wait to be taken, 100,000 at most. Growing: the disk is full or \
             slow",
            &self.ended_waiting,
        );
        gauge(
            "kernel_fill_permille",
            "Entries of the fullest namespace, in thousandths of nf_conntrack_max. Above 900 the \
             kernel soon refuses connections: raise nf_conntrack_max",
            &self.fill,
        );
        gauge(
            "uncounted_entries",
            "Living entries of the last sweep that the kernel keeps no counters of, those in \
             flowtables included. Not 0: they were born while nf_conntrack_acct was 0 and are \
             reported as uncounted; keep it at 1 from boot on",
            &self.uncounted,
        );
        gauge(
            "offloaded_entries",
            "Living entries of the last sweep that a flowtable forwards. They are counted where the \
             flowtable has the line counter: conntracct-node doctor says whether it has",
            &self.offloaded,
        );
        gauge(
            "offloaded_uncounted_entries",
            "Of the offloaded entries, those without counters. Not 0: as uncounted_entries",
            &self.offloaded_uncounted,
        );
        gauge(
            "namespaces",
            "Network namespaces read to their end by the last sweep. Fewer than expected: check \
             the setting netns",
            &self.namespaces,
        );
    }

    /// Takes over a source's state of health.
    pub fn observe(&self, health: &SourceHealth) {
        let [op, ob, rp, rb] = health.dropped.components();
        for (counter, total) in [
            (&self.births, health.births),
            (&self.ends, health.deaths),
            (&self.dropped_ends, health.dropped_ends),
            (&self.dropped_packets, op.saturating_add(rp)),
            (&self.dropped_bytes, ob.saturating_add(rb)),
            (&self.lost_ends, health.lost_ends),
            (&self.lost_births, health.lost_births),
            (&self.missed_births, health.missed_births),
            (&self.overruns, health.overruns),
            (&self.guard_trips, health.guard_trips),
            (&self.malformed, health.malformed),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        self.reliable_ends.set(i64::from(health.reliable_ends));
        self.ended_waiting.set(signed(health.ended_waiting));
        self.fill.set(signed(health.fill_permille));
    }

    /// Takes note of what a sweep has shown to live.
    pub fn live(&self, seen: &LiveKinds) {
        self.uncounted.set(signed(seen.uncounted));
        self.offloaded.set(signed(seen.offloaded));
        self.offloaded_uncounted.set(signed(seen.offloaded_uncounted));
    }

    /// Takes note of a sweep.
    pub fn swept(&self, report: &super::SweepReport) {
        self.failed_sweeps.inc_by(report.failed.len() as u64);
        self.namespaces.set(i64::try_from(report.complete.len()).unwrap_or(i64::MAX));
    }
}

/// Living entries by what stands between them and exact counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveKinds {
    /// All of them.
    pub entries: u64,
    /// The kernel keeps no counters.
    pub uncounted: u64,
    /// A flowtable forwards them (`IPS_OFFLOAD`).
    pub offloaded: u64,
    /// Both.
    pub offloaded_uncounted: u64,
}

impl LiveKinds {
    /// Counts one.
    pub fn count(&mut self, reading: &Reading) {
        let uncounted = reading.counters.is_none();
        let offloaded = reading.status.has(Status::OFFLOAD);
        self.entries += 1;
        self.uncounted += u64::from(uncounted);
        self.offloaded += u64::from(offloaded);
        self.offloaded_uncounted += u64::from(uncounted && offloaded);
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_counters_are_told_apart_by_who_forwards_them() {
        let any = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let orig = flow::Tuple::icmp(flow::Proto::ICMP, any, any, 1, 8, 0);
        let read = |status, counters| Reading {
            netns: flow::NetnsInode(1),
            zone: flow::entry::Zone(0),
            orig,
            reply: orig.inverse(),
            start: 1,
            stop: 0,
            kernel_id: 1,
            mark: 0,
            status: Status(status),
            tcp: flow::TcpState(0),
            fresh: false,
            counters,
        };
        let mut kinds = LiveKinds::default();
        let counted = Some(flow::Counters::ZERO);
        for (status, counters) in
            [(0, counted), (0, None), (Status::OFFLOAD, counted), (Status::OFFLOAD, None)]
        {
            kinds.count(&read(status, counters));
        }
        kinds.count(&read(Status::HW_OFFLOAD, None));
        let expected = LiveKinds { entries: 5, uncounted: 3, offloaded: 2, offloaded_uncounted: 1 };
        assert_eq!(kinds, expected);
    }

    #[test]
    fn totals_are_taken_over_once() {
        let metrics = SourceMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let health = SourceHealth {
            deaths: 7,
            reliable_ends: true,
            missed_births: 3,
            dropped: flow::Counters::new(1, 10, 2, 20),
            ..SourceHealth::default()
        };
        metrics.observe(&health);
        metrics.observe(&SourceHealth { deaths: 9, ..health });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "conntracct_source_ends_total 9",
            "conntracct_source_dropped_bytes_total 30",
            "conntracct_source_missed_births_total 3",
            "conntracct_source_reliable_ends 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in {text}");
        }
    }
}
