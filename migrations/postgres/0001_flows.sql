-- What the aggregator stores, in PostgreSQL 14 or newer. Migrations are append-only: never edit
-- one that was released, add the next.
--
-- Times are by the aggregator's clock; NULL means unknown. "Received" and "seen" are times of
-- receipt. Bytes are counted from the network header on, as conntrack counts them. 128-bit names
-- (epoch, boot) are uuids only because that type is 16 bytes wide and reads well. Columns stand in
-- the order of their alignment, which saves 16 bytes a row of flow.
--
-- Days are partitions: of flow by its time, of ingest_batch by its receipt, both in UTC. They are
-- made ahead, named flow_pYYYYMMDD, and go by being dropped. There is no default partition, since
-- making the next one would scan and lock it. Where the program found TimescaleDB it has set
-- conntracct.layout to 'hypertable' for this session, and chunks of a day take their place.

CREATE TABLE store_meta (
    key   text NOT NULL PRIMARY KEY,
    value text NOT NULL
);

-- The store's name, for its whole life: nodes refuse to go on with another one.
INSERT INTO store_meta (key, value) VALUES
    ('store_id', replace(gen_random_uuid()::text, '-', '')),
    ('layout', current_setting('conntracct.layout'));

-- The one process that may write. Whoever starts takes the row over; a process that finds
-- another token in it stops. Each transaction that writes flows holds the row until it ends, so
-- who takes over sees all that was committed before. The last numbers given out outlive the rows
-- that carry them.
CREATE TABLE writer (
    id         int4 NOT NULL PRIMARY KEY CHECK (id = 1),
    token      uuid NOT NULL,
    taken      timestamptz NOT NULL,
    commits    int8 NOT NULL DEFAULT 0,  -- so that who writes notices a restored backup
    last_entry int8 NOT NULL DEFAULT 0,
    last_path  int8 NOT NULL DEFAULT 0,
    last_node  int4 NOT NULL DEFAULT 0,
    last_netns int4 NOT NULL DEFAULT 0,
    open_upto  int8 NOT NULL DEFAULT 0  -- entries up to this one are in flow_open, if they are open
) WITH (fillfactor = 10);

CREATE TABLE node (
    id          int4 NOT NULL PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    -- The epoch whose frames were committed last, and since when only that one's were.
    epoch       uuid NOT NULL,
    epoch_since timestamptz NOT NULL
);

-- Progress: every frame of (node, epoch) up to committed_seq is in, none after it.
CREATE TABLE node_epoch (
    committed_seq int8 NOT NULL,
    sweep_begin   int8,                  -- boottime (ns) of the last complete sweep's begin
    begun         timestamptz NOT NULL,  -- receipt of its first frame
    last_gap      timestamptz,           -- receipt of the last gap that stood in place of a frame
    node          int4 NOT NULL REFERENCES node (id),
    epoch         uuid NOT NULL,
    sweep_boot    uuid,                  -- the boot that sweep_begin belongs to
    last_digest   bytea NOT NULL,        -- SHA-256 of the frame committed_seq
    PRIMARY KEY (node, epoch)
) WITH (fillfactor = 50);

-- A network namespace of one boot: with its node, an observer of flows. Inodes are reused after
-- a boot, and exceed 31 bits.
CREATE TABLE netns (
    inode int8 NOT NULL,
    id    int4 NOT NULL PRIMARY KEY,
    node  int4 NOT NULL REFERENCES node (id),
    boot  uuid NOT NULL,
    UNIQUE (node, boot, inode)
);

