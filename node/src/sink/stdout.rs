//! Records on standard output, written by a thread of their own.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use flow::{ClockOffset, Record};

use super::json::Line;

/// Batches that may wait for the reader of our output; more are dropped and counted.
pub const QUEUE: usize = 64;

/// Records of one interval, or a part of it, with the clock that dates them.
pub type Batch = (ClockOffset, Vec<Record>);

/// Numbers of a sink, for metrics.
#[derive(Debug, Default)]
pub struct SinkCounts {
    /// Records written.
    pub written: AtomicU64,
    /// Records dropped because the queue was full.
    pub dropped_full: AtomicU64,
    /// Records dropped because the output is gone.
    pub dropped_closed: AtomicU64,
}

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
        let dropped = match queue.try_send((clock, records)) {
            Ok(()) => return,
            Err(TrySendError::Full((_, records))) => (&self.counts.dropped_full, records),
            Err(TrySendError::Disconnected((_, records))) => (&self.counts.dropped_closed, records),
        };
        dropped.0.fetch_add(dropped.1.len() as u64, Ordering::Relaxed);
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
        let total = records.len() as u64;
        match write_batch(&mut output, clock, &records) {
            Ok(()) => counts.written.fetch_add(total, Ordering::Relaxed),
            Err(_gone) => {
                closed.store(true, Ordering::Relaxed);
                counts.dropped_closed.fetch_add(total, Ordering::Relaxed)
            }
        };
    }
}

fn write_batch(output: &mut impl Write, clock: ClockOffset, records: &[Record]) -> io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut *output, &Line::of(record, clock))?;
        output.write_all(b"\n")?;
    }
    output.flush()
}
