//! Ctrl-C and friends become a flag that whoever waits looks at, so that everything started or
//! made is taken down in order by the guards that made it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Whether we were asked to stop.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

/// We were asked to stop, and did.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl Error for Interrupted {}

/// How often a waiting condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

impl Interrupt {
    /// Begins to listen.
    pub(crate) fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&asked))
                .context("could not install a signal handler")?;
        }
        Ok(Self(asked))
    }

    /// Whether we were asked to stop, once: from here on only another signal counts. For a phase
    /// that a signal ends in order, so that what follows is not cut short by the same signal.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// Waits for `how_long`.
    ///
    /// # Errors
    /// We were asked to stop.
    pub(crate) fn wait(&self, how_long: Duration) -> Result<()> {
        let end = Instant::now() + how_long;
        while Instant::now() < end {
            self.check()?;
            std::thread::sleep(LOOK.min(end.saturating_duration_since(Instant::now())));
        }
        self.check()
    }

    /// Waits until `condition` gives something, at most for `limit`.
    ///
    /// # Errors
    /// We were asked to stop, the condition failed, or `limit` passed; then the error names
    /// `what` was waited for.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            if let Some(value) = condition()? {
                return Ok(value);
            }
            self.check()?;
            if Instant::now() >= end {
                bail!("waited {limit:.0?} for {what}, in vain");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// # Errors
    /// We were asked to stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        Ok(())
    }
}
