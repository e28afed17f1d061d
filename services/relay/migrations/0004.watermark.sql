-- The watermark: up to which time every committed event is published; and the leader that determines it.
-- depends: 0003.bounded_claims

CREATE TABLE relay.watermark (
    single           boolean PRIMARY KEY DEFAULT true CHECK (single),
    epoch            bigint NOT NULL DEFAULT 0,
    holder           text,
    lease_expires_at timestamptz NOT NULL DEFAULT '-infinity',
    -- Every event up to here is published, except parked ones; null until this was determined once.
    up_to            timestamptz,
    missing          jsonb NOT NULL DEFAULT '[]',
    missing_count    bigint NOT NULL DEFAULT 0,
    -- The next timestamp to close, and the id of the transaction that marked it.
    mark_at          timestamptz,
    mark_xid         xid8
) WITH (
    -- One row, updated every few seconds.
    fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500
);

INSERT INTO relay.watermark DEFAULT VALUES;

-- Take or keep the leadership, close the marked timestamp if possible, and mark the next one.
--
-- A timestamp T is marked together with the id X of the marking transaction, which is assigned after T was read. An
-- event's timestamp is read after its transaction has an id (orders.outbox.occurred_at). So a transaction that wrote an
-- event up to T has an id below X. Once no transaction with an id up to X runs any more, every event up to T is
-- visible, and no other will ever be added. Once none of them is PENDING, all are published.
--
-- X is not the snapshot's xmax: that is one above the highest *ended* transaction, and running transactions may have
-- higher ids.
--
-- One snapshot reads ended transactions, pending events and parked events. With several, an event that an operator
-- retries in between would be neither pending in one nor parked in the other.
--
-- A new leader marks again, because the old mark's id has no meaning in a database that was restored from a dump. The
-- watermark never goes back. If the clock is set back, the watermark stays until the clock has caught up with it.
--
-- Returns nothing if another replica is the leader.
CREATE FUNCTION relay.advance_watermark(p_holder text, p_lease_seconds double precision, p_missing_max integer)
RETURNS TABLE (epoch bigint, up_to timestamptz, missing jsonb, missing_count bigint)
LANGUAGE plpgsql
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
    v_was relay.watermark;
    v_closed boolean;
    v_missing jsonb;
    v_missing_count bigint;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'the timestamp must be read before its transaction has an id';
    END IF;
    SELECT * INTO v_was FROM relay.watermark;
    IF v_was.holder = p_holder AND v_was.mark_at IS NOT NULL THEN
        SELECT
            pg_snapshot_xmin(pg_current_snapshot()) > v_was.mark_xid AND NOT EXISTS (
                SELECT FROM orders.outbox WHERE status = 'PENDING' AND occurred_at <= v_was.mark_at
            ),
            coalesce(jsonb_agg(jsonb_build_object('order_id', order_id, 'sequence', sequence) ORDER BY order_id, sequence)
                FILTER (WHERE place <= p_missing_max), '[]'),
            count(order_id)
        INTO v_closed, v_missing, v_missing_count
        FROM (
            SELECT order_id, sequence, row_number() OVER (ORDER BY order_id, sequence) AS place FROM orders.outbox
            WHERE status = 'PARKED' AND occurred_at <= v_was.mark_at
        ) AS parked;
    END IF;

    RETURN QUERY
    UPDATE relay.watermark SET
        epoch = epoch + CASE WHEN holder IS DISTINCT FROM p_holder THEN 1 ELSE 0 END,
        holder = p_holder,
        lease_expires_at = clock_timestamp() + make_interval(secs => p_lease_seconds),
        up_to = CASE WHEN v_closed THEN greatest(up_to, mark_at) ELSE up_to END,
        missing = CASE WHEN v_closed THEN v_missing ELSE missing END,
        missing_count = CASE WHEN v_closed THEN v_missing_count ELSE missing_count END,
        mark_at = CASE WHEN holder = p_holder AND NOT v_closed THEN mark_at ELSE v_now END,
        mark_xid = CASE WHEN holder = p_holder AND NOT v_closed THEN mark_xid ELSE pg_current_xact_id() END
    WHERE (holder IS NULL OR holder = p_holder OR lease_expires_at < v_now)
        AND epoch = v_was.epoch AND mark_at IS NOT DISTINCT FROM v_was.mark_at
    RETURNING epoch, up_to, missing, missing_count;
END
$$;
