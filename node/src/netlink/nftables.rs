//! nf_tables (`include/uapi/linux/netfilter/nf_tables.h`): looking at flowtables, rules and hooks,
//! and writing the few rules that the self-test needs.
//!
//! [`Expr`] is one step of a rule. Values go through register 1, a port to translate to through
//! register 2.

use std::io;
use std::net::IpAddr;

use super::{
    Attributes, NFNL_SUBSYS_HOOK, NFNL_SUBSYS_NFTABLES, NLM_F_APPEND, NLM_F_CREATE, Request, Talk,
    malformed, nfgenmsg, no,
};
use crate::source::netlink::attr::{Attr, Attrs};

/// A flowtable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flowtable {
    /// Its table's name.
    pub(crate) table: String,
    /// Its name.
    pub(crate) name: String,
    /// Whether it counts what it forwards.
    pub(crate) counter: bool,
}

/// All flowtables of the namespace.
///
/// # Errors
/// What the kernel answered; `EOPNOTSUPP` or `EINVAL` where it has no nf_tables.
pub(crate) fn flowtables(talk: &mut Talk) -> io::Result<Vec<Flowtable>> {
    let mut found = Vec::new();
    talk.list(&request(GETFLOWTABLE, 0, 0, no()), |message| {
        if message.kind != number(NEWFLOWTABLE) {
            return Ok(());
        }
        let (mut table, mut name, mut flags) = (String::new(), String::new(), 0);
        for attr in attributes(message.body)? {
            match attr.kind {
                NFTA_FLOWTABLE_TABLE => table = text(attr),
                NFTA_FLOWTABLE_NAME => name = text(attr),
                NFTA_FLOWTABLE_FLAGS => flags = attr.be32().unwrap_or(0),
                _ => {}
            }
        }
        if found.len() < MOST_FLOWTABLES {
            let counter = flags & NFT_FLOWTABLE_COUNTER != 0;
            found.push(Flowtable { table, name, counter });
        }
        Ok(())
    })?;
    Ok(found)
}

/// Whether a rule of the namespace looks at connections, so that the kernel tracks them.
///
/// # Errors
/// What the kernel answered; `EOPNOTSUPP` or `EINVAL` where it has no nf_tables.
pub(crate) fn rules_track(talk: &mut Talk) -> io::Result<bool> {
    let mut tracks = false;
    talk.list(&request(GETRULE, 0, 0, no()), |message| {
        if message.kind == number(NEWRULE) {
            each_expr(message.body, &mut |name, data| tracks |= expr_tracks(name, data))?;
        }
        Ok(())
    })?;
    Ok(tracks)
}

/// Whether an expression of a rule makes the kernel track connections.
fn expr_tracks(name: &str, data: Option<Attr<'_>>) -> bool {
    match name {
        "ct" | "nat" | "masq" | "redir" | "flow_offload" | "connlimit" | "synproxy" => true,
        // iptables' own words inside nf_tables: NFTA_MATCH_NAME and NFTA_TARGET_NAME are both 1.
        "match" | "target" => {
            let names = data.map(Attr::nested).into_iter().flatten().flatten();
            let mut names = names.filter(|attr| attr.kind == 1).map(text);
            names.any(|name| XTABLES_THAT_TRACK.contains(&name.as_str()))
        }
        _ => false,
    }
}

/// Whether the kernel tracks packets of a family (2: IPv4, 10: IPv6) that come in: its own hook
/// is in place. Linux 5.14 and later tell.
///
/// # Errors
/// What the kernel answered; `EINVAL` or `EOPNOTSUPP` where it does not tell.
pub(crate) fn tracks(talk: &mut Talk, family: u8) -> io::Result<bool> {
    let prerouting = no().with_be32(NFNLA_HOOK_HOOKNUM, 0);
    let kind = NFNL_SUBSYS_HOOK << 8;
    let mut tracks = false;
    let request = Request::new(kind, 0, &nfgenmsg(family, 0), prerouting);
    talk.list(&request, |message| {
        for attr in attributes(message.body)? {
            // "ipv4_conntrack_in", "ipv6_conntrack_in"
            tracks |= attr.kind == NFNLA_HOOK_FUNCTION_NAME && text(attr).contains("conntrack_in");
        }
        Ok(())
    })?;
    Ok(tracks)
}

