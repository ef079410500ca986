//! `conntracct-node doctor` where eBPF can be had, and flowtables.

use std::process::Command;

use serde_json::Value;

use super::lab;
use crate::lab::Lab;

/// The findings in a lab, with a configuration that demands eBPF.
fn look(lab: &Lab) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let (config, state) = (folder.path().join("node.toml"), folder.path().join("state"));
    std::fs::write(&config, "source = \"ebpf\"\napi_enabled = false\n").unwrap();
    let node = env!("CARGO_BIN_EXE_conntracct-node");
    let output = Command::new("ip")
        .args(["netns", "exec", lab.name(), node, "doctor", "--json", "-c"])
        .arg(&config)
        .arg("--state-dir")
        .arg(&state)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(report["problems"] != 0)), "{report}");
    report["findings"].as_array().unwrap().clone()
}

fn of<'f>(findings: &'f [Value], check: &str) -> (&'f str, &'f str) {
    let found = findings.iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check} in {findings:?}"));
    (found["severity"].as_str().unwrap(), found["text"].as_str().unwrap())
}

#[test]
fn the_ebpf_source_is_tried_and_its_hooks_are_named() {
    let Some(lab) = lab("doctor") else { return };
    let empty = look(&lab);
    assert_eq!(of(&empty, "source.ebpf").0, "problem", "nothing to prove it on: {empty:?}");
    lab.udp().send_all(0..20);
    let found = look(&lab);
    assert_eq!(of(&found, "source.ebpf").0, "ok", "{found:?}");
    assert_eq!(of(&found, "source.kprobes").0, "ok");
    assert_eq!(of(&found, "privileges.ebpf").0, "ok");
    assert!(of(&found, "source.hooks").1.contains("__nf_conntrack_hash_insert"), "{found:?}");
    assert_eq!(of(&found, "conntrack.tracking").0, "ok", "{found:?}");
    assert!(found.iter().all(|finding| finding["severity"] != "problem"), "{found:?}");
}

#[test]
fn a_flowtable_that_does_not_count_is_named() {
    let Some(lab) = lab("flowtable") else { return };
    let flowtable = |name: &str, counter: &str| {
        let inside = format!("hook ingress priority 0; devices = {{ lo }}; {counter}");
        let rules = format!("table inet {name} {{\nflowtable fast {{ {inside} }}\n}}");
        let args = ["netns", "exec", lab.name(), "nft", &rules];
        Command::new("ip").args(args).status().unwrap().success()
    };
    if !flowtable("counting", "counter;") {
        println!("skipped, this kernel or nft has no counting flowtables");
        return;
    }
    assert_eq!(of(&look(&lab), "conntrack.flowtables").0, "ok");
    assert!(flowtable("blind", ""));
    let found = look(&lab);
    let (severity, text) = of(&found, "conntrack.flowtables");
    assert_eq!(severity, "problem");
    assert!(text.contains("blind fast") && !text.contains("counting"), "{text}");
}
