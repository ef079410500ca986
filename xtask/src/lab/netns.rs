//! A network namespace of our own: made, entered by threads and programs, and gone with its
//! value.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::threads::outcome;
use crate::workspace;

/// Every namespace of every lab starts with this; nothing else does.
const PREFIX: &str = "ctlab-";

/// Where `ip netns` keeps its names.
const FOLDER: &str = "/run/netns";

/// A namespace; dropping it deletes it.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace `ctlab-<our pid>-<role>` with its loopback up.
    pub(crate) fn create(role: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        workspace::output(Command::new("ip").args(["netns", "add", &name]))?;
        let made = Self { name };
        // Without waiting for duplicate addresses: a tentative link-local address cannot ask for
        // neighbours, and a SYN sent again is one that conntrack sees and does not count.
        made.sysctl(&[
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.dad_transmits", "0"),
            // Where packets come by another way than they would go.
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
        ])?;
        made.ip(&["link set lo up"])?;
        Ok(made)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    /// Runs `ip` commands in it.
    pub(crate) fn ip(&self, commands: &[impl AsRef<str>]) -> Result<()> {
        for command in commands {
            let words = command.as_ref().split_whitespace();
            workspace::output(Command::new("ip").args(["-n", &self.name]).args(words))?;
        }
        Ok(())
    }

    /// A program to be run in it. `ip` becomes the program, so the child's pid is the program's.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `inside` on a thread of its own that has entered the namespace. Sockets made there,
    /// and threads started there, belong to the namespace.
    pub(crate) fn enter<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let link = File::open(self.path())
                    .with_context(|| format!("could not open the namespace {}", self.name))?;
                move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("could not enter the namespace {}", self.name))?;
                inside()
            });
            outcome(thread.join(), "a thread in a namespace")
        })
    }

    /// How many conntrack entries it has, without reading them.
    pub(crate) fn entries(&self) -> Result<u64> {
        self.enter(|| {
            let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")
                .context("could not read nf_conntrack_count")?;
            text.trim().parse().context("nf_conntrack_count is no number")
        })
    }

    /// Writes kernel settings (below /proc/sys, with dots) as they are seen inside.
    pub(crate) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/{}", key.replace('.', "/"));
                fs::write(&path, value)
                    .with_context(|| format!("could not set {key} to {value} in {}", self.name))?;
            }
            Ok(())
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            eprintln!("leftover, try `cargo xtask lab clean`: {error:#}");
        }
    }
}

fn delete(name: &str) -> Result<()> {
    workspace::output(Command::new("ip").args(["netns", "del", name])).map(drop)
}

/// Deletes every lab's namespaces whose maker is gone, and ends what still runs in them. With
/// `all`, those of living makers too. Gives their names.
pub(crate) fn clean(all: bool) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    let Ok(names) = fs::read_dir(FOLDER) else {
        return Ok(gone);
    };
    for name in names {
        let name = name?.file_name().to_string_lossy().into_owned();
        let Some(maker) = maker(&name) else {
            continue;
        };
        if !all && PathBuf::from(format!("/proc/{maker}")).exists() {
            continue;
        }
        let inside = workspace::output(Command::new("ip").args(["netns", "pids", &name]))?;
        for pid in String::from_utf8_lossy(&inside).split_whitespace() {
            let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                // It may have ended meanwhile: that is what we want.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        delete(&name)?;
        gone.push(name);
    }
    Ok(gone)
}

/// The process that made a namespace of this name, if it is one of ours.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_a_maker() {
        assert_eq!(maker("ctlab-17-gw1"), Some(17));
        assert_eq!(maker("ctlab-x-gw1"), None);
        assert_eq!(maker("prod"), None);
    }
}
