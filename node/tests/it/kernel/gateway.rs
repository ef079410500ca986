//! A gateway with NAT in both directions, hairpin and a flowtable: what the source says of every
//! entry against what ctnetlink says of it, and against nftables' counters of the same packets.
//!
//! ```text
//!  client 10.9.1.2 -- lan 10.9.1.1 gateway wan 10.9.2.1 -- server 10.9.2.2
//!         fd09:1::2       fd09:1::1            fd09:2::1          fd09:2::2
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use conntracct_node::source::ebpf::EbpfSource;
use conntracct_node::source::netlink::NetlinkConfig;
use conntracct_node::source::{Source, Timed};
use flow::entry::EntryKey;
use flow::{Counters, Proto, Reading, Status};

use super::restart::{Pins, kept};
use super::{ends, lab, sweep};
use crate::lab::{Lab, run, wait};
use crate::netlink;

/// An entry, and no other one that has its tuple later.
type Name = (EntryKey, u64);

struct Net {
    client: Lab,
    gateway: Lab,
    server: Lab,
}

impl Net {
    fn new() -> Option<Self> {
        let [client, gateway, server] = [lab("gateway")?, lab("gateway")?, lab("gateway")?];
        let net = Self { client, gateway, server };
        net.link("lan", &net.client, 1);
        net.link("wan", &net.server, 2);
        for (lab, n) in [(&net.client, 1), (&net.server, 2)] {
            lab.exec("ip", &["route", "add", "default", "via", &format!("10.9.{n}.1")]);
            lab.exec("ip", &["-6", "route", "add", "default", "via", &format!("fd09:{n}::1")]);
        }
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/lan/send_redirects", "0"),
        ] {
            let path = format!("/proc/sys/net/{key}");
            net.gateway.netns().enter(|| std::fs::write(&path, value)).unwrap();
        }
        // Nothing ends by itself, and nothing comes back after it was ended.
        for key in ["udp_timeout_stream", "icmp_timeout", "icmpv6_timeout"] {
            net.gateway.set(key, "3600");
        }
        net.gateway.set("tcp_timeout_time_wait", "3600");
        net.gateway.set("tcp_loose", "0");
        // conntrack lets a late acknowledgement pass without adding it to its flow, otherwise.
        net.gateway.set("tcp_be_liberal", "1");
        net.gateway.nft(RULES);
        Some(net)
    }

    /// Joins the gateway with another one: addresses end in 1 there, in 2 here.
    fn link(&self, device: &str, to: &Lab, n: u8) {
        let gateway = &self.gateway;
        let peer = ["peer", "name", "eth0", "netns", to.name()];
        let all = ["link", "add", device, "netns", gateway.name(), "type", "veth"];
        run("ip", &[&all[..], &peer[..]].concat());
        for (lab, device, host) in [(gateway, device, 1), (to, "eth0", 2)] {
            let address = [format!("10.9.{n}.{host}/24"), format!("fd09:{n}::{host}/64")];
            lab.exec("ip", &["addr", "add", &address[0], "dev", device]);
            lab.exec("ip", &["-6", "addr", "add", &address[1], "dev", device, "nodad"]);
            lab.exec("ip", &["link", "set", device, "up"]);
        }
    }

    /// Whether the kernel takes a flowtable that counts.
    fn offload(&self) -> bool {
        let rules = "add flowtable inet gw ft { hook ingress priority 0; devices = { lan, wan }; \
                     counter; }
            add rule inet gw forward tcp dport 7001 flow add @ft
            add rule inet gw forward tcp sport 7001 flow add @ft";
        let mut nft = std::process::Command::new("ip");
        nft.args(["netns", "exec", self.gateway.name(), "nft", rules]);
        nft.output().unwrap().status.success()
    }

    /// Packets and bytes of tracked packets by their direction, as nftables has counted them.
    fn counted(&self) -> Counters {
        let text = self.gateway.exec("nft", &["list", "counters", "table", "inet", "gw"]);
        let mut numbers = Vec::new();
        for line in text.lines().filter(|line| line.trim().starts_with("packets ")) {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            numbers.extend([1, 3].map(|at| words[at].parse::<u64>().unwrap()));
        }
        // In the order they were made in: original, reply.
        let [packets, bytes, reply_packets, reply_bytes] = numbers[..] else { panic!("{text}") };
        Counters::new(packets, bytes, reply_packets, reply_bytes)
    }
}

/// One TCP connection, both ends of it.
struct Transfer {
    client: TcpStream,
    server: TcpStream,
}

