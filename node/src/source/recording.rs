//! The recording format: what a source gave, one JSON object a line. Readable, so that a bug
//! report can be looked at; versioned, so that old ones can be told from damaged ones.
//!
//! The first line is `{"conntracct_recording":1,"source":"netlink","boot":"...","kernel":"..."}`.
//! Then, in the order in which the source gave them, with times in nanoseconds of the recorded
//! host's boottime:
//! - `{"at":N,"new":{..}}` and `{"at":N,"end":{..}}`: an event, read at `at`;
//! - `{"at":N,"live":[{..},..]}`: a chunk of a sweep, read before `at`;
//! - `{"sweep":{"begin":N,"end":N,"complete":[..],"failed":[[inode,"why"],..],"gone":[..]}}`: the
//!   sweep of the chunks since the last such line is over;
//! - `{"health":{..}}`: the source's health at that point.
//!
//! A reading is an object of short keys: `netns`, `zone`, `orig` and `reply` as
//! `[proto, source, destination, source port, destination port]`, `start`, `stop`, `id`, `mark`,
//! `status`, `tcp`, `fresh`, `counters` as `[packets, bytes, packets, bytes]` or `null`. Numbers
//! that are 0 and `false` are left out.

use std::net::IpAddr;

use flow::entry::Zone;
use flow::{BootNanos, Counters, NetnsInode, Proto, Reading, Status, TcpState, Tuple};
use serde::{Deserialize, Serialize};

use super::{Event, SourceHealth, SweepChunk, SweepReport, Timed};

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// The format's version, [`VERSION`].
    pub(super) conntracct_recording: u32,
    /// The recorded source's name.
    pub(super) source: String,
    /// The recorded host's boot id.
    pub(super) boot: String,
    /// The recorded host's kernel.
    pub(super) kernel: String,
}

/// Any other line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Line {
    New { at: u64, new: Entry },
    End { at: u64, end: Entry },
    Live { at: u64, live: Vec<Entry> },
    Sweep { sweep: Sweep },
    Health { health: Health },
}

/// A tuple: protocol, source, destination, source port, destination port.
type Ends = (u8, IpAddr, IpAddr, u16, u16);

/// A reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    netns: u32,
    #[serde(default, skip_serializing_if = "zero")]
    zone: u16,
    orig: Ends,
    reply: Ends,
    #[serde(default, skip_serializing_if = "zero")]
    start: u64,
    #[serde(default, skip_serializing_if = "zero")]
    stop: u64,
    #[serde(default, skip_serializing_if = "zero")]
    id: u32,
    #[serde(default, skip_serializing_if = "zero")]
    mark: u32,
    #[serde(default, skip_serializing_if = "zero")]
    status: u32,
    #[serde(default, skip_serializing_if = "zero")]
    tcp: u8,
    #[serde(default, skip_serializing_if = "zero")]
    fresh: bool,
    counters: Option<[u64; 4]>,
}

/// A [`SweepReport`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sweep {
    begin: u64,
    end: u64,
    complete: Vec<u32>,
    failed: Vec<(u32, String)>,
    gone: Vec<u32>,
}

/// A [`SourceHealth`]; what a later version adds is 0 in older recordings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    reliable_ends: bool,
    dropped_ends: u64,
    dropped: [u64; 4],
    lost_ends: u64,
    lost_births: u64,
    #[serde(default)]
    missed_births: u64,
    overruns: u64,
    guard_trips: u64,
    births: u64,
    deaths: u64,
    malformed: u64,
    ended_waiting: u64,
    fill_permille: u64,
}

impl Line {
    /// The line of an event.
    pub(super) fn event(timed: &Timed) -> Self {
        let at = timed.at.0;
        match &timed.event {
            Event::New(reading) => Self::New { at, new: reading.into() },
            Event::End(reading) => Self::End { at, end: reading.into() },
        }
    }

    /// The line of a chunk.
    pub(super) fn chunk(chunk: &SweepChunk) -> Self {
        let live = chunk.readings.iter().map(Entry::from).collect();
        Self::Live { at: chunk.at.0, live }
    }

