//! Puts the frames of one epoch back into order.
//!
//! Every frame travels on a QUIC stream of its own, so they arrive in any order, and after a loss
//! some arrive twice. The pipeline wants each once, in order, with a bound on how many it has not
//! answered yet. A pure core: no I/O, `now` an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flow::Seq;

/// Bounds of a [`Reorder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReorderLimits {
    /// Frames that may wait, for a gap to fill or for the pipeline.
    pub frames: usize,
    /// Bytes of these frames.
    pub bytes: usize,
    /// Frames handed to the pipeline and not answered.
    pub in_flight: usize,
    /// How long a frame may wait for those before it.
    pub early: Duration,
}

impl Default for ReorderLimits {
    fn default() -> Self {
        Self { frames: 64, bytes: 32 << 20, in_flight: 64, early: Duration::from_secs(30) }
    }
}

/// The numbers that a frame stands for, both ends included: one, or several for a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The first.
    pub first: Seq,
    /// The last.
    pub last: Seq,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It waits for its turn.
    Taken,
    /// It waits or is in flight already: this one is not needed.
    Duplicate,
    /// It is committed already: acknowledge it again.
    Committed,
}

/// A frame whose numbers contradict those of another one. No honest node sends such a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame {}..={} overlaps with {}..={}", .frame.first, .frame.last, .other.first, .other.last)]
pub struct Overlap {
    /// The frame.
    pub frame: Numbers,
    /// What was there before.
    pub other: Numbers,
}

/// Frames of one session between their arrival and their commit.
#[derive(Debug)]
pub struct Reorder<T> {
    limits: ReorderLimits,
    /// All up to here are committed.
    committed: Seq,
    /// Handed over, not answered; first number to last.
    in_flight: BTreeMap<Seq, Seq>,
    /// By first number. Never overlaps with `in_flight` or itself.
    waiting: BTreeMap<Seq, Waiting<T>>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    last: Seq,
    bytes: usize,
    since: Instant,
    frame: T,
}

impl<T> Reorder<T> {
    /// Nothing has arrived yet; everything up to `committed` is in the store.
    #[must_use]
    pub const fn new(committed: Seq, limits: ReorderLimits) -> Self {
        Self { limits, committed, in_flight: BTreeMap::new(), waiting: BTreeMap::new(), bytes: 0 }
    }

    /// Takes a frame of `bytes` bytes. [`Reorder::overflow`] must be asked afterwards.
    ///
    /// # Errors
    /// When its numbers overlap with those of another frame without being the same.
    pub fn place(
        &mut self,
        now: Instant,
        numbers: Numbers,
        bytes: usize,
        frame: T,
    ) -> Result<Placed, Overlap> {
        if numbers.last <= self.committed {
            return Ok(Placed::Committed);
        }
        match self.overlapping(numbers) {
            Some(other) if other == numbers => return Ok(Placed::Duplicate),
            Some(other) => return Err(Overlap { frame: numbers, other }),
            None => {}
        }
        self.bytes += bytes;
        let Numbers { first, last } = numbers;
        self.waiting.insert(first, Waiting { last, bytes, since: now, frame });
        Ok(Placed::Taken)
    }

    /// The next frame for the pipeline, which is in flight from now on.
    pub fn pop(&mut self) -> Option<(Numbers, T)> {
        let first = self.next_ready()?;
        let waiting = self.waiting.remove(&first)?;
        self.bytes -= waiting.bytes;
        self.in_flight.insert(first, waiting.last);
        Some((Numbers { first, last: waiting.last }, waiting.frame))
    }

