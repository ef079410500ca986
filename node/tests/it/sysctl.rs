//! Sysctl management in real namespaces.

use std::path::Path;

use conntracct_node::clock::boot_id;
use conntracct_node::netns::NetnsChoice;
use conntracct_node::sysctl::{
    Changed, Key, LongTimeout, STATE_FILE, SysctlConfig, Sysctls, Warning, restore,
};

use crate::lab::Lab;

fn config(lab: &Lab, folder: &Path) -> SysctlConfig {
    SysctlConfig {
        manage: true,
        netns: NetnsChoice::Listed(vec![lab.name().to_owned()]),
        state_folder: folder.to_owned(),
        restore_on_exit: false,
        timeout_warnings: false,
    }
}

fn values(lab: &Lab) -> [u64; 3] {
    ["acct", "timestamp", "events"].map(|key| lab.get(key))
}

fn lab_with(test: &str, values: [&str; 3]) -> Option<Lab> {
    let lab = Lab::new(test)?;
    for (key, value) in ["acct", "timestamp", "events"].into_iter().zip(values) {
        lab.set(key, value);
    }
    Some(lab)
}

#[test]
fn values_are_set_kept_and_given_back() {
    let Some(lab) = lab_with("set and restored", ["0", "0", "2"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let boot = boot_id().unwrap();
    let inode = lab.netns().inode();
    let mut sysctls = Sysctls::open(config(&lab, folder.path()), boot).unwrap();
    assert_eq!(values(&lab), [0, 0, 2], "opening changes nothing");
    let report = sysctls.apply().unwrap();
    let change = |key, from| Changed { netns: inode, key, from, to: 1 };
    assert_eq!(
        report.changed,
        [change(Key::Acct, 0), change(Key::Timestamp, 0), change(Key::Events, 2)]
    );
    assert!(report.failed.is_empty() && report.drifted == 0);
    assert_eq!(values(&lab), [1, 1, 1]);

    // Drift is repaired and counted; a second life does not take our values for originals.
    lab.set("acct", "0");
    let report = sysctls.check();
    assert_eq!((report.changed, report.drifted), (vec![change(Key::Acct, 0)], 1));
    assert!(sysctls.check().changed.is_empty());
    drop(sysctls);
    lab.set("timestamp", "0");
    let mut sysctls = Sysctls::open(config(&lab, folder.path()), boot).unwrap();
    assert_eq!(sysctls.apply().unwrap().changed, [change(Key::Timestamp, 0)]);
    drop(sysctls);

    // `restore-sysctls`: another process, which finds the namespace by itself.
    lab.set("timestamp", "0");
    let done = restore(folder.path(), boot).unwrap();
    assert!(done.failed.is_empty() && done.foreign.is_empty(), "{done:?}");
    assert_eq!(values(&lab), [0, 0, 2]);
    assert_eq!(done.restored.len(), 2, "one was at its original already");
    assert!(!folder.path().join(STATE_FILE).exists());
    assert!(restore(folder.path(), boot).unwrap().restored.is_empty());
}

#[test]
fn what_somebody_else_set_is_not_given_back() {
    let Some(lab) = lab_with("foreign", ["1", "1", "2"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut sysctls = Sysctls::open(config(&lab, folder.path()), boot_id().unwrap()).unwrap();
    sysctls.apply().unwrap();
    lab.set("events", "0");
    let done = sysctls.restore().unwrap();
    assert_eq!(done.foreign, [(lab.netns().inode(), Key::Events)]);
    assert_eq!(values(&lab), [1, 1, 0]);
}

#[test]
fn unmanaged_values_are_left_alone_and_warned_of_once() {
    let Some(lab) = lab_with("unmanaged", ["0", "0", "2"]) else { return };
    lab.set("udp_timeout", "11");
    lab.set("udp_timeout_stream", "30");
    for key in ["close_wait", "fin_wait", "time_wait"] {
        lab.set(&format!("tcp_timeout_{key}"), "15");
    }
    let folder = tempfile::tempdir().unwrap();
    let unmanaged =
        SysctlConfig { manage: false, timeout_warnings: true, ..config(&lab, folder.path()) };
    let mut sysctls = Sysctls::open(unmanaged, boot_id().unwrap()).unwrap();
    let report = sysctls.apply().unwrap();
    assert!(report.changed.is_empty());
    let late = LongTimeout { key: "nf_conntrack_udp_timeout", seconds: 11, most: 10 };
    let inode = lab.netns().inode();
    let expected = [(inode, Warning::Off(Key::Acct)), (inode, Warning::LongTimeout(late))];
    assert_eq!(report.warnings, expected);
    assert!(sysctls.check().warnings.is_empty());
    lab.set("acct", "1");
    assert!(sysctls.check().warnings.is_empty());
    lab.set("acct", "0");
    assert_eq!(sysctls.check().warnings, expected[..1]);
    assert_eq!(values(&lab), [0, 0, 2]);
    assert!(!folder.path().join(STATE_FILE).exists());
}

#[test]
fn nothing_is_changed_when_the_originals_cannot_be_kept() {
    let Some(lab) = lab_with("no state", ["0", "0", "2"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let unwritable = config(&lab, &file.join("sub"));
    // A folder below a file can be neither read nor made.
    let opened = Sysctls::open(unwritable, boot_id().unwrap());
    let refused = opened.and_then(|mut sysctls| sysctls.apply());
    assert!(refused.is_err());
    assert_eq!(values(&lab), [0, 0, 2]);
}
