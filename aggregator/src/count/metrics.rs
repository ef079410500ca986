//! What counting found, for operators.

use std::sync::atomic::AtomicI64;

use flow::count::Growth;
use flow::{Record, RecordFlags};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::store::row::FlowRow;

/// Counts of one change set; they become metrics only when it is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountStats {
    /// Frames.
    pub frames: u64,
    /// Records.
    pub records: u64,
    /// Entries seen first.
    pub first_sights: u64,
    /// Entries without a start stamp: a reused kernel id cannot be told from the same entry.
    pub start_unknown: u64,
    /// Records that ended their entry.
    pub ends: u64,
    /// Entries that ended without being seen to.
    pub ends_unseen: u64,
    /// First records after a node gave up its baselines.
    pub rebased: u64,
    /// Records of entries that the kernel keeps no counters for.
    pub uncounted: u64,
    /// Records of entries whose counters were zeroed by somebody.
    pub resets: u64,
    /// Records that healed missing readings.
    pub missing: u64,
    /// Readings below what was counted.
    pub went_back: u64,
    /// Readings whose times contradict earlier ones, or themselves.
    pub contradictions: u64,
    /// Rows whose time is unknown.
    pub time_unknown: u64,
    /// Rows with an impossible time.
    pub strays: u64,
    /// Gaps.
    pub gaps: u64,
    /// Packets counted, both directions.
    pub packets: u64,
    /// Bytes counted, both directions.
    pub bytes: u64,
}

impl CountStats {
    pub(super) fn record(&mut self, record: &Record, growth: &Growth, row: &FlowRow) {
        let has = |flag| u64::from(record.flags.has(flag));
        self.records += 1;
        self.ends += has(RecordFlags::END);
        self.ends_unseen += has(RecordFlags::UNSEEN);
        self.rebased += has(RecordFlags::REBASE);
        self.uncounted += has(RecordFlags::UNCOUNTED);
        self.resets += has(RecordFlags::RESET);
        self.missing += u64::from(growth.missing);
        self.went_back += u64::from(growth.went_back);
        self.contradictions += u64::from(growth.contradicts || record.since > record.until);
        self.time_unknown += u64::from(row.slack.is_none());
        self.strays += u64::from(row.stray.is_some());
        let [op, ob, rp, rb] = growth.growth.components();
        self.packets = self.packets.saturating_add(op).saturating_add(rp);
        self.bytes = self.bytes.saturating_add(ob).saturating_add(rb);
    }
}

/// Something about a record that an operator may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Finding {
    StartUnknown,
    EndUnseen,
    Rebased,
    Uncounted,
    Reset,
    Missing,
    WentBack,
    Contradiction,
    TimeUnknown,
    Stray,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FindingLabel {
    finding: Finding,
}

/// Metrics of counting.
#[derive(Clone, Debug, Default)]
pub struct CountMetrics {
    frames: Counter,
    records: Counter,
    first_sights: Counter,
    ends: Counter,
    gaps: Counter,
    packets: Counter,
    bytes: Counter,
    findings: Family<FindingLabel, Counter>,
    entries: Gauge<i64, AtomicI64>,
    evicted: Counter,
}

impl CountMetrics {
    /// Adds them to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let mut counter = |name: &str, help: &str, metric: &Counter| {
            registry.register(name, help, metric.clone());
        };
        counter("conntracct_count_frames", "Frames counted and committed", &self.frames);
        counter("conntracct_count_records", "Records counted and committed", &self.records);
        counter("conntracct_count_first_sights", "Entries seen first", &self.first_sights);
        counter("conntracct_count_ends", "Entries whose end was recorded", &self.ends);
        counter("conntracct_count_gaps", "Gaps committed", &self.gaps);
        counter("conntracct_count_packets", "Packets counted, both directions", &self.packets);
        counter("conntracct_count_bytes", "Bytes counted, both directions", &self.bytes);
        counter(
            "conntracct_count_evicted_entries",
            "Entries that left memory; the store still has them",
            &self.evicted,
        );
        registry.register(
            "conntracct_count_findings",
            "Records with something worth knowing, by what it is",
            self.findings.clone(),
        );
        registry.register(
            "conntracct_count_memory_entries",
            "Entries in memory",
            self.entries.clone(),
        );
    }

    /// Adds the counts of a committed set.
    pub fn committed(&self, stats: &CountStats) {
        self.frames.inc_by(stats.frames);
        self.records.inc_by(stats.records);
        self.first_sights.inc_by(stats.first_sights);
        self.ends.inc_by(stats.ends);
        self.gaps.inc_by(stats.gaps);
        self.packets.inc_by(stats.packets);
        self.bytes.inc_by(stats.bytes);
        for (finding, count) in [
            (Finding::StartUnknown, stats.start_unknown),
            (Finding::EndUnseen, stats.ends_unseen),
            (Finding::Rebased, stats.rebased),
            (Finding::Uncounted, stats.uncounted),
            (Finding::Reset, stats.resets),
            (Finding::Missing, stats.missing),
            (Finding::WentBack, stats.went_back),
            (Finding::Contradiction, stats.contradictions),
            (Finding::TimeUnknown, stats.time_unknown),
            (Finding::Stray, stats.strays),
        ] {
            self.findings.get_or_create(&FindingLabel { finding }).inc_by(count);
        }
    }

    /// Notes how many entries are in memory, and how many just left it.
    pub fn memory(&self, entries: usize, evicted: usize) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.evicted.inc_by(u64::try_from(evicted).unwrap_or(u64::MAX));
    }
}
