//! Choosing live flows for displays: those that match, the foremost of them, in bounded memory.

use std::cmp::Reverse;

use flow::table::LiveFlow;
use flow::{BootNanos, ClockOffset, Proto};
use ipnet::IpNet;

/// Which live flows to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What they must be.
    pub filter: Filter,
    /// Which come first.
    pub order: Order,
    /// How many to pass over.
    pub offset: usize,
    /// How many to list; with `offset` at most [`Choice::MOST`].
    pub limit: usize,
}

impl Choice {
    /// The last flow that can be listed, counted in order.
    pub const MOST: usize = 10_000;
}

/// What flows must be: everything that is said must be true of the original tuple.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Opened from here.
    pub src: Option<IpNet>,
    /// Opened to here.
    pub dst: Option<IpNet>,
    /// Opened to this port, of a protocol that has ports.
    pub port: Option<u16>,
    /// Of this protocol.
    pub proto: Option<Proto>,
}

/// Which flows come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Those with the most bytes, both directions.
    #[default]
    Bytes,
    /// Those with the most packets, both directions.
    Packets,
    /// Those that were seen last for the first time.
    Newest,
}

/// Live flows, for displays.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The flows, in order.
    pub flows: Vec<LiveFlow>,
    /// How many match.
    pub matching: usize,
    /// How many there are.
    pub total: usize,
    /// The node's wall clock, to date them by.
    pub clock: ClockOffset,
    /// When they were listed.
    pub now: BootNanos,
}

impl Listing {
    /// Lists `flows` by `choice`. Memory is bounded by [`Choice::MOST`], time is one pass.
    #[must_use]
    pub fn of(
        flows: impl Iterator<Item = LiveFlow>,
        choice: &Choice,
        clock: ClockOffset,
        now: BootNanos,
    ) -> Self {
        let end = choice.offset.saturating_add(choice.limit).min(Choice::MOST);
        let (mut total, mut matching) = (0, 0);
        let mut kept: Vec<LiveFlow> = Vec::new();
        let rank = |flow: &LiveFlow| Reverse((choice.order.of(flow), flow.flow.0));
        for flow in flows {
            total += 1;
            if !choice.filter.takes(&flow) {
                continue;
            }
            matching += 1;
            kept.push(flow);
            // Sorting out at twice the size costs constant time a flow.
            if end > 0 && kept.len() >= 2 * end {
                kept.select_nth_unstable_by_key(end - 1, rank);
                kept.truncate(end);
            }
        }
        kept.sort_unstable_by_key(rank);
        kept.truncate(end);
        kept.drain(..choice.offset.min(kept.len()));
        Self { flows: kept, matching, total, clock, now }
    }
}

impl Filter {
    fn takes(&self, flow: &LiveFlow) -> bool {
        let orig = &flow.entry.orig;
        let within = |net: Option<IpNet>, address| net.is_none_or(|net| net.contains(&address));
        within(self.src, orig.src)
            && within(self.dst, orig.dst)
            && self.port.is_none_or(|port| orig.proto.has_ports() && orig.dport == port)
            && self.proto.is_none_or(|proto| orig.proto == proto)
    }
}

impl Order {
    fn of(self, flow: &LiveFlow) -> u64 {
        let (orig, reply) = (flow.cum.orig, flow.cum.reply);
        match self {
            Self::Bytes => orig.bytes.plus(reply.bytes).get(),
            Self::Packets => orig.packets.plus(reply.packets).get(),
            // Numbers are given at first sight.
            Self::Newest => 0,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use flow::entry::Zone;
    use flow::{Birth, Counters, EntryId, FlowNo, NetnsId, Status, TcpState, Tuple};

    use super::*;

    /// A TCP flow with this number, to this port, that carried so many bytes.
    pub(crate) fn live(number: u64, port: u16, bytes: u64) -> LiveFlow {
        let src = format!("10.0.0.{}:4000", number % 250).parse().unwrap();
        let dst = format!("192.0.2.1:{port}").parse().unwrap();
        let orig = Tuple::ports(Proto::TCP, src, dst);
        LiveFlow {
            flow: FlowNo(number),
            entry: EntryId {
                netns: NetnsId::default(),
                zone: Zone(0),
                orig,
                birth: Birth::Start(1_700_000_000_000_000_000),
            },
            reply: orig.inverse(),
            cum: Counters::new(1, bytes, 1, 0),
            mark: 0,
            status: Status(Status::CONFIRMED),
            tcp: TcpState(3),
            counted: true,
            grown: BootNanos(1),
        }
    }

    fn numbers(choice: &Choice, flows: Vec<LiveFlow>) -> (Vec<u64>, usize, usize) {
        let listing = Listing::of(flows.into_iter(), choice, ClockOffset::default(), BootNanos(0));
        let numbers = listing.flows.iter().map(|flow| flow.flow.0).collect();
        (numbers, listing.matching, listing.total)
    }

    #[test]
    fn pages_are_pieces_of_one_order() {
        // 7919 is prime to 1000: all sizes are different and in no order.
        let flows: Vec<LiveFlow> =
            (0..1000).map(|number| live(number, 443, number * 7919 % 1000)).collect();
        let mut sorted = flows.clone();
        sorted.sort_by_key(|flow| Reverse(flow.cum.orig.bytes.get()));
        let expected: Vec<u64> = sorted.iter().map(|flow| flow.flow.0).collect();
        let mut paged = Vec::new();
        for offset in (0..1000).step_by(30) {
            let choice =
                Choice { filter: Filter::default(), order: Order::Bytes, offset, limit: 30 };
            let (page, matching, total) = numbers(&choice, flows.clone());
            assert_eq!((matching, total), (1000, 1000));
            paged.extend(page);
        }
        assert_eq!(paged, expected);
    }

    #[test]
    fn filters_see_every_flow_not_only_the_largest() {
        let mut flows: Vec<LiveFlow> = (0..50).map(|number| live(number, 443, 1_000_000)).collect();
        flows.push(live(50, 22, 1));
        let filter = Filter { port: Some(22), ..Filter::default() };
        let mut choice = Choice { filter, order: Order::Packets, offset: 0, limit: 5 };
        assert_eq!(numbers(&choice, flows.clone()), (vec![50], 1, 51));
        choice.filter = Filter { src: Some("10.0.0.7/32".parse().unwrap()), ..Filter::default() };
        assert_eq!(numbers(&choice, flows.clone()).0, [7]);
        choice.filter = Filter { proto: Some(Proto::UDP), ..Filter::default() };
        assert_eq!(numbers(&choice, flows.clone()), (vec![], 0, 51));
        choice.filter = Filter::default();
        choice.order = Order::Newest;
        assert_eq!(numbers(&choice, flows.clone()).0, [50, 49, 48, 47, 46]);
        choice.limit = 0;
        assert_eq!(numbers(&choice, flows).0, Vec::<u64>::new());
    }
}
