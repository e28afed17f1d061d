-- Claims that cost the same however much was published before them, and whose duty it is to remove that.
-- depends: 0002.parked

ALTER TABLE relay.shards
    -- Nothing below waits or will: the outbox's partitions below are published for good.
    ADD COLUMN scan_floor bigint NOT NULL DEFAULT 0,
    -- Where a claim begins to look: the last id that was claimed or marked half a second ago or longer.
    ADD COLUMN scan_from bigint NOT NULL DEFAULT 0,
    ADD COLUMN scan_next bigint NOT NULL DEFAULT 0, -- what scan_from will be
    ADD COLUMN scan_moved_at timestamptz NOT NULL DEFAULT '-infinity',
    -- When to look below scan_from again, and how long it took last time.
    ADD COLUMN sweep_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN sweep_took interval NOT NULL DEFAULT '0';

-- What one replica at a time does for all.
CREATE TABLE relay.duties (
    duty        text PRIMARY KEY,
    holder      text NOT NULL,
    lease_until timestamptz NOT NULL
);

-- One cycle of a shard in one call: mark the batch that went out, claim the next one, renew the lease.
--
-- A function, because a relay may be paused anywhere: within a transaction of several calls it would keep the
-- shard's row locked, and nobody could take over. Later statements of a function also see what earlier ones did.
-- Its settings keep every statement on its index, whatever the statistics were when its plan was made, and hold
-- behind a connection pooler: without sorts and bitmaps nothing is left but to follow an index in order and stop at the
-- limit; where pages cost nothing, the index that has no other rows is the cheapest.
--
-- A claim doesn't begin at the oldest event. Published ones leave dead entries in the index of those that wait; while
-- any transaction that is older stays open they can't be removed, and each claim would walk over them all. It begins at
-- scan_from, half a second or more behind what was claimed last. What was committed later than that with an id below is
-- found by a sweep from scan_floor: it takes as long as there are dead entries, so it follows only after forty-nine times
-- as long, and costs a fiftieth of the time at most. Nothing rests on where a claim begins but the time it takes:
--
-- - An event below scan_from waits for a sweep and is never lost: a sweep looks at all that may wait.
-- - Its order stays in sequence, as an event is only claimed if no earlier one of its order waits below.
--
-- Raises RLY01 when the shard is held under another epoch or has another batch number than the caller believes.
-- Returns the claimed events in order of outbox_id; what they hold goes with the batch until the next call.
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
SET work_mem = '64MB' -- a batch is kept twice on its way out, and should not touch the disk
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
            AND outbox_id BETWEEN v_first AND v_last; -- this is what leaves the other partitions alone
    END IF;

    -- An event may join a parked order at any moment, so the claim below checks it again in its own snapshot.
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
                -- Each asked for one row in an order that only the right index has: as EXISTS it might be looked for
                -- among all rows.
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
        SELECT * FROM sized WHERE bytes <= p_bytes_max OR bytes = octet_length(payload) -- never less than one
    ), claimed AS MATERIALIZED (
        SELECT coalesce(array_agg(outbox_id), '{}') AS outbox_ids, max(outbox_id) AS last FROM batch
    ), claim AS (
        UPDATE relay.shards SET
            lease_expires_at = clock_timestamp() + make_interval(secs => p_lease_seconds),
            outbox_ids = claimed.outbox_ids,
            in_transaction = p_in_transaction,
            declared = declared OR p_in_transaction, -- a take-over that was cut short may have left that undone
            batch_number = batch_number + CASE WHEN p_in_transaction AND claimed.last IS NOT NULL THEN 1 ELSE 0 END,
            sweep_at = v_sweep_at,
            sweep_took = coalesce(v_sweep_took, sweep_took),
            scan_from = CASE WHEN v_now >= v_moved_at + interval '0.5 seconds' THEN scan_next ELSE scan_from END,
            scan_next = CASE WHEN v_now >= v_moved_at + interval '0.5 seconds' THEN greatest(scan_next, claimed.last, v_last)
                        ELSE scan_next END,
            scan_moved_at = CASE WHEN v_now >= v_moved_at + interval '0.5 seconds' THEN v_now ELSE scan_moved_at END
        FROM claimed
        -- Locked above, so it is still there. To look for it again would be to pass its earlier versions once more, of
        -- which each cycle leaves one.
        WHERE shards.ctid = v_place
    )
    -- In the order in which it was kept. Sorting it once more would cost as much as the claim.
    SELECT outbox_id, event_id::text, order_id::text, sequence, type, payload, traceparent, occurred_at FROM batch;
END
$$;

-- Of the given shards those that a cycle may find something for: one look for all costs less than a cycle of each.
-- Where a sweep takes long, being due for one is enough: only a cycle keeps count of how much time sweeps take.
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

-- What waits and what is parked, by shard. Counting stops at p_count_max: that there are more is all that anybody wants
-- to know of a backlog that size. The oldest is the one with the lowest id: ids are given a moment before the clock is
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
