//! The conntracct agent.

pub mod source;
pub mod spool;
pub mod uplink;
