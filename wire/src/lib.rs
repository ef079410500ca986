//! The conntracct wire protocol.
//!
//! [`frame`] is the envelope of everything that travels or lies in a spool; [`control`] are the
//! messages of the control stream; [`batch`] and [`gap`] are the data frames.
//!
//! Nothing here does I/O. All input is hostile: every limit is checked before memory is taken,
//! and no input panics. What version 1 wrote decodes for ever.

pub mod batch;
mod codec;
pub mod control;
pub mod field;
pub mod frame;
pub mod gap;

pub use self::codec::CodecError;
