//! The pure domain of conntracct: what a flow is and how it is counted.
//!
//! Nothing here does I/O, reads a clock or draws a random number: times are arguments, so the
//! node, the aggregator and the simulation run the same code.
//!
//! The types that matter, in the order data meets them:
//! - [`Reading`]: what a source read of one conntrack entry, as the kernel says it;
//! - [`table::FlowTable`]: a node's live entries, their baselines, what changed since;
//! - [`Record`]: one absolute reading of one entry with the growth since the last spooled one;
//! - [`Interval`]: what a batch of records says about itself (times, clocks, kernel totals);
//! - [`count`]: how readings become counted growth, each entry once.

pub mod clock;
pub mod count;
pub mod counters;
pub mod entry;
pub mod id;
pub mod merge;
pub mod reading;
pub mod record;
pub mod table;
pub mod tuple;
pub mod units;
pub mod view;

pub use counters::{Counters, Tally};
pub use entry::{Birth, EntryId, Status, TcpState};
pub use id::{BootId, Epoch, FlowNo, NetnsId, NetnsInode, NodeName, Seq, StoreId};
pub use reading::Reading;
pub use record::{Interval, Record, RecordFlags};
pub use tuple::{Family, Proto, Tuple};
pub use units::{BootNanos, Bytes, ClockOffset, Packets, UnixNanos};
