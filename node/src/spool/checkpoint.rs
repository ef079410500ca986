//! Checkpoints: the baselines of all live entries in one file, so that the frames before it can
//! be forgotten.
//!
//! A checkpoint is a sequence of batch frames, whose records are baselines (`delta` zero, no
//! end), and one closing frame of the private kind [`CHECKPOINT`], without which the file counts
//! for nothing. Its body, little endian: layout u16, epoch 16 bytes, number of the last frame it
//! stands for u64, next flow number u64, number of batches u32, of records u64, and of the last
//! durable sweep: flag u8, boot 16 bytes, begin and end u64.
//!
//! It is written in pieces while frames go on being spooled. A piece may therefore know more than
//! the frame it is named after; folding the later frames in again does no harm, because the last
//! record of an entry wins.

use std::io;

use bytes::Bytes;
use flow::record::{ClockPair, KernelTotals};
use flow::table::{Baseline, BaselineSet, DurableSweep};
use flow::{BootId, BootNanos, Counters, Epoch, FlowNo, Interval, Record, Seq};
use thiserror::Error;
use wire::batch::{self, BatchError, Builder, Compression, PushError};
use wire::frame::{Frame, FrameError, Kind};

use super::disk::{Disk, TEMPORARY};
use super::identity::{IdentityError, Reader};
use super::name::Name;

/// Kind of a checkpoint's closing frame; never on the wire.
pub const CHECKPOINT: Kind = Kind(0xff02);

const LAYOUT: u16 = 1;

/// What a checkpoint says beside its baselines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) epoch: Epoch,
    /// The frame it was begun after.
    pub(super) seq: Seq,
    pub(super) next_flow: FlowNo,
    pub(super) durable: Option<DurableSweep>,
    batches: u32,
    records: u64,
}

