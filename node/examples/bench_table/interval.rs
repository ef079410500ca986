//! One interval of a million changed flows, from readings to sealed frames, on one thread: what
//! [`Aggregation`] does with a sweep before the frames go to the spool.

use std::time::Duration;

use conntracct_node::aggregation::feed::IntervalEnd;
use conntracct_node::aggregation::{Aggregation, AggregationConfig, Room};
use conntracct_node::source::{SourceHealth, SweepChunk, SweepReport};
use conntracct_node::spool::Level;
use flow::record::ClockPair;
use flow::{BootId, BootNanos, Epoch, Seq, UnixNanos};
use rustix::time::{ClockId, clock_gettime};

use crate::gateway::{Gateway, NETNS};
use crate::{Failed, median};

/// Medians of all runs, CPU seconds of the one thread.
pub(crate) struct Cost {
    /// Readings into the table, and who was missing.
    pub(crate) sweep: f64,
    /// Records out of the table and into compressed frames with their digests.
    pub(crate) encode: f64,
    /// Baselines moved on.
    pub(crate) commit: f64,
    /// All of it.
    pub(crate) whole: f64,
    /// Bytes of all frames.
    pub(crate) bytes: usize,
}

/// Measures `runs` intervals of `flows` flows that all have grown, after one that adopts
/// them and one that learns the order in which they are read.
pub(crate) fn cost(flows: u32, runs: usize) -> Result<Cost, Failed> {
    let mut gateway = Gateway::new(flows, WALL.get().unsigned_abs());
    let mut node = Node::new();
    node.interval(&gateway)?;
    gateway.settle();
    gateway.grow();
    node.interval(&gateway)?;
    let (mut sweep, mut encode, mut commit, mut whole) = (vec![], vec![], vec![], vec![]);
    let mut bytes = 0;
    for _ in 0..runs {
        gateway.grow();
        let spent = node.interval(&gateway)?;
        if spent.records != gateway.readings.len() {
            return Err(format!("{} of {flows} flows were reported", spent.records).into());
        }
        sweep.push(spent.swept.as_secs_f64());
        encode.push((spent.encoded - spent.swept).as_secs_f64());
        commit.push((spent.committed - spent.encoded).as_secs_f64());
        whole.push(spent.committed.as_secs_f64());
        bytes = spent.bytes;
    }
    Ok(Cost {
        sweep: median(sweep),
        encode: median(encode),
        commit: median(commit),
        whole: median(whole),
        bytes,
    })
}

struct Node {
    core: Aggregation,
    number: u64,
    next: Seq,
}

/// CPU time of the thread when each step was over, and what came of it.
struct Spent {
    swept: Duration,
    encoded: Duration,
    committed: Duration,
    records: usize,
    bytes: usize,
}

impl Node {
    fn new() -> Self {
        let core = Aggregation::new(AggregationConfig::default(), BootId([1; 16]), None, SEED);
        Self { core, number: 0, next: Seq(1) }
    }

    /// The whole interval. Readings and their chunks are made before the clock starts.
    fn interval(&mut self, gateway: &Gateway) -> Result<Spent, Failed> {
        self.number += 1;
        let begin = BootNanos(UPTIME + self.number * INTERVAL);
        let chunks = gateway.chunks(begin);
        let end = chunks.last().map_or(begin, |chunk| chunk.at);
        let start = cpu_time();
        self.sweep(&chunks, begin, end);
        let swept = cpu_time() - start;
        let room =
            Room { epoch: Epoch([1; 16]), next: self.next, level: Level::Normal, offset: None };
        let closing = self.core.close_interval(&room)?.ok_or("the spool had no room")?;
        let encoded = cpu_time() - start;
        let records = closing.records();
        let bytes = closing.frames.iter().map(|frame| frame.bytes.len()).sum();
        self.next = Seq(self.next.0 + u64::try_from(closing.frames.len())?);
        self.core.durable(closing);
        let committed = cpu_time() - start;
        Ok(Spent { swept, encoded, committed, records, bytes })
    }

    fn sweep(&mut self, chunks: &[SweepChunk], begin: BootNanos, end: BootNanos) {
        self.core.sweep_begin(begin);
        for chunk in chunks {
            self.core.chunk(clock(chunk.at), chunk);
        }
        let report =
            SweepReport { begin, end, complete: vec![NETNS], failed: Vec::new(), gone: Vec::new() };
        let health = SourceHealth { reliable_ends: true, ..SourceHealth::default() };
        let over = IntervalEnd { number: self.number, clock: clock(end), health };
        self.core.sweep_end(Some(&report), &over);
    }
}

/// Both clocks at a moment of the bench's boot.
fn clock(boot: BootNanos) -> ClockPair {
    let since = i64::try_from(boot.0 - UPTIME).unwrap_or_default();
    let wall = UnixNanos(WALL.get() + since);
    ClockPair { boot, wall, synchronised: true, stepped: false }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

const SEED: u64 = 1;
const INTERVAL: u64 = 10_000_000_000;
/// Boottime when the bench begins, and the wall clock then.
const UPTIME: u64 = 86_400_000_000_000;
const WALL: UnixNanos = UnixNanos(1_760_000_000_000_000_000);
