//! Day partitions: which ones a change set needs, and making them.
//!
//! They are made before the transaction that fills them, in one of their own, a few days ahead, so
//! that midnight costs nothing and a late row's day is there when its row comes. Which rows may be
//! that late is the counter's decision: what is older than the horizon is stray and lies outside.
//!
//! A partition is made as a table and then attached: that takes a lock on its parent that readers
//! and writers do not mind, where `CREATE TABLE ... PARTITION OF` would wait for every reader and
//! make every later one wait (ALTER TABLE in PostgreSQL's manual, `ATTACH PARTITION`).

use std::collections::BTreeSet;

use flow::UnixNanos;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use crate::store::CommitError;
use crate::store::row::ChangeSet;

/// A day in UTC, by its number since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(i64);

impl Day {
    /// The day of a moment.
    pub(super) const fn of(time: UnixNanos) -> Self {
        Self(time.0.div_euclid(NANOS_PER_DAY))
    }

    const fn plus(self, days: i64) -> Self {
        Self(self.0 + days)
    }

    /// `20261122`
    fn compact(self) -> String {
        let (year, month, day) = self.civil();
        format!("{year:04}{month:02}{day:02}")
    }

    /// Its first moment, as PostgreSQL reads it.
    fn begin(self) -> String {
        let (year, month, day) = self.civil();
        format!("{year:04}-{month:02}-{day:02} 00:00:00+00")
    }

    /// Year, month, day of the Gregorian calendar. Times of nanoseconds lie between 1677 and 2262.
    fn civil(self) -> (i16, i8, i8) {
        let days = i32::try_from(self.0).unwrap_or_default();
        let epoch = jiff::civil::date(1970, 1, 1);
        let date = epoch.saturating_add(jiff::Span::new().days(days));
        (date.year(), date.month(), date.day())
    }
}

const NANOS_PER_DAY: i64 = 86_400_000_000_000;

/// Days made ahead of the newest receipt.
const AHEAD: i64 = 2;

/// The most days one change set may need that are not there: more than the longest horizon that
/// can be configured, and a bound all the same.
const MAX_NEW: usize = 128;

/// Tables that have a partition a day.
const PARENTS: [&str; 2] = ["flow", "ingest_batch"];

/// The days whose partitions are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Days(BTreeSet<Day>);

impl Days {
    /// The days that must be made before `set` is committed.
    ///
    /// # Errors
    /// When they are too many to be believed.
    pub(super) fn missing(&self, set: &ChangeSet) -> Result<Vec<Day>, CommitError> {
        let mut missing = BTreeSet::new();
        // Rows of one set mostly share a day.
        let mut last = None;
        let mut need = |day: Day, missing: &mut BTreeSet<Day>| {
            if last != Some(day) {
                last = Some(day);
                if !self.0.contains(&day) {
                    missing.insert(day);
                }
            }
        };
        for row in set.flows.iter().filter(|row| row.stray.is_none()) {
            need(Day::of(row.time), &mut missing);
        }
        for row in &set.batches {
            need(Day::of(row.received), &mut missing);
        }
        if let Some(newest) = set.batches.iter().map(|row| row.received).max() {
            for ahead in 1..=AHEAD {
                need(Day::of(newest).plus(ahead), &mut missing);
            }
        }
        if missing.len() > MAX_NEW {
            let reason = format!("its rows lie on {} days that nobody expected", missing.len());
            return Err(CommitError::Data { frame: None, reason });
        }
        Ok(missing.into_iter().collect())
    }

    /// Today and the days ahead of it, as far as they are not there.
    pub(super) fn missing_from(&self, now: UnixNanos) -> Vec<Day> {
        let today = Day::of(now);
        (0..=AHEAD).map(|ahead| today.plus(ahead)).filter(|day| !self.0.contains(day)).collect()
    }

