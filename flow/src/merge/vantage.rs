//! Which entries may be one flow, and which cannot be, by their tuples alone.

use super::ViewId;
use super::view::Observer;

/// From where an entry sees its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vantage {
    pub(super) observer: Observer,
    pub(super) zone: u16,
    pub(super) inside: ViewId,
    pub(super) outside: ViewId,
}

impl Vantage {
    /// Whether the two can only have lived one after the other: conntrack keeps each tuple once a
    /// zone, of both directions. So none of their packets are the same, and an address and port
    /// on the outside that are another flow's now are no contradiction.
    pub(super) fn takes_turns_with(&self, other: &Self) -> bool {
        (self.observer, self.zone) == (other.observer, other.zone)
            && (self.inside == other.inside || self.outside == other.outside)
    }

    /// Whether one of two translations must be of another flow.
    pub(super) fn contradicts(&self, other: &Self) -> bool {
        let translates = |one: &Self| one.inside != one.outside;
        translates(self)
            && translates(other)
            && (self.inside == other.inside) != (self.outside == other.outside)
            && !self.takes_turns_with(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(observer: u32, zone: u16, inside: u128, outside: u128) -> Vantage {
        let (inside, outside) = (ViewId(inside), ViewId(outside));
        Vantage { observer: Observer(observer), zone, inside, outside }
    }

    #[test]
    fn translations_contradict_each_other_when_one_side_is_alike() {
        let one = seen(1, 0, 10, 20);
        assert!(one.contradicts(&seen(2, 0, 10, 21)));
        assert!(one.contradicts(&seen(2, 0, 11, 20)));
        assert!(!one.contradicts(&seen(2, 0, 10, 20)));
        assert!(!one.contradicts(&seen(2, 0, 11, 21)));
        // A second translation behind the first, and a host that translates nothing.
        assert!(!one.contradicts(&seen(2, 0, 20, 30)));
        assert!(!one.contradicts(&seen(2, 0, 10, 10)));
    }

    #[test]
    fn entries_of_one_table_take_turns_where_a_tuple_is_alike() {
        let one = seen(1, 0, 10, 20);
        for other in [seen(1, 0, 11, 20), seen(1, 0, 10, 21), seen(1, 0, 10, 20)] {
            assert!(one.takes_turns_with(&other));
            assert!(!one.contradicts(&other));
        }
        assert!(!one.takes_turns_with(&seen(1, 0, 20, 30)));
        assert!(!one.takes_turns_with(&seen(1, 7, 11, 20)), "zones have tables of their own");
        assert!(!one.takes_turns_with(&seen(2, 0, 11, 20)));
    }
}
