//! The node's integration tests.

mod cli;
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod fixtures;
mod golden;
mod lab;
mod netlink;
mod netlink_burst;
mod sysctl;
