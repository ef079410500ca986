//! The real program with a recording for a kernel: started, told to reload, stopped.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemon::http::{Listener, get};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustix::process::{Pid, Signal, kill_process};
use time::OffsetDateTime;

use crate::lab::wait;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running node; killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) listener: Listener,
    said: Arc<Mutex<String>>,
    printed: Arc<Mutex<String>>,
}

fn follow(stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            let mut text = shared.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

impl Program {
    /// Starts one and waits until it listens.
    pub(crate) fn start(arguments: &[&str], token: Option<PathBuf>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conntracct-node"));
        command.env_clear().args(arguments);
        Self::spawn(command, token)
    }

    /// Starts it by a command that becomes the program, and waits until it listens.
    pub(crate) fn spawn(mut command: Command, token: Option<PathBuf>) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = follow(child.stderr.take().unwrap());
        let printed = follow(child.stdout.take().unwrap());
        let listener = Listener { addresses: Vec::new(), hosts: Vec::new(), token, tls: None };
        let mut program = Self { child, listener, said, printed };
        program.wait_for("listening for HTTP");
        let said = program.said();
        let (_, rest) = said.split_once("addresses=[").unwrap();
        let (address, _) = rest.split_once(']').unwrap();
        program.listener.addresses.push(address.parse().unwrap());
        program
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits for a line of log with all these words after what it `said` before; gives the line.
    fn hear(&self, before: usize, words: &[&str]) -> String {
        let mut found = None;
        wait(&format!("{words:?}"), PATIENCE, || {
            let said = self.said();
            let heard = |line: &&str| words.iter().all(|word| line.contains(word));
            found = said[before..].lines().find(heard).map(str::to_owned);
            assert!(is_running(&self.child) || found.is_some(), "it has ended:\n{said}");
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.hear(0, &[words])
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends SIGHUP and gives the line it says then.
    fn hang_up(&self) -> String {
        let before = self.said().len();
        self.signal(Signal::HUP);
        self.hear(before, &["reloaded"])
    }

    pub(crate) fn status(&self, target: &str) -> u16 {
        get(&self.listener, target).unwrap().status
    }

    pub(crate) fn text(&self, target: &str) -> String {
        String::from_utf8(get(&self.listener, target).unwrap().body).unwrap()
    }

    /// Ends it in order.
    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        (self.child.wait().unwrap(), self.said())
    }
}

fn is_running(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A recording of one sweep over these flows (protocol, source, destination), each with 3 packets
/// and 300 bytes there and 2 and 200 back, and of the ends of the last `ended` of them; then
/// silence for an hour.
pub(crate) fn recording(file: &Path, flows: &[(u8, &str, &str)], ended: usize) {
    let entry = |n: usize| {
        let (proto, src, dst) = flows[n];
        let start = 1_700_000_000_000_000_000 + n;
        format!(
            "{{\"netns\":1,\"orig\":[{proto},\"{src}\",\"{dst}\",1000,53],\"reply\":[{proto},\
             \"{dst}\",\"{src}\",53,1000],\"start\":{start},\"id\":{n},\
             \"counters\":[3,300,2,200]}}"
        )
    };
    let all: Vec<_> = (0..flows.len()).map(entry).collect();
    let mut text = String::from(
        "{\"conntracct_recording\":1,\"source\":\"netlink\",\"boot\":\"\",\"kernel\":\"6.12\"}\n",
    );
    text.push_str(&format!("{{\"at\":2000,\"live\":[{}]}}\n", all.join(",")));
    text.push_str(
        "{\"sweep\":{\"begin\":1000,\"end\":2000,\"complete\":[1],\"failed\":[],\"gone\":[]}}\n",
    );
    for end in &all[all.len() - ended..] {
        text.push_str(&format!("{{\"at\":3000,\"end\":{end}}}\n"));
    }
    text.push_str("{\"at\":3600000000000,\"new\":");
    text.push_str(&all[0]);
    text.push_str("}\n");
    std::fs::write(file, text).unwrap();
}

#[test]
fn filtered_flows_are_in_no_record_and_counted_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.record");
    let flows = [
        (6, "10.0.0.1", "192.0.2.1"),
        (6, "127.0.0.1", "127.0.0.1"),
        (17, "10.9.0.1", "192.0.2.1"),
        (1, "10.0.0.3", "192.0.2.1"),
        (17, "10.0.0.2", "10.9.0.2"),
        (17, "10.0.0.4", "192.0.2.4"),
    ];
    recording(&file, &flows, 2);
    let source = format!("replay:{}", file.display());
    let state = folder.path().display().to_string();
    let arguments = [
        "--source",
        &source,
        "--state-dir",
        &state,
        "--http",
        "127.0.0.1:0",
        "--interval",
        "1s",
        "--exclude-loopback",
        "--exclude",
        "10.9.0.0/16",
        "--exclude-protocols",
        "icmp,icmpv6",
    ];
    let program = Program::start(&arguments, None);
    program.wait_for("some flows are left out");
    let printed = || program.printed.lock().unwrap().clone();
    wait("the end of 10.0.0.4", PATIENCE, || {
        printed().lines().any(|line| line.contains("10.0.0.4") && line.contains("\"end\""))
    });
    let lines = printed();
    for line in lines.lines() {
        let known = line.contains("10.0.0.1") || line.contains("10.0.0.4");
        assert!(known && !line.contains("10.9."), "{line}");
    }
    assert!(lines.contains("10.0.0.1"), "{lines}");

    let metrics = program.text("/metrics");
    for line in [
        "conntracct_filter_live_flows{cause=\"loopback\"} 1",
        "conntracct_filter_live_flows{cause=\"protocol\"} 1",
        "conntracct_filter_live_flows{cause=\"address\"} 2",
        "conntracct_filter_live_packets{cause=\"address\"} 10",
        "conntracct_filter_live_bytes{cause=\"loopback\"} 500",
        "conntracct_filter_ended_flows_total{cause=\"address\"} 1",
        "conntracct_filter_ended_bytes_total{cause=\"address\"} 500",
        "conntracct_filter_ended_flows_total{cause=\"loopback\"} 0",
        "conntracct_table_ends 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} not in:\n{metrics}");
    }
    let (status, said) = program.terminate();
    assert!(status.success(), "{status}:\n{said}");
}

/// A small authority of the test.
pub(crate) struct Fleet {
    pub(crate) ca: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Authorities of one name would be taken for each other until the signature is looked at.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::from_ca_cert_pem(&ca, key).unwrap(), ca }
    }

    /// Writes the keys of node `name`, good for this long from now.
    pub(crate) fn issue(&self, name: &str, time: Duration, folder: &Path) {
        let mut params = CertificateParams::default();
        let uri = format!("conntracct:node:{name}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(60);
        params.not_after = OffsetDateTime::now_utc() + time;
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        for (file, text) in
            [("ca.pem", &self.ca), ("node.pem", &cert), ("node.key", &key.serialize_pem())]
        {
            std::fs::write(folder.join(file), text).unwrap();
        }
    }
}

pub(crate) const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A folder with everything that a node with an aggregator (where nobody listens) runs on.
struct Site {
    folder: tempfile::TempDir,
    fleet: Fleet,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), fleet: Fleet::new() };
        recording(&site.file("a.record"), &[(6, "10.0.0.1", "192.0.2.1")], 0);
        site.configure("");
        site
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, name: &str, time: Duration) {
        self.fleet.issue(name, time, self.folder.path());
    }

    /// Writes the configuration, `more` before its tables.
    fn configure(&self, more: &str) {
        self.configure_all(more, "info");
    }

    fn configure_all(&self, more: &str, level: &str) {
        let here = self.folder.path().display();
        let text = format!(
            "aggregator = \"127.0.0.1:9\"\nsource = \"replay:{here}/a.record\"\n\
             state_dir = \"{here}/state\"\napi_endpoint = \"127.0.0.1:0\"\n{more}\n\
             [api]\ntoken_file = \"{here}/token\"\n\
             [tls]\nca = \"{here}/ca.pem\"\ncert = \"{here}/node.pem\"\nkey = \"{here}/node.key\"\n\
             [log]\nlevel = \"{level}\"\n"
        );
        std::fs::write(self.file("node.toml"), text).unwrap();
    }

    fn start(&self) -> Program {
        let config = self.file("node.toml");
        Program::start(&["-c", config.to_str().unwrap()], Some(self.file("token")))
    }
}

