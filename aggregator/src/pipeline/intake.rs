//! The order of frames before they are counted: pure, one lane for each (node, epoch).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use flow::{Epoch, NodeName, Seq, UnixNanos};
use tokio::sync::mpsc;
use wire::frame::Digest;

use super::Answer;
use crate::store::Progress;

/// Digests remembered of each epoch's last frames, to tell a copy from other bytes under the same
/// number. Older copies are acknowledged unseen.
const RECENT: usize = 64;

/// What a frame is to its lane: the frames of one (node, epoch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The next one.
    Next,
    /// A copy of one that is committed; up to this number all are.
    Committed(Seq),
    /// A copy of one that is on its way into the store: its answer will be its original's.
    Pending,
    /// It comes after one that has not arrived.
    Early,
    /// Its number is taken, by other bytes; or one before it was, in this session.
    OtherBytes,
    /// It stands for numbers of which some are taken and some are not.
    Straddles,
}

/// Epochs that one node may begin in [`EPOCHS_FOR`]. Each takes memory and a row for ever. An
/// honest node begins one when its state folder is new, copied or rolled back.
pub const MOST_EPOCHS: usize = 1_024;

/// See [`MOST_EPOCHS`].
pub const EPOCHS_FOR: Duration = Duration::from_secs(8 * 86_400);

/// A node begins one epoch after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node has begun {MOST_EPOCHS} epochs in {} days; does its state folder survive a restart? \
     Stop whatever makes it begin anew; if it cannot wait, issue it another name",
    EPOCHS_FOR.as_secs() / 86_400
)]
pub struct TooManyEpochs;

#[derive(Debug, Default)]
struct Lane {
    /// When this process first heard of it; `None` where the store knew it at start.
    begun: Option<UnixNanos>,
    committed: Seq,
    /// The last number accepted.
    tail: Seq,
    /// At least those of all frames on their way, and of the last committed one.
    recent: VecDeque<(Seq, Digest)>,
    /// Other bytes came under a number that is taken: whoever sends them must not go on with
    /// this epoch, because later frames build on those that were not taken.
    contested: bool,
    answer: Option<mpsc::Sender<Answer>>,
}

impl Lane {
    fn digest(&self, seq: Seq) -> Option<Digest> {
        self.recent.iter().find(|(at, _)| *at == seq).map(|(_, digest)| *digest)
    }
}

/// Which frames of which epochs have been taken. The pipeline's task and the simulation run it.
#[derive(Debug, Default)]
pub struct Intake {
    lanes: HashMap<NodeName, HashMap<Epoch, Lane>>,
}

impl Intake {
    /// Notes what is committed when the aggregator starts.
    pub fn restore(&mut self, node: &NodeName, epoch: Epoch, progress: Progress) {
        let lane = self.lane(node, epoch);
        lane.committed = progress.committed;
        lane.tail = progress.committed;
        lane.recent.push_back((progress.committed, progress.digest));
    }

    fn lane(&mut self, node: &NodeName, epoch: Epoch) -> &mut Lane {
        if !self.lanes.contains_key(node) {
            self.lanes.insert(node.clone(), HashMap::new());
        }
        self.lanes.entry(node.clone()).or_default().entry(epoch).or_default()
    }

    fn known(&self, node: &NodeName, epoch: Epoch) -> Option<&Lane> {
        self.lanes.get(node)?.get(&epoch)
    }

    /// The last committed number.
    pub fn committed(&self, node: &NodeName, epoch: Epoch) -> Seq {
        self.known(node, epoch).map_or(Seq::NONE, |lane| lane.committed)
    }

    /// The digest of the last committed frame.
    pub fn committed_digest(&self, node: &NodeName, epoch: Epoch) -> Option<Digest> {
        let lane = self.known(node, epoch)?;
        lane.digest(lane.committed)
    }

