//! Tests of the wire protocol through its public API.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail the test"
)]

extern crate conntracct_wire as wire;

mod corpus;
#[path = "../../../fuzz/wire.rs"]
mod fuzz;
mod golden;
mod hostile;
mod hostile_batch;
mod round_trip;
mod samples;
mod strategy;
