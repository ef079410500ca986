//! The aggregator's integration tests, in one binary.

extern crate conntracct_aggregator as aggregator;

#[cfg(test)]
mod archive;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod counting;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod ingest;
#[cfg(test)]
mod merging;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod moving;
#[cfg(test)]
mod pipeline;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod program;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod silence;
#[cfg(test)]
mod store_conformance;
#[cfg(test)]
mod store_sqlite;
