-- The platform's own records: what was received, what was made of it, how far it was read, and how far it is proven.

CREATE TABLE IF NOT EXISTS platform.offsets (
    topic     text NOT NULL,
    partition integer NOT NULL,
    position  bigint NOT NULL, -- the next offset to read
    PRIMARY KEY (topic, partition)
);

-- How far each order's stream is applied. Whoever works on an order holds its row.
CREATE TABLE IF NOT EXISTS platform.streams (
    order_id      uuid PRIMARY KEY,
    sequence      bigint NOT NULL DEFAULT 0,
    waiting_since timestamptz, -- while later events wait for a missing one
    asked_at      timestamptz  -- when the relay was asked for it last
);
CREATE INDEX IF NOT EXISTS streams_waiting ON platform.streams (waiting_since) WHERE waiting_since IS NOT NULL;

CREATE TABLE IF NOT EXISTS platform.inbox (
    event_id    uuid PRIMARY KEY,
    order_id    uuid NOT NULL,
    sequence    bigint NOT NULL,
    type        text NOT NULL,
    occurred_at timestamptz NOT NULL,
    shard       smallint NOT NULL,
    payload     bytea NOT NULL,
    sha256      bytea NOT NULL,
    state       text NOT NULL CHECK (state IN ('APPLIED', 'IGNORED', 'WAITING', 'LATE')),
    source      text NOT NULL CHECK (source IN ('topic', 'relay', 'dead letter')),
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (order_id, sequence)
);
CREATE INDEX IF NOT EXISTS inbox_occurred ON platform.inbox (occurred_at);

-- The effects: an order as this platform sees it, and sums that show at once if an event counted twice or not at all.
CREATE TABLE IF NOT EXISTS platform.orders (
    order_id     uuid PRIMARY KEY,
    status       text NOT NULL,
    user_id      text NOT NULL,
    total_amount bigint NOT NULL,
    currency     text NOT NULL,
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS platform.sales (
    currency        text PRIMARY KEY,
    paid_orders     bigint NOT NULL,
    paid_amount     numeric NOT NULL,
    refunded_orders bigint NOT NULL,
    refunded_amount numeric NOT NULL
);

-- Records that could not be read, as they were.
CREATE TABLE IF NOT EXISTS platform.dead_letters (
    topic         text NOT NULL,
    partition     integer NOT NULL,
    record_offset bigint NOT NULL,
    headers       jsonb NOT NULL, -- pairs of name and value, the value in hex
    value         bytea,
    order_id      uuid,
    sequence      bigint,
    reason        text NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at   timestamptz,
    PRIMARY KEY (topic, partition, record_offset)
);
CREATE INDEX IF NOT EXISTS dead_letters_unresolved ON platform.dead_letters (order_id, sequence) WHERE resolved_at IS NULL;

CREATE TABLE IF NOT EXISTS platform.watermarks (
    topic         text PRIMARY KEY,
    up_to         timestamptz NOT NULL,
    partitions    jsonb NOT NULL,
    missing       jsonb NOT NULL,
    missing_count bigint NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    checked_up_to timestamptz -- every minute before this one has a row in buckets
);

-- What was found when a minute of a shard was compared.
CREATE TABLE IF NOT EXISTS platform.buckets (
    bucket     timestamptz NOT NULL,
    shard      smallint NOT NULL,
    state      text NOT NULL CHECK (state IN ('EQUAL', 'OPEN', 'DIFFERS', 'STALE')),
    findings   jsonb NOT NULL, -- what differed when it did: [{"kind", "event_id", "order_id", "sequence"}]
    compared_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (bucket, shard)
);
CREATE INDEX IF NOT EXISTS buckets_unproven ON platform.buckets (bucket, shard) WHERE state <> 'EQUAL';

CREATE TABLE IF NOT EXISTS platform.duties (
    duty        text PRIMARY KEY,
    holder      text NOT NULL,
    lease_until timestamptz NOT NULL
);
