-- An event's timestamp can be closed: from then on, the events up to it are known to be complete.
-- depends: 0005c.outbox_partitions

-- The default first assigns the transaction an id, if it has none, and then reads the clock. So a transaction with an
-- earlier timestamp always has its id before a later timestamp is read. The relay's watermark depends on this
-- (relay.advance_watermark). now() would be the start of the transaction, which may be long before it has an id.
ALTER TABLE orders.outbox ALTER COLUMN occurred_at
    SET DEFAULT CASE WHEN pg_current_xact_id() IS NOT NULL THEN clock_timestamp() END;

-- Used to read the digest of a minute. Rows are stored in the order of writing, which is nearly the order of their
-- timestamps. So a summary per few pages is enough, and an insert does not have to descend a tree.
-- Only the index of the whole, which reads no row: the next migration makes those of the partitions beside traffic.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX outbox_occurred ON ONLY orders.outbox
    USING brin (occurred_at) WITH (pages_per_range = 32, autosummarize = on);
