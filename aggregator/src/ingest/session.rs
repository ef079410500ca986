//! One welcomed session: frames in, answers out.
//!
//! The main loop never waits for anything but its `select!`: the pipeline is fed by a task of its
//! own, the control stream is written by another, and both are reached through bounded queues. So
//! answers are always taken, and nothing a node does can stop the pipeline.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use flow::clock::SessionClock;
use flow::{Epoch, Seq, UnixNanos};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use wire::control::{Ack, Message, Nack, Ping, Pong, Received, Verdict};
use wire::frame::{Digest, Frame};

use super::clock::{ClockWatch, Told};
use super::close::{CloseReason, End};
use super::metrics::{FrameFate, IngestMetrics};
use super::reorder::{Numbers, Placed, Reorder};
use super::sessions::Seat;
use super::stream::{self, Event, Memory, Reserved};
use super::{Ingest, IngestConfig};
use crate::pipeline::{Answer, Arrived};
use crate::tls::Peer;

/// Answers of the pipeline that may wait for the session; it always takes them at once.
const ANSWERS: usize = 256;
/// Messages that may wait to be written; a node that does not read them is disconnected.
const OUTGOING: usize = 1_024;
/// Frames, and control messages, that may wait for the main loop; beyond it their streams wait.
const EVENTS: usize = 4;
/// How often frames that wait for others, and the certificate's end, are looked at.
const TICK: Duration = Duration::from_secs(1);
/// When the node should send a frame again that was given up here.
const AGAIN_AFTER_MS: u32 = 1_000;
/// How long the last words of a session may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the main loop works with.
pub(super) struct Session {
    pub(super) ingest: Arc<Ingest>,
    pub(super) peer: Peer,
    pub(super) epoch: Epoch,
    /// The digest of the last committed frame, where it is known.
    pub(super) digest: Option<Digest>,
    pub(super) seat: Seat,
    pub(super) connection: Connection,
    pub(super) reorder: Reorder<(Frame, Reserved)>,
    pub(super) clock: ClockWatch,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// A frame on its way to the pipeline, with its memory.
type Submission = (Arrived, Reserved);

/// Queues and tasks of a running session; dropping it ends the tasks.
struct Wires {
    /// Frames; not read while the pipeline is behind.
    frames: mpsc::Receiver<Event>,
    /// Control messages; always read, so that a node whose frames wait still gets its pongs.
    control: mpsc::Receiver<Event>,
    answers: mpsc::Receiver<Answer>,
    answer: mpsc::Sender<Answer>,
    submissions: mpsc::Sender<Submission>,
    outgoing: mpsc::Sender<Message>,
    writer: tokio::task::JoinHandle<()>,
    tasks: JoinSet<()>,
}

impl Session {
    /// Runs until one side ends it; the returned end is not yet told to the node.
    pub(super) async fn run(mut self, send: SendStream, recv: RecvStream) -> End {
        let mut wires = self.start(send, recv);
        let end = self.turn(&mut wires).await;
        let Wires { outgoing, writer, mut tasks, .. } = wires;
        // The seat is given up when `self` goes: nothing may reach the pipeline after that.
        tasks.shutdown().await;
        drop(outgoing);
        if end.reason == CloseReason::Shutdown {
            // What was acknowledged should be known, or the node sends it all again.
            let _ = tokio::time::timeout(LAST_WORDS, writer).await;
        }
        end
    }

    fn start(&self, send: SendStream, recv: RecvStream) -> Wires {
        let config = &self.ingest.config;
        let (frame, frames) = mpsc::channel(EVENTS);
        let (message, control) = mpsc::channel(EVENTS);
        let (answer, answers) = mpsc::channel(ANSWERS);
        let (submissions, waiting) = mpsc::channel(1);
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let memory = Memory {
            session: Arc::new(Semaphore::new(config.session_bytes)),
            all: self.ingest.memory.clone(),
            metrics: self.ingest.metrics.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept_data(self.connection.clone(), memory, config.stall, frame));
        tasks.spawn(listen(recv, config.stall, message));
        tasks.spawn(submit(self.ingest.clone(), waiting));
        let writer = tokio::spawn(write(send, messages));
        Wires { frames, control, answers, answer, submissions, outgoing, writer, tasks }
    }

