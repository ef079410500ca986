//! What counting found, for operators.

use std::sync::atomic::AtomicI64;

use flow::count::Growth;
use flow::merge::{Counted, LinkStats};
use flow::{Record, RecordFlags};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::pipeline::hold::HoldStats;
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
    /// Entries closed after too long a silence.
    pub closed: u64,
    /// Entries that had ended or were closed, and grew again.
    pub reopened: u64,
    /// Gaps.
    pub gaps: u64,
    /// Packets counted, both directions.
    pub packets: u64,
    /// Bytes counted, both directions.
    pub bytes: u64,
    /// Packets that another observer had reported already.
    pub suppressed_packets: u64,
    /// Their bytes.
    pub suppressed_bytes: u64,
    /// Packets taken back that had been counted.
    pub retracted_packets: u64,
    /// Their bytes.
    pub retracted_bytes: u64,
    /// Rows that take back.
    pub retractions: u64,
    /// Paths that became others.
    pub aliases: u64,
    /// Records at which more was stored of a group than can have passed.
    pub excessive: u64,
}

impl CountStats {
    /// Notes what a growth counted for.
    pub(super) fn merged(&mut self, growth: &Growth, counted: &Counted) {
        let hidden = growth.growth.above(counted.counted);
        let sum = |[op, ob, rp, rb]: [u64; 4]| (op.saturating_add(rp), ob.saturating_add(rb));
        let (packets, bytes) = sum(hidden.components());
        self.suppressed_packets = self.suppressed_packets.saturating_add(packets);
        self.suppressed_bytes = self.suppressed_bytes.saturating_add(bytes);
        for back in &counted.back {
            let (packets, bytes) = sum(back.counters.components());
            self.retracted_packets = self.retracted_packets.saturating_add(packets);
            self.retracted_bytes = self.retracted_bytes.saturating_add(bytes);
            self.retractions += 1;
        }
        self.excessive += u64::from(counted.fell);
    }

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
        let [op, ob, rp, rb] = row.counted.components();
        self.packets = self.packets.saturating_add(op).saturating_add(rp);
        self.bytes = self.bytes.saturating_add(ob).saturating_add(rb);
    }
}

