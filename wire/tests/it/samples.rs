//! One frame of every sort, with fixed values: what the golden files hold.

use flow::entry::Zone;
use flow::record::{ClockPair, KernelTotals, MeasuredOffset};
use flow::{
    Birth, BootId, BootNanos, ClockOffset, Counters, Epoch, FlowNo, Interval, NetnsId, NetnsInode,
    Proto, Record, RecordFlags, Seq, Status, StoreId, TcpState, Tuple, UnixNanos,
};
use wire::batch::{Builder, Compression};
use wire::control::{
    Ack, Extensions, Hello, Message, Nack, Ping, Pong, Received, RefuseReason, Refused, Verdict,
    Welcome,
};
use wire::frame::Frame;
use wire::gap::{Gap, GapReason};

const BOOT: BootId = BootId([0xb0; 16]);
const NETNS: NetnsId = NetnsId { inode: NetnsInode(4_026_531_840), boot: BOOT };
const SECOND: u64 = 1_000_000_000;
const BOOTED: u64 = 1_760_000_000 * SECOND;

/// All control messages, by file name.
pub(crate) fn messages() -> Vec<(&'static str, Message)> {
    let none = Extensions::new;
    let hello = Hello {
        node: "gw-1.example".to_owned(),
        epoch: Epoch([0xe0; 16]),
        boot: BOOT,
        source: "netlink".to_owned(),
        kernel: "6.12.43-amd64".to_owned(),
        version: "0.1.0".to_owned(),
        first_unacknowledged: Seq(41),
        next: Seq(300),
        store: Some(StoreId([0x50; 16])),
        extensions: vec![(7, vec![1, 2, 3]), (65_535, vec![])],
    };
    let welcome = Welcome {
        store: StoreId([0x50; 16]),
        committed: Seq(40),
        max_unreceived: 16,
        max_frame: 4 << 20,
        time: UnixNanos(1_760_000_000_123_456_789),
        extensions: none(),
    };
    let refused = Refused {
        reason: RefuseReason::NameInUse,
        message: "another node is connected as gw-1; give one of them a new name".to_owned(),
        extensions: none(),
    };
    let nack = |verdict| Message::Nack(Nack { seq: Seq(44), verdict, extensions: none() });
    vec![
        ("hello", Message::Hello(hello)),
        ("welcome", Message::Welcome(welcome)),
        ("refused", Message::Refused(refused)),
        (
            "ping",
            Message::Ping(Ping {
                sent: BootNanos(5 * SECOND),
                offset: Some(-1_234_567_890_123),
                extensions: none(),
            }),
        ),
        (
            "pong",
            Message::Pong(Pong {
                sent: BootNanos(5 * SECOND),
                received: UnixNanos(1_760_000_005_000_000_001),
                answered: UnixNanos(1_760_000_005_000_000_900),
                extensions: none(),
            }),
        ),
        ("received", Message::Received(Received { seq: Seq(43), extensions: none() })),
        ("ack", Message::Ack(Ack { seq: Seq(u64::MAX), extensions: vec![(1, vec![0xff])] })),
        ("nack-retry", nack(Verdict::RetryAfter(2_500))),
        ("nack-reject", nack(Verdict::Reject("column 17 is missing".to_owned()))),
    ]
}

/// A gap.
pub(crate) fn gap() -> Gap {
    Gap {
        first: Seq(44),
        last: Seq(46),
        reason: GapReason::Unreadable,
        boot: BOOT,
        at: UnixNanos(1_760_000_100_000_000_000),
        flows: 12,
        lost: Counters::new(1, 200, 30_000, 4_000_000_000_000),
        note: "segment 9: digest mismatch at byte 4096".to_owned(),
        extensions: vec![(2, b"later".to_vec())],
    }
}

/// A batch: its interval, its records, its compression.
pub(crate) struct Batch {
    pub(crate) name: &'static str,
    pub(crate) seq: Seq,
    pub(crate) interval: Interval,
    pub(crate) records: Vec<Record>,
    pub(crate) compression: Compression,
}

impl Batch {
    pub(crate) fn frame(&self) -> Frame {
        let mut builder = Builder::new(self.compression);
        for record in &self.records {
            builder.push(record).unwrap();
        }
        builder.finish(self.seq, &self.interval).unwrap()
    }
}