-- One conntrack entry as one observer sees it: a row at its first sight, never changed by counting.
-- Without foreign keys: each would be a look-up a row.
CREATE TABLE flow_observer (
    entry          int8 NOT NULL PRIMARY KEY,
    path           int8 NOT NULL,      -- the generation of the flow on the network
    view_inside    int8 NOT NULL,      -- hash of protocol and both ends, direction-insensitive
    view_outside   int8,               -- NULL where equal
    raw_start      int8 NOT NULL,      -- kernel stamp in nanoseconds, a name; 0 = none
    kernel_id      int8 NOT NULL,      -- in its place where there is none, else 0
    start          timestamptz,        -- the stamp as a time, where the clocks confirm it
    seen           timestamptz NOT NULL,  -- receipt of its first record
    -- What rows that were folded away had counted (raw).
    base_packets_orig  int8 NOT NULL DEFAULT 0,
    base_bytes_orig    int8 NOT NULL DEFAULT 0,
    base_packets_reply int8 NOT NULL DEFAULT 0,
    base_bytes_reply   int8 NOT NULL DEFAULT 0,
    node           int4 NOT NULL,
    netns          int4 NOT NULL,
    zone           int4 NOT NULL,
    sport          int4 NOT NULL,      -- ICMP: id
    dport          int4 NOT NULL,      -- ICMP: type << 8 | code
    nat_sport      int4,               -- outside view: the inverse of the reply tuple,
    nat_dport      int4,               -- NULL where equal to the inside one
    domain_inside  int4 NOT NULL DEFAULT 0,
    domain_outside int4 NOT NULL DEFAULT 0,
    family         int2 NOT NULL,      -- 2 = IPv4, 10 = IPv6
    proto          int2 NOT NULL,
    fresh          bool NOT NULL,
    src            inet NOT NULL,      -- inside view: the original tuple
    dst            inet NOT NULL,
    nat_src        inet,
    nat_dst        inet,
    base_segments  bytea
);

-- Identity. The namespace says node and boot; the stamp grows with time, so inserts stay local. The
-- hash stands for the tuple: numbers compare at a fraction of the cost of addresses.
CREATE UNIQUE INDEX flow_observer_identity ON flow_observer
    (netns, raw_start, kernel_id, view_inside, zone);

-- Ends, in the order they were told: a row that is only ever added costs a fraction of changing the
-- entry's own, with its indexes. The last word counts; an entry that is open again has none.
CREATE TABLE flow_end (
    entry int8 NOT NULL,
    ended timestamptz NOT NULL  -- receipt of the entry's last record
);

CREATE INDEX flow_end_entry ON flow_end (entry);
CREATE INDEX flow_end_ended ON flow_end USING brin (ended);

-- The open ones of the entries up to writer.open_upto, so that who starts need not look at all
-- that ever ended.
CREATE TABLE flow_open (
    entry int8 NOT NULL PRIMARY KEY
);

-- Entries with their ends.
CREATE VIEW flow_entry AS
    SELECT o.*, (SELECT max(e.ended) FROM flow_end e WHERE e.entry = o.entry) AS ended
    FROM flow_observer o;

-- Paths that turned out to be others: two observers saw one generation of a flow. Flat: into_path is
-- never a path that is given up.
CREATE TABLE path_alias (
    path      int8 NOT NULL PRIMARY KEY,
    into_path int8 NOT NULL
);

CREATE INDEX path_alias_into ON path_alias (into_path);

-- Rows of flow with an impossible time: kept, counted, in no series.
CREATE TABLE flow_stray (
    time              timestamptz NOT NULL,  -- the growth came no later than this
    since             timestamptz,           -- and no earlier than this; NULL = unknown
    entry_start       timestamptz,
    path              int8 NOT NULL,
    entry             int8 NOT NULL,
    bytes_orig        int8 NOT NULL,
    bytes_reply       int8 NOT NULL,
    packets_orig      int8 NOT NULL,
    packets_reply     int8 NOT NULL,
    raw_bytes_orig    int8,
    raw_bytes_reply   int8,
    raw_packets_orig  int8,
    raw_packets_reply int8,
    batch_seq         int8 NOT NULL,
    mark              int8 NOT NULL,
    since_slack       int4,                  -- milliseconds either bound may be wrong; NULL = unknown
    node              int4 NOT NULL,
    netns             int4 NOT NULL,
    zone              int4 NOT NULL,
    sport             int4 NOT NULL,
    dport             int4 NOT NULL,
    nat_sport         int4,
    nat_dport         int4,
    flags             int4 NOT NULL,         -- kernel status in the low 16 bits, ours above
    family            int2 NOT NULL,
    proto             int2 NOT NULL,
    tcp_state         int2 NOT NULL,
    src               inet NOT NULL,
    dst               inet NOT NULL,
    nat_src           inet,
    nat_dst           inet
);

