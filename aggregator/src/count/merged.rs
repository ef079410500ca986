//! What a growth counts for where several observers may see one flow, and what is taken back of
//! growth that was counted before anybody knew.

use flow::count::Growth;
use flow::merge::TakenBack;
use flow::{Counters, RecordFlags, Seq, TcpState, UnixNanos};
use hashbrown::HashMap;

use super::draft::{Context, Drafting};
use super::memory::Entry;
use super::merging::entry_ref;
use crate::store::row::{AliasRow, EntryNo, FlowRow, NetnsNo, NodeNo, PathNo};

/// Growth to be taken back, and on whose word.
pub(super) struct Back {
    taken: TakenBack,
    /// Index of the frame that tells it.
    frame: u32,
    mark: UnixNanos,
}

impl Drafting<'_> {
    /// The entries of a group that must be told of before this one can be counted.
    pub(super) fn untold(&self, entry: EntryNo) -> Option<impl Iterator<Item = EntryNo>> {
        self.known.memory.merging.as_ref()?.untold(entry)
    }

    /// Whether an entry has left its group.
    pub(super) fn is_apart(&self, entry: EntryNo) -> bool {
        self.known.memory.merging.as_ref().is_some_and(|merging| !merging.has(entry))
    }

    /// An entry's path.
    pub(super) fn path(&self, entry: &Entry) -> PathNo {
        let merging = self.known.memory.merging.as_ref();
        merging.and_then(|merging| merging.path(entry.entry)).unwrap_or(entry.path)
    }

    /// What a growth counts for; the entry has its path then.
    pub(super) fn merged(
        &mut self,
        context: &Context<'_>,
        entry: &mut Entry,
        growth: &Growth,
    ) -> Counters {
        let Some(merging) = &self.known.memory.merging else { return growth.growth };
        let before = self.known.pending.map(|change| &change.merge);
        let draft = &mut self.change.merge;
        let counted =
            merging.merger.count(draft, before, entry_ref(entry.entry), growth.growth, growth.span);
        entry.path = counted.label.map_or(entry.path, |label| PathNo(label.0));
        self.stats.merged(growth, &counted);
        let (frame, mark) = (context.index, context.mark);
        self.back.extend(counted.back.into_iter().map(|taken| Back { taken, frame, mark }));
        counted.counted
    }

    /// Writes what is taken back, and labels that became others.
    pub(super) fn finish_merge(&mut self) {
        let Some(merging) = &self.known.memory.merging else { return };
        let last = PathNo(merging.merger.last_label().0);
        self.change.ids.path = self.change.ids.path.max(last);
        let aliases = self.change.merge.take_aliases();
        let alias = |alias: flow::merge::Alias| AliasRow {
            path: PathNo(alias.from.0),
            into: PathNo(alias.to.0),
        };
        self.set.aliases.extend(aliases.into_iter().map(alias));
        self.stats.aliases += self.set.aliases.len() as u64;
        self.take_back();
    }

    /// One row each. It is rare, so entries are found by looking through all of them.
    fn take_back(&mut self) {
        let back = std::mem::take(&mut self.back);
        if back.is_empty() {
            return;
        }
        let mut of = HashMap::<EntryNo, Vec<Back>, foldhash::fast::RandomState>::default();
        for back in back {
            of.entry(EntryNo(back.taken.entry.0)).or_default().push(back);
        }
        let memory = self.known.memory;
        let pending = self.known.pending.iter().flat_map(|change| &change.netns);
        let netns = memory.netns.iter().chain(pending).chain(&self.change.netns);
        let nodes: HashMap<NetnsNo, NodeNo, foldhash::fast::RandomState> =
            netns.map(|((node, _), netns)| (*netns, *node)).collect();
        for (_, identity, entry) in memory.entries.iter() {
            let Some(back) = of.remove(&entry.entry) else { continue };
            let node = nodes.get(&identity.netns);
            for Back { taken, frame, mark } in back {
                self.set.flows.push(FlowRow {
                    time: taken.span.map_or(mark, |span| span.until),
                    since: taken.span.and_then(|span| span.since),
                    slack: taken.span.map(|span| span.slack),
                    entry_start: entry.count.start,
                    path: self.path(entry),
                    entry: entry.entry,
                    counted: taken.counters,
                    raw: Counters::ZERO,
                    seq: Seq::NONE,
                    mark: 0,
                    node: node.copied().unwrap_or_default(),
                    netns: identity.netns,
                    zone: identity.zone,
                    inside: identity.orig,
                    outside: identity.orig,
                    flags: u32::from(RecordFlags::RETRACTION.0) << 16,
                    tcp: TcpState::default(),
                    stray: None,
                    frame,
                });
            }
        }
    }
}