impl Transfer {
    fn open(from: &Lab, to: &Lab, address: &str, listen: u16) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let here = SocketAddr::from(([0u16; 8], listen));
        let listener = to.netns().enter(|| TcpListener::bind(here)).unwrap();
        let client = from.netns().enter(|| TcpStream::connect(address)).unwrap();
        let server = listener.accept().unwrap().0;
        Self { client, server }
    }

    /// Sends some bytes there, and some back.
    fn exchange(&self, up: usize, down: usize) {
        let ends = [(&self.client, &self.server, up), (&self.server, &self.client, down)];
        for (mut from, mut to, bytes) in ends {
            // Less at once than a socket's buffer takes.
            for _ in 0..bytes.div_ceil(8_000) {
                from.write_all(&[7; 8_000]).unwrap();
                to.read_exact(&mut [0; 8_000]).unwrap();
            }
        }
    }

    /// Closes both directions; all packets of it have been sent.
    fn close(mut self) {
        self.client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(self.server.read(&mut [0]).unwrap(), 0);
        self.server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(self.client.read(&mut [0]).unwrap(), 0);
    }
}

/// Datagrams from one namespace to another and back.
fn echo(from: &Lab, to: &Lab, address: &str, listen: u16, flows: u16) {
    let address: SocketAddr = address.parse().unwrap();
    let here = SocketAddr::from(([0u16; 8], listen));
    let server = to.netns().enter(|| UdpSocket::bind(here)).unwrap();
    for flow in 0..flows {
        let any = SocketAddr::from(([0u16; 8], 0));
        let client = from.netns().enter(|| UdpSocket::bind(any)).unwrap();
        let client_to = match address {
            SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            v6 @ SocketAddr::V6(_) => v6,
        };
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for _ in 0..=flow % 3 {
            client.send_to(&[1; 40], client_to).unwrap();
            let (length, sender) = server.recv_from(&mut [0; 64]).unwrap();
            server.send_to(&[2; 90][..length * 2], sender).unwrap();
            assert_eq!(client.recv_from(&mut [0; 128]).unwrap().0, 80);
        }
    }
}

/// Flows of one datagram each through the gateway, to ports nobody answers from.
fn burst(net: &Net, ports: std::ops::Range<u16>, address: &str) {
    let sender = net.client.netns().enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    for port in ports {
        sender.send_to(&[3; 30], (address, port)).unwrap();
    }
}

fn named(readings: &[Reading]) -> BTreeMap<Name, Reading> {
    let name = |reading: &Reading| (reading.key(), reading.start);
    readings.iter().map(|reading| (name(reading), *reading)).collect()
}

/// What both must say of an ended entry.
fn last_words(reading: &Reading) -> (flow::Tuple, Option<Counters>, u32, u64) {
    (reading.reply, reading.counters, reading.mark, reading.stop)
}

fn sum<'r>(readings: impl IntoIterator<Item = &'r Reading>) -> Counters {
    let counters = readings.into_iter().filter_map(|reading| reading.counters);
    counters.fold(Counters::ZERO, Counters::plus)
}

/// One of each: NAT of the source, of the destination, of both (hairpin), none (IPv6), over UDP,
/// TCP and ICMP.
fn one_of_each(net: &Net) {
    for (address, listen, server) in [
        ("10.9.2.2:7100", 7100, &net.server),
        ("10.9.1.1:8100", 7100, &net.server),
        ("10.9.2.1:8200", 7200, &net.client),
        ("[fd09:2::2]:7100", 7100, &net.server),
    ] {
        echo(&net.client, server, address, listen, 30);
    }
    for (address, listen, server) in [
        ("10.9.1.1:8000", 7000, &net.server),
        ("10.9.2.1:8300", 7300, &net.client),
        ("[fd09:2::2]:7000", 7000, &net.server),
    ] {
        let transfer = Transfer::open(&net.client, server, address, listen);
        transfer.exchange(40_000, 80_000);
        transfer.close();
    }
    for address in ["10.9.2.2", "fd09:2::2"] {
        net.client.exec("ping", &["-c", "3", "-i", "0.2", "-q", address]);
    }
}

