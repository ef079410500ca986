//! `cargo xtask chaos`: the lab's chain of three gateways under real traffic, while nodes,
//! aggregator and PostgreSQL are killed, the links between them lose, repeat and reorder
//! datagrams and are cut, and a disk fills up. In the end every flow must be counted once, to the
//! byte, and every gateway's own count must be its kernel's.
//!
//! Who suffers what and when is a [`plan`] made of a seed; what the programs and the network make
//! of it is theirs. Entries outlive every outage ([`topology::CHAOS`]), so nothing ends that no
//! life of a node could read.

mod disk;
mod flows;
mod plan;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::interrupt::Interrupt;
use crate::lab::course::{flush, with_traffic};
use crate::lab::network::Network;
use crate::lab::once::Once;
use crate::lab::relay::{Passed, Relay, Weather};
use crate::lab::summary::GatewayCounts;
use crate::lab::tally::total;
use crate::lab::topology::{self, Topology};
use crate::lab::traffic::Traffic;
use crate::lab::truth::{Ends, Truth};
use crate::lab::{rules, run as stack};
use crate::packages;
use crate::up::stack::{Aggregator, Node, PORT, Programs};
use crate::up::{Folder, stored};
use crate::workspace::{self, CI_PROFILE};
use disk::SmallDisk;
use plan::{SMALL_DISK, Trouble};

/// Flags of `cargo xtask chaos`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// How long
    #[arg(long, default_value_t = 1)]
    minutes: u32,
    /// Of who suffers what, and when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep keys, states and logs, and say where
    #[arg(long)]
    keep: bool,
    /// Profile to build with
    #[arg(long, default_value = "up", value_name = "PROFILE")]
    profile: String,
}

const TOPOLOGY: &Topology = &topology::CHAOS;
/// The nodes' interval, as a flag and as a time.
const INTERVAL: (&str, Duration) = ("2s", Duration::from_secs(2));
/// Each node's relay listens on a port from here on.
const RELAYS: u16 = 4_434;
/// One of twenty datagrams is lost.
const WEATHER: Weather = Weather { lost: 50, repeated: 20, overtaken: 20, seed: 0 };
/// How often it is said how far it is.
const PROGRESS: Duration = Duration::from_secs(30);
/// How long the store may take to have everything, after the last trouble.
const CATCH_UP: Duration = Duration::from_secs(180);

/// Runs it.
///
/// # Errors
/// Something did not start, or what is stored is not what passed.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    ensure!(workspace::is_root(), "chaos makes network namespaces and mounts: run it as root");
    ensure!((1..=600).contains(&flags.minutes), "--minutes is from 1 to 600");
    packages::ensure(&[packages::LAB, packages::TESTS], false)?;
    let lasting = Duration::from_secs(60) * flags.minutes;
    chaos(lasting, flags.seed, &flags.profile, flags.keep)
}

/// The same as a test.
///
/// # Errors
/// See [`run`].
pub(crate) fn check(minutes: u32, seed: u64) -> Result<()> {
    run(&Flags { minutes, seed, keep: false, profile: CI_PROFILE.to_owned() })
}

/// What runs, in the order in which it may be dropped.
struct Stage<'n> {
    nodes: Vec<Node<'n>>,
    aggregator: Aggregator<'n>,
    database: testdb::Server,
    relays: Vec<Relay>,
    disk: SmallDisk,
    network: &'n Network,
    cut: Vec<bool>,
    interrupt: &'n Interrupt,
    done: Suffered,
}

/// How often what went wrong.
#[derive(Debug, Default)]
struct Suffered {
    nodes: u32,
    aggregator: u32,
    database: u32,
    cuts: u32,
    full: u32,
}

