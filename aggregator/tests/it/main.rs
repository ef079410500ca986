//! Integration tests, one binary.

mod cli;
mod golden;
extern crate conntracct_aggregator as aggregator;

#[cfg(test)]
mod ingest;
