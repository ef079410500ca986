//! Local sinks: where records go on the gateway itself.
//!
//! Without an aggregator the node writes its records to standard output, one JSON object a line.
//! A sink never slows the node: its queue is bounded, and what does not fit is dropped and
//! counted. Because readings are absolute the next record of a flow says what a dropped one did.

pub mod counts;
pub mod json;
pub mod stdout;
