//! What each command does: the way from the command line to the rest of the program.

use std::io::{Write, stdout};

use anyhow::Context as _;
use daemon::config::Surroundings;
use daemon::table::Screen;
use daemon::version::BUILD;

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::reload::Origin;
use crate::source::ebpf::keep;
use crate::{clock, doctor, http, opening, run, selftest, sysctl};

/// Does what the command line says.
///
/// # Errors
/// What went wrong, for a person.
pub fn execute(cli: Cli) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    match &cli.command {
        Some(Command::Version) => {
            writeln!(out, "conntracct-node\n{BUILD}")?;
            return Ok(());
        }
        Some(Command::Join(join)) => return join.clone().run(&mut out),
        _ => {}
    }
    let surroundings = Surroundings::of_process()?;
    let general = &cli.general;
    let file = general.config.as_deref();
    let (config, raw) = Config::load(file, &surroundings, cli.flags(), general.debug)?;
    if cli.run.dump_config {
        out.write_all(daemon::config::dump(&raw)?.as_bytes())?;
        return Ok(());
    }
    match &cli.command {
        Some(Command::CheckConfig) => {
            daemon::config::tell_right(config.file.as_deref(), &mut out)?;
            Ok(())
        }
        Some(Command::CheckHealth(args)) => {
            Ok(daemon::http::check_health(config.http.as_ref(), args.ready, &mut out)?)
        }
        Some(Command::Flows(args)) => {
            http::show::show(config.http.as_ref(), args, Screen::of_stdout(), &mut out)?;
            Ok(())
        }
        Some(Command::Doctor(args)) => doctor::run(&config, args, &mut out),
        Some(Command::Test(args)) => selftest::run(&config, args, &mut out),
        Some(Command::Layout(_)) => {
            let layout = config.ebpf.layout.layout()?;
            out.write_all(layout.to_toml()?.as_bytes())?;
            Ok(())
        }
        Some(Command::RestoreSysctls) => restore_sysctls(&config, &mut out),
        Some(Command::ReleaseHooks) => {
            let said = match keep::release(&opening::pins(&config))? {
                true => "removed: what ends until the node starts again is not seen",
                false => "nothing to remove: no hook of this node waits in the kernel",
            };
            writeln!(out, "{said}")?;
            Ok(())
        }
        Some(Command::Version | Command::Join(_)) => Ok(()),
        None => {
            drop(out);
            let log = daemon::log::init(&config.log)?;
            let load = Box::new(move || {
                let (general, flags) = (&cli.general, cli.flags());
                Config::load(general.config.as_deref(), &surroundings, flags, general.debug)
            });
            run::run(config, Origin { raw, load, log })
        }
    }
}

fn restore_sysctls(config: &Config, out: &mut dyn Write) -> anyhow::Result<()> {
    let boot = clock::boot_id().context("the boot id cannot be read from /proc")?;
    let restored = sysctl::restore(&config.state_dir, boot)?;
    for change in &restored.restored {
        writeln!(out, "{} = {} (was {})", change.key, change.to, change.from)?;
    }
    for (netns, key) in &restored.foreign {
        writeln!(out, "{key}: changed by somebody else since (namespace {}), left alone", netns.0)?;
    }
    if restored.restored.is_empty() && restored.foreign.is_empty() {
        writeln!(out, "nothing to restore: no original of this boot is on record")?;
    }
    match restored.failed.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
