//! The probe: asks the source at the right moments and hands on what it says.
//!
//! It decides *when* (see [`schedule`]), never *what* a reading means: that is the aggregation's.

pub mod actor;
pub mod metrics;
pub mod schedule;
