//! Seeded simulation of whole conntracct clusters.
//!
//! Nothing here is a model of the product: hosts run the node's aggregation, flow table, spool and
//! uplink, the centre runs the aggregator's sessions, order, counting and commit. What is modelled
//! is the world around them: kernels, disks, the network, the database. One seed decides
//! everything; a violation prints it.
//!
//! What must hold when a world has healed and settled:
//! - What is stored of an entry is the highest reading in the frames that were committed, and
//!   never more than passed through the kernel.
//! - It is exactly what passed, for every entry that still lives, and for every ended one whose
//!   end stands in a frame that became durable and was not lost with its disk.
//! - An end that a node has read is in such a frame, unless that life of the node died before, the
//!   table dropped it, or the disk was lost.
//! - Every drop is told by a gap, and the gaps add up to what was dropped.
//! - Nothing waits for ever.
//!
//! Entries whose counters somebody zeroed are held to the first of these only.
//!
//! Where the store itself changes ([`Setting::Changing`]), all of this is said of the store there
//! is in the end. A backup that was put back, or another store, knows nothing of frames that only
//! the former one had. Live entries are exact all the same, because their nodes begin anew; the
//! end of an entry may be missing if its frame was committed to a store that is gone and no spool
//! sends it again. Whatever a spool does send again must be there.

mod book;
mod centre;
mod database;
mod host;
mod judge;
mod kernel;
pub mod merging;
mod network;
mod outcome;
mod sqlite;
mod stores;
mod trouble;
mod world;

pub use outcome::{Happened, Kind, Outcome, Violation};
pub use world::{Setting, World};

/// Seconds of trouble in a world.
pub const TROUBLE_SECONDS: u32 = 300;
