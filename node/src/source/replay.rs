//! Plays a recording back (`--source replay:FILE`; format in `recording.rs`), with no privileges
//! and at the pace at which it was recorded.
//!
//! Recorded times are moved so that the recording's first one is the time of opening. Whatever
//! was given before a moment can be taken from that moment on, in the recorded order: events
//! stand still before a sweep that has not been taken. A taker that sweeps less often than the
//! recorded one gets all sweeps that are due in one (each reading is absolute, the later ones
//! count), and the events between them afterwards.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use flow::{BootNanos, Reading};

use super::recording::{Entry, Header, LONGEST_LINE, Line, VERSION};
use super::{Event, Source, SourceError, SourceHealth, SweepChunk, SweepReport, Timed};
use crate::clock;

/// A source that plays a recording.
pub struct Replay {
    file: Lines,
    /// The next line, where it has been read and not been given.
    next: Option<Line>,
    /// Ends of the sweeps still to be given: a chunk is due when its whole sweep is.
    sweeps: VecDeque<BootNanos>,
    /// Events that were passed on the way to a sweep.
    passed: VecDeque<Timed>,
    times: Times,
    health: SourceHealth,
    now: fn() -> BootNanos,
}

struct Lines {
    name: String,
    reader: BufReader<File>,
    line: u64,
    at_end: bool,
}

/// First and last recorded time, and when the first was played.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    first: BootNanos,
    last: BootNanos,
    opened: BootNanos,
}

impl Replay {
    /// Opens a recording and reads it once, so that what is wrong with it is known at once.
    ///
    /// # Errors
    /// When it cannot be read, is of another version, or has a line that makes no sense.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        Self::open_at(path, clock::now)
    }

    /// [`Replay::open`] with another clock.
    ///
    /// # Errors
    /// As [`Replay::open`].
    pub fn open_at(path: &Path, now: fn() -> BootNanos) -> Result<Self, SourceError> {
        let mut file = Lines::open(path)?;
        let (mut first, mut last) = (None, BootNanos::BOOT);
        let mut sweeps = VecDeque::new();
        while let Some(line) = file.next()? {
            let Some(at) = line.at() else { continue };
            // A sweep began before its chunks were read.
            let mut begin = at;
            if let Line::Sweep { sweep } = &line {
                sweeps.push_back(at);
                begin = sweep.clone().report(|at| at).begin;
            }
            first = Some(first.map_or(begin, |first: BootNanos| first.min(begin)));
            last = last.max(at);
            file.check(line)?;
        }
        file.rewind()?;
        let first = first.unwrap_or(last);
        let times = Times { first, last, opened: now() };
        let (passed, health) = (VecDeque::new(), SourceHealth::default());
        Ok(Self { file, next: None, sweeps, passed, times, health, now })
    }

    /// The next line that is due, left in place.
    fn due(&mut self) -> Result<Option<&Line>, SourceError> {
        loop {
            if self.next.is_none() {
                self.next = self.file.next()?;
            }
            match self.next.take() {
                Some(Line::Health { health }) => self.health = health.into(),
                Some(line) => {
                    let at = match line {
                        Line::Live { .. } => self.sweeps.front().copied(),
                        _ => line.at(),
                    };
                    // Chunks of a sweep that was cut short by the recording's end are passed over.
                    let Some(at) = at.map(|at| self.times.play(at)) else { continue };
                    self.next = Some(line);
                    return Ok(self.next.as_ref().filter(|_| at <= (self.now)()));
                }
                None => return Ok(None),
            }
        }
    }

    fn take_event(&mut self, line: Line) -> Result<Timed, SourceError> {
        let at = line.at().map_or(BootNanos::BOOT, |at| self.times.play(at));
        let event = match line {
            Line::New { new, .. } => Event::New(self.file.reading(new)?),
            Line::End { end, .. } => Event::End(self.file.reading(end)?),
            _ => return Err(self.file.error("not an event")),
        };
        Ok(Timed { at, event })
    }

    /// Whether a whole sweep is due: then it ends before now, and so do all lines up to it.
    fn sweep_is_due(&mut self) -> Result<bool, SourceError> {
        Ok(matches!(self.due()?, Some(Line::Live { .. } | Line::Sweep { .. })))
    }
}