/// A table of a family that rules are written to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    /// 1 both, 2 IPv4, 10 IPv6.
    pub(crate) family: u8,
    /// Its name.
    pub(crate) name: &'static str,
}

/// Where a chain sits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// 0 prerouting, 2 forward, 3 output, 4 postrouting.
    pub(crate) hook: u32,
    /// The lower, the earlier.
    pub(crate) priority: i32,
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
}

/// A step of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    /// Goes on where the protocol is this one.
    Protocol(u8),
    /// Goes on where the source port is this one.
    SourcePort(u16),
    /// Goes on where the destination port is this one.
    DestinationPort(u16),
    /// Looks at the connection's state, which makes the kernel track.
    LookAtState,
    /// Counts.
    Count,
    /// Sets the connection's mark.
    SetMark(u32),
    /// Sets the connection's zone, both directions.
    SetZone(u16),
    /// Translates the source.
    TranslateSource(IpAddr),
    /// Translates destination and port.
    TranslateDestination(IpAddr, u16),
}

impl Table {
    /// The request that makes it.
    pub(crate) fn make(self) -> Request {
        let all = no().with_text(NFTA_TABLE_NAME, self.name);
        request(NEWTABLE, NLM_F_CREATE, self.family, all)
    }

    /// The request that makes a chain.
    pub(crate) fn chain(self, name: &str, place: Place) -> Request {
        let hook = no()
            .with_be32(NFTA_HOOK_HOOKNUM, place.hook)
            .with(NFTA_HOOK_PRIORITY, &place.priority.to_be_bytes());
        let all = no()
            .with_text(NFTA_CHAIN_TABLE, self.name)
            .with_text(NFTA_CHAIN_NAME, name)
            .with_nest(NFTA_CHAIN_HOOK, &hook)
            .with_text(NFTA_CHAIN_TYPE, place.kind);
        request(NEWCHAIN, NLM_F_CREATE, self.family, all)
    }

    /// The request that appends a rule.
    pub(crate) fn rule(self, chain: &str, steps: &[Expr]) -> Request {
        let list = steps.iter().flat_map(Expr::elements).fold(no(), |list, (name, data)| {
            let element = no().with_text(NFTA_EXPR_NAME, name).with_nest(NFTA_EXPR_DATA, &data);
            list.with_nest(NFTA_LIST_ELEM, &element)
        });
        let all = no()
            .with_text(NFTA_RULE_TABLE, self.name)
            .with_text(NFTA_RULE_CHAIN, chain)
            .with_nest(NFTA_RULE_EXPRESSIONS, &list);
        request(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, self.family, all)
    }

    /// Packets and bytes of each rule of a chain that counts, in order.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(crate) fn counts(self, talk: &mut Talk, chain: &str) -> io::Result<Vec<(u64, u64)>> {
        let of = no().with_text(NFTA_RULE_TABLE, self.name).with_text(NFTA_RULE_CHAIN, chain);
        let mut counts = Vec::new();
        talk.list(&request(GETRULE, 0, self.family, of), |message| {
            // Before 5.3 the kernel lists every chain's rules.
            let here = attributes(message.body)?
                .into_iter()
                .any(|attr| attr.kind == NFTA_RULE_CHAIN && text(attr) == chain);
            if !here || message.kind != number(NEWRULE) {
                return Ok(());
            }
            each_expr(message.body, &mut |name, data| {
                let Some(data) = data.filter(|_| name == "counter") else { return };
                let of = |kind| {
                    let mut found = data.nested().flatten().filter(|attr| attr.kind == kind);
                    found.next().and_then(Attr::be64).unwrap_or(0)
                };
                counts.push((of(NFTA_COUNTER_PACKETS), of(NFTA_COUNTER_BYTES)));
            })
        })?;
        Ok(counts)
    }
}