#[test]
fn a_gateway_differs_by_nothing() {
    let Some(net) = Net::new() else { return };
    let pins = Pins::new();
    let offloads = net.offload();
    let mut witness = netlink::open(&net.gateway, NetlinkConfig::default());
    let (mut truth, mut events): (Vec<Timed>, Vec<Timed>) = (Vec::new(), Vec::new());

    // Born before the source: one that will go on, and many that will not.
    let old = Transfer::open(&net.client, &net.server, "10.9.2.2:7000", 7000);
    old.exchange(20_000, 30_000);
    burst(&net, 20_000..20_500, "10.9.2.2");
    let config = kept(&net.gateway, &pins);
    let mut source = EbpfSource::open(config.clone()).unwrap();
    let is_kept = source.is_kept();
    sweep(&mut source);
    one_of_each(&net);
    let offloaded = Transfer::open(&net.client, &net.server, "10.9.2.2:7001", 7001);
    offloaded.exchange(100_000, 200_000);
    old.exchange(5_000, 5_000);
    let (live, _) = sweep(&mut source);
    let is_offloaded = live.iter().any(|reading| reading.status.has(Status::OFFLOAD));
    assert_eq!(is_offloaded, offloads);

    // A restart in the middle: flows go on, end, are born and end while nobody reads.
    source.events(&mut events).unwrap();
    drop(source);
    old.exchange(9_000, 1_000);
    offloaded.exchange(50_000, 10_000);
    if is_kept {
        burst(&net, 21_000..21_500, "10.9.2.2");
        net.gateway.exec("conntrack", &["-D", "-p", "udp"]);
        burst(&net, 21_500..21_600, "10.9.2.2");
    }
    let mut source = EbpfSource::open(config).unwrap();
    sweep(&mut source);
    old.exchange(9_000, 1_000);

    // 20,000 flows that are over before the next sweep.
    for round in 0..10 {
        burst(&net, 30_000..32_000, if round % 2 == 0 { "10.9.2.2" } else { "10.9.1.1" });
        net.gateway.exec("conntrack", &["-D", "-p", "udp"]);
        source.events(&mut events).unwrap();
        witness.events(&mut truth).unwrap();
    }
    old.close();
    offloaded.close();
    net.client.exec("ping", &["-c", "1", "-q", "10.9.2.2"]);
    net.gateway.flush();
    wait("an empty table", Duration::from_secs(60), || net.gateway.get("count") == 0);
    wait("the witness", Duration::from_secs(60), || {
        witness.events(&mut truth).unwrap();
        // It has listened from before the first one on.
        witness.health().deaths >= witness.health().births
    });
    witness.events(&mut truth).unwrap();
    source.events(&mut events).unwrap();
    let health = witness.health();
    assert_eq!((health.lost_ends, health.dropped_ends), (0, 0), "the witness has lost ends");
    assert_eq!(source.health().lost_ends, 0);
    println!("gateway: kept over the restart: {is_kept}, flowtable: {offloads}");
    judge(&net, &ends(&events), &ends(&truth));
}

/// Every entry as ctnetlink says it, and all together as nftables has counted.
fn judge(net: &Net, told: &[Reading], truth: &[Reading]) {
    let (ours, kernel) = (named(told), named(truth));
    assert_eq!(ours.len(), told.len(), "no end is told twice");
    assert!(kernel.len() > 20_000, "{} flows", kernel.len());
    let names: BTreeSet<&Name> = ours.keys().chain(kernel.keys()).collect();
    let say = |of: &BTreeMap<Name, Reading>, name| of.get(name).map(last_words);
    let differing: Vec<_> =
        names.into_iter().filter(|name| say(&ours, name) != say(&kernel, name)).collect();
    println!("gateway: {} flows, {} differ", kernel.len(), differing.len());
    let first = differing.first().map(|name| (ours.get(*name), kernel.get(*name)));
    assert_eq!(differing.len(), 0, "the first one: {first:#?}");
    // What the flowtable forwards passes no chain.
    let (by_table, by_chains): (Vec<_>, Vec<_>) =
        told.iter().partition(|reading| reading.orig.dport == 7001);
    assert_eq!(sum(by_chains), net.counted(), "nftables");
    let [_, sent, _, received] = sum(by_table).components();
    assert!(sent > 160_000 && received > 216_000, "{sent} and {received} bytes by the flowtable");
    let protos = |proto: Proto| told.iter().any(|reading| reading.orig.proto == proto);
    assert!([Proto::TCP, Proto::UDP, Proto::ICMP, Proto::ICMPV6].into_iter().all(protos));
    let nat = |bits: u32| told.iter().any(|reading| reading.status.has(bits));
    assert!(nat(Status::SRC_NAT | Status::DST_NAT), "hairpin");
}

const RULES: &str = "table inet gw {
    counter original {}
    counter reply {}
    chain count {
        ct state { related, invalid, untracked } return
        tcp dport 7001 return
        tcp sport 7001 return
        ct direction original counter name original return
        ct direction reply counter name reply
    }
    chain count_in { type filter hook prerouting priority mangle; jump count; }
    chain count_own { type filter hook output priority mangle; jump count; }
    chain forward { type filter hook forward priority 0; }
    chain pre {
        type nat hook prerouting priority dstnat
        ip daddr 10.9.1.1 tcp dport 8000 dnat ip to 10.9.2.2:7000
        ip daddr 10.9.1.1 udp dport 8100 dnat ip to 10.9.2.2:7100
        ip daddr 10.9.2.1 udp dport 8200 dnat ip to 10.9.1.2:7200
        ip daddr 10.9.2.1 tcp dport 8300 dnat ip to 10.9.1.2:7300
    }
    chain post {
        type nat hook postrouting priority srcnat
        oifname wan meta nfproto ipv4 snat ip to 10.9.2.1
        oifname lan ip saddr 10.9.1.0/24 ct status dnat snat ip to 10.9.1.1
    }
}";
