//! Tests of the wire protocol through its public API.

extern crate conntracct_wire as wire;

mod round_trip;
mod strategy;
