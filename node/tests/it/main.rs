//! The node's integration tests.

mod cli;
mod fixtures;
mod golden;
mod lab;
mod netlink;
mod netlink_burst;
mod sysctl;
