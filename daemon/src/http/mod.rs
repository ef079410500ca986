//! The HTTP listener.

mod listener;

pub use listener::{Listener, RawApi, TlsFiles, TokenRule};
