//! How far a long command is, on standard error.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Tells how far it is, where that takes a while: a line that is written anew on a terminal, one
/// now and then elsewhere.
pub(crate) struct Progress {
    name: &'static str,
    rows: u64,
    before: u64,
    begun: Instant,
    said: Instant,
}

impl Progress {
    /// Of `rows`, `before` were there at the beginning.
    pub(crate) fn new(name: &'static str, rows: u64, before: u64) -> Self {
        if before > 0 {
            say(&format!("{}: {before} of {rows} are there already\n", name));
        }
        let now = Instant::now();
        Self { name, rows, before, begun: now, said: now }
    }

    /// `done` are there now.
    pub(crate) fn at(&mut self, done: u64) {
        let terminal = std::io::stderr().is_terminal();
        let every = Duration::from_secs(if terminal { 1 } else { 15 });
        if self.said.elapsed() < every && done < self.rows {
            return;
        }
        if self.begun.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.said = Instant::now();
        let (name, rows) = (self.name, self.rows);
        let percent = done.saturating_mul(100).checked_div(rows).unwrap_or(100);
        let rate = rate(done - self.before, self.begun.elapsed());
        let line = format!("{name}: {done} of {rows} ({percent} %), {rate} a second");
        let end = if done >= rows { "\n" } else { "" };
        say(&if terminal { format!("\r{line}\x1b[K{end}") } else { format!("{line}\n") });
    }
}

fn rate(rows: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rows) * 1_000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
}

/// Whoever does not read this misses nothing but this.
fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}