    /// A session of this epoch begins.
    ///
    /// # Errors
    /// When the epoch is new and the node has begun too many.
    pub fn open(
        &mut self,
        node: &NodeName,
        epoch: Epoch,
        now: UnixNanos,
    ) -> Result<(), TooManyEpochs> {
        if self.known(node, epoch).is_none() {
            let since = now.minus(EPOCHS_FOR);
            let recent = |lane: &&Lane| lane.begun.is_some_and(|begun| begun > since);
            let lanes = self.lanes.get(node).into_iter().flat_map(HashMap::values);
            if lanes.filter(recent).count() >= MOST_EPOCHS {
                return Err(TooManyEpochs);
            }
            self.lane(node, epoch).begun = Some(now);
        }
        self.lane(node, epoch).contested = false;
        Ok(())
    }

    /// Takes nothing more of this epoch until another session begins.
    pub fn contest(&mut self, node: &NodeName, epoch: Epoch) {
        self.lane(node, epoch).contested = true;
    }

    /// What a frame over `first..=last` with this digest is. A gap carries no readings, so one
    /// over a committed number has nothing to lose and is a copy whatever its bytes.
    pub fn place(
        &self,
        node: &NodeName,
        epoch: Epoch,
        (first, last): (Seq, Seq),
        digest: &Digest,
        is_gap: bool,
    ) -> Place {
        let fresh = Lane::default();
        let lane = self.known(node, epoch).unwrap_or(&fresh);
        if first > lane.tail.next() {
            return Place::Early;
        }
        if first > lane.tail {
            return if lane.contested { Place::OtherBytes } else { Place::Next };
        }
        if last > lane.tail {
            return Place::Straddles;
        }
        let other = !is_gap && lane.digest(last).is_some_and(|taken| taken != *digest);
        match (last <= lane.committed, other) {
            (_, true) => Place::OtherBytes,
            (true, false) => Place::Committed(lane.committed),
            (false, false) => Place::Pending,
        }
    }

    /// Remembers where this epoch's answers go now.
    pub fn answer_to(&mut self, node: &NodeName, epoch: Epoch, answer: mpsc::Sender<Answer>) {
        self.lane(node, epoch).answer = Some(answer);
    }

    /// Where this epoch's answers go.
    pub fn answers(&self, node: &NodeName, epoch: Epoch) -> Option<&mpsc::Sender<Answer>> {
        self.known(node, epoch)?.answer.as_ref()
    }

    /// Takes the next frame.
    pub fn accept(&mut self, node: &NodeName, epoch: Epoch, last: Seq, digest: Digest) {
        let lane = self.lane(node, epoch);
        lane.tail = last;
        let committed = lane.committed;
        while lane.recent.len() >= RECENT
            && lane.recent.front().is_some_and(|(seq, _)| *seq < committed)
        {
            lane.recent.pop_front();
        }
        lane.recent.push_back((last, digest));
    }

    /// Notes a commit.
    pub fn commit(&mut self, node: &NodeName, epoch: Epoch, last: Seq) {
        let lane = self.lane(node, epoch);
        lane.committed = lane.committed.max(last);
    }

