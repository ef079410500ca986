//! How often the log repeats itself. A pure core.
//!
//! Anybody who reaches the port can make handshakes fail; the counters tell how often, the log
//! tells it once in a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The log says the same thing at most once in this time.
pub const ONCE_IN: Duration = Duration::from_secs(10);

/// What was said when. `R` is a closed set, so this is bounded.
#[derive(Debug)]
pub struct Quiet<R>(HashMap<R, Said>);

#[derive(Debug)]
struct Said {
    at: Instant,
    kept_back: u64,
}

impl<R> Default for Quiet<R> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<R: Eq + Hash> Quiet<R> {
    /// Whether to say `what` now: how often it was kept back since it was last said, or `None`
    /// where it was said a moment ago.
    pub fn say(&mut self, now: Instant, what: R) -> Option<u64> {
        if let Some(said) = self.0.get_mut(&what)
            && now.saturating_duration_since(said.at) < ONCE_IN
        {
            said.kept_back += 1;
            return None;
        }
        let said = self.0.insert(what, Said { at: now, kept_back: 0 });
        Some(said.map_or(0, |said| said.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_thing_is_said_once_and_counted_until_said_again() {
        let start = Instant::now();
        let mut quiet = Quiet::default();
        assert_eq!(quiet.say(start, "a"), Some(0));
        assert_eq!(quiet.say(start, "b"), Some(0));
        assert_eq!(quiet.say(start, "a"), None);
        assert_eq!(quiet.say(start + ONCE_IN / 2, "a"), None);
        assert_eq!(quiet.say(start + ONCE_IN, "a"), Some(2));
        assert_eq!(quiet.say(start + ONCE_IN, "a"), None);
    }
}
