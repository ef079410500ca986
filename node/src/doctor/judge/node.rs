//! The state folder, the running node, its keys and its aggregator.

use jiff::Timestamp;

use crate::doctor::facts::{Facts, KeyFacts, NodeFacts, Running, StateFound};
use crate::doctor::finding::Finding;
use crate::tls::{Holder, Notice, Stage};

pub(super) fn judge(facts: &Facts, out: &mut Vec<Finding>) {
    state(facts, out);
    match &facts.node {
        NodeFacts::NoListener => {
            let text = "the configuration has no HTTP listener, so a running node cannot be asked";
            out.push(Finding::unknown("node.running", text).cure("set api_enabled = true"));
        }
        NodeFacts::Silent(why) => {
            out.push(Finding::note("node.running", format!("no node runs here: {why}")));
        }
        NodeFacts::Refused(why) => {
            let text = format!("what runs here cannot be asked: {why}");
            out.push(Finding::unknown("node.running", text));
        }
        NodeFacts::Running(running) => node(running, out),
    }
    match &facts.keys {
        None => {}
        Some(Ok(keys)) => {
            out.push(Finding::ok("keys.files", format!("the keys of node {}", keys.node)));
            certificates(keys, facts, out);
        }
        Some(Err(why)) => {
            let cure = "`conntracct-aggregator pki issue NAME` there, `conntracct-node join \
                        NAME.bundle` here";
            let text = format!("the node cannot speak to its aggregator: {why}");
            out.push(Finding::problem("keys.files", text, cure));
        }
    }
    aggregators(facts, out);
}

fn state(facts: &Facts, out: &mut Vec<Finding>) {
    let folder = facts.state.folder.display().to_string();
    match &facts.state.found {
        StateFound::Absent => {
            let text = "it is not there; the node makes it when it starts";
            out.push(Finding::ok("state.folder", text).about(&folder));
        }
        StateFound::Unusable(why) => {
            let text = format!("it cannot be used: {why}; a node does not start");
            let cure = "give it to the user that the node runs as, or set state_dir";
            out.push(Finding::problem("state.folder", text, cure).about(&folder));
        }
        StateFound::Usable { free, spool } => {
            out.push(Finding::ok("state.folder", "it can be used").about(&folder));
            let wants = facts.wanted.spool_bytes.saturating_sub(*spool);
            let said = |bytes: u64| daemon::table::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
            let text = format!("{} free", said(*free));
            out.push(if facts.keys.is_some() && *free < wants {
                let limit = said(facts.wanted.spool_bytes);
                let text =
                    format!("{text}, less than the spool may take yet (limits.spool {limit})");
                let cure = "free space, or lower limits.spool; a full disk pauses updates early";
                Finding::note("state.disk", text).cure(cure).about(&folder)
            } else {
                Finding::ok("state.disk", text).about(&folder)
            });
        }
    }
}

fn node(running: &Running, out: &mut Vec<Finding>) {
    out.push(Finding::ok("node.running", "a node runs here"));
    if running.degraded.is_empty() {
        out.push(Finding::ok("node.ready", "it is ready"));
    }
    for (name, why) in &running.degraded {
        let cure = "see its log, and docs/troubleshoot.md";
        out.push(Finding::problem("node.ready", why.clone(), cure).about(name));
    }
    let lost = running.lost_ends.saturating_add(running.dropped_ends);
    out.push(match lost {
        0 => Finding::ok("node.ends", "no end was lost since it started"),
        _ => {
            let Running { lost_ends, dropped_ends, .. } = running;
            let text = format!(
                "since it started {lost_ends} ends were lost and {dropped_ends} dropped: the last \
                 growth of these flows is missing"
            );
            let cure = "give the node CPU time, a larger ebpf.ring, or get the aggregator back; \
                        the number starts anew with the node";
            Finding::problem("node.ends", text, cure)
        }
    });
    out.push(match running.lost_births.saturating_add(running.missed_births) {
        0 => Finding::ok("node.births", "no birth was missed"),
        _ => {
            let Running { lost_births, missed_births, .. } = running;
            let text = format!(
                "{lost_births} births were lost, {missed_births} living entries were found by \
                 listing the table: nothing is missing, they are found again"
            );
            Finding::note("node.births", text).cure("often: a larger ebpf.ring, or more CPU time")
        }
    });
    out.push(match running.ended_unseen {
        0 => Finding::ok("node.unseen", "no flow ended unseen"),
        some => {
            let text =
                format!("{some} flows ended unseen: their growth since the last sweep is unknown");
            Finding::note("node.unseen", text).cure("restarts of the node and lost ends make them")
        }
    });
    out.push(match running.untracked {
        0 => Finding::ok("node.table", "the table of living flows has room"),
        some => {
            let text =
                format!("{some} living flows find no room and are counted at their end only");
            Finding::problem("node.table", text, "raise limits.live_flows")
        }
    });
    if let Some(connected) = running.connected {
        transport(running, connected, out);
    }
}

