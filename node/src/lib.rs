//! The conntracct agent: reads conntrack on a gateway and streams exact flow counters.
//!
//! [`run::run`] is the program; everything below it can be used and tested by itself. The data's
//! way: [`source`] -> [`probe`] -> [`aggregation`] -> [`spool`] -> [`uplink`].

pub mod aggregation;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod filter;
pub mod http;
pub mod join;
mod keys;
pub mod metrics;
mod netlink;
pub mod netns;
mod opening;
pub mod probe;
pub mod reload;
pub mod run;
pub mod selftest;
pub mod sink;
pub mod source;
pub mod spool;
mod sys;
pub mod sysctl;
pub mod tls;
pub mod uplink;
mod watchers;
