//! Before the first frames of a session the aggregator is told this host's clock: growth that it
//! cannot place in time is never added to what another host saw.

use std::time::Duration;

use flow::BootNanos;

/// Whether a session's frames may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Telling {
    /// Frames wait no longer than this: one without a time is better than none.
    patience: BootNanos,
    /// When the first ping was sent that told the offset.
    told: Option<BootNanos>,
    /// It was answered, so the aggregator knows.
    known: bool,
}

impl Telling {
    /// A session begins.
    pub(super) fn new(now: BootNanos) -> Self {
        Self { patience: now.plus(PATIENCE), told: None, known: false }
    }

    /// A ping is sent; `tells` when it carries the offset.
    pub(super) fn pinged(&mut self, sent: BootNanos, tells: bool) {
        if tells {
            self.told = self.told.or(Some(sent));
        }
    }

    /// The ping of `sent` was answered. Whether there is an offset now that was not told yet: then
    /// the next ping is due at once.
    pub(super) fn answered(&mut self, sent: BootNanos, measured: bool) -> bool {
        self.known |= self.told.is_some_and(|told| sent >= told);
        measured && self.told.is_none()
    }

    /// Until when frames have to wait; `None` when they may go.
    pub(super) fn holds(&self, now: BootNanos) -> Option<BootNanos> {
        (!self.known && now < self.patience).then_some(self.patience)
    }
}

/// Two round trips are needed; a path that loses packets gets time to repeat them.
const PATIENCE: Duration = Duration::from_secs(2);