/// Batches of every sort.
pub(crate) fn batches() -> Vec<Batch> {
    let batch = |name, seq, records, compression| Batch {
        name,
        seq: Seq(seq),
        interval: interval(),
        records,
        compression,
    };
    let mut everything: Vec<Record> =
        [v4_nat(), v6(), icmp(), ends(), offset(), many()].into_iter().flatten().collect();
    everything.rotate_left(3);
    let heartbeat = Interval {
        part: 1,
        parts: 1,
        offset: None,
        paused: true,
        totals: KernelTotals::default(),
        clock: ClockPair { synchronised: false, stepped: true, ..interval().clock },
        ..interval()
    };
    vec![
        Batch { interval: heartbeat, ..batch("batch-heartbeat", 1, vec![], Compression::Zstd) },
        batch("batch-v4-nat", 2, v4_nat(), Compression::Zstd),
        batch("batch-v6", 3, v6(), Compression::Lz4),
        batch("batch-icmp", 4, icmp(), Compression::Zstd),
        batch("batch-ends", 5, ends(), Compression::Lz4),
        batch("batch-offset", 6, offset(), Compression::Zstd),
        batch("batch-many-zstd", 7, many(), Compression::Zstd),
        batch("batch-everything-zstd", u64::MAX, everything.clone(), Compression::Zstd),
        batch("batch-everything-lz4", 1 << 40, everything, Compression::Lz4),
    ]
}

/// Every frame by its file name.
pub(crate) fn frames() -> Vec<(&'static str, Frame)> {
    let mut frames: Vec<_> =
        messages().into_iter().map(|(name, message)| (name, message.encode().unwrap())).collect();
    frames.push(("gap", gap().encode().unwrap()));
    frames.extend(batches().into_iter().map(|batch| (batch.name, batch.frame())));
    frames
}

fn interval() -> Interval {
    Interval {
        number: 176_000_360,
        length_ms: 10_000,
        part: 2,
        parts: 3,
        sweep_begin: BootNanos(3_600 * SECOND),
        sweep_end: BootNanos(3_600 * SECOND + 40_000_000),
        boot: BOOT,
        clock: ClockPair {
            boot: BootNanos(3_600 * SECOND + 40_000_500),
            wall: UnixNanos(1_760_003_600_040_000_501),
            synchronised: true,
            stepped: false,
        },
        offset: Some(MeasuredOffset {
            offset: ClockOffset(1_759_999_999_999_999_000),
            boot: BootId([0xb1; 16]),
            at: BootNanos(3_500 * SECOND),
        }),
        totals: KernelTotals {
            live_flows: 1_000,
            live: Counters::new(1, 2, 3, 4),
            ended_flows: 20,
            ended: Counters::new(50, 60, 70, u64::MAX),
            uncounted: 3,
            ended_unseen: 1,
        },
        paused: false,
    }
}

fn record(flow: u64, orig: Tuple) -> Record {
    let born = 3_000 * SECOND + flow * 7_654_321;
    Record {
        flow: FlowNo(flow),
        netns: NETNS,
        zone: Zone(0),
        orig,
        reply: orig.inverse(),
        birth: Birth::Start(BOOTED + born),
        mark: 0,
        status: Status(Status::CONFIRMED | Status::SEEN_REPLY | Status::ASSURED),
        tcp: TcpState(if orig.proto == Proto::TCP { 3 } else { 0 }),
        flags: RecordFlags::default().with_if(RecordFlags::FRESH, orig.proto == Proto::TCP),
        since: BootNanos(3_590 * SECOND),
        until: BootNanos(3_600 * SECOND + flow * 1_000),
        cum: Counters::new(12, 3_456, 34, 56_789),
        delta: Counters::new(2, 456, 4, 6_789),
        offset: Counters::ZERO,
        stop: 0,
    }
}

fn tcp(src: &str, dst: &str) -> Tuple {
    Tuple::ports(Proto::TCP, src.parse().unwrap(), dst.parse().unwrap())
}

/// Source NAT with and without another port, destination NAT, both; not translated at all.
fn v4_nat() -> Vec<Record> {
    let orig = tcp("10.0.0.7:40000", "203.0.113.9:443");
    let public = "198.51.100.1".parse().unwrap();
    let server = "192.168.7.80".parse().unwrap();
    let status = |bits| Status(Status::CONFIRMED | Status::SEEN_REPLY | bits);
    let (snat, dnat) = (status(Status::SRC_NAT), status(Status::DST_NAT));
    let plain = record(1, orig);
    let reply = plain.reply;
    vec![
        plain,
        Record { reply: Tuple { dst: public, ..reply }, status: snat, ..record(2, orig) },
        Record { reply: Tuple { dst: public, dport: 1_024, ..reply }, status: snat, ..plain },
        Record { reply: Tuple { src: server, sport: 8_443, ..reply }, status: dnat, ..plain },
        Record {
            reply: Tuple { src: server, dst: public, sport: 80, dport: 81, ..reply },
            status: status(Status::SRC_NAT | Status::DST_NAT),
            mark: 0xdead_beef,
            zone: Zone(65_535),
            flow: FlowNo(u64::MAX),
            ..record(3, orig)
        },
    ]
}

