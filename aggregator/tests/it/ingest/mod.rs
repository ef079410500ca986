//! Ingest over real QUIC on loopback.

mod fleet;
mod refusals;
mod sessions;
