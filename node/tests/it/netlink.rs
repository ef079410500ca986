//! The netlink source against the kernel.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use conntracct_node::netns::NetnsChoice;
use conntracct_node::source::netlink::{NetlinkConfig, NetlinkSource};
use conntracct_node::source::{Event, Source, SweepReport, Timed};
use flow::{Counters, Proto, Reading, Tuple};

use crate::lab::{Lab, PAYLOAD, destination, wait};

pub(crate) fn open(lab: &Lab, config: NetlinkConfig) -> NetlinkSource {
    let netns = NetnsChoice::Listed(vec![lab.name().to_owned()]);
    NetlinkSource::open(NetlinkConfig { netns, ..config }).unwrap()
}

pub(crate) fn sweep(source: &mut NetlinkSource) -> (Vec<Reading>, SweepReport) {
    let mut all = Vec::new();
    let report = source.sweep(&mut |chunk| all.extend(chunk.readings)).unwrap();
    (all, report)
}

fn events(source: &mut NetlinkSource, births: u64, ends: u64) -> Vec<Timed> {
    let mut all = Vec::new();
    wait("the events", Duration::from_secs(20), || {
        source.events(&mut all).unwrap();
        let ended = all.iter().filter(|timed| matches!(timed.event, Event::End(_))).count() as u64;
        let born = all.len() as u64 - ended;
        born >= births && ended >= ends
    });
    all
}

const DATAGRAM: u64 = 20 + 8 + PAYLOAD as u64;

#[test]
fn counters_are_those_of_the_kernel_alive_and_ended() {
    let Some(lab) = Lab::new("counters") else { return };
    let mut source = open(&lab, NetlinkConfig::default());
    wait("reliable ends", Duration::from_secs(20), || source.health().reliable_ends);
    let udp = lab.udp();
    for number in 0..1_000 {
        for _ in 0..=number % 3 {
            udp.send(number).unwrap();
        }
    }
    let expected: BTreeMap<_, _> = (0..1_000u32)
        .map(|n| {
            let packets = u64::from(n % 3 + 1);
            let to = std::net::IpAddr::V4(destination(n));
            (to, Some(Counters::new(packets, packets * DATAGRAM, 0, 0)))
        })
        .collect();

    let (live, report) = sweep(&mut source);
    assert_eq!(report.complete, [lab.netns().inode()]);
    assert!(report.failed.is_empty() && report.gone.is_empty());
    assert!(live.iter().all(|r| r.start != 0 && r.stop == 0 && r.orig.proto == Proto::UDP));
    let found: BTreeMap<_, _> = live.iter().map(|r| (r.orig.dst, r.counters)).collect();
    assert_eq!(found, expected);

    lab.flush();
    let events = events(&mut source, 1_000, 1_000);
    assert_eq!(events.len(), 2_000);
    let mut ended = BTreeMap::new();
    let mut born = BTreeMap::new();
    for timed in events {
        match timed.event {
            Event::New(r) => drop(born.insert(r.orig.dst, r)),
            Event::End(r) => {
                let birth = born.get(&r.orig.dst).expect("a birth is before its end");
                assert_eq!((birth.kernel_id, birth.reply), (r.kernel_id, r.reply));
                assert!(r.start != 0 && r.stop >= r.start);
                ended.insert(r.orig.dst, r.counters);
            }
        }
    }
    assert_eq!(ended, expected);
    let health = source.health();
    assert_eq!((health.births, health.deaths), (1_000, 1_000));
    assert!(health.reliable_ends);
    assert_eq!((health.malformed, health.lost_ends, health.dropped_ends), (0, 0, 0));
}

/// Inserts entries of every protocol, with zones, a mark and a translation.
pub(crate) fn insert_one_of_each(lab: &Lab) {
    let insert = |args: &str| {
        let args: Vec<_> = ["-I", "-t", "300"].into_iter().chain(args.split(' ')).collect();
        lab.exec("conntrack", &args);
    };
    let v4 = "-s 10.1.0.1 -d 10.1.0.2";
    insert(&format!("{v4} -p tcp --sport 1001 --dport 80 --state ESTABLISHED -u ASSURED -m 42"));
    insert(&format!("{v4} -p udp --sport 1002 --dport 53 -w 7"));
    insert(&format!("{v4} -p udp --sport 1002 --dport 53 --orig-zone 8"));
    insert(&format!("{v4} -p udp --sport 1002 --dport 54 --reply-zone 9"));
    insert(&format!("{v4} -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77"));
    insert("-s fd00::1 -d fd00::2 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 78");
    insert("-s fd00::1 -d fd00::2 -p tcp --sport 1003 --dport 443 --state SYN_SENT");
    insert(&format!(
        "{v4} -p sctp --sport 1004 --dport 2905 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2"
    ));
    insert(&format!("{v4} -p gre --srckey 5 --dstkey 6"));
    insert(&format!("{v4} -p udplite --sport 1006 --dport 1007"));
    insert(&format!("{v4} -p udp --sport 1008 --dport 1009 --dst-nat 10.9.9.9:99"));
}

