//! What the aggregator has stored, read by a program that is not ours: `sqlite3` or `psql`, which
//! adds up the rows of every entry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::lab::tally::{Amount, Both, Difference, Flows, Key};
use crate::workspace;

/// A store, as other programs find it.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database, by its URL.
    Postgres(String),
}

impl Place {
    /// The place that `--store` names.
    pub(crate) fn of(store: &str) -> Self {
        store.strip_prefix("sqlite:").map_or_else(
            || Self::Postgres(store.to_owned()),
            |path| Self::Sqlite(PathBuf::from(path.trim_start_matches("//"))),
        )
    }

    /// Has the query answered as a list of JSON objects.
    fn ask(&self, query: &str) -> Result<Vec<u8>> {
        let mut command = match self {
            Self::Sqlite(file) => {
                let mut command = Command::new("sqlite3");
                command.args(["-readonly", "-json", "-cmd", ".timeout 10000"]).arg(file).arg(query);
                command
            }
            Self::Postgres(url) => {
                let json = format!("SELECT coalesce(json_agg(q), '[]') FROM ({query}) AS q");
                let mut command = Command::new("psql");
                command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
                command.args(["--dbname", url, "--command", &json]);
                command
            }
        };
        workspace::output(&mut command)
    }

    /// An address as text of hexadecimal digits (SQLite) or as people write it.
    fn address(&self, column: &str) -> String {
        match self {
            Self::Sqlite(_) => format!("hex({column})"),
            Self::Postgres(_) => format!("host({column})"),
        }
    }
}

/// Everything stored of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    /// Sums of what the node reported, by entry.
    pub(crate) raw: Flows,
    /// Sums of what was counted of it; what was found out to be another observer's is taken back.
    pub(crate) counted: BTreeMap<Key, Difference>,
    /// What the node said it read in all: the ended entries of every interval, and what lived at
    /// the end of the last one.
    pub(crate) said: Both,
    /// Entries whose end no life of the node saw.
    pub(crate) unseen: Vec<Key>,
    /// Entries without an end.
    pub(crate) open: usize,
}

/// `RecordFlags::UNSEEN` where the store keeps our marks: above the kernel's 16 status bits.
const UNSEEN: u32 = 1 << 3 << 16;

/// One line of the query's answer.
#[derive(Deserialize)]
struct Line {
    proto: u8,
    src: String,
    dst: String,
    sport: u16,
    dport: u16,
    zone: u16,
    start: u64,
    raw_packets_orig: u64,
    raw_bytes_orig: u64,
    raw_packets_reply: u64,
    raw_bytes_reply: u64,
    packets_orig: i64,
    bytes_orig: i64,
    packets_reply: i64,
    bytes_reply: i64,
    unseen: u8,
    ended: u8,
}

impl Stored {
    /// The sum of what was counted.
    pub(crate) fn counted(&self) -> Difference {
        let mut sum = [0; 4];
        let all = self.counted.values();
        all.for_each(|counted| sum.iter_mut().zip(counted).for_each(|(sum, n)| *sum += n));
        sum
    }
}

/// What is stored of flows that several observers saw.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Merged {
    /// Flows, whoever saw them.
    pub(crate) paths: u64,
    /// Rows that take back what was counted twice, and their bytes.
    pub(crate) retractions: u64,
    pub(crate) retracted: u64,
}

/// `RecordFlags::RETRACTION`, likewise.
const RETRACTION: u32 = 1 << 8 << 16;

/// Reads what is stored of all nodes together.
pub(crate) fn merged(place: &Place) -> Result<Merged> {
    let of = format!("FROM flow_all WHERE flags & {RETRACTION} != 0");
    let query = format!(
        "SELECT (SELECT COUNT(DISTINCT COALESCE(a.into_path, o.path))
                 FROM flow_observer o LEFT JOIN path_alias a ON a.path = o.path) AS paths,
                (SELECT COUNT(*) {of}) AS retractions,
                (SELECT COALESCE(-SUM(bytes_orig + bytes_reply), 0) {of}) AS retracted"
    );
    let lines: Vec<Merged> = serde_json::from_slice(&place.ask(&query)?).context("merged flows")?;
    lines.first().copied().context("a sum without a line")
}

/// Reads everything of one node.
pub(crate) fn read(place: &Place, node: &str) -> Result<Stored> {
    reading(place, node, "")
}

