//! A record as one JSON object: what the stdout sink writes, one a line.
//!
//! Times are RFC 3339 by the node's own wall clock; NAT tuples appear only where they differ.

use std::net::IpAddr;

use flow::view::outside;
use flow::{BootNanos, ClockOffset, Record, RecordFlags};
use jiff::Timestamp;
use serde::Serialize;

/// One record in the words of its readers.
#[derive(Debug, Serialize)]
pub struct Line {
    /// When the growth had happened (`until`).
    time: String,
    /// `update` or `end`.
    event: &'static str,
    /// The flow's number on this node.
    flow: u64,
    netns: u32,
    zone: u16,
    proto: String,
    src: IpAddr,
    dst: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat_src: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat_dst: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat_src_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat_dst_port: Option<u16>,
    mark: u32,
    status: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    packets_orig: u64,
    bytes_orig: u64,
    packets_reply: u64,
    bytes_reply: u64,
    delta_packets_orig: u64,
    delta_bytes_orig: u64,
    delta_packets_reply: u64,
    delta_bytes_reply: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    uncounted: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unseen: bool,
}

impl Line {
    /// The line of a record, its times by `clock` (node's wall clock less its boottime).
    #[must_use]
    pub fn of(record: &Record, clock: ClockOffset) -> Self {
        let Record { orig, cum, delta, flags, .. } = record;
        let out = outside(&record.reply);
        let icmp = orig.icmp_parts();
        let ports = (icmp.is_none() && (orig.sport | orig.dport) != 0).then_some(());
        let differs = |a: IpAddr, b: IpAddr| (a != b).then_some(a);
        Self {
            time: wall(clock, record.until),
            event: if flags.has(RecordFlags::END) { "end" } else { "update" },
            flow: record.flow.0,
            netns: record.netns.inode.0,
            zone: record.zone.0,
            proto: orig.proto.to_string(),
            src: orig.src,
            dst: orig.dst,
            src_port: ports.map(|()| orig.sport),
            dst_port: ports.map(|()| orig.dport),
            icmp_type: icmp.map(|(kind, _, _)| kind),
            icmp_code: icmp.map(|(_, code, _)| code),
            icmp_id: icmp.map(|(_, _, id)| id),
            nat_src: differs(out.src, orig.src),
            nat_dst: differs(out.dst, orig.dst),
            nat_src_port: (out.sport != orig.sport).then_some(out.sport),
            nat_dst_port: (out.dport != orig.dport).then_some(out.dport),
            mark: record.mark,
            status: record.status.0,
            tcp_state: (record.tcp.0 != 0).then(|| record.tcp.name()),
            start: record.birth.start().and_then(kernel_time),
            stop: kernel_time(record.stop),
            packets_orig: cum.orig.packets.0,
            bytes_orig: cum.orig.bytes.0,
            packets_reply: cum.reply.packets.0,
            bytes_reply: cum.reply.bytes.0,
            delta_packets_orig: delta.orig.packets.0,
            delta_bytes_orig: delta.orig.bytes.0,
            delta_packets_reply: delta.reply.packets.0,
            delta_bytes_reply: delta.reply.bytes.0,
            uncounted: flags.has(RecordFlags::UNCOUNTED),
            unseen: flags.has(RecordFlags::UNSEEN),
        }
    }
}

fn wall(clock: ClockOffset, at: BootNanos) -> String {
    let nanos = i128::from(clock.apply(at).get());
    Timestamp::from_nanosecond(nanos).map(|t| t.to_string()).unwrap_or_default()
}

/// A raw kernel stamp as a time, `None` where there is none.
fn kernel_time(nanos: u64) -> Option<String> {
    if nanos == 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanos)).ok().map(|t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::entry::Zone;
    use flow::{Birth, Counters, FlowNo, NetnsId, Proto, Status, TcpState, Tuple, UnixNanos};

    fn record() -> Record {
        let orig = Tuple::ports(
            Proto::TCP,
            "10.0.0.1:4000".parse().unwrap(),
            "192.0.2.1:443".parse().unwrap(),
        );
        let mut reply = orig.inverse();
        reply.dst = "198.51.100.7".parse().unwrap();
        Record {
            flow: FlowNo(7),
            netns: NetnsId::default(),
            zone: Zone(0),
            orig,
            reply,
            birth: Birth::Start(1_600_000_000_000_000_000),
            mark: 1,
            status: Status(Status::CONFIRMED),
            tcp: TcpState(3),
            flags: RecordFlags::default(),
            since: BootNanos(0),
            until: BootNanos(5),
            cum: Counters::new(10, 1000, 5, 500),
            delta: Counters::new(1, 100, 0, 0),
            offset: Counters::ZERO,
            stop: 0,
        }
    }

    #[test]
    fn a_line_names_what_differs_under_nat_and_nothing_else() {
        let clock = ClockOffset::between(BootNanos(5), UnixNanos(1_700_000_000_000_000_000));
        let line = serde_json::to_value(Line::of(&record(), clock)).unwrap();
        assert_eq!(line["time"], "2023-11-14T22:13:20Z");
        assert_eq!(line["event"], "update");
        assert_eq!(line["proto"], "tcp");
        assert_eq!(line["nat_src"], "198.51.100.7");
        assert_eq!(line["bytes_orig"], 1000);
        assert_eq!(line["delta_bytes_orig"], 100);
        assert_eq!(line["tcp_state"], "ESTABLISHED");
        assert_eq!(line["start"], "2020-09-13T12:26:40Z");
        for absent in ["nat_dst", "nat_src_port", "icmp_type", "stop", "unseen"] {
            assert!(line.get(absent).is_none(), "{absent} in {line}");
        }
    }
}
