//! Ingest over real QUIC on loopback.

pub(crate) mod fleet;
mod refusals;
mod sessions;
