-- Claims whose cost does not depend on the number of published events; and the leader that removes published events.
-- depends: 0002.parked

ALTER TABLE relay.shards
    -- No event below is or becomes pending: the outbox's partitions below are completely published.
    ADD COLUMN scan_floor bigint NOT NULL DEFAULT 0,
    -- Where a claim begins: the last id that was claimed or marked at least half a second ago.
    ADD COLUMN scan_from bigint NOT NULL DEFAULT 0,
    ADD COLUMN scan_next bigint NOT NULL DEFAULT 0, -- the next value of scan_from
    ADD COLUMN scan_moved_at timestamptz NOT NULL DEFAULT '-infinity',
    -- When to search below scan_from again, and how long the last such search took.
    ADD COLUMN sweep_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN sweep_took interval NOT NULL DEFAULT '0';

-- Work that one replica at a time, the leader, does for all.
CREATE TABLE relay.duties (
    duty        text PRIMARY KEY,
    holder      text NOT NULL,
    lease_until timestamptz NOT NULL
);

-- Do one cycle of a shard in one call: mark the published batch, claim the next one, renew the lease.
--
-- It is a function because a relay may be paused at any point: in a transaction of several calls, a paused relay would
-- keep the shard's row locked, and no other replica could take over. Later statements of a function also see the
-- changes of earlier ones. The settings bind every statement to its index, independently of the statistics at planning
-- time. They also work behind a connection pooler. Without sorts and bitmaps, the only plan left follows an index in
-- order and stops at the limit. If pages cost nothing, the index without other rows is the cheapest.
--
-- A claim doesn't begin at the oldest event. Published events leave dead entries in the index of pending events. While
-- an older transaction stays open, they can't be removed, and each claim would read past all of them. So a claim begins
-- at scan_from, half a second or more behind the last claim. A sweep from scan_floor finds events that were committed
-- later with a lower id. A sweep's time grows with the dead entries. So the next sweep waits forty-nine times as long
-- as the last one took, and sweeps cost at most a fiftieth of the time. The start of a claim affects only its duration:
--
-- - An event below scan_from waits for a sweep and is never lost: a sweep reads all events that may be pending.
-- - Its order stays in sequence: an event is only claimed if no earlier event of its order is pending below scan_from.
--
-- Raises RLY01 when the shard is held under another epoch or has another batch number than the caller believes.
-- Returns the claimed events in order of outbox_id; the shard's row keeps their ids until the next call.
CREATE OR REPLACE FUNCTION relay.cycle(
    p_shard smallint, p_epoch bigint, p_batch_number bigint, p_lease_seconds double precision,
    p_events_max integer, p_bytes_max bigint, p_in_transaction boolean
)
RETURNS TABLE (
    outbox_id bigint, event_id text, order_id text, sequence bigint, type text, payload bytea, traceparent text,
    occurred_at timestamptz
)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET random_page_cost = 0
SET seq_page_cost = 0
SET jit = off
SET work_mem = '64MB' -- the function keeps a batch twice, and should not write it to disk
AS $$
#variable_conflict use_column
DECLARE
    v_place tid;
    v_outbox_ids bigint[];
    v_first bigint;
    v_last bigint;
    v_floor bigint;
    v_from bigint;
    v_late bigint;
    v_moved_at timestamptz;
    v_sweep_at timestamptz;
    v_now timestamptz := clock_timestamp();
    v_sweep_began timestamptz;
    v_sweep_took interval;
    v_any_parked boolean;
