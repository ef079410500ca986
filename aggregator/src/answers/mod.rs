//! Answers on the command line: `report` and `flows`, read from the store.
//!
//! The store is opened for reading only, beside a running aggregator or without one. What is
//! summed are the counted columns, so a flow that several gateways saw is in a report once.
//! A row belongs to the moment its growth had ended (`time`); rows with an impossible time are
//! in no answer, and an answer says how many were left out.

mod ask;
mod flows;
mod postgres;
mod print;
mod progress;
mod reader;
mod report;
mod sqlite;

use std::io::Write;

use daemon::table::Screen;
use jiff::Timestamp;

use crate::cli::{FlowsArgs, ReportArgs};
use crate::config::StoreChoice;
use crate::store::OpenError;

pub use ask::AskError;
pub(crate) use ask::time;
pub(crate) use reader::Reader;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// There is no store.
    #[error(
        "there is no store at {store}: start conntracct-aggregator once, or name the store with \
         --store"
    )]
    Missing {
        /// Where it was looked for.
        store: String,
    },
    /// It was made by another version of the program.
    #[error(
        "the store {store} has schema {found}, this program reads {known}: {}",
        if found > known { "use the newer program that made it" }
        else { "bring it up to date with conntracct-aggregator migrate" }
    )]
    Schema {
        /// The store.
        store: String,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// It cannot be read.
    #[error("the store {store} cannot be read")]
    Store {
        /// The store.
        store: String,
        /// What the database said.
        #[source]
        error: sqlx::Error,
    },
    /// It cannot be reached.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The question makes no sense.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answer cannot be written.
    #[error("the answer cannot be written")]
    Write(#[from] std::io::Error),
}

/// Who moved how much: prints a report to `out`.
///
/// # Errors
/// See [`AnswerError`].
pub async fn report(
    args: &ReportArgs,
    store: &StoreChoice,
    now: Timestamp,
    screen: Screen,
    out: &mut (dyn Write + Send),
) -> Result<(), AnswerError> {
    let span = ask::span(&args.when, now)?;
    let reader = Reader::open(store).await?;
    let what = format!("adding up {}", span.words(now));
    let answer = progress::shown(&what, reader.report(args.by, span, args.top)).await?;
    report::print(&answer, args, screen, out)?;
    strays(&reader, span).await
}

/// Stored flows, or with `--follow` records as they are stored: prints them to `out`.
///
/// # Errors
/// See [`AnswerError`].
pub async fn flows(
    args: &FlowsArgs,
    store: &StoreChoice,
    now: Timestamp,
    screen: Screen,
    out: &mut (dyn Write + Send),
) -> Result<(), AnswerError> {
    let reader = Reader::open(store).await?;
    let which = ask::which(&args.which, reader.nodes().numbers())?;
    if args.follow {
        return flows::follow(&reader, &which, args.format, out).await;
    }
    let span = ask::span(&args.when, now)?;
    let what = format!("reading flows of {}", span.words(now));
    let mut answer = progress::shown(&what, reader.flows(&which, span, args.limit)).await?;
    if args.observers {
        let paths: Vec<i64> = answer.lines.iter().map(|line| line.path).collect();
        let seen =
            progress::shown("reading what each observer saw", reader.observers(&paths, span));
        answer = answer.with_observers(seen.await?);
    }
    flows::print(&answer, args, screen, out)?;
    strays(&reader, span).await
}

/// Says what no answer contains.
async fn strays(reader: &Reader, span: ask::Span) -> Result<(), AnswerError> {
    let strays = reader.strays(span).await?;
    if strays > 0 {
        progress::say(&format!(
            "{strays} records received in that time carry impossible times (a clock was wrong); \
             they are in the table flow_stray and not in this answer"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
