//! The node's integration tests.

mod fixtures;
mod lab;
mod netlink;
mod netlink_burst;
mod sysctl;
