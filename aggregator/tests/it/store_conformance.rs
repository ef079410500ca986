//! What every store does, written once against the trait and run on each.

use aggregator::store::model::{Fault, ModelStore};
use aggregator::store::postgres::{PostgresAddress, PostgresStore};
use aggregator::store::row::{
    ChangeSet, EndedEntry, EntryNo, EpochRow, FlowRow, Identity, LastIds, Loaded, NetnsNo, NodeNo,
    NodeRow, PathNo, WriterToken,
};
use aggregator::store::sqlite::{SqliteConfig, SqliteStore};
use aggregator::store::{CommitError, Progress, Store};
use flow::{Birth, Counters, Epoch, NodeName, Seq, StoreId, UnixNanos};

use crate::rows::{
    EPOCH, NODE, TOKEN, advance, at, counters, digest, first_set, flow_row, frame, gap_set, name,
    next_set, observer,
};

/// A kind of store under test: a new one, and the same one opened again after its process died.
trait Subject {
    type Store: Store;
    async fn store(&self) -> Self::Store;
    async fn reopened(&self, dead: Self::Store) -> Self::Store;
}

struct Model;

impl Subject for Model {
    type Store = ModelStore;

    async fn store(&self) -> ModelStore {
        ModelStore::new(StoreId([5; 16]))
    }

    async fn reopened(&self, dead: ModelStore) -> ModelStore {
        dead
    }
}

struct Sqlite(tempfile::TempDir);

impl Sqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Subject for Sqlite {
    type Store = SqliteStore;

    async fn store(&self) -> SqliteStore {
        SqliteStore::open(&SqliteConfig::new(self.0.path().join("flows.db"))).await.unwrap()
    }

    async fn reopened(&self, dead: SqliteStore) -> SqliteStore {
        // A process that died said goodbye to nobody: only the lock goes with it.
        drop(dead);
        self.store().await
    }
}

struct Postgres(testdb::Server);

impl Postgres {
    fn new() -> Self {
        Self(testdb::Server::start().unwrap())
    }
}

impl Subject for Postgres {
    type Store = PostgresStore;

    async fn store(&self) -> PostgresStore {
        let address = PostgresAddress::parse(&self.0.url()).unwrap();
        PostgresStore::open(&address).await.unwrap()
    }

    async fn reopened(&self, dead: PostgresStore) -> PostgresStore {
        drop(dead);
        self.store().await
    }
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod on_model {
            $(#[tokio::test] async fn $name() { super::$name(&super::Model).await })*
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(&super::Sqlite::new()).await })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(&super::Postgres::new()).await })*
        }
    };
}

conformance!(
    begins_empty,
    keeps_what_it_commits,
    commits_a_set_once,
    refuses_gaps_in_numbers,
    an_epoch_begins_at_one,
    stops_the_writer_that_was_replaced,
    names_the_frame_whose_data_it_refuses,
    a_refused_set_leaves_nothing,
    finds_entries_by_identity,
    sums_rows_by_entry,
    keeps_many_rows,
    loads_open_and_recently_ended_entries,
    closes_and_reopens_entries_without_frames,
    knows_the_open_ones_of_very_many_entries,
    knows_when_each_node_was_heard,
    lists_gaps,
    moves_several_epochs_together_or_not_at_all,
);

async fn opened<S: Subject>(subject: &S) -> S::Store {
    let store = subject.store().await;
    store.take_writer(TOKEN, at(0)).await.unwrap();
    store
}

async fn begins_empty<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    assert_eq!(store.load(UnixNanos::default()).await.unwrap(), Loaded::default());
    assert_eq!(store.progress(&name(), EPOCH).await.unwrap(), None);
    let meta = store.meta().await.unwrap();
    assert_ne!(meta.store, StoreId::default());
    assert_eq!(meta.schema, aggregator::store::SCHEMA_VERSION);
    let store = subject.reopened(store).await;
    assert_eq!(store.meta().await.unwrap(), meta, "a store has one name for its life");
}

async fn keeps_what_it_commits<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=8)).await.unwrap();
    let store = subject.reopened(store).await;
    let loaded = store.load(UnixNanos::default()).await.unwrap();
    let set = first_set(1..=8);
    assert_eq!(loaded.nodes, set.new_nodes);
    assert_eq!(loaded.netns, set.netns);
    assert_eq!(loaded.observers, set.observers);
    assert_eq!(loaded.epochs, vec![set.advances[0].row]);
    assert_eq!(loaded.forgotten, None);
    let ids = LastIds { node: NODE, netns: NetnsNo(1), entry: EntryNo(8), path: PathNo(1_008) };
    assert_eq!(loaded.ids, ids);
    let progress = Progress { committed: Seq(1), digest: digest(1) };
    assert_eq!(store.progress(&name(), EPOCH).await.unwrap(), Some(progress));
    assert_eq!(store.progress(&name(), Epoch([8; 16])).await.unwrap(), None);
    let other = NodeName::new("gw-2").unwrap();
    assert_eq!(store.progress(&other, EPOCH).await.unwrap(), None);
}

