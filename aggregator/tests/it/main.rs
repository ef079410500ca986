//! The aggregator's integration tests, in one binary.

extern crate conntracct_aggregator as aggregator;

mod cli;
mod counting;
mod frames;
mod golden;
mod ingest;
mod pipeline;
mod rows;
mod store_conformance;
mod store_sqlite;
