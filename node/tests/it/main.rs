//! The node's integration tests.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod cli;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod ebpf_sweep;
#[cfg(test)]
mod fallback;
mod filter;
mod fixtures;
#[cfg(test)]
#[path = "../../../fuzz/btf.rs"]
mod fuzz;
#[path = "../../examples/bench_table/gateway.rs"]
mod gateway;
mod golden;
#[cfg(test)]
mod kernel;
mod lab;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod metrics;
mod netlink;
mod netlink_burst;
#[cfg(test)]
mod program;
#[path = "../../examples/bench_table/replay.rs"]
mod replay;
#[cfg(test)]
mod selftest;
mod sysctl;

/// What the fuzz target reads with.
#[cfg(test)]
use conntracct_node::source::ebpf::btf;
