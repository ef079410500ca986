//! Tests of the wire protocol through its public API.

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
