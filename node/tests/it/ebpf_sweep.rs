//! The eBPF source's sweep against the kernel, on entries found by their packets: also on kernels
//! without kprobes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use conntracct_node::source::ebpf::collect::Collector;
use conntracct_node::source::ebpf::layout::Layout;
use conntracct_node::source::netlink::NetlinkConfig;
use flow::Reading;
use flow::entry::EntryKey;

use crate::lab::{Lab, wait};
use crate::netlink;

/// A collector in the lab; `None`, with the reason printed, where the kernel does not describe
/// itself.
fn open(lab: &Lab) -> Option<Collector> {
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        println!("skipped, this kernel has no type information");
        return None;
    }
    let layout = Layout::of_kernel().unwrap();
    Some(Collector::open(layout, lab.netns(), 100_000).unwrap())
}

fn by_key(readings: Vec<Reading>) -> BTreeMap<EntryKey, Reading> {
    readings
        .into_iter()
        .map(|reading| (reading.key(), Reading { kernel_id: 0, ..reading }))
        .collect()
}

#[test]
fn a_sweep_reads_what_netlink_lists() {
    let Some(lab) = Lab::new("sweep") else { return };
    let Some(mut collector) = open(&lab) else { return };
    let mut netlink = netlink::open(&lab, NetlinkConfig::default());
    let udp = lab.udp();
    for number in 0..1_500 {
        for _ in 0..=number % 3 {
            udp.send(number).unwrap();
        }
    }
    let connect = || {
        let listener = TcpListener::bind("127.0.0.1:4000")?;
        let mut client = TcpStream::connect("127.0.0.1:4000")?;
        let mut server = listener.accept()?.0;
        client.write_all(b"hello")?;
        server.read_exact(&mut [0; 5])?;
        Ok((client, server))
    };
    let _tcp = lab.netns().enter(connect).unwrap();
    lab.exec("ping", &["-c", "1", "-q", "127.0.0.1"]);
    lab.exec("ping", &["-c", "1", "-q", "::1"]);
    lab.exec("conntrack", &["-U", "-p", "udp", "-d", "127.1.0.7", "-m", "42"]);
    wait("all entries", Duration::from_secs(20), || collector.found().len() >= 1_503);
    let listed = by_key(netlink::sweep(&mut netlink).0);
    let swept = by_key(collector.sweep().unwrap());
    assert_eq!(swept.len(), 1_503);
    assert_eq!(swept, listed);
    assert!(swept.values().any(|reading| reading.mark == 42));
    assert!(swept.values().any(|reading| reading.tcp.name() == "ESTABLISHED" && reading.fresh));
}

#[test]
fn a_destroyed_entry_is_not_read() {
    let Some(lab) = Lab::new("destroyed") else { return };
    let Some(mut collector) = open(&lab) else { return };
    let udp = lab.udp();
    udp.send_all(0..1_000);
    wait("all entries", Duration::from_secs(20), || collector.found().len() >= 1_000);
    lab.flush();
    // Their memory is given to entries of another namespace, or to nobody.
    let Some(other) = Lab::new("destroyed") else { return };
    other.udp().send_all(0..500);
    wait("the deaths", Duration::from_secs(20), || collector.sweep().unwrap().is_empty());
}
