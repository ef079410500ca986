//! The conntracct agent.

pub mod aggregation;
pub mod clock;
pub mod netns;
pub mod probe;
pub mod sink;
pub mod source;
mod sys;
pub mod spool;
pub mod uplink;
pub mod spool;
pub mod join;
pub mod source;
pub mod tls;
