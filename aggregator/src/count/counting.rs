//! Counting a few records at a time, so that a set can be counted while the one before it is on its
//! way into the store.

use std::slice::Iter;

use flow::Record;

use super::draft::{Context, Drafting, Missing};
use super::frame::{Body, Frame};
use super::known::Known;
use super::{Asked, CountError, Counted, Counter, Draft, Needs};

/// Frames in the counting; see [`Counter::begin`].
pub struct Counting<'c> {
    counter: &'c Counter,
    draft: Drafting<'c>,
    missing: Missing<'c>,
    frames: Iter<'c, Frame>,
    records: Option<(Context<'c>, Iter<'c, Record>)>,
}

impl<'c> Counting<'c> {
    pub(super) fn new(
        counter: &'c Counter,
        frames: &'c [Frame],
        asked: &'c Asked,
        after: Option<&'c Draft>,
    ) -> Self {
        let known = Known { memory: &counter.memory, pending: after.map(Draft::change) };
        let rows = frames.iter().map(Frame::rows).sum();
        Self {
            counter,
            draft: Drafting::new(&counter.config, known, rows),
            missing: Missing::new(frames, asked),
            frames: frames.iter(),
            records: None,
        }
    }

    /// Counts about as many records; whether all are counted.
    ///
    /// # Errors
    /// When a frame does not follow those before it, or numbers are used up. Nothing of these
    /// frames can be counted then.
    pub fn step(&mut self, records: usize) -> Result<bool, CountError> {
        let mut left = records;
        while left > 0 {
            if let Some((context, records)) = &mut self.records {
                let before = left;
                for record in records.by_ref().take(left) {
                    self.draft.record(context, record, &mut self.missing)?;
                    left -= 1;
                }
                if left < before {
                    continue;
                }
                self.records = None;
            }
            let Some(frame) = self.frames.next() else { return Ok(true) };
            // A frame without records is work too.
            left -= 1;
            let context = self.draft.begin(frame)?;
            self.records = match (context, &frame.body) {
                (Some(context), Body::Batch { records, .. }) => Some((context, records.iter())),
                _ => None,
            };
        }
        Ok(self.records.is_none() && self.frames.as_slice().is_empty())
    }

    /// What came of it, once all are counted.
    #[must_use]
    pub fn finish(self) -> Counted {
        let Self { counter, draft, missing, .. } = self;
        if missing.is_empty() {
            return Counted::Draft(Box::new(draft.finish()));
        }
        let (counted, first_seen) = counter.memory.uncounted_of(&missing.nodes);
        let counted_from = first_seen.minus(counter.config.horizon);
        let find = missing.find.into_iter().collect();
        let history_from = counter.memory.rows_from(&missing.history, counter.config.horizon);
        let history = missing.history.into_iter().collect();
        let (views, link) = (Vec::new(), missing.link);
        Counted::Needs(Needs { find, counted, counted_from, views, history, history_from, link })
    }
}
