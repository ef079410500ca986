//! The conntracct aggregator: takes the records of many gateways and stores each flow once.

pub mod ingest;
pub mod pipeline;
pub mod pki;
pub mod tls;
