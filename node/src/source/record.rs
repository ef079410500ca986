//! A recorder: a source that gives what another one gives, and writes it to a file
//! (`--record FILE`; format in `recording.rs`).
//!
//! A recording must not harm what is recorded: when the file cannot be written or has reached
//! its limit, the recorder says so once and goes on without it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::recording::{Header, Line, VERSION};
use super::{Source, SourceError, SourceHealth, SweepChunk, SweepReport, Timed};
use crate::clock;

/// Records a source.
pub struct Recorder {
    source: Box<dyn Source>,
    file: Output,
}

struct Output {
    path: PathBuf,
    /// `None` once it has failed or is full.
    file: Option<BufWriter<File>>,
    left: u64,
}

impl Recorder {
    /// Begins a recording of `source` in a new file at `path`, of at most `limit` bytes.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn begin(source: Box<dyn Source>, path: &Path, limit: u64) -> Result<Self, SourceError> {
        let failed = |error| SourceError::Kernel {
            what: format!("creating the recording {}", path.display()),
            error,
        };
        let file = File::options().write(true).create_new(true).open(path).map_err(failed)?;
        let mut file = Output {
            path: path.to_owned(),
            file: Some(BufWriter::with_capacity(BUFFER, file)),
            left: limit,
        };
        let header = Header {
            conntracct_recording: VERSION,
            source: source.name().to_owned(),
            boot: clock::boot_id().unwrap_or_default().to_string(),
            kernel: clock::kernel_release().unwrap_or_default(),
        };
        file.write(&header).map_err(failed)?;
        Ok(Self { source, file })
    }

    /// Whether everything so far is in the file.
    #[must_use]
    pub const fn is_recording(&self) -> bool {
        self.file.file.is_some()
    }
}

impl Output {
    fn put(&mut self, line: &Line) {
        let written = self.write(line);
        self.note(written);
    }

    fn flush(&mut self) {
        let flushed = self.file.as_mut().map_or(Ok(()), Write::flush);
        self.note(flushed);
    }

    fn write<T: serde::Serialize>(&mut self, line: &T) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if length > self.left {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "its limit is reached"));
        }
        file.write_all(&bytes)?;
        self.left -= length;
        Ok(())
    }

    fn note(&mut self, done: io::Result<()>) {
        if let Err(error) = done {
            tracing::warn!(file = %self.path.display(), %error, "the recording ends here");
            if let Some(mut file) = self.file.take() {
                drop(file.flush());
            }
        }
    }
}

impl Source for Recorder {
    fn name(&self) -> &'static str {
        self.source.name()
    }

    fn events(&mut self, out: &mut Vec<Timed>) -> Result<(), SourceError> {
        let before = out.len();
        let done = self.source.events(out);
        for timed in out.get(before..).unwrap_or_default() {
            self.file.put(&Line::event(timed));
        }
        done
    }

    fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError> {
        let file = &mut self.file;
        let report = self.source.sweep(&mut |chunk| {
            file.put(&Line::chunk(&chunk));
            take(chunk);
        });
        // A sweep that failed ends here too, with nothing complete.
        let nothing = SweepReport::nothing(clock::now());
        self.file.put(&Line::sweep(report.as_ref().unwrap_or(&nothing)));
        self.file.put(&Line::health(&self.source.health()));
        self.file.flush();
        report
    }

    fn health(&self) -> SourceHealth {
        self.source.health()
    }

    fn remaining(&self) -> Option<Duration> {
        self.source.remaining()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.file.flush();
    }
}

const BUFFER: usize = 1 << 20;

/// The largest recording that is written unless another limit is given: 4 GiB.
pub const DEFAULT_LIMIT: u64 = 4 << 30;

#[cfg(test)]
mod tests {
    use flow::{Counters, NetnsInode, Proto, Reading, Status, TcpState, Tuple};

    use super::super::replay::Replay;
    use super::*;
    use crate::source::Event;

    /// Gives what it was made with, once.
    struct Given {
        events: Vec<Timed>,
        chunks: Vec<SweepChunk>,
        report: SweepReport,
        health: SourceHealth,
    }

    impl Source for Given {
        fn name(&self) -> &'static str {
            "given"
        }

