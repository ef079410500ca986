//! The frames of one session: sent, received, to be sent again.

use std::collections::{BTreeMap, BTreeSet};

use flow::{BootNanos, Epoch, Seq};

use crate::spool::{EpochView, Span};

/// What is on its way in one session of one epoch.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) epoch: Epoch,
    /// Frames that may be on their way without `Received`.
    limit: usize,
    /// The first number not sent in this session.
    next: Seq,
    /// Last numbers of frames sent and not received.
    unreceived: BTreeSet<Seq>,
    /// First numbers of frames to be sent again, and when.
    again: BTreeMap<Seq, BootNanos>,
}

impl Window {
    pub(super) fn new(epoch: Epoch, committed: Seq, limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, MAX_UNRECEIVED);
        let (unreceived, again) = (BTreeSet::new(), BTreeMap::new());
        Self { epoch, limit, next: committed.next(), unreceived, again }
    }

    /// Forgets what is acknowledged.
    pub(super) fn acknowledged(&mut self, acked: Seq) {
        self.next = self.next.max(acked.next());
        self.unreceived.retain(|last| *last > acked);
        self.again.retain(|first, _| *first > acked);
    }

    /// The frame to be sent now: what is to be sent again first, oldest first.
    pub(super) fn due(&self, now: BootNanos, view: &EpochView) -> Option<Seq> {
        if self.unreceived.len() >= self.limit {
            return None;
        }
        let again = self.again.iter().find(|(_, due)| **due <= now);
        again.map(|(seq, _)| *seq).or_else(|| (self.next < view.next).then_some(self.next))
    }

    /// When the next frame that was put off is due, where there is room for it.
    pub(super) fn next_due(&self) -> Option<BootNanos> {
        let room = self.unreceived.len() < self.limit;
        self.again.values().min().copied().filter(|_| room)
    }

    pub(super) fn sent(&mut self, span: Span) {
        self.again.retain(|first, _| *first < span.first || *first > span.last);
        self.unreceived.insert(span.last);
        self.next = self.next.max(span.last.next());
    }

    pub(super) fn received(&mut self, last: Seq) {
        self.unreceived.remove(&last);
    }

    /// Notes that a frame has to be sent again; false where it was never sent in this session,
    /// or too many are noted already.
    pub(super) fn again(&mut self, seq: Seq, due: BootNanos) -> bool {
        if seq >= self.next || self.again.len() >= MAX_AGAIN {
            return false;
        }
        self.unreceived.remove(&seq);
        self.again.insert(seq, due);
        true
    }

    /// Whether the frame was sent in this session.
    pub(super) fn was_sent(&self, seq: Seq) -> bool {
        seq < self.next
    }

    pub(super) fn unreceived(&self) -> usize {
        self.unreceived.len()
    }
}

/// Frames on their way without `Received`, whatever the aggregator allows.
pub(super) const MAX_UNRECEIVED: usize = 16;

/// Frames put off at a time; with more of them the session starts over.
const MAX_AGAIN: usize = 4_096;
