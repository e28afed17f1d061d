-- The operators' acts on parked events, and their records.
-- depends: 0001.shards

CREATE TABLE relay.operator_acts (
    act_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor    text NOT NULL CHECK (length(actor) BETWEEN 1 AND 128),
    act      text NOT NULL CHECK (act IN ('retry', 'skip', 'redact')),
    order_id uuid NOT NULL,
    event_id uuid NOT NULL, -- of a retry: the first of the retried events
    reason   text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
    detail   jsonb NOT NULL
);

CREATE INDEX operator_acts_of_order ON relay.operator_acts (order_id);

-- One act on one parked event, or on the first parked one of an order.
--
-- retry   all parked events of the order become PENDING
-- skip    the first parked event of the order becomes SKIPPED, the others become PENDING
-- redact  the event loses its lines and stays parked
--
-- The function locks the shard's row, as each cycle and each parking does. So they see all of an act or nothing, and an
-- order's events become PENDING together with those before them. Parked events are in no batch, so no act changes a
-- batch under way. It is a function for the same reasons as relay.cycle.
--
-- Raises RLY02 if there is no such parked event, RLY03 if it may not be skipped before another one, RLY04 if there is
-- nothing to redact. Returns the events concerned; with p_dry_run it does nothing else.
CREATE FUNCTION relay.act_on_parked(p_act text, p_id uuid, p_actor text, p_reason text, p_dry_run boolean)
RETURNS TABLE (event_id uuid, order_id uuid, sequence bigint, type text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    v_event record;
    v_first bigint;
    v_last bigint;
BEGIN
    -- Read twice: first to find the shard's row to lock, and then, under the lock, to read the current state.
    PERFORM FROM relay.shards
    WHERE shard = (
        SELECT shard FROM orders.outbox WHERE status = 'PARKED' AND (event_id = p_id OR order_id = p_id) LIMIT 1
    )
    FOR UPDATE;
    IF FOUND THEN
        SELECT * INTO v_event FROM orders.outbox
        WHERE status = 'PARKED' AND (event_id = p_id OR order_id = p_id) ORDER BY outbox_id LIMIT 1;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'No event % is parked, nor any of an order %.', p_id, p_id USING ERRCODE = 'RLY02';
    END IF;
    SELECT min(sequence), max(sequence) INTO v_first, v_last FROM orders.outbox
    WHERE status = 'PARKED' AND shard = v_event.shard AND order_id = v_event.order_id;
    IF p_act = 'skip' AND v_event.sequence > v_first THEN
        RAISE EXCEPTION 'Event % of order % waits behind event %.', v_event.sequence, v_event.order_id, v_first
            USING ERRCODE = 'RLY03';
    END IF;
    IF p_act = 'redact' AND orders.redacted(v_event.payload) IS NULL THEN
        RAISE EXCEPTION 'Event % of order % has no lines to leave out.', v_event.sequence, v_event.order_id
            USING ERRCODE = 'RLY04';
    END IF;

    RETURN QUERY
    SELECT event_id, order_id, sequence, type FROM orders.outbox
    WHERE status = 'PARKED' AND shard = v_event.shard AND order_id = v_event.order_id
        AND (p_act = 'retry' OR outbox_id = v_event.outbox_id)
    ORDER BY sequence;
    IF p_dry_run THEN
        RETURN;
    END IF;

    INSERT INTO relay.operator_acts (actor, act, order_id, event_id, reason, detail)
    SELECT p_actor, p_act, order_id, event_id, p_reason, jsonb_build_object(
        'sequence', sequence, 'type', type, 'bytes', octet_length(payload),
        'parked_at', parked_at, 'parked_reason', parked_reason
    ) || CASE WHEN p_act = 'retry' THEN jsonb_build_object('last_sequence', v_last) ELSE '{}' END
    FROM orders.outbox
    WHERE order_id = v_event.order_id AND sequence = CASE WHEN p_act = 'retry' THEN v_first ELSE v_event.sequence END;

    IF p_act = 'redact' THEN
        PERFORM orders.redact_event(v_event.outbox_id);
        RETURN;
    END IF;
    UPDATE orders.outbox SET
        status = CASE WHEN p_act = 'skip' AND outbox_id = v_event.outbox_id THEN 'SKIPPED' ELSE 'PENDING' END,
        parked_at = NULL,
        parked_reason = NULL
    WHERE status = 'PARKED' AND shard = v_event.shard AND order_id = v_event.order_id;
    PERFORM pg_notify('orders_outbox', '');
END
$$;
