//! What the ingest benchmarks of all stores share: a gateway's frames, encoded beforehand
//! ([`traffic`]), a node's end of a session that does nothing but send them ([`gateway`]), and the
//! aggregator's own ingest and pipeline in front of any store ([`server`]).
//!
//! A benchmark of one store adds the store and the baselines; see `bench_ingest_sqlite`.

pub(crate) mod gateway;
pub(crate) mod report;
pub(crate) mod server;
pub(crate) mod traffic;

use std::error::Error;

/// Why a benchmark did not come to its end.
pub(crate) type Failed = Box<dyn Error + Send + Sync>;
