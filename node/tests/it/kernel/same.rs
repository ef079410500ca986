//! The same traffic by eBPF and by netlink: every reading and every end alike.

use std::collections::BTreeMap;

use conntracct_node::source::Source;
use conntracct_node::source::netlink::NetlinkConfig;
use flow::Reading;
use flow::entry::EntryKey;

use super::{ends, lab, open, sweep, until_ends};
use crate::netlink;

/// By key, without what only netlink tells.
fn by_key(readings: Vec<Reading>) -> BTreeMap<EntryKey, Reading> {
    readings
        .into_iter()
        .map(|reading| (reading.key(), Reading { kernel_id: 0, ..reading }))
        .collect()
}

#[test]
fn readings_and_ends_are_those_of_netlink() {
    let Some(lab) = lab("same") else { return };
    let mut by_netlink = netlink::open(&lab, NetlinkConfig::default());
    let mut by_ebpf = open(&lab);
    netlink::insert_one_of_each(&lab);
    let udp = lab.udp();
    for number in 1..2_000 {
        for _ in 0..=number % 3 {
            udp.send(number).unwrap();
        }
    }
    lab.exec("ping", &["-c", "2", "-i", "0.2", "-q", "127.0.0.1"]);
    lab.exec("ping", &["-c", "1", "-q", "::1"]);
    let listed = by_key(netlink::sweep(&mut by_netlink).0);
    let swept = by_key(sweep(&mut by_ebpf).0);
    assert_eq!(listed.len(), 2_000 + 11 + 2);
    assert_eq!(swept, listed);

    lab.flush();
    let count = listed.len();
    let told = by_key(ends(&until_ends(&mut by_ebpf, count)));
    let delivered = by_key(ends(&until_ends(&mut by_netlink, count)));
    // What a DESTROY does not carry, or not on every kernel: TCP state and flags.
    let plain = |all: BTreeMap<EntryKey, Reading>| -> BTreeMap<EntryKey, Reading> {
        let strip = |r: Reading| Reading { tcp: flow::TcpState(0), fresh: false, ..r };
        all.into_iter().map(|(key, reading)| (key, strip(reading))).collect()
    };
    assert_eq!(plain(told), plain(delivered));
    assert_eq!(by_ebpf.health().malformed, 0);
}
