//! The node's integration tests.

mod lab;
mod netlink;
mod netlink_burst;
