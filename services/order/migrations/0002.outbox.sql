-- The outbox: events are written in the transaction that changes their order; the relay publishes them to Kafka.
-- depends: 0001.orders

CREATE TABLE orders.outbox (
    outbox_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id      uuid NOT NULL,
    order_id      uuid NOT NULL,
    sequence      bigint NOT NULL CHECK (sequence >= 1),
    type          text NOT NULL,
    -- The final bytes. The limit leaves room for key, headers and framing below Kafka's default of 1 MiB a
    -- record batch, so that an event too large is noticed by who writes it.
    payload       bytea NOT NULL CHECK (octet_length(payload) BETWEEN 1 AND 786432),
    traceparent   text,
    occurred_at   timestamptz NOT NULL DEFAULT now(),
    -- The last byte of a UUIDv7 is random. A hash function of Postgres' own may change with its versions.
    shard         smallint NOT NULL GENERATED ALWAYS AS ((get_byte(uuid_send(order_id), 15) & 3)::smallint) STORED,
    status        text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'SENT', 'PARKED')),
    sent_at       timestamptz,
    parked_at     timestamptz,
    parked_reason text,
    UNIQUE (order_id, sequence),
    CHECK ((status = 'SENT') = (sent_at IS NOT NULL)),
    CHECK ((status = 'PARKED') = (parked_at IS NOT NULL AND parked_reason IS NOT NULL))
) WITH (
    -- Each event is updated once: remove the dead rows long before they are a fifth of a large table.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000
);

CREATE INDEX outbox_pending ON orders.outbox (shard, outbox_id) WHERE status = 'PENDING';
CREATE INDEX outbox_parked ON orders.outbox (shard, order_id) WHERE status = 'PARKED';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'relay_service') THEN
        GRANT USAGE ON SCHEMA orders TO relay_service;
        GRANT SELECT ON orders.outbox TO relay_service;
        GRANT UPDATE (status, sent_at, parked_at, parked_reason) ON orders.outbox TO relay_service;
    END IF;
END
$$;