        fn events(&mut self, out: &mut Vec<Timed>) -> Result<(), SourceError> {
            out.append(&mut self.events);
            Ok(())
        }

        fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError> {
            std::mem::take(&mut self.chunks).into_iter().for_each(take);
            Ok(self.report.clone())
        }

        fn health(&self) -> SourceHealth {
            self.health
        }
    }

    fn reading(n: u64, v6: bool) -> Reading {
        let addr = |host: u8| -> std::net::IpAddr {
            if v6 { std::net::Ipv6Addr::from([host; 16]).into() } else { [10, 0, 0, host].into() }
        };
        let port = u16::try_from(n % 60_000).unwrap();
        let orig = Tuple { src: addr(1), dst: addr(2), sport: port, dport: 80, proto: Proto::TCP };
        Reading {
            netns: NetnsInode(4_026_531_840),
            zone: flow::entry::Zone(3),
            orig,
            reply: orig.inverse(),
            start: u64::MAX - n,
            stop: n,
            kernel_id: u32::MAX,
            mark: 0x00ff_0000,
            status: Status(0x18e),
            tcp: TcpState(3),
            fresh: v6,
            counters: n.is_multiple_of(2).then(|| Counters::new(n, u64::MAX, 0, 1)),
        }
    }

    fn source() -> Given {
        let base = clock::now().0;
        let at = |n| flow::BootNanos(base + n);
        let netns = NetnsInode(4_026_531_840);
        Given {
            events: vec![
                Timed { at: at(1), event: Event::New(reading(1, false)) },
                Timed { at: at(2), event: Event::End(reading(2, true)) },
            ],
            chunks: (4..7)
                .map(|n| SweepChunk {
                    at: at(n),
                    readings: vec![reading(n, n == 5), reading(9, false)],
                })
                .collect(),
            report: SweepReport {
                begin: at(3),
                end: at(8),
                complete: vec![netns],
                failed: vec![(NetnsInode(7), "because \"so\"".to_owned())],
                gone: vec![NetnsInode(8)],
            },
            health: SourceHealth {
                births: 1,
                deaths: 2,
                reliable_ends: true,
                ..SourceHealth::default()
            },
        }
    }

    fn play(source: &mut dyn Source) -> (Vec<Timed>, Vec<SweepChunk>, SweepReport, SourceHealth) {
        let (mut events, mut chunks) = (Vec::new(), Vec::new());
        source.events(&mut events).unwrap();
        let report = source.sweep(&mut |chunk| chunks.push(chunk)).unwrap();
        source.events(&mut events).unwrap();
        (events, chunks, report, source.health())
    }

    #[test]
    fn what_is_recorded_is_played() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        let mut recorder = Recorder::begin(Box::new(source()), &path, DEFAULT_LIMIT).unwrap();
        let recorded = play(&mut recorder);
        assert!(recorder.is_recording());
        drop(recorder);

        let mut replay = Replay::open(&path).unwrap();
        while replay.remaining().unwrap() > Duration::from_nanos(1) {
            std::thread::yield_now();
        }
        let mut played = play(&mut replay);
        // The times have moved by one offset, nothing else has changed.
        let offset = played.2.begin.0 - recorded.2.begin.0;
        let back = |at: &mut flow::BootNanos| at.0 -= offset;
        played.0.iter_mut().for_each(|timed| back(&mut timed.at));
        played.1.iter_mut().for_each(|chunk| back(&mut chunk.at));
        back(&mut played.2.begin);
        back(&mut played.2.end);
        assert_eq!(played, recorded);
    }

    #[test]
    fn a_full_recording_ends_and_the_source_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        let mut recorder = Recorder::begin(Box::new(source()), &path, 600).unwrap();
        let (events, chunks, ..) = play(&mut recorder);
        assert_eq!((events.len(), chunks.len()), (2, 3));
        assert!(!recorder.is_recording());
        drop(recorder);
        assert!(std::fs::metadata(&path).unwrap().len() <= 600);
        let mut events = Vec::new();
        Replay::open(&path).unwrap().events(&mut events).unwrap();
        assert!(!events.is_empty() && events.len() <= 2, "what was written can be played");
        assert!(Recorder::begin(Box::new(source()), &path, 600).is_err(), "nothing is overwritten");
    }
}
