//! The conntracct agent.

pub mod join;
pub mod source;
pub mod spool;
pub mod uplink;
pub mod tls;
