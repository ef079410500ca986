//! The task between sessions and store, on real frames.

use std::time::Duration;

use aggregator::count::{Body, CounterConfig, Frame};
use aggregator::pipeline::commit::{Committer, Fatal};
use aggregator::pipeline::task::{self, PipelineConfig, PipelineFailure, StoreState};
use aggregator::pipeline::{Answer, Arrived, Handle, PipelineError, PipelineMetrics};
use aggregator::store::Store;
use aggregator::store::model::{Fault, ModelStore};
use aggregator::store::row::WriterToken;
use flow::{Counters, Epoch, Seq, StoreId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use wire::batch::{Builder, Compression};

use crate::frames::{batch, counters, gap, node, record, unix};

const EPOCH: Epoch = Epoch([1; 16]);
const STORE: StoreId = StoreId([5; 16]);

/// A pipeline on a model store, and a session of one node.
struct World {
    store: ModelStore,
    pipeline: Handle,
    running: JoinHandle<Result<(), PipelineFailure>>,
    state: watch::Receiver<StoreState>,
    to: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
}

impl World {
    async fn new() -> Self {
        Self::with(ModelStore::new(STORE), PipelineConfig::default()).await
    }

    async fn with(store: ModelStore, config: PipelineConfig) -> Self {
        let counter = CounterConfig::default();
        let token = WriterToken([1; 16]);
        let committer = Committer::start(store.clone(), token, counter, unix(0)).await.unwrap();
        let (pipeline, queue) = Handle::channel();
        let (show, state) = watch::channel(StoreState::Up);
        let metrics = PipelineMetrics::default();
        let running = tokio::spawn(task::run(committer, queue, config, metrics, show));
        let (to, answers) = mpsc::channel(16);
        Self { store, pipeline, running, state, to, answers }
    }

    async fn send(&self, frame: wire::frame::Frame, first: u64, last: u64) {
        let arrived = Arrived {
            node: node(),
            epoch: EPOCH,
            first: Seq(first),
            last: Seq(last),
            digest: frame.header.digest,
            frame: frame.bytes,
            clock: None,
            answer: self.to.clone(),
        };
        self.pipeline.submit(arrived).await.unwrap();
    }

    async fn send_flow(&self, seq: u64, base: u64, cum: u64) {
        self.send(flow_frame(seq, base, cum), seq, seq).await;
    }

    async fn answer(&mut self) -> Answer {
        tokio::time::timeout(Duration::from_secs(60), self.answers.recv()).await.unwrap().unwrap()
    }

    /// Reads answers until everything up to `seq` is acknowledged.
    async fn acknowledged(&mut self, seq: u64) {
        loop {
            match self.answer().await {
                Answer::Ack(acknowledged, _) if acknowledged >= Seq(seq) => return,
                Answer::Ack(..) => {}
                other => panic!("{other:?} before {seq} is acknowledged"),
            }
        }
    }

    fn total(&self) -> Counters {
        self.store.with_contents(|contents| contents.flows.iter().map(|row| row.counted).sum())
    }

    /// Closes the queue and waits for the end.
    async fn ended(self) -> Result<(), PipelineFailure> {
        drop(self.pipeline);
        tokio::time::timeout(Duration::from_secs(60), self.running).await.unwrap().unwrap()
    }
}

/// Frame `seq` with one record of a flow that grew from `base` to `cum`.
fn flow_frame(seq: u64, base: u64, cum: u64) -> wire::frame::Frame {
    let end = 100 + 10 * seq;
    encode(&batch(EPOCH, seq, end, vec![record(1, 105, end, base, cum)]))
}

fn encode(frame: &Frame) -> wire::frame::Frame {
    match &frame.body {
        Body::Batch { interval, records } => {
            let mut builder = Builder::new(Compression::Zstd);
            for record in records {
                builder.push(record).unwrap();
            }
            builder.finish(frame.first, interval).unwrap()
        }
        Body::Gap(gap) => gap.encode().unwrap(),
    }
}

#[tokio::test]
async fn frames_are_committed_and_acknowledged() {
    let mut world = World::new().await;
    let opened = world.pipeline.open(node(), EPOCH).await.unwrap();
    assert_eq!((opened.store, opened.committed), (STORE, Seq::NONE));
    world.send_flow(1, 0, 10).await;
    world.send_flow(2, 10, 12).await;
    world.acknowledged(2).await;
    assert_eq!(world.total(), counters(12));
    assert_eq!(world.pipeline.open(node(), EPOCH).await.unwrap().committed, Seq(2));
    // A copy of a committed frame is acknowledged at once.
    world.send_flow(1, 0, 10).await;
    assert!(matches!(world.answer().await, Answer::Ack(Seq(2), Some(_))));
    assert_eq!(world.total(), counters(12));
    world.ended().await.unwrap();
}

#[tokio::test]
async fn what_was_taken_is_committed_before_the_end() {
    let slow = PipelineConfig { wait: Duration::from_secs(3_600), ..PipelineConfig::default() };
    let world = World::with(ModelStore::new(STORE), slow).await;
    world.send_flow(1, 0, 10).await;
    let store = world.store.clone();
    world.ended().await.unwrap();
    assert_eq!(store.contents().flows.len(), 1);
}

#[tokio::test]
async fn a_pipeline_goes_on_where_the_last_one_ended() {
    let mut world = World::new().await;
    world.send_flow(1, 0, 10).await;
    world.acknowledged(1).await;
    let store = world.store.clone();
    world.ended().await.unwrap();
    let mut world = World::with(store, PipelineConfig::default()).await;
    assert_eq!(world.pipeline.open(node(), EPOCH).await.unwrap().committed, Seq(1));
    world.send_flow(1, 0, 10).await;
    assert!(matches!(world.answer().await, Answer::Ack(Seq(1), Some(_))));
    world.send_flow(2, 10, 15).await;
    world.acknowledged(2).await;
    assert_eq!(world.total(), counters(15));
}

#[tokio::test]
async fn frames_ahead_of_their_turn_are_put_off() {
    let mut world = World::new().await;
    world.send_flow(2, 10, 12).await;
    assert!(matches!(world.answer().await, Answer::Later { seq: Seq(2), .. }));
    world.send_flow(1, 0, 10).await;
    world.send_flow(2, 10, 12).await;
    world.acknowledged(2).await;
    assert_eq!(world.total(), counters(12));
}

#[tokio::test]
async fn other_bytes_under_a_number_are_refused() {
    let mut world = World::new().await;
    world.send_flow(1, 0, 10).await;
    world.acknowledged(1).await;
    world.send_flow(1, 0, 11).await;
    let Answer::OtherBytes { seq: Seq(1), reason } = world.answer().await else { panic!() };
    assert!(reason.contains("cloned"), "{reason}");
    // What follows builds on the frame that was not taken.
    world.send_flow(2, 11, 12).await;
    assert!(matches!(world.answer().await, Answer::OtherBytes { seq: Seq(2), .. }));
    assert_eq!(world.total(), counters(10));
}

#[tokio::test]
async fn what_cannot_be_decoded_is_passed_by_a_gap() {
    let mut world = World::new().await;
    world.send_flow(1, 0, 10).await;
    world.acknowledged(1).await;
    let good = flow_frame(2, 10, 12);
    let mut body = good.body().to_vec();
    let middle = body.len() / 2;
    body.truncate(middle);
    let bad = wire::frame::Frame::new(wire::frame::Kind::BATCH, &body).unwrap();
    world.send(bad, 2, 2).await;
    let Answer::Rejected { seq: Seq(2), reason } = world.answer().await else { panic!() };
    assert!(reason.starts_with("its batch cannot be decoded: "), "{reason}");
    // A frame that says another number than it came under.
    world.send(flow_frame(3, 10, 12), 2, 2).await;
    assert!(matches!(world.answer().await, Answer::Rejected { seq: Seq(2), .. }));
    let over_both = encode(&gap(EPOCH, 2, 3, 140));
    world.send(over_both, 2, 3).await;
    world.send_flow(4, 12, 20).await;
    world.acknowledged(4).await;
    assert_eq!(world.total(), counters(20));
    assert_eq!(world.store.contents().gaps.len(), 1);
}

#[tokio::test]
async fn a_store_that_is_away_costs_time_and_nothing_else() {
    let mut world = World::new().await;
    world.store.inject([Fault::Unavailable, Fault::LostCommit, Fault::KeptCommit]);
    world.send_flow(1, 0, 10).await;
    world.state.wait_for(|state| *state != StoreState::Up).await.unwrap();
    let refused = world.pipeline.open(node(), EPOCH).await;
    assert!(matches!(refused, Err(PipelineError::StoreAway(_))), "{refused:?}");
    world.send_flow(2, 10, 12).await;
    assert!(matches!(world.answer().await, Answer::Later { seq: Seq(2), .. }));
    world.acknowledged(1).await;
    world.state.wait_for(|state| *state == StoreState::Up).await.unwrap();
    world.send_flow(2, 10, 12).await;
    world.acknowledged(2).await;
    assert_eq!(world.total(), counters(12));
    assert_eq!(world.store.contents().commits, 2);
}

#[tokio::test]
async fn a_replaced_process_ends() {
    let world = World::new().await;
    world.store.take_writer(WriterToken([2; 16]), unix(1)).await.unwrap();
    world.send_flow(1, 0, 10).await;
    let ended = tokio::time::timeout(Duration::from_secs(60), world.running).await.unwrap();
    let failure = ended.unwrap().unwrap_err();
    assert!(matches!(failure, PipelineFailure::Fatal(Fatal::OtherWriter)), "{failure:?}");
    assert_eq!(world.store.contents().commits, 0);
}

#[tokio::test]
async fn sets_are_bounded_and_everything_goes_in() {
    let small = PipelineConfig { rows: 3, decode_budget: 1, ..PipelineConfig::default() };
    let mut world = World::with(ModelStore::new(STORE), small).await;
    for seq in 1..=40 {
        world.send_flow(seq, (seq - 1) * 10, seq * 10).await;
    }
    world.acknowledged(40).await;
    assert_eq!(world.total(), counters(400));
    let commits = world.store.contents().commits;
    assert!(commits >= 13, "{commits} commits for 40 frames of one row, 3 at most in each");
}
