//! The HTTP listener of both programs: who may ask, how much, for how long.
//!
//! Requests pass the guard first: the `Host` header must name this listener (a web page that
//! points its own name at a loopback address gets nothing), and where a token is wanted it must
//! be shown for everything but health. Then `/metrics`, `/healthz`, `/readyz`, `/stats`, and what
//! a program adds.
//!
//! | limit | what happens when it is reached | metrics |
//! |---|---|---|
//! | [`CONNECTIONS`] | further ones wait unaccepted | `conntracct_http_connections`, `conntracct_http_full_total` |
//! | [`BODY`] | 413 | `conntracct_http_requests_total{outcome="client_error"}` |
//! | [`HEADER_TIME`] | the connection is closed | |
//! | [`ANSWER_TIME`] | 504 | `conntracct_http_requests_total{outcome="server_error"}` |

mod client;
mod exposition;
mod guard;
mod health;
mod keys;
mod listener;
mod metrics;
mod serve;
mod state;
mod tls;
mod token;

use std::time::Duration;

pub use client::{Answer, ClientError, get};
pub use exposition::registry_stats;
pub use health::{HealthError, check_health};
pub use keys::Keys;
pub use listener::{Listener, RawApi, TlsFiles, TokenRule};
pub use metrics::HttpMetrics;
pub use serve::{Bound, HttpError, bind};
pub use state::{AppState, Stats};
pub use tls::TlsError;
pub use token::TokenError;

/// Connections at once.
pub const CONNECTIONS: usize = 100;

/// Largest body of a request, in bytes.
pub const BODY: usize = 1 << 20;

/// How long a client may take to send a request's head; also how long it may be idle between two.
pub const HEADER_TIME: Duration = Duration::from_secs(30);

/// How long an answer may take.
pub const ANSWER_TIME: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
