-- A day of traffic for `cargo xtask dashboards`, the same in every run. `:flows` flows of about ten
-- records each: IPv4 and IPv6, with and without NAT, every kind of protocol that the panels name,
-- a tenth of the flows seen by two gateways and counted at the first, some growth taken back,
-- flows that sleep for hours before they move again, growth whose begin is unknown.

-- The days as the aggregator makes them, some before and behind, so that leaving them out shows.
SELECT format('CREATE TABLE %I PARTITION OF flow FOR VALUES FROM (%L) TO (%L)',
              'flow_p' || to_char(day, 'YYYYMMDD'), day, day + interval '1 day')
FROM generate_series(timestamptz '2026-03-08', '2026-03-20', '1 day') AS day
\gexec

INSERT INTO node (id, name, epoch, epoch_since)
SELECT id, name, gen_random_uuid(), timestamptz '2026-03-10'
FROM (VALUES (3, 'gw1'), (5, 'gw2'), (8, 'gw-ost'), (9, 'o''neill')) AS named (id, name);

WITH number AS (
    -- Numbers of 20 bits that depend on the flow's number only.
    SELECT e,
           hashint8extended(e, 1) & 1048575 AS a,
           hashint8extended(e, 2) & 1048575 AS b,
           hashint8extended(e, 3) & 1048575 AS c,
           hashint8extended(e, 4) & 1048575 AS d
    FROM generate_series(1, :flows) AS e
), named AS (
    SELECT *,
           timestamptz '2026-03-10' + make_interval(secs => b * 86000.0 / 1048576) AS start,
           (ARRAY[6, 6, 6, 6, 6, 6, 6, 17, 17, 17, 17, 17, 1, 47, 132, 253])[1 + d % 16] AS proto,
           c % 100 < 20 AS v6,
           d / 16 % 100 < 30 AS nat,
           d / 16 % 100 >= 90 AS twice,
           c / 100 % 50 = 7 AS sleeps,
           1 + a % 19 AS records
    FROM number
), grown AS (
    -- Every 10 s a record, at a moment of its own.
    SELECT named.*, r,
           start + make_interval(secs => (r - 1) * 10.0 + (a % 9000) / 1000.0
               + CASE WHEN sleeps AND r = records THEN 1800 + d % 20000 ELSE 0 END) AS time,
           start + make_interval(secs => CASE r WHEN 1 THEN 0
               ELSE (r - 2) * 10.0 + (a % 9000) / 1000.0 END) AS since,
           -- Few are large, most are small.
           exp((hashint8extended(e * 64 + r, 5) & 1048575) * 16.0 / 1048576)::int8 AS there,
           exp((hashint8extended(e * 64 + r, 6) & 1048575) * 18.0 / 1048576)::int8 AS back,
           CASE WHEN r = 3 AND d % 1000 = 1 THEN -1 ELSE 1 END AS sign
    FROM named CROSS JOIN LATERAL generate_series(1, records) AS r
), seen AS (
    -- The second gateway sees the same 1.3 s later; it counts nothing of it.
    SELECT grown.*, o, 1 - o AS counts
    FROM grown CROSS JOIN LATERAL generate_series(0, twice::int4) AS o
)
INSERT INTO flow (
    time, since, entry_start, path, entry,
    bytes_orig, bytes_reply, packets_orig, packets_reply,
    raw_bytes_orig, raw_bytes_reply, raw_packets_orig, raw_packets_reply,
    batch_seq, mark, since_slack, node, netns, zone, sport, dport, nat_sport, nat_dport,
    flags, family, proto, tcp_state, src, dst, nat_src, nat_dst)
SELECT time + o * interval '1.3 s',
       CASE WHEN r > 1 OR b % 200 <> 11 THEN since + o * interval '1.3 s' END,
       start, e, e * 2 + o,
       there * sign * counts, back * sign * counts,
       (there / 900 + 1) * sign * counts, (back / 1200 + 1) * sign * counts,
       CASE o WHEN 1 THEN there * sign END, CASE o WHEN 1 THEN back * sign END,
       CASE o WHEN 1 THEN (there / 900 + 1) * sign END,
       CASE o WHEN 1 THEN (back / 1200 + 1) * sign END,
       r, 0, 250, (ARRAY[3, 5, 8, 9])[1 + (a + o) % 4], 1, 0,
       1024 + b % 60000,
       CASE proto WHEN 1 THEN CASE WHEN v6 THEN 128 * 256 ELSE 8 * 256 END
                  WHEN 47 THEN 0 WHEN 253 THEN 0
                  ELSE (ARRAY[443, 443, 443, 80, 53, 22, 123, 1024 + c % 40])[1 + c % 8] END,
       CASE WHEN nat THEN 1024 + c % 60000 END, NULL,
       0, CASE WHEN v6 THEN 10 ELSE 2 END, CASE WHEN v6 AND proto = 1 THEN 58 ELSE proto END, 0,
       CASE WHEN v6 THEN inet '2001:db8::' ELSE inet '10.0.0.0' END + a % 3000,
       CASE WHEN v6 THEN inet '2001:db8:9::' ELSE inet '192.0.2.0' END + c % 256,
       CASE WHEN nat THEN CASE WHEN v6 THEN inet '2001:db8:ffff::1' ELSE '203.0.113.1' END END,
       NULL
FROM seen
-- As it arrives.
ORDER BY 1;

ANALYZE;
