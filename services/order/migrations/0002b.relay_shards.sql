-- How many shards the outbox has: set when the schema is new, and recorded for all who compute a shard.
-- depends: 0002.outbox

-- Powers of two, so that each shard gets the same share of the last byte of the order ids. All are multiples of four:
-- consumers rely on that.
CREATE TABLE orders.relay_shards (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    shards integer NOT NULL CHECK (shards IN (4, 8, 16, 32, 64))
);

-- `migrate` sets orders.relay_shards to ORDER_RELAY_SHARDS. A schema that is in use keeps its four shards, and its
-- outbox is not touched: later migrations have partitioned it, or a relay has counted its shards.
DO $$
DECLARE
    v_is_new boolean := NOT EXISTS (
        SELECT FROM pg_class WHERE oid = 'orders.outbox'::regclass AND relkind = 'p'
    ) AND NOT EXISTS (
        SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = 'relay' AND relname = 'shards'
    );
    v_shards integer := 4;
BEGIN
    IF v_is_new THEN
        v_shards := coalesce(nullif(current_setting('orders.relay_shards', true), ''), '4');
    END IF;
    INSERT INTO orders.relay_shards (shards) VALUES (v_shards);
    -- In the same transaction: the relay's migration may run at the same time, and reads the record once it is there.
    IF (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'orders') = 'order_owner' THEN
        GRANT USAGE ON SCHEMA orders TO relay_owner;
        GRANT SELECT ON orders.relay_shards TO relay_owner;
    END IF;
    IF v_shards <> 4 THEN
        EXECUTE format(
            'ALTER TABLE orders.outbox DROP COLUMN shard, ADD COLUMN shard smallint NOT NULL'
            ' GENERATED ALWAYS AS ((get_byte(uuid_send(order_id), 15) %% %s)::smallint) STORED',
            v_shards
        );
        CREATE INDEX outbox_pending ON orders.outbox (shard, outbox_id) WHERE status = 'PENDING';
        CREATE INDEX outbox_parked ON orders.outbox (shard, order_id) WHERE status = 'PARKED';
    END IF;
END
$$;
