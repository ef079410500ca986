//! The questions in SQL, for a SQLite store. It is opened for reading only; the write-ahead log
//! lets it be read while an aggregator writes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flow::{Proto, TcpState, Tuple};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{ConnectOptions, QueryBuilder, Row, Sqlite};

use super::AnswerError;
use super::ask::{Span, Which};
use super::flows::{Chosen, FlowLine, News};
use super::reader::{Nodes, check_schema};
use super::report::{Key, Report, Sums, Top};
use crate::cli::By;
use crate::store::columns::{FLOW_COLUMNS, resolved_flow};
use crate::store::decode::flow_row;

/// A store opened for questions.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    pool: SqlitePool,
    nodes: Nodes,
    /// What rows are read from.
    flow: String,
}

impl Reader {
    /// Opens the store and checks that this program can read it.
    pub(super) async fn open(path: &Path) -> Result<Self, AnswerError> {
        let store = path.display().to_string();
        if !path.exists() {
            return Err(AnswerError::Missing { store });
        }
        let failed = |error| AnswerError::Store { store: store.clone(), error };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .create_if_missing(false)
            .busy_timeout(PATIENCE)
            .pragma("cache_size", "-65536")
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(PATIENCE)
            .connect_with(options)
            .await
            .map_err(failed)?;
        let found: i64 =
            sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
                .fetch_one(&pool)
                .await
                .map_err(failed)?;
        check_schema(&store, found)?;
        let nodes: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, id FROM node").fetch_all(&pool).await.map_err(failed)?;
        let aliases: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM path_alias)")
            .fetch_one(&pool)
            .await
            .map_err(failed)?;
        let (nodes, flow) = (Nodes::new(nodes.into_iter().collect()), resolved_flow(aliases));
        Ok(Self { path: path.to_owned(), pool, nodes, flow })
    }

    /// For questions of others.
    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// The nodes that ever delivered.
    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// What was moved in `span`, by `by`, the largest `top` one by one.
    pub(super) async fn report(&self, by: By, span: Span, top: u32) -> Result<Report, AnswerError> {
        // Both questions must see the same rows.
        let mut snapshot = self.pool.begin().await.map_err(|error| self.failed(error))?;
        let (columns, group) = match by {
            By::Src => ("src", "src"),
            By::Dst => ("dst", "dst"),
            By::Port => (SERVICE, "1, 2"),
            By::Proto => ("proto", "proto"),
            By::Node => ("node", "node"),
        };
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(columns).push(", ").push(SUMS).push(" FROM ").push(&self.flow);
        within(&mut query, span);
        query.push(" GROUP BY ").push(group);
        let mut largest = Top::new(by, usize::try_from(top).unwrap_or(usize::MAX));
        let mut rows = query.build().fetch(&mut *snapshot);
        while let Some(row) = rows.try_next().await.map_err(|error| self.failed(error))? {
            let line = self.key(by, &row).and_then(|key| Ok((key, sums(&row)?)));
            let (key, sums) = line.map_err(|error| self.failed(error))?;
            largest.add(key, sums);
        }
        drop(rows);
        let mut query = QueryBuilder::<Sqlite>::new("SELECT count(DISTINCT path) FROM ");
        query.push(&self.flow);
        within(&mut query, span);
        let flows = query.build_query_scalar().fetch_one(&mut *snapshot).await;
        Ok(largest.finish(flows.map_err(|error| self.failed(error))?))
    }

    /// The flows of `which` with traffic in `span`, those with the latest first.
    pub(super) async fn flows(
        &self,
        which: &Which,
        span: Span,
        limit: u32,
    ) -> Result<Chosen, AnswerError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        // With one max() in a query, plain columns are those of the row that has it.
        query.push("path, max(time) AS last, group_concat(DISTINCT node) AS nodes, ");
        query.push("entry_start, flags, mark, zone, tcp_state, proto, sport, dport, nat_sport, ");
        query.push("nat_dport, src, dst, nat_src, nat_dst, ");
        query.push(SUMS).push(" FROM ").push(&self.flow);
        within(&mut query, span);
        matching(&mut query, which);
        query.push(" GROUP BY path ORDER BY last DESC LIMIT ");
        // One more says whether there are more.
        query.push_bind(i64::from(limit) + 1);
        let rows = query.build().fetch_all(&self.pool).await;
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
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        // With one max() in a query, plain columns are those of the row that has it.
        query.push("path, max(time) AS last, cast(node AS TEXT) AS nodes, ");
        query.push("entry_start, flags, mark, zone, tcp_state, proto, sport, dport, nat_sport, ");
        query.push("nat_dport, src, dst, nat_src, nat_dst, ");
        query.push(SUMS).push(" FROM ").push(&self.flow);
        within(&mut query, span);
        let paths = serde_json::Value::from(paths).to_string();
        query.push(" AND path IN (SELECT value FROM json_each(").push_bind(paths);
        query.push(")) GROUP BY path, entry ORDER BY path, entry");
        let rows = query.build().fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        let line = |row| Ok(FlowLine { observer: true, ..self.flow_line(row)? });
        let lines = rows.iter().map(line).collect::<Result<_, _>>();
        lines.map_err(|error| self.failed(error))
    }

    /// The number of the last row.
    pub(super) async fn last_row(&self) -> Result<i64, AnswerError> {
        let last = sqlx::query_scalar("SELECT coalesce(max(rowid), 0) FROM flow");
        last.fetch_one(&self.pool).await.map_err(|error| self.failed(error))
    }

    /// Rows of `which` that came after row `after`, in order; it moves on to the last one looked
    /// at. At most [`NEWS`] are looked at.
    pub(super) async fn news(&self, which: &Which, after: &mut i64) -> Result<News, AnswerError> {
        let last = self.last_row().await?.min(after.saturating_add(NEWS));
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(FLOW_COLUMNS).push(" FROM flow WHERE rowid > ").push_bind(*after);
        query.push(" AND rowid <= ").push_bind(last);
        matching(&mut query, which);
        query.push(" ORDER BY rowid");
        let rows = query.build().fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        let decoded = rows.iter().map(flow_row).collect::<Result<Vec<_>, _>>();
        let rows = decoded.map_err(|error| self.failed(sqlx::Error::Decode(Box::new(error))))?;
        let more = last.saturating_sub(*after) == NEWS;
        *after = last.max(*after);
        Ok(News { more, rows })
    }

    /// How many rows that were received in `span` have an impossible time.
    pub(super) async fn strays(&self, span: Span) -> Result<i64, AnswerError> {
        let query = "SELECT count(*) FROM flow_stray WHERE receipt > ? AND receipt <= ?";
        let count = sqlx::query_scalar(query).bind(span.from).bind(span.to);
        count.fetch_one(&self.pool).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: sqlx::Error) -> AnswerError {
        AnswerError::Store { store: self.path.display().to_string(), error }
    }

    fn key(&self, by: By, row: &SqliteRow) -> Result<Key, sqlx::Error> {
        Ok(match by {
            By::Src | By::Dst => Key::Address(address(row.try_get(0)?)?),
            By::Port => Key::Service(Proto(row.try_get(0)?), row.try_get(1)?),
            By::Proto => Key::Proto(Proto(row.try_get(0)?)),
            By::Node => Key::Node(self.nodes.name(row.try_get(0)?)),
        })
    }

    fn flow_line(&self, row: &SqliteRow) -> Result<FlowLine, sqlx::Error> {
        let proto = Proto(row.try_get("proto")?);
        let orig = Tuple {
            src: address(row.try_get("src")?)?,
            dst: address(row.try_get("dst")?)?,
            sport: row.try_get("sport")?,
            dport: row.try_get("dport")?,
            proto,
        };
        let translated = |column, inside| -> Result<IpAddr, sqlx::Error> {
            row.try_get::<Option<&[u8]>, _>(column)?.map_or(Ok(inside), address)
        };
        let outside = Tuple {
            src: translated("nat_src", orig.src)?,
            dst: translated("nat_dst", orig.dst)?,
            sport: row.try_get::<Option<_>, _>("nat_sport")?.unwrap_or(orig.sport),
            dport: row.try_get::<Option<_>, _>("nat_dport")?.unwrap_or(orig.dport),
            proto,
        };
        let nodes: String = row.try_get("nodes")?;
        let mut nodes: Vec<String> =
            nodes.split(',').filter_map(|id| Some(self.nodes.name(id.parse().ok()?))).collect();
        nodes.sort_unstable();
        let flags: u32 = row.try_get("flags")?;
        Ok(FlowLine {
            path: row.try_get("path")?,
            last: row.try_get("last")?,
            start: row.try_get("entry_start")?,
            orig,
            outside,
            mark: row.try_get("mark")?,
            zone: row.try_get("zone")?,
            tcp: TcpState(row.try_get("tcp_state")?),
            flags: super::flows::flags(flags),
            nodes,
            sums: sums(row)?,
            observer: false,
            observers: Vec::new(),
        })
    }
}