async fn commits_a_set_once<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=2)).await.unwrap();
    store.commit(TOKEN, &next_set(2, &[1, 2], counters(3))).await.unwrap();
    let again = store.commit(TOKEN, &next_set(2, &[1, 2], counters(3))).await;
    let committed = Some(Progress { committed: Seq(2), digest: digest(2) });
    let conflict = CommitError::Conflict { node: NODE, epoch: EPOCH, first: Seq(2), committed };
    assert_eq!(again, Err(conflict));
    let sums = store.counted(&[EntryNo(1), EntryNo(2)], at(0)).await.unwrap();
    assert_eq!(sums, vec![(EntryNo(1), thirteen()), (EntryNo(2), thirteen())]);
    store.commit(TOKEN, &next_set(3, &[1], counters(3))).await.unwrap();
}

fn thirteen() -> Counters {
    counters(10).plus(counters(3))
}

async fn refuses_gaps_in_numbers<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=2)).await.unwrap();
    let early = store.commit(TOKEN, &next_set(3, &[1], counters(1))).await;
    assert!(matches!(early, Err(CommitError::Conflict { first: Seq(3), .. })), "{early:?}");
    assert_eq!(store.progress(&name(), EPOCH).await.unwrap().unwrap().committed, Seq(1));
}

async fn an_epoch_begins_at_one<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    let mut set = first_set(1..=1);
    set.advances = vec![advance(2, 2)];
    let early = store.commit(TOKEN, &set).await;
    assert!(matches!(early, Err(CommitError::Conflict { committed: None, .. })), "{early:?}");
    assert_eq!(store.load(UnixNanos::default()).await.unwrap(), Loaded::default());
}

async fn stops_the_writer_that_was_replaced<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=1)).await.unwrap();
    let other = WriterToken([2; 16]);
    store.take_writer(other, at(9)).await.unwrap();
    let set = next_set(2, &[1], counters(1));
    assert_eq!(store.commit(TOKEN, &set).await, Err(CommitError::OtherWriter));
    store.commit(other, &set).await.unwrap();
}

async fn names_the_frame_whose_data_it_refuses<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    let mut set = first_set(1..=3);
    set.frames.push(frame(2));
    set.advances = vec![advance(1, 2)];
    let mut bad = flow_row(2, 2, counters(1));
    bad.raw = Counters::new(1, u64::MAX, 0, 0);
    bad.frame = 1;
    set.flows.push(bad);
    let refused = store.commit(TOKEN, &set).await;
    let Err(CommitError::Data { frame: Some(named), .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(named, frame(2));

    let mut set = first_set(1..=3);
    set.observers[1].birth = Birth::Start(u64::MAX);
    let refused = store.commit(TOKEN, &set).await;
    assert!(matches!(refused, Err(CommitError::Data { frame: Some(_), .. })), "{refused:?}");
    store.commit(TOKEN, &first_set(1..=3)).await.unwrap();
}

async fn a_refused_set_leaves_nothing<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=1)).await.unwrap();
    // An entry that exists: found out only after other rows were written.
    let mut set = next_set(2, &[1], counters(5));
    set.observers = vec![observer(4), observer(1)];
    let refused = store.commit(TOKEN, &set).await;
    assert!(matches!(refused, Err(CommitError::Data { .. })), "{refused:?}");
    let loaded = store.load(UnixNanos::default()).await.unwrap();
    assert_eq!(loaded.observers, vec![observer(1)]);
    assert_eq!(loaded.epochs[0].committed, Seq(1));
    let sums = store.counted(&[EntryNo(1)], at(0)).await.unwrap();
    assert_eq!(sums, vec![(EntryNo(1), counters(10))]);
    store.commit(TOKEN, &next_set(2, &[1], counters(5))).await.unwrap();
}

async fn finds_entries_by_identity<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=600)).await.unwrap();
    let mut wanted: Vec<Identity> = (1..=600).map(|entry| observer(entry).identity()).collect();
    let known = wanted[4];
    wanted.push(Identity { netns: NetnsNo(2), ..known });
    wanted.push(Identity { birth: Birth::Start(1), ..known });
    wanted.push(Identity { birth: Birth::Start(u64::MAX), ..known });
    wanted.push(Identity { orig: known.orig.inverse(), ..known });
    wanted.push(Identity { zone: flow::entry::Zone(4), ..known });
    let mut found = store.find(&wanted).await.unwrap();
    found.sort_by_key(|row| row.entry);
    assert_eq!(found, (1..=600).map(observer).collect::<Vec<_>>());
    assert_eq!(store.find(&[]).await.unwrap(), Vec::new());
}

