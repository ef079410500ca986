//! From arrival to commit: frames are linked when they arrive, and wait for the word of the other
//! nodes in their domains ([`Hold`]).

use std::time::Duration;

use flow::clock::Basis;
use flow::merge::Domain;
use flow::{Record, UnixNanos};

use super::commit::{Committer, Stop, Work, finish};
use super::hold::{Held, Hold, HoldConfig, Sure};
use crate::count::{Body, Frame};
use crate::store::Store;

impl<S: Store> Committer<S> {
    /// The same with other bounds of the frames that wait for others' word.
    #[must_use]
    pub fn holding(mut self, config: HoldConfig) -> Self {
        self.hold = Hold::new(config);
        self
    }

    /// Frames that wait for others' word, and their bytes.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.hold.frames(), self.hold.bytes())
    }

    /// Moves frames on: those that arrived wait or can be committed, and of those that waited some
    /// need not any longer at `now`; all of them, where `all`.
    ///
    /// # Errors
    /// As [`Committer::run`]: call it again with the same work then.
    pub async fn admit(&mut self, work: &mut Work, now: UnixNanos, all: bool) -> Result<(), Stop> {
        // Memory must stay while a draft of it is on its way, so nothing can be linked before.
        self.close().await?;
        if let Some(frames) = self.settle(&work.todo).await? {
            finish(work, frames);
        }
        self.link(work).await?;
        for frame in work.arrived.drain(..) {
            match self.counter.domains(&frame.node) {
                Some(domains) => self.hold.push(held(frame, domains)),
                None => work.todo.push(frame),
            }
        }
        let most = self.rows.saturating_mul(ADMITTED_ROWS * size_of::<Record>());
        let released = if all { self.hold.release_all() } else { self.hold.release(now, most) };
        work.todo.extend(released);
        work.linked = work.todo.len();
        self.metrics.held(self.hold.frames(), self.hold.take_stats());
        Ok(())
    }
}

/// A frame as it waits for the word of the other nodes in its domains.
fn held(frame: Frame, domains: [Domain; 2]) -> Held<Frame> {
    let (node, epoch, arrived) = (frame.node.clone(), frame.epoch, frame.received);
    let bytes = frame.rows().saturating_mul(size_of::<Record>());
    let (swept, watermark, interval, more) = match &frame.body {
        Body::Batch { interval, .. } => {
            let basis = Basis::of(interval, frame.clock.as_ref());
            let sure =
                |moment| Some(Sure { at: basis.convert(moment)?, slack: basis.slack(moment)? });
            let length = Duration::from_millis(interval.length_ms.into());
            let (swept, begun) = (sure(interval.sweep_end), sure(interval.sweep_begin));
            (swept, begun, length, interval.parts == 0)
        }
        // Nothing was read for it: it waits for nobody.
        Body::Gap(_) => {
            let always = Sure { at: UnixNanos(i64::MIN), slack: Duration::ZERO };
            (Some(always), None, Duration::ZERO, false)
        }
    };
    Held { frame, node, epoch, domains, arrived, swept, watermark, interval, more, bytes }
}

/// Transactions' worth of frames let go at once.
const ADMITTED_ROWS: usize = 4;