/// How long a question waits for a lock. Readers wait for nobody but a recovery.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rows looked at in one go when following.
const NEWS: i64 = 10_000;

/// Protocol, and what the original tuple was opened to where the protocol has such a thing:
/// those of [`Proto::has_ports`] and [`Proto::is_icmp`].
const SERVICE: &str =
    "proto, CASE WHEN proto IN (1, 6, 17, 33, 58, 132, 136) THEN dport ELSE 0 END";

/// Counted, then what was seen; see [`sums`].
const SUMS: &str = "count(DISTINCT path) AS flows, \
    sum(bytes_orig) AS bytes_orig, sum(bytes_reply) AS bytes_reply, \
    sum(packets_orig) AS packets_orig, sum(packets_reply) AS packets_reply, \
    sum(coalesce(raw_bytes_orig, bytes_orig)) AS raw_bytes_orig, \
    sum(coalesce(raw_bytes_reply, bytes_reply)) AS raw_bytes_reply, \
    sum(coalesce(raw_packets_orig, packets_orig)) AS raw_packets_orig, \
    sum(coalesce(raw_packets_reply, packets_reply)) AS raw_packets_reply";

fn sums(row: &SqliteRow) -> Result<Sums, sqlx::Error> {
    Ok(Sums {
        flows: row.try_get("flows")?,
        bytes_orig: row.try_get("bytes_orig")?,
        bytes_reply: row.try_get("bytes_reply")?,
        packets_orig: row.try_get("packets_orig")?,
        packets_reply: row.try_get("packets_reply")?,
        raw_bytes_orig: row.try_get("raw_bytes_orig")?,
        raw_bytes_reply: row.try_get("raw_bytes_reply")?,
        raw_packets_orig: row.try_get("raw_packets_orig")?,
        raw_packets_reply: row.try_get("raw_packets_reply")?,
    })
}

