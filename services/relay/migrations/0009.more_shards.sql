-- A row for each shard of the outbox, of which a new order schema may have more than four.
-- depends: 0008.watermark_after_a_restore

-- The order service's schema is migrated first. If it has no record yet, the outbox has four shards, and keeps them.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = 'orders' AND relname = 'relay_shards'
    ) THEN
        INSERT INTO relay.shards (shard)
        SELECT shard FROM generate_series(4, 63) AS shard JOIN orders.relay_shards ON shard < shards;
    END IF;
END
$$;