/// Reads everything a node saw in the network namespace with this inode.
pub(crate) fn read_in(place: &Place, node: &str, inode: u64) -> Result<Stored> {
    let within = "o.netns IN (SELECT id FROM netns WHERE inode =";
    reading(place, node, &format!("AND {within} {inode})"))
}

fn reading(place: &Place, node: &str, and: &str) -> Result<Stored> {
    if !node.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        bail!("{node:?} is no node name");
    }
    let raw = |column: &str| {
        format!(
            "o.base_{column} + COALESCE(SUM(COALESCE(f.raw_{column}, f.{column})), 0)
                AS raw_{column},
             COALESCE(SUM(f.{column}), 0) AS {column}"
        )
    };
    let sums = ["packets_orig", "bytes_orig", "packets_reply", "bytes_reply"].map(raw).join(", ");
    let query = format!(
        "SELECT o.proto, {} AS src, {} AS dst, o.sport, o.dport, o.zone,
                o.raw_start AS start, {sums},
                COALESCE(MAX(CASE WHEN f.flags & {UNSEEN} != 0 THEN 1 ELSE 0 END), 0) AS unseen,
                CASE WHEN EXISTS (SELECT 1 FROM flow_end e WHERE e.entry = o.entry)
                     THEN 1 ELSE 0 END AS ended
         FROM flow_observer o
         LEFT JOIN flow_all f ON f.entry = o.entry
         JOIN node n ON n.id = o.node
         WHERE n.name = '{node}' {and}
         GROUP BY o.entry",
        place.address("o.src"),
        place.address("o.dst"),
    );
    let mut stored = parse(&place.ask(&query)?)?;
    stored.said = said(place, node)?;
    Ok(stored)
}

/// The kernel totals a node sent with its intervals.
fn said(place: &Place, node: &str) -> Result<Both> {
    let sum = |column: &str| {
        format!(
            "COALESCE(SUM(ended_{column}), 0) + COALESCE(MAX(live_{column}) FILTER (
                WHERE parts > 0 AND received = (SELECT MAX(received) FROM mine WHERE parts > 0)
             ), 0) AS {column}"
        )
    };
    let sums = ["packets_orig", "bytes_orig", "packets_reply", "bytes_reply"].map(sum).join(", ");
    let query = format!(
        "WITH mine AS (SELECT b.* FROM ingest_batch b JOIN node n ON n.id = b.node
                       WHERE n.name = '{node}')
         SELECT {sums} FROM mine"
    );
    let lines: Vec<Said> =
        serde_json::from_slice(&place.ask(&query)?).context("the totals said")?;
    let said = lines.first().context("a sum without a line")?;
    Ok(Both {
        original: Amount { packets: said.packets_orig, bytes: said.bytes_orig },
        reply: Amount { packets: said.packets_reply, bytes: said.bytes_reply },
    })
}

/// The one line of [`said`]'s query.
#[derive(Deserialize)]
struct Said {
    packets_orig: u64,
    bytes_orig: u64,
    packets_reply: u64,
    bytes_reply: u64,
}

fn parse(json: &[u8]) -> Result<Stored> {
    let mut stored = Stored::default();
    if json.trim_ascii().is_empty() {
        return Ok(stored); // sqlite3 prints nothing where there is no row.
    }
    let lines: Vec<Line> = serde_json::from_slice(json).context("what is stored")?;
    for line in lines {
        let key = Key {
            proto: line.proto,
            src: address(&line.src)?,
            dst: address(&line.dst)?,
            sport: line.sport,
            dport: line.dport,
            zone: line.zone,
            start: line.start,
        };
        let both = |orig: (u64, u64), reply: (u64, u64)| Both {
            original: Amount { packets: orig.0, bytes: orig.1 },
            reply: Amount { packets: reply.0, bytes: reply.1 },
        };
        let raw = both(
            (line.raw_packets_orig, line.raw_bytes_orig),
            (line.raw_packets_reply, line.raw_bytes_reply),
        );
        let counted = [line.packets_orig, line.bytes_orig, line.packets_reply, line.bytes_reply];
        stored.counted.insert(key, counted.map(i128::from));
        if stored.raw.insert(key, raw).is_some() {
            bail!("the store has two entries of one flow: {key}");
        }
        if line.unseen != 0 {
            stored.unseen.push(key);
        }
        if line.ended == 0 {
            stored.open += 1;
        }
    }
    Ok(stored)
}