daemon::closed_label! {
    /// Something about a record that an operator may want to know.
    enum Finding {
        StartUnknown = "start_unknown",
        EndUnseen = "end_unseen",
        Rebased = "rebased",
        Uncounted = "uncounted",
        Reset = "reset",
        Missing = "missing",
        WentBack = "went_back",
        Contradiction = "contradiction",
        TimeUnknown = "time_unknown",
        Stray = "stray",
        Excessive = "excessive",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FindingLabel {
    finding: Finding,
}

daemon::closed_label! {
    /// Why a frame waits no longer for others' word.
    enum Release {
        Complete = "complete",
        Waited = "waited",
        CutShort = "cut_short",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReleaseLabel {
    release: Release,
}

/// Metrics of counting.
#[derive(Clone, Debug)]
pub struct CountMetrics {
    frames: Counter,
    records: Counter,
    first_sights: Counter,
    ends: Counter,
    closed: Counter,
    reopened: Counter,
    gaps: Counter,
    packets: Counter,
    bytes: Counter,
    findings: Family<FindingLabel, Counter>,
    entries: Gauge<i64, AtomicI64>,
    evicted: Counter,
    suppressed: [Counter; 2],
    retracted: [Counter; 2],
    retractions: Counter,
    aliases: Counter,
    merged: Counter,
    conflicts: Counter,
    crowded: Counter,
    held: Gauge<i64, AtomicI64>,
    released: Family<ReleaseLabel, Counter>,
}

impl Default for CountMetrics {
    fn default() -> Self {
        let findings = Finding::ALL.iter().map(|&finding| FindingLabel { finding });
        Self {
            frames: Counter::default(),
            records: Counter::default(),
            first_sights: Counter::default(),
            ends: Counter::default(),
            closed: Counter::default(),
            reopened: Counter::default(),
            gaps: Counter::default(),
            packets: Counter::default(),
            bytes: Counter::default(),
            findings: daemon::label::present(findings),
            entries: Gauge::default(),
            evicted: Counter::default(),
            suppressed: <[Counter; 2]>::default(),
            retracted: <[Counter; 2]>::default(),
            retractions: Counter::default(),
            aliases: Counter::default(),
            merged: Counter::default(),
            conflicts: Counter::default(),
            crowded: Counter::default(),
            held: Gauge::default(),
            released: daemon::label::present(
                Release::ALL.iter().map(|&release| ReleaseLabel { release }),
            ),
        }
    }
}

impl CountMetrics {
    /// Adds them to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("conntracct_count");
        for (name, help, metric) in [
            ("frames", FRAMES, &self.frames),
            ("records", RECORDS, &self.records),
            ("first_sights", FIRST_SIGHTS, &self.first_sights),
            ("ends", ENDS, &self.ends),
            ("closed_entries", CLOSED, &self.closed),
            ("reopened_entries", REOPENED, &self.reopened),
            ("gaps", GAPS, &self.gaps),
            ("packets", PACKETS, &self.packets),
            ("bytes", BYTES, &self.bytes),
            ("evicted_entries", EVICTED, &self.evicted),
            ("suppressed_packets", SUPPRESSED_PACKETS, &self.suppressed[0]),
            ("suppressed_bytes", SUPPRESSED_BYTES, &self.suppressed[1]),
            ("retracted_packets", RETRACTED_PACKETS, &self.retracted[0]),
            ("retracted_bytes", RETRACTED_BYTES, &self.retracted[1]),
            ("retractions", RETRACTIONS, &self.retractions),
            ("path_aliases", ALIASES, &self.aliases),
            ("merged_groups", MERGED, &self.merged),
            ("translation_conflicts", CONFLICTS, &self.conflicts),
            ("crowded_views", CROWDED, &self.crowded),
        ] {
            registry.register(name, help, metric.clone());
        }
        registry.register("findings", FINDINGS, self.findings.clone());
        registry.register("memory_entries", MEMORY, self.entries.clone());
        registry.register("held_frames", HELD, self.held.clone());
        registry.register("released_frames", RELEASED, self.released.clone());
    }

    /// Entries closed after too long a silence.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.closed.get()
    }

    /// Entries that had ended or were closed, and grew again.
    #[must_use]
    pub fn reopened(&self) -> u64 {
        self.reopened.get()
    }

    /// Adds the counts of a committed set.
    pub fn committed(&self, stats: &CountStats) {
        self.frames.inc_by(stats.frames);
        self.records.inc_by(stats.records);
        self.first_sights.inc_by(stats.first_sights);
        self.ends.inc_by(stats.ends);
        self.closed.inc_by(stats.closed);
        self.reopened.inc_by(stats.reopened);
        self.gaps.inc_by(stats.gaps);
        self.packets.inc_by(stats.packets);
        self.bytes.inc_by(stats.bytes);
        self.suppressed[0].inc_by(stats.suppressed_packets);
        self.suppressed[1].inc_by(stats.suppressed_bytes);
        self.retracted[0].inc_by(stats.retracted_packets);
        self.retracted[1].inc_by(stats.retracted_bytes);
        self.retractions.inc_by(stats.retractions);
        self.aliases.inc_by(stats.aliases);
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
            (Finding::Excessive, stats.excessive),
        ] {
            self.findings.get_or_create(&FindingLabel { finding }).inc_by(count);
        }
    }

    /// Adds what linking did.
    pub fn linked(&self, stats: &LinkStats) {
        self.merged.inc_by(stats.merged);
        self.conflicts.inc_by(stats.conflicts);
        self.crowded.inc_by(stats.crowded);
    }

    /// Notes how many frames wait, and why others wait no longer.
    pub fn held(&self, frames: usize, stats: HoldStats) {
        self.held.set(i64::try_from(frames).unwrap_or(i64::MAX));
        for (release, count) in [
            (Release::Complete, stats.complete),
            (Release::Waited, stats.waited),
            (Release::CutShort, stats.cut_short),
        ] {
            self.released.get_or_create(&ReleaseLabel { release }).inc_by(count);
        }
    }

    /// Notes how many entries are in memory, and how many just left it.
    pub fn memory(&self, entries: usize, evicted: usize) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.evicted.inc_by(u64::try_from(evicted).unwrap_or(u64::MAX));
    }
}

