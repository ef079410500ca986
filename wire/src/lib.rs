//! The conntracct wire protocol.
//!
//! [`frame`] is the envelope of everything that travels or lies in a spool; [`control`] are the
//! messages of the control stream; [`batch`] and [`gap`] are the data frames.

pub mod batch;
pub mod control;
pub mod frame;
pub mod gap;
