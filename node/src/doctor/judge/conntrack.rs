//! Conntrack in each namespace: whether it tracks, counts, tells, and has room.

use crate::doctor::facts::{
    Facts, Known, NetnsFacts, NodeFacts, Sysctls, TableFacts, Tracking, WantedSource,
};
use crate::doctor::finding::Finding;
use crate::source::metrics::LiveKinds;
use crate::source::netlink::guard::{BACK_PERCENT, TRIP_PERCENT};

pub(super) fn judge(facts: &Facts, out: &mut Vec<Finding>) {
    if facts.wanted.source == WantedSource::Replay {
        return;
    }
    for netns in &facts.namespaces {
        let begin = out.len();
        namespace(facts, netns, out);
        for finding in out.iter_mut().skip(begin) {
            finding.subject = Some(netns.label.clone());
        }
    }
}

fn namespace(facts: &Facts, netns: &NetnsFacts, out: &mut Vec<Finding>) {
    let sysctls = match &netns.sysctls {
        Ok(sysctls) => sysctls,
        Err(why) => {
            let text = format!("the conntrack sysctls cannot be read: {why}");
            out.push(Finding::unknown("conntrack.loaded", text));
            return;
        }
    };
    if !sysctls.has_conntrack() {
        out.push(Finding::problem(
            "conntrack.loaded",
            "conntrack is not loaded: no flow is tracked, so none is reported",
            "modprobe nf_conntrack, and have a rule that needs it: nft add rule inet filter \
             forward ct state new accept",
        ));
        return;
    }
    out.push(Finding::ok("conntrack.loaded", "conntrack is loaded"));
    out.push(tracking(&netns.tracking, sysctls.count.unwrap_or(0)));
    values(facts, sysctls, out);
    out.extend(fill(sysctls));
    table(facts, &netns.table, sysctls, out);
    out.push(flowtables(&netns.uncounting_flowtables));
}

/// Whether anything makes the kernel track. An entry is the proof, wherever the rule is.
fn tracking(tracking: &Tracking, count: u64) -> Finding {
    const CHECK: &str = "conntrack.tracking";
    const RULE: &str = "have a rule that needs connections: nft add table inet conntracct; nft add \
                        chain inet conntracct track { type filter hook prerouting priority 0 \\; \
                        }; nft add rule inet conntracct track ct state new accept";
    match tracking.hooks {
        Some((true, true)) => return Finding::ok(CHECK, "IPv4 and IPv6 are tracked"),
        Some((true, false)) => {
            return Finding::note(CHECK, "IPv4 is tracked, IPv6 is not: its flows are not seen")
                .cure(RULE);
        }
        Some((false, true)) => {
            return Finding::note(CHECK, "IPv6 is tracked, IPv4 is not: its flows are not seen")
                .cure(RULE);
        }
        Some((false, false)) => {
            let text =
                "nothing makes the kernel track connections here: there is no flow to report";
            return Finding::problem(CHECK, text, RULE);
        }
        None => {}
    }
    match (count, tracking.rules) {
        (1.., _) => Finding::ok(CHECK, format!("{count} connections are tracked")),
        (0, Some(true)) => Finding::ok(CHECK, "rules need connections, so they are tracked"),
        (0, Some(false)) if !tracking.legacy => Finding::problem(
            CHECK,
            "no rule needs connections and none is tracked: there is no flow to report",
            RULE,
        ),
        _ => {
            let text = "no connection is tracked now; whether a rule makes the kernel track cannot \
                        be seen here";
            Finding::unknown(CHECK, text).cure(RULE)
        }
    }
}

fn values(facts: &Facts, sysctls: &Sysctls, out: &mut Vec<Finding>) {
    let manage = facts.wanted.sysctl_manage;
    let running = matches!(facts.node, NodeFacts::Running(_));
    let set = |key: &str| format!("sysctl -w net.netfilter.nf_conntrack_{key}=1");
    // What the node will set when it starts is no fault before.
    let later = |check, key: &str, consequence: &str| {
        let text = format!("nf_conntrack_{key} is not 1; the node sets it when it starts");
        Finding::note(check, format!("{text}: until then {consequence}"))
    };
    let off = |check, key: &str, consequence: &str| {
        let text = format!("nf_conntrack_{key} is not 1: {consequence}");
        match (manage, running) {
            (true, false) => later(check, key, consequence),
            (true, true) => Finding::problem(
                check,
                format!("{text}, although a node that runs sets it"),
                "find who else sets it; the running node may lack the privilege: see its log",
            ),
            (false, _) => Finding::problem(check, text, set(key)),
        }
    };
    let missing = |key: &str| format!("this kernel has no nf_conntrack_{key}");
    out.push(match sysctls.acct {
        Some(1) => Finding::ok("conntrack.acct", "packets and bytes are counted"),
        Some(_) => off("conntrack.acct", "acct", "flows born now are never counted"),
        None => Finding::problem("conntrack.acct", missing("acct"), "run a kernel that has it"),
    });
    out.push(match sysctls.timestamp {
        Some(1) => Finding::ok("conntrack.timestamp", "starts and ends of flows are kept"),
        Some(_) | None => {
            let text = "nf_conntrack_timestamp is not 1: starts of flows are as exact as the \
                        interval, and flows are named by the kernel's ids";
            Finding::note("conntrack.timestamp", text).cure(match manage {
                true => "the node sets it when it starts".to_owned(),
                false => set("timestamp"),
            })
        }
    });
    let ebpf = facts.wanted.source == WantedSource::Ebpf;
    out.push(match sysctls.events {
        Some(1) => Finding::ok("conntrack.events", "every entry announces its end"),
        Some(_) if ebpf => Finding::ok(
            "conntrack.events",
            "not every entry announces its end; eBPF needs no events",
        ),
        Some(0) => off("conntrack.events", "events", "no flow announces its end over netlink"),
        Some(_) => {
            let text = "flows born while nobody listens do not announce their end over netlink";
            off("conntrack.events", "events", text)
        }
        None => {
            let text = format!("{}: netlink hears of no end", missing("events"));
            let cure = "run a kernel with CONFIG_NF_CONNTRACK_EVENTS, or use eBPF";
            if ebpf {
                Finding::note("conntrack.events", text)
            } else {
                Finding::problem("conntrack.events", text, cure)
            }
        }
    });
}

