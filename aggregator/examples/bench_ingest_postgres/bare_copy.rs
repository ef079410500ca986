//! The least that puts the same rows into the same table: encoded as `COPY` takes them, 10,000 a
//! transaction.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aggregator::store::columns::FLOW_COLUMNS;
use aggregator::store::row::FlowRow;
use flow::UnixNanos;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::Failed;

const ROWS_A_TRANSACTION: usize = 10_000;

/// The days of the rows, as the product would have made them ahead.
pub(crate) async fn make_partitions(
    connection: &mut PgConnection,
    rows: &[FlowRow],
) -> Result<(), Failed> {
    let day = |row: &FlowRow| {
        let time = Timestamp::from_microsecond(row.time.micros_floor())?;
        Ok::<_, jiff::Error>(time.to_zoned(TimeZone::UTC).date())
    };
    for day in rows.iter().map(day).collect::<Result<BTreeSet<_>, _>>()? {
        let (name, next) = (day.strftime("flow_p%Y%m%d"), day.tomorrow()?);
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {name} PARTITION OF flow \
             FOR VALUES FROM ('{day} 00:00:00+00') TO ('{next} 00:00:00+00')"
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// How long it takes.
pub(crate) async fn run(
    connection: &mut PgConnection,
    rows: &[FlowRow],
) -> Result<Duration, Failed> {
    let copy = format!("COPY flow ({FLOW_COLUMNS}) FROM STDIN (FORMAT binary)");
    let begun = Instant::now();
    let mut bytes = Vec::new();
    for transaction in rows.chunks(ROWS_A_TRANSACTION) {
        bytes.clear();
        bytes.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        for row in transaction {
            encode(row, &mut bytes)?;
        }
        bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        // A statement alone is a transaction.
        let mut stream = connection.copy_in_raw(&copy).await?;
        stream.send(bytes.as_slice()).await?;
        stream.finish().await?;
    }
    Ok(begun.elapsed())
}

fn encode(row: &FlowRow, to: &mut Vec<u8>) -> Result<(), Failed> {
    let columns = u16::try_from(FLOW_COLUMNS.split(',').count())?;
    to.extend_from_slice(&columns.to_be_bytes());
    let time = |moment: UnixNanos| moment.micros_floor() - UNIX_TO_POSTGRES;
    let [packets, bytes, reply_packets, reply_bytes] = row.counted.components();
    let (inside, outside) = (&row.inside, &row.outside);
    int8(to, Some(time(row.time)));
    int8(to, row.since.map(time));
    int8(to, row.entry_start.map(time));
    int8(to, Some(row.path.0));
    int8(to, Some(row.entry.0));
    for counted in [bytes, reply_bytes, packets, reply_packets] {
        int8(to, Some(i64::try_from(counted)?));
    }
    for _raw in 0..4 {
        int8(to, None);
    }
    int8(to, Some(i64::try_from(row.seq.get())?));
    int8(to, Some(i64::from(row.mark)));
    let slack = row.slack.map(|slack| i32::try_from(slack.as_millis()).unwrap_or(i32::MAX));
    int4(to, slack);
    int4(to, Some(row.node.0));
    int4(to, Some(row.netns.0));
    int4(to, Some(i32::from(row.zone.0)));
    int4(to, Some(i32::from(inside.sport)));
    int4(to, Some(i32::from(inside.dport)));
    int4(to, (inside.sport != outside.sport).then_some(i32::from(outside.sport)));
    int4(to, (inside.dport != outside.dport).then_some(i32::from(outside.dport)));
    int4(to, Some(i32::try_from(row.flags)?));
    int2(to, inside.family() as i16);
    int2(to, i16::from(inside.proto.0));
    int2(to, i16::from(row.tcp.0));
    inet(to, Some(&inside.src));
    inet(to, Some(&inside.dst));
    inet(to, (inside.src != outside.src).then_some(&outside.src));
    inet(to, (inside.dst != outside.dst).then_some(&outside.dst));
    Ok(())
}

fn null(to: &mut Vec<u8>) {
    to.extend_from_slice(&(-1_i32).to_be_bytes());
}

fn int8(to: &mut Vec<u8>, value: Option<i64>) {
    let Some(value) = value else { return null(to) };
    to.extend_from_slice(&8_i32.to_be_bytes());
    to.extend_from_slice(&value.to_be_bytes());
}

fn int4(to: &mut Vec<u8>, value: Option<i32>) {
    let Some(value) = value else { return null(to) };
    to.extend_from_slice(&4_i32.to_be_bytes());
    to.extend_from_slice(&value.to_be_bytes());
}

fn int2(to: &mut Vec<u8>, value: i16) {
    to.extend_from_slice(&2_i32.to_be_bytes());
    to.extend_from_slice(&value.to_be_bytes());
}

/// Family (`PGSQL_AF_INET` and the next number), bits, no cidr, length, address.
fn inet(to: &mut Vec<u8>, value: Option<&IpAddr>) {
    match value {
        None => null(to),
        Some(IpAddr::V4(v4)) => {
            to.extend_from_slice(&8_i32.to_be_bytes());
            to.extend_from_slice(&[2, 32, 0, 4]);
            to.extend_from_slice(&v4.octets());
        }
        Some(IpAddr::V6(v6)) => {
            to.extend_from_slice(&20_i32.to_be_bytes());
            to.extend_from_slice(&[3, 128, 0, 16]);
            to.extend_from_slice(&v6.octets());
        }
    }
}

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const UNIX_TO_POSTGRES: i64 = 946_684_800_000_000;
