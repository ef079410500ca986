//! Records on standard output, written by a thread of their own.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use flow::{ClockOffset, Record};

use super::counts::Drop as Dropped;
use super::json::Line;

pub use super::counts::SinkCounts;

/// Batches that may wait for the reader of our output; more are dropped and counted.
pub const QUEUE: usize = 64;

/// Records of one interval, or a part of it, with the clock that dates them.
pub type Batch = (ClockOffset, Vec<Record>);

/// The sink's sending side.
#[derive(Debug)]
pub struct LineSink {
    queue: Option<SyncSender<Batch>>,
    writer: Option<JoinHandle<()>>,
    closed: Arc<AtomicBool>,
    counts: Arc<SinkCounts>,
}

impl LineSink {
    /// A sink that writes to `output` from a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, batches) = sync_channel(QUEUE);
        let counts = Arc::new(SinkCounts::default());
        let closed = Arc::new(AtomicBool::new(false));
        let writer = std::thread::Builder::new().name("sink-lines".to_owned()).spawn({
            let (counts, closed) = (Arc::clone(&counts), Arc::clone(&closed));
            move || write_all(&batches, BufWriter::new(output), &counts, &closed)
        })?;
        Ok(Self { queue: Some(queue), writer: Some(writer), closed, counts })
    }

    /// Hands over a batch; drops and counts it when the queue is full.
    pub fn offer(&self, clock: ClockOffset, records: Vec<Record>) {
        let Some(queue) = &self.queue else { return };
        self.counts.offered(&records);
        match queue.try_send((clock, records)) {
            Ok(()) => {}
            Err(TrySendError::Full((_, records))) => self.counts.dropped(&records, Dropped::Full),
            Err(TrySendError::Disconnected((_, records))) => {
                self.counts.dropped(&records, Dropped::Closed);
            }
        }
    }

    /// Whether the reader of our output has gone: nobody will see further records.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The sink's numbers.
    #[must_use]
    pub fn counts(&self) -> Arc<SinkCounts> {
        Arc::clone(&self.counts)
    }
}

impl Drop for LineSink {
    /// Writes what is queued, then ends the thread.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ended = writer.join();
        }
    }
}

fn write_all(
    batches: &Receiver<Batch>,
    mut output: impl Write,
    counts: &SinkCounts,
    closed: &AtomicBool,
) {
    while let Ok((clock, records)) = batches.recv() {
        match write_batch(&mut output, clock, &records) {
            Ok(()) => counts.written(&records),
            Err(_gone) => {
                closed.store(true, Ordering::Relaxed);
                counts.dropped(&records, Dropped::Closed);
            }
        }
    }
}

fn write_batch(output: &mut impl Write, clock: ClockOffset, records: &[Record]) -> io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut *output, &Line::of(record, clock))?;
        output.write_all(b"\n")?;
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use flow::entry::Zone;
    use flow::{Birth, BootNanos, Counters, FlowNo, NetnsId, Proto, RecordFlags, Status, Tuple};

    use super::*;
    use crate::sink::counts::SinkNumbers;

    fn record(flags: RecordFlags) -> Record {
        let orig = Tuple::ports(
            Proto::UDP,
            "10.0.0.1:4000".parse().unwrap(),
            "192.0.2.1:53".parse().unwrap(),
        );
        Record {
            flow: FlowNo(1),
            netns: NetnsId::default(),
            zone: Zone(0),
            orig,
            reply: orig.inverse(),
            birth: Birth::Start(1),
            mark: 0,
            status: Status(0),
            tcp: flow::TcpState(0),
            flags,
            since: BootNanos(0),
            until: BootNanos(1),
            cum: Counters::ZERO,
            delta: Counters::ZERO,
            offset: Counters::ZERO,
            stop: 0,
        }
    }

    /// An output whose reader holds it up until told to go on, then goes away.
    struct Held(Receiver<()>);

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.recv() {
                Ok(()) => Ok(bytes.len()),
                Err(_gone) => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_offered_is_written_waits_or_is_dropped_and_counted() {
        let (go, held) = sync_channel(0);
        let sink = LineSink::spawn(Held(held)).unwrap();
        let counts = sink.counts();
        let clock = ClockOffset::default();
        let batch = || vec![record(RecordFlags::default()), record(RecordFlags::END)];
        // One is written, one is held up in the writer's hands, a queue full waits.
        sink.offer(clock, batch());
        go.send(()).unwrap();
        while counts.numbers().batches_sent == 0 {
            std::thread::yield_now();
        }
        let mut offered = 1;
        while counts.numbers().batches_dropped < 3 {
            sink.offer(clock, batch());
            offered += 1;
        }
        let full = counts.numbers();
        assert_eq!((full.updates_dropped, full.ends_dropped, full.events_failed), (3, 3, 0));
        assert!((QUEUE as u64..=QUEUE as u64 + 1).contains(&full.queue_length), "{full:?}");

        drop(go);
        drop(sink);
        let end = counts.numbers();
        let expected = SinkNumbers {
            updates_pushed: offered,
            ends_pushed: offered,
            updates_dropped: offered - 1,
            ends_dropped: offered - 1,
            events_failed: 2 * (offered - 1 - 3),
            batches_pushed: offered,
            batches_sent: 1,
            batches_dropped: offered - 1,
            queue_length: 0,
            last_batch: 2,
        };
        assert_eq!(end, expected);
    }
}
