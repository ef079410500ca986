//! The product's programs: built, given keys, started. The one place that spells their flags.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::http::{self, Answer};
use super::process::Running;
use super::stored;
use crate::interrupt::Interrupt;
use crate::lab::netns::Netns;
use crate::workspace::{self, CI_PROFILE, cargo};

/// Where the aggregator listens for nodes, on every address.
pub(crate) const PORT: u16 = 4433;
/// Where programs answer HTTP, each on the loopback of its own namespace.
pub(crate) const AGGREGATOR_HTTP: u16 = 8080;
pub(crate) const NODE_HTTP: u16 = 8000;
/// How long a program may take to be ready.
const START: Duration = Duration::from_secs(30);
/// Pages that say whether a program can do its work, and whether it runs at all.
const READY: &str = "/readyz";
const ALIVE: &str = "/healthz";
/// How long a program may take to flush and end.
const STOP: Duration = Duration::from_secs(60);

/// The two programs' paths.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    node: PathBuf,
    aggregator: PathBuf,
}

impl Programs {
    /// Builds both with this profile.
    pub(crate) fn build(profile: &str) -> Result<Self> {
        let mut command = cargo(["build", "--locked", "--profile", profile, "--bins"]);
        if profile == CI_PROFILE {
            // As the tests were built just before, so that no dependency is built again with
            // other features.
            command.args(["--workspace", "--tests"]);
        } else {
            command.args(["-p", "conntracct-node", "-p", "conntracct-aggregator"]);
        }
        workspace::run(&mut command)?;
        let folder = workspace::target_dir().join(if profile == "dev" { "debug" } else { profile });
        let program = |name| -> Result<PathBuf> {
            let path = folder.join(name);
            path.canonicalize().with_context(|| format!("{} was not built", path.display()))
        };
        Ok(Self {
            node: program("conntracct-node")?,
            aggregator: program("conntracct-aggregator")?,
        })
    }
}

/// Where a program runs.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// On this machine as it is.
    Here,
    /// In a namespace.
    In(&'a Netns),
}

impl Place<'_> {
    fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Place::Here => Command::new(program),
            Place::In(netns) => netns.command(program),
        }
    }

    /// Runs `inside` there.
    pub(crate) fn enter<T: Send>(self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self {
            Place::Here => inside(),
            Place::In(netns) => netns.enter(inside),
        }
    }
}

/// An aggregator with its folder; it may be stopped and started again.
pub(crate) struct Aggregator<'a> {
    programs: Programs,
    place: Place<'a>,
    folder: PathBuf,
    store: String,
    /// A file of more configuration.
    config: Option<PathBuf>,
    running: Option<Running>,
}

impl<'a> Aggregator<'a> {
    /// Makes the keys of an aggregator that is reached by these names. Nothing runs yet.
    pub(crate) fn prepare(
        programs: &Programs,
        place: Place<'a>,
        folder: &Path,
        store: Option<&str>,
        names: &[String],
    ) -> Result<Self> {
        let folder = folder.join("aggregator");
        fs::create_dir(&folder)?;
        let store = store
            .map_or_else(|| format!("sqlite:{}", folder.join("flows.db").display()), str::to_owned);
        let mut command = Command::new(&programs.aggregator);
        command.args(["pki", "init", "--dir"]).arg(folder.join("pki"));
        for name in names {
            command.args(["--san", name]);
        }
        workspace::output(&mut command)?;
        Ok(Self { programs: programs.clone(), place, folder, store, config: None, running: None })
    }

    /// Gives it a configuration file, unless there is nothing to say.
    pub(crate) fn configure(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let file = self.folder.join("aggregator.toml");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        self.config = Some(file);
        Ok(())
    }

    /// Where other programs find the store.
    pub(crate) fn stored(&self) -> stored::Place {
        stored::Place::of(&self.store)
    }

    /// Its flags for the store, for commands that read it.
    pub(crate) fn reading(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.aggregator);
        command.args(arguments).args(["--store", &self.store]);
        command.arg("--state-dir").arg(&self.folder);
        command
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&mut self, interrupt: &Interrupt) -> Result<()> {
        let mut command = self.place.command(&self.programs.aggregator);
        command.args(["--listen", &format!("[::]:{PORT}")]);
        command.args(["--http", &format!("127.0.0.1:{AGGREGATOR_HTTP}")]);
        command.args(["--store", &self.store]);
        command.arg("--state-dir").arg(&self.folder);
        command.arg("--pki").arg(self.folder.join("pki"));
        if let Some(file) = &self.config {
            command.arg("--config").arg(file);
        }
        let log = self.folder.join("log");
        let running = self.running.insert(Running::start("the aggregator", command, &log)?);
        ready(self.place, AGGREGATOR_HTTP, READY, running, interrupt)
    }

    /// Whether it still runs, though nobody stopped it.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.running.as_mut().map_or(Ok(()), Running::check)
    }

    /// A page of its HTTP listener.
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        let address = SocketAddr::from(([127, 0, 0, 1], AGGREGATOR_HTTP));
        self.place.enter(|| http::get(address, path))
    }

    /// What it has logged in all its lives.
    pub(crate) fn log(&self) -> Result<String> {
        let log = self.folder.join("log");
        fs::read_to_string(&log).with_context(|| log.display().to_string())
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |running| running.terminate(STOP))
    }

    /// Ends it as a power cut would end the process.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Running::kill)
    }
}

