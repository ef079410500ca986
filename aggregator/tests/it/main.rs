//! Integration tests, one binary.

extern crate conntracct_aggregator as aggregator;

mod cli;
mod golden;
extern crate conntracct_aggregator as aggregator;

#[cfg(test)]
mod ingest;