const FRAMES: &str = "Frames counted and committed. The load; none for two intervals: no node \
                      delivers";
const RECORDS: &str = "Records counted and committed. The load; the store has one row for each";
const FIRST_SIGHTS: &str = "Entries seen for the first time. The rate of new connections, over \
                            all nodes";
const ENDS: &str = "Entries whose end was recorded. Far fewer than first sights for hours: look \
                    at the nodes' reliable_ends";
const CLOSED: &str = "Entries closed because nothing was heard of them for their protocol's \
                      longest timeout. Their nodes died or were wiped before they could tell the \
                      end; a later reading still counts exactly";
const REOPENED: &str = "Closed or ended entries that grew later. Many: a kernel's timeouts are \
                        longer than the usual ones, or kernel ids are reused (start_unknown)";
const GAPS: &str = "Gaps committed: numbers without records, and ends dropped. Each is listed in \
                    the table gap with its reason and what is known to be missing";
const PACKETS: &str = "Packets counted, both directions. Compare with the gateways' interfaces";
const BYTES: &str = "Bytes counted, both directions, from the network header on. Compare with the \
                     gateways' interfaces";
const EVICTED: &str = "Entries that left memory; the store still has them. Normal some time after \
                       an end; before it, the bound on entries in memory is too small";
const SUPPRESSED_PACKETS: &str = "Packets that were not counted, because another observer of their \
                                  flow had reported them. Packets counted and these, less what \
                                  was retracted: all that was reported";
const SUPPRESSED_BYTES: &str = "Bytes that were not counted, because another observer of their flow had \
                                reported them. Bytes counted and these, less what was retracted: all \
                                that was reported";
const RETRACTED_PACKETS: &str = "Packets taken back that had been counted, because a gateway told \
                                 later that two flows are one. Many: frames of that gateway come \
                                 late; look at its uplink";
const RETRACTED_BYTES: &str = "Bytes taken back that had been counted, because a gateway told \
                               later that two flows are one. Many: look at that gateway's uplink";
const RETRACTIONS: &str = "Rows that take something back. Many: a translating gateway's frames come \
                           late, look at its uplink";
const ALIASES: &str = "Paths that turned out to be others. With retractions: a gateway is late";
const MERGED: &str = "Groups of entries that turned out to be one with another. Some with every \
                      translated flow";
const CONFLICTS: &str = "Entries kept apart because their translations contradict each other. Many: \
                         sites with equal private addresses share a domain; name a domain for each";
const CROWDED: &str = "Entries counted by themselves because too many share their view. Above zero: \
                       a node sends entries that cannot be, or a domain is missing";
const HELD: &str = "Frames that wait for the word of other nodes of their domains, at most an \
                    interval and 5 s. Acknowledgements wait as long";
const RELEASED: &str = "Frames that waited, by why they do no longer. complete: everybody has told \
                        of their time; waited: somebody has not, look at the nodes' clocks and \
                        uplinks; cut_short: too many waited, what they count may be taken back";
const FINDINGS: &str = "Records with something worth knowing, by what it is. start_unknown: set \
                        nf_conntrack_timestamp; uncounted: set nf_conntrack_acct; reset: somebody \
                        zeroes counters; time_unknown or stray: check the node's clock; \
                        excessive: more of a flow is stored than can have passed, please report; \
                        docs/exactness.md has the others";
const MEMORY: &str = "Entries in memory, about 200 bytes each. Near 8 million the longest silent \
                      ones leave";
