//! The conntracct agent.

pub mod source;
