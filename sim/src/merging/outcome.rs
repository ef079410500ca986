//! What merging worlds showed, summed up.

use super::recipe::Recipe;
use super::world::Happened;

/// Bytes of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// What passed, as far as it was told by anybody.
    pub passed: u64,
    /// Stored beyond that.
    pub over: u64,
    /// Not stored of that.
    pub under: u64,
}

impl Amounts {
    /// By what the bytes of one flow differ.
    #[must_use]
    pub(super) fn of(stored: [i64; 4], union: [u64; 4]) -> Self {
        let mut amounts = Self::default();
        for at in [1, 3] {
            let (stored, passed) = (stored[at], union[at].cast_signed());
            amounts.passed += union[at];
            amounts.over += (stored - passed).max(0).cast_unsigned();
            amounts.under += (passed - stored).max(0).cast_unsigned();
        }
        amounts
    }

    /// Both together.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            over: self.over + other.over,
            under: self.under + other.under,
        }
    }
}

/// What worlds showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many worlds.
    pub worlds: u64,
    /// Of these, worlds in which all that was judged is exactly what passed.
    pub exact: u64,
    /// Flows that were judged.
    pub flows: u64,
    /// Flows of which nobody can know that they are one, because nothing of a translation arrived.
    pub undecidable: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub amounts: Amounts,
    /// What each flow that moved between hosts lost by one of its moves: milliseconds of its mean
    /// traffic.
    pub lost: Vec<u64>,
    /// What happened.
    pub happened: Happened,
}

impl Outcome {
    /// Of what moves cost: the mean, what 95 of 100 stay below, and the most, in milliseconds.
    #[must_use]
    pub fn residual(&self) -> Option<[u64; 3]> {
        let mut sorted = self.lost.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let mean = sorted.iter().sum::<u64>() / sorted.len() as u64;
        Some([mean, *sorted.get(last * 95 / 100)?, *sorted.get(last)?])
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            lost: [self.lost.as_slice(), &other.lost].concat(),
            worlds: self.worlds + other.worlds,
            exact: self.exact + other.exact,
            flows: self.flows + other.flows,
            undecidable: self.undecidable + other.undecidable,
            rows: self.rows + other.rows,
            amounts: self.amounts.plus(&other.amounts),
            happened: self.happened.plus(&other.happened),
        }
    }
}

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The world: it happens again with it.
    pub recipe: Recipe,
    /// What did not hold, by its number.
    pub what: String,
}
