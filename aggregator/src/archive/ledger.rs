//! What a store has taken in by imports: one entry of `store_meta` each, written before its first
//! row. It says whose rows those are, so that none come twice by another way.
//!
//! The rule: what a store holds of a node comes from imports of one other store, of times that do
//! not overlap, and then from the node itself; never from both in another order, and never from
//! two stores, because the same growth may be in either.

use std::collections::{BTreeMap, BTreeSet};

use flow::Epoch;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Row};

use super::manifest::Manifest;
use crate::config::StoreChoice;
use crate::store::row::Loaded;
use crate::store::{OpenError, StoreError};

/// What is kept of one import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    /// The store it was exported from.
    pub(super) store: String,
    pub(super) after: Timestamp,
    pub(super) until: Timestamp,
    pub(super) rows: u64,
    pub(super) nodes: BTreeSet<String>,
    /// Whether all of it is there.
    pub(super) whole: bool,
}

/// Why rows are not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// They came from here.
    #[error(
        "this export was made of this very store, {store}, whose rows may all be there still; to \
         look at it import it into a store of its own, with --store sqlite:archive.db"
    )]
    Own {
        /// The store.
        store: String,
    },
    /// It is there already.
    #[error("this export, {id}, is in this store already, all {rows} rows of it")]
    Again {
        /// The export.
        id: String,
        /// Its rows.
        rows: u64,
    },
    /// The node has delivered here.
    #[error(
        "this store has counted the node {node} itself, so that its rows might be counted twice; \
         import into a store to which the node has not been connected, like --store sqlite:NEW.db"
    )]
    Counted {
        /// The node.
        node: String,
    },
    /// Another store's rows of the node are there.
    #[error(
        "this store holds rows of the node {node} from the store {other}, and these are from \
         {store}: the same growth may be in both; import into a store of its own, with --store \
         sqlite:NEW.db"
    )]
    Elsewhere {
        /// The node.
        node: String,
        /// Where the rows here came from.
        other: String,
        /// Where the new ones come from.
        store: String,
    },
    /// Rows of that time are there.
    #[error(
        "this store holds rows of the node {node} after {after} and up to {until} by another \
         export{}; import only exports whose times do not overlap",
        if *whole { "" } else { ", not all of which has arrived" }
    )]
    Overlap {
        /// The node.
        node: String,
        /// After when.
        after: Timestamp,
        /// Up to when.
        until: Timestamp,
        /// Whether that import has ended.
        whole: bool,
    },
}

/// All imports of a store, by the epoch each was committed as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger(BTreeMap<Epoch, Taken>);

const KEY: &str = "import:";

impl Ledger {
    /// Whether rows of `manifest` can be taken by a store that holds `loaded` and is called
    /// `own`; or else why not.
    pub(super) fn check(
        &self,
        manifest: &Manifest,
        own: &str,
        loaded: &Loaded,
    ) -> Result<(), LedgerError> {
        if manifest.store == own {
            return Err(LedgerError::Own { store: own.to_owned() });
        }
        let epoch = manifest.epoch().unwrap_or_default();
        if self.0.get(&epoch).is_some_and(|taken| taken.whole) {
            let (id, rows) = (manifest.id.clone(), manifest.sums.rows);
            return Err(LedgerError::Again { id, rows });
        }
        for node in &manifest.nodes {
            let number = loaded.nodes.iter().find(|row| row.name.as_str() == node);
            let counted = number.is_some_and(|row| {
                let mut epochs = loaded.epochs.iter().filter(|epoch| epoch.node == row.node);
                epochs.any(|epoch| !self.0.contains_key(&epoch.epoch))
            });
            if counted {
                return Err(LedgerError::Counted { node: node.clone() });
            }
            let others = self
                .0
                .iter()
                .filter(|(other, taken)| **other != epoch && taken.nodes.contains(node));
            for (_, taken) in others {
                let node = node.clone();
                if taken.store != manifest.store {
                    let (other, store) = (taken.store.clone(), manifest.store.clone());
                    return Err(LedgerError::Elsewhere { node, other, store });
                }
                if taken.after < manifest.until && manifest.after < taken.until {
                    let Taken { after, until, whole, .. } = *taken;
                    return Err(LedgerError::Overlap { node, after, until, whole });
                }
            }
        }
        Ok(())
    }
}

/// The ledger in a store.
pub(super) enum Keeper {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection),
}

