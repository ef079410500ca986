//! What the gateway of the self-test does to packets: tracks, counts TCP a second time, marks,
//! zones, translates. Each part is loaded by itself, so that a kernel without one of them loses
//! that check only.

use std::io;

use super::world::{Addresses, Room};
use crate::netlink::Talk;
use crate::netlink::nftables::{Expr, Place, Table};

/// Makes a namespace track what comes in and what it sends itself.
///
/// # Errors
/// Where the kernel has no nf_tables, or no connection tracking for it.
pub(super) fn track(room: &Room) -> io::Result<()> {
    let (came, sent) = (place(PREROUTING, 0, "filter"), place(OUTPUT, 0, "filter"));
    let rules = [
        INET.make(),
        INET.chain("came", came),
        INET.rule("came", &[Expr::LookAtState]),
        INET.chain("sent", sent),
        INET.rule("sent", &[Expr::LookAtState]),
    ];
    load(room, &rules)
}

/// Counts TCP to and from these ports, behind conntrack: what [`tcp`] reads.
///
/// # Errors
/// Where the kernel has no counters for nf_tables.
pub(super) fn tally_tcp(gateway: &Room, ports: &[u16]) -> io::Result<()> {
    let mut rules = vec![INET.chain(TALLY, place(FORWARD, 0, "filter"))];
    for port in ports {
        for end in [Expr::DestinationPort(*port), Expr::SourcePort(*port)] {
            rules.push(INET.rule(TALLY, &[Expr::Protocol(TCP), end, Expr::Count]));
        }
    }
    load(gateway, &rules)
}

/// What was counted for the port with this number in the list: packets and bytes to it, then from
/// it.
///
/// # Errors
/// What the kernel answered.
pub(super) fn tcp(gateway: &Room, number: usize) -> io::Result<[u64; 4]> {
    let counts = gateway.enter(|| INET.counts(&mut Talk::netfilter()?, TALLY))?;
    let at = |index: usize| counts.get(index).copied();
    match (at(2 * number), at(2 * number + 1)) {
        (Some((op, ob)), Some((rp, rb))) => Ok([op, ob, rp, rb]),
        _ => Err(io::Error::other("the counting rules are gone")),
    }
}

/// Marks UDP to a port.
///
/// # Errors
/// Where the kernel cannot.
pub(super) fn mark(gateway: &Room, port: u16, mark: u32) -> io::Result<()> {
    let steps = [Expr::Protocol(UDP), Expr::DestinationPort(port), Expr::SetMark(mark)];
    let before = place(PREROUTING, -150, "filter");
    load(gateway, &[INET.chain("mark", before), INET.rule("mark", &steps)])
}

/// Puts UDP to a port into a zone.
///
/// # Errors
/// Where the kernel cannot.
pub(super) fn zone(gateway: &Room, port: u16, zone: u16) -> io::Result<()> {
    let steps = [Expr::Protocol(UDP), Expr::DestinationPort(port), Expr::SetZone(zone)];
    let raw = place(PREROUTING, -300, "filter");
    load(gateway, &[INET.chain("zone", raw), INET.rule("zone", &steps)])
}

/// Gives UDP to a port the gateway's own source address.
///
/// # Errors
/// Where the kernel has no NAT for the family.
pub(super) fn snat(gateway: &Room, family: Addresses, port: u16) -> io::Result<()> {
    let table = Table { name: "snat", ..of(family) };
    let source = Expr::TranslateSource(family.wan);
    let steps = [Expr::Protocol(UDP), Expr::DestinationPort(port), source];
    let last = place(POSTROUTING, 100, "nat");
    load(gateway, &[table.make(), table.chain("out", last), table.rule("out", &steps)])
}

/// Sends UDP to a port on to another one of the server's.
///
/// # Errors
/// Where the kernel has no NAT for the family.
pub(super) fn dnat(gateway: &Room, family: Addresses, port: u16, to: u16) -> io::Result<()> {
    let table = Table { name: "dnat", ..of(family) };
    let destination = Expr::TranslateDestination(family.server, to);
    let steps = [Expr::Protocol(UDP), Expr::DestinationPort(port), destination];
    let first = place(PREROUTING, -100, "nat");
    load(gateway, &[table.make(), table.chain("in", first), table.rule("in", &steps)])
}

fn load(room: &Room, rules: &[crate::netlink::Request]) -> io::Result<()> {
    room.enter(|| Talk::netfilter()?.tell_at_once(rules))
}

const fn of(family: Addresses) -> Table {
    Table { family: if family.server.is_ipv4() { 2 } else { 10 }, name: "" }
}

const fn place(hook: u32, priority: i32, kind: &'static str) -> Place {
    Place { hook, priority, kind }
}

const INET: Table = Table { family: 1, name: "selftest" };
const TALLY: &str = "tally";
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
