//! `conntracct-node test`: the program on this kernel, and a source that lies.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use conntracct_node::netns::{Netns, NetnsChoice};
use conntracct_node::selftest::check::Verdict;
use conntracct_node::selftest::{Opened, Report, run_with};
use conntracct_node::source::netlink::{NetlinkConfig, NetlinkSource};
use conntracct_node::source::{
    Event, Source, SourceError, SourceHealth, SweepChunk, SweepReport, Timed,
};
use flow::{Counters, Reading};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::lab::wait;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped, it needs root for network namespaces");
    }
    root
}

/// Runs the program; its status, what it printed and what it said.
pub(crate) fn program(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conntracct-node"));
    let output = command.env_clear().args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The report of `test` with this source, which must have passed all it could check.
fn passed(source: &str) -> Value {
    let (status, printed, said) = program(&["test", "--source", source, "--json"]);
    assert_eq!(status, Some(0), "{printed}\n{said}");
    let report: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["failed"], 0);
    report
}

fn results(report: &Value) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().unwrap().iter();
    let word = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
    checks.map(|check| (word(check, "name"), word(check, "result"))).collect()
}

#[test]
fn netlink_passes_every_check_on_this_kernel() {
    if !is_root() {
        return;
    }
    let report = passed("netlink");
    assert_eq!(report["source"], "netlink");
    assert!(report["reason"].is_null());
    let results = results(&report);
    assert_eq!(results.len(), 17, "{report}");
    // The kernels of tests have all that the checks need.
    assert!(results.iter().all(|(_, result)| result == "pass"), "{report}");
    let names: BTreeSet<&str> = results.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), 17);
    assert!(["snat v6", "dnat v4", "zone", "uncounted"].iter().all(|name| names.contains(name)));
}

#[test]
fn people_read_one_line_a_check_and_nothing_is_left_behind() {
    if !is_root() {
        return;
    }
    let before = named_namespaces();
    let (status, printed, said) = program(&["test", "--source", "netlink"]);
    assert_eq!((status, said.as_str()), (Some(0), ""), "{printed}");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 1 + 17 + 1, "{printed}");
    assert!(lines[0].contains("source netlink"), "{printed}");
    assert!(lines[18].starts_with("17 passed, 0 failed"), "{printed}");
    let ours: BTreeSet<String> = named_namespaces().difference(&before).cloned().collect();
    assert!(ours.iter().all(|name| name.starts_with("ctt-")), "other tests' only: {ours:?}");
}

fn named_namespaces() -> BTreeSet<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names.map(|name| name.file_name().to_string_lossy().into_owned()).collect()
}

/// The inodes of all network namespaces that a process's descriptors hold.
fn held_by(process: u32) -> BTreeSet<String> {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let links = links.map(|link| link.display().to_string());
    links.filter(|link| link.starts_with("net:[")).collect()
}

#[test]
fn interrupted_it_leaves_no_namespace_behind() {
    if !is_root() {
        return;
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_conntracct-node"))
        .env_clear()
        .args(["test", "--source", "netlink"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = BTreeSet::new();
    wait("its namespaces", Duration::from_secs(60), || {
        held = held_by(child.id());
        held.len() >= 5
    });
    // Nobody else has one of them open or lives in it, and none has a name: with the process the
    // kernel ends them.
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(number) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let inside = std::fs::read_link(process.path().join("ns/net")).unwrap_or_default();
        assert!(!held.contains(&inside.display().to_string()), "{number} lives in one");
        assert!(number == child.id() || held_by(number).is_disjoint(&held), "{number} holds one");
    }
    let named = named_namespaces();
    let inodes = named.iter().filter_map(|name| Netns::named(name).ok()).map(|n| n.inode().0);
    let inodes: BTreeSet<String> = inodes.map(|inode| format!("net:[{inode}]")).collect();
    assert!(inodes.is_disjoint(&held), "one has a name");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "ended by the signal");
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "");
}

#[test]
fn without_root_everything_is_skipped_with_the_reason_and_that_is_no_success() {
    if !is_root() {
        return;
    }
    let node = env!("CARGO_BIN_EXE_conntracct-node");
    let output = Command::new("setpriv")
        .args(["--bounding-set=-sys_admin", "--inh-caps=-all", node, "test", "--json"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!((&report["passed"], &report["failed"]), (&0.into(), &0.into()));
    assert!(results(&report).iter().all(|(_, result)| result == "skipped"));
    let detail = report["checks"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("run it as root"), "{detail}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing could be checked"));
}

/// A source that reports something else than what it reads.
struct Liar<S> {
    source: S,
    lie: fn(&mut Reading),
}

impl<S: Source> Source for Liar<S> {
    fn name(&self) -> &'static str {
        self.source.name()
    }

    fn events(&mut self, out: &mut Vec<Timed>) -> Result<(), SourceError> {
        let mut all = Vec::new();
        self.source.events(&mut all)?;
        for timed in &mut all {
            let (Event::End(reading) | Event::New(reading)) = &mut timed.event;
            (self.lie)(reading);
        }
        out.append(&mut all);
        Ok(())
    }

    fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError> {
        let lie = self.lie;
        self.source.sweep(&mut |mut chunk| {
            chunk.readings.iter_mut().for_each(lie);
            take(chunk);
        })
    }

    fn health(&self) -> SourceHealth {
        self.source.health()
    }
}

fn told_by_a_liar(lie: fn(&mut Reading)) -> Report {
    run_with(&mut |netns: NetnsChoice| {
        let settings = NetlinkConfig { netns, ..NetlinkConfig::default() };
        let source = NetlinkSource::open(settings).map_err(|error| error.to_string())?;
        Ok(Opened { source: Box::new(Liar { source, lie }), instead: None })
    })
}

fn failed(report: &Report) -> BTreeSet<&str> {
    let checks = report.checks.iter().filter(|check| check.result == Verdict::Fail);
    checks.map(|check| check.name.as_str()).collect()
}

#[test]
fn a_source_that_lies_fails() {
    if !is_root() {
        return;
    }
    // One packet too many, everywhere.
    let report = told_by_a_liar(|reading| {
        reading.counters = reading.counters.map(|all| all.plus(Counters::new(1, 40, 0, 0)));
    });
    assert_eq!(report.failed(), 16, "{report:#?}");
    assert_eq!(report.checks.iter().find(|c| c.name == "uncounted").unwrap().result, Verdict::Pass);
    // Uncounted shown as nothing.
    let report = told_by_a_liar(|reading| {
        reading.counters = Some(reading.counters.unwrap_or_default());
    });
    assert_eq!(failed(&report), BTreeSet::from(["uncounted"]));
    // No mark.
    let report = told_by_a_liar(|reading| reading.mark = 0);
    assert_eq!(failed(&report), BTreeSet::from(["ends", "mark"]));
    // Not translated.
    let report = told_by_a_liar(|reading| reading.reply = reading.orig.inverse());
    let nat = ["dnat v4", "dnat v6", "ends", "snat v4", "snat v6"];
    assert_eq!(failed(&report), BTreeSet::from(nat));
}

#[test]
fn a_source_that_cannot_be_opened_is_no_success() {
    if !is_root() {
        return;
    }
    let report = run_with(&mut |_netns| Err("it cannot be had".to_owned()));
    assert_eq!((report.passed(), report.failed(), report.skipped()), (0, 0, 17));
    assert_eq!(report.source, None);
    assert!(report.checks.iter().all(|check| check.detail == "it cannot be had"));
}