#[test]
fn hanging_up_reloads_what_can_be_and_ends_nothing() {
    let site = Site::new();
    site.issue("gw1", YEAR);
    let program = site.start();
    let line = program.hang_up();
    assert!(line.contains("changed=\"nothing\" needs_restart=\"nothing\""), "{line}");

    // Everything that can change does, and what cannot is named.
    site.issue("gw1", 2 * YEAR);
    std::fs::write(site.file("token"), "a-token-of-more-than-16-bytes\n").unwrap();
    site.configure_all("interval = \"7s\"\n[filter]\nexclude = [\"10.9.0.0/16\"]", "debug");
    assert_eq!(program.status("/stats"), 401, "the token before is in force");
    let line = program.hang_up();
    for words in ["node certificate (until 20", "HTTP token", "log.level (info -> debug)"] {
        assert!(line.contains(words), "{words} not in {line}");
    }
    assert!(line.contains("needs_restart=\"filter.exclude, interval\""), "{line}");
    assert_eq!(program.status("/stats"), 200);
    let line = program.hang_up();
    assert!(line.contains("changed=\"nothing\" needs_restart=\"filter.exclude, interval\""));

    // What is wrong is told and changes nothing.
    site.issue("gw2", YEAR);
    let line = program.hang_up();
    assert!(line.contains("WARN") && line.contains("reloaded in part"), "{line}");
    assert!(line.contains("restart it to run as gw2"), "{line}");
    std::fs::remove_file(site.file("node.key")).unwrap();
    assert!(program.hang_up().contains("node.key is missing"));
    site.configure("intervall = \"7s\"");
    let line = program.hang_up();
    assert!(line.contains("nothing was reloaded") && line.contains("`interval`"), "{line}");
    std::fs::remove_file(site.file("node.toml")).unwrap();
    assert!(program.hang_up().contains("nothing was reloaded"));
    (0..20).for_each(|_| program.signal(Signal::HUP));

    assert_eq!(program.status("/healthz"), 200);
    let (status, said) = program.terminate();
    assert!(status.success(), "{status}:\n{said}");
    assert!(said.contains("a last sweep") && said.lines().last().unwrap().contains("stopped"));
}