/// A node with its folder; it may be stopped and started again.
pub(crate) struct Node<'a> {
    name: String,
    programs: Programs,
    place: Place<'a>,
    folder: PathBuf,
    aggregator: SocketAddr,
    interval: String,
    http: u16,
    /// Network namespaces it reads, unless only its own.
    netns: Vec<String>,
    /// Instead of the kernel.
    recording: Option<PathBuf>,
    running: Option<Running>,
}

impl<'a> Node<'a> {
    /// Issues a node's keys and installs them. Nothing runs yet.
    pub(crate) fn prepare(
        of: &Aggregator<'_>,
        place: Place<'a>,
        name: &str,
        aggregator: SocketAddr,
        interval: &str,
    ) -> Result<Self> {
        let folder = of.folder.with_file_name(name);
        fs::create_dir(&folder)?;
        let bundle = folder.join("bundle");
        let mut issue = Command::new(&of.programs.aggregator);
        issue.args(["pki", "issue", name, "-o"]).arg(&bundle);
        workspace::output(issue.arg("--dir").arg(of.folder.join("pki")))?;
        let mut join = Command::new(&of.programs.node);
        join.arg("join").arg(&bundle).arg("--dir").arg(folder.join("pki"));
        workspace::output(&mut join)?;
        Ok(Self {
            name: name.to_owned(),
            programs: of.programs.clone(),
            place,
            folder,
            aggregator,
            interval: interval.to_owned(),
            http: NODE_HTTP,
            netns: Vec::new(),
            recording: None,
            running: None,
        })
    }

    /// Lets it answer HTTP on another port: several may run in one place.
    pub(crate) fn http(self, port: u16) -> Self {
        Self { http: port, ..self }
    }

    /// Lets it read these network namespaces; none means its own.
    pub(crate) fn reading(self, netns: Vec<String>) -> Self {
        Self { netns, ..self }
    }

    /// Lets its next life play this recording.
    pub(crate) fn replay(&mut self, file: &Path) {
        self.recording = Some(file.to_owned());
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Starts it and waits until it reads the kernel's events and has reached the aggregator.
    pub(crate) fn start(&mut self, interrupt: &Interrupt) -> Result<()> {
        self.start_until(READY, interrupt)
    }

    /// Starts it where the aggregator may be out of reach.
    pub(crate) fn start_apart(&mut self, interrupt: &Interrupt) -> Result<()> {
        self.start_until(ALIVE, interrupt)
    }

    fn start_until(&mut self, page: &str, interrupt: &Interrupt) -> Result<()> {
        let pki = self.folder.join("pki");
        let mut command = self.place.command(&self.programs.node);
        command.args(["--aggregator", &self.aggregator.to_string()]);
        command.arg("--ca").arg(pki.join("ca.pem"));
        command.arg("--cert").arg(pki.join("node.pem"));
        command.arg("--key").arg(pki.join("node.key"));
        command.arg("--state-dir").arg(self.state());
        command.args(["--http", &format!("127.0.0.1:{}", self.http)]);
        if !self.netns.is_empty() {
            command.args(["--netns", &self.netns.join(",")]);
        }
        if let Some(file) = &self.recording {
            command.args(["--source", &format!("replay:{}", file.display())]);
        }
        command.args(["--name", &self.name, "--interval", &self.interval]);
        let log = self.folder.join("log");
        let running = self.running.insert(Running::start(&self.name, command, &log)?);
        ready(self.place, self.http, page, running, interrupt)
    }

    /// Whether it still runs, though nobody stopped it.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.running.as_mut().map_or(Ok(()), Running::check)
    }

    /// Lets it flush and ends it in order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |running| running.terminate(STOP))
    }

    /// Ends it as a power cut would end the process.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Running::kill)
    }

    /// Forgets everything it knew but its keys. It must not run.
    pub(crate) fn wipe(&self) -> Result<()> {
        fs::remove_dir_all(self.state())
            .with_context(|| format!("could not wipe {}", self.state().display()))
    }

    /// Its metrics.
    pub(crate) fn metrics(&self) -> Result<String> {
        Ok(self.get("/metrics")?.body)
    }

    /// A page of its HTTP listener.
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.http));
        self.place.enter(|| http::get(address, path))
    }

    /// The program, while it runs.
    pub(crate) fn running(&self) -> Result<&Running> {
        self.running.as_ref().with_context(|| format!("{} does not run", self.name))
    }

    /// Its state folder.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }
}

/// Waits until a page of a program says that all is well.
fn ready(
    place: Place<'_>,
    port: u16,
    page: &str,
    running: &mut Running,
    interrupt: &Interrupt,
) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut last = String::from("no answer");
    let waited = interrupt.wait_for("a program to be ready", START, || {
        running.check()?;
        Ok(match place.enter(|| http::get(address, page)) {
            Ok(answer) if answer.status == 200 => Some(()),
            Ok(answer) => {
                last = format!("{} {}", answer.status, answer.body.trim());
                None
            }
            Err(_) => None,
        })
    });
    waited.with_context(|| format!("{page} said: {last}, the log ends with\n{}\n", running.tail()))
}
