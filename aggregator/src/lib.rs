//! The conntracct aggregator: takes the records of many gateways and stores each flow once.
//!
//! [`run::run`] is the program. The data's way: [`ingest`] (sessions, order) -> [`pipeline`]
//! (decode, one change set at a time) -> [`count`] -> [`store`]; [`answers`] read what is stored,
//! [`moving`] takes a whole store from SQLite to PostgreSQL, and [`archive`] writes flows to files and
//! takes them in again.

pub mod answers;
pub mod archive;
pub mod cli;
pub mod commands;
pub mod config;
pub mod count;
pub mod ingest;
pub mod metrics;
pub mod moving;
pub mod pipeline;
pub mod pki;
mod progress;
pub mod reload;
pub mod run;
pub mod store;
pub mod tls;