    /// Whether [`Reorder::pop`] would give a frame.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.next_ready().is_some()
    }

    /// Whether the frames that only wait for the pipeline fill the bounds: nothing more should be
    /// read from the node, so that QUIC slows it down.
    #[must_use]
    pub fn is_backlogged(&self) -> bool {
        let end = self.end_of_run();
        let run = || self.waiting.range(..end).map(|(_, waiting)| waiting.bytes);
        run().count() >= self.limits.frames || run().sum::<usize>() >= self.limits.bytes
    }

    /// Gives up the latest frame while there are more than the bounds allow and it misses others
    /// before it; the node must send it again. Returns its last number.
    pub fn overflow(&mut self) -> Option<Seq> {
        if self.waiting.len() <= self.limits.frames && self.bytes <= self.limits.bytes {
            return None;
        }
        self.give_up_latest()
    }

    /// Gives up frames that miss others before them, the latest first: for when memory is short.
    pub fn give_up_latest(&mut self) -> Option<Seq> {
        let end = self.end_of_run();
        let first = *self.waiting.range(end..).next_back()?.0;
        self.forget(first)
    }

    /// Gives up a frame that has missed others before it for too long.
    pub fn give_up_stale(&mut self, now: Instant) -> Option<Seq> {
        let end = self.end_of_run();
        let stale = |since: Instant| now.saturating_duration_since(since) > self.limits.early;
        let first = *self.waiting.range(end..).find(|(_, waiting)| stale(waiting.since))?.0;
        self.forget(first)
    }

    /// The pipeline has committed everything up to `seq`.
    pub fn committed(&mut self, seq: Seq) {
        self.committed = self.committed.max(seq);
        let end = self.committed.next();
        self.in_flight = self.in_flight.split_off(&end);
        while let Some((&first, _)) = self.waiting.range(..end).next() {
            self.forget(first);
        }
    }

    /// The pipeline has given back the frame with number `seq`; it, or a gap in its place, will
    /// come again.
    pub fn returned(&mut self, seq: Seq) {
        let found = self.in_flight.range(..=seq).next_back().filter(|(_, last)| **last >= seq);
        if let Some((&first, _)) = found {
            self.in_flight.remove(&first);
        }
    }

    /// The last committed number.
    #[must_use]
    pub const fn last_committed(&self) -> Seq {
        self.committed
    }

    /// Frames that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Frames in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn forget(&mut self, first: Seq) -> Option<Seq> {
        let waiting = self.waiting.remove(&first)?;
        self.bytes -= waiting.bytes;
        Some(waiting.last)
    }

    fn next_ready(&self) -> Option<Seq> {
        if self.in_flight.len() >= self.limits.in_flight {
            return None;
        }
        let mut next = self.committed.next();
        while let Some(last) = self.in_flight.get(&next) {
            next = last.next();
        }
        self.waiting.contains_key(&next).then_some(next)
    }

    /// The first number that neither waits nor is in flight with all before it.
    fn end_of_run(&self) -> Seq {
        let mut next = self.committed.next();
        let last = |at: Seq| {
            let waiting = self.waiting.get(&at).map(|waiting| waiting.last);
            waiting.or_else(|| self.in_flight.get(&at).copied())
        };
        while let Some(last) = last(next) {
            next = last.next();
        }
        next
    }

    fn overlapping(&self, numbers: Numbers) -> Option<Numbers> {
        let Numbers { first, last } = numbers;
        if first <= self.committed {
            return Some(Numbers { first: Seq::NONE, last: self.committed });
        }
        let waiting = self.waiting.range(..=last).next_back().map(|(f, w)| (*f, w.last));
        let in_flight = self.in_flight.range(..=last).next_back().map(|(f, l)| (*f, *l));
        [waiting, in_flight]
            .into_iter()
            .flatten()
            .find(|(_, end)| *end >= first)
            .map(|(first, last)| Numbers { first, last })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(seq: u64) -> Numbers {
        Numbers { first: Seq(seq), last: Seq(seq) }
    }

    fn small(frames: usize, in_flight: usize) -> ReorderLimits {
        ReorderLimits { frames, in_flight, ..ReorderLimits::default() }
    }

    fn drain(reorder: &mut Reorder<u64>) -> Vec<u64> {
        std::iter::from_fn(|| reorder.pop()).map(|(_, frame)| frame).collect()
    }

    #[test]
    fn frames_leave_in_order_from_the_first_uncommitted_one() {
        let now = Instant::now();
        let mut reorder = Reorder::new(Seq(4), ReorderLimits::default());
        assert_eq!(reorder.place(now, one(6), 1, 6), Ok(Placed::Taken));
        assert!(!reorder.has_ready());
        assert_eq!(reorder.place(now, one(4), 1, 4), Ok(Placed::Committed));
        let gap = Numbers { first: Seq(7), last: Seq(9) };
        assert_eq!(reorder.place(now, gap, 1, 7), Ok(Placed::Taken));
        assert_eq!(reorder.place(now, one(5), 1, 5), Ok(Placed::Taken));
        assert_eq!(drain(&mut reorder), [5, 6, 7]);
        assert_eq!(reorder.place(now, gap, 1, 7), Ok(Placed::Duplicate));
        assert_eq!(reorder.place(now, one(10), 1, 10), Ok(Placed::Taken));
        assert_eq!(drain(&mut reorder), [10]);
        reorder.committed(Seq(9));
        assert_eq!((reorder.in_flight(), reorder.last_committed()), (1, Seq(9)));
    }

    #[test]
    fn numbers_that_contradict_each_other_are_refused() {
        let now = Instant::now();
        let mut reorder = Reorder::new(Seq(4), ReorderLimits::default());
        reorder.place(now, Numbers { first: Seq(6), last: Seq(8) }, 1, 6).unwrap();
        reorder.place(now, one(5), 1, 5).unwrap();
        drain(&mut reorder);
        reorder.place(now, Numbers { first: Seq(12), last: Seq(13) }, 1, 12).unwrap();
        for (first, last) in [(7, 7), (8, 9), (4, 5), (2, 30), (13, 14), (11, 12), (11, 20)] {
            let numbers = Numbers { first: Seq(first), last: Seq(last) };
            assert!(reorder.place(now, numbers, 1, first).is_err(), "{first}..={last}");
        }
    }

    #[test]
    fn what_the_pipeline_gives_back_is_waited_for_again() {
        let now = Instant::now();
        let mut reorder = Reorder::new(Seq::NONE, ReorderLimits::default());
        for seq in 1..=3 {
            reorder.place(now, one(seq), 1, seq).unwrap();
        }
        assert_eq!(drain(&mut reorder), [1, 2, 3]);
        reorder.returned(Seq(2));
        reorder.place(now, one(4), 1, 4).unwrap();
        assert!(drain(&mut reorder).is_empty());
        assert_eq!(reorder.place(now, one(3), 1, 3), Ok(Placed::Duplicate));
        assert_eq!(reorder.place(now, one(2), 1, 2), Ok(Placed::Taken));
        assert_eq!(drain(&mut reorder), [2, 4]);
    }

    #[test]
    fn early_frames_beyond_the_bounds_are_given_up_latest_first_but_never_ready_ones() {
        let now = Instant::now();
        let mut reorder = Reorder::new(Seq::NONE, small(3, 2));
        for seq in [3, 5, 4] {
            reorder.place(now, one(seq), 1, seq).unwrap();
            assert_eq!(reorder.overflow(), None);
        }
        reorder.place(now, one(2), 1, 2).unwrap();
        assert_eq!(reorder.overflow(), Some(Seq(5)));
        assert_eq!(reorder.overflow(), None);
        reorder.place(now, one(1), 1, 1).unwrap();
        // Four wait, all of them only for the pipeline: nothing is lost, the node must slow down.
        assert_eq!(reorder.overflow(), None);
        assert!(reorder.is_backlogged());
        assert_eq!(drain(&mut reorder), [1, 2]);
        reorder.committed(Seq(2));
        assert_eq!(drain(&mut reorder), [3, 4]);
        assert!(!reorder.is_backlogged());
    }

    #[test]
    fn a_frame_does_not_wait_for_ever_for_those_before_it() {
        let now = Instant::now();
        let mut reorder = Reorder::new(Seq::NONE, ReorderLimits::default());
        reorder.place(now, one(2), 1, 2).unwrap();
        let later = now + Duration::from_secs(31);
        reorder.place(later, one(3), 1, 3).unwrap();
        assert_eq!(reorder.give_up_stale(later), Some(Seq(2)));
        assert_eq!(reorder.give_up_stale(later), None);
        assert_eq!(reorder.waiting(), 1);
    }

    proptest! {
        /// A sender that keeps sending what is not committed, over a link that reorders and
        /// repeats, to a pipeline that gives frames back at will: the pipeline sees each number
        /// it has not given back once, and always in order.
        #[test]
        fn every_frame_leaves_once_and_in_order(
            picks in prop::collection::vec((0usize..24, 0u8..10), 1..600),
            frames in 1usize..8,
            in_flight in 1usize..8,
        ) {
            const LAST: u64 = 24;
            let now = Instant::now();
            let mut reorder = Reorder::new(Seq::NONE, small(frames, in_flight));
            let mut open: std::collections::BTreeSet<u64> = Default::default();
            let mut committed = 0;
            let rounds = picks.into_iter().chain((0..).map(|n| (n, 9)));
            for (step, (pick, act)) in rounds.enumerate() {
                prop_assert!(step < 100_000, "no progress at {committed}");
                if committed == LAST {
                    break;
                }
                let left = LAST - committed;
                let seq = committed + 1 + (pick as u64 % left);
                if !reorder.is_backlogged() {
                    reorder.place(now, one(seq), 10, seq).unwrap();
                    while reorder.overflow().is_some() {}
                }
                prop_assert!(reorder.waiting() <= frames + 1);
                while let Some((numbers, frame)) = reorder.pop() {
                    prop_assert_eq!(numbers, one(frame));
                    prop_assert!(open.insert(frame), "{} left twice", frame);
                    // All before it are committed or in flight.
                    prop_assert!((committed + 1..frame).all(|n| open.contains(&n)));
                    prop_assert!(open.len() <= in_flight);
                }
                let some = open.iter().copied().nth(pick % open.len().max(1));
                match (act, some) {
                    (0, Some(seq)) => {
                        reorder.returned(Seq(seq));
                        open.remove(&seq);
                    }
                    (5.., _) => {
                        while open.remove(&(committed + 1)) {
                            committed += 1;
                        }
                        reorder.committed(Seq(committed));
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(committed, LAST);
        }
    }
}
