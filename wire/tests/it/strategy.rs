//! Arbitrary values of everything that travels.

use std::net::IpAddr;

use flow::entry::Zone;
use flow::record::{ClockPair, KernelTotals, MeasuredOffset};
use flow::{
    Birth, BootId, BootNanos, ClockOffset, Counters, Epoch, FlowNo, Interval, NetnsId, NetnsInode,
    Proto, Record, RecordFlags, Seq, Status, StoreId, TcpState, Tuple, UnixNanos,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wire::control::{
    Ack, Extensions, Hello, Message, Nack, Ping, Pong, Received, RefuseReason, Refused, Verdict,
    Welcome,
};
use wire::gap::{Gap, GapReason};

/// Small, middling and huge numbers alike.
pub(crate) fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..300u64, any::<u32>().prop_map(u64::from), any::<u64>(), Just(u64::MAX)]
}

pub(crate) fn counters() -> impl Strategy<Value = Counters> {
    prop_oneof![Just([0; 4]), [number(), number(), number(), number()]]
        .prop_map(Counters::from_components)
}

fn boot_id() -> impl Strategy<Value = BootId> {
    prop_oneof![Just(BootId([7; 16])), any::<[u8; 16]>().prop_map(BootId)]
}

fn proto() -> impl Strategy<Value = Proto> {
    const USUAL: [u8; 10] = [1, 2, 6, 17, 33, 47, 50, 58, 132, 136];
    prop_oneof![9 => proptest::sample::select(&USUAL[..]).prop_map(Proto), 1 => any::<u8>().prop_map(Proto)]
}

fn address(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        prop_oneof![
            (0..4u16).prop_map(|low| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, low])),
            any::<[u8; 16]>().prop_map(IpAddr::from)
        ]
        .boxed()
    } else {
        prop_oneof![
            (0..4u8).prop_map(|low| IpAddr::from([10, 0, 0, low])),
            any::<[u8; 4]>().prop_map(IpAddr::from)
        ]
        .boxed()
    }
}

/// An original tuple, and a reply tuple that is its inverse but for any of its four parts.
fn tuples() -> impl Strategy<Value = (Tuple, Tuple)> {
    any::<bool>().prop_flat_map(|v6| {
        let end = || (address(v6), any::<u16>());
        (
            proto(),
            end(),
            end(),
            option::of(address(v6)),
            option::of(address(v6)),
            any::<[Option<u16>; 2]>(),
        )
            .prop_map(|(proto, (src, sport), (dst, dport), nat_src, nat_dst, ports)| {
                let orig = Tuple { src, dst, sport, dport, proto };
                let mut reply = orig.inverse();
                reply.src = nat_src.unwrap_or(reply.src);
                reply.dst = nat_dst.unwrap_or(reply.dst);
                reply.sport = ports[0].unwrap_or(reply.sport);
                reply.dport = ports[1].unwrap_or(reply.dport);
                (orig, reply)
            })
    })
}

fn birth() -> impl Strategy<Value = Birth> {
    prop_oneof![
        (1..=u64::MAX).prop_map(Birth::Start),
        (0..3_600_000_000_000u64).prop_map(|ns| Birth::Start(1_700_000_000_000_000_000 + ns)),
        any::<u32>().prop_map(Birth::Id)
    ]
}

pub(crate) fn record() -> impl Strategy<Value = Record> {
    let place = (number(), 0..3u32, boot_id(), prop_oneof![Just(0), any::<u16>()]);
    let state = (prop_oneof![Just(0), Just(42), any::<u32>()], any::<u16>(), 0..10u8, any::<u16>());
    let times = (number(), number(), prop_oneof![Just(0), any::<u64>()]);
    (place, tuples(), birth(), state, times, counters(), counters(), counters()).prop_map(
        |((flow, inode, boot, zone), (orig, reply), birth, state, times, cum, delta, offset)| {
            let (mark, status, tcp, flags) = state;
            let (since, until, stop) = times;
            Record {
                flow: FlowNo(flow),
                netns: NetnsId { inode: NetnsInode(inode), boot },
                zone: Zone(zone),
                orig,
                reply,
                birth,
                mark,
                status: Status(u32::from(status)),
                tcp: TcpState(tcp),
                flags: RecordFlags(flags),
                since: BootNanos(since),
                until: BootNanos(until),
                cum,
                delta,
                offset,
                stop,
            }
        },
    )
}