    /// The line of a sweep's end.
    pub(super) fn sweep(report: &SweepReport) -> Self {
        let inodes = |list: &[NetnsInode]| list.iter().map(|inode| inode.0).collect();
        let failed = report.failed.iter().map(|(inode, why)| (inode.0, why.clone())).collect();
        Self::Sweep {
            sweep: Sweep {
                begin: report.begin.0,
                end: report.end.0,
                complete: inodes(&report.complete),
                failed,
                gone: inodes(&report.gone),
            },
        }
    }

    /// The line of a state of health.
    pub(super) fn health(health: &SourceHealth) -> Self {
        Self::Health {
            health: Health {
                reliable_ends: health.reliable_ends,
                dropped_ends: health.dropped_ends,
                dropped: health.dropped.components(),
                lost_ends: health.lost_ends,
                lost_births: health.lost_births,
                missed_births: health.missed_births,
                overruns: health.overruns,
                guard_trips: health.guard_trips,
                births: health.births,
                deaths: health.deaths,
                malformed: health.malformed,
                ended_waiting: health.ended_waiting,
                fill_permille: health.fill_permille,
            },
        }
    }

    /// The recorded time at which the line was there to be taken, where it carries one.
    pub(super) fn at(&self) -> Option<BootNanos> {
        match self {
            Self::New { at, .. } | Self::End { at, .. } | Self::Live { at, .. } => {
                Some(BootNanos(*at))
            }
            Self::Sweep { sweep } => Some(BootNanos(sweep.end)),
            Self::Health { .. } => None,
        }
    }
}

impl Sweep {
    /// The report, its times moved by `time`.
    pub(super) fn report(self, time: impl Fn(BootNanos) -> BootNanos) -> SweepReport {
        let inodes = |list: Vec<u32>| list.into_iter().map(NetnsInode).collect();
        SweepReport {
            begin: time(BootNanos(self.begin)),
            end: time(BootNanos(self.end)),
            complete: inodes(self.complete),
            failed: self.failed.into_iter().map(|(i, why)| (NetnsInode(i), why)).collect(),
            gone: inodes(self.gone),
        }
    }
}

impl From<Health> for SourceHealth {
    fn from(health: Health) -> Self {
        Self {
            reliable_ends: health.reliable_ends,
            dropped_ends: health.dropped_ends,
            dropped: Counters::from_components(health.dropped),
            lost_ends: health.lost_ends,
            lost_births: health.lost_births,
            missed_births: health.missed_births,
            overruns: health.overruns,
            guard_trips: health.guard_trips,
            births: health.births,
            deaths: health.deaths,
            malformed: health.malformed,
            ended_waiting: health.ended_waiting,
            fill_permille: health.fill_permille,
        }
    }
}

impl From<&Reading> for Entry {
    fn from(reading: &Reading) -> Self {
        let ends = |t: &Tuple| (t.proto.0, t.src, t.dst, t.sport, t.dport);
        Self {
            netns: reading.netns.0,
            zone: reading.zone.0,
            orig: ends(&reading.orig),
            reply: ends(&reading.reply),
            start: reading.start,
            stop: reading.stop,
            id: reading.kernel_id,
            mark: reading.mark,
            status: reading.status.0,
            tcp: reading.tcp.0,
            fresh: reading.fresh,
            counters: reading.counters.map(|counters| counters.components()),
        }
    }
}

impl Entry {
    /// The reading; `None` where a tuple's addresses are not of one family.
    pub(super) fn reading(self) -> Option<Reading> {
        Some(Reading {
            netns: NetnsInode(self.netns),
            zone: Zone(self.zone),
            orig: tuple(self.orig)?,
            reply: tuple(self.reply)?,
            start: self.start,
            stop: self.stop,
            kernel_id: self.id,
            mark: self.mark,
            status: Status(self.status),
            tcp: TcpState(self.tcp),
            fresh: self.fresh,
            counters: self.counters.map(Counters::from_components),
        })
    }
}

fn tuple((proto, src, dst, sport, dport): Ends) -> Option<Tuple> {
    let one_family = src.is_ipv4() == dst.is_ipv4();
    one_family.then_some(Tuple { src, dst, sport, dport, proto: Proto(proto) })
}

fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;

/// The longest line that is read, in bytes: a chunk of some 600 readings takes 200 KiB.
pub(super) const LONGEST_LINE: u64 = 16 << 20;
