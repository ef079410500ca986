//! The conntracct aggregator: takes the records of many gateways and stores each flow once.

pub mod answers;
pub mod cli;
pub mod config;
pub mod count;
pub mod ingest;
pub mod pipeline;
pub mod pki;
pub mod store;
pub mod tls;
