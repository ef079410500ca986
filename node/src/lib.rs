//! The conntracct agent.

pub mod join;
pub mod source;
pub mod spool;
pub mod tls;
pub mod uplink;