impl Keeper {
    /// Connects to a store that is open.
    pub(super) async fn open(store: &StoreChoice) -> Result<Self, OpenError> {
        match store {
            StoreChoice::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(false)
                    .disable_statement_logging();
                let unavailable = |error: sqlx::Error| OpenError::Unavailable {
                    path: path.display().to_string(),
                    why: error.to_string(),
                };
                options.connect().await.map(Self::Sqlite).map_err(unavailable)
            }
            StoreChoice::Postgres(address) => {
                crate::store::postgres::session(address).await.map(Self::Postgres)
            }
        }
    }

    /// All that is there.
    pub(super) async fn read(&mut self) -> Result<Ledger, StoreError> {
        let text = "SELECT key, value FROM store_meta WHERE key LIKE 'import:%'";
        let pairs: Result<Vec<(String, String)>, sqlx::Error> = match self {
            Self::Sqlite(connection) => {
                let rows = sqlx::query(text).fetch_all(connection).await.map_err(failed)?;
                rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
            }
            Self::Postgres(connection) => {
                let rows = sqlx::query(text).fetch_all(connection).await.map_err(failed)?;
                rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
            }
        };
        let damaged = |key: &str| StoreError::Corrupt(format!("{key} in store_meta is damaged"));
        let mut ledger = Ledger::default();
        for (key, value) in pairs.map_err(failed)? {
            let epoch = key.strip_prefix(KEY).and_then(|epoch| epoch.parse().ok());
            let epoch = epoch.ok_or_else(|| damaged(&key))?;
            let taken = serde_json::from_str(&value).map_err(|_error| damaged(&key))?;
            ledger.0.insert(epoch, taken);
        }
        Ok(ledger)
    }

    /// Notes an import, begun or whole.
    pub(super) async fn note(
        &mut self,
        manifest: &Manifest,
        whole: bool,
    ) -> Result<(), StoreError> {
        let taken = Taken {
            store: manifest.store.clone(),
            after: manifest.after,
            until: manifest.until,
            rows: manifest.sums.rows,
            nodes: manifest.nodes.clone(),
            whole,
        };
        let key = format!("{KEY}{}", manifest.epoch().unwrap_or_default());
        let value = serde_json::to_string(&taken)
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let text = "INSERT INTO store_meta (key, value) VALUES ($1, $2) \
                    ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        match self {
            Self::Sqlite(connection) => {
                sqlx::query(text).bind(key).bind(value).execute(connection).await.map(|_done| ())
            }
            Self::Postgres(connection) => {
                sqlx::query(text).bind(key).bind(value).execute(connection).await.map(|_done| ())
            }
        }
        .map_err(failed)
    }

    pub(super) async fn close(self) {
        let _closed = match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        };
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use flow::{NodeName, Seq, StoreId, UnixNanos};
    use wire::frame::Digest;

    use super::super::manifest::Format;
    use super::*;
    use crate::store::row::{EpochRow, NodeNo, NodeRow};

    fn manifest(store: u8, from: i64, until: i64) -> Manifest {
        let times = [from, until].map(|second| Timestamp::from_second(second).unwrap());
        let mut manifest = Manifest::new(StoreId([store; 16]), Format::Csv, times, times[0]);
        manifest.nodes.insert("gw-1".into());
        manifest.seal().unwrap();
        manifest
    }

    fn ledger(of: &[(&Manifest, bool)]) -> Ledger {
        let taken = |(manifest, whole): &(&Manifest, bool)| {
            let taken = Taken {
                store: manifest.store.clone(),
                after: manifest.after,
                until: manifest.until,
                rows: 0,
                nodes: manifest.nodes.clone(),
                whole: *whole,
            };
            (manifest.epoch().unwrap(), taken)
        };
        Ledger(of.iter().map(taken).collect())
    }

    fn loaded(epochs: &[Epoch]) -> Loaded {
        let (node, name) = (NodeNo(3), NodeName::new("gw-1").unwrap());
        let at = UnixNanos(0);
        let epoch = |epoch: &Epoch| EpochRow {
            node,
            epoch: *epoch,
            committed: Seq(1),
            digest: Digest([0; 32]),
            begun: at,
            last_gap: None,
            sweep: None,
        };
        Loaded {
            nodes: vec![NodeRow { node, name, epoch: Epoch([0; 16]), epoch_since: at }],
            epochs: epochs.iter().map(epoch).collect(),
            ..Loaded::default()
        }
    }

    #[test]
    fn a_nodes_rows_come_from_one_place_and_once() {
        let (first, second) = (manifest(1, 0, 10), manifest(1, 10, 20));
        let nothing = Loaded::default();
        let own = StoreId([9; 16]).to_string();
        let check = |ledger: &Ledger, manifest: &Manifest, loaded: &Loaded| {
            ledger.check(manifest, &own, loaded)
        };
        let empty = Ledger::default();
        assert_eq!(check(&empty, &first, &nothing), Ok(()));
        assert!(matches!(
            check(&empty, &manifest(9, 0, 10), &nothing),
            Err(LedgerError::Own { .. })
        ));
        // Half of it is there: it is gone on with. All of it: not again.
        let imported = loaded(&[first.epoch().unwrap()]);
        assert_eq!(check(&ledger(&[(&first, false)]), &first, &imported), Ok(()));
        let taken = ledger(&[(&first, true)]);
        assert!(matches!(check(&taken, &first, &imported), Err(LedgerError::Again { .. })));
        // The next days of the same store; those before; some that overlap; those of another.
        assert_eq!(check(&taken, &second, &imported), Ok(()));
        assert_eq!(check(&ledger(&[(&second, true)]), &first, &nothing), Ok(()));
        let overlap = check(&taken, &manifest(1, 9, 20), &imported);
        assert!(matches!(overlap, Err(LedgerError::Overlap { .. })), "{overlap:?}");
        let elsewhere = check(&taken, &manifest(2, 10, 20), &imported);
        assert!(matches!(elsewhere, Err(LedgerError::Elsewhere { .. })), "{elsewhere:?}");
        // The node itself has delivered.
        let delivered = loaded(&[first.epoch().unwrap(), Epoch([5; 16])]);
        for (ledger, manifest) in [(&taken, &second), (&empty, &first)] {
            let counted = check(ledger, manifest, &delivered);
            assert!(matches!(counted, Err(LedgerError::Counted { .. })), "{counted:?}");
        }
        // Another node's rows are no matter.
        let mut other = manifest(2, 0, 10);
        other.nodes = BTreeSet::from(["gw-2".to_owned()]);
        other.seal().unwrap();
        assert_eq!(check(&taken, &other, &delivered), Ok(()));
    }
}
