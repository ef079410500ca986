-- What the aggregator stores, in SQLite. Migrations are append-only: never edit one that was
-- released, add the next.
--
-- Times are integer microseconds since 1970-01-01T00:00:00Z by the aggregator's clock; NULL means
-- unknown. "Received" and "seen" are times of receipt. Addresses are blobs of 4 or 16 bytes.
-- Bytes are counted from the network header on, as conntrack counts them. 128-bit names (epoch,
-- boot, store) are blobs of 16 bytes or, in store_meta, their hexadecimal text.

CREATE TABLE store_meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The store's name, for its whole life: nodes refuse to go on with another one.
INSERT INTO store_meta (key, value) VALUES ('store_id', lower(hex(randomblob(16))));

-- The one process that may write. Whoever starts takes the row over; a process that finds
-- another token in it stops.
CREATE TABLE writer (
    id        INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    token     BLOB NOT NULL,
    taken     INTEGER NOT NULL,
    open_upto INTEGER NOT NULL DEFAULT 0  -- entries up to this one are in flow_open, if open
) STRICT;

CREATE TABLE node (
    id          INTEGER NOT NULL PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    -- The epoch whose frames were committed last, and since when only that one's were.
    epoch       BLOB NOT NULL,
    epoch_since INTEGER NOT NULL
) STRICT;

-- Progress: every frame of (node, epoch) up to committed_seq is in, none after it.
CREATE TABLE node_epoch (
    node          INTEGER NOT NULL REFERENCES node (id),
    epoch         BLOB NOT NULL,
    committed_seq INTEGER NOT NULL,
    last_digest   BLOB NOT NULL,     -- SHA-256 of the frame committed_seq
    begun         INTEGER NOT NULL,  -- receipt of its first frame
    last_gap      INTEGER,           -- receipt of the last gap that stood in place of a frame
    sweep_boot    BLOB,              -- boot and boottime (ns) of the last complete sweep's begin
    sweep_begin   INTEGER,
    PRIMARY KEY (node, epoch)
) STRICT, WITHOUT ROWID;

-- A network namespace of one boot: with its node, an observer of flows. Inodes are reused after
-- a boot, and exceed 31 bits.
CREATE TABLE netns (
    id    INTEGER NOT NULL PRIMARY KEY,
    node  INTEGER NOT NULL REFERENCES node (id),
    inode INTEGER NOT NULL,
    boot  BLOB NOT NULL,
    UNIQUE (node, boot, inode)
) STRICT;

-- One conntrack entry as one observer sees it: a row at its first sight, never changed by counting.
CREATE TABLE flow_observer (
    entry          INTEGER NOT NULL PRIMARY KEY,
    path           INTEGER NOT NULL,  -- the generation of the flow on the network
    node           INTEGER NOT NULL REFERENCES node (id),
    netns          INTEGER NOT NULL REFERENCES netns (id),
    zone           INTEGER NOT NULL,
    family         INTEGER NOT NULL,
    proto          INTEGER NOT NULL,
    sport          INTEGER NOT NULL,  -- ICMP: id
    dport          INTEGER NOT NULL,  -- ICMP: type << 8 | code
    src            BLOB NOT NULL,     -- inside view: the original tuple
    dst            BLOB NOT NULL,
    nat_sport      INTEGER,           -- outside view: the inverse of the reply tuple,
    nat_dport      INTEGER,           -- NULL where equal to the inside one
    nat_src        BLOB,
    nat_dst        BLOB,
    domain_inside  INTEGER NOT NULL DEFAULT 0,
    domain_outside INTEGER NOT NULL DEFAULT 0,
    view_inside    INTEGER NOT NULL,  -- hash of protocol and both ends, direction-insensitive
    view_outside   INTEGER,           -- NULL where equal
    raw_start      INTEGER NOT NULL,  -- kernel stamp in nanoseconds, a name; 0 = none
    kernel_id      INTEGER NOT NULL,  -- in its place where there is none, else 0
    start          INTEGER,           -- the stamp as a time, where the clocks confirm it
    fresh          INTEGER NOT NULL,
    seen           INTEGER NOT NULL,  -- receipt of its first record
    -- What rows that were folded away had counted (raw), and when that happened.
    base_packets_orig  INTEGER NOT NULL DEFAULT 0,
    base_bytes_orig    INTEGER NOT NULL DEFAULT 0,
    base_packets_reply INTEGER NOT NULL DEFAULT 0,
    base_bytes_reply   INTEGER NOT NULL DEFAULT 0,
    base_segments      BLOB
) STRICT;