fn chaos(lasting: Duration, seed: u64, profile: &str, keep: bool) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    let programs = Programs::build(profile)?;
    let folder = Folder::make(keep)?;
    let network = Network::build(TOPOLOGY)?;
    let ends = Ends::count(&network)?;
    let database = testdb::Server::start().context("PostgreSQL did not start")?;
    let mut aggregator = stack::aggregator(&programs, &network, &folder, Some(&database.url()))?;
    let nodes = stack::nodes(&aggregator, &network, INTERVAL.0, |number| RELAYS + number)?;
    let to = SocketAddr::from(([127, 0, 0, 1], PORT));
    let relay = |(number, _)| {
        let weather = Weather { seed: seed.wrapping_add(u64::from(number)), ..WEATHER };
        Relay::start(&network.center, RELAYS + number, to, weather)
    };
    let relays = (0..).zip(&nodes).map(relay).collect::<Result<Vec<_>>>()?;
    let small = nodes.get(SMALL_DISK).context("no node for the small disk")?;
    let disk = SmallDisk::mount(&small.state())?;
    let mut traffic = Traffic::start(&network)?;
    aggregator.start(&interrupt)?;
    let cut = vec![false; nodes.len()];
    let done = Suffered::default();
    let interrupt = &interrupt;
    let mut stage = Stage {
        nodes,
        aggregator,
        database,
        relays,
        disk,
        network: &network,
        cut,
        interrupt,
        done,
    };
    for node in &mut stage.nodes {
        node.start(interrupt)?;
    }
    let plan = plan::plan(seed, lasting, stage.nodes.len());
    let (count, minutes) = (plan.len(), lasting.as_secs() / 60);
    eprintln!("seed {seed}: {count} troubles in {minutes} minutes; traffic begins");
    with_traffic(&mut traffic, |broken| stage.suffer(&plan, lasting, broken))?;
    let sent = traffic.finish()?;
    interrupt.wait(INTERVAL.1)?;
    let truth = ends.read()?;
    stage.caught_up(truth)?;
    let kept = keep.then(|| folder.path().join("export"));
    let (once, gateways) = stage.finish(truth, kept)?;
    for gateway in &gateways {
        eprint!("{gateway}");
    }
    eprint!("{once}");
    let mut wrong = once.wrong();
    for gateway in &gateways {
        wrong.extend(gateway.differences());
        wrong.extend(gateway.vacuous(sent));
    }
    if !wrong.is_empty() {
        for flow in flows::differing(TOPOLOGY, &gateways) {
            eprintln!("  {flow}");
        }
        bail!("seed {seed}: {}", wrong.join("; "));
    }
    eprintln!("seed {seed}: nothing lost, nothing doubled");
    Ok(())
}

