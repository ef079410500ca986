//! A program we started: its log, its end, and the promise that it does not outlive us.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Lines of a log that an error shows.
const TAIL: usize = 25;

/// A running program. Dropping it kills it.
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program whose output is added to the file `log`. It gets a process group of its
    /// own: a Ctrl-C in the terminal is for us, and we end it in order.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("could not open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// # Errors
    /// It has ended, though nobody asked it to; with the end of its log.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended by itself ({status}); it said:\n{}", self.name, self.tail())
            }
        }
    }

    /// Asks it to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It did not end within `patience` (it is killed then), or not successfully.
    pub(crate) fn terminate(mut self, patience: Duration) -> Result<()> {
        self.check()?;
        self.signal(Signal::TERM)?;
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("{} ended with {status}; it said:\n{}", self.name, self.tail());
            }
            if Instant::now() >= end {
                bail!("{} did not end within {patience:?}; it said:\n{}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it the hard way (SIGKILL) and waits until it is gone.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.check()?;
        self.signal(Signal::KILL)?;
        self.child.wait().with_context(|| format!("could not wait for {}", self.name))?;
        Ok(())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal).with_context(|| format!("could not signal {}", self.name))
    }

    /// The last lines of its log.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Nothing is left to do about a failure here.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(name: &str, script: &str) -> (Running, PathBuf) {
        let log = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        (Running::start(name, command, &log).unwrap(), log)
    }

    #[test]
    fn a_program_that_fails_is_told_with_its_last_words() {
        let (mut running, log) = start("fails", "echo last words; exit 3");
        running.child.wait().unwrap();
        let error = running.check().unwrap_err().to_string();
        assert!(error.contains("last words") && error.contains('3'), "{error}");
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn terminate_waits_for_an_orderly_end_and_insists_on_success() {
        // The first line of the log says that the trap is set.
        let script =
            |code| format!("trap 'exit {code}' TERM; echo ready; while :; do sleep 0.01; done");
        for (code, good) in [(0, true), (4, false)] {
            let (running, log) = start(&format!("term{code}"), &script(code));
            while fs::read_to_string(&log).unwrap().is_empty() {
                std::thread::yield_now();
            }
            assert_eq!(running.terminate(Duration::from_secs(20)).is_ok(), good);
            fs::remove_file(log).unwrap();
        }
    }

    #[test]
    fn dropping_kills() {
        let (running, log) = start("drop", "sleep 600");
        let pid = Pid::from_child(&running.child);
        drop(running);
        assert!(rustix::process::test_kill_process(pid).is_err());
        fs::remove_file(log).unwrap();
    }
}
