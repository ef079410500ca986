//! `cargo xtask dashboards`: every query of every dashboard in `grafana/dashboards`, expanded as
//! Grafana would, run on a real PostgreSQL and held against what is stored there.
//!
//! The store is one of our own with a day of generated traffic, or, with `--url`, any other, such
//! as one that a lab filled. A query fails by an SQL error, an empty answer, a panel that does
//! not add up to the stored bytes ([`laws`]), or by touching days outside its range.

mod dashboard;
mod expand;
mod laws;
mod psql;
mod ranges;
mod report;
mod server;
mod stored;

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

pub(crate) use self::dashboard::DATA_SOURCE;
use self::dashboard::{Dashboard, Kind, Query};
use self::expand::{Range, Value, Values, expand};
use self::psql::Psql;
use self::ranges::{Case, cases};
use self::report::Report;
use self::server::Server;
use self::stored::Stored;
use crate::{packages, workspace};

/// Flags of `cargo xtask dashboards`.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Check against this store instead of a generated one: postgres://...
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Flows of the generated day; each has about ten rows
    #[arg(long, default_value_t = DAY_FLOWS, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    flows: u32,
    /// Install missing system packages without asking (as root)
    #[arg(long)]
    yes: bool,
}

/// Flows of a day: 1.3 million rows.
const DAY_FLOWS: u32 = 120_000;

/// Flows of the day that every change is checked with.
const FEW_FLOWS: u32 = 5_000;

/// Runs it.
///
/// # Errors
/// PostgreSQL is missing or does not start, or a query is wrong; all that are have been printed.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    packages::ensure(&[packages::TESTS], flags.yes)?;
    let dashboards = dashboards()?;
    match &flags.url {
        Some(url) => check(&dashboards, &Psql::url(url)),
        None => check_generated(&dashboards, flags.flows),
    }
}

/// The same with a small day, as a step of `cargo xtask test`.
pub(crate) fn check_few() -> Result<()> {
    check_generated(&dashboards()?, FEW_FLOWS)
}

/// The same with a whole day.
pub(crate) fn check_day() -> Result<()> {
    check_generated(&dashboards()?, DAY_FLOWS)
}

fn dashboards() -> Result<Vec<Dashboard>> {
    let dashboards = dashboard::read_all(&workspace::root().join("grafana/dashboards"))?;
    for query in dashboards.iter().flat_map(|dashboard| &dashboard.queries) {
        laws::of(&query.panel)?;
    }
    Ok(dashboards)
}

