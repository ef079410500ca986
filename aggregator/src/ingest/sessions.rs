//! The sessions of this process: the table, and how to end the one that is replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use flow::{Epoch, NodeName};
use quinn::Connection;
use tokio::sync::watch;

use super::IngestConfig;
use super::close::CloseReason;
use super::table::{Admission, NotAdmitted, SessionId, SessionTable};

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    table: SessionTable,
    next: u64,
    running: HashMap<SessionId, Running>,
}

#[derive(Debug)]
struct Running {
    connection: Connection,
    /// Closed when the session is over.
    over: watch::Receiver<()>,
}

/// A session's place in the table; given up when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    sessions: Arc<Sessions>,
    node: NodeName,
    id: SessionId,
    _over: watch::Sender<()>,
}

impl Sessions {
    pub(super) fn new(config: &IngestConfig) -> Self {
        let table = SessionTable::new(config.max_nodes, config.silence);
        Self(Mutex::new(Inner { table, next: 0, running: HashMap::new() }))
    }

    /// Lets a session in. One that it replaces is closed, and over when this returns: nothing of
    /// it reaches the pipeline afterwards.
    pub(super) async fn admit(
        self: &Arc<Self>,
        node: &NodeName,
        epoch: Epoch,
        connection: &Connection,
    ) -> Result<Seat, NotAdmitted> {
        let (seat, replaced) = self.sit_down(node, epoch, connection)?;
        if let Some(mut old) = replaced {
            old.connection.close(CloseReason::Replaced.code(), b"a newer session took over");
            while old.over.changed().await.is_ok() {}
        }
        Ok(seat)
    }

    fn sit_down(
        self: &Arc<Self>,
        node: &NodeName,
        epoch: Epoch,
        connection: &Connection,
    ) -> Result<(Seat, Option<Running>), NotAdmitted> {
        let mut inner = self.lock();
        let id = SessionId(inner.next);
        let admission = inner.table.admit(Instant::now(), node, epoch, id)?;
        inner.next += 1;
        let replaced = match admission {
            Admission::Fresh => None,
            Admission::Replaces(old) => inner.running.remove(&old),
        };
        let (over_sender, over) = watch::channel(());
        inner.running.insert(id, Running { connection: connection.clone(), over });
        let (sessions, node) = (self.clone(), node.clone());
        Ok((Seat { sessions, node, id, _over: over_sender }, replaced))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic aborts the process; nothing is ever left half done under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The node was heard.
    pub(super) fn heard(&self, now: Instant) {
        self.sessions.lock().table.heard(now, &self.node, self.id);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.sessions.lock();
        inner.running.remove(&self.id);
        inner.table.leave(&self.node, self.id);
    }
}
