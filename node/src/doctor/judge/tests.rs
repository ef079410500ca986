use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;

use super::*;
use crate::doctor::facts::*;
use crate::doctor::finding::{Severity, problems};
use crate::netns::NetnsChoice;
use crate::source::metrics::LiveKinds;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn at(days: i64) -> Timestamp {
    Timestamp::from_second(NOW + days * DAY).unwrap()
}

/// A gateway with nothing wrong, and a node that runs.
fn healthy() -> Facts {
    let sysctls = Sysctls {
        acct: Some(1),
        timestamp: Some(1),
        events: Some(1),
        count: Some(10),
        max: Some(1000),
        writable: true,
    };
    let running =
        Running { connected: Some(true), clock_error_seconds: Some(0.01), ..Running::default() };
    Facts {
        now: at(0),
        wanted: Wanted {
            source: WantedSource::Auto,
            netns: NetnsChoice::Own,
            sysctl_manage: true,
            spool_bytes: 1 << 30,
        },
        kernel: KernelFacts {
            release: Ok("6.12.5+deb13-amd64".to_owned()),
            btf: true,
            module_btf: true,
            kprobes: Kprobes::Available,
            hooks: Ok("births by __nf_conntrack_hash_insert".to_owned()),
            lockdown: Lockdown::Off,
            trial: Some(Trial::Proved),
        },
        capabilities: Capabilities { net_admin: true, sys_admin: true, bpf: true, perfmon: true },
        namespaces: vec![NetnsFacts {
            label: "own".to_owned(),
            sysctls: Ok(sysctls),
            table: Ok(TableFacts {
                live: LiveKinds { entries: 10, ..LiveKinds::default() },
                held: 0,
            }),
            tracking: Tracking { hooks: Some((true, true)), rules: Some(true), legacy: false },
            uncounting_flowtables: Ok(Vec::new()),
        }],
        unopened: Vec::new(),
        state: StateFacts {
            folder: "/var/lib/conntracct-node".into(),
            found: StateFound::Usable { free: 1 << 40, spool: 0 },
        },
        node: NodeFacts::Running(Box::new(running)),
        keys: Some(Ok(KeyFacts {
            node: "gw1".parse().unwrap(),
            ends: at(300),
            authority_ends: Some(at(3000)),
        })),
        aggregators: vec![AggregatorFacts {
            address: "flows.example.net:4433".to_owned(),
            handshake: Some(Ok(Handshake { ends: Some(at(300)), took_ms: 12 })),
        }],
    }
}

/// The finding of a check after a change to a healthy gateway.
fn find(check: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = healthy();
    change(&mut facts);
    let findings = judge(&facts);
    sound(&findings);
    let found = findings.iter().find(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("no {check} in {findings:#?}")).clone()
}

/// What holds for all findings.
fn sound(findings: &[Finding]) {
    for finding in findings {
        assert!(CHECKS.contains(&finding.check), "{finding:?}");
        assert!(!finding.text.is_empty() && !finding.text.contains('\n'), "{finding:?}");
        if finding.severity == Problem {
            assert!(finding.cure.as_ref().is_some_and(|cure| !cure.is_empty()), "{finding:?}");
        }
    }
}

fn netns(facts: &mut Facts) -> &mut NetnsFacts {
    &mut facts.namespaces[0]
}

fn sysctls(facts: &mut Facts) -> &mut Sysctls {
    netns(facts).sysctls.as_mut().unwrap()
}

fn table(facts: &mut Facts) -> &mut TableFacts {
    netns(facts).table.as_mut().unwrap()
}

fn live(facts: &mut Facts) -> &mut LiveKinds {
    &mut table(facts).live
}

fn running(facts: &mut Facts) -> &mut Running {
    match &mut facts.node {
        NodeFacts::Running(running) => running,
        other => panic!("{other:?}"),
    }
}

fn stopped(facts: &mut Facts) {
    facts.node = NodeFacts::Silent("nothing answers".to_owned());
}

#[track_caller]
fn expect(check: &str, severity: Severity, words: &str, change: impl FnOnce(&mut Facts)) {
    let found = find(check, change);
    assert_eq!(found.severity, severity, "{found:?}");
    let all = format!("{} {}", found.text, found.cure.clone().unwrap_or_default());
    assert!(all.contains(words), "{words:?} not in {all:?}");
}

