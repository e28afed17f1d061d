-- Which replica may publish each shard, and the shard's progress.

CREATE TABLE relay.shards (
    shard            smallint PRIMARY KEY,
    epoch            bigint NOT NULL DEFAULT 0,
    holder           text,
    lease_expires_at timestamptz NOT NULL DEFAULT '-infinity',
    -- The last claimed batch, with its events until they are marked SENT. A batch for a Kafka transaction has a new
    -- number, which the transaction also commits; a batch that is sent without a transaction has none.
    batch_number     bigint NOT NULL DEFAULT 0 CHECK (batch_number >= 0),
    outbox_ids       bigint[] NOT NULL DEFAULT '{}',
    in_transaction   boolean NOT NULL DEFAULT false,
    -- Whether number 0 has been committed to Kafka. After that, "no number" means that Kafka has lost it.
    declared         boolean NOT NULL DEFAULT false
) WITH (
    -- Few rows, each updated a hundred times a second.
    fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000
);

-- orders.outbox computes these four shards.
INSERT INTO relay.shards (shard) SELECT generate_series(0, 3);

CREATE TABLE relay.replicas (
    replica    text PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

-- Do one cycle of a shard in one call: mark the published batch, claim the next one, renew the lease.
--
-- It is a function because a relay may be paused at any point: in a transaction of several calls, a paused relay would
-- keep the shard's row locked, and no other replica could take over. Later statements of a function also see the
-- changes of earlier ones. The settings bind every statement to its index, independently of the statistics at planning
-- time. They also work behind a connection pooler.
--
-- Raises RLY01 when the shard is held under another epoch or has another batch number than the caller believes.
-- Returns the claimed events in order of outbox_id; the shard's row keeps their ids until the next call.
CREATE FUNCTION relay.cycle(
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
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    v_outbox_ids bigint[];
    v_any_parked boolean;
BEGIN
    SELECT outbox_ids INTO v_outbox_ids FROM relay.shards
    WHERE shard = p_shard AND epoch = p_epoch AND batch_number = p_batch_number
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'shard % is not held under epoch % with batch %', p_shard, p_epoch, p_batch_number
            USING ERRCODE = 'RLY01';
    END IF;

    IF v_outbox_ids <> '{}' THEN
        UPDATE orders.outbox SET status = 'SENT', sent_at = clock_timestamp()
        WHERE outbox_id = ANY (v_outbox_ids) AND status = 'PENDING';
    END IF;

    -- An event may join a parked order at any time, so the claim below checks it again in its own snapshot.
    v_any_parked := EXISTS (SELECT FROM orders.outbox WHERE shard = p_shard AND status = 'PARKED');
    IF v_any_parked THEN
        UPDATE orders.outbox AS follower
        SET status = 'PARKED', parked_at = now(), parked_reason = 'follows a parked event'
        FROM (
            SELECT order_id, min(outbox_id) AS outbox_id FROM orders.outbox
            WHERE shard = p_shard AND status = 'PARKED' GROUP BY order_id
        ) AS parked
        WHERE follower.order_id = parked.order_id AND follower.status = 'PENDING'
            AND follower.outbox_id > parked.outbox_id;
    END IF;

    RETURN QUERY
    WITH oldest AS (
        SELECT * FROM orders.outbox AS pending
        WHERE pending.shard = p_shard AND pending.status = 'PENDING'
            AND NOT (v_any_parked AND EXISTS (
                SELECT FROM orders.outbox AS parked
                WHERE parked.shard = p_shard AND parked.status = 'PARKED'
                    AND parked.order_id = pending.order_id AND parked.outbox_id < pending.outbox_id
            ))
        ORDER BY pending.outbox_id
        LIMIT p_events_max
    ), sized AS (
        SELECT *, sum(octet_length(payload)) OVER (ORDER BY outbox_id ROWS UNBOUNDED PRECEDING) AS bytes FROM oldest
    ), batch AS MATERIALIZED (
        SELECT * FROM sized WHERE bytes <= p_bytes_max OR bytes = octet_length(payload) -- at least one
    ), claim AS (
        UPDATE relay.shards SET
            lease_expires_at = clock_timestamp() + make_interval(secs => p_lease_seconds),
            outbox_ids = coalesce((SELECT array_agg(outbox_id) FROM batch), '{}'),
            in_transaction = p_in_transaction,
            declared = declared OR p_in_transaction, -- an interrupted take-over may not have set it
            batch_number = batch_number + CASE WHEN p_in_transaction AND EXISTS (SELECT FROM batch) THEN 1 ELSE 0 END
        WHERE shard = p_shard
    )
    SELECT outbox_id, event_id::text, order_id::text, sequence, type, payload, traceparent, occurred_at
    FROM batch ORDER BY outbox_id;
END
$$;
