//! The uplink: what lies in the spool reaches the aggregator, in order, until it is committed.
//!
//! [`core::Uplink`] decides (pure: `now` and random numbers are arguments), [`quic`] carries one
//! session, [`task`] connects for ever, [`owner::SpoolHandle`] is how they reach the spool, whose
//! calls block. [`clock`] measures the aggregator's clock, [`metrics`] shows it all.

pub mod actor;
pub mod clock;
pub mod core;
pub mod error;
pub mod metrics;
pub mod orders;
pub mod owner;
pub mod quic;
pub mod task;
mod telling;
mod welcome;
mod window;

pub use self::clock::OffsetClock;
pub use self::core::{Ended, Step, Uplink, UplinkConfig, UplinkTotals};
pub use self::error::SessionError;
pub use self::metrics::UplinkMetrics;
pub use self::orders::{Means, Order, obey};
pub use self::owner::{SpoolGone, SpoolHandle};
