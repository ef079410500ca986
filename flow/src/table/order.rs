//! The order of a sweep, as a guess at the next one's: a source reads the kernel's table in the
//! order of its buckets, which stays but for what came and went. A good guess spares the look-up;
//! a wrong one costs a comparison.

/// The places that sweeps read, turn by turn.
#[derive(Debug, Default)]
pub(super) struct Order {
    last: Vec<u32>,
    now: Vec<u32>,
    /// The next turn of the last sweep.
    next: usize,
}

impl Order {
    /// A sweep begins.
    pub(super) fn begin(&mut self) {
        std::mem::swap(&mut self.last, &mut self.now);
        self.now.clear();
        self.next = 0;
    }

    /// The place that is likely to be read next.
    pub(super) fn guess(&self) -> Option<u32> {
        self.last.get(self.next).copied()
    }

    /// The places that are likely to be read next, at most `count`.
    pub(super) fn guesses(&self, count: usize) -> &[u32] {
        let rest = self.last.get(self.next..).unwrap_or_default();
        rest.get(..count).unwrap_or(rest)
    }

    /// `place` was read, which had had `turn` in the last sweep (or in none). Returns its turn
    /// in this one.
    pub(super) fn read(&mut self, place: u32, turn: u32) -> u32 {
        if self.last.get(turn as usize) == Some(&place) {
            self.next = turn as usize + 1;
        }
        // Places are numbered by `u32` and read once a sweep.
        let turn = u32::try_from(self.now.len()).unwrap_or(u32::MAX);
        self.now.push(place);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sweeps_order_is_the_guess() {
        let mut order = Order::default();
        order.begin();
        let mut turns: Vec<u32> = (0..5).map(|place| order.read(place, 0)).collect();
        assert_eq!(turns, [0, 1, 2, 3, 4]);
        order.begin();
        let mut guessed = 0;
        // The second has gone, another came, the rest is as it was.
        for place in [0, 2, 9, 3, 4] {
            guessed += u32::from(order.guess() == Some(place));
            let turn = turns.get(place as usize).copied().unwrap_or(0);
            let turn = order.read(place, turn);
            if let Some(old) = turns.get_mut(place as usize) {
                *old = turn;
            }
        }
        assert_eq!((guessed, &turns[..]), (3, &[0, 1, 1, 3, 4][..]));
        order.begin();
        assert_eq!(order.guess(), Some(0));
        assert_eq!((order.guesses(2), order.guesses(9)), (&[0, 2][..], &[0, 2, 9, 3, 4][..]));
    }
}
