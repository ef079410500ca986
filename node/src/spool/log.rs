//! The frames of one epoch: an index over its segments, and the gaps that took a frame's place.
//!
//! Knows nothing of baselines, budgets or other epochs.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;
use flow::{Epoch, Seq};
use wire::frame::{Digest, Frame, HEADER_LEN, Header};

use super::disk::Disk;
use super::name::Name;
use super::segment::{End, Found, Span, walk};

/// A frame's place.
#[derive(Clone, Copy, Debug)]
struct Slot {
    span: Span,
    /// First number of its segment, which names the file.
    segment: u64,
    offset: u64,
    len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    len: u64,
    /// The last number in it.
    last: u64,
}

#[derive(Clone, Copy, Debug)]
struct GapFile {
    last: u64,
    len: u64,
}

/// One epoch on disk.
#[derive(Debug)]
pub(super) struct EpochLog {
    /// The name it is sent under.
    pub(super) epoch: Epoch,
    /// The name its files have: another one where it was renamed.
    pub(super) files: Epoch,
    pub(super) acked: Seq,
    /// Others have taken some of its numbers: an acknowledgement says nothing about its frames.
    pub(super) disputed: bool,
    segments: BTreeMap<u64, Segment>,
    /// Readable frames, in order, without overlap.
    slots: VecDeque<Slot>,
    /// Gaps in files of their own, by first number; they hide what lies under them.
    gaps: BTreeMap<u64, GapFile>,
    /// The last segment has bytes beyond its length that an append left.
    dirty: bool,
    /// The number before the next one to be written, known otherwise than from `slots`.
    floor: Seq,
}

/// What the identity file knows of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The name it is sent under.
    pub(super) epoch: Epoch,
    /// The name its files have.
    pub(super) files: Epoch,
    /// The last acknowledged number.
    pub(super) acked: Seq,
}

impl Known {
    /// An epoch that was never renamed.
    pub(super) const fn of(epoch: Epoch, acked: Seq) -> Self {
        Self { epoch, files: epoch, acked }
    }
}

/// What loading an epoch found.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Bytes of an unfinished append that were cut off.
    pub(super) torn_bytes: u64,
    /// A segment or a gap file has damaged bytes, and what they were is not known.
    pub(super) damaged: bool,
    /// The last segment's end is damaged: at least the frame of this number was there.
    pub(super) damaged_end: Option<Seq>,
}