fn fill(sysctls: &Sysctls) -> Option<Finding> {
    const CHECK: &str = "conntrack.fill";
    let (count, max) = (sysctls.count?, sysctls.max?);
    if max == 0 {
        return Some(Finding::ok(CHECK, format!("{count} entries, no limit")));
    }
    let percent = u128::from(count) * 100 / u128::from(max);
    let text = format!("{count} of {max} entries ({percent} %)");
    let cure = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2));
    Some(match percent {
        _ if percent > u128::from(TRIP_PERCENT) => {
            let text = format!(
                "{text}: when it is full the kernel refuses connections; over netlink ends may be \
                 lost already"
            );
            Finding::problem(CHECK, text, cure)
        }
        _ if percent > u128::from(BACK_PERCENT) => Finding::note(CHECK, text).cure(cure),
        _ => Finding::ok(CHECK, text),
    })
}

fn table(facts: &Facts, table: &Known<TableFacts>, sysctls: &Sysctls, out: &mut Vec<Finding>) {
    let table = match table {
        Ok(table) => table,
        Err(why) => {
            let text = format!("the table cannot be read: {why}");
            out.push(Finding::unknown("conntrack.uncounted", text));
            return;
        }
    };
    let TableFacts { live, held } = *table;
    let LiveKinds { entries, uncounted, offloaded, offloaded_uncounted } = live;
    let plain = uncounted.saturating_sub(offloaded_uncounted);
    out.push(match plain {
        0 => {
            Finding::ok("conntrack.uncounted", format!("each of {entries} entries can be counted"))
        }
        plain => {
            let text = format!(
                "{plain} of {entries} living entries have no counters: they were born while \
                 nf_conntrack_acct was 0 and are reported as uncounted"
            );
            let cure = "they go away as they end, or at once with `conntrack -F` (which cuts \
                        connections behind NAT); keep nf_conntrack_acct at 1 from boot on";
            Finding::problem("conntrack.uncounted", text, cure)
        }
    });
    out.push(match offloaded_uncounted {
        0 => Finding::ok(
            "conntrack.offloaded",
            match offloaded {
                0 => "no entry is forwarded by a flowtable".to_owned(),
                some => format!("{some} entries are forwarded by a flowtable, all can be counted"),
            },
        ),
        some => Finding::problem(
            "conntrack.offloaded",
            format!("{some} of {offloaded} entries that a flowtable forwards have no counters"),
            "keep nf_conntrack_acct at 1 from boot on; they go away as they end",
        ),
    });
    let share = held.saturating_mul(100) / sysctls.max.unwrap_or(0).max(1);
    let reads = facts.wanted.source != WantedSource::Ebpf;
    out.push(if held > FEW && share >= HELD_PERCENT {
        let text = format!("{held} ended entries wait because a listener does not hear their end");
        let cure = "find the process that listens and hangs (`ss -A netlink -p`), and end it";
        if reads {
            Finding::problem("conntrack.held", text, cure)
        } else {
            Finding::note("conntrack.held", text).cure(cure)
        }
    } else {
        Finding::ok("conntrack.held", format!("{held} ended entries wait for a listener"))
    });
}

fn flowtables(uncounting: &Known<Vec<String>>) -> Finding {
    const CHECK: &str = "conntrack.flowtables";
    match uncounting {
        Ok(names) if names.is_empty() => {
            Finding::ok(CHECK, "every flowtable counts, or none is there")
        }
        Ok(names) => Finding::problem(
            CHECK,
            format!(
                "the flowtable {} has no `counter`: what it forwards is missing from the counters",
                names.join(", ")
            ),
            "add the line `counter` to the flowtable in the nftables configuration and load it anew",
        ),
        Err(why) => Finding::unknown(CHECK, format!("flowtables cannot be listed: {why}")),
    }
}

/// Ended entries that may always be on their way.
const FEW: u64 = 1_000;

/// From this part of the table on, held entries are a danger to the gateway.
const HELD_PERCENT: u64 = 5;
