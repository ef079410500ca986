//! Frames off QUIC streams: limits first, then memory, then bytes, then the digest.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flow::Seq;
use quinn::{ReadError, RecvStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use wire::control::Message;
use wire::frame::{Frame, FrameError, HEADER_LEN, Header, Kind};
use wire::gap::Gap;

use super::close::{CloseReason, End};
use super::metrics::{FrameFate, IngestMetrics};
use super::reorder::Numbers;

/// Memory for frames between their header and the pipeline: of one session, and of all.
///
/// A session's own bound keeps one node, or one stolen certificate, from taking it all.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) session: Arc<Semaphore>,
    pub(super) all: Arc<Semaphore>,
    pub(super) metrics: IngestMetrics,
}

/// Memory of one frame; given back when dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    bytes: u32,
    metrics: IngestMetrics,
    _session: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.metrics.buffered_bytes.dec_by(i64::from(self.bytes));
    }
}

/// What a session's streams tell its main loop.
#[derive(Debug)]
pub(super) enum Event {
    /// A data frame has arrived whole.
    Frame {
        /// Its numbers.
        numbers: Numbers,
        /// The frame, digest checked.
        frame: Frame,
        /// Its memory.
        memory: Reserved,
    },
    /// A frame waits for memory: those that miss others should make room.
    Pressure,
    /// A control message.
    Control(Message),
    /// The connection must end.
    End(End),
}

impl Memory {
    /// Reserves memory for a frame; asks for room where there is none.
    async fn reserve(&self, bytes: usize, events: &mpsc::Sender<Event>) -> Option<Reserved> {
        let bytes = u32::try_from(bytes).ok()?;
        let now = |semaphore: &Arc<Semaphore>| semaphore.clone().try_acquire_many_owned(bytes).ok();
        let (session, all) = match now(&self.session) {
            Some(session) => match now(&self.all) {
                Some(all) => (session, all),
                None => (session, self.wait(&self.all, bytes, events).await?),
            },
            None => {
                let session = self.wait(&self.session, bytes, events).await?;
                (session, self.all.clone().acquire_many_owned(bytes).await.ok()?)
            }
        };
        self.metrics.buffered_bytes.inc_by(i64::from(bytes));
        let metrics = self.metrics.clone();
        Some(Reserved { bytes, metrics, _session: session, _all: all })
    }

    async fn wait(
        &self,
        semaphore: &Arc<Semaphore>,
        bytes: u32,
        events: &mpsc::Sender<Event>,
    ) -> Option<OwnedSemaphorePermit> {
        self.metrics.memory_waits.inc();
        events.send(Event::Pressure).await.ok()?;
        semaphore.clone().acquire_many_owned(bytes).await.ok()
    }
}

/// Reads the one frame of a data stream and reports it, or why the connection must end.
pub(super) async fn read_data(
    mut stream: RecvStream,
    memory: Memory,
    stall: Duration,
    events: mpsc::Sender<Event>,
) {
    let event = match data_event(&mut stream, &memory, stall, &events).await {
        Ok(Some(event)) => event,
        Ok(None) => return,
        Err(end) => Event::End(end),
    };
    // A closed channel means that the session is over.
    let _ = events.send(event).await;
}

async fn data_event(
    stream: &mut RecvStream,
    memory: &Memory,
    stall: Duration,
    events: &mpsc::Sender<Event>,
) -> Result<Option<Event>, End> {
    let header = read_header(stream, stall).await?.ok_or_else(|| ended_early(0))?;
    if header.kind.is_control() {
        let text = format!("a data stream carried a control frame (kind {})", header.kind.0);
        return Err(End::new(CloseReason::Malformed, text));
    }
    if !matches!(header.kind, Kind::BATCH | Kind::GAP) {
        // Dropping the stream tells the node that nobody reads the rest.
        memory.metrics.count_frame(FrameFate::Unknown);
        return Ok(None);
    }
    let Some(reserved) = memory.reserve(header.frame_len(), events).await else {
        return Ok(None);
    };
    let frame = read_body(stream, header, stall).await?;
    let mut extra = [0; 1];
    if !matches!(within(stall, stream.read(&mut extra)).await?, Ok(None)) {
        let text = "a data stream carried more than its one frame";
        return Err(End::new(CloseReason::Malformed, text));
    }
    let numbers = numbers(&frame)?;
    memory.metrics.bytes.inc_by(frame.bytes.len() as u64);
    Ok(Some(Event::Frame { numbers, frame, memory: reserved }))
}