BEGIN
    SELECT ctid, outbox_ids, scan_floor, greatest(scan_floor, scan_from), scan_moved_at, sweep_at
    INTO v_place, v_outbox_ids, v_floor, v_from, v_moved_at, v_sweep_at
    FROM relay.shards
    WHERE shard = p_shard AND epoch = p_epoch AND batch_number = p_batch_number
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'shard % is not held under epoch % with batch %', p_shard, p_epoch, p_batch_number
            USING ERRCODE = 'RLY01';
    END IF;

    IF v_outbox_ids <> '{}' THEN
        SELECT min(id), max(id) INTO v_first, v_last FROM unnest(v_outbox_ids) AS id;
        UPDATE orders.outbox SET status = 'SENT', sent_at = v_now
        WHERE outbox_id = ANY (v_outbox_ids) AND status = 'PENDING'
            AND outbox_id BETWEEN v_first AND v_last; -- so that other partitions are not searched
    END IF;

    -- An event may join a parked order at any time, so the claim below checks it again in its own snapshot.
    v_any_parked := (
        SELECT true FROM orders.outbox WHERE shard = p_shard AND status = 'PARKED' AND outbox_id >= v_floor
        ORDER BY order_id LIMIT 1
    ) IS NOT NULL;
    IF v_any_parked THEN
        UPDATE orders.outbox AS follower
        SET status = 'PARKED', parked_at = now(), parked_reason = 'follows a parked event'
        FROM (
            SELECT order_id, min(outbox_id) AS outbox_id FROM orders.outbox
            WHERE shard = p_shard AND status = 'PARKED' AND outbox_id >= v_floor GROUP BY order_id
        ) AS parked
        WHERE follower.order_id = parked.order_id AND follower.status = 'PENDING'
            AND follower.outbox_id > parked.outbox_id AND follower.outbox_id >= v_floor;
    END IF;

    IF p_events_max > 0 AND v_from > v_floor AND clock_timestamp() >= v_sweep_at THEN
        v_sweep_began := clock_timestamp();
        SELECT outbox_id INTO v_late FROM orders.outbox
        WHERE shard = p_shard AND status = 'PENDING' AND outbox_id >= v_floor AND outbox_id < v_from
        ORDER BY outbox_id LIMIT 1;
        v_sweep_took := clock_timestamp() - v_sweep_began;
        v_sweep_at := clock_timestamp() + 49 * v_sweep_took;
        v_from := coalesce(v_late, v_from);
    END IF;

    RETURN QUERY
    WITH sized AS (
        SELECT *, sum(octet_length(payload)) OVER (ORDER BY outbox_id ROWS UNBOUNDED PRECEDING) AS bytes
        FROM (
            SELECT outbox_id, event_id, order_id, sequence, type, payload, traceparent, occurred_at
            FROM orders.outbox AS pending
            WHERE pending.shard = p_shard AND pending.status = 'PENDING' AND pending.outbox_id >= v_from
                -- Each subquery reads one row in an order that only the right index has. An EXISTS might scan all
                -- rows.
                AND (pending.sequence = 1 OR v_from = v_floor OR (
                    SELECT true FROM orders.outbox AS earlier
                    WHERE earlier.order_id = pending.order_id AND earlier.sequence < pending.sequence
                        AND earlier.outbox_id >= v_floor AND earlier.outbox_id < v_from
                        AND earlier.status IN ('PENDING', 'PARKED')
                    ORDER BY earlier.sequence LIMIT 1
                ) IS NULL)
                AND (NOT v_any_parked OR (
                    SELECT true FROM orders.outbox AS parked
                    WHERE parked.shard = p_shard AND parked.status = 'PARKED' AND parked.order_id = pending.order_id
                        AND parked.outbox_id >= v_floor AND parked.outbox_id < pending.outbox_id
                    ORDER BY parked.sequence LIMIT 1
                ) IS NULL)
            ORDER BY pending.outbox_id
            LIMIT p_events_max
        ) AS oldest
    ), batch AS MATERIALIZED (
        SELECT * FROM sized WHERE bytes <= p_bytes_max OR bytes = octet_length(payload) -- at least one
    ), claimed AS MATERIALIZED (
        SELECT coalesce(array_agg(outbox_id), '{}') AS outbox_ids, max(outbox_id) AS last FROM batch
    ), claim AS (
        UPDATE relay.shards SET
            lease_expires_at = clock_timestamp() + make_interval(secs => p_lease_seconds),
            outbox_ids = claimed.outbox_ids,
            in_transaction = p_in_transaction,
            declared = declared OR p_in_transaction, -- an interrupted take-over may not have set it
            batch_number = batch_number + CASE WHEN p_in_transaction AND claimed.last IS NOT NULL THEN 1 ELSE 0 END,
            sweep_at = v_sweep_at,
            sweep_took = coalesce(v_sweep_took, sweep_took),
            scan_from = CASE WHEN v_now >= v_moved_at + interval '0.5 seconds' THEN scan_next ELSE scan_from END,
            scan_next = CASE WHEN v_now >= v_moved_at + interval '0.5 seconds' THEN greatest(scan_next, claimed.last, v_last)
                        ELSE scan_next END,
            scan_moved_at = CASE WHEN v_now >= v_moved_at + interval '0.5 seconds' THEN v_now ELSE scan_moved_at END
        FROM claimed
        -- The row is locked above, so it still exists. Another search would read past its earlier versions again, and
        -- each cycle leaves one.
        WHERE shards.ctid = v_place
    )
    -- In stored order. Another sort would cost as much as the claim.
    SELECT outbox_id, event_id::text, order_id::text, sequence, type, payload, traceparent, occurred_at FROM batch;
