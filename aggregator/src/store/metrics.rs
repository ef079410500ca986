//! Metrics of the store.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::CommitError;

daemon::closed_label! {
    /// What became of a transaction.
    pub enum CommitOutcome {
        /// Committed.
        Committed = "committed",
        /// Another writer took over.
        OtherWriter = "other_writer",
        /// The database is another than it was left.
        SetBack = "set_back",
        /// Not where the set begins.
        Conflict = "conflict",
        /// The store was away.
        Unavailable = "unavailable",
        /// Sent, and not known what became of it.
        Unknown = "unknown",
        /// A value could not be stored.
        Data = "data",
    }
}

impl CommitOutcome {
    /// The outcome of a commit.
    #[must_use]
    pub const fn of(result: &Result<(), CommitError>) -> Self {
        match result {
            Ok(()) => Self::Committed,
            Err(CommitError::OtherWriter) => Self::OtherWriter,
            Err(CommitError::SetBack) => Self::SetBack,
            Err(CommitError::Conflict { .. }) => Self::Conflict,
            Err(CommitError::Unavailable(_)) => Self::Unavailable,
            Err(CommitError::Unknown(_)) => Self::Unknown,
            Err(CommitError::Data { .. }) => Self::Data,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: CommitOutcome,
}

/// Counts and times of transactions.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    commits: Family<OutcomeLabel, Counter>,
    rows: Counter,
    seconds: Histogram,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            commits: daemon::label::present(
                CommitOutcome::ALL.iter().map(|&outcome| OutcomeLabel { outcome }),
            ),
            rows: Counter::default(),
            seconds: Histogram::new([
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ]),
        }
    }
}

impl StoreMetrics {
    /// Adds them to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("conntracct_store");
        registry.register(
            "commits",
            "Transactions, by outcome. unavailable or unknown: see /readyz and the database; data: \
             a node sends what no store can keep, see the log; other_writer: a second aggregator \
             runs on this store; set_back: a backup was restored under it",
            self.commits.clone(),
        );
        registry.register(
            "rows",
            "Flow rows committed. The load on the database; its rate against that of records \
             taken in tells whether the store keeps up",
            self.rows.clone(),
        );
        registry.register(
            "commit_seconds",
            "Time of a transaction, from its first statement to the end of COMMIT. Above 0.25 s \
             for long: the disk is slow, or larger transactions are needed \
             (limits.transaction_rows)",
            self.seconds.clone(),
        );
    }

    /// Notes one transaction over `rows` flow rows.
    pub fn transaction(&self, result: &Result<(), CommitError>, rows: usize, took: Duration) {
        let outcome = CommitOutcome::of(result);
        self.commits.get_or_create(&OutcomeLabel { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
        if result.is_ok() {
            self.rows.inc_by(u64::try_from(rows).unwrap_or(u64::MAX));
        }
    }
}