async fn sums_rows_by_entry<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=3)).await.unwrap();
    // Suppressed by merging, reported all the same: raw counts.
    let mut set = next_set(2, &[], counters(0));
    let row = flow_row(1, 2, counters(4));
    set.flows.push(FlowRow { counted: Counters::ZERO, ..row });
    // An impossible time: kept apart, counted, whatever time is asked from.
    set.flows.push(FlowRow { stray: Some(at(30)), time: UnixNanos(5_000), ..row });
    store.commit(TOKEN, &set).await.unwrap();
    let sum = counters(10).plus(counters(4)).plus(counters(4));
    let asked = [EntryNo(1), EntryNo(3), EntryNo(77)];
    let mut sums = store.counted(&asked, at(0)).await.unwrap();
    sums.sort_unstable_by_key(|(entry, _)| *entry);
    assert_eq!(sums, vec![(EntryNo(1), sum), (EntryNo(3), counters(10))]);
    let late = store.counted(&[EntryNo(1)], at(11)).await.unwrap();
    assert_eq!(late, vec![(EntryNo(1), counters(4))]);
    assert_eq!(store.counted(&[], at(0)).await.unwrap(), vec![]);
}

async fn keeps_many_rows<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    let count = 1_567;
    store.commit(TOKEN, &first_set(1..=count)).await.unwrap();
    let entries: Vec<EntryNo> = (1..=count).map(EntryNo).collect();
    let sums = store.counted(&entries, at(0)).await.unwrap();
    assert_eq!(sums, entries.iter().map(|entry| (*entry, counters(10))).collect::<Vec<_>>());
}

async fn loads_open_and_recently_ended_entries<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    let mut set = first_set(1..=4);
    set.observers[0].ended = Some(at(100));
    store.commit(TOKEN, &set).await.unwrap();
    store.commit(TOKEN, &gap_set(2, 2, at(200))).await.unwrap();
    let entries = |loaded: &Loaded| loaded.observers.iter().map(|o| o.entry.0).collect::<Vec<_>>();
    let all = store.load(at(100)).await.unwrap();
    assert_eq!((entries(&all), all.forgotten), (vec![1, 2, 3, 4], None));
    assert_eq!(all.epochs[0].last_gap, Some(at(200)));
    assert_eq!(all.epochs[0].committed, Seq(3));
    let some = store.load(at(101)).await.unwrap();
    assert_eq!((entries(&some), some.forgotten), (vec![2, 3, 4], Some(at(101))));
    assert_eq!(some.observers[0].ended, Some(at(200)));
    let open = store.load(at(201)).await.unwrap();
    assert_eq!((entries(&open), open.forgotten), (vec![3, 4], Some(at(201))));
    assert_eq!(open.ids.entry, EntryNo(4), "numbers go on whatever is loaded");
}

async fn closes_and_reopens_entries_without_frames<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=3)).await.unwrap();
    let ended = |entry, at| EndedEntry { entry: EntryNo(entry), at };
    let close = ChangeSet {
        ended: vec![ended(1, at(100)), ended(2, at(100)), ended(3, at(200))],
        ..ChangeSet::default()
    };
    store.commit(TOKEN, &close).await.unwrap();
    store.commit(TOKEN, &close).await.unwrap();
    let reopened = vec![EntryNo(1), EntryNo(3)];
    store.commit(TOKEN, &ChangeSet { reopened, ..ChangeSet::default() }).await.unwrap();
    let store = subject.reopened(store).await;
    let loaded = store.load(at(0)).await.unwrap();
    let ends: Vec<_> = loaded.observers.iter().map(|row| row.ended).collect();
    assert_eq!(ends, [None, Some(at(100)), None]);
    store.take_writer(WriterToken([9; 16]), at(1)).await.unwrap();
    assert_eq!(store.commit(TOKEN, &close).await, Err(CommitError::OtherWriter));
}