fn v6() -> Vec<Record> {
    let orig = tcp("[2001:db8::7]:50000", "[2001:db8:ffff::1]:22");
    let local = tcp("[::1]:1", "[::ffff:10.0.0.1]:65535");
    let translated = Tuple { dst: "fd00::99".parse().unwrap(), ..orig.inverse() };
    let other_netns = NetnsId { inode: NetnsInode(4_026_532_999), boot: BootId([1; 16]) };
    vec![
        record(10, orig),
        Record { reply: translated, netns: other_netns, ..record(11, orig) },
        record(12, local),
    ]
}

/// ICMP and ICMPv6, and protocols without ports, with keys, and unknown ones.
fn icmp() -> Vec<Record> {
    let (a, b) = ("10.0.0.7".parse().unwrap(), "10.0.0.8".parse().unwrap());
    let (c, d) = ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap());
    let bare = |proto| Tuple { src: a, dst: b, sport: 0, dport: 0, proto: Proto(proto) };
    let ping = Tuple::icmp(Proto::ICMP, a, b, 4_711, 8, 0);
    // A reply whose id was translated.
    let masked = Tuple { sport: 99, ..ping.inverse() };
    vec![
        record(20, ping),
        Record { reply: masked, ..record(21, ping) },
        record(22, Tuple::icmp(Proto::ICMP, a, b, 0, 3, 13)),
        record(23, Tuple::icmp(Proto::ICMPV6, c, d, 7, 128, 0)),
        record(24, Tuple { sport: 1, dport: 2, ..bare(47) }),
        record(25, bare(50)),
        record(26, bare(255)),
        record(27, Tuple::ports(Proto::SCTP, (a, 5_000).into(), (b, 5_001).into())),
    ]
}

/// Ends with and without a stop; starts known and not; seen and not.
fn ends() -> Vec<Record> {
    let orig = tcp("10.0.0.7:40001", "203.0.113.9:443");
    let end = RecordFlags::END;
    let unseen = end.with(RecordFlags::UNSEEN).with(RecordFlags::REBASE);
    let stop = BOOTED + 3_600 * SECOND;
    let first = Record { flags: end, stop, tcp: TcpState(7), ..record(30, orig) };
    vec![
        first,
        Record { birth: Birth::Id(0xfeed_f00d), since: BootNanos::BOOT, ..first },
        Record { flags: unseen, stop: 0, since: BootNanos(1), ..first },
        Record { birth: Birth::Id(0), stop: 1, flags: end.with(RecordFlags::UNCOUNTED), ..first },
        Record { birth: Birth::Start(1), until: BootNanos(u64::MAX), stop: u64::MAX, ..first },
    ]
}

/// Counters that were reset, and such as no node writes but the format must hold.
fn offset() -> Vec<Record> {
    let orig = tcp("10.0.0.7:40002", "203.0.113.9:443");
    let flags = RecordFlags::RESET;
    let max = Counters::new(u64::MAX, u64::MAX, u64::MAX, u64::MAX);
    vec![
        Record { offset: Counters::new(10, 3_000, 30, 50_000), flags, ..record(40, orig) },
        Record { cum: max, delta: max, offset: max, ..record(41, orig) },
        Record { cum: Counters::ZERO, delta: max, ..record(42, orig) },
        Record { cum: max, delta: Counters::ZERO, ..record(43, orig) },
    ]
}

/// Enough records that every column has more than one value, more than 256 marks among them.
fn many() -> Vec<Record> {
    let record = |n: u32| {
        let [.., high, low] = n.to_be_bytes();
        let src = ([10, 1, high, low], 1_024 + u16::from(low)).into();
        let orig = Tuple::ports(Proto::UDP, src, ([192, 0, 2, low % 5], 53).into());
        Record {
            mark: n * 3,
            cum: Counters::new(1, 60 + u64::from(low), 1, 200 + u64::from(n)),
            delta: Counters::new(1, 60 + u64::from(low), 1, 200 + u64::from(n)),
            ..record(u64::from(n), orig)
        }
    };
    (1_000..1_300).map(record).collect()
}