impl Expr {
    /// The kernel's expressions.
    fn elements(&self) -> Vec<(&'static str, Attributes)> {
        match self {
            Self::Protocol(number) => {
                let load = no().with_be32(NFTA_META_DREG, REG1).with_be32(NFTA_META_KEY, L4PROTO);
                vec![("meta", load), equal(&[*number])]
            }
            Self::SourcePort(port) => vec![port_at(0), equal(&port.to_be_bytes())],
            Self::DestinationPort(port) => vec![port_at(2), equal(&port.to_be_bytes())],
            Self::LookAtState => {
                vec![("ct", no().with_be32(NFTA_CT_DREG, REG1).with_be32(NFTA_CT_KEY, CT_STATE))]
            }
            Self::Count => vec![("counter", no())],
            Self::SetMark(mark) => vec![value(REG1, &mark.to_ne_bytes()), set_ct(CT_MARK)],
            Self::SetZone(zone) => vec![value(REG1, &zone.to_ne_bytes()), set_ct(CT_ZONE)],
            Self::TranslateSource(ip) => vec![address(*ip), translate(NFT_NAT_SNAT, *ip)],
            Self::TranslateDestination(ip, port) => {
                let (name, data) = translate(NFT_NAT_DNAT, *ip);
                let data = data.with_be32(NFTA_NAT_REG_PROTO_MIN, REG2);
                vec![address(*ip), value(REG2, &port.to_be_bytes()), (name, data)]
            }
        }
    }
}

fn port_at(offset: u32) -> (&'static str, Attributes) {
    let load = no()
        .with_be32(NFTA_PAYLOAD_DREG, REG1)
        .with_be32(NFTA_PAYLOAD_BASE, TRANSPORT_HEADER)
        .with_be32(NFTA_PAYLOAD_OFFSET, offset)
        .with_be32(NFTA_PAYLOAD_LEN, 2);
    ("payload", load)
}

fn equal(bytes: &[u8]) -> (&'static str, Attributes) {
    let value = no().with(NFTA_DATA_VALUE, bytes);
    let compare = no()
        .with_be32(NFTA_CMP_SREG, REG1)
        .with_be32(NFTA_CMP_OP, NFT_CMP_EQ)
        .with_nest(NFTA_CMP_DATA, &value);
    ("cmp", compare)
}

fn value(register: u32, bytes: &[u8]) -> (&'static str, Attributes) {
    let value = no().with(NFTA_DATA_VALUE, bytes);
    let load = no().with_be32(NFTA_IMMEDIATE_DREG, register).with_nest(NFTA_IMMEDIATE_DATA, &value);
    ("immediate", load)
}

fn address(ip: IpAddr) -> (&'static str, Attributes) {
    match ip {
        IpAddr::V4(ip) => value(REG1, &ip.octets()),
        IpAddr::V6(ip) => value(REG1, &ip.octets()),
    }
}

fn translate(kind: u32, ip: IpAddr) -> (&'static str, Attributes) {
    let family = if ip.is_ipv4() { 2 } else { 10 };
    let nat = no()
        .with_be32(NFTA_NAT_TYPE, kind)
        .with_be32(NFTA_NAT_FAMILY, family)
        .with_be32(NFTA_NAT_REG_ADDR_MIN, REG1);
    ("nat", nat)
}

fn set_ct(key: u32) -> (&'static str, Attributes) {
    ("ct", no().with_be32(NFTA_CT_KEY, key).with_be32(NFTA_CT_SREG, REG1))
}

fn request(kind: u16, flags: u16, family: u8, attributes: Attributes) -> Request {
    Request::new(number(kind), flags, &nfgenmsg(family, 0), attributes)
}

const fn number(kind: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | kind
}

/// The attributes after a `struct nfgenmsg`.
fn attributes(body: &[u8]) -> io::Result<Vec<Attr<'_>>> {
    let attributes = body.get(4..).ok_or_else(malformed)?;
    Attrs::new(attributes).collect::<Result<_, _>>().map_err(|_length| malformed())
}