impl Stage<'_> {
    /// Lets everything of the plan happen when its time has come.
    fn suffer(
        &mut self,
        plan: &[(Duration, Trouble)],
        lasting: Duration,
        broken: &AtomicBool,
    ) -> Result<()> {
        let began = Instant::now();
        let mut told = began;
        for (number, (when, trouble)) in (1..).zip(plan) {
            self.until(began + *when, broken)?;
            let waited = Instant::now();
            self.suffer_one(*trouble).with_context(|| format!("trouble {number}, {trouble:?}"))?;
            let (now, took) = (began.elapsed(), waited.elapsed());
            eprintln!("{number:>4}  {now:>7.1?}  {trouble:?}, {took:.1?}");
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let percent = now.as_millis() * 100 / lasting.as_millis().max(1);
                eprintln!("      {percent} % of {lasting:.0?}: {:?}", self.done);
            }
        }
        self.until(began + lasting, broken)
    }

    fn until(&mut self, when: Instant, broken: &AtomicBool) -> Result<()> {
        loop {
            ensure!(!broken.load(Ordering::Acquire), "the traffic broke off");
            self.aggregator.check()?;
            self.nodes.iter_mut().try_for_each(Node::check)?;
            let left = when.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.interrupt.wait(left.min(Duration::from_millis(200)))?;
        }
    }

    fn suffer_one(&mut self, trouble: Trouble) -> Result<()> {
        let interrupt = self.interrupt;
        match trouble {
            Trouble::KillNode(at) => {
                let node = self.nodes.get_mut(at).context("no such node")?;
                node.kill()?;
                self.done.nodes += 1;
                if self.cut.get(at) == Some(&true) {
                    node.start_apart(interrupt)
                } else {
                    node.start(interrupt)
                }
            }
            Trouble::KillAggregator => {
                self.aggregator.kill()?;
                self.done.aggregator += 1;
                self.aggregator.start(interrupt)
            }
            Trouble::KillDatabase => {
                self.database.kill()?;
                self.done.database += 1;
                Ok(self.database.start_again()?)
            }
            Trouble::Cut(at) => {
                self.done.cuts += 1;
                self.cut(at, true)
            }
            Trouble::Mend(at) => self.cut(at, false),
            Trouble::Fill => {
                self.done.full += 1;
                self.disk.fill()
            }
            Trouble::Free => self.disk.free(),
        }
    }

    fn cut(&mut self, at: usize, cut: bool) -> Result<()> {
        *self.cut.get_mut(at).context("no such node")? = cut;
        self.relays.get(at).context("no such relay")?.cut(cut);
        Ok(())
    }

    /// Ends every flow, when all that it carried has been read, and waits until the store has
    /// everything; what it has not by then is for the judge to tell.
    fn caught_up(&mut self, truth: Truth) -> Result<()> {
        let store = self.aggregator.stored();
        let network = self.network;
        flush(network, self.interrupt)?;
        let began = Instant::now();
        let mut last = None;
        let all = self.interrupt.wait_for("everything to be stored", CATCH_UP, || {
            self.aggregator.check()?;
            self.nodes.iter_mut().try_for_each(Node::check)?;
            let all = observers(network, &store)?;
            let equal = network.gateways.iter().zip(&all).map(|(gateway, stored)| {
                let counted = rules::read(&gateway.netns)?.tracked;
                Ok(stored.open == 0 && total(&stored.raw) == counted)
            });
            let equal: Vec<bool> = equal.collect::<Result<_>>()?;
            let once = Once::of(TOPOLOGY, &all, truth, stored::Merged::default(), None);
            let right = equal.iter().all(|equal| *equal) && once.wrong().is_empty();
            last = Some((equal, once.wrong()));
            Ok(right.then_some(()))
        });
        match all {
            Ok(()) => eprintln!("everything was stored {:.1?} after the end", began.elapsed()),
            Err(error) => {
                self.interrupt.check()?;
                eprintln!("{error:#}: {last:?}");
            }
        }
        Ok(())
    }

    /// Ends everything and adds up what is there: nothing may have come after it was complete.
    /// With `kept`, all records are exported there.
    fn finish(mut self, truth: Truth, kept: Option<PathBuf>) -> Result<(Once, Vec<GatewayCounts>)> {
        let passed =
            self.relays.iter().map(Relay::counts).fold(Passed::default(), |sum, relay| Passed {
                passed: sum.passed + relay.passed,
                dropped: sum.dropped + relay.dropped,
                lost: sum.lost + relay.lost,
                repeated: sum.repeated + relay.repeated,
                overtaken: sum.overtaken + relay.overtaken,
            });
        eprintln!("{:?}; datagrams: {passed:?}", self.done);
        ensure!(passed.lost > 0 && passed.repeated > 0, "the relays were not used: {passed:?}");
        let store = self.aggregator.stored();
        let (nodes, aggregator) = (&mut self.nodes, &mut self.aggregator);
        let gateways = stack::stop(self.network, nodes, aggregator, Vec::new(), self.interrupt)?;
        if let Some(folder) = kept {
            let mut export = self.aggregator.reading(&["export", "--format", "csv"]);
            workspace::run(export.arg("--output").arg(folder))?;
        }
        let merged = stored::merged(&store)?;
        let all = gateways.iter().map(|gateway| &gateway.stored);
        let once = Once::of(TOPOLOGY, all, truth, merged, None);
        Ok((once, gateways))
    }
}

fn observers(network: &Network, store: &stored::Place) -> Result<Vec<stored::Stored>> {
    let read = |gateway: &crate::lab::network::Gateway| {
        stored::read_in(store, gateway.node, gateway.inode()?)
    };
    network.gateways.iter().map(read).collect()
}