/// Spool and clock of a node with an aggregator.
fn transport(running: &Running, connected: bool, out: &mut Vec<Finding>) {
    let said = daemon::table::bytes(i64::try_from(running.spool_bytes).unwrap_or(i64::MAX));
    let text = format!("{} frames wait, {said} on disk", running.spool_waiting);
    let cure = "get the aggregator back, or raise limits.spool";
    out.push(match running.spool_level {
        0 => Finding::ok("node.spool", text),
        1 => {
            let text = format!("{text}: above 80 %, updates pause; nothing is lost yet");
            Finding::problem("node.spool", text, cure)
        }
        _ => {
            let text = format!("{text}: it is full, ends wait in memory and are then dropped");
            Finding::problem("node.spool", text, cure)
        }
    });
    out.push(match running.clock_error_seconds {
        Some(error) if error > BLURRED => {
            let text = format!("the offset to the aggregator's clock may be wrong by {error:.1} s");
            let cure = "let it connect; keep both clocks synchronised (chrony, timesyncd)";
            Finding::note("node.clock", text).cure(cure)
        }
        Some(error) if connected => {
            let text = format!("the aggregator's clock is known to {:.0} ms", error * 1e3);
            Finding::ok("node.clock", text)
        }
        Some(_) | None => Finding::unknown("node.clock", "no offset to the aggregator's clock yet"),
    });
}

fn certificates(keys: &KeyFacts, facts: &Facts, out: &mut Vec<Finding>) {
    out.push(expiry("keys.node", Holder::Node, keys.ends, facts.now));
    let authority = keys.authority_ends;
    out.extend(authority.map(|ends| expiry("keys.authority", Holder::Authority, ends, facts.now)));
    let mut shown = facts.aggregators.iter().filter_map(|aggregator| {
        let handshake = aggregator.handshake.as_ref()?.as_ref().ok()?;
        handshake.ends
    });
    // The same one at every address: they lead to one store.
    let ends = shown.next().map(|first| shown.fold(first, Ord::min));
    out.extend(ends.map(|ends| expiry("keys.aggregator", Holder::Aggregator, ends, facts.now)));
}

fn expiry(check: &'static str, holder: Holder, ends: Timestamp, now: Timestamp) -> Finding {
    let Some(notice) = Notice::of(holder, ends, now) else {
        return Finding::ok(check, format!("the certificate is good until {ends}"));
    };
    let text = notice.to_string();
    // "what is the matter; what to do"
    let (text, cure) = text.split_once("; ").unwrap_or((&text, "renew it"));
    match notice.stage {
        Stage::Over => Finding::problem(check, text, cure),
        Stage::Month | Stage::Week => Finding::note(check, text).cure(cure),
    }
}

fn aggregators(facts: &Facts, out: &mut Vec<Finding>) {
    const CHECK: &str = "aggregator.handshake";
    let reached =
        |found: &crate::doctor::facts::AggregatorFacts| matches!(found.handshake, Some(Ok(_)));
    let any = facts.aggregators.iter().any(reached);
    for aggregator in &facts.aggregators {
        let finding = match &aggregator.handshake {
            None => Finding::unknown(CHECK, "not tried: there are no usable keys"),
            Some(Ok(handshake)) => {
                let text = format!(
                    "it answers and takes this node's certificate ({} ms)",
                    handshake.took_ms
                );
                Finding::ok(CHECK, text)
            }
            // Of several addresses one is enough.
            Some(Err(why)) if any => Finding::note(CHECK, why.clone()).cure(CHECK_IT),
            Some(Err(why)) => {
                let text = format!("{why}; frames wait in the spool until it is full");
                Finding::problem(CHECK, text, CHECK_IT)
            }
        };
        out.push(finding.about(&aggregator.address));
    }
    if facts.aggregators.is_empty() {
        let text = "no aggregator is configured: records go to standard output only";
        out.push(Finding::note(CHECK, text));
    }
}

const CHECK_IT: &str = "check address and UDP port, firewalls on the way, and that the aggregator \
                        runs (its /readyz)";

/// From this many seconds on, times of flows are blurred.
const BLURRED: f64 = 2.0;
