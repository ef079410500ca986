//! Seeded simulation of whole conntracct clusters.
//!
//! Nothing here is a model of the product: hosts run the node's aggregation, flow table, spool and
//! uplink, the centre runs the aggregator's sessions, order, counting and commit. What is modelled
//! is the world around them: kernels, disks, the network, the database. One seed decides
//! everything; a violation prints it.

mod centre;
mod host;
mod kernel;
mod world;

pub use world::{Faults, Outcome, Violation, World};

/// Seconds of trouble in a world.
pub const TROUBLE_SECONDS: u32 = 300;