END
$$;

-- Return those of the given shards for which a cycle may find events: one query for all costs less than a cycle of
-- each. If a shard's sweeps take long, it is returned whenever a sweep is due: only a cycle measures the time of
-- sweeps.
CREATE FUNCTION relay.shards_with_pending(p_shards smallint[]) RETURNS SETOF smallint
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET random_page_cost = 0
SET seq_page_cost = 0
SET jit = off
AS $$
DECLARE
    v_shard relay.shards;
    v_from bigint;
    v_found boolean;
BEGIN
    FOR v_shard IN SELECT * FROM relay.shards WHERE shard = ANY (p_shards) LOOP
        v_from := greatest(v_shard.scan_floor, v_shard.scan_from);
        v_found := (
            SELECT true FROM orders.outbox
            WHERE shard = v_shard.shard AND status = 'PENDING' AND outbox_id >= v_from
            ORDER BY outbox_id LIMIT 1
        ) IS NOT NULL;
        IF NOT v_found AND v_shard.sweep_at <= clock_timestamp() AND v_from > v_shard.scan_floor THEN
            v_found := v_shard.sweep_took > interval '1 millisecond' OR (
                SELECT true FROM orders.outbox
                WHERE shard = v_shard.shard AND status = 'PENDING'
                    AND outbox_id >= v_shard.scan_floor AND outbox_id < v_from
                ORDER BY outbox_id LIMIT 1
            ) IS NOT NULL;
        END IF;
        IF v_found THEN
            RETURN NEXT v_shard.shard;
        END IF;
    END LOOP;
END
$$;

-- Return the numbers of pending and parked events, by shard. Counting stops at p_count_max, because the exact size of a
-- larger backlog does not matter. The oldest event has the lowest id: an id is assigned shortly before the clock is
-- read.
CREATE FUNCTION relay.backlog(p_count_max integer)
RETURNS TABLE (shard smallint, pending bigint, parked bigint, oldest_seconds double precision)
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET random_page_cost = 0
SET seq_page_cost = 0
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    v_floor bigint;
BEGIN
    FOR shard, v_floor IN SELECT shards.shard, scan_floor FROM relay.shards ORDER BY shards.shard LOOP
        SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - (array_agg(occurred_at))[1]), 0)
        INTO pending, oldest_seconds
        FROM (
            SELECT waiting.occurred_at FROM orders.outbox AS waiting
            WHERE waiting.shard = backlog.shard AND waiting.status = 'PENDING' AND waiting.outbox_id >= v_floor
            ORDER BY waiting.outbox_id LIMIT p_count_max
        ) AS waiting;
        SELECT count(*) INTO parked FROM (
            SELECT FROM orders.outbox
            WHERE outbox.shard = backlog.shard AND outbox.status = 'PARKED' AND outbox.outbox_id >= v_floor
            ORDER BY outbox.order_id LIMIT p_count_max
        ) AS aside;
        RETURN NEXT;
    END LOOP;
END
$$;
