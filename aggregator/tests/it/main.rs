//! Integration tests, one binary.

extern crate conntracct_aggregator as aggregator;

mod cli;
mod golden;
extern crate conntracct_aggregator as aggregator;

#[cfg(test)]
mod ingest;
//! The aggregator's integration tests, in one binary.

extern crate conntracct_aggregator as aggregator;

mod rows;
mod store_conformance;
mod store_sqlite;