impl Source for Replay {
    fn name(&self) -> &'static str {
        "replay"
    }

    fn events(&mut self, out: &mut Vec<Timed>) -> Result<(), SourceError> {
        out.extend(self.passed.drain(..));
        while let Some(Line::New { .. } | Line::End { .. }) = self.due()? {
            if let Some(line) = self.next.take() {
                out.push(self.take_event(line)?);
            }
        }
        Ok(())
    }

    fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError> {
        let now = (self.now)();
        let mut last = None;
        // Events before a sweep are passed and given afterwards: an entry that ended before it
        // is not in it, and its end is among the events.
        while self.passed.len() < MOST_PASSED || self.sweep_is_due()? {
            if self.due()?.is_none() {
                break;
            }
            match self.next.take() {
                Some(Line::Live { at, live }) => {
                    let at = self.times.play(BootNanos(at));
                    let readings: Result<_, _> =
                        live.into_iter().map(|entry| self.file.reading(entry)).collect();
                    take(SweepChunk { at, readings: readings? });
                }
                Some(Line::Sweep { sweep }) => {
                    let times = self.times;
                    self.sweeps.pop_front();
                    last = Some(sweep.report(|at| times.play(at)));
                }
                Some(line) => {
                    let timed = self.take_event(line)?;
                    self.passed.push_back(timed);
                }
                None => break,
            }
        }
        Ok(last.unwrap_or_else(|| SweepReport::nothing(now)))
    }

    fn health(&self) -> SourceHealth {
        self.health
    }

    fn remaining(&self) -> Option<Duration> {
        let given = self.passed.is_empty() && self.next.is_none() && self.file.at_end;
        let left = self.times.play(self.times.last).since((self.now)());
        // Not zero while there is something to take.
        Some(if given { Duration::ZERO } else { left.max(Duration::from_nanos(1)) })
    }
}

impl Times {
    fn play(self, recorded: BootNanos) -> BootNanos {
        self.opened.plus(recorded.since(self.first))
    }
}

impl Lines {
    fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| SourceError::Kernel {
            what: format!("opening the recording {name}"),
            error,
        })?;
        let mut lines = Self { name, reader: BufReader::new(file), line: 0, at_end: false };
        lines.header()?;
        Ok(lines)
    }

    fn header(&mut self) -> Result<(), SourceError> {
        let text = self.text()?.ok_or_else(|| self.error("the file is empty"))?;
        let header: Header = serde_json::from_slice(&text)
            .map_err(|error| self.error(&format!("not a conntracct recording: {error}")))?;
        if header.conntracct_recording == VERSION {
            Ok(())
        } else {
            let version = header.conntracct_recording;
            Err(self.error(&format!("version {version}, only version {VERSION} can be played")))
        }
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        let sought = self.reader.seek(SeekFrom::Start(0));
        sought.map_err(|error| self.error(&error.to_string()))?;
        self.line = 0;
        self.at_end = false;
        self.header()
    }

    fn next(&mut self) -> Result<Option<Line>, SourceError> {
        let Some(text) = self.text()? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| self.error(&error.to_string()))
    }

    /// Finds fault with a line that parses but makes no sense.
    fn check(&self, line: Line) -> Result<(), SourceError> {
        match line {
            Line::New { new: entry, .. } | Line::End { end: entry, .. } => {
                self.reading(entry).map(drop)
            }
            Line::Live { live, .. } => {
                live.into_iter().try_for_each(|entry| self.reading(entry).map(drop))
            }
            Line::Sweep { .. } | Line::Health { .. } => Ok(()),
        }
    }

    fn reading(&self, entry: Entry) -> Result<Reading, SourceError> {
        entry.reading().ok_or_else(|| self.error("a tuple's addresses are of two families"))
    }

    fn text(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let mut text = Vec::new();
        self.line += 1;
        let read = self.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text);
        read.map_err(|error| self.error(&error.to_string()))?;
        match text.last() {
            None => {
                self.at_end = true;
                Ok(None)
            }
            Some(b'\n') => Ok(Some(text)),
            Some(_) => Err(self.error("it is cut short or longer than 16 MiB")),
        }
    }

    fn error(&self, problem: &str) -> SourceError {
        SourceError::Recording {
            file: self.name.clone(),
            line: self.line,
            problem: problem.to_owned(),
        }
    }
}