    /// Gives up `seq` and all after it: they may come again, with other bytes.
    pub fn give_up(&mut self, node: &NodeName, epoch: Epoch, seq: Seq) {
        let lane = self.lane(node, epoch);
        lane.tail = Seq(seq.get().saturating_sub(1)).max(lane.committed);
        let tail = lane.tail;
        lane.recent.retain(|(at, _)| *at <= tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch([1; 16]);

    fn node() -> NodeName {
        NodeName::new("gw-1").unwrap()
    }

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn place(intake: &Intake, first: u64, last: u64, n: u8) -> Place {
        intake.place(&node(), EPOCH, (Seq(first), Seq(last)), &digest(n), false)
    }

    #[test]
    fn frames_are_taken_in_order_and_once() {
        let mut intake = Intake::default();
        assert_eq!(place(&intake, 1, 1, 1), Place::Next);
        assert_eq!(place(&intake, 2, 2, 2), Place::Early);
        intake.accept(&node(), EPOCH, Seq(1), digest(1));
        assert_eq!(place(&intake, 1, 1, 1), Place::Pending);
        assert_eq!(place(&intake, 1, 1, 9), Place::OtherBytes);
        assert_eq!(place(&intake, 2, 4, 2), Place::Next);
        intake.accept(&node(), EPOCH, Seq(4), digest(2));
        intake.commit(&node(), EPOCH, Seq(1));
        assert_eq!(place(&intake, 1, 1, 1), Place::Committed(Seq(1)));
        assert_eq!(place(&intake, 1, 1, 9), Place::OtherBytes);
        assert_eq!(place(&intake, 2, 4, 2), Place::Pending);
        assert_eq!(place(&intake, 4, 5, 2), Place::Straddles);
        assert_eq!(intake.committed(&node(), EPOCH), Seq(1));
        assert_eq!(intake.committed(&node(), Epoch::default()), Seq::NONE);
    }

    #[test]
    fn a_gap_over_a_committed_number_is_a_copy() {
        let mut intake = Intake::default();
        intake.restore(&node(), EPOCH, Progress { committed: Seq(7), digest: digest(7) });
        let gap =
            |first, last| intake.place(&node(), EPOCH, (Seq(first), Seq(last)), &digest(9), true);
        assert_eq!(gap(7, 7), Place::Committed(Seq(7)));
        assert_eq!(gap(8, 9), Place::Next);
        assert_eq!(place(&intake, 7, 7, 9), Place::OtherBytes);
        assert_eq!(place(&intake, 3, 3, 9), Place::Committed(Seq(7)), "too old to tell");
    }

    #[test]
    fn who_sends_other_bytes_must_not_go_on_in_this_session() {
        let mut intake = Intake::default();
        intake.accept(&node(), EPOCH, Seq(1), digest(1));
        intake.contest(&node(), EPOCH);
        assert_eq!(place(&intake, 2, 2, 2), Place::OtherBytes, "it builds on what was not taken");
        assert_eq!(place(&intake, 1, 1, 1), Place::Pending);
        intake.open(&node(), EPOCH, UnixNanos::default()).unwrap();
        assert_eq!(place(&intake, 2, 2, 2), Place::Next);
    }

    #[test]
    fn a_node_cannot_begin_epochs_without_end() {
        let mut intake = Intake::default();
        let other = NodeName::new("gw-2").unwrap();
        let epoch = |n: usize| Epoch(u128::try_from(n).unwrap().to_be_bytes());
        let start = UnixNanos::default().plus(EPOCHS_FOR).plus(EPOCHS_FOR);
        for n in 1..=MOST_EPOCHS {
            intake.open(&node(), epoch(n), start).unwrap();
        }
        assert_eq!(intake.open(&node(), epoch(0), start), Err(TooManyEpochs));
        intake.open(&node(), epoch(7), start).unwrap();
        intake.open(&other, epoch(0), start).unwrap();
        intake.open(&node(), epoch(0), start.plus(EPOCHS_FOR)).unwrap();
        assert!(TooManyEpochs.to_string().contains("8 days"), "{TooManyEpochs}");
    }

    #[test]
    fn digests_of_all_frames_on_their_way_are_kept() {
        let mut intake = Intake::default();
        intake.restore(&node(), EPOCH, Progress { committed: Seq(7), digest: digest(7) });
        for seq in 8..=200 {
            intake.accept(&node(), EPOCH, Seq(seq), digest(u8::try_from(seq).unwrap()));
        }
        assert_eq!(intake.committed_digest(&node(), EPOCH), Some(digest(7)));
        assert_eq!(place(&intake, 9, 9, 99), Place::OtherBytes);
        intake.commit(&node(), EPOCH, Seq(200));
        intake.accept(&node(), EPOCH, Seq(201), digest(201));
        assert_eq!(intake.committed_digest(&node(), EPOCH), Some(digest(200)));
        assert_eq!(place(&intake, 9, 9, 99), Place::Committed(Seq(200)), "too old to tell");
    }

    #[test]
    fn what_is_given_up_may_come_again() {
        let mut intake = Intake::default();
        for seq in 1..=40 {
            intake.accept(&node(), EPOCH, Seq(seq), digest(u8::try_from(seq).unwrap()));
        }
        intake.commit(&node(), EPOCH, Seq(30));
        intake.give_up(&node(), EPOCH, Seq(35));
        assert_eq!(place(&intake, 35, 35, 99), Place::Next);
        assert_eq!(place(&intake, 34, 34, 34), Place::Pending);
        // Never behind what is committed.
        intake.give_up(&node(), EPOCH, Seq(3));
        assert_eq!(place(&intake, 31, 31, 99), Place::Next);
    }
}
