//! What the self-test does, in order: traffic before the source, the source, traffic, a sweep that
//! must show it, its ends, and what must not be shown.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use daemon::config::chain;
use flow::entry::Zone;
use flow::{Counters, Proto, Reading, Tuple};

use super::check::{Check, Count, Sent};
use super::report::Report;
use super::traffic::{self, Talk};
use super::world::{Addresses, FAMILIES, Room, World};
use super::{Opened, Opener, rules};
use crate::netlink;
use crate::netns::NetnsChoice;
use crate::source::{Event, Source, Timed};

/// Runs all checks that can be made.
pub(super) fn run(kernel: String, open: &mut Opener<'_>) -> Report {
    let version = env!("CARGO_PKG_VERSION");
    let mut report = Report { version, kernel, source: None, reason: None, checks: Vec::new() };
    if let Err(why) = whole(&mut report, open) {
        report.reason.get_or_insert(why);
    }
    // Whatever was not come to.
    let why = report.reason.clone().unwrap_or_default();
    for name in NAMES {
        if !report.checks.iter().any(|check| check.name == *name) {
            report.checks.push(Check::skipped(name, &why));
        }
    }
    let place = |check: &Check| NAMES.iter().position(|name| *name == check.name);
    report.checks.sort_by_key(place);
    report
}

/// Every check.
pub(super) const NAMES: &[&str] = &[
    "adoption",
    "udp v4",
    "udp v6",
    "tcp v4",
    "tcp v6",
    "icmp v4",
    "icmp v6",
    "snat v4",
    "snat v6",
    "dnat v4",
    "dnat v6",
    "mark",
    "zone",
    "namespaces",
    "ends",
    "short flows",
    "uncounted",
];

fn whole(report: &mut Report, open: &mut Opener<'_>) -> Result<(), String> {
    let world = World::make().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("network namespaces cannot be made ({error}); run it as root")
        }
        _ => format!("the network cannot be made: {error}"),
    })?;
    let mut course = Course::new(&world);
    course.prepare()?;
    let before = course.send("adoption", |course| course.plain(FAMILIES[0], PORT_BEFORE, 3, 2))?;
    let watched = [&world.gateway, &world.watched].map(Room::path);
    let Opened { source, instead } = open(NetnsChoice::Listed(watched.into()))?;
    (report.source, report.reason) = (Some(source.name()), instead);
    course.sent.extend(before);
    course.traffic();
    let mut source = source;
    course.sweep(source.as_mut());
    course.ends(source.as_mut());
    course.short(source.as_mut());
    course.uncounted(source.as_mut());
    report.checks = course.checks;
    Ok(())
}

/// A flow that belongs to a check.
type Named = (&'static str, Sent);

/// What was sent, and what was found.
struct Course<'w> {
    world: &'w World,
    checks: Vec<Check>,
    /// Flows whose traffic succeeded, by check.
    sent: Vec<Named>,
    /// Where a part of the rules could not be loaded.
    without: BTreeMap<&'static str, String>,
}

impl<'w> Course<'w> {
    fn new(world: &'w World) -> Self {
        let (checks, sent) = (Vec::new(), Vec::new());
        Self { world, checks, sent, without: BTreeMap::new() }
    }

