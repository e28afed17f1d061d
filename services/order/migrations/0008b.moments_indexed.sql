-- The second step: the index of timestamps in each partition. Reading a partition may take long, and blocks nobody.
-- depends: 0008.moments_that_can_be_closed
-- transactional: false
-- lock_timeout: 1h
-- statement_timeout: 6h

-- Each row is a statement. Building an index waits for older transactions, and nobody waits behind it. A build that was
-- cut off leaves an invalid index, which is dropped first.
WITH partitions AS (
    SELECT partition.relname AS name, partition.relname || '_occurred_at_idx' AS index_name
    FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
    WHERE inhparent = 'orders.outbox'::regclass
), found AS (
    SELECT name, index_name, indisvalid AS valid
    FROM partitions LEFT JOIN pg_index ON indexrelid = to_regclass(format('orders.%I', index_name))
)
SELECT format('DROP INDEX CONCURRENTLY orders.%I', index_name) FROM found WHERE NOT valid
UNION ALL
SELECT format(
    'CREATE INDEX CONCURRENTLY %I ON orders.%I USING brin (occurred_at) WITH (pages_per_range = 32, autosummarize = on)',
    index_name, name
) FROM found WHERE valid IS NULL;
