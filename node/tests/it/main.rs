//! The node's integration tests.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod cli;
mod filter;
mod fixtures;
mod golden;
mod lab;
#[cfg(test)]
mod metrics;
mod netlink;
mod netlink_burst;
#[cfg(test)]
mod program;
mod sysctl;
