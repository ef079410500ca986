//! What goes wrong when: decided by a seed before anything runs.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Something that goes wrong, or that is mended. Nodes by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// SIGKILL, and started again.
    KillNode(usize),
    KillAggregator,
    KillDatabase,
    /// The link of a node is cut, and is mended.
    Cut(usize),
    Mend(usize),
    /// The disk of the first node's spool is full, and has room again.
    Fill,
    Free,
}

/// The node whose spool is on a disk of its own.
pub(super) const SMALL_DISK: usize = 0;

/// Between two troubles.
const PAUSE: std::ops::Range<u64> = 1_500..4_000;
/// How long a link is cut and a disk is full, in milliseconds. With the time a node takes to read
/// everything again this must be less than entries stay in the kernel.
const CUT: std::ops::Range<u64> = 3_000..10_000;
const FULL: Duration = Duration::from_secs(8);

/// Everything that happens in `lasting`, in order. Every link is mended and the disk is free in
/// the end. While a disk is full its node is not killed: what ended meanwhile waits in its
/// memory, and would be lost for good reason.
pub(super) fn plan(seed: u64, lasting: Duration, nodes: usize) -> Vec<(Duration, Trouble)> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let third = lasting / 3;
    let fill = rng.random_range(third..third * 2);
    let free = (fill + FULL).min(lasting);
    let mut plan = vec![(fill, Trouble::Fill), (free, Trouble::Free)];
    let mut mended = vec![Duration::ZERO; nodes];
    // However short it is, one link is cut.
    let mut cut_first = true;
    let mut now = Duration::ZERO;
    loop {
        now += Duration::from_millis(rng.random_range(PAUSE));
        if now >= lasting {
            break;
        }
        let node = rng.random_range(0..nodes);
        let length = Duration::from_millis(rng.random_range(CUT));
        let trouble = match rng.random_range(0..10u8) {
            _ if std::mem::take(&mut cut_first) => Trouble::Cut(node),
            0..=4 => Trouble::KillNode(node),
            5 | 6 => Trouble::KillAggregator,
            7 | 8 => Trouble::KillDatabase,
            _ => Trouble::Cut(node),
        };
        let full = fill.saturating_sub(UNWRITTEN)..free + UNWRITTEN;
        match trouble {
            Trouble::KillNode(SMALL_DISK) if full.contains(&now) => continue,
            Trouble::Cut(node) => {
                let Some(mended) = mended.get_mut(node).filter(|mended| **mended <= now) else {
                    continue;
                };
                *mended = (now + length).min(lasting);
                plan.push((*mended, Trouble::Mend(node)));
            }
            _ => {}
        }
        plan.push((now, trouble));
    }
    plan.sort_by_key(|(when, _)| *when);
    plan
}

/// A kill waits until a program is up again, so what is planned for earlier may come later by
/// this much.
const UNWRITTEN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const LASTING: Duration = Duration::from_secs(600);

    #[test]
    fn a_seed_is_a_plan_and_everything_happens() {
        let made = plan(1, LASTING, 3);
        assert_eq!(made, plan(1, LASTING, 3));
        assert_ne!(made, plan(2, LASTING, 3));
        assert!(made.is_sorted_by_key(|(when, _)| *when));
        assert!(made.iter().all(|(when, _)| *when <= LASTING));
        let count = |wanted| made.iter().filter(|(_, trouble)| *trouble == wanted).count();
        assert_eq!((count(Trouble::Fill), count(Trouble::Free)), (1, 1));
        assert!(count(Trouble::KillAggregator) > 5 && count(Trouble::KillDatabase) > 5);
        for node in 0..3 {
            assert!(count(Trouble::KillNode(node)) > 5, "node {node}");
            assert!(count(Trouble::Cut(node)) > 0, "node {node}");
            assert_eq!(count(Trouble::Cut(node)), count(Trouble::Mend(node)));
        }
    }

    #[test]
    fn whoever_waits_for_a_full_disk_is_left_alone() {
        for seed in 0..200 {
            let made = plan(seed, Duration::from_secs(60), 3);
            let at = |wanted| made.iter().find(|(_, trouble)| *trouble == wanted).unwrap().0;
            let full = at(Trouble::Fill)..=at(Trouble::Free);
            let killed = |(when, trouble): &(Duration, Trouble)| {
                *trouble == Trouble::KillNode(SMALL_DISK) && full.contains(when)
            };
            assert!(!made.iter().any(killed), "seed {seed}");
        }
    }
}
