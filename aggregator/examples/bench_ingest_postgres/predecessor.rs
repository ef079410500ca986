//! What the predecessor's importer does: 500 rows a statement, each row twelve values, conflicts
//! resolved by a unique key, six indexes to keep.

use std::time::{Duration, Instant};

use aggregator::store::row::FlowRow;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Arguments, AssertSqlSafe, Connection as _};

use super::Failed;

const ROWS_A_STATEMENT: usize = 500;

/// `vpn_traffic` as it was, with the indexes that its dashboards and its key need.
const TABLE: [&str; 5] = [
    "CREATE TABLE vpn_traffic (id bigserial PRIMARY KEY, time timestamptz NOT NULL, \
     src text NOT NULL, dst text NOT NULL, proto int NOT NULL, port int NOT NULL, \
     src_packets bigint NOT NULL, src_bytes bigint NOT NULL, dst_packets bigint NOT NULL, \
     dst_bytes bigint NOT NULL, connection_times bigint NOT NULL, \
     connection_count bigint NOT NULL, open_connections bigint NOT NULL, \
     UNIQUE (time, src, dst, proto, port))",
    "CREATE INDEX ON vpn_traffic (time)",
    "CREATE INDEX ON vpn_traffic (src)",
    "CREATE INDEX ON vpn_traffic (dst)",
    "CREATE INDEX ON vpn_traffic (port)",
];

const COLUMNS: &str = "time, src, dst, proto, port, src_packets, src_bytes, dst_packets, \
                       dst_bytes, connection_times, connection_count, open_connections";

/// How long it takes, in one transaction as there.
pub(crate) async fn run(
    connection: &mut PgConnection,
    rows: &[FlowRow],
) -> Result<Duration, Failed> {
    for sql in TABLE {
        sqlx::query(sql).execute(&mut *connection).await?;
    }
    let statement = statement(ROWS_A_STATEMENT);
    let begun = Instant::now();
    let mut transaction = connection.begin().await?;
    for chunk in rows.chunks(ROWS_A_STATEMENT) {
        let sql = if chunk.len() == ROWS_A_STATEMENT {
            statement.clone()
        } else {
            self::statement(chunk.len())
        };
        let mut arguments = PgArguments::default();
        for row in chunk {
            bind(&mut arguments, row)?;
        }
        sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(begun.elapsed())
}

fn statement(rows: usize) -> String {
    let width = COLUMNS.split(',').count();
    let row = |at: usize| {
        let of = |column: usize| format!("${}", at * width + column + 1);
        // Times are sent as microseconds: the driver has no calendar here.
        let mut values = vec![format!("'epoch'::timestamptz + {}::int8 * '1 us'::interval", of(0))];
        values.extend((1..width).map(of));
        format!("({})", values.join(", "))
    };
    let values: Vec<String> = (0..rows).map(row).collect();
    format!(
        "INSERT INTO vpn_traffic ({COLUMNS}) VALUES {} ON CONFLICT (time, src, dst, proto, port) \
         DO NOTHING",
        values.join(", ")
    )
}

fn bind(to: &mut PgArguments, row: &FlowRow) -> Result<(), Failed> {
    let [packets, bytes, reply_packets, reply_bytes] = row.counted.components();
    to.add(row.time.micros_floor())?;
    to.add(row.inside.src.to_string())?;
    to.add(row.inside.dst.to_string())?;
    to.add(i32::from(row.inside.proto.0))?;
    to.add(i32::from(row.inside.dport))?;
    for counted in [packets, bytes, reply_packets, reply_bytes] {
        to.add(i64::try_from(counted)?)?;
    }
    to.add(10_i64)?;
    to.add(1_i64)?;
    to.add(0_i64)?;
    Ok(())
}
