//! What each command does: the way from the command line to the rest of the program.

use std::io::{Write, stdout};
use std::time::SystemTime;

use anyhow::Context as _;
use daemon::config::Surroundings;
use daemon::table::Screen;
use daemon::version::BUILD;
use flow::UnixNanos;
use jiff::Timestamp;

use crate::cli::{Cli, Command};
use crate::config::{Config, StoreChoice};
use crate::store::Backend;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::{SqliteConfig, SqliteStore};
use crate::{answers, run};

/// Does what the command line says.
///
/// # Errors
/// What went wrong, for a person.
pub fn execute(cli: Cli) -> anyhow::Result<()> {
    if let Some(Command::Version) = &cli.command {
        writeln!(stdout(), "conntracct-aggregator\n{BUILD}")?;
        return Ok(());
    }
    let surroundings = Surroundings::of_process()?;
    let general = &cli.general;
    let file = general.config.as_deref();
    let (config, raw) = Config::load(file, &surroundings, cli.flags(), general.debug)?;
    if cli.run.dump_config {
        stdout().write_all(daemon::config::dump(&raw)?.as_bytes())?;
        return Ok(());
    }
    match cli.command {
        None => {
            let log = daemon::log::init(&config.log)?;
            let source = Box::new(move || {
                let general = &cli.general;
                let file = general.config.as_deref();
                Config::load(file, &surroundings, cli.flags(), general.debug)
            });
            run::run(run::Start { config, raw, source, log })
        }
        Some(Command::CheckConfig) => {
            Ok(daemon::config::tell_right(config.file.as_deref(), &mut stdout())?)
        }
        Some(Command::CheckHealth(args)) => {
            Ok(daemon::http::check_health(config.http.as_ref(), args.ready, &mut stdout())?)
        }
        Some(Command::Pki(pki)) => pki.run(&config.pki),
        Some(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("the runtime could not be started")?;
            runtime.block_on(ask(command, &config))
        }
    }
}

/// Commands that ask the store.
async fn ask(command: Command, config: &Config) -> anyhow::Result<()> {
    let (now, screen) = (Timestamp::now(), Screen::of_stdout());
    let mut out = stdout();
    match command {
        Command::Report(args) => {
            answers::report(&args, &config.store, now, screen, &mut out).await?;
        }
        Command::Flows(args) => {
            answers::flows(&args, &config.store, now, screen, &mut out).await?;
        }
        Command::Migrate(args) => migrate(args.dry_run, config, &mut out).await?,
        Command::MigrateStore(args) => {
            let from = args.from.strip_prefix("sqlite:").unwrap_or(&args.from);
            let StoreChoice::Postgres(to) = &config.store else {
                anyhow::bail!(
                    "--store must name the PostgreSQL database that takes the store in, like \
                     postgres://conntracct@db.example.net/flows, but is {}",
                    config.store
                );
            };
            let now = UnixNanos::default().plus(SystemTime::UNIX_EPOCH.elapsed()?);
            crate::moving::move_store(from.as_ref(), to, now, &mut out).await?;
        }
        Command::Export(args) => {
            crate::archive::export(&args, &config.store, now, &mut out).await?;
        }
        Command::Import(args) => {
            let now = UnixNanos::default().plus(SystemTime::UNIX_EPOCH.elapsed()?);
            crate::archive::import(&args.export, &config.store, now, &mut out).await?;
        }
        Command::Pki(_) | Command::CheckConfig | Command::CheckHealth(_) | Command::Version => {}
    }
    Ok(())
}

async fn migrate(dry_run: bool, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let store = &config.store;
    let known = crate::store::SCHEMA_VERSION;
    if dry_run {
        let (found, layout) = match store {
            StoreChoice::Sqlite(path) => (crate::store::sqlite::pending(path).await?, None),
            StoreChoice::Postgres(address) => {
                let pending = crate::store::postgres::pending(address).await?;
                (pending.found, Some(pending.layout))
            }
        };
        match found {
            None => writeln!(out, "{store} holds no store; it would be made at schema {known}")?,
            Some(at) if at == known => writeln!(out, "{store} is at schema {at}: nothing to do")?,
            Some(at) => writeln!(out, "{store} is at schema {at}; it would go to {known}")?,
        }
        if let Some(layout) = layout {
            writeln!(out, "flows lie in {layout}")?;
        }
        return Ok(());
    }
    match store {
        StoreChoice::Sqlite(path) => {
            tell(&SqliteStore::open(&SqliteConfig::new(path)).await?, store, out).await
        }
        StoreChoice::Postgres(address) => {
            tell(&PostgresStore::open(address).await?, store, out).await
        }
    }
}

/// Says what a store is now, and closes it.
async fn tell<S: Backend>(
    opened: &S,
    place: &StoreChoice,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let meta = opened.meta().await?;
    opened.close().await;
    writeln!(out, "{place} is at schema {} (store {})", meta.schema, meta.store)?;
    Ok(())
}