/// Each expression of a rule, with its data.
fn each_expr<'m>(body: &'m [u8], take: &mut dyn FnMut(&str, Option<Attr<'m>>)) -> io::Result<()> {
    for list in attributes(body)?.into_iter().filter(|attr| attr.kind == NFTA_RULE_EXPRESSIONS) {
        for element in list.nested().filter_map(Result::ok) {
            let (mut name, mut data) = (String::new(), None);
            for attr in element.nested().filter_map(Result::ok) {
                match attr.kind {
                    NFTA_EXPR_NAME => name = text(attr),
                    NFTA_EXPR_DATA => data = Some(attr),
                    _ => {}
                }
            }
            take(&name, data);
        }
    }
    Ok(())
}

/// A text up to its zero.
fn text(attr: Attr<'_>) -> String {
    let bytes = attr.value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// More than anybody has; those beyond are not looked at.
const MOST_FLOWTABLES: usize = 1024;

/// Matches and targets of iptables that need tracked connections.
const XTABLES_THAT_TRACK: &[&str] = &[
    "conntrack",
    "state",
    "connmark",
    "connbytes",
    "connlimit",
    "connlabel",
    "helper",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "MASQUERADE",
    "SNAT",
    "DNAT",
    "REDIRECT",
    "NETMAP",
    "FLOWOFFLOAD",
];

const NEWTABLE: u16 = 0;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const NEWFLOWTABLE: u16 = 22;
const GETFLOWTABLE: u16 = 23;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_FLOWTABLE_TABLE: u16 = 1;
const NFTA_FLOWTABLE_NAME: u16 = 2;
const NFTA_FLOWTABLE_FLAGS: u16 = 7;
const NFT_FLOWTABLE_COUNTER: u32 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const L4PROTO: u32 = 16;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const TRANSPORT_HEADER: u32 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_CT_SREG: u16 = 4;
const CT_STATE: u32 = 0;
const CT_MARK: u32 = 3;
const CT_ZONE: u32 = 17;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFT_NAT_SNAT: u32 = 0;
const NFT_NAT_DNAT: u32 = 1;
const REG1: u32 = 1;
const REG2: u32 = 2;
const NFNLA_HOOK_HOOKNUM: u16 = 1;
const NFNLA_HOOK_FUNCTION_NAME: u16 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn tracks(steps: &[Expr]) -> bool {
        let table = Table { family: 1, name: "t" };
        let request = table.rule("c", steps);
        let body = [&request.head[..], &request.attributes.0].concat();
        let mut tracks = false;
        each_expr(&body, &mut |name, data| tracks |= expr_tracks(name, data)).unwrap();
        tracks
    }

    #[test]
    fn rules_that_need_connections_are_told_from_others() {
        let ip = "192.0.2.1".parse().unwrap();
        assert!(!tracks(&[Expr::Protocol(17), Expr::DestinationPort(53), Expr::Count]));
        assert!(tracks(&[Expr::Count, Expr::LookAtState]));
        assert!(tracks(&[Expr::TranslateSource(ip)]));
        assert!(tracks(&[Expr::SetZone(7)]));
    }

    #[test]
    fn iptables_words_are_known() {
        let of = |name: &str| {
            let data = no().with_nest(NFTA_EXPR_DATA, &no().with_text(1, name));
            let attr = Attrs::new(&data.0).next().unwrap().unwrap();
            expr_tracks("match", Some(attr))
        };
        assert!(of("conntrack"));
        assert!(of("MASQUERADE"));
        assert!(!of("tcp"));
        assert!(!expr_tracks("match", None));
        assert!(!expr_tracks("payload", None));
    }

    #[test]
    fn a_message_that_is_cut_is_an_error() {
        assert!(attributes(&[0; 3]).is_err());
        assert!(attributes(&[0, 0, 0, 0, 9, 0, 1, 0]).is_err());
        assert!(attributes(&[0; 4]).unwrap().is_empty());
    }
}
