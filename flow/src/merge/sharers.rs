//! Who shares a view: nearly always one group.

use super::GroupNo;

/// The groups that are found by one view, those found by it for longest first.
#[derive(Debug)]
pub(super) enum Sharers {
    /// One.
    One(GroupNo),
    /// Several.
    More(Box<[GroupNo]>),
}

impl Sharers {
    pub(super) fn all(&self) -> &[GroupNo] {
        match self {
            Self::One(no) => std::slice::from_ref(no),
            Self::More(all) => all,
        }
    }

    pub(super) fn add(&mut self, no: GroupNo) {
        *self = Self::More(self.all().iter().copied().chain([no]).collect());
    }

    /// All but `no`; `None` where nobody is left.
    pub(super) fn without(&self, no: GroupNo) -> Option<Self> {
        let left: Box<[GroupNo]> = self.all().iter().copied().filter(|one| *one != no).collect();
        match *left {
            [] => None,
            [one] => Some(Self::One(one)),
            _ => Some(Self::More(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_and_go() {
        let mut sharers = Sharers::One(GroupNo(1));
        sharers.add(GroupNo(2));
        sharers.add(GroupNo(3));
        assert_eq!(sharers.all(), [GroupNo(1), GroupNo(2), GroupNo(3)]);
        let sharers = sharers.without(GroupNo(1)).unwrap();
        let sharers = sharers.without(GroupNo(3)).unwrap();
        assert!(matches!(sharers, Sharers::One(GroupNo(2))));
        assert_eq!(sharers.without(GroupNo(7)).unwrap().all(), [GroupNo(2)]);
        assert!(sharers.without(GroupNo(2)).is_none());
        assert_eq!(size_of::<Sharers>(), 16, "there is one for each view in memory");
    }
}