pub(crate) fn interval() -> impl Strategy<Value = Interval> {
    let offset = (any::<i64>(), boot_id(), any::<u64>()).prop_map(|(offset, boot, at)| {
        MeasuredOffset { offset: ClockOffset(offset), boot, at: BootNanos(at) }
    });
    let clock = (any::<u64>(), any::<i64>(), any::<bool>(), any::<bool>()).prop_map(
        |(boot, wall, synchronised, stepped)| ClockPair {
            boot: BootNanos(boot),
            wall: UnixNanos(wall),
            synchronised,
            stepped,
        },
    );
    let totals = (any::<[u64; 4]>(), counters(), counters()).prop_map(|(n, live, ended)| {
        let [live_flows, ended_flows, uncounted, ended_unseen] = n;
        KernelTotals { live_flows, live, ended_flows, ended, uncounted, ended_unseen }
    });
    (
        any::<[u64; 3]>(),
        any::<[u32; 3]>(),
        boot_id(),
        clock,
        option::of(offset),
        totals,
        any::<bool>(),
    )
        .prop_map(
            |(
                [number, begin, end],
                [length_ms, part, parts],
                boot,
                clock,
                offset,
                totals,
                paused,
            )| {
                Interval {
                    number,
                    length_ms,
                    part,
                    parts,
                    sweep_begin: BootNanos(begin),
                    sweep_end: BootNanos(end),
                    boot,
                    clock,
                    offset,
                    totals,
                    paused,
                }
            },
        )
}

fn extensions() -> impl Strategy<Value = Extensions> {
    vec((any::<u16>(), vec(any::<u8>(), 0..20)), 0..4)
}

fn seq() -> impl Strategy<Value = Seq> {
    number().prop_map(Seq)
}

fn text(limit: usize) -> impl Strategy<Value = String> {
    let ascii = vec(proptest::char::range(' ', '~'), 0..=limit).prop_map(String::from_iter);
    prop_oneof![3 => ascii, 1 => Just("größer".to_owned())]
}

fn hello() -> impl Strategy<Value = Hello> {
    let ids = (any::<[u8; 16]>(), boot_id(), option::of(any::<[u8; 16]>()));
    (text(63), text(63), text(255), text(255), ids, seq(), seq(), extensions()).prop_map(
        |(node, source, kernel, version, (epoch, boot, store), first, next, extensions)| Hello {
            node,
            epoch: Epoch(epoch),
            boot,
            source,
            kernel,
            version,
            first_unacknowledged: first,
            next,
            store: store.map(StoreId),
            extensions,
        },
    )
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    const REASONS: &[RefuseReason] = &[
        RefuseReason::Unknown,
        RefuseReason::WrongName,
        RefuseReason::NameInUse,
        RefuseReason::Revoked,
        RefuseReason::Unavailable,
        RefuseReason::TooManyNodes,
        RefuseReason::Malformed,
    ];
    let verdict = prop_oneof![
        any::<u32>().prop_map(Verdict::RetryAfter),
        text(1024).prop_map(Verdict::Reject)
    ];
    prop_oneof![
        hello().prop_map(Message::Hello),
        (any::<[u8; 16]>(), seq(), any::<[u32; 2]>(), any::<i64>(), extensions()).prop_map(
            |(store, committed, [max_unreceived, max_frame], time, extensions)| {
                Message::Welcome(Welcome {
                    store: StoreId(store),
                    committed,
                    max_unreceived,
                    max_frame,
                    time: UnixNanos(time),
                    extensions,
                })
            }
        ),
        (proptest::sample::select(REASONS), text(1024), extensions()).prop_map(
            |(reason, message, extensions)| Message::Refused(Refused {
                reason,
                message,
                extensions
            })
        ),
        (number(), any::<Option<i64>>(), extensions()).prop_map(|(sent, offset, extensions)| {
            Message::Ping(Ping { sent: BootNanos(sent), offset, extensions })
        }),
        (number(), any::<[i64; 2]>(), extensions()).prop_map(
            |(sent, [received, answered], extensions)| Message::Pong(Pong {
                sent: BootNanos(sent),
                received: UnixNanos(received),
                answered: UnixNanos(answered),
                extensions
            })
        ),
        (seq(), extensions())
            .prop_map(|(seq, extensions)| Message::Received(Received { seq, extensions })),
        (seq(), extensions()).prop_map(|(seq, extensions)| Message::Ack(Ack { seq, extensions })),
        (seq(), verdict, extensions()).prop_map(|(seq, verdict, extensions)| {
            Message::Nack(Nack { seq, verdict, extensions })
        }),
    ]
}

pub(crate) fn gap() -> impl Strategy<Value = Gap> {
    const REASONS: &[GapReason] = &[
        GapReason::Unknown,
        GapReason::Rejected,
        GapReason::Unreadable,
        GapReason::Forgotten,
        GapReason::DroppedEnds,
        GapReason::Renamed,
    ];
    let range = (1..u64::MAX / 2, number().prop_map(|n| n / 2));
    let reason = proptest::sample::select(REASONS);
    (range, reason, boot_id(), any::<i64>(), number(), counters(), text(1024), extensions())
        .prop_map(|((first, more), reason, boot, at, flows, lost, note, extensions)| Gap {
            first: Seq(first),
            last: Seq(first + more),
            reason,
            boot,
            at: UnixNanos(at),
            flows,
            lost,
            note,
            extensions,
        })
}
