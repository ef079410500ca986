//! The flow table alone: a sweep in which every flow has grown, records into a cheap sink, commit.
//! Beside it the same diff over a plain `HashMap<EntryId, Counters>`, which knows neither ends nor
//! bounds nor baselines. Both take the same readings.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use flow::entry::EntryId;
use flow::table::{EmitMode, FlowTable, SweepEnd, TableLimits};
use flow::{BootId, BootNanos, Counters, NetnsId, Reading, Record};

use crate::gateway::{Gateway, NETNS};
use crate::{Failed, median};

/// Flows a second.
pub(crate) struct Rates {
    pub(crate) table: f64,
    pub(crate) plain: f64,
}

/// Medians of `runs` interleaved runs over `flows` flows.
pub(crate) fn rates(flows: u32, runs: usize) -> Result<Rates, Failed> {
    let mut gateway = Gateway::new(flows, NOW);
    let mut table = FlowTable::new(TableLimits::default(), BOOT, SEED);
    let mut plain = HashMap::new();
    let mut now = BootNanos::BOOT.plus(INTERVAL);
    run_table(&mut table, &gateway.readings, now)?;
    run_plain(&mut plain, &gateway.readings);
    gateway.settle();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        now = now.plus(INTERVAL);
        gateway.grow();
        let (took, records) = run_table(&mut table, &gateway.readings, now)?;
        ours.push(f64::from(flows) / took.as_secs_f64());
        let (took, grown) = run_plain(&mut plain, &gateway.readings);
        theirs.push(f64::from(flows) / took.as_secs_f64());
        if (records, grown) != (gateway.readings.len(), gateway.readings.len()) {
            return Err(format!("{records} and {grown} of {flows} flows have grown").into());
        }
    }
    Ok(Rates { table: median(ours), plain: median(theirs) })
}

/// A table of `flows` live flows that all have been reported twice, and what it made resident.
pub(crate) fn resident(flows: u32) -> Result<(FlowTable, u64), Failed> {
    let mut gateway = Gateway::new(flows, NOW);
    let before = rss()?;
    let mut table = FlowTable::new(TableLimits::default(), BOOT, SEED);
    for round in 1..=2 {
        gateway.grow();
        run_table(&mut table, &gateway.readings, BootNanos::BOOT.plus(INTERVAL * round))?;
    }
    let after = rss()?;
    if table.stats().live != u64::from(flows) {
        return Err(format!("{} of {flows} flows are in the table", table.stats().live).into());
    }
    Ok((table, after.saturating_sub(before)))
}

/// A sweep, an emission, a commit: how long they took and how many records came.
fn run_table(
    table: &mut FlowTable,
    readings: &[Reading],
    begin: BootNanos,
) -> Result<(Duration, usize), Failed> {
    let clock = Instant::now();
    let end = begin.plus(Duration::from_secs(1));
    table.sweep_begin(begin);
    table.swept_all(readings, end);
    table.sweep_end(&SweepEnd { end, complete: &[NETNS], failed: &[], gone: &[] });
    let emission = table.emit(EmitMode::All, &mut |record: &Record| {
        black_box(record);
    });
    let records = emission.records;
    table.commit(emission)?;
    Ok((clock.elapsed(), records))
}

/// The same diff over a map of absolute counters.
fn run_plain(map: &mut HashMap<EntryId, Counters>, readings: &[Reading]) -> (Duration, usize) {
    let clock = Instant::now();
    let mut grown = 0;
    for reading in readings {
        let Some(cum) = reading.counters else { continue };
        let netns = NetnsId { inode: reading.netns, boot: BOOT };
        let birth = reading.birth();
        let entry = EntryId { netns, zone: reading.zone, orig: reading.orig, birth };
        let before = map.entry(entry).or_default();
        let delta = cum.above(*before);
        *before = cum;
        if !delta.is_zero() {
            grown += 1;
            black_box((entry, cum, delta));
        }
    }
    (clock.elapsed(), grown)
}

fn rss() -> Result<u64, Failed> {
    Ok(crate::replay::memory("self", "VmRSS")?)
}

const BOOT: BootId = BootId([1; 16]);
const INTERVAL: Duration = Duration::from_secs(10);
const SEED: u64 = 1;
const NOW: u64 = 1_700_000_000_000_000_000;
