//! Single threads of a program we started, held still: what a machine that is too busy, or a disk
//! that hangs, does to them. By ptrace(2), as debuggers do it, so that the product carries no
//! switch for it. The only `unsafe` code here: rustix has no ptrace, and nix, which has, would turn
//! on features of libc in the whole workspace.

#![expect(unsafe_code, reason = "one system call that rustix does not wrap")]

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A thread that stands still until this is dropped. Only the thread that holds it may let it go,
/// so this cannot be sent to another; should we die, the kernel lets it go.
#[derive(Debug)]
pub(crate) struct Held {
    thread: libc::pid_t,
    status: PathBuf,
    _of_this_thread: PhantomData<*const ()>,
}

/// Holds the one thread of `process` that is called `name`. It must not be the first one, which
/// the process is waited for by.
///
/// # Errors
/// There is not exactly one, or the kernel refused.
pub(crate) fn hold(process: rustix::process::Pid, name: &str) -> Result<Held> {
    let process = process.as_raw_nonzero().get();
    let found = threads(process, name)?;
    let [thread] = found[..] else {
        bail!("process {process} has {} threads called {name}, not one", found.len());
    };
    if thread == process {
        bail!("{name} is the first thread of process {process}");
    }
    let failed = || format!("could not hold the thread {name} of process {process}");
    ptrace(libc::PTRACE_SEIZE, thread).with_context(failed)?;
    let status = PathBuf::from(format!("/proc/{process}/task/{thread}/status"));
    let held = Held { thread, status, _of_this_thread: PhantomData };
    ptrace(libc::PTRACE_INTERRUPT, thread).with_context(failed)?;
    let end = Instant::now() + SOON;
    while let Err(error) = held.check() {
        if Instant::now() >= end {
            return Err(error);
        }
        std::thread::yield_now();
    }
    Ok(held)
}

/// A request without arguments.
fn ptrace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    // SAFETY: the requests used here (SEIZE, INTERRUPT, DETACH) take numbers and read or write no
    // memory of this process; what the kernel refuses comes back as an error.
    let done = unsafe { libc::ptrace(request, thread, 0usize, 0usize) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How long an interrupted thread may take to stand still.
const SOON: Duration = Duration::from_secs(10);

impl Held {
    /// # Errors
    /// It does not stand still.
    pub(crate) fn check(&self) -> Result<()> {
        let status = fs::read_to_string(&self.status)
            .with_context(|| format!("could not read {}", self.status.display()))?;
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).map(str::trim);
        match state {
            Some(state) if state.starts_with('t') => Ok(()),
            state => bail!("the thread {} is held, but its state is {state:?}", self.thread),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = ptrace(libc::PTRACE_DETACH, self.thread) {
            eprintln!("the thread {} could not be let go: {error}", self.thread);
        }
    }
}

fn threads(process: i32, name: &str) -> Result<Vec<i32>> {
    let folder = format!("/proc/{process}/task");
    let listed = fs::read_dir(&folder).with_context(|| format!("could not read {folder}"))?;
    let mut found = Vec::new();
    for thread in listed {
        let path = thread?.path();
        // A thread may have ended meanwhile.
        let Ok(comm) = fs::read_to_string(path.join("comm")) else { continue };
        let id = path.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok());
        if let Some(id) = id.filter(|_| comm.trim_end() == name) {
            found.push(id);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_be_that_of_one_thread_which_is_not_the_first() {
        let me = rustix::process::getpid();
        let process = me.as_raw_nonzero().get();
        let error = hold(me, "no-such-thread").unwrap_err().to_string();
        assert!(error.contains("0 threads called no-such-thread"), "{error}");
        let first = fs::read_to_string(format!("/proc/{process}/comm")).unwrap();
        assert!(threads(process, first.trim_end()).unwrap().contains(&process));
    }
}
