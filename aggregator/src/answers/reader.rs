//! A store opened for questions, whichever it is.

use std::collections::BTreeMap;

use super::ask::{Span, Which};
use super::flows::{Chosen, FlowLine, News};
use super::report::Report;
use super::{AnswerError, postgres, sqlite};
use crate::cli::By;
use crate::config::StoreChoice;
use crate::store::SCHEMA_VERSION;

/// Asks a store. Every question has the same answer from each kind of store.
#[derive(Debug)]
pub(crate) enum Reader {
    Sqlite(sqlite::Reader),
    Postgres(postgres::Reader),
}

/// Up to where a store has been read by one who follows it.
#[derive(Clone, Debug)]
pub(super) enum Mark {
    /// The number of the last row.
    Row(i64),
    /// The last place in each partition.
    Places(postgres::Mark),
}

impl Reader {
    /// Opens the store and checks that this program can read it.
    pub(crate) async fn open(store: &StoreChoice) -> Result<Self, AnswerError> {
        Ok(match store {
            StoreChoice::Sqlite(path) => Self::Sqlite(sqlite::Reader::open(path).await?),
            StoreChoice::Postgres(address) => {
                Self::Postgres(postgres::Reader::open(address).await?)
            }
        })
    }

    /// The nodes that ever delivered.
    pub(super) fn nodes(&self) -> &Nodes {
        match self {
            Self::Sqlite(reader) => reader.nodes(),
            Self::Postgres(reader) => reader.nodes(),
        }
    }

    /// What was moved in `span`, by `by`, the largest `top` one by one.
    pub(super) async fn report(&self, by: By, span: Span, top: u32) -> Result<Report, AnswerError> {
        match self {
            Self::Sqlite(reader) => reader.report(by, span, top).await,
            Self::Postgres(reader) => reader.report(by, span, top).await,
        }
    }

    /// The flows of `which` with traffic in `span`, those with the latest first.
    pub(super) async fn flows(
        &self,
        which: &Which,
        span: Span,
        limit: u32,
    ) -> Result<Chosen, AnswerError> {
        match self {
            Self::Sqlite(reader) => reader.flows(which, span, limit).await,
            Self::Postgres(reader) => reader.flows(which, span, limit).await,
        }
    }

    /// What each observer saw of these paths in `span`.
    pub(super) async fn observers(
        &self,
        paths: &[i64],
        span: Span,
    ) -> Result<Vec<FlowLine>, AnswerError> {
        match self {
            Self::Sqlite(reader) => reader.observers(paths, span).await,
            Self::Postgres(reader) => reader.observers(paths, span).await,
        }
    }

    /// Where the store ends now.
    pub(super) async fn mark(&self) -> Result<Mark, AnswerError> {
        Ok(match self {
            Self::Sqlite(reader) => Mark::Row(reader.last_row().await?),
            Self::Postgres(reader) => Mark::Places(reader.mark().await?),
        })
    }

    /// Rows of `which` that came after `mark`, which moves on behind those looked at.
    pub(super) async fn news(&self, which: &Which, mark: &mut Mark) -> Result<News, AnswerError> {
        match (self, mark) {
            (Self::Sqlite(reader), Mark::Row(after)) => reader.news(which, after).await,
            (Self::Postgres(reader), Mark::Places(places)) => reader.news(which, places).await,
            // A mark of another kind of store: nothing of this one has been read.
            (reader, mark) => {
                *mark = reader.mark().await?;
                Ok(News { more: false, rows: Vec::new() })
            }
        }
    }

    /// How many rows that were received in `span` have an impossible time.
    pub(super) async fn strays(&self, span: Span) -> Result<i64, AnswerError> {
        match self {
            Self::Sqlite(reader) => reader.strays(span).await,
            Self::Postgres(reader) => reader.strays(span).await,
        }
    }
}

/// The nodes of a store, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nodes(BTreeMap<String, i64>);

impl Nodes {
    pub(super) fn new(numbers: BTreeMap<String, i64>) -> Self {
        Self(numbers)
    }

    /// Their numbers by name.
    pub(super) const fn numbers(&self) -> &BTreeMap<String, i64> {
        &self.0
    }

    /// A node's name.
    pub(super) fn name(&self, id: i64) -> String {
        let known = self.0.iter().find(|(_, known)| **known == id);
        known.map_or_else(|| format!("node {id}"), |(name, _)| name.clone())
    }
}

/// Whether this program reads a store of this schema.
pub(super) fn check_schema(store: &str, found: i64) -> Result<(), AnswerError> {
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    Err(AnswerError::Schema { store: store.to_owned(), found, known: SCHEMA_VERSION })
}
