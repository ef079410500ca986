//! `cargo xtask kills`: nodes, aggregator and database are killed at random moments, again and
//! again, and in the end every byte of every flow is stored once. With `--away` nobody is killed,
//! but the database is stopped for a while ([`away`]).
//!
//! Ten nodes play conntrack tables that outlive them ([`kernel`]), so what must be stored is
//! known exactly. Victims are ended by SIGKILL: nothing can be flushed. A killed PostgreSQL loses
//! what its disk had not been told to keep, as in a power failure.

mod away;
mod judge;
mod kernel;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::interrupt::Interrupt;
use crate::up::Folder;
use crate::up::stack::{Aggregator, Node, PORT, Place, Programs};
use crate::workspace::CI_PROFILE;
pub(crate) use away::check as check_away;
use kernel::{INTERVAL, Kernel};

/// Flags of `cargo xtask kills`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// How many
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Instead of killing, stop the database for so many seconds, once
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["kills", "seed"])]
    away: Option<u64>,
    /// Seed of who is killed when [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Keep keys, states and logs, and say where
    #[arg(long)]
    keep: bool,
    /// Profile to build with
    #[arg(long, default_value = "up", value_name = "PROFILE")]
    profile: String,
}

const NODES: u8 = 10;
/// The longest time between two kills.
const PAUSE: Duration = Duration::from_millis(2_500);
/// How long the store may take to have everything.
const CATCH_UP: Duration = Duration::from_secs(180);
/// HTTP ports of the nodes begin here.
const HTTP: u16 = 18_000;

/// Kills as told.
///
/// # Errors
/// Something did not start, or what is stored is not what the kernels counted.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    if let Some(seconds) = flags.away {
        return away::run(Duration::from_secs(seconds), &flags.profile, flags.keep);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let plan = Plan {
        kills: flags.kills,
        seed: flags.seed.unwrap_or(now),
        keep: flags.keep,
        profile: &flags.profile,
    };
    plan.run(&Interrupt::listen()?)
}

/// The kills as a test: `kills` of them.
pub(crate) fn check(kills: u32) -> Result<()> {
    run(&Flags { kills, away: None, seed: None, keep: false, profile: CI_PROFILE.to_owned() })
}

struct Plan<'a> {
    kills: u32,
    seed: u64,
    keep: bool,
    profile: &'a str,
}

/// Who can be killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Node(usize),
    Aggregator,
    Database,
}

/// What runs.
struct Stage<'a> {
    began: Instant,
    kernels: Vec<Kernel>,
    recordings: PathBuf,
    nodes: Vec<Node<'a>>,
    aggregator: Aggregator<'a>,
    database: testdb::Server,
    interrupt: &'a Interrupt,
}

impl Plan<'_> {
    fn run(&self, interrupt: &Interrupt) -> Result<()> {
        let folder = Folder::make(self.keep)?;
        let end = PAUSE * self.kills + INTERVAL * 5;
        let mut stage = Stage::set(self.profile, &folder, end, interrupt)?;
        eprintln!("{NODES} nodes run; {} kills, seed {}", self.kills, self.seed);
        let mut rng = SmallRng::seed_from_u64(self.seed);
        for kill in 1..=self.kills {
            interrupt.wait(rng.random_range(PAUSE / 10..PAUSE))?;
            let victim = match rng.random_range(0..10u8) {
                0..=4 => Victim::Node(rng.random_range(0..stage.nodes.len())),
                5..=7 => Victim::Aggregator,
                _ => Victim::Database,
            };
            stage.kill(victim).with_context(|| format!("kill {kill}, {victim:?}"))?;
            eprintln!("{kill:>4}  {:>6.1?}  {victim:?}", stage.began.elapsed());
        }
        stage.finish(end)
    }
}

impl<'a> Stage<'a> {
    /// Starts a database, an aggregator and ten nodes, whose kernels come to their end at `end`.
    fn set(
        profile: &str,
        folder: &Folder,
        end: Duration,
        interrupt: &'a Interrupt,
    ) -> Result<Self> {
        let programs = Programs::build(profile)?;
        let database = testdb::Server::start().context("PostgreSQL did not start")?;
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let store = database.url();
        let aggregator =
            Aggregator::prepare(&programs, Place::Here, folder.path(), Some(&store), &names)?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let began = u64::try_from(wall.as_nanos())?;
        let kernels: Vec<Kernel> = (0..NODES).map(|n| Kernel::new(n, began, end)).collect();
        let address = SocketAddr::from(([127, 0, 0, 1], PORT));
        let nodes = (0..NODES)
            .map(|n| {
                let name = format!("node{n}");
                let node = Node::prepare(&aggregator, Place::Here, &name, address, "1s")?;
                Ok(node.http(HTTP + u16::from(n)))
            })
            .collect::<Result<Vec<_>>>()?;
        let recordings = folder.path().to_owned();
        let began = Instant::now();
        let mut stage = Self { began, kernels, recordings, nodes, aggregator, database, interrupt };
        stage.aggregator.start(interrupt)?;
        for node in 0..stage.nodes.len() {
            stage.start_node(node)?;
        }
        Ok(stage)
    }

    fn start_node(&mut self, at: usize) -> Result<()> {
        let (Some(node), Some(kernel)) = (self.nodes.get_mut(at), self.kernels.get(at)) else {
            bail!("there is no node {at}");
        };
        let file = self.recordings.join(format!("{}.recording", node.name()));
        kernel.record(self.began.elapsed(), &file)?;
        node.replay(&file);
        node.start(self.interrupt)
    }

    fn kill(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Node(at) => {
                self.nodes.get_mut(at).map_or(Ok(()), Node::kill)?;
                self.start_node(at)
            }
            Victim::Aggregator => {
                self.aggregator.kill()?;
                self.aggregator.start(self.interrupt)
            }
            Victim::Database => {
                self.database.kill()?;
                Ok(self.database.start_again()?)
            }
        }
    }

    /// Lets the kernels come to their end, waits until that is stored, and looks at everything.
    fn finish(&mut self, end: Duration) -> Result<()> {
        self.interrupt.wait(end.saturating_sub(self.began.elapsed()))?;
        let mut wrong = Vec::new();
        let caught_up = self.interrupt.wait_for("everything to be stored", CATCH_UP, || {
            self.aggregator.check()?;
            self.nodes.iter_mut().try_for_each(Node::check)?;
            let stored = judge::Stored::read(&self.database)?;
            wrong = stored.differences(&self.nodes, &self.kernels);
            Ok(wrong.is_empty().then_some(stored))
        });
        let stored = match caught_up {
            Ok(stored) => stored,
            Err(error) => bail!("{error}: {}", wrong.join("; ")),
        };
        for node in &mut self.nodes {
            node.stop()?;
        }
        self.aggregator.stop()?;
        // Nothing came after it was complete.
        let after = judge::Stored::read(&self.database)?.differences(&self.nodes, &self.kernels);
        if !after.is_empty() {
            bail!("more was stored after everything was: {}", after.join("; "));
        }
        eprintln!("{}", stored.summary());
        Ok(())
    }
}