    /// Forgets what it knows: [`Days::make`] looks again.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Makes the partitions of `days` that are not there, in a transaction of its own.
    ///
    /// # Errors
    /// What the database says; nothing was made then. The connection must not be used any more.
    pub(super) async fn make(
        &mut self,
        connection: &mut PgConnection,
        days: &[Day],
    ) -> Result<(), sqlx::Error> {
        execute(connection, "BEGIN".to_owned()).await?;
        // One process makes them at a time; the lock goes with the transaction.
        execute(connection, format!("SELECT pg_advisory_xact_lock({MAKING})")).await?;
        for parent in PARENTS {
            let (schema, there) = partitions(connection, parent).await?;
            for day in days {
                let name = format!("{parent}_p{}", day.compact());
                if there.contains(&name) {
                    continue;
                }
                let (from, to) = (day.begin(), day.plus(1).begin());
                execute(connection, format!("CREATE TABLE {schema}.{name} (LIKE {parent})"))
                    .await?;
                execute(
                    connection,
                    format!(
                        "ALTER TABLE {parent} ATTACH PARTITION {schema}.{name} \
                         FOR VALUES FROM ('{from}') TO ('{to}')"
                    ),
                )
                .await?;
            }
        }
        execute(connection, "COMMIT".to_owned()).await?;
        self.0.extend(days);
        Ok(())
    }
}

/// Key of the advisory lock under which partitions are made: the letters "ctrpart".
const MAKING: i64 = 0x63_74_72_70_61_72_74;

/// The parent's schema, quoted, and its partitions' names.
async fn partitions(
    connection: &mut PgConnection,
    parent: &'static str,
) -> Result<(String, BTreeSet<String>), sqlx::Error> {
    let row = sqlx::query(
        "SELECT quote_ident(n.nspname), array(SELECT c.relname::text FROM pg_inherits i \
         JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = p.oid) \
         FROM pg_class p JOIN pg_namespace n ON n.oid = p.relnamespace \
         WHERE p.oid = $1::text::regclass",
    )
    .bind(parent)
    .fetch_one(connection)
    .await?;
    let names: Vec<String> = row.try_get(1)?;
    Ok((row.try_get(0)?, names.into_iter().collect()))
}

/// Runs a statement made of constants, days and quoted names.
async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_done| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::{Epoch, Seq};

    fn at(day: i64) -> UnixNanos {
        UnixNanos(day * NANOS_PER_DAY)
    }

    fn batch(received: UnixNanos) -> crate::store::row::BatchRow {
        use crate::store::row::{BatchRow, FrameName, NodeNo};
        let name = FrameName { node: NodeNo(1), epoch: Epoch([1; 16]), seq: Seq(1) };
        let clock = flow::record::ClockPair {
            boot: flow::BootNanos(0),
            wall: received,
            synchronised: true,
            stepped: false,
        };
        let interval = flow::Interval {
            number: 1,
            length_ms: 1,
            part: 1,
            parts: 1,
            sweep_begin: flow::BootNanos(0),
            sweep_end: flow::BootNanos(0),
            boot: flow::BootId([1; 16]),
            clock,
            offset: None,
            totals: flow::record::KernelTotals::default(),
            paused: false,
        };
        BatchRow { name, digest: wire::frame::Digest([0; 32]), received, records: 0, interval }
    }

    #[test]
    fn days_begin_at_midnight_in_utc() {
        assert_eq!(Day::of(UnixNanos(0)).compact(), "19700101");
        assert_eq!(Day::of(UnixNanos(-1)).compact(), "19691231");
        assert_eq!(Day::of(UnixNanos(1_700_000_000_000_000_000)).begin(), "2023-11-14 00:00:00+00");
        assert_eq!(Day::of(UnixNanos(951_827_696_000_000_000)).compact(), "20000229");
        assert_eq!(Day::of(UnixNanos(i64::MAX)).plus(1).compact(), "22620412");
        assert_eq!(Day::of(UnixNanos(i64::MIN)).compact(), "16770921");
    }

    #[test]
    fn a_set_needs_its_days_and_those_ahead() {
        let set = ChangeSet { batches: vec![batch(at(100))], ..ChangeSet::default() };
        let mut days = Days::default();
        let all = vec![Day(100), Day(101), Day(102)];
        assert_eq!(days.missing(&set).unwrap(), all);
        assert_eq!(days.missing_from(at(100)), all);
        days.0.extend(&all);
        assert_eq!(days.missing(&set).unwrap(), []);
        days.forget();
        assert_eq!(days.missing(&set).unwrap(), all);
        assert_eq!(days.missing(&ChangeSet::default()).unwrap(), []);
    }

    #[test]
    fn a_set_cannot_have_partitions_made_without_bound() {
        let batches = (0..200).map(|day| batch(at(day * 3))).collect();
        let set = ChangeSet { batches, ..ChangeSet::default() };
        assert!(matches!(Days::default().missing(&set), Err(CommitError::Data { .. })));
    }
}
