//! The node's integration tests.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod cli;
#[cfg(test)]
mod ebpf_sweep;
mod filter;
mod fixtures;
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
mod sysctl;
