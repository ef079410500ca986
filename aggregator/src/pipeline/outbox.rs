//! Answers on their way to sessions. A session that does not read must not hold up the others, so
//! nothing waits here: what a session has no room for is kept, within bounds, and tried again.

use std::collections::HashMap;

use flow::{Epoch, NodeName};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Answer;

/// Answers kept for one epoch's session. Beyond it, all but the last acknowledgement are dropped,
/// and counted: a session that far behind is dead, and its node sends again when it returns.
const KEPT: usize = 64;

#[derive(Debug)]
struct Owed {
    to: mpsc::Sender<Answer>,
    answers: Vec<Answer>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    owed: HashMap<(NodeName, Epoch), Owed>,
    dropped: u64,
}

impl Outbox {
    /// Sends `answer`, now or at a later [`Outbox::retry`].
    pub(super) fn send(
        &mut self,
        node: &NodeName,
        epoch: Epoch,
        to: &mpsc::Sender<Answer>,
        answer: Answer,
    ) {
        let key = (node.clone(), epoch);
        if let Some(owed) = self.owed.get_mut(&key)
            && owed.to.same_channel(to)
        {
            self.dropped += owed.keep(answer);
            return;
        }
        // A new session replaces the old one; what it was owed, its node asks for again.
        self.owed.remove(&key);
        if let Err(TrySendError::Full(answer)) = to.try_send(answer) {
            self.owed.insert(key, Owed { to: to.clone(), answers: vec![answer] });
        }
    }

    /// Sends again what had no room. Returns how many answers are still owed.
    pub(super) fn retry(&mut self) -> usize {
        self.owed.retain(|_, owed| owed.flush());
        self.owed.values().map(|owed| owed.answers.len()).sum()
    }

    /// Answers dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

impl Owed {
    /// Keeps an answer; acknowledgements are cumulative, so only the last one is kept.
    fn keep(&mut self, answer: Answer) -> u64 {
        let is_ack = |answer: &Answer| matches!(answer, Answer::Ack(..));
        if is_ack(&answer) {
            self.answers.retain(|kept| !is_ack(kept));
        } else if self.answers.len() >= KEPT {
            return 1;
        }
        self.answers.push(answer);
        0
    }

    /// Whether anything is still owed to somebody who listens.
    fn flush(&mut self) -> bool {
        let mut left = std::mem::take(&mut self.answers).into_iter();
        for answer in left.by_ref() {
            match self.to.try_send(answer) {
                Ok(()) => {}
                Err(TrySendError::Full(answer)) => {
                    self.answers.push(answer);
                    break;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        self.answers.extend(left);
        !self.answers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use flow::Seq;

    use super::*;

    #[test]
    fn a_slow_session_gets_the_last_acknowledgement_and_every_refusal() {
        let node = NodeName::new("gw-1").unwrap();
        let epoch = Epoch::default();
        let (to, mut session) = mpsc::channel(1);
        let mut outbox = Outbox::default();
        let refused = Answer::Rejected { seq: Seq(3), reason: "why".to_owned() };
        let answers = [
            Answer::Ack(Seq(1), None),
            Answer::Ack(Seq(2), None),
            refused.clone(),
            Answer::Ack(Seq(9), None),
        ];
        for answer in answers {
            outbox.send(&node, epoch, &to, answer);
        }
        let mut got = Vec::new();
        while let Ok(answer) = session.try_recv() {
            got.push(answer);
            outbox.retry();
        }
        assert_eq!(got, vec![Answer::Ack(Seq(1), None), refused, Answer::Ack(Seq(9), None)]);
        assert_eq!((outbox.retry(), outbox.take_dropped()), (0, 0));
    }

    #[test]
    fn a_dead_session_is_forgotten_and_a_full_one_bounded() {
        let node = NodeName::new("gw-1").unwrap();
        let epoch = Epoch::default();
        let (to, session) = mpsc::channel(1);
        let mut outbox = Outbox::default();
        for seq in 0..200 {
            let answer = Answer::Later { seq: Seq(seq), retry_after_ms: 1 };
            outbox.send(&node, epoch, &to, answer);
        }
        assert_eq!(outbox.retry(), KEPT);
        assert_eq!(outbox.take_dropped(), 199 - 64);
        drop(session);
        assert_eq!(outbox.retry(), 0);
    }
}