#[test]
fn every_protocol_zone_and_mark_is_read() {
    let Some(lab) = Lab::new("protocols") else { return };
    let mut source = open(&lab, NetlinkConfig::default());
    insert_one_of_each(&lab);
    let (live, _) = sweep(&mut source);
    let find = |proto: Proto, sport: u16, dport: u16| -> Vec<&Reading> {
        live.iter()
            .filter(|r| (r.orig.proto, r.orig.sport, r.orig.dport) == (proto, sport, dport))
            .collect()
    };
    let (a, b) = ("10.1.0.1".parse().unwrap(), "10.1.0.2".parse().unwrap());

    let [tcp] = find(Proto::TCP, 1001, 80)[..] else { panic!("{live:?}") };
    assert_eq!((tcp.mark, tcp.tcp.name(), tcp.counters), (42, "ESTABLISHED", Some(Counters::ZERO)));
    assert_eq!((tcp.orig.src, tcp.orig.dst, tcp.reply), (a, b, tcp.orig.inverse()));
    assert!(tcp.status.has(flow::Status::ASSURED | flow::Status::CONFIRMED));

    let mut zones: Vec<_> = find(Proto::UDP, 1002, 53).iter().map(|r| r.zone.0).collect();
    zones.sort_unstable();
    assert_eq!(zones, [7, 8]);
    assert_eq!(find(Proto::UDP, 1002, 54)[0].zone.0, 0, "a reply's zone is not the entry's");

    let ping = Tuple::icmp(Proto::ICMP, a, b, 77, 8, 0);
    let [icmp] = find(Proto::ICMP, ping.sport, ping.dport)[..] else { panic!("{live:?}") };
    assert_eq!((icmp.orig, icmp.reply), (ping, ping.inverse()));
    let [icmp6] = find(Proto::ICMPV6, 78, 128 << 8)[..] else { panic!("{live:?}") };
    assert_eq!(icmp6.reply.icmp_parts(), Some((129, 0, 78)));
    assert_eq!(find(Proto::TCP, 1003, 443)[0].orig.family(), flow::Family::V6);
    assert_eq!(find(Proto::SCTP, 1004, 2905).len(), 1);
    assert_eq!(find(Proto::GRE, 5, 6).len(), 1);
    assert_eq!(find(Proto::UDPLITE, 1006, 1007).len(), 1);

    let [nat] = find(Proto::UDP, 1008, 1009)[..] else { panic!("{live:?}") };
    assert!(flow::view::is_translated(&nat.orig, &nat.reply));
    assert_eq!(
        flow::view::outside(&nat.reply).dst,
        "10.9.9.9".parse::<std::net::IpAddr>().unwrap()
    );
    assert_eq!(live.len(), 11);
}

#[test]
fn a_tcp_entry_says_whether_a_syn_began_it() {
    let Some(lab) = Lab::new("fresh") else { return };
    let mut source = open(&lab, NetlinkConfig::default());
    let connect = || {
        let listener = TcpListener::bind("127.0.0.1:4000")?;
        let client = TcpStream::connect("127.0.0.1:4000")?;
        Ok((client, listener.accept()?.0))
    };
    let (mut client, mut server) = lab.netns().enter(connect).unwrap();
    let (live, _) = sweep(&mut source);
    let [entry] = live[..] else { panic!("{live:?}") };
    assert_eq!((entry.tcp.name(), entry.fresh), ("ESTABLISHED", true));

    lab.flush();
    client.write_all(b"more").unwrap();
    server.read_exact(&mut [0; 4]).unwrap();
    let (live, _) = sweep(&mut source);
    let [entry] = live[..] else { panic!("{live:?}") };
    assert!(!entry.fresh, "picked up in the middle: {entry:?}");

    let events = events(&mut source, 2, 1);
    let Event::New(born) = events[0].event else { panic!("{events:?}") };
    assert!(born.fresh, "a birth by SYN says so: {born:?}");
}

#[test]
fn namespaces_come_and_go() {
    let (Some(first), Some(second)) = (Lab::new("gone"), Lab::new("gone")) else { return };
    let mut source =
        NetlinkSource::open(NetlinkConfig { netns: NetnsChoice::All, ..NetlinkConfig::default() })
            .unwrap();
    let third = Lab::new("gone").unwrap();
    let inodes = [&first, &second, &third].map(|lab| lab.netns().inode());
    for lab in [&first, &second, &third] {
        lab.udp().send_all(0..10);
    }
    let count = |live: &[Reading]| inodes.map(|i| live.iter().filter(|r| r.netns == i).count());
    let (live, report) = sweep(&mut source);
    assert_eq!(count(&live), [10, 10, 10]);
    assert!(inodes.iter().all(|inode| report.complete.contains(inode)));

    drop(second);
    let (live, report) = sweep(&mut source);
    assert_eq!(count(&live), [10, 10, 10], "a last look at what is gone");
    assert!(report.gone.contains(&inodes[1]) && !report.complete.contains(&inodes[1]));
    let (live, report) = sweep(&mut source);
    assert_eq!(count(&live), [10, 0, 10]);
    assert!(!report.gone.contains(&inodes[1]));
}

#[test]
fn a_namespace_that_does_not_exist_is_named() {
    if Lab::new("missing").is_none() {
        return;
    }
    let netns = NetnsChoice::Listed(vec!["no-such-namespace".to_owned()]);
    let opened = NetlinkSource::open(NetlinkConfig { netns, ..NetlinkConfig::default() });
    let error = opened.err().expect("it does not exist").to_string();
    assert!(error.contains("no-such-namespace"), "{error}");
}

#[test]
fn entries_without_accounting_are_uncounted() {
    let Some(lab) = Lab::new("uncounted") else { return };
    lab.set("acct", "0");
    lab.set("timestamp", "0");
    let mut source = open(&lab, NetlinkConfig::default());
    lab.udp().send_all(0..3);
    let (live, _) = sweep(&mut source);
    assert_eq!(live.len(), 3);
    assert!(live.iter().all(|r| r.counters.is_none() && r.start == 0 && r.kernel_id != 0));
}