fn address(text: &str) -> Result<IpAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let hex = text;
    let number = u128::from_str_radix(hex, 16).context("an address that is no hexadecimal")?;
    Ok(match hex.len() {
        8 => IpAddr::from(u32::try_from(number)?.to_be_bytes()),
        32 => IpAddr::from(number.to_be_bytes()),
        length => bail!("an address of {length} hexadecimal digits"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with the real schema and these rows.
    fn store(name: &str, rows: &str) -> PathBuf {
        let file = std::env::temp_dir().join(format!("xtask-{}-{name}.db", std::process::id()));
        let schema = workspace::root().join("migrations/sqlite/0001_flows.sql");
        let schema = format!(".read {}", schema.display());
        let mut command = Command::new("sqlite3");
        command.args(["-bail", "-cmd", &schema]).arg(&file).arg(rows.trim());
        workspace::output(&mut command).unwrap();
        file
    }

    /// Two entries of gw1: one in two rows and a third with an impossible time, marked unseen;
    /// one with its rows folded into its base. And one of gw2.
    const ROWS: &str = "
        INSERT INTO node VALUES (1, 'gw1', x'00', 0), (2, 'gw2', x'00', 0);
        INSERT INTO netns VALUES (1, 1, 5, x'00'), (2, 2, 6, x'00');
        INSERT INTO flow_observer (entry, path, node, netns, zone, family, proto, sport, dport,
                src, dst, view_inside, raw_start, kernel_id, fresh, seen,
                base_packets_orig, base_bytes_orig)
            VALUES (1, 1, 1, 1, 0, 2, 17, 10, 53, x'0a000001', x'0a000002', 0, 111, 0, 0, 0,
                    0, 0),
                   (2, 2, 1, 1, 0, 2, 17, 11, 53, x'0a000001', x'0a000002', 0, 222, 0, 0, 0,
                    7, 700),
                   (3, 1, 2, 2, 0, 2, 17, 10, 53, x'0a000001', x'0a000002', 0, 111, 0, 0, 0,
                    0, 0);
        INSERT INTO flow_end VALUES (1, 9), (3, 9);
        CREATE TEMP TABLE r (entry, p, b, rp, rb, flags);
        INSERT INTO r VALUES (1, 2, 200, NULL, NULL, 0), (1, 0, 0, 3, 300, 0x90000),
                             (3, 5, 500, NULL, NULL, 0);
        INSERT INTO flow SELECT 1, NULL, NULL, 1, entry, b, 0, p, 0, rb, NULL, rp, NULL, 1, 0,
                NULL, 1, 1, 0, 10, 53, NULL, NULL, flags, 2, 17, 0, x'0a000001', x'0a000002',
                NULL, NULL FROM r;
        INSERT INTO flow_stray SELECT *, 5 FROM flow WHERE entry = 1 AND flags = 0;
        INSERT INTO ingest_batch SELECT n, x'00', s, s, x'00', 1, 1, 1, 1, parts, 0, 0, 1,
                live, live * 100, 0, 0, 1, ended, ended * 100, 0, 0, 0, 0
            FROM (SELECT 1 AS n, 1 AS s, 1 AS parts, 4 AS live, 0 AS ended
                  UNION SELECT 1, 2, 0, 0, 0 UNION SELECT 1, 3, 2, 7, 7
                  UNION SELECT 2, 9, 1, 5, 0);";

    #[test]
    fn the_real_schema_adds_up_by_entry() {
        let file = store("sums", ROWS);
        let stored = read(&Place::Sqlite(file.clone()), "gw1");
        std::fs::remove_file(file).unwrap();
        adds_up(stored.unwrap());
    }

    #[test]
    fn so_does_the_real_schema_of_postgresql() {
        let server = testdb::Server::start().unwrap();
        let schema = workspace::root().join("migrations/postgres/0001_flows.sql");
        let schema = std::fs::read_to_string(schema).unwrap();
        let native = "SET conntracct.layout = 'native';";
        let days = "CREATE TABLE day PARTITION OF flow DEFAULT; \
                    CREATE TABLE received PARTITION OF ingest_batch DEFAULT;";
        server.sql(testdb::DATABASE, &format!("{native} {schema} {days} {POSTGRES_ROWS}")).unwrap();
        let place = Place::Postgres(server.url_of(testdb::SUPERUSER, testdb::DATABASE));
        adds_up(read(&place, "gw1").unwrap());
    }

    fn adds_up(stored: Stored) {
        let sums: Vec<_> = stored.raw.iter().map(|(k, b)| (k.start, b.numbers())).collect();
        assert_eq!(sums, [(111, [7, 700, 0, 0]), (222, [7, 700, 0, 0])]);
        assert_eq!(stored.counted(), [4, 400, 0, 0]);
        assert_eq!(stored.unseen.iter().map(|key| key.start).collect::<Vec<_>>(), [111]);
        assert_eq!(stored.open, 1);
        assert_eq!(stored.said.numbers(), [14, 1400, 0, 0]);
    }

    /// The same rows.
    const POSTGRES_ROWS: &str = "
        INSERT INTO node SELECT n, 'gw' || n, repeat('00', 16)::uuid, now()
            FROM generate_series(1, 2) n;
        INSERT INTO flow_observer (entry, path, node, netns, zone, family, proto, sport, dport,
                src, dst, view_inside, raw_start, kernel_id, fresh, seen,
                base_packets_orig, base_bytes_orig)
            VALUES (1, 1, 1, 1, 0, 2, 17, 10, 53, '10.0.0.1', '10.0.0.2', 0, 111, 0, false, now(),
                    0, 0),
                   (2, 2, 1, 1, 0, 2, 17, 11, 53, '10.0.0.1', '10.0.0.2', 0, 222, 0, false, now(),
                    7, 700),
                   (3, 1, 2, 2, 0, 2, 17, 10, 53, '10.0.0.1', '10.0.0.2', 0, 111, 0, false, now(),
                    0, 0);
        INSERT INTO flow_end VALUES (1, now()), (3, now());
        INSERT INTO flow SELECT now(), NULL, NULL, 1, entry, b, 0, p, 0, rb, NULL, rp, NULL, 1, 0,
                NULL, 1, 1, 0, 10, 53, NULL, NULL, flags, 2, 17, 0, '10.0.0.1', '10.0.0.2',
                NULL, NULL
            FROM (VALUES (1, 2, 200, NULL::int, NULL::int, 0), (1, 0, 0, 3, 300, 589824),
                         (3, 5, 500, NULL, NULL, 0)) r (entry, p, b, rp, rb, flags);
        INSERT INTO flow_stray SELECT *, now() FROM flow WHERE entry = 1 AND flags = 0;
        INSERT INTO ingest_batch (node, epoch, seq, received, digest, records, interval,
                interval_ms, part, parts, wall, paused, live_flows, live_packets_orig,
                live_bytes_orig, live_packets_reply, live_bytes_reply, ended_flows,
                ended_packets_orig, ended_bytes_orig, ended_packets_reply, ended_bytes_reply,
                uncounted, ended_unseen)
            SELECT n, repeat('00', 16)::uuid, s, now() + s * interval '1 s', '', 1, 1, 1, 1, parts,
                now(), false, 1, live, live * 100, 0, 0, 1, ended, ended * 100, 0, 0, 0, 0
            FROM (VALUES (1, 1, 1, 4, 0), (1, 2, 0, 0, 0), (1, 3, 2, 7, 7), (2, 9, 1, 5, 0))
                r (n, s, parts, live, ended);";

    #[test]
    fn lines_become_flows() {
        let line = r#"[{"proto":17,"src":"0A000001","dst":"FD770004000000000000000000000002",
            "sport":5,"dport":53,"zone":0,"start":1795329473450989123,
            "raw_packets_orig":3,"packets_orig":2,"raw_bytes_orig":300,"bytes_orig":200,
            "raw_packets_reply":1,"packets_reply":0,"raw_bytes_reply":100,"bytes_reply":0,
            "unseen":1,"ended":0}]"#;
        let stored = parse(line.as_bytes()).unwrap();
        let (key, raw) = stored.raw.first_key_value().unwrap();
        assert_eq!(key.src, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(key.dst.to_string(), "fd77:4::2");
        assert_eq!(raw.numbers(), [3, 300, 1, 100]);
        assert_eq!(stored.counted(), [2, 200, 0, 0]);
        assert_eq!((stored.unseen.len(), stored.open), (1, 1));
        assert!(parse(b"").unwrap().raw.is_empty());
        assert!(address("0A00").is_err());
    }
}
