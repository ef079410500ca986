//! The conntracct aggregator: takes the records of many gateways and stores each flow once.

pub mod count;
pub mod cli;
pub mod config;
pub mod pipeline;
pub mod pki;
pub mod tls;
pub mod store;