    /// Rules and sysctls. What only some checks need may be missing.
    fn prepare(&mut self) -> Result<(), String> {
        let World { gateway, watched, unwatched, .. } = self.world;
        for room in [gateway, watched, unwatched] {
            let missing =
                |error| format!("the kernel cannot be told to track (nf_tables): {error}");
            rules::track(room).map_err(missing)?;
            for key in ["acct", "timestamp", "events"] {
                room.set(key, 1).map_err(|error| error.to_string())?;
            }
            for key in LASTING {
                // Not in every kernel; nothing expires within seconds anyway.
                let _absent = room.set(key, 600);
            }
        }
        let mut note = |name: &'static str, loaded: io::Result<()>| {
            if let Err(error) = loaded {
                self.without.insert(name, format!("the kernel refuses the rule for it: {error}"));
            }
        };
        let tally = rules::tally_tcp(gateway, &[PORT_TCP, PORT_TCP + 1]);
        let again = tally.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string())).copied();
        note("tcp v4", again);
        note("tcp v6", tally);
        note("mark", rules::mark(gateway, PORT_MARK, MARK));
        note("zone", rules::zone(gateway, PORT_ZONE, ZONE));
        let [four, six] = FAMILIES;
        note("snat v4", rules::snat(gateway, four, PORT_SNAT));
        note("snat v6", rules::snat(gateway, six, PORT_SNAT));
        note("dnat v4", rules::dnat(gateway, four, PORT_DNAT, PORT_BEHIND));
        note("dnat v6", rules::dnat(gateway, six, PORT_DNAT, PORT_BEHIND));
        Ok(())
    }

    /// Sends the traffic of a check; where that cannot be done it is skipped: the source has no
    /// part in it.
    fn send(
        &mut self,
        name: &'static str,
        traffic: impl FnOnce(&Self) -> io::Result<Sent>,
    ) -> Result<Option<Named>, String> {
        if let Some(why) = self.without.get(name) {
            self.checks.push(Check::skipped(name, why));
            return Ok(None);
        }
        match traffic(self) {
            Ok(sent) => Ok(Some((name, sent))),
            Err(error) if name == "adoption" => {
                Err(format!("packets do not pass the self-test's network: {error}"))
            }
            Err(error) => {
                let why = format!("its packets do not pass the self-test's network: {error}");
                self.checks.push(Check::skipped(name, &why));
                Ok(None)
            }
        }
    }

    /// All traffic while the source listens.
    fn traffic(&mut self) {
        let has_ipv6 = self.world.has_ipv6();
        for (number, family) in FAMILIES.into_iter().enumerate() {
            let of = |four, six| if family.word == "v4" { four } else { six };
            if family.word == "v6" && !has_ipv6 {
                for name in NAMES.iter().filter(|name| name.ends_with("v6")) {
                    self.checks.push(Check::skipped(name, "this kernel has no IPv6"));
                }
                continue;
            }
            self.go(of("udp v4", "udp v6"), |course| course.plain(family, PORT_UDP, 7, 3));
            self.go(of("tcp v4", "tcp v6"), |course| course.tcp(family, number));
            self.go(of("icmp v4", "icmp v6"), |course| course.icmp(family));
            self.go(of("snat v4", "snat v6"), |course| {
                let sent = course.plain(family, PORT_SNAT, 4, 2)?;
                let reply = Tuple { dst: family.wan, ..sent.reply };
                Ok(Sent { reply, ..sent })
            });
            self.go(of("dnat v4", "dnat v6"), |course| {
                let to = SocketAddr::new(family.lan, PORT_DNAT);
                let heard_at = SocketAddr::new(family.server, PORT_BEHIND);
                let sent = course.udp(Talk { to, heard_at, there: 5, back: 1 }, family)?;
                let reply = Tuple { src: family.server, sport: PORT_BEHIND, ..sent.reply };
                Ok(Sent { reply, ..sent })
            });
        }
        let [four, _] = FAMILIES;
        self.go("mark", |course| Ok(Sent { mark: MARK, ..course.plain(four, PORT_MARK, 2, 1)? }));
        // Answers would be in no zone, so there are none.
        self.go("zone", |course| {
            Ok(Sent { zone: Zone(ZONE), ..course.plain(four, PORT_ZONE, 6, 0)? })
        });
        self.go("namespaces", |course| {
            let World { watched, unwatched, .. } = course.world;
            let here = SocketAddr::from(([127, 0, 0, 1], PORT_LOCAL));
            let talk = Talk { to: here, heard_at: here, there: 2, back: 2 };
            traffic::udp(unwatched, unwatched, talk)?;
            let (from, counters) = traffic::udp(watched, watched, talk)?;
            Ok(Sent::plain(watched.inode(), Tuple::ports(Proto::UDP, from, here), counters))
        });
    }

    fn go(&mut self, name: &'static str, traffic: impl FnOnce(&Self) -> io::Result<Sent>) {
        if let Ok(Some(sent)) = self.send(name, traffic) {
            self.sent.push(sent);
        }
    }

    /// Datagrams through the gateway, to the server itself.
    fn plain(&self, family: Addresses, port: u16, there: u16, back: u16) -> io::Result<Sent> {
        let to = SocketAddr::new(family.server, port);
        self.udp(Talk { to, heard_at: to, there, back }, family)
    }

    fn udp(&self, talk: Talk, family: Addresses) -> io::Result<Sent> {
        let World { client, gateway, server, .. } = self.world;
        let (from, counters) = traffic::udp(client, server, talk)?;
        let from = SocketAddr::new(family.client, from.port());
        let orig = Tuple::ports(Proto::UDP, from, talk.to);
        Ok(Sent::plain(gateway.inode(), orig, counters))
    }

    fn icmp(&self, family: Addresses) -> io::Result<Sent> {
        let World { client, gateway, .. } = self.world;
        let (id, counters) = traffic::echo(client, family.server, 4)?;
        let (proto, kind) = match family.word {
            "v4" => (Proto::ICMP, 8),
            _ => (Proto::ICMPV6, 128),
        };
        let orig = Tuple::icmp(proto, family.client, family.server, id, kind, 0);
        Ok(Sent::plain(gateway.inode(), orig, counters))
    }

    /// A connection; nf_tables has counted it, too.
    fn tcp(&self, family: Addresses, number: usize) -> io::Result<Sent> {
        let World { client, gateway, server, .. } = self.world;
        let port = if number == 0 { PORT_TCP } else { PORT_TCP + 1 };
        let to = SocketAddr::new(family.server, port);
        let from = traffic::tcp(client, server, to)?;
        let orig = Tuple::ports(Proto::TCP, SocketAddr::new(family.client, from.port()), to);
        Ok(Sent::plain(gateway.inode(), orig, Counters::from_components(settled(gateway, number)?)))
    }

    /// The sweep that must show everything that lives.
    fn sweep(&mut self, source: &mut dyn Source) {
        let found = sweep(source);
        let World { watched, unwatched, client, server, .. } = self.world;
        let foreign = [unwatched, client, server].map(Room::inode);
        for (name, sent) in &self.sent {
            let outcome = match &found {
                Err(error) => Err(error.clone()),
                Ok(found) => compared(sent, found).and_then(|seen| {
                    let stray = found.iter().find(|reading| foreign.contains(&reading.netns));
                    match stray.filter(|_| sent.netns == watched.inode()) {
                        None => Ok(seen),
                        Some(stray) => {
                            Err(format!("a namespace that is not watched is reported: {stray:?}"))
                        }
                    }
                }),
            };
            self.checks.push(Check::of(name, outcome));
        }
    }

    /// Every flow ends, and its last counters are told.
    fn ends(&mut self, source: &mut dyn Source) {
        let sent: Vec<Sent> = self.sent.drain(..).map(|(_, sent)| sent).collect();
        let rooms = [&self.world.gateway, &self.world.watched];
        self.checks.push(Check::of("ends", all_end(source, &rooms, &sent)));
    }

    /// Flows that no sweep ever sees.
    fn short(&mut self, source: &mut dyn Source) {
        const NAME: &str = "short flows";
        let World { client, gateway, server, .. } = self.world;
        let [four, _] = FAMILIES;
        let to = SocketAddr::new(four.server, PORT_SHORT);
        let flows = traffic::many(client, server, to, SHORT_FLOWS);
        let check = match flows {
            Err(error) => Check::skipped(NAME, &format!("the packets do not pass: {error}")),
            Ok((tuples, counters)) => {
                let tuples = tuples.into_iter().map(|tuple| Tuple { src: four.client, ..tuple });
                let sent = tuples.map(|tuple| Sent::plain(gateway.inode(), tuple, counters));
                let sent: Vec<Sent> = sent.collect();
                Check::of(NAME, all_end(source, &[gateway], &sent))
            }
        };
        self.checks.push(check);
    }

    /// A flow that the kernel does not count is said to be uncounted, never empty.
    fn uncounted(&mut self, source: &mut dyn Source) {
        const NAME: &str = "uncounted";
        let off = self.world.gateway.set("acct", 0);
        let [four, _] = FAMILIES;
        let sent = off.and_then(|()| self.plain(four, PORT_UNCOUNTED, 3, 1));
        let check = match sent {
            Err(error) => Check::skipped(NAME, &error.to_string()),
            Ok(sent) => {
                let sent = Sent { counters: None, ..sent };
                let outcome = sweep(source).and_then(|found| compared(&sent, &found));
                Check::of(NAME, outcome.map(|_none| "reported as uncounted, not as 0".to_owned()))
            }
        };
        self.checks.push(check);
    }
}

