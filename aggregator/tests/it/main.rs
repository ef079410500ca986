//! The aggregator's integration tests, in one binary.

extern crate conntracct_aggregator as aggregator;

mod cli;
mod golden;
mod ingest;
mod counting;
mod frames;
mod pipeline;
mod rows;
mod store_conformance;
mod store_sqlite;