/// Why a checkpoint was not written.
#[derive(Debug, Error)]
pub(super) enum WriteError {
    #[error("the checkpoint cannot be written")]
    Io(#[from] io::Error),
    #[error("a baseline cannot be encoded")]
    Push(#[from] PushError),
    #[error("baselines cannot be encoded")]
    Batch(#[from] BatchError),
    #[error("the checkpoint's closing frame cannot be made")]
    Frame(#[from] FrameError),
}

/// A checkpoint being written.
pub(super) struct Writer {
    name: Name,
    temporary: String,
    at: u64,
    builder: Builder,
    interval: Interval,
    checkpoint: Checkpoint,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("name", &self.name).field("at", &self.at).finish()
    }
}

impl Writer {
    /// Begins a checkpoint that stands for all frames up to `seq`.
    pub(super) fn begin<D: Disk>(
        disk: &mut D,
        epoch: Epoch,
        seq: Seq,
        durable: Option<DurableSweep>,
    ) -> io::Result<Self> {
        let name = Name::Checkpoint(epoch, seq);
        let temporary = format!("{name}{TEMPORARY}");
        disk.remove(&temporary)?;
        let next_flow = FlowNo::default();
        let checkpoint = Checkpoint { epoch, seq, next_flow, durable, batches: 0, records: 0 };
        let builder = Builder::new(Compression::Lz4);
        let interval = interval_of(durable);
        Ok(Self { name, temporary, at: 0, builder, interval, checkpoint })
    }

    pub(super) fn add<D: Disk>(
        &mut self,
        disk: &mut D,
        baseline: &Baseline,
    ) -> Result<(), WriteError> {
        if self.builder.is_full() {
            self.flush(disk)?;
        }
        self.builder.push(&record_of(baseline))?;
        self.checkpoint.records += 1;
        Ok(())
    }

    fn flush<D: Disk>(&mut self, disk: &mut D) -> Result<(), WriteError> {
        self.checkpoint.batches += 1;
        let seq = Seq(u64::from(self.checkpoint.batches));
        let frame = self.builder.finish(seq, &self.interval)?;
        self.put(disk, &frame)
    }

    fn put<D: Disk>(&mut self, disk: &mut D, frame: &Frame) -> Result<(), WriteError> {
        disk.append(&self.temporary, self.at, &frame.bytes)?;
        self.at += frame.bytes.len() as u64;
        Ok(())
    }

    /// Makes the checkpoint durable; returns what it is and its bytes.
    pub(super) fn finish<D: Disk>(
        mut self,
        disk: &mut D,
        next_flow: FlowNo,
    ) -> Result<(Checkpoint, u64), WriteError> {
        if !self.builder.is_empty() {
            self.flush(disk)?;
        }
        self.checkpoint.next_flow = next_flow;
        let closing = self.checkpoint.encode()?;
        self.put(disk, &closing)?;
        disk.sync(&self.temporary)?;
        disk.rename(&self.temporary, &self.name.to_string())?;
        Ok((self.checkpoint, self.at))
    }

    /// The file it is written to until it is whole.
    pub(super) fn temporary_name(&self) -> String {
        self.temporary.clone()
    }

    /// Gives the checkpoint up and its bytes back.
    pub(super) fn abandon<D: Disk>(self, disk: &mut D) -> io::Result<()> {
        disk.remove(&self.temporary)
    }
}

/// The interval that a checkpoint's batches carry; nobody reads it back.
fn interval_of(durable: Option<DurableSweep>) -> Interval {
    let nothing = DurableSweep { boot: BootId::default(), begin: BootNanos(0), end: BootNanos(0) };
    let DurableSweep { boot, begin, end } = durable.unwrap_or(nothing);
    Interval {
        number: 0,
        length_ms: 0,
        part: 1,
        parts: 1,
        sweep_begin: begin,
        sweep_end: end,
        boot,
        clock: ClockPair::default(),
        offset: None,
        totals: KernelTotals::default(),
        paused: false,
    }
}

/// A baseline in the shape of a record.
fn record_of(baseline: &Baseline) -> Record {
    Record {
        flow: baseline.flow,
        netns: baseline.entry.netns,
        zone: baseline.entry.zone,
        orig: baseline.entry.orig,
        reply: baseline.reply,
        birth: baseline.entry.birth,
        mark: baseline.mark,
        status: baseline.status,
        tcp: baseline.tcp,
        flags: baseline.flags,
        since: baseline.since,
        until: baseline.since,
        cum: baseline.cum,
        delta: Counters::ZERO,
        offset: baseline.offset,
        stop: 0,
    }
}

/// The inverse of [`record_of`], but for the status bits that do not travel.
fn baseline_of(record: &Record) -> Baseline {
    Baseline {
        entry: record.entry(),
        flow: record.flow,
        reply: record.reply,
        cum: record.cum,
        offset: record.offset,
        since: record.since,
        mark: record.mark,
        status: record.status,
        tcp: record.tcp,
        flags: record.flags,
    }
}

impl Checkpoint {
    fn encode(&self) -> Result<Frame, FrameError> {
        let mut body = Vec::with_capacity(96);
        body.extend_from_slice(&LAYOUT.to_le_bytes());
        body.extend_from_slice(&self.epoch.0);
        body.extend_from_slice(&self.seq.0.to_le_bytes());
        body.extend_from_slice(&self.next_flow.0.to_le_bytes());
        body.extend_from_slice(&self.batches.to_le_bytes());
        body.extend_from_slice(&self.records.to_le_bytes());
        if let Some(DurableSweep { boot, begin, end }) = self.durable {
            body.push(1);
            body.extend_from_slice(&boot.0);
            body.extend_from_slice(&begin.0.to_le_bytes());
            body.extend_from_slice(&end.0.to_le_bytes());
        } else {
            body.extend_from_slice(&[0; 33]);
        }
        Frame::new(CHECKPOINT, &body)
    }

    fn decode(body: &[u8]) -> Result<Self, IdentityError> {
        let mut body = Reader(body);
        let found = u16::from_le_bytes(body.take()?);
        if found != LAYOUT {
            return Err(IdentityError::Layout { found });
        }
        let epoch = Epoch(body.take()?);
        let seq = Seq(u64::from_le_bytes(body.take()?));
        let next_flow = FlowNo(u64::from_le_bytes(body.take()?));
        let batches = u32::from_le_bytes(body.take()?);
        let records = u64::from_le_bytes(body.take()?);
        let [known] = body.take()?;
        let boot = BootId(body.take()?);
        let begin = BootNanos(u64::from_le_bytes(body.take()?));
        let end = BootNanos(u64::from_le_bytes(body.take()?));
        let durable = (known != 0).then_some(DurableSweep { boot, begin, end });
        Ok(Self { epoch, seq, next_flow, durable, batches, records })
    }
}

/// Reads a checkpoint into baselines; `None` where any of it is damaged.
pub(super) fn read<D: Disk>(
    disk: &D,
    epoch: Epoch,
    seq: Seq,
    len: u64,
    seed: u64,
) -> Option<BaselineSet> {
    let name = Name::Checkpoint(epoch, seq).to_string();
    let mut baselines = BaselineSet::new(seed);
    let (mut at, mut batches, mut records) = (0u64, 0u32, 0u64);
    // Read in windows: a checkpoint of a million flows is larger than a segment.
    let mut window = Bytes::new();
    loop {
        let (frame, next) = match Frame::parse_prefix(&window, 0) {
            Ok(found) => found,
            Err(FrameError::Truncated { .. }) => {
                let have = at + window.len() as u64;
                let want = usize::try_from(len.checked_sub(at)?).ok()?.min(WINDOW);
                if want <= window.len() || have > len {
                    return None;
                }
                window = Bytes::from(disk.read(&name, at, want).ok()?);
                continue;
            }
            Err(_) => return None,
        };
        window = window.slice(next..);
        at += next as u64;
        match frame.header.kind {
            Kind::BATCH => {
                let (header, batch) = batch::decode(&frame).ok()?;
                batches += 1;
                records += batch.len() as u64;
                if header.seq != Seq(u64::from(batches)) {
                    return None;
                }
                batch.iter().for_each(|record| baselines.insert(baseline_of(record)));
            }
            CHECKPOINT => {
                let found = Checkpoint::decode(frame.body()).ok()?;
                let whole = at == len
                    && (found.epoch, found.seq) == (epoch, seq)
                    && (found.batches, found.records) == (batches, records);
                baselines.set_next_flow(found.next_flow);
                if let Some(durable) = found.durable {
                    baselines.set_durable(durable);
                }
                return whole.then_some(baselines);
            }
            _ => return None,
        }
    }
}

/// Bytes of a checkpoint read at a time: any frame fits.
const WINDOW: usize = 2 * wire::frame::MAX_FRAME;
