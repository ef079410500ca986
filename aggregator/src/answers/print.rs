//! Pieces of answers as people and programs read them.

use std::net::IpAddr;

use flow::Proto;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A time of the store (microseconds since 1970) for people: local, to the second.
pub(super) fn local(micros: i64) -> String {
    match Timestamp::from_microsecond(micros) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_beyond) => micros.to_string(),
    }
}

/// A time of the store for programs: RFC 3339 in UTC, to the microsecond.
pub(super) fn utc(micros: i64) -> String {
    match Timestamp::from_microsecond(micros) {
        Ok(time) => format!("{time:.6}"),
        Err(_beyond) => micros.to_string(),
    }
}

/// One end of a flow for people: with its port where the protocol has ports.
pub(super) fn end(proto: Proto, address: IpAddr, port: u16) -> String {
    match address {
        _ if !proto.has_ports() => address.to_string(),
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

/// What a flow was opened to, for people: `443/tcp`, `icmp type 8 code 0`, `gre`.
pub(super) fn service(proto: Proto, dport: u16) -> String {
    if proto.has_ports() {
        return format!("{dport}/{proto}");
    }
    if proto.is_icmp() {
        let [kind, code] = dport.to_be_bytes();
        return format!("{proto} type {kind} code {code}");
    }
    proto_name(proto)
}

/// A protocol's name, or what number it has.
pub(super) fn proto_name(proto: Proto) -> String {
    proto.name().map_or_else(|| format!("proto {}", proto.0), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_by_their_protocols_terms() {
        assert_eq!(service(Proto::TCP, 443), "443/tcp");
        assert_eq!(service(Proto::ICMP, 8 << 8), "icmp type 8 code 0");
        assert_eq!(service(Proto::ICMPV6, 3 << 8 | 1), "icmpv6 type 3 code 1");
        assert_eq!(service(Proto::GRE, 5), "gre");
        assert_eq!(service(Proto(253), 0), "proto 253");
        let v6 = "fd00::1".parse().unwrap();
        assert_eq!(end(Proto::UDP, v6, 53), "[fd00::1]:53");
        assert_eq!(end(Proto::ICMPV6, v6, 53), "fd00::1");
        assert_eq!(utc(1_700_000_000_000_001), "2023-11-14T22:13:20.000001Z");
    }
}