-- One row a record: what one entry grew by, and when. The plain columns are counted (each flow
-- once, however many observers saw it), raw_* is what this observer reported, NULL where equal.
DO $$
BEGIN
    IF current_setting('conntracct.layout') = 'hypertable' THEN
        CREATE TABLE flow (LIKE flow_stray);
        PERFORM create_hypertable('flow', 'time', chunk_time_interval => interval '1 day',
                                  create_default_indexes => false);
    ELSE
        CREATE TABLE flow (LIKE flow_stray) PARTITION BY RANGE (time);
    END IF;
END $$;

-- Growth is drawn over its interval: a picture of five minutes asks for rows that end after its
-- beginning, up to the longest spool's age later, and began before its end. With both bounds in the
-- index it reads the pages around them; by time alone it reads all pages up to now.
CREATE INDEX flow_time ON flow USING brin (time, since) WITH (pages_per_range = 32);

ALTER TABLE flow_stray ADD COLUMN receipt timestamptz NOT NULL;
CREATE INDEX flow_stray_receipt ON flow_stray (receipt);

CREATE VIEW flow_all AS
    SELECT flow.*, NULL::timestamptz AS receipt FROM flow
    UNION ALL
    SELECT * FROM flow_stray;

-- The history of frames: what arrived when, and what the kernel's own totals were.
CREATE TABLE ingest_batch_columns (
    received            timestamptz NOT NULL,
    wall                timestamptz NOT NULL,  -- the node's wall clock at the interval's end
    seq                 int8 NOT NULL,
    interval            int8 NOT NULL,         -- its number: aligned wall-clock end / length
    live_flows          int8 NOT NULL,         -- the kernel's totals, in an interval's last part
    live_packets_orig   int8 NOT NULL,
    live_bytes_orig     int8 NOT NULL,
    live_packets_reply  int8 NOT NULL,
    live_bytes_reply    int8 NOT NULL,
    ended_flows         int8 NOT NULL,
    ended_packets_orig  int8 NOT NULL,
    ended_bytes_orig    int8 NOT NULL,
    ended_packets_reply int8 NOT NULL,
    ended_bytes_reply   int8 NOT NULL,
    uncounted           int8 NOT NULL,
    ended_unseen        int8 NOT NULL,
    records             int8 NOT NULL,
    interval_ms         int8 NOT NULL,
    part                int8 NOT NULL,
    parts               int8 NOT NULL,         -- 0: more parts follow
    node                int4 NOT NULL,
    paused              bool NOT NULL,
    epoch               uuid NOT NULL,
    digest              bytea NOT NULL
);

DO $$
BEGIN
    IF current_setting('conntracct.layout') = 'hypertable' THEN
        CREATE TABLE ingest_batch (LIKE ingest_batch_columns);
        PERFORM create_hypertable('ingest_batch', 'received',
                                  chunk_time_interval => interval '1 day',
                                  create_default_indexes => false);
    ELSE
        CREATE TABLE ingest_batch (LIKE ingest_batch_columns) PARTITION BY RANGE (received);
    END IF;
END $$;

DROP TABLE ingest_batch_columns;

-- A key of a partitioned table must hold what it is partitioned by.
ALTER TABLE ingest_batch ADD PRIMARY KEY (node, epoch, seq, received);
CREATE INDEX ingest_batch_received ON ingest_batch USING brin (received);

-- Numbers that carry no records, and what is known to be missing.
CREATE TABLE gap (
    first_seq     int8 NOT NULL,
    last_seq      int8 NOT NULL,
    at            timestamptz NOT NULL,  -- the node's wall clock when it was written
    received      timestamptz NOT NULL,
    flows         int8 NOT NULL,
    packets_orig  int8 NOT NULL,
    bytes_orig    int8 NOT NULL,
    packets_reply int8 NOT NULL,
    bytes_reply   int8 NOT NULL,
    node          int4 NOT NULL,
    reason        int4 NOT NULL,  -- 1 rejected, 2 unreadable, 3 forgotten, 4 dropped ends, 5 renamed
    epoch         uuid NOT NULL,
    boot          uuid NOT NULL,
    note          text NOT NULL,
    PRIMARY KEY (node, epoch, first_seq)
);

CREATE INDEX gap_received ON gap (received);
