//! The list of serials as the running aggregator sees it: looked up in every handshake, reloaded
//! without a restart.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flow::NodeName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::peer::Peer;
use crate::pki::{ISSUED, IssuedFile, PkiError, Serial};

/// Why the list could not be (re)loaded; the list before stays in force.
#[derive(Debug, thiserror::Error)]
#[error("the list of issued certificates was not loaded; the one before stays in force")]
pub struct IssuedError {
    /// What is wrong with it.
    #[from]
    source: PkiError,
}

/// Why a serial does not open the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialProblem {
    /// It was taken back.
    #[error("this node's certificate was revoked; `pki issue` gives it a new one")]
    Revoked,
    /// It was never issued here, or to another name.
    #[error("this certificate is not in the list of issued ones (pki/issued.json)")]
    Unknown,
}

/// Serials issued, and which of them are revoked. Sessions subscribe to its changes.
#[derive(Debug)]
pub struct IssuedList {
    dir: PathBuf,
    /// The file as it was when it was last read.
    seen: Mutex<Stamp>,
    serials: watch::Sender<Arc<Serials>>,
    metrics: IssuedMetrics,
}

/// What following the list counts; clones share the same figures.
#[derive(Clone, Debug, Default)]
pub struct IssuedMetrics {
    failures: Counter,
}

impl IssuedMetrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "conntracct_ingest_issued_reload_failures",
            "Times pki/issued.json could not be read again. The list before stays in force: repair \
             the file, or revocations do not work",
            self.failures.clone(),
        );
    }
}

type Serials = HashMap<Serial, (NodeName, bool)>;

/// What changes whenever the file is replaced: inode, time of change, length.
type Stamp = Option<(u64, i64, i64, u64)>;

impl IssuedList {
    /// How often [`IssuedList::follow`] looks at the file.
    pub const LOOK_EVERY: Duration = Duration::from_secs(2);

    /// Reads the list of the authority in `dir`.
    ///
    /// # Errors
    /// When it is missing, unreadable or damaged.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let seen = Mutex::new(stamp(dir));
        let (serials, _) = watch::channel(Arc::new(read(dir)?));
        Ok(Self { dir: dir.to_owned(), seen, serials, metrics: IssuedMetrics::default() })
    }

    /// Reads it again; sessions whose serial is no longer good close at once. Whether anything has
    /// changed since it was last read.
    ///
    /// # Errors
    /// When it cannot be read: the list before stays in force.
    pub fn reload(&self) -> Result<bool, IssuedError> {
        *self.seen() = stamp(&self.dir);
        let fresh = read(&self.dir).inspect_err(|_| {
            self.metrics.failures.inc();
        })?;
        Ok(self.serials.send_if_modified(|serials| {
            let changed = **serials != fresh;
            *serials = Arc::new(fresh);
            changed
        }))
    }

    /// Whether a certificate opens the door now. A serial that is not known makes it look at the
    /// file once more, so that a bundle works as soon as it is issued.
    ///
    /// # Errors
    /// When it was revoked, or was never issued to that name.
    pub fn check(&self, peer: &Peer) -> Result<(), SerialProblem> {
        match self.look_up(peer) {
            Err(SerialProblem::Unknown) if self.catch_up() => self.look_up(peer),
            known => known,
        }
    }

    fn look_up(&self, peer: &Peer) -> Result<(), SerialProblem> {
        match self.serials.borrow().get(&peer.serial) {
            Some((name, revoked)) if *name == peer.node => {
                if *revoked {
                    Err(SerialProblem::Revoked)
                } else {
                    Ok(())
                }
            }
            _ => Err(SerialProblem::Unknown),
        }
    }

    /// Reloads the list if its file has changed; whether there is a new one.
    fn catch_up(&self) -> bool {
        if stamp(&self.dir) == *self.seen() {
            return false;
        }
        match self.reload() {
            Ok(_) => {
                tracing::info!(certificates = self.len(), "issued list reloaded");
                true
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, "issued list not reloaded");
                false
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Stamp> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its metrics, to be registered once.
    #[must_use]
    pub const fn metrics(&self) -> &IssuedMetrics {
        &self.metrics
    }

    /// Certificates listed, revoked ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.serials.borrow().len()
    }

    /// Whether no certificate was ever issued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reloads the list whenever its file changes, until the future is dropped.
    pub async fn follow(&self) {
        let mut look = tokio::time::interval(Self::LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.catch_up();
        }
    }

    /// Wakes its holder at every reload.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.serials.subscribe())
    }
}

/// Told of every reload of an [`IssuedList`].
#[derive(Debug)]
pub(crate) struct Changes(watch::Receiver<Arc<Serials>>);

impl Changes {
    /// Waits for the next reload; for ever once the list is gone.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn read(dir: &Path) -> Result<Serials, PkiError> {
    let list = IssuedFile::load(dir)?;
    Ok(list
        .certificates
        .into_iter()
        .map(|c| (c.serial, (c.name, c.revoked_at.is_some())))
        .collect())
}

fn stamp(dir: &Path) -> Stamp {
    let meta = fs::metadata(dir.join(ISSUED)).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}
