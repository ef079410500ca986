//! `GET /flows`: the live table as JSON, one page at a time.
//!
//! `?src=CIDR&dst=CIDR&port=N&proto=NAME&sort=bytes|packets|newest&limit=N&offset=N`. A page has
//! at most [`MAX_LIMIT`] flows.

use std::net::IpAddr;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flow::table::LiveFlow;
use flow::view::outside;
use flow::{ClockOffset, Proto};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Lister;
use crate::aggregation::listing::{Choice, Filter, Listing, Order};

/// Flows on a page, at most.
pub const MAX_LIMIT: usize = 1_000;

/// The query string.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    src: Option<String>,
    dst: Option<String>,
    port: Option<u16>,
    proto: Option<String>,
    sort: Option<String>,
    limit: Option<usize>,
    offset: Option<usize>,
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// When it was made, by the node's clock, RFC 3339.
    pub time: String,
    /// Live flows in all.
    pub total: usize,
    /// Those that match.
    pub matching: usize,
    /// Those of this page.
    pub flows: Vec<Row>,
}

/// A live flow. NAT addresses and ports are there only where they differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its number on this node.
    pub flow: u64,
    /// The inode of its network namespace.
    pub netns: u32,
    /// Its conntrack zone.
    pub zone: u16,
    /// Its protocol's number.
    pub proto_number: u8,
    /// Its protocol's name, or the number.
    pub proto: String,
    /// Who opened it.
    pub src: IpAddr,
    /// To whom.
    pub dst: IpAddr,
    /// The opener's port; the id for ICMP.
    pub sport: u16,
    /// The port it was opened to; type times 256 plus code for ICMP.
    pub dport: u16,
    /// The opener as seen outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_src: Option<IpAddr>,
    /// The destination as seen outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_dst: Option<IpAddr>,
    /// The opener's port as seen outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_sport: Option<u16>,
    /// The destination's port as seen outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_dport: Option<u16>,
    /// Connection mark.
    pub mark: u32,
    /// Status bits.
    pub status: u32,
    /// TCP state, where it is TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_state: Option<String>,
    /// When the kernel says it began, where it does, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// When it was last seen grown, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grown: Option<String>,
    /// Packets the opener sent.
    pub packets_orig: u64,
    /// Bytes the opener sent.
    pub bytes_orig: u64,
    /// Packets of the answers.
    pub packets_reply: u64,
    /// Bytes of the answers.
    pub bytes_reply: u64,
    /// Whether the kernel counts it.
    pub counted: bool,
}

/// Answers `GET /flows`.
pub(super) async fn page(
    State(lister): State<Lister>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let choice = match asked {
        Ok(Query(asked)) => asked.choice(),
        Err(rejection) => Err(rejection.body_text()),
    };
    let choice = match choice {
        Ok(choice) => choice,
        Err(problem) => return (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    };
    match lister(choice).await {
        Some(listing) => Json(Page::of(&listing)).into_response(),
        None => {
            let text = "the flow table cannot be asked now\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

impl Asked {
    fn choice(self) -> Result<Choice, String> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if limit > MAX_LIMIT {
            return Err(format!("limit is {limit}, but must be {MAX_LIMIT} at most"));
        }
        let offset = self.offset.unwrap_or(0);
        if offset > Choice::MOST - MAX_LIMIT {
            let most = Choice::MOST - MAX_LIMIT;
            return Err(format!("offset is {offset}, but must be {most} at most"));
        }
        let order = match self.sort.as_deref() {
            None | Some("bytes") => Order::Bytes,
            Some("packets") => Order::Packets,
            Some("newest") => Order::Newest,
            Some(other) => {
                return Err(format!("sort is {other:?}, but must be bytes, packets or newest"));
            }
        };
        let filter = Filter {
            src: self.src.map(|text| network("src", &text)).transpose()?,
            dst: self.dst.map(|text| network("dst", &text)).transpose()?,
            port: self.port,
            proto: self
                .proto
                .map(|text| text.parse::<Proto>().map_err(|error| error.to_string()))
                .transpose()?,
        };
        Ok(Choice { filter, order, offset, limit })
    }
}

impl Page {
    /// The page of a listing.
    #[must_use]
    pub fn of(listing: &Listing) -> Self {
        let Listing { flows, matching, total, clock, now } = listing;
        let nanos = clock.apply(*now).get();
        Self {
            time: stamp(i128::from(nanos)).unwrap_or_default(),
            total: *total,
            matching: *matching,
            flows: flows.iter().map(|flow| Row::of(flow, *clock)).collect(),
        }
    }
}

impl Row {
    fn of(live: &LiveFlow, clock: ClockOffset) -> Self {
        let orig = live.entry.orig;
        let out = outside(&live.reply);
        Self {
            flow: live.flow.0,
            netns: live.entry.netns.inode.0,
            zone: live.entry.zone.0,
            proto_number: orig.proto.0,
            proto: orig.proto.to_string(),
            src: orig.src,
            dst: orig.dst,
            sport: orig.sport,
            dport: orig.dport,
            nat_src: (out.src != orig.src).then_some(out.src),
            nat_dst: (out.dst != orig.dst).then_some(out.dst),
            nat_sport: (out.sport != orig.sport).then_some(out.sport),
            nat_dport: (out.dport != orig.dport).then_some(out.dport),
            mark: live.mark,
            status: live.status.0,
            tcp_state: (live.tcp.0 != 0).then(|| live.tcp.name().to_owned()),
            start: live.entry.birth.start().and_then(|nanos| stamp(nanos.into())),
            grown: stamp(clock.apply(live.grown).get().into()).filter(|_| live.grown.get() > 0),
            packets_orig: live.cum.orig.packets.get(),
            bytes_orig: live.cum.orig.bytes.get(),
            packets_reply: live.cum.reply.packets.get(),
            bytes_reply: live.cum.reply.bytes.get(),
            counted: live.counted,
        }
    }
}

fn stamp(nanos: i128) -> Option<String> {
    Timestamp::from_nanosecond(nanos).ok().map(|time| time.to_string())
}

/// Flows on a page unless asked otherwise.
const DEFAULT_LIMIT: usize = 100;

/// A network, or an address alone.
fn network(name: &str, text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().or_else(|_no_prefix| text.parse::<IpAddr>().map(IpNet::from)).map_err(
        |_neither| {
            format!("{name} is {text:?}, but must be an address or a network like 10.0.0.0/8")
        },
    )
}