-- Identity. The namespace says node and boot; the stamp grows with time, so inserts stay local. The
-- hash stands for the tuple: numbers are shorter than addresses.
CREATE UNIQUE INDEX flow_observer_identity ON flow_observer
    (netns, raw_start, kernel_id, view_inside, zone);

-- Ends, in the order they were told. The last word counts; an entry that is open again has none.
CREATE TABLE flow_end (
    entry INTEGER NOT NULL,
    ended INTEGER NOT NULL  -- receipt of the entry's last record
) STRICT;

CREATE INDEX flow_end_entry ON flow_end (entry);
CREATE INDEX flow_end_ended ON flow_end (ended);

-- The open ones of the entries up to writer.open_upto, so that who starts need not look at all
-- that ever ended.
CREATE TABLE flow_open (
    entry INTEGER NOT NULL PRIMARY KEY
) STRICT;

-- Entries with their ends.
CREATE VIEW flow_entry AS
    SELECT o.*, (SELECT max(e.ended) FROM flow_end e WHERE e.entry = o.entry) AS ended
    FROM flow_observer o;

-- Paths that turned out to be others: two observers saw one generation of a flow. Flat: into_path is
-- never a path that is given up.
CREATE TABLE path_alias (
    path      INTEGER NOT NULL PRIMARY KEY,
    into_path INTEGER NOT NULL
) STRICT;

CREATE INDEX path_alias_into ON path_alias (into_path);

-- One row a record: what one entry grew by, and when. The plain columns are counted (each flow
-- once, however many observers saw it), raw_* is what this observer reported, NULL where equal.
CREATE TABLE flow (
    time              INTEGER NOT NULL,  -- the growth came no later than this
    since             INTEGER,           -- and no earlier than this; NULL = unknown
    entry_start       INTEGER,
    path              INTEGER NOT NULL,
    entry             INTEGER NOT NULL,
    bytes_orig        INTEGER NOT NULL,
    bytes_reply       INTEGER NOT NULL,
    packets_orig      INTEGER NOT NULL,
    packets_reply     INTEGER NOT NULL,
    raw_bytes_orig    INTEGER,
    raw_bytes_reply   INTEGER,
    raw_packets_orig  INTEGER,
    raw_packets_reply INTEGER,
    batch_seq         INTEGER NOT NULL,
    mark              INTEGER NOT NULL,
    since_slack       INTEGER,           -- milliseconds either bound may be wrong; NULL = unknown
    node              INTEGER NOT NULL,
    netns             INTEGER NOT NULL,
    zone              INTEGER NOT NULL,
    sport             INTEGER NOT NULL,
    dport             INTEGER NOT NULL,
    nat_sport         INTEGER,
    nat_dport         INTEGER,
    flags             INTEGER NOT NULL,  -- kernel status in the low 16 bits, ours above
    family            INTEGER NOT NULL,
    proto             INTEGER NOT NULL,
    tcp_state         INTEGER NOT NULL,
    src               BLOB NOT NULL,
    dst               BLOB NOT NULL,
    nat_src           BLOB,
    nat_dst           BLOB
) STRICT;

CREATE INDEX flow_time ON flow (time);

