//! Rows as they lie in the tables, and the partitions they lie in.

use aggregator::store::Store;
use aggregator::store::columns::FLOW_COLUMNS;
use aggregator::store::decode::flow_row as decode;
use aggregator::store::row::{EntryNo, FlowRow};
use flow::{Counters, RecordFlags, UnixNanos};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testdb::{DATABASE, Server};

use super::open;
use crate::rows::{TOKEN, at, counters, first_set, next_set};

async fn rows(server: &Server, sql: String) -> Vec<FlowRow> {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
    found.iter().map(|row| decode(row).unwrap()).collect()
}

#[tokio::test]
async fn rows_come_back_as_they_went_in() {
    let server = Server::start().unwrap();
    let store = open(&server.url()).await;
    let mut set = first_set(1..=12);
    // Every bit of the flags, the latest time there is, and a time before PostgreSQL's epoch.
    set.flows[1].flags = u32::MAX;
    let last = UnixNanos(i64::MAX / 1_000 * 1_000);
    let stray =
        FlowRow { stray: Some(at(99)), counted: Counters::ZERO, time: last, ..set.flows[0] };
    let early = FlowRow { time: UnixNanos(-1_000), ..stray };
    let expected = set.flows.clone();
    set.flows.extend([stray, early]);
    store.commit(TOKEN, &set).await.unwrap();
    let found = rows(&server, format!("SELECT {FLOW_COLUMNS} FROM flow ORDER BY entry")).await;
    assert_eq!(found, expected);
    let strays = format!(
        "SELECT {FLOW_COLUMNS}, receipt FROM flow_all WHERE receipt IS NOT NULL ORDER BY time DESC"
    );
    assert_eq!(rows(&server, strays).await, vec![stray, early]);

    // The columns as dashboards read them.
    let row = "SELECT time AT TIME ZONE 'UTC', src, raw_bytes_orig IS NULL, nat_src, \
               nat_dst IS NULL, flags, sport, since_slack, src <<= '10.0.0.0/8' \
               FROM flow WHERE entry = 1";
    let expected = "2023-11-14 22:13:30|10.0.0.1|t|198.51.100.1|t|4260238|1|250|t";
    assert_eq!(server.sql(DATABASE, row).unwrap(), expected);
    let v6 = "SELECT DISTINCT src, family, proto FROM flow WHERE family = 10";
    assert_eq!(server.sql(DATABASE, v6).unwrap(), "fd00::1|10|17");
    let epoch = "SELECT count(*) FROM node_epoch WHERE epoch = repeat('07', 16)::uuid";
    assert_eq!(server.sql(DATABASE, epoch).unwrap(), "1", "names are written as logs write them");
    assert_eq!(RecordFlags(0xffff).0, decode_flags(&server));
}

fn decode_flags(server: &Server) -> u16 {
    let flags = server.sql(DATABASE, "SELECT flags >> 16 & 65535 FROM flow WHERE entry = 2");
    flags.unwrap().parse().unwrap()
}

fn partitions(server: &Server, parent: &str) -> Vec<String> {
    let sql = format!(
        "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = '{parent}'::regclass \
         ORDER BY inhrelid::regclass::text"
    );
    server.sql(DATABASE, &sql).unwrap().lines().map(str::to_owned).collect()
}

const DAY: i64 = 86_400;

#[tokio::test]
async fn days_are_made_ahead_and_for_late_rows() {
    let server = Server::start().unwrap();
    let store = open(&server.url()).await;
    let ahead = ["flow_p20231114", "flow_p20231115", "flow_p20231116"];
    assert_eq!(partitions(&server, "flow"), ahead);
    store.commit(TOKEN, &first_set(1..=2)).await.unwrap();
    assert_eq!(partitions(&server, "flow"), ahead);
    // Five days late.
    let mut set = next_set(2, &[1], counters(3));
    set.flows[0].time = at(-5 * DAY);
    store.commit(TOKEN, &set).await.unwrap();
    assert_eq!(partitions(&server, "flow").first().unwrap(), "flow_p20231109");
    assert_eq!(server.sql(DATABASE, "SELECT count(*) FROM ONLY flow_p20231109").unwrap(), "1");
    assert_eq!(partitions(&server, "ingest_batch").len(), 4);
    // A row of a day is found in its partition alone.
    let plan = "EXPLAIN SELECT 1 FROM flow WHERE time < '2023-11-10'";
    let plan = server.sql(DATABASE, plan).unwrap();
    assert!(plan.contains("flow_p20231109") && !plan.contains("flow_p20231114"), "{plan}");
    let index = "SELECT count(*) FROM pg_indexes WHERE tablename = 'flow_p20231109' \
                 AND indexdef LIKE '%brin%'";
    assert_eq!(server.sql(DATABASE, index).unwrap(), "1");
}

#[tokio::test]
async fn readers_do_not_hold_up_a_new_day() {
    let server = Server::start().unwrap();
    let store = open(&server.url()).await;
    store.commit(TOKEN, &first_set(1..=2)).await.unwrap();
    let mut reader = PgConnection::connect(&server.url()).await.unwrap();
    let begin = "BEGIN; LOCK TABLE flow IN ACCESS SHARE MODE";
    sqlx::raw_sql(begin).execute(&mut reader).await.unwrap();
    let mut set = next_set(2, &[1], counters(3));
    set.flows[0].time = at(-3 * DAY);
    store.commit(TOKEN, &set).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
}

#[tokio::test]
async fn a_day_that_was_dropped_is_made_again() {
    let server = Server::start().unwrap();
    let store = open(&server.url()).await;
    store.commit(TOKEN, &first_set(1..=2)).await.unwrap();
    server.sql(DATABASE, "DROP TABLE flow_p20231114, ingest_batch_p20231114").unwrap();
    let set = next_set(2, &[1], counters(3));
    let text = store.commit(TOKEN, &set).await.unwrap_err().to_string();
    assert!(text.contains("no partition"), "{text}");
    store.commit(TOKEN, &set).await.unwrap();
    let sums = store.counted(&[EntryNo(1)], at(0)).await.unwrap();
    assert_eq!(sums, vec![(EntryNo(1), counters(3))]);
}

#[tokio::test]
async fn numbers_given_out_outlive_their_rows() {
    let server = Server::start().unwrap();
    let store = open(&server.url()).await;
    store.commit(TOKEN, &first_set(1..=9)).await.unwrap();
    server.sql(DATABASE, "DELETE FROM flow_observer").unwrap();
    let ids = store.load(at(0)).await.unwrap().ids;
    assert_eq!((ids.entry, ids.path.0), (EntryNo(9), 1_009));
}

#[tokio::test]
async fn another_schema_will_do() {
    let server = Server::start().unwrap();
    let schema = "CREATE SCHEMA \"Flows of mine\" AUTHORIZATION conntracct; \
                  ALTER ROLE conntracct SET search_path = \"Flows of mine\"";
    server.sql(DATABASE, schema).unwrap();
    let store = open(&server.url()).await;
    store.commit(TOKEN, &first_set(1..=2)).await.unwrap();
    let place = "SELECT DISTINCT relnamespace::regnamespace FROM pg_class \
                 WHERE relname ~ '^(flow|ingest_batch|node|writer)'";
    assert_eq!(server.sql(DATABASE, place).unwrap(), "\"Flows of mine\"");
}
