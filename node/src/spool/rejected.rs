//! Copies of frames that the aggregator rejected, for a person to look at. Bounded: the oldest
//! go first.

use std::collections::VecDeque;

use wire::frame::Frame;

use super::disk::Disk;
use super::name::Name;

#[derive(Debug, Default)]
pub(super) struct Rejected {
    /// Oldest first, as far as their numbers say.
    files: VecDeque<(Name, u64)>,
}

impl Rejected {
    /// The copies among `files`.
    pub(super) fn load(files: &[(Name, u64)]) -> Self {
        let copies = files.iter().filter(|(name, _)| matches!(name, Name::Rejected(..)));
        Self { files: copies.copied().collect() }
    }

    /// Keeps a copy within `limit` bytes in all; false where there is no room for it.
    pub(super) fn keep<D: Disk>(
        &mut self,
        disk: &mut D,
        name: Name,
        frame: &Frame,
        limit: u64,
    ) -> bool {
        let len = frame.bytes.len() as u64;
        if len > limit {
            return false;
        }
        while self.files.iter().map(|(_, len)| len).sum::<u64>() + len > limit {
            let Some((oldest, _)) = self.files.front() else { break };
            if disk.remove(&oldest.to_string()).is_err() {
                return false;
            }
            self.files.pop_front();
        }
        let kept = disk.write_atomic(&name.to_string(), &frame.bytes).is_ok();
        if kept {
            self.files.push_back((name, len));
        }
        kept
    }
}
