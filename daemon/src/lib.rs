//! What both programs are made of around their purpose: how they are configured, how they log,
//! how they answer HTTP. Nothing here knows a flow.
//!
//! - [`config`]: layers (defaults, file, environment, flags) become one typed value, and every
//!   complaint names the place, the key and what is allowed there;
//! - [`http`]: the listener: who may ask, how much, for how long; `/metrics`, `/healthz`,
//!   `/readyz`, `/stats`;
//! - [`label`]: closed sets of labels for metrics;
//! - [`log`]: the subscriber, and the limit on repeated complaints;
//! - [`ready`]: the named conditions behind `/readyz`;
//! - [`table`]: tables for a terminal;
//! - [`version`]: which build this is.

pub mod config;
pub mod exit;
pub mod http;
pub mod label;
pub mod log;
pub mod ready;
pub mod table;
pub mod version;

#[doc(hidden)]
pub use tracing;
