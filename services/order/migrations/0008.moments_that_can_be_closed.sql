-- An event's moment is one that can be closed: "everything up to T" can be known to be complete.
-- depends: 0005c.outbox_partitions

-- Rather fail and be run again than queue in front of checkouts. Building the index reads each partition once.
SET LOCAL lock_timeout = '2s';

-- The clock is read when the transaction has its id, which the default gives it if it has none: so of two transactions
-- the one that read an earlier moment never has an id that is still to be given when the later moment is read. The
-- relay's watermark rests on that (relay.advance_watermark). now() would be the transaction's start, which may be long
-- before it has an id.
ALTER TABLE orders.outbox ALTER COLUMN occurred_at
    SET DEFAULT CASE WHEN pg_current_xact_id() IS NOT NULL THEN clock_timestamp() END;

-- What the digest of a minute is read by. Rows lie in the order in which they were written, nearly that of their moments,
-- so a summary of each few pages does, and an insert has no tree to go down.
CREATE INDEX outbox_occurred ON orders.outbox USING brin (occurred_at) WITH (pages_per_range = 32, autosummarize = on);
