//! A whole node that watches many live flows, without a kernel that has them: a recording of
//! sweeps in which all of them grow, and the memory of the process that plays it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use conntracct_node::clock;
use conntracct_node::source::record::{DEFAULT_LIMIT, Recorder};
use conntracct_node::source::{Source, SourceError, SourceHealth, SweepChunk, SweepReport, Timed};
use flow::BootNanos;

use super::gateway::{Gateway, NETNS};

/// What a recording is of.
pub(crate) struct Plan {
    /// Live flows.
    pub(crate) flows: u32,
    /// Sweeps, a second apart.
    pub(crate) sweeps: u64,
}

/// Writes a recording.
pub(crate) fn record(plan: &Plan, file: &Path) -> Result<(), SourceError> {
    let start = clock::now();
    let now = clock::wall().get().unsigned_abs();
    let source = Generated { gateway: Gateway::new(plan.flows, now), start, swept: 0 };
    let mut recorder = Recorder::begin(Box::new(source), file, DEFAULT_LIMIT)?;
    for _ in 0..plan.sweeps {
        recorder.sweep(&mut drop)?;
    }
    Ok(())
}

/// A source of sweeps that never were.
struct Generated {
    gateway: Gateway,
    start: BootNanos,
    swept: u64,
}

impl Source for Generated {
    fn name(&self) -> &'static str {
        "generated"
    }

    fn events(&mut self, _: &mut Vec<Timed>) -> Result<(), SourceError> {
        Ok(())
    }

    fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError> {
        let begin = BootNanos(self.start.0 + self.swept * SECOND);
        self.swept += 1;
        self.gateway.grow();
        if self.swept == 2 {
            self.gateway.settle();
        }
        let chunks = self.gateway.chunks(begin);
        let end = chunks.last().map_or(begin, |chunk| chunk.at);
        chunks.into_iter().for_each(take);
        let complete = vec![NETNS];
        Ok(SweepReport { begin, end, complete, failed: Vec::new(), gone: Vec::new() })
    }

    fn health(&self) -> SourceHealth {
        SourceHealth { reliable_ends: true, ..SourceHealth::default() }
    }
}

/// A running program; it ends with this.
pub(crate) struct Running {
    program: Child,
    log: Option<BufReader<ChildStderr>>,
}

impl Running {
    /// Starts a program whose log can be read.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut program = command.spawn()?;
        let log = program.stderr.take().map(BufReader::new);
        Ok(Self { program, log })
    }

    /// Reads its log until `enough` says so of a line.
    ///
    /// # Errors
    /// It ended before; what it had said.
    pub(crate) fn read_until(
        &mut self,
        mut enough: impl FnMut(&str) -> bool,
    ) -> Result<(), String> {
        let mut said = String::from("the program ended too early: ");
        let lines = self.log.iter_mut().flat_map(BufRead::lines);
        for line in lines.map_while(Result::ok) {
            if enough(&line) {
                return Ok(());
            }
            said.push_str(&line);
            said.push('\n');
        }
        Err(said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.program.kill();
        let _reaped = self.program.wait();
    }
}

/// Plays a recording to its end; the most memory that the node had resident by then, in bytes, and
/// the records it had spooled. `node` is the program with the flags that give it keys, a state
/// folder and an aggregator.
pub(crate) fn peak_memory(node: &mut Command, recording: &Path) -> Result<(u64, u64), String> {
    node.args(["--debug", "--interval", "1s", "--http", "off", "--source"])
        .arg(format!("replay:{}", recording.display()));
    let mut running = Running::start(node).map_err(|error| format!("{node:?}: {error}"))?;
    let mut spooled = 0;
    running.read_until(|line| {
        spooled += records(line).unwrap_or_default();
        line.contains("the source has come to its end")
    })?;
    let peak =
        memory(&running.program.id().to_string(), "VmHWM").map_err(|error| error.to_string())?;
    Ok((peak, spooled))
}

/// The records that a line of the node's log says were spooled.
fn records(line: &str) -> Option<u64> {
    let rest = line.contains("spooled").then(|| line.split_once("records=")).flatten()?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A process's memory as `/proc` names it, in bytes.
pub(crate) fn memory(process: &str, name: &str) -> std::io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| std::io::Error::other(format!("no {name}")))
}

const SECOND: u64 = 1_000_000_000;
