//! The node as an ordinary user: with exactly the capabilities it needs it counts as root does;
//! without one of them it says which.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use serde_json::Value;

use super::lab;
use crate::lab::{Lab, PAYLOAD, SINK, destination, run, wait};
use crate::program::{Fleet, YEAR};

/// Nobody.
const USER: u32 = 65_534;

/// A node's run as [`USER`] in a lab.
struct Attempt<'l> {
    lab: &'l Lab,
    program: PathBuf,
    source: &'static str,
    /// Ambient capabilities, without `cap_`.
    ambient: &'static str,
    /// Further arguments.
    more: Vec<String>,
    /// What `kernel.perf_event_paranoid` is set to.
    paranoid: &'static str,
}

const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

/// The sysctl as it was before a test; put back when dropped.
struct Level(i32);

impl Level {
    fn now() -> i32 {
        std::fs::read_to_string(PARANOID).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        drop(std::fs::write(PARANOID, self.0.to_string()));
    }
}

impl Attempt<'_> {
    fn start(&self, state: &Path) -> Child {
        // As `LimitMEMLOCK=infinity` of the unit: before 5.11 maps count as locked memory.
        let unlimited = Rlimit { current: None, maximum: None };
        setrlimit(Resource::Memlock, unlimited).unwrap();
        // As docs/install.md says for Debian's kernels, where it is 3.
        if Level::now() >= 3 {
            std::fs::write(PARANOID, self.paranoid).unwrap();
        }
        std::os::unix::fs::chown(state, Some(USER), Some(USER)).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.lab.name(), "setpriv", "--clear-groups"]);
        command.args([format!("--reuid={USER}"), format!("--regid={USER}")]);
        let exactly = |list: &str| {
            let each = list.split(' ').filter(|name| !name.is_empty());
            std::iter::once("-all".to_owned())
                .chain(each.map(|name| format!("+{name}")))
                .collect::<Vec<_>>()
                .join(",")
        };
        command.arg(format!("--inh-caps={}", exactly(self.ambient)));
        command.arg(format!("--ambient-caps={}", exactly(self.ambient)));
        command.arg(&self.program).args(["--source", self.source, "--interval", "1s"]);
        command.args(["--http", "off", "--state-dir"]).arg(state).args(&self.more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs it while 100 flows are born and end; gives what it printed of them.
    fn counts(&self) -> BTreeMap<String, (u64, u64)> {
        let state = tempfile::tempdir().unwrap();
        let mut child = self.start(state.path());
        let mut said = String::new();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        while !said.contains("starting") {
            let read = log.read_line(&mut said).unwrap();
            assert!(read > 0, "it has ended:\n{said}");
        }
        let reader = std::thread::spawn(move || {
            let mut rest = String::new();
            log.read_to_string(&mut rest).unwrap();
            rest
        });
        let udp = self.lab.udp();
        for number in 1..101 {
            (0..=number % 3).for_each(|_| udp.send(number).unwrap());
        }
        self.lab.flush();
        wait("an empty table", Duration::from_secs(20), || self.lab.get("count") == 0);
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let mut printed = String::new();
        child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        let status = child.wait().unwrap();
        let rest = reader.join().unwrap();
        assert!(status.success(), "{status}\n{said}{rest}");
        let mut ended = BTreeMap::new();
        for line in printed.lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            if record["event"] == "end" && record["dst_port"] == SINK {
                let numbers =
                    ["packets_orig", "bytes_orig"].map(|key| record[key].as_u64().unwrap());
                ended.insert(record["dst"].as_str().unwrap().to_owned(), numbers.into());
            }
        }
        ended
    }

    /// Runs it to its end; gives the one line that says why.
    fn refusal(&self) -> String {
        let state = tempfile::tempdir().unwrap();
        let output = self.start(state.path()).wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap_or_default().to_owned();
        println!("privileges: {} without one: {last}", self.source);
        last
    }
}

/// A BPF file system of [`USER`]'s own, as the unit's `ExecStartPre=` makes one.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount() -> Self {
        let folder = tempfile::tempdir_in("/run").unwrap();
        let place = folder.path().to_str().unwrap();
        run("mount", &["-t", "bpf", "bpf", place]);
        std::os::unix::fs::chown(place, Some(USER), Some(USER)).unwrap();
        Self(folder)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0.path()).status());
    }
}

/// Reads a log until a line has these words; gives the line.
fn hear(child: &mut Child, words: &str) -> String {
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    loop {
        let begin = said.len();
        let read = log.read_line(&mut said).unwrap();
        assert!(read > 0, "it has ended:\n{said}");
        if said[begin..].contains(words) {
            child.stderr = Some(log.into_inner());
            return said[begin..].to_owned();
        }
    }
}