/// What was seen of a flow, or how it differs.
fn compared(sent: &Sent, found: &[Reading]) -> Result<String, String> {
    match sent.compare(found) {
        Ok(()) => Ok(Count(sent.counters).to_string()),
        Err(difference) => Err(difference.to_string()),
    }
}

fn sweep(source: &mut dyn Source) -> Result<Vec<Reading>, String> {
    let mut all = Vec::new();
    let done = source.sweep(&mut |chunk| all.extend(chunk.readings));
    let report = done.map_err(|error| chain(&error))?;
    match report.failed.into_iter().next() {
        None => Ok(all),
        Some((_, why)) => Err(format!("a sweep did not come to its end: {why}")),
    }
}

/// Deletes all entries of the namespaces and waits for the ends of these flows.
fn all_end(source: &mut dyn Source, rooms: &[&Room], sent: &[Sent]) -> Result<String, String> {
    for room in rooms {
        room.enter(|| netlink::flush_conntrack(&mut netlink::Talk::netfilter()?))
            .map_err(|error| format!("the entries cannot be deleted: {error}"))?;
    }
    let begun = Instant::now();
    let (mut events, mut ended): (Vec<Timed>, Vec<Reading>) = (Vec::new(), Vec::new());
    loop {
        source.events(&mut events).map_err(|error| chain(&error))?;
        ended.extend(events.drain(..).filter_map(|timed| match timed.event {
            Event::End(reading) => Some(reading),
            Event::New(_) => None,
        }));
        let told = |sent: &&Sent| ended.iter().any(|reading| reading.orig == sent.orig);
        if sent.iter().filter(told).count() == sent.len() || begun.elapsed() > ENDS_WITHIN {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let differences = sent.iter().filter_map(|sent| sent.compare(&ended).err());
    let differences: Vec<_> = differences.collect();
    match differences.first() {
        None => Ok(format!("{} of {} with the counters sent", sent.len(), sent.len())),
        Some(first) => Err(format!("{} of {} differ: {first}", differences.len(), sent.len())),
    }
}

/// What nf_tables has counted of a connection, once the last packet has passed: twice the same.
fn settled(gateway: &Room, number: usize) -> io::Result<[u64; 4]> {
    let mut last = rules::tcp(gateway, number)?;
    for _ in 0..SETTLING_LOOKS {
        std::thread::sleep(SETTLING);
        let now = rules::tcp(gateway, number)?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    Err(io::Error::other("a closed connection does not become silent"))
}

const PORT_BEFORE: u16 = 7_000;
const PORT_UDP: u16 = 7_001;
/// And the next one for IPv6.
const PORT_TCP: u16 = 7_002;
const PORT_SNAT: u16 = 7_004;
const PORT_DNAT: u16 = 7_005;
const PORT_BEHIND: u16 = 7_006;
const PORT_MARK: u16 = 7_007;
const PORT_ZONE: u16 = 7_008;
const PORT_LOCAL: u16 = 7_009;
const PORT_SHORT: u16 = 7_010;
const PORT_UNCOUNTED: u16 = 7_011;
const MARK: u32 = 42;
const ZONE: u16 = 7;
const SHORT_FLOWS: usize = 200;

/// Timeouts that are lengthened, so that nothing expires on a slow machine.
const LASTING: [&str; 5] = [
    "udp_timeout",
    "udp_timeout_stream",
    "icmp_timeout",
    "icmpv6_timeout",
    "tcp_timeout_time_wait",
];

/// For the ends of a few hundred flows; they take milliseconds.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks at a connection that is closed, and how many at most.
const SETTLING: Duration = Duration::from_millis(50);
const SETTLING_LOOKS: u32 = 40;
