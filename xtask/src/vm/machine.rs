//! Runs an emulated machine and listens to its console.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kernel::{Arch, Fetched};
use super::report::Report;

/// How a run went.
pub(super) struct Verdict {
    pub(super) passed: bool,
    pub(super) took: Duration,
    /// The tests' own last line, where there is one.
    pub(super) summary: String,
    /// What each test said.
    pub(super) report: Report,
}

/// Boots the kernel with the initramfs and waits for it to say how it went, at most `limit`.
pub(super) fn run(
    kernel: &Fetched,
    arch: Arch,
    initramfs: &Path,
    limit: Duration,
) -> Result<Verdict> {
    let begun = Instant::now();
    let (program, machine, console) = match arch {
        Arch::Amd64 => ("qemu-system-x86_64", ["-M", "pc", "-cpu", CPU], "ttyS0"),
        Arch::Arm64 => ("qemu-system-aarch64", ["-M", "virt", "-cpu", "cortex-a72"], "ttyAMA0"),
    };
    let mut machine = Command::new(program)
        .args(machine)
        .args(["-accel", "tcg,thread=multi", "-m", "2048", "-smp", "2"])
        .args(["-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"])
        // On a busy machine the timer comes too late for the kernel that checks it.
        .args(["-append", &format!("console={console} quiet panic=-1 no_timer_check")])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {program}"))?;
    let console = machine.stdout.take().context("the machine has no console")?;
    let (lines, said) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let mut verdict = Verdict {
        passed: false,
        took: Duration::ZERO,
        summary: String::new(),
        report: Report::default(),
    };
    loop {
        match said.recv_timeout(limit.saturating_sub(begun.elapsed())) {
            Ok(line) => {
                eprintln!("  {line}");
                verdict.report.line(&line);
                if line.starts_with("test result:") {
                    verdict.summary = line;
                } else if let Some(status) = line.strip_prefix("conntracct-vm: exit ") {
                    verdict.passed = status == "0";
                    break;
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                verdict.summary = "the machine went down without a word".to_owned();
                break;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                verdict.summary = format!("not done after {limit:.0?}");
                break;
            }
        }
    }
    // It powers off by itself; who took too long is stopped.
    machine.kill().context("could not stop the machine")?;
    machine.wait().context("could not wait for the machine")?;
    verdict.took = begun.elapsed();
    Ok(verdict)
}

/// Everything that can be emulated, without cmpxchg16b: after it qemu 7.2 has garbage for flags
/// now and then, and the kernel falls over it.
const CPU: &str = "max,-cx16";
