//! A world's records in the order in which they were counted, for whoever looks for a fault.

use std::collections::HashMap;
use std::fmt::Write;

use flow::RecordFlags;

use super::counting::{Counting, Named, Pure, Row, Way};
use super::post::Arrival;
use super::site::BEGIN;
use super::world::Told;

/// One line a record: when its frame arrived, what it says in seconds since the beginning, and
/// what it counted for.
pub(super) fn explain(told: &Told, arrivals: &[Arrival], way: Way) -> String {
    let mut pure = Pure::new(way, &told.site.spots);
    let mut names: HashMap<Named, usize> = HashMap::new();
    let mut text = String::new();
    let seconds = |at: flow::UnixNanos| at.diff(BEGIN) as f64 / 1e9;
    for arrival in arrivals {
        let sent = &told.frames[arrival.frame];
        for row in pure.arrive(sent, arrival.session, arrival.at) {
            say(&mut text, &names, &row);
        }
        let boots = &told.nodes[sent.node].boots;
        let Some(boot) = boots.iter().find(|boot| boot.id == sent.interval.boot) else { continue };
        for record in &sent.records {
            let named = (sent.node, record.entry());
            let next = names.len();
            let number = *names.entry(named).or_insert(next);
            let [op, _, rp, _] = record.cum.components();
            let [bop, _, brp, _] = record.base().components();
            let since = if record.since == flow::BootNanos::BOOT {
                f64::NEG_INFINITY
            } else {
                seconds(boot.moment(record.since))
            };
            let _written = writeln!(
                text,
                "{:8.1} node {} epoch {} seq {}: entry {number} ({}, now {:.1}) ({since:.1}, {:.1}] \
                 {bop}+{brp} -> {op}+{rp}{}{} label {:?} {}",
                seconds(arrival.at),
                sent.node,
                sent.epoch,
                sent.seq,
                record.orig,
                seconds(sent.at),
                seconds(boot.moment(record.until)),
                if record.flags.has(RecordFlags::END) { " end" } else { "" },
                if record.flags.has(RecordFlags::FRESH) { " fresh" } else { "" },
                pure.label(&named),
                if flow::view::is_translated(&record.orig, &record.reply) {
                    "translated"
                } else {
                    ""
                },
            );
        }
    }
    for row in pure.finish() {
        say(&mut text, &names, &row);
    }
    text
}

fn say(text: &mut String, names: &HashMap<Named, usize>, row: &Row) {
    let packets = |of: flow::Counters| (of.orig.packets.get(), of.reply.packets.get());
    let of = |(named, back): &(Named, flow::Counters)| {
        format!(" back {:?} of {:?}", packets(*back), names.get(named))
    };
    let back: String = row.back.iter().map(of).collect();
    let _written = writeln!(
        text,
        "         counted: entry {:?} raw {:?} counted {:?}{}",
        names.get(&row.entry),
        packets(row.raw),
        packets(row.counted),
        back
    );
}