async fn knows_the_open_ones_of_very_many_entries<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    let ended = |entry| EndedEntry { entry: EntryNo(entry), at: at(100) };
    let close = |entries: &[i64]| ChangeSet {
        ended: entries.iter().copied().map(ended).collect(),
        ..ChangeSet::default()
    };
    let mut first = first_set(1..=6);
    first.observers[0].ended = Some(at(50));
    store.commit(TOKEN, &first).await.unwrap();
    store.commit(TOKEN, &close(&[2])).await.unwrap();
    // So many later that what is open of the first ones is noted; twice.
    for entry in [200_001, 400_001] {
        let later = ChangeSet { observers: vec![observer(entry)], ..ChangeSet::default() };
        store.commit(TOKEN, &later).await.unwrap();
    }
    let reopened = vec![EntryNo(1), EntryNo(3)];
    store.commit(TOKEN, &close(&[3, 4, 200_001])).await.unwrap();
    store.commit(TOKEN, &ChangeSet { reopened, ..ChangeSet::default() }).await.unwrap();
    let store = subject.reopened(store).await;
    let loaded = |all: Loaded| {
        let ends = all.observers.into_iter().map(|row| (row.entry.0, row.ended));
        ends.collect::<Vec<_>>()
    };
    let open = [(1, None), (3, None), (5, None), (6, None), (400_001, None)];
    assert_eq!(loaded(store.load(at(101)).await.unwrap()), open);
    let mut all = open.to_vec();
    all.extend([2, 4, 200_001].map(|entry| (entry, Some(at(100)))));
    all.sort_unstable();
    assert_eq!(loaded(store.load(at(100)).await.unwrap()), all);
}

async fn knows_when_each_node_was_heard<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    let first = first_set(1..=2);
    store.commit(TOKEN, &first).await.unwrap();
    let heard = |loaded: Loaded| loaded.heard;
    assert_eq!(heard(store.load(at(0)).await.unwrap()), [(NODE, at(11))]);
    // Another epoch's frame, and a gap, of which no entry can have grown.
    let mut set = next_set(1, &[1], counters(1));
    set.advances[0].row.epoch = Epoch([8; 16]);
    set.batches = first.batches.clone();
    set.batches[0].name.epoch = Epoch([8; 16]);
    set.batches[0].received = at(77);
    store.commit(TOKEN, &set).await.unwrap();
    store.commit(TOKEN, &gap_set(2, 2, at(200))).await.unwrap();
    assert_eq!(heard(store.load(at(0)).await.unwrap()), [(NODE, at(77))]);
}

async fn lists_gaps<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=4)).await.unwrap();
    store.commit(TOKEN, &gap_set(2, 1, at(300))).await.unwrap();
    store.commit(TOKEN, &gap_set(4, 2, at(200))).await.unwrap();
    let gaps = store.gaps(at(0), 10).await.unwrap();
    assert_eq!(gaps, [gap_set(4, 2, at(200)).gaps, gap_set(2, 1, at(300)).gaps].concat());
    assert_eq!(store.gaps(at(0), 1).await.unwrap(), gap_set(4, 2, at(200)).gaps);
    assert_eq!(store.gaps(at(201), 10).await.unwrap(), gap_set(2, 1, at(300)).gaps);
    assert_eq!(store.gaps(at(301), 10).await.unwrap(), Vec::new());
}

async fn moves_several_epochs_together_or_not_at_all<S: Subject>(subject: &S) {
    let store = opened(subject).await;
    store.commit(TOKEN, &first_set(1..=2)).await.unwrap();
    let other = EpochRow { epoch: Epoch([8; 16]), ..advance(1, 1).row };
    let node = NodeRow { node: NODE, name: name(), epoch: other.epoch, epoch_since: at(50) };
    let mut set = next_set(2, &[1], counters(1));
    set.switched = vec![node.clone()];
    set.advances.push(aggregator::store::row::EpochAdvance { first: Seq(1), row: other });
    let mut early = set.clone();
    early.advances[1].first = Seq(2);
    let refused = store.commit(TOKEN, &early).await;
    let Err(CommitError::Conflict { node: NodeNo(1), epoch, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(epoch, other.epoch);
    assert_eq!(store.progress(&name(), EPOCH).await.unwrap().unwrap().committed, Seq(1));
    store.commit(TOKEN, &set).await.unwrap();
    let loaded = store.load(UnixNanos::default()).await.unwrap();
    assert_eq!(loaded.nodes, vec![node]);
    assert_eq!(loaded.epochs, vec![advance(2, 2).row, other]);
}

#[tokio::test]
async fn the_model_fails_as_databases_do() {
    let store = opened(&Model).await;
    store.inject([Fault::Unavailable, Fault::LostCommit, Fault::KeptCommit]);
    let set = first_set(1..=2);
    let one = store.commit(TOKEN, &set).await;
    assert!(matches!(one, Err(CommitError::Unavailable(_))));
    assert!(matches!(store.commit(TOKEN, &set).await, Err(CommitError::Unknown(_))));
    assert_eq!(store.progress(&name(), EPOCH).await.unwrap(), None);
    assert!(matches!(store.commit(TOKEN, &set).await, Err(CommitError::Unknown(_))));
    assert_eq!(store.progress(&name(), EPOCH).await.unwrap().unwrap().committed, Seq(1));
    store.leave_unanswered(1);
    assert!(store.progress(&name(), EPOCH).await.is_err());
    assert!(store.progress(&name(), EPOCH).await.is_ok());
}
