//! Where a world's flows go: hosts, who of them translates, which domain its addresses belong to,
//! and the ways packets take at which time.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use flow::merge::Domain;
use flow::{NetnsInode, Proto, UnixNanos};
use rand::Rng;
use rand::rngs::SmallRng;

use super::conntrack::Idle;
use super::recipe::{Fault, Part, Recipe, Scenario};
use super::traffic::{self, Flow, Habit, Packet, Phase, seconds};

/// A network namespace that packets pass through.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) node: usize,
    pub(crate) netns: NetnsInode,
    /// It translates sources to this address.
    pub(crate) public: Option<Ipv4Addr>,
    /// Where the addresses on either side of it belong.
    pub(crate) inside: Domain,
    pub(crate) outside: Domain,
    pub(crate) idle: Idle,
    /// It joins packets before it counts them.
    pub(crate) joining: bool,
    /// Its entries are copied there.
    pub(crate) twin: Option<usize>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) spots: Vec<Spot>,
    pub(crate) nodes: usize,
    pub(crate) flows: Vec<Flow>,
    /// Of all flows, in order of time.
    pub(crate) packets: Vec<Packet>,
    /// When each generation of each flow begins.
    pub(crate) begins: Vec<Vec<UnixNanos>>,
    /// Which part of the packets is lost between two hosts.
    pub(crate) loss: f64,
    /// A node that dies for good, with its host.
    pub(crate) dies: Option<(usize, UnixNanos)>,
    /// Nodes whose frames come much later.
    pub(crate) late: Vec<(usize, Duration)>,
    /// End of all traffic.
    pub(crate) end: UnixNanos,
}

/// When every world begins.
pub(crate) const BEGIN: UnixNanos = UnixNanos(1_760_000_000_000_000_000);

struct Builder<'r> {
    recipe: &'r Recipe,
    rng: SmallRng,
    site: Site,
}

impl Site {
    /// The site of a recipe.
    pub(crate) fn build(recipe: &Recipe) -> Self {
        let whole = Recipe::new(recipe.scenario, recipe.seed);
        let site = Self {
            spots: Vec::new(),
            nodes: 0,
            flows: Vec::new(),
            packets: Vec::new(),
            begins: Vec::new(),
            loss: 0.0,
            dies: None,
            late: Vec::new(),
            end: BEGIN.plus(Duration::from_secs(u64::from(whole.seconds))),
        };
        let mut builder = Builder { recipe, rng: recipe.stream(Part::Site, 0), site };
        builder.build();
        builder.traffic();
        builder.site
    }
}

