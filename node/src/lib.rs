//! The conntracct agent.

pub mod join;
pub mod source;
pub mod tls;
