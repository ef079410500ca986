//! The store of one run: what `--store` names, or a PostgreSQL server of the run's own.

use anyhow::{Context, Result};

/// A store; a server that was started for it ends when this is dropped.
pub(crate) struct Database {
    store: Option<String>,
    _server: Option<testdb::Server>,
}

/// What `--store` says for a server of the run's own.
const OWN: &str = "postgres";

impl Database {
    /// The store that `--store` names. The thread that calls this must outlive the run.
    pub(crate) fn of(store: Option<&str>) -> Result<Self> {
        if store != Some(OWN) {
            return Ok(Self { store: store.map(str::to_owned), _server: None });
        }
        let server = testdb::Server::start().context("starting PostgreSQL")?;
        Ok(Self { store: Some(server.url()), _server: Some(server) })
    }

    /// It as the aggregator's flag; nothing where that is left to the aggregator's folder.
    pub(crate) fn store(&self) -> Option<&str> {
        self.store.as_deref()
    }
}