/// Events passed at most in one sweep; then it ends at the next sweep's end.
const MOST_PASSED: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    fn now() -> BootNanos {
        BootNanos(NOW.get())
    }

    const HEADER: &str = r#"{"conntracct_recording":1,"source":"netlink","boot":"","kernel":""}"#;

    fn file(lines: &[String]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n") + "\n").unwrap();
        file
    }

    fn entry(port: u16, packets: u64) -> String {
        format!(
            r#"{{"netns":1,"orig":[17,"10.0.0.1","10.0.0.2",{port},53],
            "reply":[17,"10.0.0.2","10.0.0.1",53,{port}],"counters":[{packets},9,0,0]}}"#
        )
        .replace('\n', "")
    }

    fn end(at: u64, port: u16) -> String {
        format!(r#"{{"at":{at},"end":{}}}"#, entry(port, 5))
    }

    fn live(at: u64, port: u16, packets: u64) -> String {
        format!(r#"{{"at":{at},"live":[{}]}}"#, entry(port, packets))
    }

    fn sweep_line(begin: u64, end: u64) -> String {
        format!(
            r#"{{"sweep":{{"begin":{begin},"end":{end},"complete":[1],"failed":[],"gone":[]}}}}"#
        )
    }

    fn ports(replay: &mut Replay) -> Vec<u16> {
        let mut events = Vec::new();
        replay.events(&mut events).unwrap();
        let port = |timed: Timed| match timed.event {
            Event::New(reading) | Event::End(reading) => reading.orig.sport,
        };
        events.into_iter().map(port).collect()
    }

    fn sweep(replay: &mut Replay) -> (Vec<u64>, SweepReport) {
        let mut packets = Vec::new();
        let report = replay.sweep(&mut |chunk| {
            let counted = chunk.readings.iter().filter_map(|reading| reading.counters);
            packets.extend(counted.map(|counters| counters.orig.packets.0));
        });
        (packets, report.unwrap())
    }

    #[test]
    fn events_wait_for_the_sweep_before_them() {
        let lines =
            [HEADER.to_owned(), end(100, 1), live(150, 2, 7), sweep_line(140, 160), end(170, 3)];
        let file = file(&lines);
        NOW.set(1_000);
        let mut replay = Replay::open_at(file.path(), now).unwrap();
        assert_eq!(ports(&mut replay), [1], "the first is due at once");
        assert_eq!(replay.remaining(), Some(Duration::from_nanos(70)));
        NOW.set(1_055);
        let (packets, report) = sweep(&mut replay);
        assert!(packets.is_empty() && report.complete.is_empty(), "half a sweep is not given");
        NOW.set(2_000);
        assert!(ports(&mut replay).is_empty(), "not past a sweep that is due");
        let (packets, report) = sweep(&mut replay);
        assert_eq!(packets, [7]);
        assert_eq!((report.begin, report.end), (BootNanos(1_040), BootNanos(1_060)));
        assert!(replay.remaining().unwrap() > Duration::ZERO);
        assert_eq!(ports(&mut replay), [3]);
        assert_eq!(replay.remaining(), Some(Duration::ZERO));
        assert!(sweep(&mut replay).1.complete.is_empty());
    }

    #[test]
    fn sweeps_that_were_missed_come_together_and_events_after_them() {
        let lines = [
            HEADER.to_owned(),
            live(10, 1, 1),
            sweep_line(5, 20),
            end(25, 9),
            live(30, 1, 2),
            sweep_line(25, 40),
            live(50, 1, 3),
        ];
        let file = file(&lines);
        NOW.set(500);
        let mut replay = Replay::open_at(file.path(), now).unwrap();
        NOW.set(9_000);
        let (packets, report) = sweep(&mut replay);
        assert_eq!(packets, [1, 2], "a sweep that was never finished is no sweep");
        assert_eq!(report.end, BootNanos(535));
        assert_eq!(ports(&mut replay), [9]);
        assert_eq!(replay.remaining(), Some(Duration::ZERO));
    }

    #[test]
    fn faults_are_named_by_file_and_line() {
        let two_families = end(1, 1).replacen("10.0.0.2", "::1", 1);
        for (lines, line, problem) in [
            (vec!["{}".to_owned()], 1, "not a conntracct recording"),
            (vec![HEADER.replace(":1,", ":2,")], 1, "version 2"),
            (vec![HEADER.to_owned(), end(1, 1), "{\"at\":1}".to_owned()], 3, "did not match"),
            (vec![HEADER.to_owned(), two_families], 2, "two families"),
        ] {
            let file = file(&lines);
            let error = Replay::open_at(file.path(), now).err().unwrap().to_string();
            assert!(error.contains(&format!("line {line}: ")), "{error}");
            assert!(error.contains(problem), "{error}");
            assert!(error.contains(&file.path().display().to_string()), "{error}");
        }
        let cut = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(cut.path(), format!("{HEADER}\n{}", &end(1, 1)[..40])).unwrap();
        let error = Replay::open_at(cut.path(), now).err().unwrap().to_string();
        assert!(error.contains("line 2: it is cut short"), "{error}");
    }
}