impl Builder<'_> {
    fn build(&mut self) {
        let flows = self.rng.random_range(1..4);
        match self.recipe.scenario {
            Scenario::Single => {
                let way = self.chain(1, 0.5);
                self.flows(flows, &[way]);
            }
            Scenario::Chain | Scenario::Full => {
                let way = self.any_chain();
                self.flows(flows, &[way]);
            }
            Scenario::Reuse => {
                let way = self.chain(2, 0.0);
                self.flows(flows, &[way]);
            }
            Scenario::Loss => {
                let way = self.chain(3, 0.0);
                self.site.loss = [0.5, 0.1, 0.01][self.rng.random_range(0..3)];
                self.flows(flows, &[way]);
            }
            Scenario::Replay => {
                let way = self.any_chain();
                self.late_one();
                self.flows(flows, &[way]);
            }
            Scenario::Translated => self.gateway_between(flows),
            Scenario::LateGateway => {
                self.gateway_between(flows);
                let hours = Duration::from_secs(self.rng.random_range(30..9_000));
                let gateways = self.site.spots.iter().filter(|spot| spot.public.is_some());
                self.site.late = gateways.map(|spot| (spot.node, hours)).collect();
            }
            Scenario::TakeoverDies => self.takeover(flows, 1, true),
            Scenario::TakeoverAlive => self.takeover(flows, 1, false),
            Scenario::ThereAndBack => self.takeover(flows, 2, false),
            Scenario::LateJoin => self.late_join(flows),
            Scenario::OneWay => self.one_way(flows),
            Scenario::Overlap => self.overlap(),
            Scenario::ReuseApart => self.reuse_apart(flows),
            Scenario::Partial => self.partial(flows),
        }
    }

    fn node(&mut self) -> usize {
        self.site.nodes += 1;
        self.site.nodes - 1
    }

    fn spot(&mut self, node: usize, public: Option<Ipv4Addr>) -> usize {
        let joins = self.recipe.faults().has(Fault::Joining);
        let rng = &mut self.rng;
        let mut of = |all: &[u64]| Duration::from_secs(all[rng.random_range(0..all.len())]);
        let idle = Idle {
            opening: of(&[60, 120]),
            established: of(&[120, 300, 86_400]),
            time_wait: of(&[10, 30, 120]),
            closed: of(&[5, 10]),
            unanswered: of(&[10, 30]),
            answered: of(&[30, 120, 180]),
        };
        let joining = joins && rng.random_bool(0.5);
        let here = self.site.spots.iter().filter(|spot| spot.node == node).count();
        let netns = NetnsInode(4_026_531_840 + u32::try_from(here).unwrap_or(0));
        let (inside, outside) = (Domain(0), Domain(0));
        let twin = None;
        self.site.spots.push(Spot { node, netns, public, inside, outside, idle, joining, twin });
        self.site.spots.len() - 1
    }

    /// A chain of hosts of their own, each of which translates with this chance, two at most.
    fn chain(&mut self, len: usize, translates: f64) -> Vec<usize> {
        let mut publics =
            [Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(198, 51, 100, 1)].into_iter();
        let mut way = Vec::new();
        for _ in 0..len {
            let public = if self.rng.random_bool(translates) { publics.next() } else { None };
            let node = self.node();
            way.push(self.spot(node, public));
        }
        way
    }

    /// Two to four observers; half of the worlds translate; some have namespaces of one host.
    fn any_chain(&mut self) -> Vec<usize> {
        let len = self.rng.random_range(2..5);
        let translates = if self.rng.random_bool(0.5) { 0.5 } else { 0.0 };
        let way = self.chain(len, translates);
        if self.rng.random_bool(0.3) {
            // The last node falls away: its namespace is on the host before it.
            let (last, host) = (self.site.nodes - 1, self.site.nodes - 2);
            for spot in self.site.spots.iter_mut().filter(|spot| spot.node == last) {
                spot.node = host;
                spot.netns = NetnsInode(spot.netns.0 + 1);
            }
            self.site.nodes -= 1;
        }
        way
    }

    fn late_one(&mut self) {
        let node = self.rng.random_range(0..self.site.nodes);
        self.site.late.push((node, Duration::from_secs(self.rng.random_range(600..10_000))));
    }

    /// Flows that all take these ways: there and back, the same.
    fn flows(&mut self, count: usize, ways: &[Vec<usize>]) {
        for number in 0..count {
            let way = ways[number % ways.len()].clone();
            let mut flow = self.flow(number, [10, 0, 0, 1]);
            flow.phases.push(Phase { from: BEGIN, there: way.clone(), back: way });
            self.site.flows.push(flow);
        }
    }

    fn flow(&mut self, number: usize, client: [u8; 4]) -> Flow {
        let port = 4_000 + u16::try_from(number).unwrap_or(0);
        let client = SocketAddr::from((client, port));
        let server = SocketAddr::from(([192, 0, 2, 1], 443));
        let proto = match self.rng.random_range(0..10u8) {
            0..=4 => Proto::TCP,
            5..=8 => Proto::UDP,
            _ => Proto::ICMP,
        };
        Flow::new(client, server, proto)
    }

    fn gateway_between(&mut self, flows: usize) {
        let first = Ipv4Addr::new(198, 51, 100, 1);
        let mut way = self.chain(1, 0.0);
        let node = self.node();
        way.push(self.spot(node, Some(first)));
        way.extend(self.chain(1, 0.0));
        if self.rng.random_bool(0.3) {
            let node = self.node();
            way.push(self.spot(node, Some(Ipv4Addr::new(203, 0, 113, 1))));
            way.extend(self.chain(1, 0.0));
        }
        self.flows(flows, &[way]);
    }

    /// A moment in the middle of the world.
    fn moment(&mut self, from: f64, to: f64) -> UnixNanos {
        let length = self.site.end.diff(BEGIN) as f64 / 1e9;
        BEGIN.plus(seconds(length * self.rng.random_range(from..to)))
    }

    /// A pair of gateways, with entries copied between them or not; with it they may translate.
    fn takeover(&mut self, flows: usize, switches: u32, dies: bool) {
        let copied = self.rng.random_bool(0.5);
        let translates = copied && self.rng.random_bool(0.4);
        let public = translates.then_some(Ipv4Addr::new(198, 51, 100, 1));
        let pair = [0, 1].map(|_| {
            let node = self.node();
            self.spot(node, public)
        });
        if copied {
            self.site.spots[pair[0]].twin = Some(pair[1]);
            self.site.spots[pair[1]].twin = Some(pair[0]);
        }
        let mut times = Vec::from([BEGIN, self.moment(0.2, 0.5)]);
        if switches > 1 {
            times.push(self.moment(0.55, 0.8));
        }
        for number in 0..flows {
            let mut flow = self.flow(number, [10, 0, 0, 1]);
            for (turn, from) in times.iter().enumerate() {
                let way = Vec::from([pair[turn % 2]]);
                flow.phases.push(Phase { from: *from, there: way.clone(), back: way });
            }
            self.site.flows.push(flow);
        }
        if dies {
            self.site.dies = Some((self.site.spots[pair[0]].node, times[1]));
        }
    }

    fn late_join(&mut self, flows: usize) {
        let translates = self.rng.random_bool(0.3);
        let first = self.chain(1, if translates { 1.0 } else { 0.0 });
        let more = self.rng.random_range(1..3);
        let joining = self.chain(more, 0.0);
        let (join, leave) = (self.moment(0.1, 0.6), self.moment(0.6, 1.0));
        let leaves = self.rng.random_bool(0.3);
        let before = self.rng.random_bool(0.3) && !translates;
        for number in 0..flows {
            let mut flow = self.flow(number, [10, 0, 0, 1]);
            let all = match before {
                true => [joining.clone(), first.clone()].concat(),
                false => [first.clone(), joining.clone()].concat(),
            };
            let only = Phase { from: BEGIN, there: first.clone(), back: first.clone() };
            flow.phases.push(only.clone());
            flow.phases.push(Phase { from: join, there: all.clone(), back: all });
            if leaves {
                flow.phases.push(Phase { from: leave, ..only });
            }
            self.site.flows.push(flow);
        }
    }

    fn one_way(&mut self, flows: usize) {
        let (a, b) = (self.chain(1, 0.0), self.chain(1, 0.0));
        let third = self.rng.random_bool(0.5).then(|| self.chain(1, 0.0));
        let join = if self.rng.random_bool(0.5) { BEGIN } else { self.moment(0.1, 0.6) };
        for number in 0..flows {
            let mut flow = self.flow(number, [10, 0, 0, 1]);
            flow.phases.push(Phase { from: BEGIN, there: a.clone(), back: b.clone() });
            if let Some(third) = &third {
                let with = |way: &[usize]| [way, third.as_slice()].concat();
                flow.phases.push(Phase { from: join, there: with(&a), back: with(&b) });
            }
            self.site.flows.push(flow);
        }
    }

    /// Two sites whose hosts have equal addresses: told apart by translation, or by domain.
    fn overlap(&mut self) {
        let domains = self.rng.random_bool(0.5);
        let shared = self.chain(1, 0.0);
        for side in 0..2_u8 {
            let public = Ipv4Addr::new(198, 51, 100, 1 + side);
            let node = self.node();
            let gateway = self.spot(node, Some(public));
            let mut way = Vec::new();
            if domains {
                let inner = self.chain(1, 0.0);
                for spot in &inner {
                    let own = Domain(u32::from(side) + 1);
                    (self.site.spots[*spot].inside, self.site.spots[*spot].outside) = (own, own);
                }
                self.site.spots[gateway].inside = Domain(u32::from(side) + 1);
                way.extend(inner);
            }
            way.push(gateway);
            way.extend(&shared);
            for number in 0..2 {
                let mut flow = self.flow(number, [10, 0, 0, 1]);
                flow.phases.push(Phase { from: BEGIN, there: way.clone(), back: way.clone() });
                self.site.flows.push(flow);
            }
        }
    }

    /// One generation by one host, the next by the other: see [`Builder::traffic`].
    fn reuse_apart(&mut self, flows: usize) {
        let pair = [self.chain(1, 0.0), self.chain(1, 0.0)];
        self.flows(flows, &pair);
    }

    /// Hosts on and off a flow's way, in each direction, except those that translate.
    fn partial(&mut self, flows: usize) {
        let way = self.any_chain();
        for number in 0..flows {
            let mut flow = self.flow(number, [10, 0, 0, 1]);
            let mut from = BEGIN;
            while from < self.site.end {
                let (there, back) = (self.some_of(&way), self.some_of(&way));
                flow.phases.push(Phase { from, there, back });
                from = from.plus(seconds(self.rng.random_range(5.0..120.0)));
            }
            self.site.flows.push(flow);
        }
    }

    fn some_of(&mut self, way: &[usize]) -> Vec<usize> {
        let Self { rng, site, .. } = self;
        let stays = |spot: &&usize| site.spots[**spot].public.is_some() || rng.random_bool(0.6);
        way.iter().filter(stays).copied().collect()
    }

    fn traffic(&mut self) {
        let scenario = self.recipe.scenario;
        let apart = scenario == Scenario::ReuseApart;
        let reuse = apart || scenario == Scenario::Reuse;
        let rough = matches!(scenario, Scenario::Full | Scenario::Partial);
        for number in 0..self.site.flows.len() {
            let mut rng = self.recipe.stream(Part::Packets, number);
            // Some flows are older than the first sweep.
            let first = if reuse { 25.0..45.0 } else { 0.0..45.0 };
            let begin = BEGIN.plus(seconds(rng.random_range(first)));
            let generations = match (reuse, rough) {
                (true, _) => rng.random_range(2..5),
                (_, true) => rng.random_range(1..4),
                _ => 1,
            };
            let pause = if reuse { (0.5, 45.0) } else { (0.1, 200.0) };
            let silent = rng.random_bool(0.5);
            let habit = Habit { begin, end: self.site.end, generations, pause, silent };
            let proto = self.site.flows[number].tuple.proto;
            let (mut packets, begins) = traffic::packets(number, proto, &habit, &mut rng);
            if apart {
                self.turn_by_turn(number, &begins);
            }
            let until = BEGIN.plus(Duration::from_secs(u64::from(self.recipe.seconds)));
            packets.retain(|packet| packet.at < until && self.recipe.has_flow(number));
            self.site.packets.extend(packets);
            self.site.begins.push(begins);
        }
        self.site.packets.sort_by_key(|packet| packet.at);
    }

    fn turn_by_turn(&mut self, number: usize, begins: &[UnixNanos]) {
        let flow = &mut self.site.flows[number];
        flow.phases.clear();
        for (turn, from) in begins.iter().enumerate() {
            let way = Vec::from([turn % 2]);
            flow.phases.push(Phase { from: *from, there: way.clone(), back: way });
        }
    }
}
