//! PostgreSQL servers for tests, labs and benches; no part of what is shipped.
//!
//! [`Server`] is a real one, of the packages of this machine, in a temporary folder: reached over
//! a socket in that folder (and over TCP where asked), run by an ordinary user also where we are
//! root, ended and deleted when dropped. It dies with the thread that started it, so a test that
//! is killed leaves nothing running either.
//!
//! `initdb` takes a second or two. Its result is kept beside the running program's own file, in
//! cargo's target folder, and copied for each server.

mod account;
mod programs;
mod server;
mod template;

pub use server::{Server, Setup};

/// The database of each new server, and the role that owns it.
pub const DATABASE: &str = "flows";

/// The role that owns [`DATABASE`]; it is no superuser.
pub const ROLE: &str = "conntracct";

/// The superuser.
pub const SUPERUSER: &str = "postgres";
