//! What is said while worlds run, and at their end.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How far it is, once a second, for whoever looks on.
pub(crate) struct Progress {
    worlds: u64,
    told: Instant,
}

impl Progress {
    pub(crate) fn new(worlds: u64) -> Self {
        Self { worlds, told: Instant::now() }
    }

    pub(crate) fn show(&mut self, done: u64) {
        if std::io::stderr().is_terminal() && self.told.elapsed() > Duration::from_secs(1) {
            self.told = Instant::now();
            let _gone = write!(std::io::stderr(), "\r{done} of {} worlds", self.worlds);
        }
    }

    pub(crate) fn clear(&self) {
        if std::io::stderr().is_terminal() {
            let _gone = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Tells whoever asked.
pub(crate) fn say(text: &str) {
    let _gone = writeln!(std::io::stdout(), "{text}");
}