    async fn turn(&mut self, wires: &mut Wires) -> End {
        let connection = self.connection.clone();
        let mut gone = std::pin::pin!(connection.closed());
        let mut issued = self.ingest.issued.changes();
        let mut shutdown = self.shutdown.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_call: Option<Instant> = None;
        if let Err(end) = self.check_certificate() {
            return end;
        }
        loop {
            if last_call.is_some() && self.reorder.in_flight() == 0 {
                return shut_down();
            }
            let listening = last_call.is_none() && !self.reorder.is_backlogged();
            let step = tokio::select! {
                Some(event) = wires.frames.recv(), if listening => self.event(event, wires),
                Some(event) = wires.control.recv() => self.event(event, wires),
                Some(answer) = wires.answers.recv() => self.answer(answer, wires),
                slot = wires.submissions.reserve(),
                    if last_call.is_none() && self.reorder.has_ready() => match slot {
                    Ok(slot) => {
                        if let Some((numbers, frame)) = self.reorder.pop() {
                            slot.send(self.arrived(numbers, frame, &wires.answer));
                        }
                        Ok(())
                    }
                    Err(_closed) => {
                        Err(End::new(CloseReason::Pipeline, "the aggregator's pipeline has stopped"))
                    }
                },
                () = issued.next() => self.check_certificate(),
                _ = tick.tick() => self.tick(last_call, wires),
                _ = shutdown.wait_for(|stop| *stop), if last_call.is_none() => {
                    last_call = Some(Instant::now());
                    Ok(())
                }
                error = &mut gone => Err(End::of(&error)),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn event(&mut self, event: Event, wires: &Wires) -> Result<(), End> {
        self.seat.heard(Instant::now());
        match event {
            Event::Frame { numbers, frame, memory } => self.frame(numbers, frame, memory, wires),
            Event::Control(Message::Ping(ping)) => self.ping(&ping, wires),
            Event::Control(other) => {
                let text = format!("a node never sends a frame of kind {}", other.kind().0);
                Err(End::new(CloseReason::Malformed, text))
            }
            Event::Pressure => {
                while let Some(seq) = self.reorder.give_up_latest() {
                    self.send_again(seq, wires)?;
                }
                Ok(())
            }
            Event::End(end) => Err(end),
        }
    }

    fn frame(
        &mut self,
        numbers: Numbers,
        frame: Frame,
        memory: Reserved,
        wires: &Wires,
    ) -> Result<(), End> {
        let bytes = frame.bytes.len();
        let placed = self
            .reorder
            .place(Instant::now(), numbers, bytes, (frame, memory))
            .map_err(|error| End::malformed(&error))?;
        say(wires, Message::Received(Received { seq: numbers.last, extensions: vec![] }))?;
        let metrics = &self.ingest.metrics;
        match placed {
            Placed::Taken => metrics.count_frame(FrameFate::Taken),
            Placed::Duplicate => metrics.count_frame(FrameFate::Duplicate),
            Placed::Committed => {
                metrics.count_frame(FrameFate::Committed);
                let ack = Ack::of(self.reorder.last_committed(), self.digest);
                acknowledge(ack, metrics, wires)?;
            }
        }
        while let Some(seq) = self.reorder.overflow() {
            self.send_again(seq, wires)?;
        }
        Ok(())
    }

    fn ping(&mut self, ping: &Ping, wires: &Wires) -> Result<(), End> {
        let received = wall_clock();
        let rtt = self.connection.rtt();
        if self.clock.ping(received, ping.sent, ping.offset, rtt) == Told::Misfit {
            self.ingest.metrics.clock_misfits.inc();
        }
        let (sent, answered) = (ping.sent, wall_clock());
        say(wires, Message::Pong(Pong { sent, received, answered, extensions: vec![] }))
    }

    fn answer(&mut self, answer: Answer, wires: &Wires) -> Result<(), End> {
        let metrics = &self.ingest.metrics;
        let nack = match answer {
            Answer::Ack(seq, digest) => {
                self.reorder.committed(seq);
                self.digest = digest;
                return acknowledge(Ack::of(seq, digest), metrics, wires);
            }
            Answer::Later { seq, retry_after_ms } => {
                let verdict = Verdict::RetryAfter(retry_after_ms);
                Nack { seq, verdict, extensions: vec![] }
            }
            // The pipeline has logged it.
            Answer::OtherBytes { seq, reason } => Nack::other_bytes(seq, reason),
            Answer::Rejected { seq, reason } => {
                let (node, epoch) = (&self.peer.node, self.epoch);
                tracing::warn!(%node, %epoch, %seq, reason, "frame rejected");
                Nack { seq, verdict: Verdict::Reject(reason), extensions: vec![] }
            }
        };
        self.reorder.returned(nack.seq);
        metrics.nacks.inc();
        say(wires, Message::Nack(nack))
    }

    fn tick(&mut self, last_call: Option<Instant>, wires: &Wires) -> Result<(), End> {
        let now = Instant::now();
        if last_call.is_some_and(|since| now - since >= self.ingest.config.grace) {
            return Err(shut_down());
        }
        while let Some(seq) = self.reorder.give_up_stale(now) {
            self.send_again(seq, wires)?;
        }
        if self.peer.not_after < jiff::Timestamp::now() {
            let text = "this node's certificate has expired; issue a new one and join again";
            return Err(End::new(CloseReason::Expired, text));
        }
        Ok(())
    }

    fn check_certificate(&self) -> Result<(), End> {
        self.ingest
            .issued
            .check(&self.peer)
            .map_err(|problem| End::new(CloseReason::Revoked, problem.to_string()))
    }

    fn send_again(&self, seq: Seq, wires: &Wires) -> Result<(), End> {
        self.ingest.metrics.count_frame(FrameFate::Early);
        let verdict = Verdict::RetryAfter(AGAIN_AFTER_MS);
        say(wires, Message::Nack(Nack { seq, verdict, extensions: vec![] }))
    }

    fn arrived(
        &self,
        numbers: Numbers,
        (frame, memory): (Frame, Reserved),
        answer: &mpsc::Sender<Answer>,
    ) -> Submission {
        let clock: Option<SessionClock> = self.clock.clock();
        let arrived = Arrived {
            node: self.peer.node.clone(),
            epoch: self.epoch,
            first: numbers.first,
            last: numbers.last,
            digest: frame.header.digest,
            frame: frame.bytes,
            clock,
            answer: answer.clone(),
        };
        (arrived, memory)
    }
}

fn shut_down() -> End {
    End::new(CloseReason::Shutdown, "the aggregator stops; come back")
}

fn acknowledge(ack: Ack, metrics: &IngestMetrics, wires: &Wires) -> Result<(), End> {
    metrics.acks.inc();
    say(wires, Message::Ack(ack))
}

/// Queues a message; a node that lets the queue fill does not read its control stream.
fn say(wires: &Wires, message: Message) -> Result<(), End> {
    use mpsc::error::TrySendError;
    wires.outgoing.try_send(message).map_err(|error| match error {
        TrySendError::Full(_) => {
            let text = "the node does not read its control stream";
            End::new(CloseReason::NotReading, text)
        }
        TrySendError::Closed(_) => End::new(CloseReason::Lost, "the control stream is gone"),
    })
}

/// Takes data streams as they come; QUIC bounds how many are open at once.
async fn accept_data(
    connection: Connection,
    memory: Memory,
    stall: Duration,
    events: mpsc::Sender<Event>,
) {
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    readers.spawn(stream::read_data(stream, memory.clone(), stall, events.clone()));
                }
                Err(error) => {
                    let _ = events.send(Event::End(End::of(&error))).await;
                    return;
                }
            },
            Some(_) = readers.join_next() => {}
        }
    }
}