#[test]
fn ends_wait_for_an_ordinary_user_that_was_killed() {
    let Some(lab) = lab("user") else { return };
    let _level = Level(Level::now());
    let bpffs = Bpffs::mount();
    let [state, keys] = [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/run").unwrap()];
    Fleet::new().issue("gw1", YEAR, keys.path());
    for place in ["", "ca.pem", "node.pem", "node.key"].map(|name| keys.path().join(name)) {
        std::os::unix::fs::chown(place, Some(USER), Some(USER)).unwrap();
    }
    let config = format!(
        "aggregator = \"127.0.0.1:9\"\n[ebpf]\npins = \"{}/node\"\n\
         [tls]\nca = \"{keys}/ca.pem\"\ncert = \"{keys}/node.pem\"\nkey = \"{keys}/node.key\"\n",
        bpffs.0.path().display(),
        keys = keys.path().display()
    );
    let file = keys.path().join("node.toml");
    std::fs::write(&file, config).unwrap();
    let attempt = Attempt {
        lab: &lab,
        program: node(),
        source: "ebpf",
        ambient: "bpf perfmon net_admin",
        more: vec!["-c".to_owned(), file.to_str().unwrap().to_owned()],
        paranoid: "2",
    };
    lab.udp().send(0).unwrap();
    let mut child = attempt.start(state.path());
    let said = hear(&mut child, "source: eBPF");
    lab.udp().send_all(1..101);
    child.kill().unwrap();
    child.wait().unwrap();
    lab.flush();
    if said.contains("waits=false") {
        println!("skipped: hooks of this kernel end with the process");
        return;
    }
    let mut child = attempt.start(state.path());
    let said = hear(&mut child, "ends have waited");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains("waited=101") && said.contains("lost=0"), "{said}");
}

fn expected() -> BTreeMap<String, (u64, u64)> {
    let counters = |number: u32| {
        let packets = u64::from(number % 3 + 1);
        (packets, packets * (28 + PAYLOAD as u64))
    };
    (1..101).map(|number| (destination(number).to_string(), counters(number))).collect()
}

fn node() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_conntracct-node"))
}

#[test]
fn ambient_capabilities_are_enough() {
    let Some(lab) = lab("ambient") else { return };
    let _level = Level(Level::now());
    for (source, ambient) in [("ebpf", "bpf perfmon net_admin"), ("netlink", "net_admin")] {
        lab.udp().send(0).unwrap();
        let more = Vec::new();
        let counts =
            Attempt { lab: &lab, program: node(), source, ambient, more, paranoid: "2" }.counts();
        let mut of_these = counts;
        of_these.remove(&destination(0).to_string());
        assert_eq!(of_these, expected(), "{source}");
    }
}

#[test]
fn file_capabilities_are_enough() {
    let Some(lab) = lab("file") else { return };
    let _level = Level(Level::now());
    let folder = tempfile::tempdir_in("/run").unwrap();
    std::os::unix::fs::chown(folder.path(), Some(USER), Some(USER)).unwrap();
    let program = folder.path().join("conntracct-node");
    std::fs::copy(node(), &program).unwrap();
    run("setcap", &["cap_bpf,cap_perfmon,cap_net_admin+ep", program.to_str().unwrap()]);
    lab.udp().send(0).unwrap();
    let attempt = Attempt {
        lab: &lab,
        program,
        source: "ebpf",
        ambient: "",
        more: Vec::new(),
        paranoid: "2",
    };
    let mut counts = attempt.counts();
    counts.remove(&destination(0).to_string());
    assert_eq!(counts, expected());
}

#[test]
fn what_is_missing_is_named() {
    let Some(lab) = lab("missing") else { return };
    let level = Level(Level::now());
    lab.udp().send(0).unwrap();
    for (source, ambient, missing) in [
        ("ebpf", "perfmon net_admin", "CAP_BPF"),
        ("ebpf", "bpf net_admin", "CAP_PERFMON"),
        ("ebpf", "bpf perfmon", "CAP_NET_ADMIN"),
        ("netlink", "", "CAP_NET_ADMIN"),
    ] {
        let more = Vec::new();
        let said =
            Attempt { lab: &lab, program: node(), source, ambient, more, paranoid: "2" }.refusal();
        assert!(said.contains(missing), "{missing}: {said}");
    }
    if level.0 < 3 {
        return;
    }
    std::fs::write(PARANOID, level.0.to_string()).unwrap();
    let ambient = "bpf perfmon net_admin";
    let (source, more) = ("ebpf", Vec::new());
    let attempt = Attempt { lab: &lab, program: node(), source, ambient, more, paranoid: "3" };
    let said = attempt.refusal();
    assert!(said.contains("kernel.perf_event_paranoid is 3"), "{said}");
}
