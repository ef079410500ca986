//! The questions in SQL, for a PostgreSQL store, in a session that can only read.

use std::collections::BTreeMap;

use flow::Proto;
use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Postgres, QueryBuilder, Row, query};
use tokio::sync::Mutex;

use super::AnswerError;
use super::ask::{Span, Which};
use super::flows::{Chosen, FlowLine, News, line_of};
use super::reader::{Nodes, check_schema};
use super::report::{Key, Report, Sums, Top};
use crate::cli::By;
use crate::store::columns::{FLOW_COLUMNS, resolved_flow};
use crate::store::decode::{Cells, flow_row, from_micros};
use crate::store::postgres::{PostgresAddress, Time, session};
use crate::store::row::FlowRow;

/// A store opened for questions.
#[derive(Debug)]
pub(crate) struct Reader {
    url: String,
    connection: Mutex<PgConnection>,
    nodes: Nodes,
    /// What rows are read from.
    flow: String,
}

/// Where each partition of `flow` ended when it was last looked at, by the partition's number.
/// Rows are only ever added, by one process, and a table is read by place from any place on
/// without an index ("TID Range Scan").
#[derive(Clone, Debug, Default)]
pub(crate) struct Mark(BTreeMap<i64, String>);

impl Reader {
    /// Connects and checks that this program can read the store.
    pub(super) async fn open(address: &PostgresAddress) -> Result<Self, AnswerError> {
        let url = address.url().to_owned();
        let mut connection = session(address).await?;
        let failed = |error| AnswerError::Store { store: url.clone(), error };
        sqlx::raw_sql(READING).execute(&mut connection).await.map_err(failed)?;
        let there: bool = query("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&mut connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed)?;
        if !there {
            return Err(AnswerError::Missing { store: url });
        }
        let found = query("SELECT coalesce(max(version), 0) FROM _sqlx_migrations");
        let found = found.fetch_one(&mut connection).await.and_then(|row| row.try_get(0));
        check_schema(&url, found.map_err(failed)?)?;
        let nodes = query("SELECT name, id::int8 FROM node").fetch_all(&mut connection).await;
        let nodes = nodes.map_err(failed)?;
        let nodes = nodes.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        let nodes = Nodes::new(nodes.collect::<Result<_, sqlx::Error>>().map_err(failed)?);
        let aliases = query("SELECT EXISTS (SELECT 1 FROM path_alias)");
        let aliases = aliases.fetch_one(&mut connection).await.and_then(|row| row.try_get(0));
        let flow = resolved_flow(aliases.map_err(failed)?);
        Ok(Self { url, connection: Mutex::new(connection), nodes, flow })
    }

    /// For questions of others.
    pub(crate) const fn connection(&self) -> &Mutex<PgConnection> {
        &self.connection
    }

    /// The nodes that ever delivered.
    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// What was moved in `span`, by `by`, the largest `top` one by one.
    pub(super) async fn report(&self, by: By, span: Span, top: u32) -> Result<Report, AnswerError> {
        let mut connection = self.connection.lock().await;
        // Both questions must see the same rows.
        self.run(&mut connection, "BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        let (columns, group) = match by {
            By::Src => ("src", "src"),
            By::Dst => ("dst", "dst"),
            By::Port => (SERVICE, "1, 2"),
            By::Proto => ("proto", "proto"),
            By::Node => ("node", "node"),
        };
        let mut query = QueryBuilder::<Postgres>::new("SELECT ");
        query.push(columns).push(", ").push(SUMS).push(" FROM ").push(&self.flow);
        within(&mut query, span);
        query.push(" GROUP BY ").push(group);
        let mut largest = Top::new(by, usize::try_from(top).unwrap_or(usize::MAX));
        let mut rows = query.build().fetch(&mut *connection);
        while let Some(row) = rows.try_next().await.map_err(|error| self.failed(error))? {
            let line = self.key(by, &row).and_then(|key| Ok((key, sums(&row)?)));
            let (key, sums) = line.map_err(|error| self.failed(error))?;
            largest.add(key, sums);
        }
        drop(rows);
        let mut query = QueryBuilder::<Postgres>::new("SELECT count(DISTINCT path) FROM ");
        query.push(&self.flow);
        within(&mut query, span);
        let flows = query.build_query_scalar().fetch_one(&mut *connection).await;
        let flows = flows.map_err(|error| self.failed(error))?;
        self.run(&mut connection, "COMMIT").await?;
        Ok(largest.finish(flows))
    }

    /// The flows of `which` with traffic in `span`, those with the latest first.
    pub(super) async fn flows(
        &self,
        which: &Which,
        span: Span,
        limit: u32,
    ) -> Result<Chosen, AnswerError> {
        let mut query = QueryBuilder::<Postgres>::new(
            "WITH chosen AS MATERIALIZED (SELECT path AS c_path, max(time) AS c_last, \
             array_agg(DISTINCT node) AS c_nodes, ",
        );
        query.push(SUMS).push(" FROM ").push(&self.flow);
        within(&mut query, span);
        matching(&mut query, which);
        query.push(" GROUP BY path ORDER BY c_last DESC, path LIMIT ");
        // One more says whether there are more.
        query.push_bind(i64::from(limit) + 1);
        // Plain columns are those of the row that has the latest time.
        query.push(") SELECT DISTINCT ON (c_last, c_path) ").push(FLOW_COLUMNS);
        query.push(", c_nodes").push(SUM_NAMES);
        query.push(" FROM chosen JOIN ").push(&self.flow);
        query.push(" ON path = c_path AND time = c_last");
        within(&mut query, span);
        matching(&mut query, which);
        query.push(" ORDER BY c_last DESC, c_path, entry");
        let mut connection = self.connection.lock().await;
        let rows = query.build().fetch_all(&mut *connection).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        let lines = rows.iter().map(|row| self.flow_line(row)).collect::<Result<Vec<_>, _>>();
        let mut lines = lines.map_err(|error| self.failed(error))?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = lines.len() > limit;
        lines.truncate(limit);
        Ok(Chosen { lines, more })
    }

    /// What each observer saw of these paths in `span`.
    pub(super) async fn observers(
        &self,
        paths: &[i64],
        span: Span,
    ) -> Result<Vec<FlowLine>, AnswerError> {
        let mut query = QueryBuilder::<Postgres>::new(
            "WITH chosen AS MATERIALIZED (SELECT path AS c_path, entry AS c_entry, \
             max(time) AS c_last, array_agg(DISTINCT node) AS c_nodes, ",
        );
        query.push(SUMS).push(" FROM ").push(&self.flow);
        within(&mut query, span);
        query.push(" AND path = ANY (").push_bind(paths.to_vec());
        query.push(") GROUP BY path, entry) SELECT DISTINCT ON (c_path, c_entry) ");
        query.push(FLOW_COLUMNS).push(", c_nodes").push(SUM_NAMES);
        query.push(" FROM chosen JOIN ").push(&self.flow);
        query.push(" ON path = c_path AND entry = c_entry AND time = c_last");
        within(&mut query, span);
        query.push(" ORDER BY c_path, c_entry");
        let mut connection = self.connection.lock().await;
        let rows = query.build().fetch_all(&mut *connection).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        let line = |row| Ok(FlowLine { observer: true, ..self.flow_line(row)? });
        let lines = rows.iter().map(line).collect::<Result<_, _>>();
        lines.map_err(|error| self.failed(error))
    }

    /// Where the store ends now.
    pub(super) async fn mark(&self) -> Result<Mark, AnswerError> {
        let mut connection = self.connection.lock().await;
        let mut mark = Mark::default();
        for Partition { number, table, blocks } in self.partitions(&mut connection).await? {
            // The last block may get more rows.
            let begin = format!("({},0)", (blocks - 1).max(0));
            let sql = format!("SELECT max(ctid)::text FROM ONLY {table} WHERE ctid > $1::tid");
            let last = query(AssertSqlSafe(sql)).bind(&begin).fetch_one(&mut *connection).await;
            let last = last.and_then(|row| row.try_get::<Option<String>, _>(0));
            let last = last.map_err(|error| self.failed(error))?;
            mark.0.insert(number, last.unwrap_or(begin));
        }
        Ok(mark)
    }

    /// Rows of `which` that came after `mark`, which moves on behind those looked at.
    pub(super) async fn news(&self, which: &Which, mark: &mut Mark) -> Result<News, AnswerError> {
        let mut connection = self.connection.lock().await;
        let (mut found, mut more) = (Vec::new(), false);
        for Partition { number, table, .. } in self.partitions(&mut connection).await? {
            let after = mark.0.entry(number).or_insert_with(|| BEGIN.to_owned());
            let sql = format!(
                "SELECT max(place)::text, count(*) FROM (SELECT ctid AS place FROM ONLY {table} \
                 WHERE ctid > $1::tid ORDER BY ctid LIMIT {NEWS}) AS looked"
            );
            let looked = query(AssertSqlSafe(sql)).bind(&*after).fetch_one(&mut *connection).await;
            let looked = looked.map_err(|error| self.failed(error))?;
            let last: Option<String> = looked.try_get(0).map_err(|error| self.failed(error))?;
            let Some(last) = last else { continue };
            let count: i64 = looked.try_get(1).map_err(|error| self.failed(error))?;
            more |= count == NEWS;
            let mut query = QueryBuilder::<Postgres>::new("SELECT ");
            query.push(FLOW_COLUMNS).push(" FROM ONLY ").push(&table);
            query.push(" WHERE ctid > ").push_bind(after.clone()).push("::tid");
            query.push(" AND ctid <= ").push_bind(last.clone()).push("::tid");
            matching(&mut query, which);
            query.push(" ORDER BY ctid");
            let rows = query.build().fetch_all(&mut *connection).await;
            let rows = rows.map_err(|error| self.failed(error))?;
            for row in &rows {
                found.push(self.decoded(row).map_err(|error| self.failed(error))?);
            }
            *after = last;
        }
        Ok(News { more, rows: found })
    }

    /// How many rows that were received in `span` have an impossible time.
    pub(super) async fn strays(&self, span: Span) -> Result<i64, AnswerError> {
        let mut connection = self.connection.lock().await;
        query("SELECT count(*) FROM flow_stray WHERE receipt > $1 AND receipt <= $2")
            .bind(time(span.from))
            .bind(time(span.to))
            .fetch_one(&mut *connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|error| self.failed(error))
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        sql: &'static str,
    ) -> Result<(), AnswerError> {
        let done = sqlx::raw_sql(sql).execute(connection).await;
        done.map(|_done| ()).map_err(|error| self.failed(error))
    }

    /// The tables that hold the rows of `flow`, TimescaleDB's chunks as well.
    async fn partitions(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Vec<Partition>, AnswerError> {
        let rows = query(
            "SELECT c.oid::int8, c.oid::regclass::text, \
             pg_relation_size(c.oid) / current_setting('block_size')::int8 \
             FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
             WHERE i.inhparent = 'flow'::regclass AND c.relkind = 'r' ORDER BY c.relname",
        );
        let rows = rows.fetch_all(connection).await.map_err(|error| self.failed(error))?;
        let partition = |row: &PgRow| {
            Ok(Partition {
                number: row.try_get(0)?,
                table: row.try_get(1)?,
                blocks: row.try_get(2)?,
            })
        };
        rows.iter()
            .map(partition)
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| self.failed(error))
    }

    fn failed(&self, error: sqlx::Error) -> AnswerError {
        AnswerError::Store { store: self.url.clone(), error }
    }

    fn decoded(&self, row: &PgRow) -> Result<FlowRow, sqlx::Error> {
        flow_row(row).map_err(|error| sqlx::Error::Decode(Box::new(error)))
    }

    fn key(&self, by: By, row: &PgRow) -> Result<Key, sqlx::Error> {
        let decode = |error| sqlx::Error::Decode(Box::new(error));
        let number = |at: usize| row.try_get::<i16, _>(at);
        let proto = |at: usize| -> Result<Proto, sqlx::Error> {
            Ok(Proto(u8::try_from(number(at)?).map_err(|e| sqlx::Error::Decode(e.into()))?))
        };
        Ok(match by {
            By::Src | By::Dst => {
                let address = row.address_or_null(0).map_err(decode)?;
                Key::Address(address.ok_or(sqlx::Error::RowNotFound)?)
            }
            By::Port => {
                let dport: i32 = row.try_get(1)?;
                let dport = u16::try_from(dport).map_err(|e| sqlx::Error::Decode(e.into()))?;
                Key::Service(proto(0)?, dport)
            }
            By::Proto => Key::Proto(proto(0)?),
            By::Node => Key::Node(self.nodes.name(row.try_get::<i32, _>(0)?.into())),
        })
    }

    fn flow_line(&self, row: &PgRow) -> Result<FlowLine, sqlx::Error> {
        let nodes: Vec<i32> = row.try_get("c_nodes")?;
        let mut nodes: Vec<String> =
            nodes.into_iter().map(|node| self.nodes.name(node.into())).collect();
        nodes.sort_unstable();
        Ok(FlowLine { nodes, sums: sums(row)?, ..line_of(&self.decoded(row)?, "") })
    }
}

/// A table that holds rows of `flow`.
struct Partition {
    number: i64,
    table: String,
    blocks: i64,
}

/// A session that cannot write, and may take its time.
const READING: &str = "SET default_transaction_read_only = on; SET statement_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0";

/// Before every row of a table.
const BEGIN: &str = "(0,0)";

/// Rows of a partition looked at in one go when following.
const NEWS: i64 = 10_000;

/// Protocol, and what the original tuple was opened to where the protocol has such a thing:
/// those of [`Proto::has_ports`] and [`Proto::is_icmp`].
const SERVICE: &str =
    "proto, CASE WHEN proto IN (1, 6, 17, 33, 58, 132, 136) THEN dport ELSE 0 END";

/// Counted, then what was seen; see [`sums`].
const SUMS: &str = "count(DISTINCT path) AS s_flows, \
    sum(bytes_orig)::int8 AS s_bytes_orig, sum(bytes_reply)::int8 AS s_bytes_reply, \
    sum(packets_orig)::int8 AS s_packets_orig, sum(packets_reply)::int8 AS s_packets_reply, \
    sum(coalesce(raw_bytes_orig, bytes_orig))::int8 AS s_raw_bytes_orig, \
    sum(coalesce(raw_bytes_reply, bytes_reply))::int8 AS s_raw_bytes_reply, \
    sum(coalesce(raw_packets_orig, packets_orig))::int8 AS s_raw_packets_orig, \
    sum(coalesce(raw_packets_reply, packets_reply))::int8 AS s_raw_packets_reply";

/// The names in [`SUMS`].
const SUM_NAMES: &str = ", s_flows, s_bytes_orig, s_bytes_reply, s_packets_orig, s_packets_reply, \
    s_raw_bytes_orig, s_raw_bytes_reply, s_raw_packets_orig, s_raw_packets_reply";

fn sums(row: &PgRow) -> Result<Sums, sqlx::Error> {
    Ok(Sums {
        flows: row.try_get("s_flows")?,
        bytes_orig: row.try_get("s_bytes_orig")?,
        bytes_reply: row.try_get("s_bytes_reply")?,
        packets_orig: row.try_get("s_packets_orig")?,
        packets_reply: row.try_get("s_packets_reply")?,
        raw_bytes_orig: row.try_get("s_raw_bytes_orig")?,
        raw_bytes_reply: row.try_get("s_raw_bytes_reply")?,
        raw_packets_orig: row.try_get("s_raw_packets_orig")?,
        raw_packets_reply: row.try_get("s_raw_packets_reply")?,
    })
}

const fn time(micros: i64) -> Time {
    Time(from_micros(micros))
}

fn within(query: &mut QueryBuilder<Postgres>, span: Span) {
    query.push(" WHERE time > ").push_bind(time(span.from));
    query.push(" AND time <= ").push_bind(time(span.to));
}

fn matching(query: &mut QueryBuilder<Postgres>, which: &Which) {
    for (column, network) in [("src", which.src), ("dst", which.dst)] {
        let Some(network) = network else { continue };
        query.push(" AND ").push(column).push(" <<= ").push_bind(network.to_string());
        query.push("::inet");
    }
    if let Some(port) = which.port {
        query.push(" AND proto IN (6, 17, 33, 132, 136) AND dport = ").push_bind(i32::from(port));
    }
    if let Some(proto) = which.proto {
        query.push(" AND proto = ").push_bind(i16::from(proto.0));
    }
    if let Some(node) = which.node {
        query.push(" AND node = ").push_bind(node);
    }
}