/// Reads the next message of a control stream; `None` for a kind that is not known here.
pub(super) async fn read_control(
    stream: &mut RecvStream,
    stall: Duration,
) -> Result<Option<Message>, End> {
    // Between messages there may be any silence: the connection's idle timeout watches it.
    let header = read_header(stream, Duration::MAX)
        .await?
        .ok_or_else(|| End::new(CloseReason::Done, "the node ended its control stream"))?;
    if header.kind.is_data() {
        let text = format!("the control stream carried a data frame (kind {})", header.kind.0);
        return Err(End::new(CloseReason::Malformed, text));
    }
    let frame = read_body(stream, header, stall).await?;
    Message::decode(&frame).map_err(|error| End::malformed(&error))
}

/// Reads a header; `None` at the end of the stream.
async fn read_header(stream: &mut RecvStream, stall: Duration) -> Result<Option<Header>, End> {
    let mut bytes = [0; HEADER_LEN];
    match read_all(stream, &mut bytes, stall).await? {
        0 => return Ok(None),
        HEADER_LEN => {}
        have => return Err(ended_early(have)),
    }
    Header::parse(&bytes).map(Some).map_err(|error| match error {
        FrameError::Version { .. } => End::new(CloseReason::Version, error.to_string()),
        _ => End::malformed(&error),
    })
}

async fn read_body(stream: &mut RecvStream, header: Header, stall: Duration) -> Result<Frame, End> {
    let mut bytes = vec![0; header.frame_len()];
    let (head, body) = bytes.split_at_mut(HEADER_LEN);
    head.copy_from_slice(&header.encode());
    let have = read_all(stream, body, stall).await?;
    if have < body.len() {
        return Err(ended_early(HEADER_LEN + have));
    }
    Frame::parse(Bytes::from(bytes)).map_err(|error| End::malformed(&error))
}

/// Fills `buffer` as far as the stream goes, and says how far; gives up when no byte arrives for
/// `stall`.
async fn read_all(
    stream: &mut RecvStream,
    buffer: &mut [u8],
    stall: Duration,
) -> Result<usize, End> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match within(stall, stream.read(rest)).await? {
            Ok(Some(read)) => filled += read,
            Ok(None) => break,
            Err(ReadError::ConnectionLost(error)) => return Err(End::of(&error)),
            Err(ReadError::Reset(_)) => {
                return Err(End::new(CloseReason::Malformed, "the node gave up a stream"));
            }
            Err(error) => return Err(End::new(CloseReason::Lost, error.to_string())),
        }
    }
    Ok(filled)
}

fn ended_early(have: usize) -> End {
    let text = format!("a stream ended inside a frame, after {have} bytes");
    End::new(CloseReason::Malformed, text)
}

async fn within<F: Future>(stall: Duration, future: F) -> Result<F::Output, End> {
    tokio::time::timeout(stall, future).await.map_err(|_elapsed| {
        let text = format!("nothing arrived on a stream for {} s", stall.as_secs());
        End::new(CloseReason::Stalled, text)
    })
}

/// The numbers that a data frame stands for.
fn numbers(frame: &Frame) -> Result<Numbers, End> {
    let numbers = if frame.kind() == Kind::GAP {
        let gap = Gap::decode(frame).map_err(|error| End::malformed(&error))?;
        Numbers { first: gap.first, last: gap.last }
    } else {
        let header = wire::batch::peek(frame).map_err(|error| End::malformed(&error))?;
        Numbers { first: header.seq, last: header.seq }
    };
    if numbers.first == Seq::NONE || numbers.first > numbers.last {
        let text = format!("a frame has the numbers {}..={}", numbers.first, numbers.last);
        return Err(End::new(CloseReason::Malformed, text));
    }
    Ok(numbers)
}