fn within(query: &mut QueryBuilder<Sqlite>, span: Span) {
    query.push(" WHERE time > ").push_bind(span.from);
    query.push(" AND time <= ").push_bind(span.to);
}

fn matching(query: &mut QueryBuilder<Sqlite>, which: &Which) {
    for (column, network) in [("src", which.src), ("dst", which.dst)] {
        let Some(network) = network else { continue };
        // Blobs compare byte by byte, and those of one family have one length.
        let (family, first, last) = match network {
            IpNet::V4(net) => {
                let (first, last) = (net.network(), net.broadcast());
                (2_i64, first.octets().to_vec(), last.octets().to_vec())
            }
            IpNet::V6(net) => {
                let (first, last) = (net.network(), net.broadcast());
                (10, first.octets().to_vec(), last.octets().to_vec())
            }
        };
        query.push(" AND family = ").push_bind(family);
        query.push(" AND ").push(column).push(" BETWEEN ").push_bind(first);
        query.push(" AND ").push_bind(last);
    }
    if let Some(port) = which.port {
        query.push(" AND proto IN (6, 17, 33, 132, 136) AND dport = ").push_bind(i64::from(port));
    }
    if let Some(proto) = which.proto {
        query.push(" AND proto = ").push_bind(i64::from(proto.0));
    }
    if let Some(node) = which.node {
        query.push(" AND node = ").push_bind(node);
    }
}

fn address(blob: &[u8]) -> Result<IpAddr, sqlx::Error> {
    if let Ok(octets) = <[u8; 4]>::try_from(blob) {
        return Ok(octets.into());
    }
    if let Ok(octets) = <[u8; 16]>::try_from(blob) {
        return Ok(octets.into());
    }
    Err(sqlx::Error::Decode(format!("an address of {} bytes", blob.len()).into()))
}