use Severity::{Note, Ok as Fine, Problem, Unknown};

#[test]
fn a_healthy_gateway_has_no_problem_and_every_check() {
    let findings = judge(&healthy());
    sound(&findings);
    assert_eq!(problems(&findings), 0, "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.severity == Fine), "{findings:#?}");
    let found: BTreeSet<_> = findings.iter().map(|finding| finding.check).collect();
    let missing: Vec<_> = CHECKS.iter().filter(|check| !found.contains(*check)).collect();
    // Only where there are other namespaces.
    assert_eq!(missing, [&"privileges.netns", &"netns.open"]);
}

#[test]
fn the_documentation_has_every_check() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md");
    let text = std::fs::read_to_string(file).unwrap();
    for check in CHECKS {
        assert!(text.contains(&format!("| `{check}` |")), "docs/doctor.md lacks {check}");
    }
    let named = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    for (name, _) in named.filter(|(name, _)| name.contains('.') && !name.contains(' ')) {
        assert!(CHECKS.contains(&name), "docs/doctor.md has {name}, which is no check");
    }
}

#[test]
fn kernels_too_old_are_told() {
    let release = |release: &str, source| {
        let release = release.to_owned();
        move |facts: &mut Facts| {
            facts.kernel.release = Ok(release);
            facts.wanted.source = source;
        }
    };
    use WantedSource::{Auto, Ebpf, Netlink, Replay};
    expect("kernel.version", Fine, "5.10.0-9-amd64", release("5.10.0-9-amd64", Ebpf));
    expect("kernel.version", Fine, "4.9", release("4.9.0", Netlink));
    expect("kernel.version", Note, "netlink", release("5.9.16", Auto));
    expect("kernel.version", Problem, "5.10", release("5.4.0", Ebpf));
    expect("kernel.version", Problem, "4.9", release("4.4.0", Netlink));
    expect("kernel.version", Fine, "3.2", release("3.2", Replay));
    expect("kernel.version", Unknown, "not a version", release("nonsense", Auto));
    expect("kernel.version", Unknown, "gone", |f| f.kernel.release = Err("gone".into()));
}

#[test]
fn what_ebpf_lacks_is_a_note_for_auto_and_a_problem_where_it_is_demanded() {
    type Change = fn(&mut Facts);
    let cases: [(&str, &str, Change); 8] = [
        ("source.kprobes", "CONFIG_KPROBES", |f| f.kernel.kprobes = Kprobes::Missing),
        ("source.kprobes", "kprobes/enabled", |f| f.kernel.kprobes = Kprobes::Off),
        ("source.hooks", "no function", |f| f.kernel.hooks = Err("no function".into())),
        ("source.lockdown", "locked down", |f| f.kernel.lockdown = Lockdown::Confidentiality),
        ("privileges.ebpf", "CAP_BPF", |f| {
            (f.capabilities.sys_admin, f.capabilities.bpf) = (false, false);
        }),
        ("privileges.ebpf", "CAP_SYS_ADMIN", |f| {
            f.kernel.release = Ok("5.4.1".into());
            f.capabilities.sys_admin = false;
        }),
        ("source.ebpf", "traffic", |f| f.kernel.trial = Some(Trial::Unproved)),
        ("source.ebpf", "refused it", |f| {
            f.kernel.trial = Some(Trial::Failed { reason: "refused it".into(), cure: "cure" });
        }),
    ];
    for (check, words, change) in cases {
        expect(check, Note, words, change);
        expect(check, Problem, words, |f| {
            f.wanted.source = WantedSource::Ebpf;
            change(f);
        });
        for source in [WantedSource::Netlink, WantedSource::Replay] {
            let mut facts = healthy();
            facts.wanted.source = source;
            change(&mut facts);
            let found = judge(&facts);
            assert!(found.iter().all(|finding| finding.check != check), "{check} for {source:?}");
        }
    }
    expect("source.btf", Note, "--btf", |f| f.kernel.btf = false);
    expect("source.btf", Fine, "built in", |f| f.kernel.module_btf = false);
    expect("source.lockdown", Fine, "integrity", |f| f.kernel.lockdown = Lockdown::Integrity);
    expect("privileges.ebpf", Fine, "may load", |f| f.capabilities.sys_admin = false);
    expect("privileges.ebpf", Fine, "may load", |f| {
        (f.capabilities.bpf, f.capabilities.perfmon) = (false, false);
    });
    expect("privileges.ebpf", Note, "may not", |f| f.capabilities.net_admin = false);
}

#[test]
fn missing_privileges_are_problems() {
    expect("privileges.netlink", Problem, "CAP_NET_ADMIN", |f| f.capabilities.net_admin = false);
    expect("privileges.netns", Fine, "CAP_SYS_ADMIN", |f| f.wanted.netns = NetnsChoice::All);
    expect("privileges.netns", Problem, "CAP_SYS_ADMIN", |f| {
        f.wanted.netns = NetnsChoice::Listed(vec!["blue".into()]);
        f.capabilities.sys_admin = false;
    });
    expect("netns.open", Problem, "No such file", |f| {
        f.unopened = vec![("blue".into(), "No such file or directory".into())];
    });
    expect("privileges.sysctl", Problem, "/proc/sys", |f| {
        (sysctls(f).writable, sysctls(f).events) = (false, Some(2));
    });
    expect("privileges.sysctl", Note, "need not", |f| sysctls(f).writable = false);
    let mut facts = healthy();
    facts.wanted.sysctl_manage = false;
    sysctls(&mut facts).writable = false;
    assert!(judge(&facts).iter().all(|finding| finding.check != "privileges.sysctl"));
}

#[test]
fn without_conntrack_nothing_else_is_said_of_it() {
    let mut facts = healthy();
    *netns(&mut facts) = NetnsFacts {
        label: "own".into(),
        sysctls: Ok(Sysctls::default()),
        table: Err("conntrack is not loaded".into()),
        tracking: Tracking::default(),
        uncounting_flowtables: Err("conntrack is not loaded".into()),
    };
    let found = judge(&facts);
    let of_conntrack: Vec<_> =
        found.iter().filter(|finding| finding.check.starts_with("conntrack.")).collect();
    assert_eq!(of_conntrack.len(), 1, "{of_conntrack:?}");
    assert_eq!((of_conntrack[0].check, of_conntrack[0].severity), ("conntrack.loaded", Problem));
    assert!(of_conntrack[0].cure.as_ref().unwrap().contains("modprobe nf_conntrack"));
    expect("conntrack.loaded", Unknown, "not permitted", |f| {
        netns(f).sysctls = Err("not permitted".into());
    });
}

#[test]
fn whether_the_kernel_tracks_is_known_or_said_to_be_unknown() {
    const CHECK: &str = "conntrack.tracking";
    let tracking = |hooks, rules, legacy, count| {
        move |f: &mut Facts| {
            netns(f).tracking = Tracking { hooks, rules, legacy };
            sysctls(f).count = Some(count);
        }
    };
    expect(CHECK, Fine, "IPv4 and IPv6", tracking(Some((true, true)), None, true, 0));
    expect(CHECK, Note, "IPv6 is not", tracking(Some((true, false)), None, true, 0));
    expect(CHECK, Note, "IPv4 is not", tracking(Some((false, true)), None, true, 0));
    expect(CHECK, Problem, "ct state new", tracking(Some((false, false)), Some(true), true, 0));
    expect(CHECK, Fine, "7 connections", tracking(None, None, true, 7));
    expect(CHECK, Fine, "rules need", tracking(None, Some(true), false, 0));
    expect(CHECK, Problem, "ct state new", tracking(None, Some(false), false, 0));
    expect(CHECK, Unknown, "cannot be seen", tracking(None, Some(false), true, 0));
    expect(CHECK, Unknown, "cannot be seen", tracking(None, None, false, 0));
}

#[test]
fn sysctls_matter_as_far_as_nobody_sets_them() {
    for (check, change) in [
        ("conntrack.acct", (|f| sysctls(f).acct = Some(0)) as fn(&mut Facts)),
        ("conntrack.events", |f| sysctls(f).events = Some(0)),
        ("conntrack.events", |f| sysctls(f).events = Some(2)),
    ] {
        expect(check, Note, "when it starts", |f| {
            stopped(f);
            change(f);
        });
        expect(check, Problem, "although a node", change);
        expect(check, Problem, "sysctl -w", |f| {
            f.wanted.sysctl_manage = false;
            stopped(f);
            change(f);
        });
    }
    expect("conntrack.acct", Problem, "has no", |f| sysctls(f).acct = None);
    expect("conntrack.events", Problem, "CONFIG_NF_CONNTRACK_EVENTS", |f| {
        sysctls(f).events = None;
    });
    expect("conntrack.timestamp", Note, "the node sets it", |f| sysctls(f).timestamp = Some(0));
    expect("conntrack.timestamp", Note, "sysctl -w", |f| {
        f.wanted.sysctl_manage = false;
        sysctls(f).timestamp = None;
    });
    for events in [Some(0), Some(2)] {
        expect("conntrack.events", Fine, "needs no events", |f| {
            f.wanted.source = WantedSource::Ebpf;
            sysctls(f).events = events;
        });
    }
    expect("conntrack.events", Note, "hears of no end", |f| {
        f.wanted.source = WantedSource::Ebpf;
        sysctls(f).events = None;
    });
}

#[test]
fn a_table_that_fills_up_is_told_before_it_is_full() {
    let full = |count, max| {
        move |f: &mut Facts| (sysctls(f).count, sysctls(f).max) = (Some(count), Some(max))
    };
    expect("conntrack.fill", Fine, "60 %", full(60, 100));
    expect("conntrack.fill", Note, "nf_conntrack_max=200", full(61, 100));
    expect("conntrack.fill", Note, "80 %", full(80, 100));
    expect("conntrack.fill", Problem, "nf_conntrack_max=200", full(81, 100));
    expect("conntrack.fill", Fine, "no limit", full(u64::MAX, 0));
    expect("conntrack.fill", Problem, "100 %", full(u64::MAX, u64::MAX));
}

#[test]
fn entries_without_counters_are_told_apart_by_who_forwards_them() {
    expect("conntrack.uncounted", Problem, "3 of 10", |f| live(f).uncounted = 3);
    expect("conntrack.uncounted", Fine, "each of 10", |f| {
        (live(f).uncounted, live(f).offloaded) = (3, 4);
        live(f).offloaded_uncounted = 3;
    });
    expect("conntrack.offloaded", Problem, "3 of 4", |f| {
        (live(f).uncounted, live(f).offloaded) = (5, 4);
        live(f).offloaded_uncounted = 3;
    });
    expect("conntrack.offloaded", Fine, "4 entries", |f| live(f).offloaded = 4);
    expect("conntrack.uncounted", Unknown, "not permitted", |f| {
        netns(f).table = Err("not permitted".into());
    });
    expect("conntrack.flowtables", Problem, "`counter`", |f| {
        netns(f).uncounting_flowtables = Ok(vec!["filter fast".into()]);
    });
    expect("conntrack.flowtables", Unknown, "not permitted", |f| {
        netns(f).uncounting_flowtables = Err("not permitted".into());
    });
}

#[test]
fn ended_entries_that_a_listener_holds_are_a_danger() {
    let held = |held, max| move |f: &mut Facts| (table(f).held, sysctls(f).max) = (held, Some(max));
    expect("conntrack.held", Fine, "1000 ended", held(1_000, 1_000));
    expect("conntrack.held", Fine, "4999", held(4_999, 100_000));
    expect("conntrack.held", Problem, "ss -A netlink", held(5_000, 100_000));
    expect("conntrack.held", Note, "ss -A netlink", |f| {
        f.wanted.source = WantedSource::Ebpf;
        held(5_000, 100_000)(f);
    });
}

#[test]
fn the_state_folder_must_be_usable() {
    expect("state.folder", Fine, "makes it", |f| f.state.found = StateFound::Absent);
    expect("state.folder", Problem, "Permission denied", |f| {
        f.state.found = StateFound::Unusable("Permission denied".into());
    });
    let disk =
        |free, spool| move |f: &mut Facts| f.state.found = StateFound::Usable { free, spool };
    expect("state.disk", Note, "less than", disk((1 << 30) - 1, 0));
    expect("state.disk", Fine, "free", disk(1 << 29, 1 << 29));
    expect("state.disk", Fine, "free", |f| {
        f.keys = None;
        disk(0, 0)(f);
    });
}

#[test]
fn a_running_node_tells_its_losses() {
    expect("node.ready", Problem, "the guard", |f| {
        running(f).degraded = vec![("ends".into(), "the guard switched off".into())];
    });
    expect("node.ends", Problem, "7 ends were lost", |f| running(f).lost_ends = 7);
    expect("node.ends", Problem, "8 dropped", |f| running(f).dropped_ends = 8);
    expect("node.births", Note, "2 births", |f| running(f).lost_births = 2);
    expect("node.births", Note, "3 living", |f| running(f).missed_births = 3);
    expect("node.unseen", Note, "4 flows", |f| running(f).ended_unseen = 4);
    expect("node.table", Problem, "limits.live_flows", |f| running(f).untracked = 5);
    expect("node.spool", Problem, "updates pause", |f| running(f).spool_level = 1);
    expect("node.spool", Problem, "full", |f| running(f).spool_level = 2);
    expect("node.clock", Note, "2.5 s", |f| running(f).clock_error_seconds = Some(2.5));
    expect("node.clock", Unknown, "no offset", |f| running(f).clock_error_seconds = None);
    expect("node.clock", Unknown, "no offset", |f| running(f).connected = Some(false));
    let mut facts = healthy();
    running(&mut facts).connected = None;
    let found = judge(&facts);
    let of_uplink = |finding: &&Finding| matches!(finding.check, "node.spool" | "node.clock");
    assert_eq!(found.iter().filter(of_uplink).count(), 0, "without an aggregator there is none");
}

#[test]
fn a_node_that_cannot_be_asked_is_no_problem_by_itself() {
    expect("node.running", Note, "no node runs", stopped);
    expect("node.running", Unknown, "api_enabled", |f| f.node = NodeFacts::NoListener);
    expect("node.running", Unknown, "401", |f| {
        f.node = NodeFacts::Refused("it answers 401".into());
    });
}

#[test]
fn keys_and_their_ends() {
    let ends = |days| {
        move |f: &mut Facts| {
            let keys = f.keys.as_mut().unwrap().as_mut().unwrap();
            (keys.ends, keys.authority_ends) = (at(days), Some(at(days)));
            f.aggregators[0].handshake = Some(Ok(Handshake { ends: Some(at(days)), took_ms: 1 }));
        }
    };
    for (check, words) in [
        ("keys.node", "--renew"),
        ("keys.authority", "pki init"),
        ("keys.aggregator", "renew-server"),
    ] {
        expect(check, Fine, "good until", ends(31));
        expect(check, Note, words, ends(30));
        expect(check, Note, "ends in 1 days", ends(1));
        expect(check, Problem, words, ends(0));
        expect(check, Problem, "has expired", ends(-1));
    }
    expect("keys.files", Problem, "node.key is missing", |f| {
        f.keys = Some(Err("node.key is missing".into()));
    });
}

#[test]
fn the_aggregator_must_be_reached_at_one_address() {
    const CHECK: &str = "aggregator.handshake";
    expect(CHECK, Fine, "12 ms", |_| {});
    expect(CHECK, Unknown, "no usable keys", |f| f.aggregators[0].handshake = None);
    let silent = || AggregatorFacts {
        address: "192.0.2.1:4433".into(),
        handshake: Some(Err("no answer within 5 s".into())),
    };
    expect(CHECK, Problem, "no answer", |f| f.aggregators = vec![silent()]);
    expect(CHECK, Problem, "UDP port", |f| f.aggregators = vec![silent(), silent()]);
    expect(CHECK, Note, "no answer", |f| f.aggregators.insert(0, silent()));
    expect(CHECK, Note, "no aggregator is configured", |f| f.aggregators.clear());
}

#[test]
fn for_a_recording_the_kernel_does_not_matter() {
    let mut facts = healthy();
    facts.wanted.source = WantedSource::Replay;
    facts.capabilities = Capabilities::default();
    *sysctls(&mut facts) = Sysctls::default();
    let found = judge(&facts);
    assert_eq!(problems(&found), 0, "{found:#?}");
    let kernel = |finding: &Finding| {
        ["source.", "privileges.", "conntrack."].iter().any(|part| finding.check.starts_with(part))
    };
    assert!(!found.iter().any(kernel), "{found:#?}");
}

#[test]
fn several_namespaces_are_told_apart() {
    let mut facts = healthy();
    let mut other = facts.namespaces[0].clone();
    other.label = "blue".into();
    other.sysctls.as_mut().unwrap().count = Some(999);
    facts.namespaces.push(other);
    let found = judge(&facts);
    let bad: Vec<_> = found.iter().filter(|finding| finding.severity == Problem).collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!((bad[0].check, bad[0].subject.as_deref()), ("conntrack.fill", Some("blue")));
}
