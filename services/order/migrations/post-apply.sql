-- What roles may do in this schema. `migrate` applies it after the migrations, also if there were none to apply.
-- deploy/sql/roles.sql creates the roles. Without them, one role owns and does everything.
DO $$
DECLARE
    v_wanted text := nullif(current_setting('orders.relay_shards', true), '');
    v_shards text := (SELECT shards FROM orders.relay_shards);
BEGIN
    IF v_wanted <> v_shards THEN
        RAISE EXCEPTION 'ORDER_RELAY_SHARDS is %, but this database has % shards, which can not be changed',
            v_wanted, v_shards USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'orders') <> 'order_owner' THEN
        RETURN;
    END IF;
    REVOKE ALL ON ALL TABLES IN SCHEMA orders FROM order_service, relay_service;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA orders FROM PUBLIC, order_service, relay_service;

    GRANT SELECT, INSERT, UPDATE, DELETE ON orders.orders, orders.sagas, orders.idempotency_keys, orders.processes
        TO order_service;
    GRANT SELECT, INSERT, UPDATE ON orders.duties TO order_service;
    -- Append-only for the service: what it has announced, and what operators have done.
    GRANT SELECT, INSERT ON orders.outbox, orders.operator_acts TO order_service;
    GRANT SELECT ON orders.outbox_partitions, orders.relay_shards, orders.closed_slots, orders.arrivals TO order_service;
    GRANT EXECUTE ON FUNCTION orders.first_id_after, orders.oldest_unpublished_seconds, orders.slot_in, orders.slot_of,
        orders.refuse_closed_slot
    TO order_service;

    -- The relay marks events, and changes nothing else of them. It needs no right on a partition: it uses the table.
    GRANT USAGE ON SCHEMA orders TO relay_service;
    GRANT SELECT ON orders.outbox, orders.outbox_partitions, orders.relay_shards TO relay_service;
    GRANT UPDATE (status, sent_at, parked_at, parked_reason) ON orders.outbox TO relay_service;
    GRANT EXECUTE ON FUNCTION
        orders.redacted, orders.redact_event, orders.rotate_outbox, orders.note_published, orders.drop_published
    TO relay_service;
    -- The relay's migration makes a row for each shard.
    GRANT USAGE ON SCHEMA orders TO relay_owner;
    GRANT SELECT ON orders.relay_shards TO relay_owner;
END
$$;
