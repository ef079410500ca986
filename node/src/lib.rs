//! The conntracct agent.

pub mod aggregation;
pub mod cli;
pub mod clock;
pub mod config;
pub mod http;
pub mod join;
pub mod metrics;
pub mod netns;
pub mod probe;
pub mod sink;
pub mod source;
pub mod spool;
mod sys;
pub mod sysctl;
pub mod tls;
pub mod uplink;
