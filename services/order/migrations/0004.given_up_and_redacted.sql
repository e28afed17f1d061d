-- What operators may do with an event that Kafka refuses: skip it, or remove its lines so that Kafka accepts it.
-- depends: 0002.outbox

-- NOT VALID: every row fits the narrower check that this one replaces, and a scan of all rows would block checkouts.
ALTER TABLE orders.outbox
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT outbox_status_check,
    ADD CONSTRAINT outbox_status_check CHECK (status IN ('PENDING', 'SENT', 'PARKED', 'SKIPPED')) NOT VALID;

-- Return an event without its lines, its only part that can be large; null if the event has no lines. The result still
-- fits the schema of its type, so consumers read it like any other event.
CREATE FUNCTION orders.redacted(p_payload bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_order jsonb;
BEGIN
    v_order := convert_from(p_payload, 'UTF8')::jsonb;
    IF jsonb_typeof(v_order) <> 'object' OR jsonb_typeof(v_order -> 'lines') IS DISTINCT FROM 'array'
        OR v_order -> 'lines' = '[]' THEN
        RETURN NULL;
    END IF;
    RETURN convert_to((v_order || '{"lines": [], "redacted": true}')::text, 'UTF8');
EXCEPTION
    WHEN data_exception THEN -- not UTF-8, not JSON
        RETURN NULL;
END
$$;

-- Runs with its owner's rights, so that the relay can redact parked events, and cannot change payloads in any other
-- way.
CREATE FUNCTION orders.redact_event(p_outbox_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE orders.outbox SET payload = orders.redacted(payload)
    WHERE outbox_id = p_outbox_id AND status = 'PARKED' AND orders.redacted(payload) IS NOT NULL;
    RETURN FOUND;
END
$$;

REVOKE ALL ON FUNCTION orders.redacted, orders.redact_event FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'relay_service') THEN
        GRANT EXECUTE ON FUNCTION orders.redacted, orders.redact_event TO relay_service;
    END IF;
END
$$;