impl EpochLog {
    /// An epoch without frames.
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            files: epoch,
            acked: Seq::NONE,
            disputed: false,
            segments: BTreeMap::new(),
            slots: VecDeque::new(),
            gaps: BTreeMap::new(),
            dirty: false,
            floor: Seq::NONE,
        }
    }

    /// Reads all files of the epoch; `frame` is called for every readable frame in order.
    /// A segment that cannot be read is as one full of damage.
    pub(super) fn load<D: Disk>(
        disk: &mut D,
        Known { epoch, files: named, acked }: Known,
        files: &[(Name, u64)],
        mut frame: impl FnMut(Span, &Frame),
    ) -> io::Result<(Self, Loaded)> {
        let mut log = Self { acked, files: named, ..Self::new(epoch) };
        let mut loaded = Loaded::default();
        let mut segments: Vec<(u64, u64)> = Vec::new();
        for (name, len) in files {
            match *name {
                Name::Segment(of, first) if of == named => segments.push((first.0, *len)),
                Name::Gap(of, first) if of == named => {
                    loaded.damaged |= !log.load_gap(disk, first, *len)?;
                }
                _ => {}
            }
        }
        segments.sort_unstable();
        let newest = segments.last().map(|(first, _)| *first);
        for (first, len) in segments {
            let end = log.load_segment(disk, first, len, &mut loaded, &mut frame)?;
            let kept = match end {
                End::Whole => len,
                End::Torn(at) if Some(first) == newest => {
                    let at = at as u64;
                    loaded.torn_bytes += len - at;
                    let name = Name::Segment(named, Seq(first)).to_string();
                    disk.truncate(&name, at)?;
                    disk.sync(&name)?;
                    at
                }
                End::Torn(_) | End::Damaged(_) => {
                    loaded.damaged = true;
                    if Some(first) == newest {
                        loaded.damaged_end = Some(log.last_readable().next().max(Seq(first)));
                    }
                    len
                }
            };
            let last = log.slots.back().map_or(0, |slot| slot.span.last.0);
            log.segments.insert(first, Segment { len: kept, last: last.max(first) });
        }
        Ok((log, loaded))
    }

    fn load_gap<D: Disk>(&mut self, disk: &D, first: Seq, len: u64) -> io::Result<bool> {
        let name = Name::Gap(self.files, first).to_string();
        let Some(gap) = read_frame(disk, &name, 0, len)? else { return Ok(false) };
        match Span::of(&gap) {
            Ok(span) if span.first == first => {
                self.gaps.insert(first.0, GapFile { last: span.last.0, len });
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn load_segment<D: Disk>(
        &mut self,
        disk: &D,
        first: u64,
        len: u64,
        loaded: &mut Loaded,
        frame: &mut impl FnMut(Span, &Frame),
    ) -> io::Result<End> {
        let name = Name::Segment(self.files, Seq(first)).to_string();
        let Some(bytes) = read(disk, &name, 0, len)? else { return Ok(End::Damaged(0)) };
        let mut expected_offset = 0;
        let end = walk(&Bytes::from(bytes), |Found { span, offset, frame: found }| {
            let after = self.slots.back().map_or(0, |slot| slot.span.last.0);
            // Bytes that are stepped over are damage, and so is a number that goes back.
            loaded.damaged |= offset != expected_offset || span.first.0 <= after;
            expected_offset = offset + found.bytes.len();
            if span.first.0 > after {
                let len = found.bytes.len() as u64;
                self.slots.push_back(Slot { span, segment: first, offset: offset as u64, len });
                frame(span, &found);
            }
        });
        Ok(end)
    }

    /// What the identity file says of it.
    pub(super) const fn known(&self) -> Known {
        Known { epoch: self.epoch, files: self.files, acked: self.acked }
    }

    /// The last number that is readable or stood for by a gap, or known to have been given.
    pub(super) fn last(&self) -> Seq {
        let slot = self.slots.back().map_or(0, |slot| slot.span.last.0);
        let gap = self.gaps.values().map(|gap| gap.last).max().unwrap_or(0);
        Seq(slot.max(gap)).max(self.acked).max(self.floor)
    }

    /// Numbers up to `floor` have been given, whether their frames are still here or not.
    pub(super) fn raise_floor(&mut self, floor: Seq) {
        self.floor = self.floor.max(floor);
    }

    /// The last number of a readable frame.
    pub(super) fn last_readable(&self) -> Seq {
        self.slots.back().map_or(Seq::NONE, |slot| slot.span.last)
    }

    /// Frames not acknowledged.
    pub(super) fn waiting(&self) -> u64 {
        self.last().0 - self.acked.0
    }

    /// Readable frames on disk.
    pub(super) fn frames(&self) -> usize {
        self.slots.len()
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        let segments: u64 = self.segments.values().map(|segment| segment.len).sum();
        segments + self.gaps.values().map(|gap| gap.len).sum::<u64>()
    }

    /// Bytes of the frames after `seq`.
    pub(super) fn bytes_after(&self, seq: Seq) -> u64 {
        self.slots.iter().rev().take_while(|slot| slot.span.last > seq).map(|slot| slot.len).sum()
    }

    /// Numbers in `from..=to` for which there is neither a frame nor, where `gaps` count, a gap
    /// file.
    pub(super) fn missing(&self, from: Seq, to: Seq, gaps: bool) -> Vec<Span> {
        let mut covered: Vec<(u64, u64)> =
            self.slots.iter().map(|slot| (slot.span.first.0, slot.span.last.0)).collect();
        if gaps {
            covered.extend(self.gaps.iter().map(|(first, gap)| (*first, gap.last)));
            covered.sort_unstable();
        }
        let mut missing = Vec::new();
        let mut next = from.0;
        for (first, last) in covered {
            if first > to.0 {
                break;
            }
            if first > next {
                missing.push(Span { first: Seq(next), last: Seq(first - 1) });
            }
            next = next.max(last.saturating_add(1));
        }
        if next <= to.0 {
            missing.push(Span { first: Seq(next), last: to });
        }
        missing
    }

    /// Appends frames with the numbers after [`EpochLog::last`], all or none, durably.
    pub(super) fn append<D: Disk>(
        &mut self,
        disk: &mut D,
        frames: &[(Span, &Frame)],
        segment_bytes: u64,
    ) -> io::Result<()> {
        let Some(next) = frames.first().map(|(span, _)| span.first.0) else { return Ok(()) };
        self.clean(disk)?;
        let open = self.segments.last_key_value().map(|(first, segment)| (*first, segment.len));
        let (segment, start) = match open {
            Some((first, len)) if len < segment_bytes => (first, len),
            _ => (next, 0),
        };
        let name = Name::Segment(self.files, Seq(segment)).to_string();
        if start == 0 {
            self.segments.insert(segment, Segment { len: 0, last: next });
        }
        if let Err(error) = write(disk, &name, start, frames) {
            self.dirty = true;
            // Best effort: where it fails, the next append begins with it.
            let _kept_dirty = self.clean(disk);
            return Err(error);
        }
        let mut offset = start;
        for (span, frame) in frames {
            let len = frame.bytes.len() as u64;
            self.slots.push_back(Slot { span: *span, segment, offset, len });
            offset += len;
            self.segments.insert(segment, Segment { len: offset, last: span.last.0 });
        }
        Ok(())
    }

    /// Cuts off what a failed append left.
    fn clean<D: Disk>(&mut self, disk: &mut D) -> io::Result<()> {
        if let (true, Some((first, segment))) = (self.dirty, self.segments.last_key_value()) {
            let name = Name::Segment(self.files, Seq(*first)).to_string();
            if segment.len == 0 {
                disk.remove(&name)?;
            } else {
                disk.truncate(&name, segment.len)?;
            }
        }
        self.dirty = false;
        Ok(())
    }

    /// The frame that stands for `seq`: a gap file's, else the spooled one. `None` where there
    /// is none or its bytes are lost.
    pub(super) fn read<D: Disk>(&self, disk: &D, seq: Seq) -> io::Result<Option<(Span, Frame)>> {
        let Some((name, offset, len)) = self.place(seq) else { return Ok(None) };
        let Some(frame) = read_frame(disk, &name.to_string(), offset, len)? else {
            return Ok(None);
        };
        let span = Span::of(&frame).ok();
        let span = span.filter(|span| span.first <= seq && seq <= span.last);
        Ok(span.map(|span| (span, frame)))
    }

    /// File, offset and length of the frame that stands for `seq`.
    fn place(&self, seq: Seq) -> Option<(Name, u64, u64)> {
        let gap = self.gaps.range(..=seq.0).next_back().filter(|(_, gap)| gap.last >= seq.0);
        if let Some((first, gap)) = gap {
            return Some((Name::Gap(self.files, Seq(*first)), 0, gap.len));
        }
        let at = self.slots.partition_point(|slot| slot.span.last < seq);
        let slot = self.slots.get(at).filter(|slot| slot.span.first <= seq)?;
        Some((Name::Segment(self.files, Seq(slot.segment)), slot.offset, slot.len))
    }

    /// The digest in the header of the frame that stands for `seq`; `None` where its bytes are
    /// lost.
    pub(super) fn digest<D: Disk>(&self, disk: &D, seq: Seq) -> io::Result<Option<Digest>> {
        let Some((name, offset, _)) = self.place(seq) else { return Ok(None) };
        let header = read(disk, &name.to_string(), offset, HEADER_LEN as u64)?;
        Ok(header.and_then(|bytes| Header::peek(&bytes).ok()).map(|header| header.digest))
    }

    /// Whether `seq` is one of this epoch's numbers that are not acknowledged.
    pub(super) fn is_waiting(&self, seq: Seq) -> bool {
        seq > self.acked && seq <= self.last()
    }

    /// Puts a gap in the place of its numbers, durably.
    pub(super) fn put_gap<D: Disk>(
        &mut self,
        disk: &mut D,
        span: Span,
        frame: &Frame,
    ) -> io::Result<()> {
        disk.write_atomic(&Name::Gap(self.files, span.first).to_string(), &frame.bytes)?;
        let gap = GapFile { last: span.last.0, len: frame.bytes.len() as u64 };
        self.gaps.insert(span.first.0, gap);
        Ok(())
    }

    /// Whether [`EpochLog::forget`] would remove anything.
    pub(super) fn can_forget(&self, up_to: Seq) -> bool {
        self.segments.values().any(|segment| segment.last <= up_to.0)
            || self.gaps.first_key_value().is_some_and(|(_, gap)| self.gap_is_over(gap.last, up_to))
    }

    fn gap_is_over(&self, last: u64, up_to: Seq) -> bool {
        last <= up_to.0 && self.slots.front().is_none_or(|slot| slot.span.first.0 > last)
    }

    /// Removes the segments all of whose frames are numbered `up_to` or below, and gaps likewise.
    pub(super) fn forget<D: Disk>(&mut self, disk: &mut D, up_to: Seq) -> io::Result<()> {
        let last = self.last();
        while let Some((first, segment)) = self.segments.first_key_value() {
            if segment.last > up_to.0 {
                break;
            }
            let (first, segment_last) = (*first, segment.last);
            disk.remove(&Name::Segment(self.files, Seq(first)).to_string())?;
            self.segments.remove(&first);
            while self.slots.front().is_some_and(|slot| slot.segment == first) {
                self.slots.pop_front();
            }
            debug_assert!(segment_last <= last.0);
        }
        self.floor = last;
        while let Some((first, gap)) = self.gaps.first_key_value() {
            if !self.gap_is_over(gap.last, up_to) {
                break;
            }
            let first = *first;
            disk.remove(&Name::Gap(self.files, Seq(first)).to_string())?;
            self.gaps.remove(&first);
        }
        Ok(())
    }

    /// Removes all files of the epoch.
    pub(super) fn remove<D: Disk>(&self, disk: &mut D) -> io::Result<()> {
        for first in self.segments.keys() {
            disk.remove(&Name::Segment(self.files, Seq(*first)).to_string())?;
        }
        for first in self.gaps.keys() {
            disk.remove(&Name::Gap(self.files, Seq(*first)).to_string())?;
        }
        Ok(())
    }
}

fn write<D: Disk>(
    disk: &mut D,
    name: &str,
    start: u64,
    frames: &[(Span, &Frame)],
) -> io::Result<()> {
    let mut at = start;
    for (_, frame) in frames {
        disk.append(name, at, &frame.bytes)?;
        at += frame.bytes.len() as u64;
    }
    disk.sync(name)
}

/// A frame from a file; `None` where its bytes are lost.
fn read_frame<D: Disk>(disk: &D, name: &str, offset: u64, len: u64) -> io::Result<Option<Frame>> {
    if len > wire::frame::MAX_FRAME as u64 {
        return Ok(None);
    }
    let bytes = read(disk, name, offset, len)?;
    Ok(bytes.and_then(|bytes| Frame::parse(Bytes::from(bytes)).ok()))
}

/// Bytes of a file; `None` where they are lost. Any other error may pass (too many open files),
/// and must not cost a frame.
fn read<D: Disk>(disk: &D, name: &str, offset: u64, len: u64) -> io::Result<Option<Vec<u8>>> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    match disk.read(name, offset, len) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => {
            let gone =
                matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound);
            let rotten = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
            if gone || rotten { Ok(None) } else { Err(error) }
        }
    }
}