-- Rows with an impossible time: kept, counted, in no series.
CREATE TABLE flow_stray (
    time              INTEGER NOT NULL,
    since             INTEGER,
    entry_start       INTEGER,
    path              INTEGER NOT NULL,
    entry             INTEGER NOT NULL,
    bytes_orig        INTEGER NOT NULL,
    bytes_reply       INTEGER NOT NULL,
    packets_orig      INTEGER NOT NULL,
    packets_reply     INTEGER NOT NULL,
    raw_bytes_orig    INTEGER,
    raw_bytes_reply   INTEGER,
    raw_packets_orig  INTEGER,
    raw_packets_reply INTEGER,
    batch_seq         INTEGER NOT NULL,
    mark              INTEGER NOT NULL,
    since_slack       INTEGER,
    node              INTEGER NOT NULL,
    netns             INTEGER NOT NULL,
    zone              INTEGER NOT NULL,
    sport             INTEGER NOT NULL,
    dport             INTEGER NOT NULL,
    nat_sport         INTEGER,
    nat_dport         INTEGER,
    flags             INTEGER NOT NULL,
    family            INTEGER NOT NULL,
    proto             INTEGER NOT NULL,
    tcp_state         INTEGER NOT NULL,
    src               BLOB NOT NULL,
    dst               BLOB NOT NULL,
    nat_src           BLOB,
    nat_dst           BLOB,
    receipt           INTEGER NOT NULL
) STRICT;

CREATE INDEX flow_stray_receipt ON flow_stray (receipt);

CREATE VIEW flow_all AS
    SELECT flow.*, NULL AS receipt FROM flow
    UNION ALL
    SELECT * FROM flow_stray;

-- The history of frames: what arrived when, and what the kernel's own totals were.
CREATE TABLE ingest_batch (
    node                INTEGER NOT NULL,
    epoch               BLOB NOT NULL,
    seq                 INTEGER NOT NULL,
    received            INTEGER NOT NULL,
    digest              BLOB NOT NULL,
    records             INTEGER NOT NULL,
    interval            INTEGER NOT NULL,  -- its number: aligned wall-clock end / length
    interval_ms         INTEGER NOT NULL,
    part                INTEGER NOT NULL,
    parts               INTEGER NOT NULL,  -- 0: more parts follow
    wall                INTEGER NOT NULL,  -- the node's wall clock at the interval's end
    paused              INTEGER NOT NULL,
    live_flows          INTEGER NOT NULL,  -- the kernel's totals, in an interval's last part
    live_packets_orig   INTEGER NOT NULL,
    live_bytes_orig     INTEGER NOT NULL,
    live_packets_reply  INTEGER NOT NULL,
    live_bytes_reply    INTEGER NOT NULL,
    ended_flows         INTEGER NOT NULL,
    ended_packets_orig  INTEGER NOT NULL,
    ended_bytes_orig    INTEGER NOT NULL,
    ended_packets_reply INTEGER NOT NULL,
    ended_bytes_reply   INTEGER NOT NULL,
    uncounted           INTEGER NOT NULL,
    ended_unseen        INTEGER NOT NULL,
    PRIMARY KEY (node, epoch, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX ingest_batch_received ON ingest_batch (received);

-- Numbers that carry no records, and what is known to be missing.
CREATE TABLE gap (
    node          INTEGER NOT NULL,
    epoch         BLOB NOT NULL,
    first_seq     INTEGER NOT NULL,
    last_seq      INTEGER NOT NULL,
    reason        INTEGER NOT NULL,  -- 1 rejected, 2 unreadable, 3 forgotten, 4 dropped ends
    boot          BLOB NOT NULL,
    at            INTEGER NOT NULL,  -- the node's wall clock when it was written
    received      INTEGER NOT NULL,
    flows         INTEGER NOT NULL,
    packets_orig  INTEGER NOT NULL,
    bytes_orig    INTEGER NOT NULL,
    packets_reply INTEGER NOT NULL,
    bytes_reply   INTEGER NOT NULL,
    note          TEXT NOT NULL,
    PRIMARY KEY (node, epoch, first_seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX gap_received ON gap (received);