fn check_generated(dashboards: &[Dashboard], flows: u32) -> Result<()> {
    let server = Server::start()?;
    let (writer, reader) = (server.psql("conntracct")?, server.psql("grafana")?);
    // A slow machine is no error in a query.
    let reader = reader.with("PGOPTIONS", "-c statement_timeout=0");
    let migrations = workspace::root().join("migrations/postgres");
    let mut files = fs::read_dir(&migrations)
        .with_context(|| format!("could not list {}", migrations.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    let partitions = writer.clone().with("PGOPTIONS", "-c conntracct.layout=partitions");
    for file in files {
        let sql = fs::read_to_string(&file)?;
        partitions.script(&sql, &[]).with_context(|| file.display().to_string())?;
    }
    check_empty(dashboards, &reader).context("on a store that is still empty")?;
    let begun = Instant::now();
    writer.script(DAY, &[("flows", &flows.to_string())]).context("generating a day")?;
    eprintln!("a day of {flows} flows generated in {:.1} s", begun.elapsed().as_secs_f64());
    check(dashboards, &reader)?;
    check_pruning(dashboards, &reader)?;
    server.stop()
}

/// A day of traffic, and the days' partitions around it.
const DAY: &str = include_str!("day.sql");

/// The first look at a new installation: no rows, but no errors either.
fn check_empty(dashboards: &[Dashboard], psql: &Psql) -> Result<()> {
    let range = Range { from: 1_790_000_000_000, to: 1_790_021_600_000, step: 20_000 };
    for dashboard in dashboards {
        for query in &dashboard.queries {
            let sql = expand(&query.sql, range, &all(dashboard))?;
            psql.answer(&sql).with_context(|| query.panel.clone())?;
        }
    }
    Ok(())
}

fn check(dashboards: &[Dashboard], psql: &Psql) -> Result<()> {
    let begun = Instant::now();
    let stored = Stored::read(psql)?;
    let (rows, seconds) = (stored.len(), begun.elapsed().as_secs_f64());
    eprintln!("{rows} rows of flow read in {seconds:.1} s, to be held against the panels");
    let mut wrong = 0;
    for dashboard in dashboards {
        let mut report = Report::new(&dashboard.title);
        for case in cases(dashboard, psql, &stored)? {
            let sums = stored.sums(case.range, &case.chosen);
            ensure!(sums.rows > 0 || case.may_be_empty, "{}: nothing is stored there", case.name);
            if case.is_everything {
                ensure!(
                    (sums.counted, sums.seen) == stored.bytes(),
                    "a range around everything holds {sums:?}, in all there are {:?}",
                    stored.bytes()
                );
            }
            for query in &dashboard.queries {
                let begun = Instant::now();
                let outcome = run_one(query, &case, psql);
                let took = begun.elapsed();
                let rows = outcome.as_ref().map_or(0, |answer| answer.rows.len());
                let outcome = outcome
                    .and_then(|answer| laws::of(&query.panel)?.check(&answer, case.range, &sums));
                if let Err(error) = &outcome {
                    wrong += 1;
                    eprintln!("{}: {}: {error:#}", case.name, query.panel);
                }
                report.add(&query.panel, rows, took, outcome.is_ok());
            }
        }
        report.print();
    }
    if wrong > 0 {
        bail!("{wrong} answers are wrong (see above)");
    }
    Ok(())
}

fn run_one(query: &Query, case: &Case, psql: &Psql) -> Result<psql::Answer> {
    psql.answer(&expand(&query.sql, case.range, &case.values)?)
}

/// No query may touch days that its range cannot need: those before it, and those further behind
/// it than growth is looked for.
fn check_pruning(dashboards: &[Dashboard], psql: &Psql) -> Result<()> {
    let days = psql.answer(
        "SELECT relid::text, (replace(relid::text, 'flow_p', '')::date - date 'epoch')::int8
         FROM pg_partition_tree('flow') WHERE isleaf",
    )?;
    // Five minutes at noon of the second day.
    let day = days.rows.iter().map(|row| Ok(row[1].parse()?)).collect::<Result<Vec<i64>>>()?;
    let second = day.iter().min().context("flow has no partition")? + 1;
    let from = (second * 86_400 + 43_200) * 1000;
    let range = Range { from, to: from + 300_000, step: 10_000 };
    let needed = second..=second + 8;
    ensure!(day.iter().any(|day| day > needed.end()), "no day is late enough to be left out");
    for dashboard in dashboards {
        for query in &dashboard.queries {
            let sql = expand(&query.sql, range, &all(dashboard))?;
            let plan = psql.answer(&format!("EXPLAIN (COSTS OFF) {sql}"))?;
            let plan = plan.rows.concat().join("\n");
            for (row, day) in days.rows.iter().zip(&day) {
                let touched = plan.contains(&format!(" on {} ", row[0]));
                ensure!(
                    touched == needed.contains(day),
                    "{}: of five minutes, the plan {} the day {}:\n{plan}",
                    query.panel,
                    if touched { "reads" } else { "leaves out" },
                    row[0]
                );
            }
        }
    }
    Ok(())
}

/// Every variable at its widest.
fn all(dashboard: &Dashboard) -> Values {
    let widest = |kind: &Kind| match kind {
        Kind::Query { all, .. } | Kind::List { all, .. } => Value::All(all.clone()),
        Kind::Text { default } => Value::Typed(default.clone()),
    };
    dashboard.variables.iter().map(|v| (v.name.clone(), widest(&v.kind))).collect()
}
