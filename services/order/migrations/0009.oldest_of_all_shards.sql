-- The oldest unpublished event of as many shards as there are.
-- depends: 0008c.moments_attached 0002b.relay_shards

-- Return the age in seconds of the oldest event that the relay has not published; 0 if there is none. The oldest event
-- has the lowest id. The settings force a scan of the index of pending events, independently of the statistics.
CREATE OR REPLACE FUNCTION orders.oldest_unpublished_seconds() RETURNS double precision
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET random_page_cost = 0
SET seq_page_cost = 0
SET jit = off
AS $$
DECLARE
    v_floor bigint := (SELECT min(partition) << 40 FROM orders.outbox_partitions WHERE published_at IS NULL);
    v_shards integer := (SELECT shards FROM orders.relay_shards);
    v_oldest timestamptz;
    v_found timestamptz;
BEGIN
    FOR v_shard IN 0..v_shards - 1 LOOP
        SELECT occurred_at INTO v_found FROM orders.outbox
        WHERE shard = v_shard AND status = 'PENDING' AND outbox_id >= v_floor
        ORDER BY outbox_id LIMIT 1;
        v_oldest := least(v_oldest, v_found);
    END LOOP;
    RETURN coalesce(greatest(extract(epoch FROM clock_timestamp() - v_oldest), 0), 0);
END
$$;

-- Here and not only in post-apply.sql: running processes call the function at once.
DO $$
BEGIN
    IF (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'orders') = 'order_owner' THEN
        GRANT SELECT ON orders.relay_shards TO order_service;
    END IF;
END
$$;
