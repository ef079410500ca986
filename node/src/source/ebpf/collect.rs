//! Sweeping entries that were found by their packets, for tests and benchmarks of the sweep where
//! the kernel has no kprobes. The source never does this: it would run for every packet.

use std::collections::BTreeMap;

use flow::Reading;

use super::EbpfError;
use super::feed::{Feed, FeedBounds};
use super::layout::Layout;
use super::programs::{LoadSettings, Loaded, Programs};
use super::table::LiveTable;
use crate::netns::Netns;

/// Entries of one namespace whose packets were transmitted while it listened.
pub struct Collector {
    programs: Programs,
    feed: Feed,
    layout: Layout,
    found: BTreeMap<u64, Reading>,
}

impl Collector {
    /// Begins to listen; `limit` entries may wait to be taken.
    ///
    /// # Errors
    /// When the programs cannot be used.
    pub fn open(layout: Layout, netns: &Netns, limit: usize) -> Result<Self, EbpfError> {
        let ring_bytes = 64 << 20;
        let settings = LoadSettings { ring_bytes, only_netns: netns.inode().0 };
        let Loaded { mut programs, rings } = Programs::load(&layout, settings)?;
        programs.collect()?;
        let bounds = FeedBounds { births: limit, ends: limit };
        let feed = Feed::start(rings, layout, bounds)
            .map_err(|error| EbpfError::Kernel { what: "starting to read the ring", error })?;
        Ok(Self { programs, feed, layout, found: BTreeMap::new() })
    }

    /// The entries found so far by their addresses, as they were when last transmitted.
    pub fn found(&mut self) -> &BTreeMap<u64, Reading> {
        self.found.extend(self.feed.take().into_iter().map(|told| (told.ct, told.reading)));
        &self.found
    }

    /// Reads entries, chunk by chunk, in the order of their addresses as given.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn read(&mut self, addresses: &[u64], mut take: impl FnMut(u64)) -> Result<(), EbpfError> {
        for chunk in addresses.chunks(ebpf_abi::CHUNK) {
            let entries = self.programs.sweep(chunk)?;
            entries.iter().for_each(|entry| take(entry.counters[0]));
        }
        Ok(())
    }

    /// Sweeps all found entries as the source does; those that live.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn sweep(&mut self) -> Result<Vec<Reading>, EbpfError> {
        let mut table = LiveTable::new(usize::MAX);
        for (ct, reading) in self.found() {
            table.born(*ct, reading);
        }
        let (mut from, mut addresses, mut out) = (0, Vec::new(), Vec::new());
        loop {
            table.addresses(from, ebpf_abi::CHUNK, &mut addresses);
            let Some(last) = addresses.last() else { return Ok(out) };
            from = last + 1;
            let entries = self.programs.sweep(&addresses)?;
            table.swept(&self.layout, entries, &mut out);
        }
    }
}