async fn listen(mut stream: RecvStream, stall: Duration, events: mpsc::Sender<Event>) {
    loop {
        let event = match stream::read_control(&mut stream, stall).await {
            Ok(Some(message)) => Event::Control(message),
            Ok(None) => continue,
            Err(end) => Event::End(end),
        };
        let last = matches!(event, Event::End(_));
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

async fn submit(ingest: Arc<Ingest>, mut waiting: mpsc::Receiver<Submission>) {
    while let Some((frame, memory)) = waiting.recv().await {
        if ingest.pipeline.submit(frame).await.is_err() {
            return;
        }
        // From here on it is the pipeline's.
        drop(memory);
    }
}

/// Writes messages in batches; of several acknowledgements the last says it all.
async fn write(mut stream: SendStream, mut messages: mpsc::Receiver<Message>) {
    const AT_ONCE: usize = 64;
    let mut batch = Vec::with_capacity(AT_ONCE);
    while messages.recv_many(&mut batch, AT_ONCE).await > 0 {
        let last_ack = batch.iter().rposition(|message| matches!(message, Message::Ack(_)));
        let mut bytes = Vec::new();
        for (place, message) in batch.drain(..).enumerate() {
            if matches!(message, Message::Ack(_)) && last_ack != Some(place) {
                continue;
            }
            match message.encode() {
                Ok(frame) => bytes.extend_from_slice(&frame.bytes),
                Err(error) => tracing::error!(%error, "control message not encoded"),
            }
        }
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
    finish(stream).await;
}

/// Ends a stream and waits until the node has it all.
pub(super) async fn finish(mut stream: SendStream) {
    if stream.finish().is_ok() {
        let _ = tokio::time::timeout(LAST_WORDS, stream.stopped()).await;
    }
}

/// This host's wall clock.
pub(super) fn wall_clock() -> UnixNanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixNanos::default().plus(since)
}

impl IngestConfig {
    /// Frames a node may have on their way without `Received`, as told in `Welcome`.
    pub(super) fn window(&self) -> u32 {
        self.max_unreceived
    }
}