#[test]
fn a_certificate_that_ends_is_told_early_and_late_and_can_be_renewed() {
    let site = Site::new();
    site.issue("gw1", Duration::from_secs(8));
    let program = site.start();
    let line = program.hear(0, &["ERROR", "this node's certificate ends in 0 days"]);
    assert!(line.contains("pki issue NAME --renew") && line.contains("SIGHUP"), "{line}");
    program.hear(0, &["ERROR", "this node's certificate has expired"]);
    let expired = || {
        let ready: serde_json::Value = serde_json::from_str(&program.text("/readyz")).unwrap();
        let certificates = &ready["conditions"]["certificates"];
        assert_eq!(certificates["ok"] == false, certificates["why"].is_string(), "{ready}");
        certificates["ok"] == false
    };
    assert!(expired());

    site.issue("gw1", YEAR);
    let line = program.hang_up();
    assert!(line.contains("node certificate (until 20"), "{line}");
    wait("the renewed certificate", PATIENCE, || !expired());
    let metrics = program.text("/metrics");
    let ends = metrics.lines().find_map(|line| {
        line.strip_prefix("conntracct_uplink_certificate_expiry_seconds{certificate=\"node\"} ")
    });
    let ends: i64 = ends.unwrap().parse().unwrap();
    let left = ends - OffsetDateTime::now_utc().unix_timestamp();
    assert!((364..=365).contains(&(left / 86_400)), "{left} s");
}
