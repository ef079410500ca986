//! Integration tests, one binary.

extern crate conntracct_aggregator as aggregator;

mod cli;
mod golden;
#[cfg(test)]
mod ingest;
